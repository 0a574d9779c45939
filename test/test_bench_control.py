"""`starry bench control`: the rows it has, and that what is broken misses its bar. Nothing here is timed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from control_kit import FULL_SPEC, SPEC

from starry_ros.bench import control, jitter
from starry_ros.bench.planning import METHODS, Played, Way, ways
from starry_ros.bench.rehearsal import BEGIN_NS, Rehearsal, Swing, Tape
from starry_ros.bench.splices import Splices, rows
from starry_ros.checks import judged
from starry_ros.control.executor import Executor
from starry_ros.control.intake import Here, Intake, Joining
from starry_ros.report import bench_row
from starry_ros.timing import NS_PER_S, nanoseconds
from starry_ros.types import ActionChunk
from starry_ros.wam.choices import PlanMode, SpliceMethod

FAST = replace(SPEC, rates=replace(SPEC.rates, control_hz=200.0))
PERIOD_NS = 5_000_000


@contextlib.contextmanager
def no_load(*_: object) -> Iterator[dict[str, object]]:
    yield {"frames": SimpleNamespace(value=1), "plans": SimpleNamespace(value=1)}


def played(*_: object) -> list[Played]:
    """Two ways, each with the plans of a swing about home."""
    swing, arrivals = Swing(SPEC), []
    for now_ns in range(BEGIN_NS, BEGIN_NS + 2 * NS_PER_S, PERIOD_NS):
        home = SPEC.limit("home")
        arrivals += [(now_ns, replace(chunk, positions_KJ=home + 0.1 * (chunk.positions_KJ - swing.start_J)))
                     for chunk in swing.due(now_ns)]
    found = [Way(PlanMode.SYNC, SpliceMethod.AUTO, 0.8), Way(PlanMode.ASYNC_GROUNDED, SpliceMethod.GUIDED, 0.8)]
    return [Played(way, bench_row(f"control/stall_{way.name}", 0.0, "share"), tuple(arrivals)) for way in found]


def test_the_table_has_a_row_for_every_mode_method_and_latency() -> None:
    session = SimpleNamespace(runtime=SimpleNamespace(config=SimpleNamespace(prefix_steps=8)))
    found = list(ways(session, (0.25, 0.8)))  # type: ignore[arg-type]
    assert len(found) == len({way.name for way in found}) == 2 * (2 + len(METHODS))
    assert {way.splice for way in found if way.mode is PlanMode.ASYNC_GROUNDED} >= {
        SpliceMethod.TRAINED_PREFIX, SpliceMethod.GUIDED, SpliceMethod.LINEAR_BLEND, SpliceMethod.HARD_SWITCH}
    assert {way.mode for way in found} == set(PlanMode)


def test_one_run_gives_every_row_under_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "play", played)
    monkeypatch.setattr(control, "beside", no_load)
    monkeypatch.setattr(control, "FUZZ_CHUNKS", 4)
    monkeypatch.setattr(control, "COST_S", 4.0)
    monkeypatch.setattr(control, "S_PER_MINUTE", 1)
    rows = {row["name"]: row for row in control.run(SPEC, limit_s=0.5, splices_wanted=3, minutes=2)}
    granted = rows["control/tick_jitter"]["turns"] == "real time"
    assert [name for name in rows if name != "control/tick_jitter_short_turns"] == [
        "control/stall_sync_80", "control/stall_async_grounded_guided_80", "control/tick_jitter", "control/step",
        "control/look_ahead", "control/submit", "control/lag", "control/growth", "control/splice_position",
        "control/splice_velocity", "control/violations", "control/worst_limit_use",
    ]
    assert ("control/tick_jitter_short_turns" in rows) == granted
    assert os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_OTHER, "what follows would starve others"
    assert rows["control/stall_sync_80"]["jitter_ms"] > 0
    assert rows["control/stall_sync_80"]["step_ms"] > 0
    barred = {name for name, row in rows.items() if judged(row)["bar"] is not None}
    assert barred >= {"control/stall_async_grounded_guided_80", "control/tick_jitter", "control/step", "control/growth",
                      "control/splice_position", "control/splice_velocity", "control/violations"}


def test_an_executor_that_remembers_every_tick_misses_the_bar_of_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays count as well, which no collector of garbage sees."""
    monkeypatch.setattr(control, "S_PER_MINUTE", 4)
    step, kept = Executor.step, []

    def leaking(executor: Executor, *rest: object) -> object:
        kept.append(np.zeros(20))
        return step(executor, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Executor, "step", leaking)
    row = judged(control.growth(FAST, 3))
    assert row["value"] > 4 * 200 * 160
    assert row["passed"] is False


