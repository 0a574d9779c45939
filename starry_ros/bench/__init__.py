"""Timings with their conditions."""
