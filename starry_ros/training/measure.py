"""What is measured beside success: where the value map lands, and what the model imagines.

Landing points are held against where the next contact came, by the simulator's contact list; only where it never came
against the point that the task's script would have touched.

Shapes: T plans, H W C canvas. Distances are canvas pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.sim.cell import Cell
from starry_ros.sim.experts import make_expert
from starry_ros.timing import nanoseconds
from starry_ros.training.annotate import ContactLog, Snapshot, label, snapshot
from starry_ros.types import U8, Canvas, Plan, ValueMap

MOVED = 24
"""A pixel whose channels differ by more than this in sum between now and then has moved."""
SAME_INSTANT_NS = 30_000_000
REGION = 0.3
"""A label above this height is the region in which a landing point hits."""


@dataclass(frozen=True)
class Quality:
    """`landing_px` of one episode: distance from the landing point of the next contact to where that contact came.

    `hits` are 1 where that point lies in the labelled region (label above `REGION`), 0 where not.
    `imagined` and `copied` are mean absolute errors (0..255) of the imagined frame and of the present one against the
    real future, on the pixels that moved.
    """

    landing_px: tuple[float, ...] = ()
    imagined: tuple[float, ...] = ()
    copied: tuple[float, ...] = ()
    hits: tuple[float, ...] = ()


class Meter:
    """Watches one episode. `horizon_s` is how far ahead the imagined frame lies."""

    def __init__(self, cell: Cell, task: str, horizon_s: float) -> None:
        self._layout, self._expert = t_pose_layout(cell.spec), make_expert(task, cell)
        self._horizon_ns = nanoseconds(horizon_s)
        self._log, self._task = ContactLog(), task
        self._shots: list[Snapshot] = []
        self._maps: list[ValueMap] = []
        self._frames: list[tuple[int, U8, U8 | None]] = []

    def looked(self, cell: Cell) -> None:
        """Collect contacts."""
        self._log.update(cell)

    def planned(self, cell: Cell, canvas: Canvas, plan: Plan, colour: str) -> None:
        """Keep what has to be compared with the future."""
        scene = self._expert.look(cell)
        named = self._log.name(cell, self._expert.contacts(scene, colour))
        stage = self._expert.stage(scene, colour)
        self._shots.append(snapshot(cell, self._layout.cameras, colour, stage, named))
        self._maps.append(plan.value_map)
        self._frames.append((canvas.stamp_ns, canvas.image_HWC, plan.imagined_HWC))

    def quality(self) -> Quality:
        """The figures of the finished episode."""
        errors, hits = self._landing_errors()
        pairs = [pair for frame in self._frames if (pair := self._imagined_errors(*frame)) is not None]
        return Quality(errors, tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs), hits)

    def _landing_errors(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Distances and hits. Head view, event 0, plans at which the contact's place was in view and unobstructed."""
        if not self._shots:
            return (), ()
        labels = label(self._shots, self._log, self._layout, self._task)
        head = self._layout.tiles[0].camera
        errors, hits = [], []
        for (u_px, v_px, sigma_px, _inside, visible), value_map in zip(labels[:, 0, 0], self._maps, strict=True):
            points = [p for p in value_map.landing if p.camera == head and p.event == 0 and p.confidence > 0]
            if visible and points:
                errors.append(float(np.hypot(points[0].u_px - u_px, points[0].v_px - v_px)))
                hits.append(float(np.exp(-0.5 * (errors[-1] / max(float(sigma_px), 1.0)) ** 2) > REGION))
        return tuple(errors), tuple(hits)

    def _imagined_errors(self, stamp_ns: int, now_HWC: U8, imagined_HWC: U8 | None) -> tuple[float, float] | None:
        if imagined_HWC is None:
            return None
        due_ns = stamp_ns + self._horizon_ns
        then = next((image for at_ns, image, _ in self._frames if abs(at_ns - due_ns) <= SAME_INSTANT_NS), None)
        if then is None:
            return None
        copied = np.abs(now_HWC.astype(np.int16) - then)
        moved = copied.sum(axis=2) > MOVED
        if not moved.any():
            return None
        imagined = np.abs(imagined_HWC.astype(np.int16) - then)
        return float(imagined[moved].mean()), float(copied[moved].mean())
