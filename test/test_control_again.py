"""Runs that begin again, sessions that change under way, plans slowed at their end, and calls that come late."""

from __future__ import annotations

import numpy as np
import pytest
from control_kit import JOINTS, PERIOD_NS, SPEC, START_NS, Follower, make_chunk, smooth_plan, state_at
from test_control_following import ARM_JOINTS, Rig

from starry_ros.control.executor import Executor
from starry_ros.control.safety import Event, Mode
from starry_ros.control.schedule import Refusal
from starry_ros.control.status import ExecutorConfig
from starry_ros.control.watch import StateWatch
from starry_ros.timing import NS_PER_S, nanoseconds

STAND_J = smooth_plan(0.0)
JAW = SPEC.gripper_indices[0]
BLOCK_M = 0.015


def to_fault_and_back(rig: Rig) -> None:
    rig.executor.set_estop(True, rig.now_ns)
    rig.run(0.6)
    rig.executor.set_estop(False, rig.now_ns)
    rig.run(0.1)
    assert rig.executor.reset_fault(rig.now_ns).ok


def holding() -> Rig:
    """Arms at rest whose jaws press on a block: told 0, measured `BLOCK_M`."""
    rig = Rig(plans=False)
    rig.jaw_stop_m = BLOCK_M
    closed = np.tile(plan_of(rig), (16, 1))
    closed[:, ~ARM_JOINTS] *= np.clip(1 - np.arange(16) / 6, 0, 1)[:, None]
    assert rig.executor.submit(make_chunk(closed, rig.now_ns), rig.now_ns).accepted
    rig.run(1.8)
    assert rig.executor._track.motion_3J[0, JAW] == pytest.approx(0.0, abs=1e-9)
    assert rig.measured_J[JAW] == pytest.approx(BLOCK_M)
    return rig


def plan_of(rig: Rig) -> np.ndarray:
    return rig.measured_J.copy()


def test_after_an_emergency_stop_a_jaw_still_presses_on_what_it_holds() -> None:
    rig = holding()
    before = len(rig.asked)
    to_fault_and_back(rig)
    assert rig.executor.arm(rig.now_ns).ok
    rig.run(0.5)
    assert rig.mode is Mode.RUN
    assert np.array(rig.asked[before:])[:, JAW].max() <= 1e-6, "the jaw was told to open"
    assert rig.use(before)["velocity"] <= 1


@pytest.mark.parametrize("anew", [False, True])
@pytest.mark.parametrize(("told_m", "measured_m", "starts_m"), [
    (0.032, 0.003, 0.003), (0.0, BLOCK_M, 0.0), (0.02, 0.019, 0.02),
], ids=["its driver refused to open it", "it holds a block", "it is where it was told to be"])
def test_a_jaw_further_closed_than_it_was_told_starts_where_it_is_and_one_that_holds_goes_on_pressing(
    told_m: float, measured_m: float, starts_m: float, anew: bool
) -> None:
    watch, told_J = StateWatch(SPEC, ExecutorConfig()), SPEC.limit("home").copy()
    told_J[JAW] = told_m
    measured_J = told_J.copy()
    measured_J[JAW] = measured_m
    watch.start(told_J, START_NS)
    watch.take(state_at(measured_J, START_NS), START_NS)
    watch.leave(armed=True)
    start_J = watch.start_of(told_J, anew=anew)
    assert (told_J if start_J is None else start_J)[JAW] == starts_m


def test_a_jaw_that_was_moved_in_between_starts_where_it_is() -> None:
    rig = holding()
    to_fault_and_back(rig)
    rig.jaw_stop_m = 0.03  # by hand
    rig.run(0.2)
    assert rig.executor.arm(rig.now_ns).ok
    rig.run(0.02)
    assert rig.executor._track.motion_3J[0, JAW] == pytest.approx(0.03)


def test_a_jaw_that_another_owner_opened_before_the_fault_was_reset_starts_where_it_is() -> None:
    rig = holding()
    rig.executor.set_estop(True, rig.now_ns)
    rig.run(0.3)
    rig.jaw_stop_m = 0.03
    rig.run(0.3)
    rig.executor.set_estop(False, rig.now_ns)
    rig.run(0.1)
    assert rig.executor.reset_fault(rig.now_ns).ok
    assert rig.executor.arm(rig.now_ns).ok
    rig.run(0.02)
    assert rig.executor._track.motion_3J[0, JAW] == pytest.approx(0.03)


