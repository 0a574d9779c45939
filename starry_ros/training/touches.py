"""Where contacts really came, by the simulator's contact list, for tasks whose experts name the next one themselves.

The expert says what will be touched next; the contact list says where that came. A grasp is the force-weighted mean of
the contacts of both finger pads with what they hold, a press that of any pad with the button, a placement that of a
block at rest with what it lies on. Points are kept relative to what was touched, and carried to earlier instants by its
pose there. Shapes: world points [3], rotations [3, 3].
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from starry_ros.sim.cell import Cell, Contact
from starry_ros.sim.choices import COLOURS
from starry_ros.training.annotate import GRASP_TICKS, SETTLED_M_S, weighted_mean
from starry_ros.types import F64

PADS = ("pad", "pad_mirror")
JUST_NOW_S = 0.03
"""A contact seen so long ago lasts: plans are made between two looks."""


@dataclass(frozen=True)
class Named:
    """A contact to come: what is touched, whether a block is put onto it, and its pose at this instant."""

    geom: str
    put: bool
    time_s: float
    position: F64
    rotation: F64


@dataclass
class Touch:
    """A contact that came and lasted until `until_s`; `local` is the point relative to what was touched."""

    geom: str
    put: bool
    until_s: float
    local: F64


@dataclass
class Touches:
    """Watches everything that was ever named, at half the control rate."""

    found: list[Touch] = field(default_factory=list)
    _watched: set[tuple[str, bool]] = field(default_factory=set)
    _looks: Counter[tuple[str, bool]] = field(default_factory=Counter)
    _lasting: dict[tuple[str, bool], Touch] = field(default_factory=dict)

    def name(self, cell: Cell, geom: str, stage: str) -> Named:
        """From now on watch for this contact. A block that is named in stage `place` is what another is put onto."""
        put = geom in ("pad", "pad_left", "drawer") or (geom in COLOURS and stage == "place")
        self._watched.add((geom, put))
        return Named(geom, put, cell.sim_time_s, *_pose(cell, geom))

    def update(self, cell: Cell) -> None:
        """Look at the contacts of this instant; one that lasts a few looks has come."""
        for key in sorted(self._watched):
            geom, put = key
            point = weighted_mean(_resting(cell, geom) if put else _pressing(cell, geom))
            self._looks[key] = 0 if point is None else self._looks[key] + 1
            if point is not None and self._looks[key] == GRASP_TICKS:
                position, rotation = _pose(cell, geom)
                self._lasting[key] = Touch(geom, put, cell.sim_time_s, rotation.T @ (point - position))
                self.found.append(self._lasting[key])
            elif self._looks[key] > GRASP_TICKS:
                self._lasting[key].until_s = cell.sim_time_s

    def came(self, named: Named) -> F64 | None:
        """The world point at that instant of the first such contact after it, or lasting then; None if none came."""
        later = (touch for touch in self.found if (touch.geom, touch.put) == (named.geom, named.put)
                 and touch.until_s >= named.time_s - JUST_NOW_S)
        touch = next(later, None)
        return None if touch is None else named.position + named.rotation @ touch.local


def _pose(cell: Cell, geom: str) -> tuple[F64, F64]:
    return cell.geom_position(geom), cell.data.geom(geom).xmat.reshape(3, 3).copy()


def _pressing(cell: Cell, geom: str) -> list[Contact]:
    """Contacts of hands that hold a geom, or press it if it is a button."""
    found: list[Contact] = []
    for arm in cell.spec.arms:
        sides = [cell.contacts_between(f"{arm.name}_{pad}", geom) for pad in PADS]
        if all(sides) or geom.endswith("_button"):
            found += [contact for side in sides for contact in side]
    return found


def _resting(cell: Cell, support: str) -> list[Contact]:
    """Contacts of blocks that lie on a geom, out of all hands."""
    lying = [colour for colour in COLOURS if colour != support and not cell.touched(colour)]
    return [contact for colour in lying if cell.block_speed(colour) < SETTLED_M_S
            for contact in cell.contacts_between(colour, support)]
