"""What a run of the executor adds up to: splices, jumps, waiting, limits. Shapes: J joints."""

from __future__ import annotations

import numpy as np

from starry_ros.control.schedule import BORDERS
from starry_ros.control.splice import Method, Splice
from starry_ros.types import F64


class RunFigures:
    """Counts from one `arm` to the next. `waiting`: no plan is followed at present.

    `waited_ticks`: for how many periods since one was followed or offered, whether it is still known or a new session
    has made the arms forget it.
    """

    def __init__(self, joints: int) -> None:
        self.delay_s = 0.0
        self.splices, self.borders = dict.fromkeys(Method, 0), dict.fromkeys(BORDERS, 0)
        self.jump = self.jump_worst = self.velocity_jump_worst = 0.0
        self.waiting, self.moved = True, False
        self.waited_ticks = self._offered_ns = 0
        self._limited_J = np.zeros(joints, dtype=bool)
        self._ticks = self._stalled_ticks = 0
        self._limited_ticks_J = np.zeros(joints, dtype=np.int64)

    def followed(self, splice: Splice) -> None:
        """A plan was joined."""
        self.moved = True
        self.delay_s, self._limited_J = splice.delay_s, splice.limited_J
        self.splices[splice.method] += 1
        if splice.border is not None:
            self.borders[splice.border] += 1
        self.jump = float(np.abs(splice.jump_J).max())
        self.jump_worst = max(self.jump_worst, self.jump)
        self.velocity_jump_worst = max(self.velocity_jump_worst, float(np.abs(splice.jump_velocity_J).max()))

    def offered(self, end_ns: int, *, leads_on: bool) -> None:
        """A plan came in time and in order, so a planner is there; it ends at `end_ns`.

        `leads_on`: it can be followed, or leads over a border of the space.
        """
        self.waited_ticks = 0
        if leads_on:
            self._offered_ns = end_ns

    def ticked(self, now_ns: int, slack_s: float | None) -> None:
        """A period; shares are of those in which a plan was known, with `slack_s` left of it.

        Arms that wait although the plan goes on, or another was offered, stand at a border: the planner is not late.
        They wait for one that they can follow where those that come are too fast or lead nowhere.
        """
        self.waited_ticks = self.waited_ticks + 1 if self.waiting and self.moved else 0
        if slack_s is None:
            return
        self._ticks += 1
        self._stalled_ticks += self.waiting and slack_s <= 0 and now_ns >= self._offered_ns
        self._limited_ticks_J += self._limited_J & (not self.waiting)

    @property
    def stall_share(self) -> float:
        """Share of such periods spent waiting for a plan."""
        return self._stalled_ticks / max(1, self._ticks)

    def limit_activity(self) -> F64:
        """Share [J] of such periods in which a joint's plan was slowed by its limits."""
        share: F64 = self._limited_ticks_J / max(1, self._ticks)
        return share
