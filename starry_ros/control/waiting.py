"""Plans that wait to be joined, between ticks that shall be on time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from starry_ros.control.executor import Executor
from starry_ros.control.schedule import Merge
from starry_ros.types import ActionChunk

PILE = 4
"""So many plans that wait are a pile."""
JOINING_SHARE = 0.5
"""In which share of a period slices of joining may begin: one takes a millisecond or two, and a period is 5 to 10."""


class WaitingPlans:
    """Has an executor join plans in the order in which they came, one at a time and a slice at a time.

    Only where plans pile up, each is joined at once: none shall wait longer.
    """

    def __init__(self, executor: Executor, period_ns: int) -> None:
        self._executor, self._period_ns = executor, period_ns
        self._waiting: deque[ActionChunk] = deque()

    def __len__(self) -> int:
        """How many wait or are being joined."""
        return len(self._waiting) + (self._executor.joining is not None)

    def add(self, chunk: ActionChunk) -> None:
        """A plan came."""
        self._waiting.append(chunk)

    def join(self, tick_ns: int, clock: Callable[[], int]) -> list[tuple[ActionChunk, Merge]]:
        """Use what is left of the period of a tick, right after it: what was joined or refused, and the answers."""
        until_ns, answers = tick_ns + round(JOINING_SHARE * self._period_ns), list[tuple[ActionChunk, Merge]]()
        while self:
            chunk = self._executor.joining or self._waiting.popleft()
            merge = None if self._executor.joining else self._begin(chunk, clock())
            if merge is None:
                merge = self._executor.go_on_joining(clock(), lambda: clock() < until_ns)
            if merge is None:
                break
            answers.append((chunk, merge))
            if merge.accepted and len(self._waiting) < PILE:
                break
        return answers

    def _begin(self, chunk: ActionChunk, now_ns: int) -> Merge | None:
        piled = len(self._waiting) >= PILE
        return self._executor.submit(chunk, now_ns) if piled else self._executor.offer(chunk, now_ns)
