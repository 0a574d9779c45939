"""What a planner says about itself, turned into events of the executor: the rung of its ladder, and its surprise."""

from __future__ import annotations

from starry_ros.control.executor import Executor
from starry_ros.control.safety import Event, Mode
from starry_ros.timing import nanoseconds, seconds

DEGRADED, LOST = frozenset({"reuse_latents", "action_only", "hold"}), "stop"
"""Rungs on which the arms are slow, and the one on which they stop."""
SURPRISE_SLOWS, SURPRISE_STOPS = 1.0, 2.0
SETTLE_S = 1.2
SLOW_S = 1.0


class Advice:
    """Passes advice on to one executor.

    Surprise is calibrated on arms at full speed: it counts only when they have been in RUN for SETTLE_S, and slows them
    for SLOW_S.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._run_since_ns: int | None = None
        self._slow_until_ns = 0

    def hear(self, rung: str, surprise: float | None, now_ns: int) -> None:
        """The newest word of the planner. Call it at a steady rate."""
        executor = self._executor
        executor.set_condition(Event.PLANNER_DEGRADED, rung in DEGRADED, now_ns)
        if rung == LOST:
            executor.report(Event.PLANNER_LOST, now_ns)
        if executor.status(now_ns).mode is not Mode.RUN:
            self._run_since_ns = None
        elif self._run_since_ns is None:
            self._run_since_ns = now_ns
        if self._run_since_ns is not None and seconds(now_ns - self._run_since_ns) >= SETTLE_S:
            self._judge(surprise or 0.0, now_ns)
        executor.set_condition(Event.MODEL_SURPRISE, now_ns < self._slow_until_ns, now_ns)

    def _judge(self, surprise: float, now_ns: int) -> None:
        if surprise >= SURPRISE_STOPS:
            self._executor.report(Event.SURPRISE_HIGH, now_ns)
        elif surprise >= SURPRISE_SLOWS:
            self._slow_until_ns = now_ns + nanoseconds(SLOW_S)
