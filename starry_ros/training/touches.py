"""Where contacts really came, by the simulator's contact list, for tasks whose experts name the next ones themselves.

The expert says what will be touched next; the contact list says where that came. A grasp is the force-weighted mean of
the contacts of both finger pads with what they hold, a press that of any pad with the button, a placement that of the
block, at rest and let go, with what it lies on; a block let go over an edge shows a mistake, not an intent. What two
arms pull at, or what slides, is often carried by one finger alone: that counts where both never press. Points are kept
relative to what was touched, and carried to earlier instants by its pose there; a placement by its position alone,
since what lies on a block lies on top, however that block was rolled.

Shapes: world points [3], rotations [3, 3].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from starry_ros.sim.cell import Cell, Contact
from starry_ros.sim.choices import COLOURS
from starry_ros.sim.task import NextContact
from starry_ros.types import F64

GRASP_TICKS = 4
SETTLED_M_S = 0.02
PADS = ("pad", "pad_mirror")
FIT_M, WELL_INSIDE = 0.002, 0.85
JUST_NOW_S = 0.03
"""A contact seen so long ago lasts: plans are made between two looks."""
Key = tuple[str, str | None, bool]
"""What is touched, the block that is put onto it, if any, and whether by one finger of a shut jaw alone."""


@dataclass(frozen=True)
class Named:
    """A contact to come, and the pose at this instant that it is carried by."""

    contact: NextContact
    time_s: float
    position: F64
    rotation: F64


@dataclass
class Touch:
    """A contact that came and lasted until `until_s`; `local` is the point relative to what was touched."""

    key: Key
    until_s: float
    local: F64


@dataclass
class Touches:
    """Watches everything that was ever named; `update` at the rate of control, or at half of it."""

    found: list[Touch] = field(default_factory=list)
    _looks: dict[Key, int] = field(default_factory=dict)
    _lasting: dict[Key, Touch] = field(default_factory=dict)

    def name(self, cell: Cell, contact: NextContact) -> Named:
        """From now on watch for this contact."""
        for key in _keys(contact):
            self._looks.setdefault(key, 0)
        return Named(contact, cell.sim_time_s, *_pose(cell, contact.geom, contact.block))

    def update(self, cell: Cell) -> None:
        """Look at the contacts of this instant; one that lasts a few looks has come."""
        for key, looks in self._looks.items():
            geom, block, one_finger = key
            point = weighted_mean(_pressing(cell, geom, one_finger) if block is None else _resting(cell, block, geom))
            self._looks[key] = looks = 0 if point is None else looks + 1
            if point is not None and looks == GRASP_TICKS:
                position, rotation = _pose(cell, geom, block)
                self._lasting[key] = Touch(key, cell.sim_time_s, rotation.T @ (point - position))
                self.found.append(self._lasting[key])
            elif looks > GRASP_TICKS:
                self._lasting[key].until_s = cell.sim_time_s

    def came(self, named: Named) -> F64 | None:
        """The world point at that instant of the first such contact after it, or lasting then; None if none came."""
        for key in _keys(named.contact):
            for touch in self.found:
                if touch.key == key and touch.until_s >= named.time_s - JUST_NOW_S:
                    return named.position + named.rotation @ touch.local
        return None


def weighted_mean(contacts: Sequence[Contact]) -> F64 | None:
    """Mean contact point [3] weighted by normal force, or None without force."""
    forces = np.array([contact.force_n for contact in contacts])
    if forces.sum() <= 0:
        return None
    points: F64 = np.array([contact.point_m for contact in contacts])
    mean: F64 = forces @ points / forces.sum()
    return mean


def _keys(contact: NextContact) -> list[Key]:
    """What to watch for, best first."""
    geom, block = contact.geom, contact.block
    fixture = block is None and geom not in COLOURS and not geom.endswith("_button")
    return [(geom, block, False), (geom, block, True)] if fixture else [(geom, block, False)]


def _pose(cell: Cell, geom: str, block: str | None) -> tuple[F64, F64]:
    return cell.geom_position(geom), _rotation(cell, geom) if block is None else np.eye(3)


def _rotation(cell: Cell, geom: str) -> F64:
    return np.array(cell.data.geom(geom).xmat).reshape(3, 3)


def _pressing(cell: Cell, geom: str, one_finger: bool) -> list[Contact]:
    """Contacts of hands that hold a geom, or press it if it is a button."""
    found: list[Contact] = []
    for arm in cell.spec.arms:
        sides = [cell.contacts_between(f"{arm.name}_{pad}", geom) for pad in PADS]
        if all(sides) or geom.endswith("_button") or (one_finger and _shut_on(cell, arm.name, geom)):
            found += [contact for side in sides for contact in side]
    return found


def _shut_on(cell: Cell, arm: str, geom: str) -> bool:
    """Whether a jaw is told to shut and has come as far as a geom of this width between its fingers lets it."""
    jaw, half_m = cell.spec.arm_slice(arm).stop - 1, float(cell.model.geom(geom).size[1])
    return bool(cell.command_J[jaw] < half_m and abs(cell.state(0).position_J[jaw] - half_m) < FIT_M)


def _resting(cell: Cell, block: str, support: str) -> list[Contact]:
    """Contacts of a block that lies on a geom, its middle well inside, out of all hands."""
    if cell.touched(block) or cell.block_speed(block) > SETTLED_M_S:
        return []
    aside = _rotation(cell, support).T @ ((cell.block_position(block) - cell.geom_position(support)) * [1.0, 1.0, 0.0])
    over = bool((np.abs(aside) <= WELL_INSIDE * cell.model.geom(support).size).all())
    return list(cell.contacts_between(block, support)) if over else []
