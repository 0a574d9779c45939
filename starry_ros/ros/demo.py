"""`starry demo`: the whole graph with the simulated robot does what sentences ask, and is measured and filmed.

Everything goes through topics and services, as any other user of the graph would. Per episode: stop, lay out a scene,
reset the session with its sentence, arm, wait until what it asks for is done, hold.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from starry_ros.errors import ConfigError, RuntimeUnavailable
from starry_ros.paths import robot_file
from starry_ros.report import evaluation_row, percentile, print_table, write_report
from starry_ros.robot_spec import RobotSpec, load_robot_spec
from starry_ros.ros.demo_film import ContactSheet, Film, compose
from starry_ros.ros.demo_operator import FrameCount, Operator, frames_lost
from starry_ros.ros.graph import Graph, build_graph
from starry_ros.ros.run import ros_session
from starry_ros.ros.up import Supervisor, open_log, stop_signals
from starry_ros.sim.choices import TASKS
from starry_ros.sim.tasks import named_target, sentence, task_of
from starry_ros.types import U8, Record

READY_TIMEOUT_S = 120.0
CALL_TIMEOUT_S = 15.0
ARM_TIMEOUT_S = 10.0
SETTLE_S = 0.6
GRACE_S = 3.0
"""Added to a task's own time limit: the wall clock counts what simulated time does not."""
SHEET_PERIOD_S = 0.25
MOST_FRAMES_LOST = 0.01
COLUMNS = ("episode", "task", "sentence", "success", "seconds", "stall_share", "splice", "end")


def demo_command(args: argparse.Namespace) -> int:
    """Run the episodes; 0 when all bars were met, 1 when one was missed or the graph failed, 130 after Ctrl-C."""
    graph = _graph(args)
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    for name, value in graph.env.items():
        os.environ.setdefault(name, value)
    spec = load_robot_spec(robot_file("bimanual_sim"))
    names = [node.name for node in graph.nodes]
    with (
        stop_signals() as stopped, open_log(args.out / "logs", names) as log, Film(args.out / "overlay.mp4") as film,
        Supervisor(graph, log) as supervisor, ros_session(signals=False),
    ):
        demo = Demo(args, spec, supervisor, stopped, film)
        try:
            demo.run()
        except InterruptedRunError:
            print("\nstopped", file=sys.stderr)
            return 130
    return demo.report()


def _graph(args: argparse.Namespace) -> Graph:
    """The graph with what a demonstration changes. The film has its own caption."""
    graph = build_graph({"model": args.model, "runtime": args.runtime, "log_level": "warn",
                         "record": "true" if args.record else "false"})
    return graph.changed({
        "value_map_visualizer": {"caption": False}, "recorder": {"output": str(args.out.resolve())},
        "world_action": {"publish_imagined": args.imagine},
    })


class InterruptedRunError(Exception):
    """Ctrl-C or SIGTERM arrived."""


@dataclass
class Episode:
    """What came of one episode."""

    episode: int
    task: str
    sentence: str
    target: str
    success: bool = False
    seconds: float = 0.0
    stall_share: float = 0.0
    limit_share: float = 0.0
    splice: float = 0.0
    end: str = ""

    def row(self) -> Record:
        """As a row of the table."""
        return {**vars(self), "success": "yes" if self.success else "no"}


@dataclass
class Results:
    """All episodes and what was counted around them."""

    episodes: list[Episode] = field(default_factory=list)
    lost: dict[str, float] = field(default_factory=dict)


