"""`starry replay`: makes a recording's plans again and compares them, or feeds its sensors to the graph that runs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starry_ros.errors import ConfigError
from starry_ros.paths import model_dir, robot_file
from starry_ros.ranges import NOT_NEGATIVE, POSITIVE
from starry_ros.recording.reader import Recording
from starry_ros.recording.replay import (
    PARITY_RAD,
    Outcome,
    Session,
    changed_files,
    model_and_runtime,
    replay,
    summary_rows,
)
from starry_ros.report import add_json_argument, print_table, write_report
from starry_ros.robot_spec import RobotSpec, load_robot_spec
from starry_ros.types import Record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `starry replay`."""
    parser.add_argument("file", type=Path, metavar="FILE", help="recording of a session")
    parser.add_argument("--model", help="name in models/ or path of a folder (default: the one recorded)")
    parser.add_argument("--runtime", default="auto", help="torch, onnxruntime, openvino (default: the one recorded)")
    parser.add_argument("--robot", help="robot contract (default: the one in the recording)")
    parser.add_argument("--bound", type=NOT_NEGATIVE, metavar="RAD",
                        help="largest difference allowed, 0 for the same bits "
                        f"(default: 0 on the recorded runtime, else {PARITY_RAD:g})")
    parser.add_argument("--to-ros", action="store_true",
                        help="instead, publish the recorded cameras and joint states to the graph that is running")
    parser.add_argument("--rate", type=POSITIVE, default=1.0, metavar="X", help="speed with --to-ros (default: 1)")
    add_json_argument(parser)


def replay_command(args: argparse.Namespace) -> int:
    """Replay; exit code 1 when a plan differs by more than the bound, or none could be made again."""
    recording = Recording(args.file)
    spec = load_robot_spec(robot_file(args.robot)) if args.robot else recording.spec()
    if args.to_ros:
        if not args.rate > 0:
            raise ConfigError("--rate", "is not positive", got=args.rate, expected="> 0")
        from starry_ros.ros.replay_sensors import replay_sensors

        return replay_sensors(recording, spec, args.rate)
    session = Session.read(recording, spec)
    for topic, count in session.unusable.items():
        print(f"{count} messages of {topic} left out: the nodes could not use them either")
    model, made_with = model_and_runtime(recording, args.model)
    runtime = made_with if args.runtime == "auto" else args.runtime
    bound = args.bound if args.bound is not None else (0.0 if runtime == made_with else PARITY_RAD)
    for line in changed_files(recording, model_dir(model)):
        print(line)
    outcome = _run(recording, session, spec, model_dir(model), runtime)
    return _report(args, outcome, {"model": model, "runtime": runtime, "made_with": made_with, "bound": bound})


def _run(recording: Recording, session: Session, spec: RobotSpec, folder: Path, runtime: str) -> Outcome:
    from starry_ros.wam.load import load_session
    from starry_ros.wam.trace import RetracingPlanner

    def open_planner(opened: Mapping[str, Any]) -> RetracingPlanner:
        loaded = load_session(folder, spec, runtime)
        return RetracingPlanner(loaded, opened["mode"], opened["splice"], opened["execute_s"])

    outcome, total = Outcome(), session.plans
    for outcome in replay(recording, session, open_planner):
        done = len(outcome.compared)
        if done % 20 == 0:
            print(f"\r{done} of {total} plans", end="", flush=True)
    print(f"\r{len(outcome.compared)} of {total} plans made again on {runtime}")
    return outcome


def _report(args: argparse.Namespace, outcome: Outcome, facts: Record) -> int:
    rows = summary_rows(outcome, facts["bound"])
    for reason, count in outcome.skipped.items():
        print(f"{count} not made again: {reason}")
    print_table(rows)
    first = outcome.first_beyond(facts["bound"])
    if first is not None:
        print(f"first difference: chunk {first.chunk_id} of epoch {first.epoch}, step {first.step}, {first.joint}: "
              f"{first.difference:.3g}")
    if args.json is not None:
        write_report(args.json, rows, **facts, chunks=[vars(c) for c in outcome.compared], skipped=outcome.skipped)
    return 0 if first is None and outcome.compared else 1
