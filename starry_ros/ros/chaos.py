"""`starry chaos`: the real graph with the simulated robot, faults injected in motion, and a judge of what the arms did.

Every scenario begins with an armed robot in motion. It passes when the arms did what they must, by the simulated
robot's own joint states, inside their limits all along; when the reason was published; and when the graph runs again,
after reset and arm where the fault is latched, and not before.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from std_msgs.msg import Bool

from starry_ros.control.safety import Event
from starry_ros.errors import StarryError
from starry_ros.msg import ActionChunk
from starry_ros.paths import robot_file
from starry_ros.report import print_table, write_report
from starry_ros.robot_spec import RobotSpec, load_robot_spec
from starry_ros.ros.chaos_faults import GOES_ON, SCENARIOS, Scenario
from starry_ros.ros.flood import start_flood
from starry_ros.ros.graph import Graph, build_graph
from starry_ros.ros.qos import PLAN, SAFETY
from starry_ros.ros.relay import Fault, Relays, remappings
from starry_ros.ros.run import ros_session
from starry_ros.ros.running_graph import RunningGraph
from starry_ros.ros.up import Supervisor, open_log, stop_signals
from starry_ros.types import F64, Record

MOVING_RAD_S, RESTING_RAD_S = 0.15, 0.03
RESTING_FOR_S = 0.3
ARM_MARGIN, JAW_MARGIN = 3.0, 8.0
"""Shares at which they may be seen: what arms touch moves them too (a slipping finger at 2.3, a block in a jaw at 4.8).
"""
ASKED_MARGIN, ASKED_OUTSIDE = 1.15, 1e-3
"""Share of its velocity limit at which a joint may be asked to move, and how far outside its range: splines overshoot a
little between points."""
OUTSIDE = {"rad": 0.02, "m": 0.012}
"""How far outside its range a joint may be seen, in its own unit: a block that is pressed on opens a jaw 0.0085 m too
far, once in 230 plays."""
READY_S, RESUME_S, REPLY_S = 300.0, 60.0, 3.0
SETTLE_S = 0.5
"""Until an executor has heard where a new episode has put the arms."""
TOLD_LOOKS, TOLD_EVERY_S = 20, 0.1
"""How often a reason is looked for, which comes ten times a second, once the arms were judged."""
RELAYED_STATE_TIMEOUT_S = 0.4
"""Joint states come through the relays of this process, which also judges: they may be this much late."""
MOST_SURPRISED = 1
"""How often a scenario is played again because the arms stopped for what the model saw, and not for the fault."""
Motions = tuple[F64, F64, F64]
"""Times [N], positions [N, J], velocities [N, J]."""
COLUMNS = ("scenario", "run", "passed", "rest_s", "worst_asked", "worst_velocity", "resumed_s", "surprised", "problem")


class Failed(Exception):
    """A scenario did not go as it must."""


class SurprisedError(Failed):
    """The model found the world otherwise than it had imagined, and stopped the arms: that is its own guard at work."""


class Theatre(RunningGraph):
    """The running graph and the means to disturb it; the `Stage` of the faults."""

    def __init__(self, spec: RobotSpec, supervisor: Supervisor, stopped: Callable[[], bool]) -> None:
        super().__init__(spec, supervisor, stopped)
        self.relays = Relays(spec)
        self._chunk: ActionChunk | None = None
        self._chunks = self.operator.create_publisher(ActionChunk, "action_chunk", PLAN)
        self._estops = self.operator.create_publisher(Bool, "estop", SAFETY)
        self._plans = self._hear_plans()
        self._seed, self._instruction = 0, ""

    def _hear_plans(self) -> Any:
        return self.operator.create_subscription(ActionChunk, "action_chunk", self._on_chunk, PLAN)

    def _on_chunk(self, message: ActionChunk) -> None:
        if message.contract_hash == self.spec.content_hash and np.isfinite(message.positions).all():
            self._chunk = message

    # What faults use

    def spoil(self, topic: str, fault: Fault | None) -> None:
        if fault is None:
            self.relays.faults.pop(topic, None)
        else:
            self.relays.faults[topic] = fault

    def send(self, node: str, number: signal.Signals) -> None:
        self.supervisor.children[node].send(number)

    def start(self, node: str) -> None:
        if not self.supervisor.children[node].running:
            self.supervisor.start(node)

    def estop(self, pressed: bool) -> None:
        self._estops.publish(Bool(data=pressed))

    def chunk(self) -> ActionChunk:
        if self._chunk is None:
            raise Failed("there was no plan")
        return copy.deepcopy(self._chunk)

    def offer(self, chunk: ActionChunk) -> None:
        self._chunks.publish(chunk)

    def flood(self, duration_s: float) -> None:
        self.operator.destroy_subscription(self._plans)  # the relays share this process and must not drown
        strangers = start_flood(duration_s)
        self.until(lambda: strangers.poll() is not None, RESUME_S, "the flood")
        self._plans = self._hear_plans()
        if strangers.returncode:
            raise Failed("nobody heard the flood")

    def during(self, duration_s: float, act: Callable[[], None], every_s: float) -> None:
        end_s = time.monotonic() + duration_s
        while time.monotonic() < end_s:
            act()
            self.wait(every_s)

    def fill_disk(self) -> None:
        pid = self.supervisor.children["recorder"].pid
        if pid is not None:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))

    # What the judge uses

    def too_late(self, what: str) -> Exception:
        session, executor = self.operator.heard.session, self.operator.heard.executor
        return Failed(f"{what}; executor {self.mode} {self.reason}, accepted {executor.accepted}, "
                      f"refused {self.refused()}, "
                      f"planner {session.state} {session.reason}")

    def refused(self) -> dict[str, int]:
        """How many chunks the executor has refused, by reason."""
        executor = self.operator.heard.executor
        return dict(zip(executor.refused_reasons, executor.refused_counts, strict=True))

    def moving(self) -> bool:
        """Whether the arms follow a plan and moved in the last moments."""
        _, _, velocity = self.relays.since(self.relays.newest_s - 0.15)
        fast = bool(len(velocity)) and float(np.abs(velocity).max()) > MOVING_RAD_S
        return fast and self.mode in ("RUN", "SLOW") and self.reason != "no_chunk"

    def resting(self) -> bool:
        """Whether the arms have stood still for a moment."""
        _, _, velocity = self.relays.since(self.relays.newest_s - RESTING_FOR_S)
        return bool(len(velocity)) and float(np.abs(velocity).max()) < RESTING_RAD_S

    def in_motion(self) -> None:
        """A fresh episode, armed, in motion. What the scenario before has left behind gets the time to come back."""
        operator = self.operator
        self.until_ready(READY_S)
        self.call(operator.trigger("stop"), "stop")
        self.until(self.resting, RESUME_S, "rest")
        self._seed += 1
        reply = self.call(operator.reset_episode("place_block_pad", "easy", self._seed), "reset_episode")
        self.wait(SETTLE_S)
        self._instruction = reply.instruction
        self.call(operator.reset_session(reply.instruction), "reset_session")
        self.arm()
        self.until(self.moving, RESUME_S, "motion")
        self.wait(0.2)
        self.until(self.moving, RESUME_S, "motion")

    def arm(self) -> float:
        """Reset a fault if there is one, and arm; how long it took."""
        answers = ["no answer"]

        def armed() -> bool:
            try:
                if self.mode == "FAULT":
                    self.call(self.operator.trigger("reset_fault"), "reset_fault", REPLY_S)
                reply = self.call(self.operator.trigger("arm"), "arm", REPLY_S)
            except Failed:  # calls may go to a process that was killed, until its lease ends
                return False
            answers.append(reply.message)
            return bool(reply.success)

        try:
            return self.until(armed, RESUME_S, "arm")
        except Failed as problem:
            raise Failed(f"{problem}; {answers[-1]}") from problem

    def plan_again(self) -> None:
        """Wait for a new plan; a planner that was started anew is told its sentence again."""
        before = self.operator.heard.session.plans

        def planned() -> bool:
            session = self.operator.heard.session
            if session.reason == "no_instruction":
                with contextlib.suppress(Failed):
                    self.call(self.operator.reset_session(self._instruction), "reset_session", REPLY_S)
            return session.plans not in (0, before)

        self.until(planned, READY_S, "a plan")


def play(theatre: Theatre, name: str, run: int) -> Record:
    """One scenario; the row of the report."""
    scenario = SCENARIOS[name]
    row: Record = {"scenario": name, "run": run, "passed": False, "problem": "", "surprised": 0}
    while True:
        try:
            theatre.in_motion()
            since_s, refused = theatre.relays.newest_s, theatre.refused()
            scenario.inject(theatre)
            row |= _judge(theatre, scenario, since_s, refused)
            row["resumed_s"] = _resume(theatre, scenario)
            return row | {"passed": True}
        except Failed as problem:
            scenario.clear(theatre)
            if isinstance(problem, SurprisedError) and row["surprised"] < MOST_SURPRISED:
                row["surprised"] += 1
                continue
            return row | {"problem": str(problem)}


def _judge(theatre: Theatre, scenario: Scenario, since_s: float, refused: Mapping[str, int]) -> Record:
    """What the arms did, by the simulated robot's own word. `refused` counts chunks refused before the fault."""
    if scenario.outcome == GOES_ON:
        theatre.wait(1.0)
        if theatre.mode not in ("RUN", "SLOW"):
            kind = SurprisedError if theatre.reason == Event.SURPRISE_HIGH else Failed
            raise kind(f"the arms did not go on: {theatre.mode} {theatre.reason}")
    else:
        theatre.wait(scenario.within_s + RESTING_FOR_S + 0.2)
    seen, asked = theatre.relays.since(since_s), theatre.relays.asked_since(since_s)
    times, _, velocities = seen
    if not len(times):
        raise Failed("the simulated robot says nothing")
    row: Record = _within_limits(theatre.spec, asked, seen, since_s, scenario.commands_lost)
    if scenario.outcome != GOES_ON:
        fast = np.flatnonzero(np.abs(velocities).max(axis=1) > RESTING_RAD_S)
        row["rest_s"] = float(times[fast[-1]] - since_s) if len(fast) else 0.0
        if row["rest_s"] > scenario.within_s:
            raise Failed(f"still moving {row['rest_s']:.2f} s after the fault")
    for _ in range(TOLD_LOOKS):
        if not scenario.told or _told(theatre, refused) & set(scenario.told):
            return row
        theatre.wait(TOLD_EVERY_S)
    raise Failed(f"{' or '.join(scenario.told)} was not published, but {sorted(_told(theatre, refused))}")


