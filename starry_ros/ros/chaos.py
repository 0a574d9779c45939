"""`starry chaos`: the real graph with the simulated robot, faults injected in motion, and a judge of what the arms did.

Every scenario begins with an armed robot in motion. It passes when the arms did what they must, by the simulated
robot's own joint states, inside their limits all along; when the reason was published; and when the graph runs again,
after reset and arm where the fault is latched, and not before.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from starry_ros.control.safety import Event
from starry_ros.errors import StarryError
from starry_ros.paths import robot_file
from starry_ros.report import print_table, write_report
from starry_ros.robot_spec import RobotSpec, load_robot_spec
from starry_ros.ros.chaos_faults import GOES_ON, GONE, LASTS_S, PLAN_END, RECORDED, RESTS, SCENARIOS, Scenario
from starry_ros.ros.chaos_judge import (
    GOING_ON_RAD,
    IN_FLIGHT_S,
    OLD_PLANS_S,
    Failed,
    Witness,
    along_plans,
    pushed_off,
    rest_in_time,
    stood_still,
    travelled,
    within_limits,
)
from starry_ros.ros.chaos_theatre import READY_S, RESTING_FOR_S, RESUME_S, Theatre
from starry_ros.ros.graph import Graph, build_graph
from starry_ros.ros.picture_relay import PictureRelay, RigError
from starry_ros.ros.relay import remappings
from starry_ros.ros.run import ros_session
from starry_ros.ros.transport import share_no_memory
from starry_ros.ros.up import Supervisor, open_log, stop_signals
from starry_ros.types import Record

TOLD_LOOKS, TOLD_EVERY_S = 30, 0.1
"""How often a reason is looked for, which comes ten times a second, once the arms were judged."""
RELAYED_STATE_TIMEOUT_S = 0.4
"""Joint states come through the relays of this process, which also judges: they may be this much late."""
MOST_GUARDED = 1
"""How often a scenario is played again because a guard of the graph's own stopped the arms, and not the fault."""
REFUSED_SHARE = 0.5
"""Of the plans that must not be followed, as many must have been counted: only four wait in the middleware's queue for
an executor that a busy machine holds up."""
WAITED_S = 1.5
"""For so long at least have arms stood that wait for `arm` for want of plans: the executor's patience is 2 s."""
COLUMNS = ("scenario", "run", "passed", "rest_s", "due_s", "pressed", "pressed_before_arm", "worst_asked",
           "worst_acceleration", "worst_velocity", "travelled_rad", "resumed_s", "guarded", "notes", "rungs", "problem")


class GuardedError(Failed):
    """A guard of the graph's own was at work, as without the fault: the model found the world otherwise than it had
    imagined, or an arm was held off its command by what it touched, in the simulator's own contacts.
    """


def play(theatre: Theatre, name: str, run: int) -> Record:
    """One scenario; the row of the report."""
    scenario, theatre.run = SCENARIOS[name], run
    row: Record = {"scenario": name, "run": run, "passed": False, "problem": "", "guarded": 0}
    while True:
        theatre.look_away()
        try:
            scenario.prepare(theatre)
            theatre.in_motion()
            theatre.look_away()
            scenario.inject(theatre)
            row |= _judge(theatre, scenario)
            return row | _resume(theatre, scenario) | _seen(theatre) | {"passed": True}
        except Failed as problem:
            with contextlib.suppress(Failed):  # told is what came first
                scenario.clear(theatre)
            if isinstance(problem, GuardedError) and row["guarded"] < MOST_GUARDED:
                row["guarded"] += 1
                continue
            return row | _seen(theatre) | {"problem": str(problem)}


def _seen(theatre: Theatre) -> Record:
    """What chance has chosen and led to, and how thoroughly the planner planned from the fault on."""
    return {"notes": " ".join(theatre.notes), "rungs": " ".join(sorted(theatre.rungs))}


def _judge(theatre: Theatre, scenario: Scenario) -> Record:
    """What the arms did, by the simulated robot's own word, and what the graph said of it."""
    until_s = _watch(theatre, scenario)
    row = _arms_gone(theatre, scenario) if scenario.outcome == GONE else _arms_seen(theatre, scenario, until_s)
    _wait_for(theatre, lambda: not scenario.told or told(theatre) & set(scenario.told),
              lambda: f"{' or '.join(scenario.told)} was not published, but {sorted(told(theatre))}")
    _wait_for(theatre, lambda: not scenario.stopped_by or _stopped(theatre, scenario),
              lambda: f"not stopped by {' or '.join(scenario.stopped_by)}, but {theatre.mode} {theatre.reason}")
    if theatre.reason == Event.TRACKING_ERROR:
        row["pressed"] = " ".join(pushed_off(theatre.witness()))
    if scenario.diagnosed is not None:
        node, begin = scenario.diagnosed
        _wait_for(theatre, lambda: theatre.diagnosed(node).startswith(begin),
                  lambda: f"{node} does not say {begin}, but {theatre.diagnosed(node)!r}")
    return row


