"""`starry bench control`: what control costs, how late its loop is, and how smooth what it commands is.

One table has a row for every mode of planning, splice and latency; the plans behind the rows of the greatest latency
are carried out again at the robot's own rate, beside rendered cameras and a model at work, in turns with a bare loop.
What a step costs is measured at 200 Hz, and alone.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from starry_ros.bench import splices
from starry_ros.bench.fuzz import ExecutorFuzzer
from starry_ros.bench.jitter import turns
from starry_ros.bench.load import beside
from starry_ros.bench.planning import LIMIT_S, SHARES, Played, play
from starry_ros.bench.rehearsal import LOOK_HZ, REPLAN_S, Rehearsal, Swing, Tape
from starry_ros.report import bench_row, print_table
from starry_ros.robot_spec import RobotSpec
from starry_ros.timing import NS_PER_S
from starry_ros.turns import ask_for_short_turns, real_time
from starry_ros.types import Record

RATE_HZ = 200.0
MS_PER_S, S_PER_MINUTE = 1e3, 60
FUZZ_CHUNKS = 400
SPLICES = 10_000
GROWTH_MINUTES = 10
COST_S = 20.0
COLUMNS = ("mode", "splice", "runtime", "latency_s", "stall_share", "splice_jump", "velocity_jump", "jerk",
           "chunk_age_s", "jitter_ms", "bare_jitter_ms", "step_ms", "success")


def run(
    robot: RobotSpec, model: str = "tiny", shares: Sequence[float] = SHARES, limit_s: float = LIMIT_S,
    splices_wanted: int = SPLICES, minutes: int = GROWTH_MINUTES,
) -> list[Record]:
    """Rows `control/stall_<mode>_<splice>_<percent>` (share), `/tick_jitter` (ms; as the executor runs here, and
    `/tick_jitter_short_turns` where that is by real-time priority), `/step`, `/look_ahead`, `/submit` (ms of CPU time),
    `/lag` (ticks), `/growth` (bytes a simulated minute), `/splice_*`, `/violations`.
    """
    fast = replace(robot, rates=replace(robot.rates, control_hz=RATE_HZ))
    everywhere = replace(fast, workspace_m={axis: (-9.0, 9.0) for axis in robot.workspace_m}, arm_distance_m=-1.0)
    # the swing crosses the table; what it costs to look is measured all the same
    played = play(robot, model, shares, limit_s)
    jitter = _timed(robot, model, [each for each in played if each.way.share == max(shares)], limit_s)
    table = [each.row for each in played]
    print_table(table, COLUMNS)
    print()
    return [*table, *jitter, *_costs(everywhere), growth(everywhere, minutes), *splices.rows(robot, splices_wanted),
            *_fuzz(robot)]


def _timed(spec: RobotSpec, model: str, played: list[Played], duration_s: float) -> list[Record]:
    """p99 lateness of the loop with the executor, all plans together; each row gets its own and its cost of a step."""
    with beside(spec, model) as counts:
        ask_for_short_turns()
        with real_time() as granted:  # as `action_executor` does
            row = _jitter("control/tick_jitter", spec, played, duration_s, counts)
        row["turns"] = "real time" if granted else "short"
        if not granted:
            return [row]
        ask_for_short_turns()
        return [row, _jitter("control/tick_jitter_short_turns", spec, [replace(each, row={}) for each in played],
                             duration_s, counts) | {"turns": "short"}]


def _jitter(name: str, spec: RobotSpec, played: list[Played], duration_s: float, counts: dict[str, Any]) -> Record:
    ours_s, bare_s = list[float](), list[float]()
    before = {kind: count.value for kind, count in counts.items()}
    for each in played:
        rehearsal = Rehearsal(spec, Tape(spec, each.arrivals))
        ours, bare = turns(rehearsal, round(NS_PER_S / spec.rates.control_hz), duration_s)
        each.row.update(jitter_ms=_p99_ms(ours), bare_jitter_ms=_p99_ms(bare),
                        step_ms=float(np.median(rehearsal.step_s)) * MS_PER_S)
        ours_s, bare_s = ours_s + ours, bare_s + bare
    made = {kind: count.value - before[kind] for kind, count in counts.items()}
    return bench_row(name, _p99_ms(ours_s), "ms", _p99_ms(bare_s), **made, seconds=2 * duration_s * len(played))


def _p99_ms(samples_s: list[float]) -> float:
    return float(np.percentile(samples_s, 99)) * MS_PER_S


def _costs(spec: RobotSpec, duration_s: float = COST_S) -> list[Record]:
    rehearsal = Rehearsal(spec, Swing(spec))
    for _ in range(round(duration_s * spec.rates.control_hz)):
        rehearsal.tick()
    status = rehearsal.executor.status(rehearsal.now_ns)
    bare_ms = float(np.median(rehearsal.bare_s)) * MS_PER_S
    return [
        _cost("control/step", rehearsal.step_s, 1 / spec.rates.control_hz, bare_ms),
        _cost("control/look_ahead", rehearsal.look_ahead_s, 1 / LOOK_HZ),
        _cost("control/submit", rehearsal.submit_s, REPLAN_S),
        bench_row("control/lag", max(rehearsal.lag), "ticks", stall_share=status.stall_share),
    ]


def _cost(name: str, samples_s: list[float], period_s: float, baseline: float | None = None) -> Record:
    """Median and 99th percentile, and the median's share of the time there is."""
    median_s, p99_s = np.percentile(samples_s, [50, 99]).tolist()
    return bench_row(
        name, median_s * MS_PER_S, "ms", baseline, p99=p99_s * MS_PER_S, share_of_period=median_s / period_s
    )


def growth(spec: RobotSpec, minutes: int) -> Record:
    """By how many bytes a simulated minute the memory that Python and numpy hold grows, after the first minute.

    The slope of a straight line through what is held at the end of every minute.
    """
    rehearsal, held = Rehearsal(spec, Swing(spec), timed=False), list[int]()
    tracemalloc.start()
    try:
        for _ in range(minutes):
            for _ in range(round(S_PER_MINUTE * spec.rates.control_hz)):
                rehearsal.tick()
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    slope = float(np.polyfit(np.arange(minutes), held, 1)[0])
    return bench_row("control/growth", slope, "bytes a minute", minutes=minutes, held_bytes=held)


def _fuzz(robot: RobotSpec) -> list[Record]:
    reports = [ExecutorFuzzer(robot, seed).run(FUZZ_CHUNKS // 2) for seed in range(2)]
    worst = max((share for report in reports for share in report.worst_use.values()), default=0.0)
    return [
        bench_row("control/violations", sum(len(report.problems) for report in reports), "", chunks=FUZZ_CHUNKS),
        bench_row("control/worst_limit_use", worst, "of the limit", chunks=FUZZ_CHUNKS),
    ]
