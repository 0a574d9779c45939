"""Value labels: where the next two contacts of the task will be, on the canvas, in every recorded frame.

All come from the simulator's contact list. `place_block_pad` and `handover_block`: a pick is the force-weighted mean of
the finger contacts at the grasp that held, kept relative to the block and carried back to every earlier frame by the
block's pose there; a place is the contact of the block with the pad once it has come to rest well inside, kept relative
to the pad (a block let go half off it shows a mistake, not an intent); a take is the left hand's grasp in the air, kept
where it was. The other tasks: see `touches`. Only where no such contact came later in the episode does a label stand at
the middle of the block or the pad, at the meeting point, or where the task's script would touch.

`visible` says whether anything stands between the camera and the middle of what will be touched, or the script's point.

Shapes: E = 2 events (next contact, the one after), V = 3 views in canvas order, F = 5 (u_px, v_px, sigma_px, in_frame,
visible), all on the canvas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from starry_ros.canvas.layout import CanvasLayout
from starry_ros.sim.cell import BLOCK_HALF_M, Cell
from starry_ros.sim.choices import COLOURS
from starry_ros.sim.expert_place import PLACED_M
from starry_ros.sim.task import NextContact
from starry_ros.sim.task_handover import MEET_M
from starry_ros.training.touches import GRASP_TICKS, SETTLED_M_S, Named, Touches, weighted_mean
from starry_ros.types import F32, F64, CameraModel

EVENTS, FIELDS = 2, 5
CONTACT_SIZE_M = 0.02
SIGMA_RANGE_PX = (2.0, 10.0)
MEETING = "meeting point"


@dataclass(frozen=True)
class Event:
    """A contact that happened: when, to which block, and where from the block (pick), the pad (place) or the world."""

    time_s: float
    colour: str
    point: F64


@dataclass(frozen=True)
class Snapshot:
    """What a frame's labels need: time, task state, object poses, cameras, and the objects each camera sees.

    `named` are the next contacts, where the task's expert names them itself.
    """

    time_s: float
    colour: str
    stage: str
    blocks: dict[str, tuple[F64, F64]]
    pad: F64
    cameras: tuple[CameraModel, ...]
    seen: tuple[frozenset[str], ...]
    named: tuple[Named, ...] | None = None


class Target(NamedTuple):
    """A next contact: with which object, at which world point [3], and whether the contact list says so."""

    geom: str
    point: F64
    came: bool


@dataclass
class _Hand:
    """What a hand holds, and for how many ticks."""

    held: str | None = None
    ticks: int = 0


class ContactLog:
    """Collects the contacts of an episode while it runs: picks by the right hand, takes by the left, places, and
    whatever experts name."""

    def __init__(self) -> None:
        self._hands = {"right": _Hand(), "left": _Hand()}
        self._falling: set[str] = set()
        self.picks: list[Event] = []
        self.takes: list[Event] = []
        self.places: list[Event] = []
        self.touches = Touches()

    def name(self, cell: Cell, contacts: Sequence[NextContact] | None) -> tuple[Named, ...] | None:
        """From now on watch for these contacts, which an expert names; None if it names none by itself."""
        return None if contacts is None else tuple(self.touches.name(cell, contact) for contact in contacts[:EVENTS])

    def update(self, cell: Cell) -> None:
        """Look at the contacts of this tick."""
        self.touches.update(cell)
        held_now = {arm: cell.held(arm) for arm in self._hands}
        for arm, hand in self._hands.items():
            held = held_now[arm]
            if held != hand.held:
                if hand.held is not None and hand.held not in held_now.values():
                    self._falling.add(hand.held)
                hand.held, hand.ticks = held, 0
            if held is not None:
                self._falling.discard(held)
                hand.ticks += 1
                if hand.ticks == GRASP_TICKS:
                    self._log_grasp(cell, arm, held)
        for colour in sorted(self._falling):
            self._log_place(cell, colour)

    def _log_grasp(self, cell: Cell, arm: str, colour: str) -> None:
        pads = (f"{arm}_pad", f"{arm}_pad_mirror")
        point = weighted_mean([c for pad in pads for c in cell.contacts_between(pad, colour)])
        if point is None:
            return
        if arm == "left":
            self.takes.append(Event(cell.sim_time_s, colour, point))
        else:
            local = cell.block_rotation(colour).T @ (point - cell.block_position(colour))
            self.picks.append(Event(cell.sim_time_s, colour, local))

    def _log_place(self, cell: Cell, colour: str) -> None:
        if cell.block_speed(colour) > SETTLED_M_S:
            return
        on_pad = weighted_mean(cell.contacts_between("pad", colour))
        off_m = float(np.abs(cell.block_position(colour) - cell.pad_position)[:2].max())
        if on_pad is not None and off_m < PLACED_M:
            self.places.append(Event(cell.sim_time_s, colour, on_pad - cell.pad_position))
        if on_pad is not None or cell.contacts_between("table", colour):
            self._falling.discard(colour)


def snapshot(
    cell: Cell, cameras: Sequence[str], colour: str, stage: str, named: tuple[Named, ...] | None = None
) -> Snapshot:
    """Freeze what the labels of this frame need."""
    models = tuple(cell.camera_model(camera) for camera in cameras)
    blocks = {c: (cell.block_position(c), cell.block_rotation(c)) for c in COLOURS}
    scripted = {one.contact.geom: one.contact.point for one in named or ()}
    seen = tuple(_seen(cell, model, blocks, scripted) for model in models)
    return Snapshot(cell.sim_time_s, colour, stage, blocks, cell.pad_position, models, seen, named)


def _seen(
    cell: Cell, camera: CameraModel, blocks: dict[str, tuple[F64, F64]], scripted: dict[str, F64]
) -> frozenset[str]:
    """Objects that the camera sees unobstructed (the first thing on the ray to their middle is the object itself)."""
    centres = {"pad": cell.pad_position, **{colour: position for colour, (position, _) in blocks.items()}, **scripted}
    origin = camera.T_world_cam[:3, 3]
    seen = {name for name, centre in centres.items() if cell.first_hit(origin, centre)[0] == name}
    open_way = cell.first_hit(origin, MEET_M)[1] > float(np.linalg.norm(MEET_M - origin)) - 2 * BLOCK_HALF_M
    return frozenset({*seen, MEETING} if open_way else seen)


def label(shots: Sequence[Snapshot], log: ContactLog, layout: CanvasLayout, task: str = "place_block_pad") -> F32:
    """Labels [T, E, V, F] of an episode's frames."""
    labels = np.zeros((len(shots), EVENTS, len(layout.tiles), FIELDS), dtype=np.float32)
    for row, shot in zip(labels, shots, strict=True):
        for event, (geom, point, _) in enumerate(targets(shot, log, task)):
            for view, (camera, seen) in enumerate(zip(shot.cameras, shot.seen, strict=True)):
                row[event, view] = project(point, camera, layout, geom in seen)
    return labels


def targets(shot: Snapshot, log: ContactLog, task: str) -> list[Target]:
    """The next contacts, at most `EVENTS`."""
    if shot.named is not None:
        return [_told(named, log.touches) for named in shot.named]
    place, take, pick = (_next(events, shot) for events in (log.places, log.takes, log.picks))
    on_pad = Target("pad", shot.pad + (place.point if place else 0.0), place is not None)
    in_the_air = Target(MEETING, take.point if take else MEET_M, take is not None)
    if shot.stage == "done":
        return []
    if shot.stage == "place":
        return [on_pad]
    if shot.stage == "handover":
        return [in_the_air, on_pad]
    position, rotation = shot.blocks[shot.colour]
    on_block = Target(shot.colour, position + rotation @ pick.point if pick else position, pick is not None)
    return [on_block, in_the_air if task == "handover_block" else on_pad]


def _told(named: Named, touches: Touches) -> Target:
    point, script = touches.came(named), named.contact
    return Target(script.geom, script.point if point is None else point, point is not None)


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
