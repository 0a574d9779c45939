"""Is there one planner, or are there two?"""

from __future__ import annotations

from starry_ros.timing import nanoseconds

TURN_S, BELIEVED_S = 1.0, 3.0
"""A planner that was started anew changes the epoch once, and counts its messages from the beginning once; two do so
again this soon. They are believed to be two until nothing of it was seen for so long."""


class Planners:
    """Tells two planners of one graph by epochs that come and go, and by the middleware's count of what each has
    published: that of one planner only grows, also where two were told everything alike.
    """

    def __init__(self) -> None:
        self.two = False
        self._epochs: tuple[int | None, int | None] = None, None
        self._changed_ns = self._seen_ns = 0
        self._sequence: int | None = None
        self._fell_ns: int | None = None

    def hear(self, epoch: int, sequence: int | None, now_ns: int) -> None:
        """A status said this epoch; `sequence` is its publisher's count, None where the middleware tells none."""
        came_back, fell_again = self._came_back(epoch, now_ns), self._fell_again(sequence, now_ns)
        if came_back or fell_again:
            self.two, self._seen_ns = True, now_ns

    def _came_back(self, epoch: int, now_ns: int) -> bool:
        before, last = self._epochs
        if epoch == last:
            return False
        back = epoch == before and now_ns - self._changed_ns < nanoseconds(TURN_S)
        self._epochs, self._changed_ns = (last, epoch), now_ns
        return back

    def _fell_again(self, sequence: int | None, now_ns: int) -> bool:
        last, self._sequence = self._sequence, sequence
        if not sequence or last is None or sequence > last:
            return False
        before_ns, self._fell_ns = self._fell_ns, now_ns
        return before_ns is not None and now_ns - before_ns < nanoseconds(TURN_S)

    def look(self, now_ns: int) -> None:
        """Time passes."""
        self.two = self.two and now_ns - self._seen_ns < nanoseconds(BELIEVED_S)
