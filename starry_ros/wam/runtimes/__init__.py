"""Engines that run the model's graphs: one protocol, chosen by name."""
