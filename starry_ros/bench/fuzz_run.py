"""`starry fuzz executor`: many seeds of the fuzzer, and what they showed together."""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace

from starry_ros.bench.fuzz import ExecutorFuzzer
from starry_ros.control.schedule import Refusal
from starry_ros.paths import robot_file
from starry_ros.ranges import COUNT, WHOLE
from starry_ros.report import BENCH_COLUMNS, add_json_argument, bench_row, print_table, write_report
from starry_ros.robot_spec import COMMAND_INTERFACES, NO_KINEMATICS, KinematicsSpec, load_robot_spec

CHUNKS_A_SEED = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `starry fuzz executor`."""
    parser.add_argument("--robot", default="bimanual_sim", help="contract: a name or a file (default: %(default)s)")
    parser.add_argument("--chunks", type=COUNT, default=20_000, help="chunks to offer in all (default: %(default)s)")
    parser.add_argument("--seed", type=WHOLE, default=0, help="first seed; every 1000 chunks take another (default: 0)")
    add_json_argument(parser)


def fuzz_command(args: argparse.Namespace) -> int:
    """`starry fuzz executor`: random plans and events; 1 when anything was not in order.

    Events are chunks, control ticks at odd times or without a usable state, and others, each counted by itself as well.
    Seeds take turns: both command interfaces, in the contract's space and free of it (which tries more of the limits).
    """
    robot = load_robot_spec(robot_file(args.robot))
    free = replace(robot, kinematics=KinematicsSpec(NO_KINEMATICS, ""))
    specs = [replace(spec, command_interface=way) for spec in (robot, free) for way in COMMAND_INTERFACES]
    total, worst, problems = Counter[str](), 0.0, 0
    for i, seed in enumerate(range(args.seed, args.seed - (-args.chunks // CHUNKS_A_SEED))):
        report = ExecutorFuzzer(specs[seed % len(specs)], seed).run(min(CHUNKS_A_SEED, args.chunks - i * CHUNKS_A_SEED))
        parts = {"chunks": report.chunks, "other": report.other_events, "odd_ticks": report.odd_ticks}
        total.update(parts, events=report.events, commands=report.commands, accepted=report.accepted, **report.refused)
        worst, problems = max(worst, *report.worst_use.values()), problems + len(report.problems)
        print(f"seed {seed}: {report.events} events ({report.chunks} chunks, {report.other_events} others, "
              f"{report.odd_ticks} odd ticks), {report.commands} commands, {len(report.problems)} problems", flush=True)
        for problem in report.problems[:5]:
            print(f"  {problem}; replay: starry fuzz executor --seed {seed} --chunks {report.chunks}")
    refused = {name: count for name, count in sorted(total.items()) if name in set(Refusal)}
    rows = [
        bench_row("fuzz/problems", problems, "", refused=refused),
        bench_row("fuzz/events", total["events"], "", commands=total["commands"]),
        bench_row("fuzz/chunks", total["chunks"], "", accepted=total["accepted"]),
        bench_row("fuzz/other_events", total["other"], ""),
        bench_row("fuzz/odd_ticks", total["odd_ticks"], ""),
        bench_row("fuzz/worst_limit_use", worst, "of the limit"),
    ]
    print_table(rows, BENCH_COLUMNS)
    if args.json is not None:
        write_report(args.json, rows, seed=args.seed, robot=robot.name, passed=not problems)
    return int(problems > 0)
