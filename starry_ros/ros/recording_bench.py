"""`starry bench recording`: what recording everything costs the control process, and whether a message is missing.

The whole graph runs with the simulated robot in motion. A recorder is started and ended in turn; the CPU time of the
action executor with it and without it is compared between neighbouring stretches of one run. What the recorder wrote is
counted against what each publisher counted.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

from starry_ros.errors import RuntimeUnavailable
from starry_ros.recording.lost import Tally, tally
from starry_ros.recording.reader import Recording
from starry_ros.report import bench_row
from starry_ros.robot_spec import RobotSpec
from starry_ros.ros.graph import Graph, build_graph
from starry_ros.ros.run import ros_session
from starry_ros.ros.running_graph import RunningGraph
from starry_ros.ros.up import Supervisor, open_log, stop_signals
from starry_ros.types import Record

ROUNDS, STRETCH_S, SETTLE_S = 5, 6.0, 3.0
READY_S = 180.0
TRIES = 3
MOVING = ("RUN", "SLOW")
_WHERE = "bench recording"


def run(spec: RobotSpec, rounds: int = ROUNDS, stretch_s: float = STRETCH_S) -> list[Record]:
    """Rows: CPU time of `action_executor` a control tick with a recorder, the baseline is without; messages missing."""
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_DOMAIN_ID", str(60 + os.getpid() % 40))
    with tempfile.TemporaryDirectory(prefix="starry_bench_") as scratch:
        graph = _graph(Path(scratch))
        for key, value in graph.env.items():
            os.environ.setdefault(key, value)
        names = [node.name for node in graph.nodes]
        with (
            stop_signals() as stopped, open_log(Path(scratch) / "logs", names) as log,
            Supervisor(graph, log) as supervisor, ros_session(signals=False),
        ):
            stage = Stage(spec, supervisor, stopped)
            stage.begin()
            pairs = [stage.compare(stretch_s) for _ in range(rounds)]
        counted = [topic for path in sorted(Path(scratch).glob("*.mcap")) for topic in tally(Recording(path))]
    return _rows(pairs, counted, f"{rounds} times {stretch_s:g} s each way, arms armed, one run")


def _graph(folder: Path) -> Graph:
    graph = build_graph({"log_level": "warn", "record": "true"})
    return replace(graph, nodes=tuple(
        replace(node, respawn_s=None, parameters={**node.parameters, "output": str(folder)})
        if node.name == "recorder" else node for node in graph.nodes
    ))


def _rows(pairs: list[tuple[float, float]], counted: list[Tally], condition: str) -> list[Record]:
    with_s, without_s = (median(values) for values in zip(*pairs, strict=True))
    more = median(with_it / without - 1 for with_it, without in pairs)
    known = [topic for topic in counted if topic.lost is not None]
    lost, messages = sum(topic.lost or 0 for topic in known), sum(topic.messages for topic in known)
    where = {topic.topic: topic.lost for topic in known if topic.lost}
    for topic, count in where.items():
        print(f"{topic}: {count} messages lost", file=sys.stderr)
    return [
        bench_row("recording/executor_cpu", 1000 * with_s, "ms a tick", 1000 * without_s, condition=condition),
        bench_row("recording/executor_cpu_more", more, "share", condition=condition),
        bench_row("recording/lost", float(lost), "messages", messages=messages, where=where, condition=condition),
    ]


class Stage(RunningGraph):
    """The running graph, with a recorder and without."""

    def begin(self) -> None:
        """Arms armed in front of a scene."""
        self.until_ready(READY_S)
        reply = self.call(self.operator.reset_episode("place_block_pad", "easy", 0), "reset_episode")
        self.call(self.operator.reset_session(reply.instruction), "reset_session")
        self.until(self._armed, READY_S, "arm")

    def compare(self, stretch_s: float) -> tuple[float, float]:
        """CPU time of the executor a control tick with a recorder, and right after without."""
        if not self.supervisor.children["recorder"].running:
            self.supervisor.start("recorder")
        self.wait(SETTLE_S)
        self.until(lambda: self.operator.heard.diagnosed.get("recorder") is not None, READY_S, "the recorder")
        with_s = self._cpu(stretch_s)
        self.supervisor.children["recorder"].send(signal.SIGINT)
        self.until(lambda: not self.supervisor.children["recorder"].running, READY_S, "the recorder's end")
        self.operator.heard.diagnosed.pop("recorder", None)
        self.wait(SETTLE_S)
        return with_s, self._cpu(stretch_s)

    def _cpu(self, stretch_s: float) -> float:
        """Per control tick, so that ticks which a busy machine leaves out do not count as thrift.

        A stretch in which the arms stop has fewer ticks than it lasted; it is measured again.
        """
        pid, heard = self.supervisor.children["action_executor"].pid, self.operator.heard
        for _ in range(TRIES):
            self.until(lambda: self.mode in MOVING or self._armed(), READY_S, "arm")
            ticks, spent_s = heard.executor.ticks, cpu_s(pid)
            self.wait(stretch_s)
            if self.mode in MOVING:
                return (cpu_s(pid) - spent_s) / max(1, heard.executor.ticks - ticks)
        raise RuntimeUnavailable(_WHERE, f"the arms stopped in {TRIES} stretches, last by {heard.executor.reason}",
                                 fix="try on an idle machine")

    def _armed(self) -> bool:
        if self.mode == "FAULT":
            self.call(self.operator.trigger("reset_fault"), "reset_fault")
        return bool(self.call(self.operator.trigger("arm"), "arm").success)


def cpu_s(pid: int | None) -> float:
    """CPU time of all threads of a process in seconds, to the nanosecond that the scheduler counts."""
    if pid is None:
        raise RuntimeUnavailable(_WHERE, "a process has ended", fix="starry up says why")
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
