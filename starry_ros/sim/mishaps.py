"""What happens to a block on the way, by the forced case that is played: on the simulator's side, whoever plans.

A mishap waits for its moment and comes about once; if the moment never comes, the episode was not a forced one. The
same case has the same mishap: everything that is drawn comes from the case's own random stream.
"""

from __future__ import annotations

import numpy as np

from starry_ros.sim.cases import PUSH_AFTER_S, Case, push_velocity
from starry_ros.sim.driver import Scene, SimulatedDriver
from starry_ros.sim.task import colours_in
from starry_ros.timing import nanoseconds
from starry_ros.types import F64

DROPPED_AFTER_M = (0.04, 0.11)
"""The block is dropped this far from where it lay: before it reaches a pad, which lies 9 cm off at least."""
OPEN_FOR_S = 0.3
CLOSING_M, BETWEEN_M = 0.037, 0.02
"""A jaw told to be narrower than the first closes; a block nearer than the second to the pinch point is in it."""
KNOCK_M_S = (0.9, 1.2)
"""Sends a block 4 to 8 cm over the table."""
MISSED_AFTER_S = 0.4


class Mishap:
    """None, for the cases that start in another way or swap the sentence; `happened` says whether it came about."""

    def __init__(self, driver: SimulatedDriver, arm: str, colour: str, happened: bool = False) -> None:
        self.happened = happened
        self._driver, self._cell, self._arm, self._colour = driver, driver.cell, arm, colour

    def look(self) -> None:
        """Come about if it is time; call it at every look at the scene."""


class Push(Mishap):
    """The block gets a nudge at `at_ns`, or as soon as the jaw is empty."""

    def __init__(self, driver: SimulatedDriver, arm: str, colour: str, rng: np.random.Generator, at_ns: int) -> None:
        super().__init__(driver, arm, colour)
        self._rng, self._at_ns = rng, at_ns

    def look(self) -> None:
        """See Mishap."""
        if not self.happened and self._driver.time_ns >= self._at_ns and self._cell.held(self._arm) is None:
            self._cell.push_block(self._colour, *push_velocity(self._rng))
            self.happened = True


class Drop(Mishap):
    """The jaw that carries the block is forced open for a moment."""

    def __init__(self, driver: SimulatedDriver, arm: str, colour: str, rng: np.random.Generator) -> None:
        super().__init__(driver, arm, colour)
        self._after_m, self._lay_at = float(rng.uniform(*DROPPED_AFTER_M)), self._cell.block_position(colour)

    def look(self) -> None:
        """See Mishap."""
        where = self._cell.block_position(self._colour)
        if not self._cell.touched(self._colour):
            self._lay_at = where
        carried = self._cell.held(self._arm) == self._colour and np.linalg.norm(where - self._lay_at) > self._after_m
        if carried and not self.happened:
            self._driver.force_open(self._arm, OPEN_FOR_S)
            self.happened = True


class Miss(Mishap):
    """The block is knocked out of the closing jaw, along its fingers; it counts if the jaw did not catch it."""

    def __init__(self, driver: SimulatedDriver, arm: str, colour: str, rng: np.random.Generator) -> None:
        super().__init__(driver, arm, colour)
        self._speed_m_s = float(rng.choice([-1, 1]) * rng.uniform(*KNOCK_M_S))
        self._judged_ns: int | None = None

    def look(self) -> None:
        """See Mishap."""
        now_ns = self._driver.time_ns
        if self._judged_ns is None and self._closes_on_it():
            self._cell.push_block(self._colour, *(self._speed_m_s * self._along_the_fingers()))
            self._judged_ns = now_ns + nanoseconds(MISSED_AFTER_S)
        elif self._judged_ns is not None and now_ns >= self._judged_ns:
            self.happened, self._judged_ns = self._cell.held(self._arm) is None, 2**63

    def _closes_on_it(self) -> bool:
        cell, arm = self._cell, self._arm
        closing = cell.command_J[cell.spec.arm_slice(arm)][-1] < CLOSING_M and cell.held(arm) is None
        gap_m = np.linalg.norm(cell.block_position(self._colour) - cell.pinch_position(arm))
        return bool(closing and gap_m < BETWEEN_M)

    def _along_the_fingers(self) -> F64:
        """Horizontal direction [2] in which nothing holds a block between the fingers."""
        x, y, _ = self._cell.geom_position(f"{self._arm}_pad") - self._cell.geom_position(f"{self._arm}_pad_mirror")
        across: F64 = np.array([-y, x]) / np.hypot(x, y)
        return across


def make_mishap(case: Case, scene: Scene, driver: SimulatedDriver, rng: np.random.Generator) -> Mishap:
    """The mishap of a case that was just laid out."""
    after_s = rng.uniform(*PUSH_AFTER_S)  # drawn in every case: swapped sentences follow it in the stream
    arm, colour = _taken(scene, case.seed)
    if case.kind == "push":
        return Push(driver, arm, colour, rng, driver.time_ns + nanoseconds(after_s))
    if case.kind == "dropped":
        return Drop(driver, arm, colour, rng)
    if case.kind == "missed":
        return Miss(driver, arm, colour, rng)
    return Mishap(driver, arm, colour, happened=case.kind != "swap")


def _taken(scene: Scene, seed: int) -> tuple[str, str]:
    """An arm and the block that it has to take: where both arms take one, they take turns over the seeds."""
    colours = colours_in(scene.colour) or [scene.colour]
    if scene.task == "place_dual_blocks":
        return (("left", colours[0]), ("right", colours[1]))[seed % 2]
    return "right", colours[0]
