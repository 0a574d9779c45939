"""`starry up`: the graph of `ros/graph.py` as child processes, for machines without `ros2 launch`.

Everything runs in one thread. Children live in their own sessions, so Ctrl-C reaches only this process, which ends
them: SIGTERM, on which rclpy shuts a node down and a program that is still starting ends in silence; then SIGKILL.
Should this process itself be killed, the kernel ends them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import IO

from starry_ros.errors import RuntimeUnavailable
from starry_ros.paths import model_dir
from starry_ros.ros.graph import ARGUMENTS, EXIT_USER_ERROR, PACKAGE, Graph, NodeSpec, build_graph
from starry_ros.ros.parent import end_with_parent

LONGEST_BACKOFF_S = 30.0
HEALTHY_AFTER_S = 60.0
_GRACE_S = ((signal.SIGTERM, 8.0), (signal.SIGKILL, 2.0))

Log = Callable[[str, str], None]
"""Takes the name of a node and one line."""


class Child:
    """One process of the graph and its restarts."""

    def __init__(self, spec: NodeSpec, command: list[str], environment: dict[str, str]) -> None:
        self.spec, self._command, self._environment = spec, command, environment
        self.process: subprocess.Popen[bytes] | None = None
        self.restarts = 0
        self.restart_at_s: float | None = None
        self._started_s = 0.0
        self._backoff_s = 0.0
        self._rest = b""

    @property
    def running(self) -> bool:
        """Whether the process exists and has not been seen to end."""
        return self.process is not None

    @property
    def pid(self) -> int | None:
        """Process id, or None while it does not run."""
        return self.process.pid if self.process else None

    def start(self) -> IO[bytes]:
        """Start the process and return its output."""
        self.process = subprocess.Popen(
            self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=end_with_parent(),
        )
        self._started_s, self.restart_at_s = time.monotonic(), None
        return self.process.stdout  # type: ignore[return-value]

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process and what it started."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def lines(self, data: bytes) -> list[str]:
        """Complete lines of the output so far; the rest waits for more. Empty `data` ends the last line."""
        *complete, self._rest = (self._rest + data).split(b"\n")
        if not data and self._rest:
            complete, self._rest = [self._rest], b""
        return [line.decode(errors="replace") for line in complete]

    def ended(self) -> int | None:
        """Exit code once the process has ended (then `running` is False), else None."""
        code = self.process.poll() if self.process else None
        if code is not None:
            self.process = None
        return code

    def plan_restart(self, first_s: float) -> float:
        """Restart after `first_s`, then after twice that, up to 30 s; after a minute of health as at first. Returns the
        wait in s.
        """
        now_s = time.monotonic()
        if now_s - self._started_s > HEALTHY_AFTER_S:
            self._backoff_s = 0.0
        wait_s = max(first_s, self._backoff_s)
        self._backoff_s = min(2 * wait_s, LONGEST_BACKOFF_S)
        self.restart_at_s, self.restarts = now_s + wait_s, self.restarts + 1
        return wait_s


class Supervisor:
    """Starts every node of a graph, passes on what they print, restarts those that may be, ends all.

    Use as a context manager and call `poll` at least a few times a second: nothing happens in between.
    """

    def __init__(self, graph: Graph, log: Log) -> None:
        self.graph, self._log = graph, log
        environment = graph.environment()
        self.children = {node.name: Child(node, graph.command(node), environment) for node in graph.nodes}
        self.exit_code: int | None = None
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Supervisor:
        try:
            for child in self.children.values():
                self._start(child)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def poll(self, timeout_s: float = 0.1) -> None:
        """Pass on output for up to `timeout_s`, notice ended nodes, restart those that are due.

        Sets `exit_code` when the graph cannot go on: a node was started wrongly, or none is left.
        """
        self._read(timeout_s)
        for child in self.children.values():
            code = child.ended()
            if code is not None:
                self._on_end(child, code)
            if child.restart_at_s is not None and time.monotonic() >= child.restart_at_s:
                self._start(child)
        if self.exit_code is None and not any(c.running or c.restart_at_s is not None for c in self.children.values()):
            self.exit_code = 1

    def start(self, name: str) -> None:
        """Start a node that has ended, by hand."""
        self._start(self.children[name])

    def stop(self) -> None:
        """End every child: ask, then kill. Returns when none is left."""
        for child in self.children.values():
            child.restart_at_s = None
        for number, grace_s in _GRACE_S:
            left = [child for child in self.children.values() if child.running]
            for child in left:
                child.send(number)
            end_s = time.monotonic() + grace_s
            while left and time.monotonic() < end_s:
                self._read(0.05)
                left = [child for child in left if child.ended() is None]
            for child in left:
                self._log(child.spec.name, f"has not ended {grace_s:g} s after {number.name}")
        self._read(0.0)
        for key in list(self._selector.get_map().values()):
            self._close(key.fileobj)
        self._selector.close()

    def _start(self, child: Child) -> None:
        output = child.start()
        self._selector.register(output, selectors.EVENT_READ, child)
        self._log(child.spec.name, f"started, process {child.pid}")

    def _on_end(self, child: Child, code: int) -> None:
        name = child.spec.name
        self._read(0.0)
        if code == EXIT_USER_ERROR:
            self.exit_code = EXIT_USER_ERROR
        elif child.spec.respawn_s is not None:
            wait_s = child.plan_restart(child.spec.respawn_s)
            self._log(name, f"ended ({_describe(code)}), starts again in {wait_s:.0f} s")
        else:
            command = shlex.join(self.graph.command(child.spec))
            self._log(name, f"ended ({_describe(code)}) and is not restarted by itself. By hand: {command}")

    def _read(self, timeout_s: float) -> None:
        if not self._selector.get_map():
            time.sleep(timeout_s)
            return
        for key, _ in self._selector.select(timeout_s):
            child: Child = key.data
            data = os.read(key.fd, 65536)
            for line in child.lines(data):
                self._log(child.spec.name, line)
            if not data:
                self._close(key.fileobj)

    def _close(self, output: object) -> None:
        self._selector.unregister(output)  # type: ignore[arg-type]
        output.close()  # type: ignore[attr-defined]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The launch file's arguments, as options."""
    for argument in ARGUMENTS:
        parser.add_argument(
            f"--{argument.name.replace('_', '-')}", dest=argument.name, default=argument.default,
            choices=argument.choices or None, help=f"{argument.description} Default: {argument.default or 'none'}.",
        )
    parser.add_argument("--log-dir", type=Path, metavar="DIR", help="write one file a node there instead of printing")


