"""The ladder of degraded planning on a fake clock: every rung is reached and left for the reason the table names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planner_kit import SlowPlanner

from starry_ros.timing import NS_PER_S, nanoseconds
from starry_ros.wam.ladder import Ladder, LadderConfig, Rung

CONFIG = LadderConfig(budget_s=0.5, warm_up=2, probe_s=2.0, window_s=10.0, stop_after_s=5.0)
FAST = {"video": 0.04, "value": 0.01, "action": 0.05}


class Planning:
    """A planner every 0.4 s on a machine whose stages take what is set."""

    def __init__(self, video_steps: int = 1, config: LadderConfig = CONFIG) -> None:
        self.ladder, self.now_ns, self.stages_s, self.rest_s = Ladder(config, video_steps), NS_PER_S, dict(FAST), 0.02
        self.video_steps = video_steps

    def plan(self, times: int = 1) -> list[Rung]:
        seen = []
        for _ in range(times):
            rung = self.ladder.choose(self.now_ns)
            seen.append(rung)
            if rung not in (Rung.HOLD, Rung.STOP):
                effort = self.ladder.effort(rung)
                stages = dict(self.stages_s)
                if effort.video_steps is not None:
                    stages["video"] *= effort.video_steps / self.video_steps
                stages["video"] *= effort.video
                stages["value"] *= effort.value
                total_s = sum(stages.values()) + self.rest_s
                self.ladder.add(rung, stages, total_s, self.now_ns + nanoseconds(total_s))
            self.now_ns += nanoseconds(0.4)
        return seen


def settled(planning: Planning, times: int = 40) -> set[Rung]:
    """Rungs of the last plans, probes of higher ones left out."""
    seen = planning.plan(times)[times // 2 :]
    return {rung for rung in seen if seen.count(rung) > len(seen) // 4}


def test_a_fast_machine_plans_fully() -> None:
    assert set(Planning().plan(30)) == {Rung.FULL}


@pytest.mark.parametrize(("stages_s", "rung"), [
    ({"video": 0.6, "value": 0.05, "action": 0.05}, Rung.FEWER_VIDEO_STEPS),
    ({"video": 1.0, "value": 0.05, "action": 0.05}, Rung.REUSE_LATENTS),
    ({"video": 1.0, "value": 0.5, "action": 0.05}, Rung.ACTION_ONLY),
    ({"video": 1.0, "value": 0.5, "action": 0.6}, Rung.HOLD),
])
def test_each_rung_is_taken_where_it_is_the_highest_that_fits(stages_s: dict[str, float], rung: Rung) -> None:
    planning = Planning(video_steps=4)
    planning.plan(10)
    planning.stages_s = stages_s
    seen = planning.plan(12)
    assert rung in seen
    assert seen.count(rung) == max(seen.count(other) for other in set(seen))
    assert planning.ladder.plans[rung] > 0


def test_a_model_of_one_video_step_has_no_rung_of_fewer() -> None:
    planning = Planning(video_steps=1)
    planning.plan(5)
    planning.stages_s = {"video": 0.9, "value": 0.01, "action": 0.05}
    assert Rung.FEWER_VIDEO_STEPS not in planning.plan(40)


def test_the_warm_up_does_not_count() -> None:
    planning = Planning()
    planning.stages_s = {"video": 3.0, "value": 3.0, "action": 3.0}
    planning.plan(2)
    planning.stages_s = dict(FAST)
    assert set(planning.plan(20)) == {Rung.FULL}


def test_one_slow_plan_among_many_changes_nothing() -> None:
    planning = Planning()
    planning.plan(20)
    planning.stages_s = {"video": 2.0, "value": 0.01, "action": 0.05}
    planning.plan(1)
    planning.stages_s = dict(FAST)
    assert set(planning.plan(20)) == {Rung.FULL}


def test_a_machine_that_recovers_is_planned_on_fully_again() -> None:
    planning = Planning()
    planning.plan(10)
    planning.stages_s = {"video": 1.0, "value": 0.3, "action": 0.3}
    assert Rung.FULL not in settled(planning)
    planning.stages_s = dict(FAST)
    planning.plan(40)
    assert set(planning.plan(10)) == {Rung.FULL}


def test_what_is_reused_is_never_too_old() -> None:
    planning = Planning()
    planning.plan(10)
    planning.stages_s = {"video": 1.0, "value": 0.5, "action": 0.05}
    dreamed_ns = planning.now_ns
    for _ in range(60):
        (rung,) = planning.plan(1)
        if rung is Rung.FULL:
            dreamed_ns = planning.now_ns
        if rung in (Rung.REUSE_LATENTS, Rung.ACTION_ONLY):
            assert planning.now_ns - dreamed_ns < nanoseconds(CONFIG.dream_age_s + 2.0)


def test_hold_becomes_stop_when_nothing_fits_for_too_long_and_ends_when_something_does() -> None:
    planning = Planning()
    planning.plan(10)
    planning.stages_s = {"video": 2.0, "value": 2.0, "action": 2.0}
    assert Rung.STOP in planning.plan(40)
    planning.stages_s = dict(FAST)
    planning.plan(60)
    assert set(planning.plan(5)) == {Rung.FULL}


def test_little_time_left_on_the_known_plan_asks_for_a_quicker_one() -> None:
    planning = Planning()
    planning.plan(10)
    planning.stages_s = {"video": 0.2, "value": 0.02, "action": 0.05}
    planning.plan(20)
    assert planning.ladder.choose(planning.now_ns, known_s=10.0) is Rung.FULL
    assert planning.ladder.choose(planning.now_ns, known_s=0.15) is Rung.REUSE_LATENTS


def test_a_model_that_only_plans_fully_says_so_or_holds() -> None:
    planning = Planning()
    planning.ladder = Ladder(CONFIG, 1, (Rung.FULL,))
    assert set(planning.plan(10)) == {Rung.FULL}
    planning.stages_s = {"video": 1.0, "value": 0.05, "action": 0.05}  # reusing the frame would fit
    seen = planning.plan(40)
    assert set(seen) <= {Rung.FULL, Rung.HOLD, Rung.STOP}
    assert Rung.HOLD in seen
    planning.stages_s = dict(FAST)
    planning.plan(40)
    assert settled(planning) == {Rung.FULL}


def test_a_budget_that_holds_one_whole_plan_is_enough_to_work() -> None:
    """A model that only plans fully, in 0.9 of 1 s, for chunks of 1.6 s: it goes on at once and never gives up."""
    slow = SlowPlanner({"video": 0.3, "value": 0.3, "action": 0.3}, LadderConfig(budget_s=1.0), coupling="joint")
    for _ in range(20):
        slow.plan()
    assert set(slow.rungs) == {Rung.FULL}
    assert np.diff(slow.times_s).max() < 0.95


def test_arms_that_stand_are_planned_for_as_soon_as_a_plan_fits_again() -> None:
    """Nothing remains of the known plan, and the time that fits the budget without any to spare is enough."""
    ladder, now_ns = Ladder(replace(CONFIG, warm_up=0, window_s=0.3), rungs=(Rung.FULL,)), NS_PER_S
    ladder.add(Rung.FULL, {"video": 2.0, "value": 2.0, "action": 2.0}, 6.0, now_ns)
    assert ladder.choose(now_ns) is Rung.HOLD
    now_ns += nanoseconds(0.4)
    ladder.add(Rung.FULL, {"video": 0.3, "value": 0.1, "action": 0.06}, 0.48, now_ns)
    assert ladder.choose(now_ns) is Rung.FULL


def test_where_nothing_comes_in_time_the_quickest_that_the_budget_holds_comes_late() -> None:
    """To wait until the arms stand would make them stand for longer."""
    planning = Planning(video_steps=4)
    planning.plan(2)
    planning.ladder.add(Rung.FULL, {"video": 0.2, "value": 0.1, "action": 0.1}, 0.4, planning.now_ns)
    assert planning.ladder.choose(planning.now_ns, known_s=0.45) is Rung.FULL
    assert planning.ladder.choose(planning.now_ns, known_s=0.02) is Rung.ACTION_ONLY, "0.1 s"
    planning.ladder.add(Rung.FULL, {"video": 0.1, "value": 0.1, "action": 0.25}, 0.45, planning.now_ns)
    assert planning.ladder.choose(planning.now_ns, known_s=0.2) is Rung.ACTION_ONLY, "late by 0.05 s"


def test_a_machine_whose_probes_fit_the_budget_is_not_given_up() -> None:
    """A few slow plans fill the window for 10 s; plans that fit meanwhile say that it works."""
    planning = Planning()
    planning.plan(4)
    planning.stages_s = {"video": 1.0, "value": 1.0, "action": 1.0}
    planning.plan(6)
    assert planning.ladder.rung is Rung.HOLD
    planning.stages_s = dict(FAST)
    seen = planning.plan(40)
    assert Rung.STOP not in seen
    assert seen.count(Rung.HOLD) > 12, "longer than it would take to give up"
    assert set(planning.plan(5)) == {Rung.FULL}


def test_a_machine_that_keeps_up_by_reusing_never_holds_to_wait_for_something_to_reuse() -> None:
    """A dream serves for 1.5 s; then it is renewed, though that is over the budget and no probe is due."""
    planning = Planning(config=replace(CONFIG, probe_s=60.0))
    planning.plan(10)
    planning.stages_s = {"video": 1.0, "value": 0.05, "action": 0.05}
    planning.plan(10)
    seen = planning.plan(40)
    assert set(seen) == {Rung.FULL, Rung.REUSE_LATENTS}
    assert seen.count(Rung.REUSE_LATENTS) > 2 * seen.count(Rung.FULL)


def test_what_would_be_too_old_at_once_is_not_imagined_again_and_again() -> None:
    """Imagining takes longer than what is imagined may be reused: nothing meets the budget, and an operator is told."""
    ladder, now_ns, seen = Ladder(LadderConfig(budget_s=1.0, warm_up=0, dream_age_s=1.5), 1), NS_PER_S, list[Rung]()
    for _ in range(60):
        rung = ladder.choose(now_ns)
        seen.append(rung)
        waited_s = 0.4
        if rung not in (Rung.HOLD, Rung.STOP):
            effort = ladder.effort(rung)
            stages = {"video": 1.8 * effort.video, "value": 0.02 * effort.value, "action": 0.2}
            waited_s = sum(stages.values())
            ladder.add(rung, stages, waited_s, now_ns)
        now_ns += nanoseconds(waited_s)
    assert Rung.STOP in seen
    assert seen.count(Rung.FULL) < len(seen) / 3, "but for probes"
