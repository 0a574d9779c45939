"""Plans that wait to be joined, between ticks that shall be on time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from starry_ros.control.executor import Executor
from starry_ros.control.schedule import Merge
from starry_ros.types import ActionChunk

PILE = 2
"""So many plans that wait are a pile."""
RESERVED_SHARE = 0.5
"""Share of a period, its last, in which no slice begins: a slice takes a millisecond or two, a period 5 to 10."""


class WaitingPlans:
    """Has an executor join plans in the order in which they came, one at a time and a slice at a time.

    Where plans pile up each is joined at once, the one that is being joined too: a late tick is better than late plans.
    """

    def __init__(self, executor: Executor, period_ns: int) -> None:
        self._executor, self._reserved_ns = executor, round(RESERVED_SHARE * period_ns)
        self._waiting: deque[ActionChunk] = deque()

    def __len__(self) -> int:
        """How many wait or are being joined."""
        return len(self._waiting) + (self._executor.joining is not None)

    def add(self, chunk: ActionChunk) -> None:
        """A plan came."""
        self._waiting.append(chunk)

    def join(self, next_tick_ns: int, clock: Callable[[], int]) -> list[tuple[ActionChunk, Merge]]:
        """Use the time after a tick until the next one is due: what was joined or refused, and the answers."""
        until_ns, answers = next_tick_ns - self._reserved_ns, list[tuple[ActionChunk, Merge]]()
        while self:
            begun = self._executor.joining
            chunk = begun or self._waiting.popleft()
            if len(self._waiting) >= PILE:
                merge: Merge | None = self._executor.submit(chunk, clock())
            else:
                merge = None if begun else self._executor.offer(chunk, clock())
            if merge is None:
                merge = self._executor.go_on_joining(clock(), lambda: clock() < until_ns)
            if merge is None:
                break
            answers.append((chunk, merge))
            if merge.accepted and len(self._waiting) < PILE:
                break
        return answers