class Demo:
    """Runs episodes one after the other; everything happens inside `_pump`."""

    def __init__(
        self, args: argparse.Namespace, spec: RobotSpec, supervisor: Supervisor, stopped: Callable[[], bool], film: Film
    ) -> None:
        self._args, self._spec, self._supervisor, self._stopped = args, spec, supervisor, stopped
        self._film, self._sheet = film, ContactSheet()
        self._operator = Operator(spec, self._on_pictures)
        self._operator.hear_plans()
        self._heard = self._operator.heard
        self._results = Results()
        self._start_s = time.monotonic()
        self._sheet_s = self._line_s = 0.0
        self._running: Episode | None = None
        self._cameras = [camera.name for camera in spec.cameras]

    # The run

    def run(self) -> None:
        """All episodes."""
        print(f"starting {len(self._supervisor.children)} processes; their logs are in {self._args.out / 'logs'}")
        missing = self._operator.missing
        self._until(lambda: not missing(), READY_TIMEOUT_S, lambda: "waiting for " + ", ".join(missing()))
        self._line(f"ready after {time.monotonic() - self._start_s:.0f} s", end=True)
        begin = self._next_count(None)
        for index in range(self._args.episodes):
            self._episode(index)
        end = self._next_count(self._frame_count())
        self._wait(SETTLE_S)  # the last frames are still on their way to a canvas
        self._results.lost = frames_lost(begin, end, self._heard.camera_stamps_ns)

    def _next_count(self, before: FrameCount | None) -> FrameCount:
        """The publishers' counters once they differ from those of `before`."""
        self._until(lambda: self._frame_count() not in (None, before), CALL_TIMEOUT_S, lambda: "waiting for counters")
        return cast(FrameCount, self._frame_count())

    def _episode(self, index: int) -> None:
        episode = self._prepare(index)
        start_s = time.monotonic()
        limit_s = self._args.time_limit or task_of(episode.task).time_limit_s + GRACE_S
        self._running = episode
        swapped = not self._args.swap
        while not episode.success and time.monotonic() - start_s < limit_s:
            self._pump()
            episode.seconds = time.monotonic() - start_s
            if not swapped and episode.seconds >= self._args.swap_after:
                swapped = True
                self._swap(episode)
            episode.success = swapped and episode.target in self._heard.placed
            self._line(self._progress(episode))
            if self._mode() not in ("RUN", "SLOW") and episode.seconds > 1.0:
                break
        self._finish(episode)

    def _prepare(self, index: int) -> Episode:
        """A new scene and session; the arms are armed when it returns."""
        args, operator = self._args, self._operator
        task = TASKS[index % len(TASKS)] if args.task == "all" else args.task
        self._call(operator.trigger("stop"), "stop")
        self._wait(SETTLE_S)
        reply = self._call(operator.reset_episode(task, args.setting, args.seed + index), "reset_episode")
        if not reply.accepted:
            raise ConfigError("reset_episode", "was refused", got=reply.message)
        self._wait(SETTLE_S)
        session = self._call(operator.reset_session(reply.instruction), "reset_session")
        if not session.accepted:
            raise ConfigError("reset_session", "was refused", got=session.message)
        self._heard.placed = ()
        self._arm()
        return Episode(index + 1, task, reply.instruction, named_target(reply.instruction, task) or "")

    def _arm(self) -> None:
        """Arm. The scene put the arms home, which the executor, not having done it, reports as a tracking error."""
        end_s = time.monotonic() + ARM_TIMEOUT_S
        while True:
            reply = self._call(self._operator.trigger("arm"), "arm")
            if reply.success:
                break
            if time.monotonic() > end_s:
                raise RuntimeUnavailable("arm", "was refused", got=reply.message, fix="see the logs of action_executor")
            if self._mode() == "FAULT":
                self._call(self._operator.trigger("reset_fault"), "reset_fault")
            self._wait(0.2)
        self._until(lambda: self._mode() == "RUN", CALL_TIMEOUT_S, lambda: "waiting for RUN")

    def _swap(self, episode: Episode) -> None:
        """Ask for something else while the arms are on their way."""
        targets = task_of(episode.task).targets
        target = targets[(targets.index(episode.target) + 1) % len(targets)]
        text = sentence(target, episode.episode, episode.task)
        reply = self._call(self._operator.set_instruction(text), "set_instruction")
        if not reply.accepted:
            raise ConfigError("set_instruction", "was refused", got=reply.message)
        episode.sentence, episode.target = f"{episode.sentence} -> {text}", target

    def _finish(self, episode: Episode) -> None:
        status = self._heard.executor
        episode.stall_share, episode.limit_share = status.stall_share, max(status.limit_share, default=0.0)
        episode.splice = status.splice_position
        episode.end = "done" if episode.success else f"{status.mode_name} {status.reason}"
        self._call(self._operator.trigger("hold"), "hold")
        self._running = None
        self._results.episodes.append(episode)
        outcome = f"{'done' if episode.success else 'failed'} after {episode.seconds:.1f} s"
        self._sheet.end_row(f"{episode.episode}. {episode.sentence}: {outcome}", episode.success)
        self._line(f"episode {episode.episode}/{self._args.episodes}: {episode.sentence}: {outcome}", end=True)

    # Waiting and showing

    def _pump(self) -> None:
        """Messages, child processes, Ctrl-C."""
        self._operator.pump(0.01)
        self._supervisor.poll(0.0)
        if self._stopped():
            raise InterruptedRunError
        children = self._supervisor.children.values()
        dead = [child.spec.name for child in children if not child.running and child.restart_at_s is None]
        if dead or self._supervisor.exit_code is not None:
            raise RuntimeUnavailable(
                "graph", f"{', '.join(dead) or 'a node'} has ended", got=_last_line(self._args.out / "logs", dead),
                fix=f"read the logs in {self._args.out / 'logs'}",
            )

    def _until(self, ready: Callable[[], bool], timeout_s: float, waiting: Callable[[], str]) -> None:
        end_s = time.monotonic() + timeout_s
        while not ready():
            self._pump()
            self._line(waiting())
            if time.monotonic() > end_s:
                raise RuntimeUnavailable(
                    "demo", f"{waiting()} took longer than {timeout_s:.0f} s",
                    got=self._heard.diagnosed or "no diagnostics", fix=f"read the logs in {self._args.out / 'logs'}",
                )

    def _wait(self, duration_s: float) -> None:
        end_s = time.monotonic() + duration_s
        while time.monotonic() < end_s:
            self._pump()

    def _call(self, future: Any, name: str) -> Any:
        self._until(future.done, CALL_TIMEOUT_S, lambda: f"waiting for {name}")
        return future.result()

    def _mode(self) -> str:
        return str(self._heard.executor.mode_name)

    def _frame_count(self) -> FrameCount | None:
        return FrameCount.of(self._heard.simulation, self._cameras)

    def _progress(self, episode: Episode) -> str:
        session = self._heard.session
        return (f"episode {episode.episode}/{self._args.episodes}: {episode.sentence} | {self._mode()} "
                f"{episode.seconds:4.1f} s, plan {1000 * session.latency_p50_s:.0f} ms, {session.plans} plans")

    def _line(self, text: str, *, end: bool = False) -> None:
        """One line that is written over; lines that end stay. Not on a terminal: only those."""
        if not sys.stdout.isatty():
            if end:
                print(text, flush=True)
            return
        if end or time.monotonic() - self._line_s > 0.1:
            self._line_s = time.monotonic()
            print(f"\r\x1b[K{text[:150]}", end="\n" if end else "", flush=True)

    def _on_pictures(self, views: list[U8]) -> None:
        if self._running is None:
            return
        now_s = time.monotonic() - self._start_s
        picture = compose(views, self._running.sentence, f"{self._mode()}  {self._running.seconds:.1f} s")
        self._film.add(picture, now_s)
        if now_s - self._sheet_s >= SHEET_PERIOD_S:
            self._sheet_s = now_s
            self._sheet.add(picture)

    # Results

    def report(self) -> int:
        """Print the tables, write the files; 0 when every bar was met."""
        results, args = self._results, self._args
        for path in filter(None, (args.out / "contact_sheet.png", args.sheet)):
            self._sheet.save(path)
        row = self._summary()
        print_table([episode.row() for episode in results.episodes], COLUMNS)
        print()
        print_table([{"what": name, "value": value} for name, value in row.items()])
        meta = {"seed": args.seed, "episodes": [vars(episode) for episode in results.episodes]}
        for path in filter(None, (args.out / "report.json", args.json)):
            write_report(path, [row], **meta)
        films = ("contact_sheet.png", "overlay.mp4") if row["pictures"] else ()
        print("\nwritten: " + ", ".join(str(args.out / name) for name in ("report.json", *films)))
        missed = missed_bars(row)
        for text in missed:
            print(f"missed: {text}")
        return 1 if missed else 0

    def _summary(self) -> Record:
        results, session = self._results, self._heard.session
        episodes = results.episodes
        ages = self._heard.chunk_ages_s
        successes = sum(episode.success for episode in episodes)
        return evaluation_row(
            "model", self._args.task, self._args.setting, successes, len(episodes),
            model=Path(self._args.model).name, swap=self._args.swap, runtime=session.runtime,
            chunk_latency_p50_s=session.latency_p50_s, chunk_latency_p95_s=session.latency_p95_s,
            observation_age_p50_s=percentile(ages, 50), observation_age_p95_s=percentile(ages, 95),
            stall_share=max(e.stall_share for e in episodes), limit_share=max(e.limit_share for e in episodes),
            pictures=self._film.pictures,
            **{f"lost_{camera}": share for camera, share in results.lost.items()},
        )


def missed_bars(row: Record) -> list[str]:
    """What a demo must not show, in words."""
    missed = []
    for name, value in row.items():
        if name.startswith("lost_") and value > MOST_FRAMES_LOST:
            missed.append(f"{name} is {value:.1%}, at most {MOST_FRAMES_LOST:.0%} allowed")
    if row["stall_share"] > 0:
        missed.append(f"the arms waited for plans {row['stall_share']:.1%} of an episode, none allowed")
    if row["success"] == 0:
        missed.append("no episode succeeded")
    if row["pictures"] == 0:
        missed.append("no picture of a value map came: see the log of value_map_visualizer")
    return missed


def _last_line(folder: Path, names: list[str]) -> str | None:
    """Last words of the first of these nodes."""
    for name in names:
        lines = (folder / f"{name}.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        if lines:
            return lines[-1]
    return None
