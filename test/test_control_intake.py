"""Plans that are joined a slice at a time, by the clock of a computer that is slow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from control_kit import FORWARD_SPEC, FULL_SPEC, PERIOD_NS, SPEC, Follower, make_chunk, smooth_plan

from starry_ros.bench.streams import worst_use
from starry_ros.control.executor import Executor
from starry_ros.control.intake import LEAST_AHEAD, TRIES
from starry_ros.control.safety import Event, Mode
from starry_ros.control.schedule import Merge, Refusal
from starry_ros.control.slices import Slices, at_once
from starry_ros.control.status import ExecutorConfig
from starry_ros.control.waiting import PILE, RESERVED_SHARE, WaitingPlans
from starry_ros.robot_spec import RobotSpec
from starry_ros.types import ActionChunk

SLICE_NS = 1_000_000


class Slow(Follower):
    """A follower whose plans are joined after each tick, by a clock on which every look takes so long."""

    def __init__(self, executor: Executor | None = None, look_ns: int = SLICE_NS) -> None:
        super().__init__(executor)
        self.waiting, self.look_ns = WaitingPlans(self.executor, PERIOD_NS), look_ns
        self.answers: list[tuple[int, ActionChunk, Merge]] = []
        self.arm()
        self.tick()
        self.begin_ns = self.now_ns

    def clock(self) -> Callable[[], int]:
        time_ns = self.now_ns

        def look() -> int:
            nonlocal time_ns
            time_ns += self.look_ns
            return time_ns

        return look

    def join(self) -> list[tuple[int, ActionChunk, Merge]]:
        """What a tick's rest brought, with its time."""
        found = [(self.now_ns, *answer) for answer in self.waiting.join(self.now_ns + PERIOD_NS, self.clock())]
        self.answers += found
        return found

    def until_answered(self, most: int = 200) -> tuple[int, Merge]:
        """After how many ticks an answer came, and which."""
        for ticks in range(most):
            if found := self.join():
                return ticks, found[0][2]
            self.tick()
        raise AssertionError(f"no answer within {most} ticks")

    def plan(self, chunk_id: int = 1, amplitude: float = 0.4) -> ActionChunk:
        """A plan along `smooth_plan` that was just observed."""
        since_s = (self.now_ns - self.begin_ns) / 1e9
        steps = smooth_plan(since_s + 0.1 * np.arange(1, 17), amplitude)
        return make_chunk(steps, self.now_ns, chunk_id, contract_hash=self.executor._spec.content_hash)

    def moving(self) -> None:
        """Under way along a plan."""
        assert self.executor.submit(self.plan(), self.now_ns).accepted
        for _ in range(60):
            self.tick()


@pytest.mark.parametrize("spec", [SPEC, FORWARD_SPEC, FULL_SPEC], ids=["trajectories", "set points", "in space"])
def test_a_plan_joined_by_slices_is_followed_as_one_joined_at_once_at_that_command(spec: RobotSpec) -> None:
    slow, quick = (Slow(Executor(spec)) for _ in range(2))
    for each in (slow, quick):
        each.moving()
    plan = slow.plan(2, amplitude=0.2)
    slow.waiting.add(plan)
    ticks, merge = slow.until_answered()
    assert merge.accepted
    assert ticks >= 2, "there was work for more than one tick"
    for _ in range(ticks):
        quick.tick()
    assert quick.executor.submit(plan, quick.now_ns) == merge
    for each in (slow, quick):
        each.run(1.0)
    assert np.array_equal(slow.positions, quick.positions)


def test_nothing_changes_before_the_plan_is_joined() -> None:
    slow, other = Slow(), Slow()
    for each in (slow, other):
        each.moving()
    slow.waiting.add(slow.plan(2, amplitude=0.1))
    ticks, _ = slow.until_answered()
    other.run(ticks / SPEC.rates.control_hz)
    assert np.array_equal(slow.positions, other.positions)


def test_a_computer_with_time_joins_a_plan_two_commands_on() -> None:
    quick = Slow(look_ns=1)
    quick.moving()
    quick.waiting.add(quick.plan(2))
    assert quick.until_answered() == (2, Merge(True))


def test_a_slow_computer_looks_further_ahead_the_next_time_and_less_far_once_it_is_quick() -> None:
    slow = Slow(Executor(FULL_SPEC))
    slow.moving()
    needed = []
    for number, look_ns in enumerate((SLICE_NS, SLICE_NS, *[1] * 20)):
        slow.look_ns = look_ns
        slow.waiting.add(slow.plan(2 + number, amplitude=0.3))
        needed.append(slow.until_answered()[0])
    assert needed[0] > needed[1] > needed[-1] == LEAST_AHEAD, needed
    assert needed[1] <= 6


