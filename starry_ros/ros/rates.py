"""Rates on a clock that something else drives. No ROS types."""

from __future__ import annotations

from starry_ros.timing import nanoseconds


class Every:
    """A rate on a clock: due at whole multiples of its period, never twice for one instant."""

    def __init__(self, rate_hz: float) -> None:
        self._period_ns = nanoseconds(1.0 / rate_hz)
        self._last: int | None = None

    def due(self, time_ns: int) -> bool:
        """Whether a period boundary was passed since the last call that said so."""
        index = time_ns // self._period_ns
        due = index != self._last
        self._last = index
        return due
