"""Is there one who speaks on a topic, or are there two?"""

from __future__ import annotations

from starry_ros.timing import nanoseconds

TURN_S, BELIEVED_S = 1.0, 3.0
"""A node that was started anew counts its messages from the beginning once, and the epochs of a planner come back once:
1 before, 0 while it loads, 1 again. Two do so again this soon. They are believed to be two until nothing of it was seen
for so long."""


class Again:
    """Tells what happens again within `TURN_S` from what happens once."""

    def __init__(self) -> None:
        self._last_ns: int | None = None

    def happens(self, now_ns: int) -> bool:
        """It happens now; returns whether it did so a moment ago."""
        before_ns, self._last_ns = self._last_ns, now_ns
        return before_ns is not None and now_ns - before_ns < nanoseconds(TURN_S)


class Speakers:
    """Tells two publishers that speak in turns by the middleware's count of what each has published: that of one only
    grows, also where two say the same.
    """

    def __init__(self) -> None:
        self.two = False
        self._seen_ns = 0
        self._sequence: int | None = None
        self._fall = Again()

    def hear(self, sequence: int | None, now_ns: int) -> None:
        """A message came; `sequence` is its publisher's count, None where the middleware tells none."""
        last, self._sequence = self._sequence, sequence
        if sequence and last is not None and sequence <= last and self._fall.happens(now_ns):
            self._see_two(now_ns)

    def look(self, now_ns: int) -> None:
        """Time passes."""
        self.two = self.two and now_ns - self._seen_ns < nanoseconds(BELIEVED_S)

    def _see_two(self, now_ns: int) -> None:
        self.two, self._seen_ns = True, now_ns


class Planners(Speakers):
    """Tells two planners of one graph by epochs that come and go as well."""

    def __init__(self) -> None:
        super().__init__()
        self._epochs: tuple[int | None, int | None] = None, None
        self._return = Again()

    def hear_epoch(self, epoch: int, sequence: int | None, now_ns: int) -> None:
        """A status said this epoch."""
        self.hear(sequence, now_ns)
        before, last = self._epochs
        if epoch == last:
            return
        self._epochs = last, epoch
        if epoch == before and self._return.happens(now_ns):
            self._see_two(now_ns)
