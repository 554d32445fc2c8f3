"""`python -m qrepro`, which is also what torchrun starts."""

from qrepro.cli import main

if __name__ == "__main__":
    main()