def _watch(theatre: Theatre, scenario: Scenario) -> float:
    """Wait for what the arms must do. Returns until when they must go on: while the fault is on, of which those that
    were put in place at once still are; at any later time where the planner may get no turn before.
    """
    if scenario.outcome != GOES_ON:
        theatre.wait(scenario.within_s + RESTING_FOR_S + 0.2)
        return math.inf
    witness = theatre.witness()
    injected_s = float(witness.seen[0].max(initial=witness.since_s))
    least_s = witness.since_s + LASTS_S
    theatre.wait(max(1.0, least_s - injected_s))
    return math.inf if scenario.starves else max(injected_s, least_s)


def _stopped(theatre: Theatre, scenario: Scenario) -> bool:
    """Whether it stands for what it must. Arms that have run out of plans and rest pressed on something may be stopped
    for that before; where nothing that they touch holds them off, or no plan led there, that is a failure.
    """
    reasons, witness = set(scenario.stopped_by), theatre.witness()
    if scenario.counts_from == PLAN_END and theatre.reason == Event.TRACKING_ERROR and pushed_off(witness):
        along_plans(witness)
        reasons.add(Event.TRACKING_ERROR)
    return theatre.mode in ("STOP", "FAULT") and theatre.reason in reasons


def _arms_seen(theatre: Theatre, scenario: Scenario, until_s: float) -> Record:
    if not len(theatre.witness().seen[0]):
        raise Failed("the simulated robot says nothing")
    _wait_for(theatre, lambda: len(theatre.witness().asked[0]) > 1,  # a listener that was killed may hold up the word
              lambda: "the simulated robot does not say what was asked of its joints")
    witness = theatre.witness()
    row = within_limits(witness, commands_lost=scenario.commands_lost)
    if scenario.outcome == RESTS:
        return row | rest_in_time(witness, scenario)
    along_plans(witness)
    if theatre.followed_ours:
        raise Failed("the executor followed a plan that was none of the planner's")
    if scenario.waits and (theatre.mode, theatre.reason) == ("STOP", Event.PLANNER_LOST):
        return row | _goes_on_armed(theatre)
    if theatre.mode not in ("RUN", "SLOW"):
        touched = pushed_off(witness) if theatre.reason == Event.TRACKING_ERROR else []
        kind = GuardedError if touched or theatre.reason == Event.SURPRISE_HIGH else Failed
        raise kind(" ".join(["the arms did not go on:", theatre.mode, theatre.reason, *touched]))
    row |= _motion_goes_on(theatre, until_s)
    _plans_go_on(theatre)
    return row


def _goes_on_armed(theatre: Theatre) -> Record:
    """Arms that have stood for too long without a plan wait for `arm`, and go on after it."""
    slid = stood_still(theatre.witness_since(theatre.relays.newest_s - WAITED_S))
    theatre.note("waited for arm")
    theatre.arm()
    armed_s = theatre.relays.newest_s

    def travelled_rad() -> float:
        return travelled(theatre.witness_since(armed_s), math.inf)

    theatre.until(lambda: travelled_rad() >= GOING_ON_RAD, RESUME_S, "motion after arm")
    return {"travelled_rad": travelled_rad(), "pressed_before_arm": " ".join(slid)}


def _motion_goes_on(theatre: Theatre, until_s: float) -> Record:
    """How far the arms travelled by plans that came after the fault."""
    def travelled_rad() -> float:
        return travelled(theatre.witness(), until_s)

    _wait_for(theatre, lambda: travelled_rad() >= GOING_ON_RAD,
              lambda: f"the arms stood still: their joints travelled {travelled_rad():.4f} rad in all, from "
                      f"{OLD_PLANS_S:g} s after the fault on")
    return {"travelled_rad": travelled_rad()}


def _plans_go_on(theatre: Theatre) -> None:
    """The planner's plans were followed, and ours were refused."""
    _wait_for(theatre, lambda: theatre.operator.heard.executor.accepted > theatre.accepted_before,
              lambda: "no plan was followed any more")
    before = theatre.refused_before
    refused = sum(count - before.get(reason, 0) for reason, count in theatre.refused().items())
    if refused < REFUSED_SHARE * theatre.offered:
        raise Failed(f"of {theatre.offered} plans that must not be followed {refused} were refused")


def _arms_gone(theatre: Theatre, scenario: Scenario) -> Record:
    """No arm is there to be seen: nothing may be sent that still moves one when it comes back."""
    witness = theatre.witness()
    if len(witness.seen[0]) and witness.seen[0][-1] > theatre.looked_away_s + scenario.ends_s + IN_FLIGHT_S:
        raise Failed("the simulated robot is alive")
    end_s = max((ahead.end_s for ahead in witness.look_aheads), default=witness.since_s)
    if end_s > witness.since_s + scenario.within_s:
        raise Failed(f"look-aheads were sent until {end_s - witness.since_s:.2f} s after the fault")
    return {"rest_s": max(0.0, end_s - witness.since_s), "due_s": scenario.within_s}


