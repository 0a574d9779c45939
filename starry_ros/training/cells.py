"""Simulated cells that a process builds once and keeps: building one takes longer than many steps of an episode."""

from __future__ import annotations

from starry_ros.robot_spec import RobotSpec
from starry_ros.sim.cell import Cell

_KEPT: dict[tuple[str, str], Cell] = {}


def kept_cell(spec: RobotSpec, use: str = "play") -> Cell:
    """This process's cell of a robot; another `use` is another cell, with a look and an OpenGL context of its own."""
    key = spec.content_hash, use
    if key not in _KEPT:
        _KEPT[key] = Cell(spec)
    return _KEPT[key]
