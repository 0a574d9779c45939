"""`starry top`: the health of a running graph in a terminal: rates, ages, latencies, mode, diagnostics."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from starry_ros.msg import ExecutorStatus, WorldActionStatus
from starry_ros.paths import robot_file
from starry_ros.robot_spec import RobotSpec, load_robot_spec
from starry_ros.ros.definitions import message_class
from starry_ros.ros.picture_topics import PictureTopics
from starry_ros.ros.qos import LATCHED, NEWEST, STATE
from starry_ros.ros.run import ros_session
from starry_ros.ros.transport import dds_environment

RATE_WINDOW_S = 3.0
PERIOD_S = 0.5
STALE_S = 3.0
LEVELS = ("ok", "warn", "error", "stale")
COLOURS = {"ok": "32", "warn": "33", "error": "31", "stale": "35", "idle": "2", "title": "1;4"}
MARKS = {"ok": "●", "warn": "▲", "error": "✖", "stale": "◌", "idle": "○"}
MODE_STATE = {"RUN": "ok", "FAULT": "error", "STOP": "warn", "SLOW": "warn"}
COMMANDS = {"joint_trajectory": "trajectory_msgs/msg/JointTrajectory",
            "position_forward": "std_msgs/msg/Float64MultiArray"}
COUNTED = ("refused", "lost")
CLEAR, HOME, SHOW, HIDE, PLAIN = "\x1b[2J", "\x1b[H", "\x1b[?25h", "\x1b[?25l", "\x1b[0m"


@dataclass
class Heard:
    """What is known of a running graph, on a monotonic clock in seconds."""

    arrivals: dict[str, deque[float]] = field(default_factory=dict)
    health: dict[str, tuple[float, int, str, Mapping[str, str]]] = field(default_factory=dict)
    executor: Any = None
    session: Any = None

    def arrived(self, topic: str, now_s: float) -> None:
        """A message came."""
        times = self.arrivals.setdefault(topic, deque())
        times.append(now_s)
        while times and now_s - times[0] > RATE_WINDOW_S:
            times.popleft()

    def rate_hz(self, topic: str, now_s: float) -> float:
        """Messages a second over the window."""
        times = [at_s for at_s in self.arrivals.get(topic, ()) if now_s - at_s <= RATE_WINDOW_S]
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else 0.0

    def age_s(self, topic: str, now_s: float) -> float | None:
        """Time since the last message; None before the first."""
        times = self.arrivals.get(topic)
        return now_s - times[-1] if times else None

    def diagnosed(self, message: Any, now_s: float) -> None:
        """Health of nodes."""
        for status in message.status:
            level = status.level if isinstance(status.level, int) else status.level[0]
            values = {pair.key: pair.value for pair in status.values}
            self.health[status.name] = (now_s, level, status.message, values)


def screen(heard: Heard, expected_hz: Mapping[str, float], now_s: float, width: int, *, colour: bool) -> list[str]:
    """The lines to show, none longer than `width`."""
    lines = [*_head(heard, now_s), Line(""), *_topics(heard, expected_hz, now_s), Line(""), *_nodes(heard, now_s)]
    return [line.text(width, colour) for line in lines]


@dataclass(frozen=True)
class Line:
    """Words on a line; `mark` is the beginning that takes the colour of `state`, all of it when `whole`."""

    words: str
    state: str = ""
    mark: int = 0
    whole: bool = False

    def text(self, width: int, colour: bool) -> str:
        """No longer than `width`; the escape sequences of colours take no room."""
        words = self.words if len(self.words) <= width else self.words[: max(0, width - 1)] + "…"
        if not colour or not self.state:
            return words[:width]
        end = len(words) if self.whole else self.mark
        return f"\x1b[{COLOURS[self.state]}m{words[:end]}{PLAIN}{words[end:]}"


def _row(state: str, words: str) -> Line:
    """A row that begins with the mark of its state; only trouble is coloured as a whole."""
    return Line(f"{MARKS[state]} {words}", state, 1, whole=state != "ok")


def _topics(heard: Heard, expected_hz: Mapping[str, float], now_s: float) -> list[Line]:
    wide = max(map(len, ("topic", *expected_hz)))
    lines = [Line(f"  {'topic':{wide}} {'rate':>9} {'expected':>9} {'last':>9}", "title", whole=True)]
    for topic, rate in expected_hz.items():
        measured, age = heard.rate_hz(topic, now_s), heard.age_s(topic, now_s)
        if rate:
            state = "stale" if age is None or age > STALE_S else "warn" if measured < 0.8 * rate else "ok"
        else:
            state = "idle" if age is None or age > STALE_S else "ok"
        shown = "never" if age is None else f"{age:.2f} s" if age < 100 else "long ago"
        expected = f"{rate:.0f} Hz" if rate else "-"
        lines.append(_row(state, f"{topic:{wide}} {measured:6.1f} Hz {expected:>9} {shown:>9}"))
    return lines


def _nodes(heard: Heard, now_s: float) -> list[Line]:
    wide = max(map(len, ("node", *heard.health)))
    lines = [Line(f"  {'node':{wide}}  {'state':5}  says", "title", whole=True)]
    for name, (at_s, level, text, values) in sorted(heard.health.items()):
        state = "stale" if now_s - at_s > STALE_S else LEVELS[min(level, 3)]
        lines.append(_row(state, f"{name:{wide}}  {state:5}  {text}"))
        counts = [f"{key} {value}" for key, value in values.items() if key.startswith(COUNTED) or "dropped" in key]
        busy = [item for item in counts if not item.endswith(" 0")]
        if busy:
            lines.append(Line(f"  {'':{wide}}         {', '.join(busy)}", "idle", whole=True))
    if not heard.health:
        lines.append(Line("  no node has said anything yet", "idle", whole=True))
    return lines


def _head(heard: Heard, now_s: float) -> list[Line]:
    executor, session = heard.executor, heard.session
    lines = []
    if executor is None:
        lines.append(_row("stale", "mode      nothing heard of the executor"))
    else:
        held = f"  [{', '.join(executor.conditions)}]" if executor.conditions else ""
        state, silent = _silence(heard, "executor_status", now_s, MODE_STATE.get(executor.mode_name, "idle"))
        lines.append(_row(state, f"mode      {executor.mode_name} ({executor.reason}){held}{silent}"))
    if session is not None:
        lines.append(Line(f"  sentence  {session.instruction or 'none'}"))
    if executor is not None:
        plan = f"{executor.chunk_id}, lasts {executor.slack_s:.2f} s more, seen {executor.chunk_age_s:.2f} s ago"
        lines.append(Line(
            f"  plan      {plan if executor.chunk_id else 'none'}; change at splice {executor.splice_position:.3f}, "
            f"{executor.splice_velocity:.2f} a second; "
            f"waited {executor.stall_share:.1%}; refused {sum(executor.refused_counts)}; "
            f"late ticks {executor.missed_ticks}{silent}"
        ))
    if session is None:
        return [*lines, _row("stale", "model     nothing heard of the planner")]
    surprise = f"; surprise {session.surprise[0]:.2f}" if len(session.surprise) else ""
    state, silent = _silence(heard, "world_action_status", now_s,
                             {"planning": "ok", "refused": "warn"}.get(session.state, "idle"))
    return [*lines, _row(
        state, f"model     {session.model} on {session.runtime}: {session.state} {session.reason}".rstrip()
        + f"; plan p50 {1000 * session.latency_p50_s:.0f} ms, p95 {1000 * session.latency_p95_s:.0f} ms; "
        f"observation {1000 * session.observation_age_s:.0f} ms old; {session.plans} plans{surprise}{silent}"
    )]


def _silence(heard: Heard, topic: str, now_s: float, state: str) -> tuple[str, str]:
    """The state to show, and words to add: what a node said last says nothing of now once it is silent."""
    age_s = heard.age_s(topic, now_s)
    if age_s is not None and age_s <= STALE_S:
        return state, ""
    return "stale", "; silent" + (f" for {age_s:.0f} s" if age_s is not None else "")


class TopNode(Node):
    """Subscribes, counts, and never publishes."""

    def __init__(self, spec: RobotSpec, namespace: str, images: bool) -> None:
        super().__init__("top", namespace=namespace or None)
        self.heard = Heard()
        rates = spec.rates
        self.expected_hz: dict[str, float] = {
            spec.joint_state_topic: 50.0, "canvas_info": rates.camera_hz, "action_chunk": 0.0, "value_map": 0.0,
            **{arm.command_topic: 0.0 for arm in spec.arms}, "executor_status": 10.0, "world_action_status": 5.0,
        }
        kinds = {
            spec.joint_state_topic: "sensor_msgs/msg/JointState", "canvas_info": "starry_ros/msg/CanvasInfo",
            "action_chunk": "starry_ros/msg/ActionChunk", "value_map": "starry_ros/msg/ValueMap",
            **{arm.command_topic: COMMANDS[spec.command_interface] for arm in spec.arms},
        }
        if images:
            self.expected_hz = {**{c.topic: rates.camera_hz for c in spec.cameras}, **self.expected_hz}
            PictureTopics(self, spec, lambda camera, topic, kind: self.create_subscription(
                kind, topic, partial(self._on_raw, camera.topic), NEWEST, raw=True))
        for topic, kind in kinds.items():
            on_raw = partial(self._on_raw, topic)
            self.create_subscription(message_class(kind), topic, on_raw, NEWEST, raw=True)
        self.create_subscription(ExecutorStatus, "executor_status", self._on_executor, LATCHED)
        self.create_subscription(WorldActionStatus, "world_action_status", self._on_session, STATE)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, STATE)

    def _on_raw(self, topic: str, _data: bytes) -> None:
        self.heard.arrived(topic, time.monotonic())

    def _on_executor(self, message: ExecutorStatus) -> None:
        self.heard.executor = message
        self.heard.arrived("executor_status", time.monotonic())

    def _on_session(self, message: WorldActionStatus) -> None:
        self.heard.session = message
        self.heard.arrived("world_action_status", time.monotonic())

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.heard.diagnosed(message, time.monotonic())


def top_command(args: argparse.Namespace) -> int:
    """Show until Ctrl-C; with --once, exit code 1 when a node reports an error or nothing was heard."""
    for name, value in dds_environment().items():
        os.environ.setdefault(name, value)
    spec = load_robot_spec(robot_file(args.robot))
    with contextlib.suppress(KeyboardInterrupt), ros_session():
        node = TopNode(spec, args.namespace, args.images)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        return _once(node, executor, args.once) if args.once else _watch(node, executor)
    return 0


def _once(node: TopNode, executor: Any, seconds: float) -> int:
    _spin(executor, seconds)
    _print(screen(node.heard, node.expected_hz, time.monotonic(), 200, colour=sys.stdout.isatty()))
    worst = max((level for _, level, _, _ in node.heard.health.values()), default=2)
    return int(worst >= 2)


def _watch(node: TopNode, executor: Any) -> int:
    sys.stdout.write(HIDE + CLEAR)
    try:
        while rclpy.ok():
            _spin(executor, PERIOD_S)
            size = shutil.get_terminal_size()
            lines = screen(node.heard, node.expected_hz, time.monotonic(), size.columns - 1, colour=True)
            sys.stdout.write(HOME + "".join(f"{line}\x1b[K\n" for line in lines[: size.lines - 1]) + "\x1b[J")
            sys.stdout.flush()
    finally:
        sys.stdout.write(SHOW + "\n")
    return 0


def _spin(executor: Any, seconds: float) -> None:
    end_s = time.monotonic() + seconds
    while (left_s := end_s - time.monotonic()) > 0:
        executor.spin_once(timeout_sec=left_s)


def _print(lines: Sequence[str]) -> None:
    print("\n".join(lines))
