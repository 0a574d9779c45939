"""Data sets: episodes on disk, LeRobot and MCAP in and out, labels without a simulator, the tools around them."""

INSTALL = "pip install '.[data]' in the checkout"
"""How to get the libraries of this room, for errors: the package is on no index, so its name alone installs nothing."""