def _within_limits(
    spec: RobotSpec, asked: Motions, seen: Motions, since_s: float, commands_lost: bool = False
) -> Record:
    """Greatest shares of its velocity limit that a joint was asked for, and one of an arm was seen at.

    What was asked of the joints has to keep the limits; what they were seen to do, as far as they touched nothing.
    Raises Failed outside the limits.
    """
    jaw_J = np.isin(np.arange(len(spec.joints)), spec.gripper_indices)
    middle_J, half_J = (spec.limit("upper") + spec.limit("lower")) / 2, (spec.limit("upper") - spec.limit("lower")) / 2
    times_N, position_NJ, _ = asked
    if len(times_N) < 2:
        raise Failed("the simulated robot does not say what was asked of its joints")
    step_NJ = np.diff(position_NJ, axis=0) / np.diff(times_N)[:, None]
    if not commands_lost:
        _hold_to(spec, times_N[1:] - since_s, step_NJ, ASKED_MARGIN * spec.limit("velocity"), "is asked to move at")
    _hold_to(spec, times_N - since_s, position_NJ - middle_J, half_J + ASKED_OUTSIDE, "is asked to stand off")
    times_N, position_NJ, velocity_NJ = seen
    margin_J = np.where(jaw_J, JAW_MARGIN, ARM_MARGIN) * spec.limit("velocity")
    _hold_to(spec, times_N - since_s, velocity_NJ, margin_J, "moves at")
    outside_J = half_J + np.array([OUTSIDE[joint.unit] for joint in spec.joints])
    _hold_to(spec, times_N - since_s, position_NJ - middle_J, outside_J, "stands off its middle")
    return {
        "worst_asked": float((np.abs(step_NJ) / spec.limit("velocity")).max()),
        "worst_velocity": float((np.abs(velocity_NJ) / spec.limit("velocity"))[:, ~jaw_J].max()),
    }