def up_command(args: argparse.Namespace) -> int:
    """Run the graph until Ctrl-C, or until it cannot go on."""
    graph = build_graph({argument.name: getattr(args, argument.name) for argument in ARGUMENTS})
    model_dir(args.model)
    if any(node.package != PACKAGE and shutil.which(node.name) is None for node in graph.nodes):
        raise RuntimeUnavailable("rviz", "rviz2 is not installed", fix="use a ROS 2 distribution, or --rviz false")
    with stop_signals() as stop, open_log(args.log_dir, [node.name for node in graph.nodes]) as log:
        with Supervisor(graph, log) as supervisor:
            while not stop() and supervisor.exit_code is None:
                supervisor.poll()
        log("starry", "all nodes have ended")
    return supervisor.exit_code or 0


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Inside, SIGINT and SIGTERM only set what the yielded function returns; outside, all is as before."""
    received: list[int] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def open_log(folder: Path | None, names: list[str]) -> Iterator[Log]:
    """Lines to the screen with the node's name before them, or to one file a node in `folder`."""
    with contextlib.ExitStack() as stack:
        files: dict[str, IO[str]] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(contextlib.suppress(OSError))  # of closing them on a disk that is full
            files = {name: stack.enter_context((folder / f"{name}.log").open("w", buffering=1)) for name in names}
        width = max(len(name) for name in names)

        def write(name: str, line: str) -> None:
            with contextlib.suppress(OSError):  # nobody reads, the terminal is gone, or the disk is full: nodes go on
                text = line if name in files else f"{name:>{width}} | {line}"
                print(text, file=files.get(name, sys.stdout), flush=True)

        yield write


def _describe(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