def test_a_plan_that_never_gets_the_time_is_joined_at_once_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(look_ns=PERIOD_NS)  # one slice a tick
    slow.moving()
    endless, real, begun = 3, slow.executor._joiner.work, []

    def long(*args: object) -> Slices[object]:
        begun.append(args)
        for _ in range(1000 if len(begun) <= endless else 0):
            yield
        return (yield from real(*args))  # type: ignore[arg-type]

    monkeypatch.setattr(slow.executor._joiner, "work", long)
    slow.waiting.add(slow.plan(2))
    _, merge = slow.until_answered()
    assert merge.accepted
    assert len(begun) == TRIES + 1


def test_a_stop_while_a_plan_is_being_joined_refuses_it() -> None:
    slow = Slow()
    slow.moving()
    slow.waiting.add(slow.plan(2))
    assert slow.join() == []
    slow.executor.stop(slow.now_ns)
    slow.tick()
    ((_, _, merge),) = slow.join()
    assert merge == Merge(False, Refusal.NOT_RUNNING)
    assert slow.executor.status(slow.now_ns).refused[Refusal.NOT_RUNNING] == 1
    slow.run(1.0)
    assert slow.executor.status(slow.now_ns).mode is Mode.STOP
    assert np.array_equal(slow.sent[-1], slow.sent[-2])


def test_a_stop_and_arm_while_a_plan_is_being_joined_refuse_it() -> None:
    slow = Slow()
    slow.waiting.add(slow.plan(2))
    assert slow.join() == []
    assert slow.executor.stop(slow.now_ns).ok
    slow.tick()
    assert slow.executor.arm(slow.now_ns).ok
    slow.tick()
    assert slow.until_answered()[1] == Merge(False, Refusal.BEFORE_ARM)


def test_a_new_session_while_a_plan_is_being_joined_refuses_it_at_once() -> None:
    slow = Slow()
    slow.moving()
    slow.waiting.add(slow.plan(2))
    slow.join()
    slow.executor.set_epoch(5)
    assert slow.until_answered() == (0, Merge(False, Refusal.STALE_EPOCH))


def test_what_a_new_session_made_the_arms_forget_stays_forgotten() -> None:
    slow, quick = Slow(), Slow()
    for each in (slow, quick):
        each.moving()
    plan = replace(slow.plan(2, amplitude=0.2), epoch=5)
    slow.waiting.add(plan)
    assert slow.join() == []
    slow.tick()
    quick.tick()
    for each in (slow, quick):
        each.executor.set_epoch(5)
    ticks, merge = slow.until_answered()
    quick.run(ticks / SPEC.rates.control_hz)
    assert merge == quick.executor.submit(plan, quick.now_ns)
    assert slow.executor._schedule.knots.time_ns == quick.executor._schedule.knots.time_ns


def test_a_plan_of_a_mode_that_slowed_down_meanwhile_is_joined_slowly() -> None:
    slow, quick = Slow(), Slow()
    for each in (slow, quick):
        each.moving()
    plan = slow.plan(2)
    slow.waiting.add(plan)
    assert slow.join() == []
    slow.executor.set_condition(Event.PLANNER_DEGRADED, True, slow.now_ns)
    assert slow.until_answered()[1].accepted
    assert quick.executor.submit(plan, quick.now_ns).accepted
    left_s = [each.executor._track.ahead().duration_s for each in (slow, quick)]
    assert left_s[0] > 1.5 * left_s[1]


def test_arms_that_stand_while_the_mode_slows_down_are_joined_slowly() -> None:
    slow, right = Slow(look_ns=1), Slow()
    plan = slow.plan(2)
    slow.waiting.add(plan)
    assert slow.join() == []
    for each in (slow, right):
        each.tick()
        each.executor.set_condition(Event.PLANNER_DEGRADED, True, each.now_ns)
    ticks, merge = slow.until_answered()
    right.run(ticks / SPEC.rates.control_hz)
    assert merge == right.executor.submit(plan, right.now_ns)
    left_s = [each.executor._track.ahead().duration_s for each in (slow, right)]
    assert left_s[0] == pytest.approx(left_s[1])


def test_arms_that_went_another_way_meanwhile_are_joined_from_there() -> None:
    slow = Slow()
    slow.moving()
    slow.waiting.add(slow.plan(3, amplitude=0.2))
    assert slow.join() == []
    assert slow.executor.submit(slow.plan(2, amplitude=0.3), slow.now_ns).accepted
    assert slow.until_answered()[1].accepted
    slow.run(1.0)
    assert max(worst_use(slow.positions, SPEC, SPEC.rates.control_hz).values()) <= 1 + 1e-6
    assert slow.executor.status(slow.now_ns).gate_interventions == 0