def _hold_to(spec: RobotSpec, after_s_N: F64, value_NJ: F64, limit_J: F64, what: str) -> None:
    share_NJ = np.abs(value_NJ) / limit_J
    tick, joint = np.unravel_index(int(share_NJ.argmax()), share_NJ.shape)
    if share_NJ[tick, joint] > 1:
        raise Failed(f"outside the limits: {spec.joint_names[joint]} {what} {value_NJ[tick, joint]:.3f} "
                     f"{after_s_N[tick]:.2f} s after the fault")


def _told(theatre: Theatre, before: Mapping[str, int]) -> set[str]:
    """Every reason code that was published last, and those of chunks that were refused since `before`."""
    executor, session = theatre.operator.heard.executor, theatre.operator.heard.session
    refused = {reason for reason, count in theatre.refused().items() if count > before.get(reason, 0)}
    return {executor.reason, session.reason, *executor.conditions, *refused} - {""}


def _resume(theatre: Theatre, scenario: Scenario) -> float:
    """The fault goes; the graph must run again, and a latched one only after reset and arm."""
    begin_s = time.monotonic()
    if scenario.latched:
        since_s = theatre.relays.newest_s
        scenario.clear(theatre)
        theatre.wait(1.0)
        _, _, velocities = theatre.relays.since(since_s)
        if len(velocities) and np.abs(velocities).max() > RESTING_RAD_S:
            raise Failed("the arms moved before they were armed")
        theatre.until(lambda: theatre.mode, RESUME_S, "the executor")
        theatre.arm()
    else:
        scenario.clear(theatre)
        if theatre.mode not in ("RUN", "SLOW"):
            theatre.arm()
    if scenario.outcome != GOES_ON:
        theatre.plan_again()
    return time.monotonic() - begin_s


