"""A graph that runs, and an operator in front of it: while one waits, messages and child processes are minded."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from starry_ros.errors import RuntimeUnavailable
from starry_ros.robot_spec import RobotSpec
from starry_ros.ros.demo_operator import Operator
from starry_ros.ros.up import Supervisor

PUMP_S = 0.02
CALL_S = 15.0


class RunningGraph:
    """`stopped` says whether Ctrl-C or SIGTERM has come; the next wait then raises KeyboardInterrupt."""

    def __init__(self, spec: RobotSpec, supervisor: Supervisor, stopped: Callable[[], bool]) -> None:
        self.spec, self.supervisor, self._stopped = spec, supervisor, stopped
        self.operator = Operator(spec)

    @property
    def mode(self) -> str:
        """The executor's mode by name, empty before it was heard."""
        return str(self.operator.heard.executor.mode_name)

    @property
    def reason(self) -> str:
        """Why the executor is in this mode."""
        return str(self.operator.heard.executor.reason)

    def wait(self, duration_s: float) -> None:
        """Let the graph run."""
        end_s = time.monotonic() + duration_s
        while True:
            if self._stopped():
                raise KeyboardInterrupt
            self.supervisor.poll(0.0)
            self.operator.pump(min(PUMP_S, max(0.0, end_s - time.monotonic())))
            if time.monotonic() >= end_s:
                return

    def until(self, ready: Callable[[], object], timeout_s: float, what: str) -> float:
        """Wait for something; how long it took. Raises what `too_late` gives."""
        begin_s = time.monotonic()
        while not ready():
            if time.monotonic() - begin_s > timeout_s:
                raise self.too_late(f"waited {timeout_s:g} s for {what}")
            self.wait(PUMP_S)
        return time.monotonic() - begin_s

    def call(self, future: Any, what: str, timeout_s: float = CALL_S) -> Any:
        """The reply of a service."""
        self.until(future.done, timeout_s, what)
        return future.result()

    def until_ready(self, timeout_s: float) -> None:
        """Wait until everything answers."""
        self.until(lambda: not self.operator.missing(), timeout_s, "the graph")

    def too_late(self, what: str) -> Exception:
        """The error of a wait that took too long."""
        return RuntimeUnavailable("graph", what, fix="try on an idle machine, or read the logs of the nodes")
