"""One motion, filmed under several looks of the hard setting.

What a motion costs is physics, the expert's plans and often a model's; a further look costs three pictures a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from starry_ros.canvas.layout import CanvasLayout, t_pose_layout
from starry_ros.canvas.pack import CanvasPacker
from starry_ros.sim.cell import Cell
from starry_ros.sim.look import Look
from starry_ros.training.annotate import ContactLog, Snapshot, label, snapshot
from starry_ros.training.cells import kept_cell
from starry_ros.training.scenes import observe_scene
from starry_ros.training.touches import Named

Arrays = dict[str, np.ndarray]


class Film:
    """What the cameras see of a motion under one look: that of the cell, or that of a double that wears another."""

    def __init__(self, cell: Cell, look: Look | None, layout: CanvasLayout, depth: bool) -> None:
        self._cell, self._look, self._layout, self._depth = cell, look, layout, depth
        self._packer = CanvasPacker(layout)
        self._rows: list[dict[str, Any]] = []
        self._shots: list[Snapshot] = []

    def shoot(self, cell: Cell, colour: str, stage: str, named: tuple[Named, ...] | None) -> None:
        """Add the frame of this instant of `cell`."""
        if self._look is not None:
            self._cell.match(cell)
            self._cell.wear(self._look)
        cameras = self._layout.cameras
        self._shots.append(snapshot(self._cell, cameras, colour, stage, named))
        self._rows.append({
            "canvas_THWC": self._packer.pack_images({camera: self._cell.render(camera) for camera in cameras}),
            **(observe_scene(self._cell, self._layout) if self._depth else {}),
        })

    def arrays(self, log: ContactLog, task: str) -> Arrays:
        """Images and value labels, stacked over T."""
        stacked = {name: np.stack([row[name] for row in self._rows]) for name in self._rows[0]}
        if self._depth:
            stacked["camera_V4"] = stacked["camera_V4"][0]
        return {**stacked, "events_TEVF": label(self._shots, log, self._layout, task)}


def films(cell: Cell, looks: Sequence[Look], depth: bool) -> tuple[Film, ...]:
    """The films of one motion: the cell's own look first, then `looks`."""
    layout = t_pose_layout(cell.spec)
    further = (Film(kept_cell(cell.spec, "looks"), look, layout, depth) for look in looks)
    return Film(cell, None, layout, depth), *further
