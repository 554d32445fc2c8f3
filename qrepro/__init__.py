"""qrepro: does a dense object detector know how good its own boxes are?"""

__version__ = "0.1.0"
