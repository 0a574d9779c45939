"""Clocks: one monotonic clock a process, in integer nanoseconds, and a fake one for tests."""

from __future__ import annotations

import time
from collections import deque
from typing import Protocol

NS_PER_S = 1_000_000_000


def seconds(duration_ns: int) -> float:
    """Nanoseconds to seconds."""
    return duration_ns / NS_PER_S


def nanoseconds(duration_s: float) -> int:
    """Seconds to nanoseconds, rounded to the nearest."""
    return round(duration_s * NS_PER_S)


class Clock(Protocol):
    """Anything that tells monotonic time."""

    def now_ns(self) -> int:
        """Monotonic time in nanoseconds; the origin is arbitrary."""
        ...


class MonotonicClock:
    """The machine's monotonic clock."""

    def now_ns(self) -> int:
        return time.monotonic_ns()


class FakeClock:
    """A clock that moves only when told to."""

    def __init__(self, start_ns: int = 0) -> None:
        self._now_ns = start_ns

    def now_ns(self) -> int:
        return self._now_ns

    def advance_s(self, duration_s: float) -> None:
        """Move forward (or, to inject a clock jump, backward) by `duration_s` seconds."""
        self._now_ns += nanoseconds(duration_s)


class LatencyWindow:
    """Percentiles of the newest `size` durations, without the first `warm_up` ones."""

    def __init__(self, size: int = 64, warm_up: int = 2) -> None:
        self._samples_s: deque[float] = deque(maxlen=size)
        self._to_skip = warm_up

    def add(self, duration_s: float) -> None:
        """Record one duration in seconds."""
        if self._to_skip > 0:
            self._to_skip -= 1
            return
        self._samples_s.append(duration_s)

    def __len__(self) -> int:
        return len(self._samples_s)

    def percentile_s(self, percent: float) -> float | None:
        """Nearest-rank percentile in seconds, or None before the first counted sample."""
        if not self._samples_s:
            return None
        ordered = sorted(self._samples_s)
        rank = max(0, min(len(ordered) - 1, round(percent / 100 * len(ordered) + 0.5) - 1))
        return ordered[rank]