def chaos_command(args: argparse.Namespace) -> int:
    """Play the scenarios; 0 when all passed, 1 when one failed, 130 after Ctrl-C."""
    names = list(SCENARIOS) if args.scenario == "all" else [args.scenario]
    spec = load_robot_spec(robot_file("bimanual_sim"))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    rows: list[Record] = []
    with tempfile.TemporaryDirectory(prefix="starry_chaos_") as scratch:
        graph = _graph(args, spec, Path(scratch), record="disk_full" in names)
        for key, value in graph.env.items():
            os.environ.setdefault(key, value)
        logs = args.logs or Path(scratch) / "logs"
        nodes = [node.name for node in graph.nodes]
        with (
            stop_signals() as stopped, open_log(logs, nodes) as log, Supervisor(graph, log) as supervisor,
            ros_session(signals=False),
        ):
            try:
                _play_all(Theatre(spec, supervisor, stopped), names, args.times, rows)
            except Failed as problem:
                raise StarryError("starry chaos", str(problem), fix="try --logs DIR and see there") from problem
    print_table(rows, COLUMNS)
    passed = all(row["passed"] for row in rows)
    if args.json is not None:
        write_report(args.json, rows, passed=passed, model=args.model)
    return 0 if passed else 1


def _play_all(theatre: Theatre, names: list[str], times: int, rows: list[Record]) -> None:
    theatre.until_ready(READY_S)
    for run in range(times):
        for name in names:
            rows.append(play(theatre, name, run))
            print(f"{name}: {rows[-1]['problem'] or 'passed'}", file=sys.stderr, flush=True)


def _graph(args: argparse.Namespace, spec: RobotSpec, folder: Path, *, record: bool) -> Graph:
    """The graph with relays between the simulated robot and the rest. Nothing but scenarios restarts a node."""
    graph = build_graph({"model": args.model, "runtime": args.runtime, "log_level": "warn",
                         "record": "true" if record else "false"})
    graph = graph.changed({
        "recorder": {"output": str(folder)}, "action_executor": {"state_timeout_s": RELAYED_STATE_TIMEOUT_S},
    })
    return replace(graph, nodes=tuple(
        replace(node, remappings=(*node.remappings, *remappings(spec, node.name)), respawn=False)
        for node in graph.nodes
    ))
