"""The HTML page of a results folder, and the figures in it."""