def test_after_other_faults_all_joints_start_where_they_are_measured() -> None:
    rig = holding()
    rig.executor.report(Event.TRACKING_ERROR, rig.now_ns)
    rig.run(0.6)
    assert rig.executor.reset_fault(rig.now_ns).ok
    assert rig.executor.arm(rig.now_ns).ok
    rig.run(0.02)
    assert rig.executor._track.motion_3J[0, JAW] == pytest.approx(BLOCK_M)


def test_a_new_session_after_arm_does_not_let_in_what_was_seen_before_it() -> None:
    follower = Follower(position_J=STAND_J)
    follower.tick()
    seen_ns = follower.now_ns
    follower.run(1.0)
    follower.arm()
    follower.executor.set_epoch(2)
    old = make_chunk(smooth_plan(0.1 * np.arange(40)), seen_ns, epoch=2)
    assert follower.executor.submit(old, follower.now_ns).reason is Refusal.BEFORE_ARM
    follower.run(0.1)
    new = make_chunk(smooth_plan(0.1 * np.arange(16)), follower.now_ns, epoch=2)
    assert follower.executor.submit(new, follower.now_ns).accepted


def delayed_beyond_its_end() -> tuple[Follower, np.ndarray]:
    """Arms that limits let follow a plan so late that they move when its last knot has passed."""
    follower = Follower(position_J=STAND_J)
    follower.arm()
    there = np.clip(np.arange(8) / 4, 0, 1)[:, None] * (np.arange(JOINTS) == 0) * 2.4  # 2.4 rad in 0.4 s
    far = STAND_J + there[-1]
    chunk = make_chunk(STAND_J + there, follower.now_ns)
    assert follower.executor.submit(chunk, follower.now_ns).accepted
    while follower.now_ns < chunk.end_ns + 2 * PERIOD_NS:
        follower.tick()
    assert follower.executor._schedule.ahead(follower.executor._command_ns or 0) is None
    assert follower.commands[-1].velocity_J[0] > 1.0
    return follower, far


def test_a_reason_to_be_slow_acts_on_arms_that_are_behind_their_plan() -> None:
    free, far = delayed_beyond_its_end()
    free.run(1.5)
    assert free.position_J[0] == pytest.approx(far[0], abs=1e-3)
    slowed, far = delayed_beyond_its_end()
    before = len(slowed.sent)
    slowed.executor.set_condition(Event.PLANNER_DEGRADED, True, slowed.now_ns)
    slowed.run(0.7)
    assert slowed.executor.status(slowed.now_ns).mode is Mode.SLOW
    assert not slowed.commands[-1].velocity_J.any()
    stopped_by = np.ptp(np.array(slowed.sent[before:])[:, 0])
    assert stopped_by < 0.6 * np.ptp(np.array(free.sent[before:])[:, 0])


@pytest.mark.parametrize("late_s", [0.0, 0.02, 0.05, 0.1])
def test_a_plan_that_comes_with_a_late_call_is_still_carried_out_at_its_own_time(late_s: float) -> None:
    follower = Follower(position_J=STAND_J)
    follower.arm()
    begin_ns = follower.now_ns
    follower.follow(0.8, latency_s=0.1, every_s=0.4)
    follower.now_ns += nanoseconds(late_s)
    steps = smooth_plan((follower.now_ns - begin_ns) / NS_PER_S + 0.1 * np.arange(1, 17))
    assert follower.executor.submit(make_chunk(steps, follower.now_ns, 7 * NS_PER_S), follower.now_ns).accepted
    sent = len(follower.commands)
    follower.run(0.8)
    for command in follower.commands[sent + 40:]:
        due = smooth_plan((command.time_ns - begin_ns) / NS_PER_S)
        assert np.abs(command.position_J - due).max() < 0.004


@pytest.mark.parametrize("lag_s", [0.05, 0.4])
def test_drives_as_slow_as_they_are_said_to_be_are_no_tracking_error(lag_s: float) -> None:
    executor, now_ns = Executor(SPEC, ExecutorConfig(drive_lag_s=lag_s, patience_s=None)), START_NS
    sent = [STAND_J]
    executor.step(now_ns, state_at(STAND_J, now_ns))
    assert executor.arm(now_ns).ok
    for tick in range(700):
        if tick % 40 == 0:
            steps = smooth_plan((now_ns - START_NS) / NS_PER_S + 0.1 * np.arange(1, 17), 0.6, 1.4)
            executor.submit(make_chunk(steps, now_ns, tick), now_ns)
        now_ns += PERIOD_NS
        behind = max(0, len(sent) - 1 - round((lag_s + 0.05) * NS_PER_S / PERIOD_NS))  # commands are 0.05 s ahead
        command = executor.step(now_ns, state_at(sent[behind], now_ns))
        if command is not None:
            sent.append(command.position_J)
    assert executor.status(now_ns).mode is Mode.RUN
