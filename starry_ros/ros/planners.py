"""Is there one planner, or do two take turns?"""

from __future__ import annotations

from starry_ros.timing import nanoseconds

TURN_S, BELIEVED_S = 1.0, 3.0
"""A planner that was started anew changes the epoch once; two change it back again this soon. They are believed to be
two until nothing of it was seen for so long."""


class Planners:
    """Tells two planners of one graph by epochs that come and go."""

    def __init__(self) -> None:
        self.two = False
        self._epochs: tuple[int | None, int | None] = None, None
        self._changed_ns = self._seen_ns = 0

    def hear(self, epoch: int, now_ns: int) -> None:
        """A status said this epoch."""
        before, last = self._epochs
        if epoch == last:
            return
        if epoch == before and now_ns - self._changed_ns < nanoseconds(TURN_S):
            self.two, self._seen_ns = True, now_ns
        self._epochs, self._changed_ns = (last, epoch), now_ns

    def look(self, now_ns: int) -> None:
        """Time passes."""
        self.two = self.two and now_ns - self._seen_ns < nanoseconds(BELIEVED_S)