def _wait_for(theatre: Theatre, said: Callable[[], object], words: Callable[[], str]) -> None:
    """Raises Failed when something is not said in time; statuses come ten times a second, diagnostics once."""
    for _ in range(TOLD_LOOKS):
        if said():
            return
        theatre.wait(TOLD_EVERY_S)
    raise Failed(words())


def told(theatre: Theatre) -> set[str]:
    """Every reason code that was published since the fault, and those of chunks that were refused since."""
    before, session = theatre.refused_before, theatre.operator.heard.session
    refused = {reason for reason, count in theatre.refused().items() if count > before.get(reason, 0)}
    return {session.reason, *theatre.reasons, *refused} - {""}


def _resume(theatre: Theatre, scenario: Scenario) -> Record:
    """The fault goes; the graph must run again, and a latched one only after reset and arm."""
    begin_s, slid = time.monotonic(), list[str]()
    if scenario.latched:
        since_s = theatre.relays.newest_s
        scenario.clear(theatre)
        theatre.until(lambda: theatre.relays.newest_s > since_s, READY_S, "joint states")
        theatre.wait(1.0)
        slid = stood_still(theatre.witness_since(since_s))
        theatre.until(lambda: theatre.mode, RESUME_S, "the executor")
        theatre.arm()
    else:
        scenario.clear(theatre)
        if theatre.mode not in ("RUN", "SLOW"):
            theatre.arm()
    if scenario.outcome != GOES_ON:
        theatre.plan_again()
    return {"resumed_s": time.monotonic() - begin_s, "pressed_before_arm": " ".join(slid)}


def chaos_command(args: argparse.Namespace) -> int:
    """Play the scenarios; 0 when all passed, 1 when one failed, 130 after Ctrl-C."""
    names = list(SCENARIOS) if args.scenario == "all" else [args.scenario]
    spec = load_robot_spec(robot_file("bimanual_sim"))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    rows: list[Record] = []
    with tempfile.TemporaryDirectory(prefix="starry_chaos_") as scratch:
        graph = _graph(args, spec, Path(scratch), record=bool(set(names) & set(RECORDED)))
        for key, value in graph.env.items():
            os.environ.setdefault(key, value)
        logs = args.logs or Path(scratch) / "logs"
        nodes = [node.name for node in graph.nodes]
        with (
            stop_signals() as stopped, open_log(logs, nodes) as log, PictureRelay(spec) as pictures,
            Supervisor(graph, log) as supervisor,
        ):
            share_no_memory()  # from here on: what was started before does
            with ros_session(signals=False):
                try:
                    _play_all(Theatre(spec, supervisor, stopped, pictures), names, args.times, rows, args.logs)
                except (Failed, RigError) as problem:
                    raise StarryError("starry chaos", str(problem), fix="try --logs DIR and see there") from problem
                finally:
                    passed = len(rows) == len(names) * args.times and all(row["passed"] for row in rows)
                    _report(rows, args, passed)
    return 0 if passed else 1


def _report(rows: list[Record], args: argparse.Namespace, passed: bool) -> None:
    """What was played so far, also where the rest cannot be."""
    print_table(rows, COLUMNS)
    if args.json is not None:
        write_report(args.json, rows, passed=passed, model=args.model)


def _play_all(theatre: Theatre, names: list[str], times: int, rows: list[Record], logs: Path | None) -> None:
    theatre.until_ready(READY_S)
    for run in range(times):
        for name in names:
            rows.append(play(theatre, name, run))
            print(f"{name}: {rows[-1]['problem'] or 'passed'}", file=sys.stderr, flush=True)
            if logs is not None and not rows[-1]["passed"]:
                with contextlib.suppress(OSError):  # a full disk ends no run
                    keep(theatre.witness(), logs / f"failed_{name}_{run}.npz")


def keep(witness: Witness, file: Path) -> None:
    """Write what was heard since the fault, or since the play began where it failed before that, to look into: times in
    s [N], positions and velocities [N, J].
    """
    heard = {"seen": witness.seen, "asked": witness.asked, "pushed": witness.pushed}
    parts: dict[str, Any] = {f"{what}_{part}": values for what, motions in heard.items()
                             for part, values in zip(("s", "position", "velocity"), motions, strict=True)}
    np.savez_compressed(file, since_s=witness.since_s, joint_names=witness.spec.joint_names, **parts)


def _graph(args: argparse.Namespace, spec: RobotSpec, folder: Path, *, record: bool) -> Graph:
    """The graph with relays between the simulated robot and the rest. Nothing but scenarios restarts a node."""
    graph = build_graph({"model": args.model, "runtime": args.runtime, "log_level": "warn",
                         "record": "true" if record else "false"})
    graph = graph.changed({
        "recorder": {"output": str(folder)}, "action_executor": {"state_timeout_s": RELAYED_STATE_TIMEOUT_S},
    })
    return replace(graph, nodes=tuple(
        replace(node, remappings=(*node.remappings, *remappings(spec, node.name)), respawn_s=None)
        for node in graph.nodes
    ))
