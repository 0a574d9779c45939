"""Data sets: episodes on disk, LeRobot and MCAP in and out, labels without a simulator, the tools around them."""
