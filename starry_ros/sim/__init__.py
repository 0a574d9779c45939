"""The simulated robot: a MuJoCo cell, its tasks and scripted experts."""