@pytest.mark.parametrize("spec", [SPEC, FORWARD_SPEC], ids=["trajectories", "set points"])
def test_a_missed_tick_while_a_plan_is_being_joined_delays_it_by_what_was_done(spec: RobotSpec) -> None:
    slow = Slow(Executor(spec))
    slow.moving()
    slow.executor._intake._took.append(10)
    slow.waiting.add(slow.plan(2, amplitude=0.2))
    assert slow.join() == []
    slow.now_ns += 2 * PERIOD_NS
    slow.tick()
    ticks, merge = slow.until_answered()
    assert merge.accepted
    assert ticks <= 11
    slow.run(1.0)
    if spec is FORWARD_SPEC:  # no command was left out
        assert max(worst_use(slow.positions, SPEC, SPEC.rates.control_hz).values()) <= 1 + 1e-6
    assert slow.executor.status(slow.now_ns).gate_interventions == 0


def test_a_plan_that_came_in_time_keeps_arms_from_losing_patience_while_it_is_joined() -> None:
    slow = Slow(look_ns=PERIOD_NS)
    slow.moving()
    while not slow.executor._run.waiting:
        slow.tick()
    patience_ticks = round(ExecutorConfig.patience_s * SPEC.rates.control_hz)
    for _ in range(patience_ticks - 2):
        slow.tick()
    slow.waiting.add(slow.plan(2, amplitude=0.1))
    ticks, merge = slow.until_answered()
    assert ticks > 2, "it took longer than the patience that was left"
    assert merge.accepted
    assert slow.executor.status(slow.now_ns).mode is Mode.RUN


def test_a_plan_that_would_be_over_by_then_is_joined_at_once() -> None:
    slow = Slow()
    slow.moving()
    slow.executor._intake._took.append(30)
    plan = slow.plan(2)
    short = replace(plan, positions_KJ=plan.positions_KJ[:2])
    slow.waiting.add(short)
    assert slow.until_answered() == (0, slow.answers[-1][2])
    assert slow.answers[-1][2].accepted


def test_one_plan_is_joined_at_a_time() -> None:
    slow = Slow()
    slow.moving()
    first = slow.plan(2)
    assert slow.executor.offer(first, slow.now_ns) is None
    with pytest.raises(RuntimeError, match="one plan"):
        slow.executor.offer(slow.plan(3), slow.now_ns)
    assert slow.executor.joining is first


def test_work_that_fails_is_not_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    slow.moving()

    def failing(*_: object) -> Slices[object]:
        yield
        raise ZeroDivisionError

    monkeypatch.setattr(slow.executor._joiner, "work", failing)
    slow.waiting.add(slow.plan(2))
    with pytest.raises(ZeroDivisionError):
        slow.join()
    assert slow.executor.joining is None


def test_refused_plans_cost_those_that_follow_no_tick() -> None:
    quick = Slow(look_ns=1)
    quick.moving()
    plan = quick.plan(7)
    for chunk in (quick.plan(1), quick.plan(1), plan):
        quick.waiting.add(chunk)
    assert [merge.reason for _, _, merge in quick.join()] == [Refusal.DUPLICATE, Refusal.DUPLICATE]
    assert len(quick.waiting) == 1
    assert quick.executor.joining is plan


def test_plans_that_pile_up_are_joined_at_once() -> None:
    slow = Slow()
    slow.moving()
    plans = [slow.plan(chunk_id) for chunk_id in range(2, PILE + 4)]
    slow.waiting.add(plans[0])
    assert slow.join() == []
    assert slow.executor.joining is plans[0]
    for plan in plans[1:]:
        slow.waiting.add(plan)
    found = slow.join()
    assert [(chunk.chunk_id, merge.accepted) for _, chunk, merge in found] == [(2, True), (3, True)]
    assert len(slow.waiting) == PILE, "the others have their turns"


def test_slices_begin_in_the_first_part_of_a_period_only() -> None:
    slow = Slow(Executor(FULL_SPEC))
    slow.moving()
    looks: list[int] = []
    clock = slow.clock()

    def watched() -> int:
        looks.append(clock())
        return looks[-1]

    slow.waiting.add(slow.plan(2))
    slow.waiting.join(slow.now_ns + PERIOD_NS, watched)
    until_ns = slow.now_ns + round((1 - RESERVED_SHARE) * PERIOD_NS)
    assert looks[-1] >= until_ns > looks[-2]


def test_work_in_slices_comes_to_what_it_returns() -> None:
    def counted() -> Slices[int]:
        for _ in range(3):
            yield
        return 3

    assert at_once(counted()) == 3
    assert len(list(counted())) == 3
