"""Value labels: where the next two contacts of the task will be, on the canvas, in every recorded frame.

A pick is the force-weighted mean of the finger contacts at the grasp that held, kept relative to the block and carried
back to every earlier frame by the block's pose there; a place is the contact of the block with the pad once it has come
to rest, kept relative to the pad. An episode without such a later contact labels the block's and the pad's centre.

Shapes: E = 2 events (next contact, the one after), V = 3 views in canvas order, F = 5 (u_px, v_px, sigma_px, in_frame,
visible), all on the canvas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from starry_ros.canvas.layout import CanvasLayout
from starry_ros.sim.cell import COLOURS, Cell, Contact
from starry_ros.sim.expert_place import Stage
from starry_ros.types import F32, F64, CameraModel

EVENTS, FIELDS = 2, 5
GRASP_TICKS = 4
SETTLED_M_S = 0.02
CONTACT_SIZE_M = 0.02
SIGMA_RANGE_PX = (2.0, 10.0)


@dataclass(frozen=True)
class Event:
    """A contact that happened: when, to which block, and where in the frame of the block (pick) or pad (place)."""

    time_s: float
    colour: str
    point: F64


@dataclass(frozen=True)
class Snapshot:
    """What a frame's labels need: time, task state, object poses, cameras, and the objects each camera sees."""

    time_s: float
    colour: str
    stage: Stage
    blocks: dict[str, tuple[F64, F64]]
    pad: F64
    cameras: tuple[CameraModel, ...]
    seen: tuple[frozenset[str], ...]


class ContactLog:
    """Collects pick and place events while an episode runs."""

    def __init__(self, arm: str = "right") -> None:
        self._pads = (f"{arm}_pad", f"{arm}_pad_mirror")
        self._arm = arm
        self._held: str | None = None
        self._ticks = 0
        self._falling: set[str] = set()
        self.picks: list[Event] = []
        self.places: list[Event] = []

    def update(self, cell: Cell) -> None:
        """Look at the contacts of this tick."""
        held = cell.held(self._arm)
        if held != self._held:
            if self._held is not None:
                self._falling.add(self._held)
            self._held, self._ticks = held, 0
        if held is not None:
            self._falling.discard(held)
            self._ticks += 1
            if self._ticks == GRASP_TICKS:
                self._log_pick(cell, held)
        for colour in sorted(self._falling):
            self._log_place(cell, colour)

    def _log_pick(self, cell: Cell, colour: str) -> None:
        contacts = [c for pad in self._pads for c in cell.contacts_between(pad, colour)]
        point = weighted_mean(contacts)
        if point is not None:
            local = cell.block_rotation(colour).T @ (point - cell.block_position(colour))
            self.picks.append(Event(cell.sim_time_s, colour, local))

    def _log_place(self, cell: Cell, colour: str) -> None:
        if cell.block_speed(colour) > SETTLED_M_S:
            return
        on_pad = weighted_mean(cell.contacts_between("pad", colour))
        if on_pad is not None:
            self.places.append(Event(cell.sim_time_s, colour, on_pad - cell.pad_position))
        if on_pad is not None or cell.contacts_between("table", colour):
            self._falling.discard(colour)


def weighted_mean(contacts: Sequence[Contact]) -> F64 | None:
    """Mean contact point [3] weighted by normal force, or None without force."""
    forces = np.array([contact.force_n for contact in contacts])
    if forces.sum() <= 0:
        return None
    points: F64 = np.array([contact.point_m for contact in contacts])
    mean: F64 = forces @ points / forces.sum()
    return mean


def snapshot(cell: Cell, cameras: Sequence[str], colour: str, stage: Stage) -> Snapshot:
    """Freeze what the labels of this frame need."""
    models = tuple(cell.camera_model(camera) for camera in cameras)
    blocks = {c: (cell.block_position(c), cell.block_rotation(c)) for c in COLOURS}
    seen = tuple(_seen(cell, model, blocks) for model in models)
    return Snapshot(cell.sim_time_s, colour, stage, blocks, cell.pad_position, models, seen)


def _seen(cell: Cell, camera: CameraModel, blocks: dict[str, tuple[F64, F64]]) -> frozenset[str]:
    """Objects whose centre the camera sees unobstructed (the first thing on the ray to it is the object itself)."""
    centres = {"pad": cell.pad_position, **{colour: position for colour, (position, _) in blocks.items()}}
    origin = camera.T_world_cam[:3, 3]
    return frozenset(name for name, centre in centres.items() if cell.first_hit(origin, centre)[0] == name)


def label(shots: Sequence[Snapshot], log: ContactLog, layout: CanvasLayout) -> F32:
    """Labels [T, E, V, F] of an episode's frames."""
    labels = np.zeros((len(shots), EVENTS, len(layout.tiles), FIELDS), dtype=np.float32)
    for row, shot in zip(labels, shots, strict=True):
        for event, (target, point) in enumerate(_targets(shot, log)):
            for view, (camera, seen) in enumerate(zip(shot.cameras, shot.seen, strict=True)):
                row[event, view] = project(point, camera, layout, target in seen)
    return labels


def _targets(shot: Snapshot, log: ContactLog) -> list[tuple[str, F64]]:
    """The next contacts as (object, world point [3])."""
    place = _next(log.places, shot)
    on_pad = ("pad", shot.pad + (place.point if place else 0.0))
    if shot.stage == "place":
        return [on_pad]
    if shot.stage == "done":
        return []
    pick = _next(log.picks, shot)
    position, rotation = shot.blocks[shot.colour]
    return [(shot.colour, position + rotation @ pick.point if pick else position), on_pad]


def _next(events: Sequence[Event], shot: Snapshot) -> Event | None:
    later = [event for event in events if event.colour == shot.colour and event.time_s >= shot.time_s]
    return later[0] if later else None


def project(point: F64, camera: CameraModel, layout: CanvasLayout, visible: bool) -> F32:
    """A world point on the canvas: [u_px, v_px, sigma_px, in_frame, visible]; all 0 behind the camera.

    sigma is the image of a 2 cm contact at that depth, held to a useful range. Outside the view u and v still hold.
    """
    x, y, depth = camera.T_world_cam[:3, :3].T @ (point - camera.T_world_cam[:3, 3])
    if depth < 0.01:
        return np.zeros(FIELDS, dtype=np.float32)
    u, v = camera.fx_px * x / depth + camera.cx_px, camera.fy_px * y / depth + camera.cy_px
    inside = -0.5 <= u < camera.width_px - 0.5 and -0.5 <= v < camera.height_px - 0.5
    scale = float(layout.tile(camera.camera).scale_xy.mean())
    sigma = np.clip(camera.fx_px * CONTACT_SIZE_M / depth * scale, *SIGMA_RANGE_PX)
    canvas_u, canvas_v = layout.camera_to_canvas(camera.camera, [u, v])
    return np.array([canvas_u, canvas_v, sigma, inside, inside and visible], dtype=np.float32)