class FakeTime:
    """Sleeping and working take the time that they are said to take."""

    def __init__(self) -> None:
        self.now_ns = 0

    def monotonic_ns(self) -> int:
        return self.now_ns

    def sleep(self, duration_s: float) -> None:
        self.now_ns += nanoseconds(duration_s)


def test_every_period_that_a_slow_tick_takes_counts_as_late(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, called = FakeTime(), []
    monkeypatch.setattr(jitter, "time", clock)

    def work(now_ns: int) -> None:
        called.append(now_ns)
        clock.now_ns += round(3.5 * PERIOD_NS) if len(called) == 2 else 0

    late_s = jitter.window(PERIOD_NS, 8, work)
    periods = [0, 0, 2.5, 1.5, 0.5, 0, 0, 0]
    assert late_s == pytest.approx([0.005 * late for late in periods], abs=1e-9)
    assert len(called) == 6, "one call for all that are late"


def test_a_tape_plays_the_plans_of_an_episode_again() -> None:
    spec = replace(FULL_SPEC, rates=replace(FULL_SPEC.rates, control_hz=200.0))
    rehearsal = Rehearsal(spec, Tape(spec, played()[0].arrivals))
    for _ in range(200):
        rehearsal.tick()
    status = rehearsal.executor.status(rehearsal.now_ns)
    assert sum(status.splices.values()) == len(rehearsal.submit_s) == 2
    assert len(rehearsal.look_ahead_s) == 50


def test_splices_joined_by_slices_take_more_than_one_tick_and_the_others_none() -> None:
    at_once, by_slices = (Splices(SPEC, 0, by_slices=way) for way in (False, True))
    at_once.play(10)
    by_slices.play(10)
    assert at_once.over_ticks == 0
    assert by_slices.over_ticks >= 8
    assert by_slices.watch.curves >= 10, "looked at every one"
    assert judged(bench_row("control/splice_position", by_slices.watch.jump, "rad"))["passed"]
    assert judged(bench_row("control/splice_velocity", by_slices.watch.velocity_step, "ticks"))["passed"]


@pytest.mark.parametrize(("by_slices", "jump_rad", "step_ticks"), [(False, 0.5, 2.0), (True, 0.7, 3.0)])
def test_both_halves_of_the_splices_are_counted_and_the_worse_one_is_reported(
    monkeypatch: pytest.MonkeyPatch, by_slices: bool, jump_rad: float, step_ticks: float
) -> None:
    play = Splices.play

    def broken(half: Splices, splices: int) -> None:
        play(half, splices)
        if half._by_slices == by_slices:
            half.watch.jump, half.watch.velocity_step = jump_rad, step_ticks

    monkeypatch.setattr(Splices, "play", broken)
    position, velocity = rows(SPEC, 7)
    assert (position["value"], velocity["value"]) == (jump_rad, step_ticks)
    assert (position["splices"], position["by_slices"]) == (7, 3)
    assert position["curves"] == position["answers"]["accepted"] == 7


def test_a_plan_joined_by_slices_to_another_motion_than_the_arms_will_have_misses_the_bar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin = Intake._begin

    def elsewhere(intake: Intake, chunk: ActionChunk, here: Here, periods: int) -> Joining:
        joining = begin(intake, chunk, here, periods)
        if periods:
            there_3J = joining.motion_3J + np.array([[1e-6], [0], [0]])
            joining.work = intake._joiner.work(there_3J, joining.knots, joining.at_ns, joining.slower)
        return joining

    monkeypatch.setattr(Intake, "_begin", elsewhere)
    for by_slices in (False, True):
        half = Splices(SPEC, 0, by_slices=by_slices)
        half.play(3)
        assert judged(bench_row("control/splice_position", half.watch.jump, "rad"))["passed"] == (not by_slices)


@pytest.mark.parametrize("timed", [False, True])
def test_an_untimed_rehearsal_joins_its_plans_over_several_ticks_as_the_node_does(timed: bool) -> None:
    rehearsal, joining = Rehearsal(FAST, Swing(FAST), timed=timed), 0
    for _ in range(400):
        rehearsal.tick()
        joining += rehearsal.executor.joining is not None
    assert sum(rehearsal.executor.status(rehearsal.now_ns).splices.values()) == 4
    assert (joining >= 2 * 4) == (not timed)
    assert len(rehearsal.submit_s) == 4 * timed
