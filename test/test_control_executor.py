"""The executor with a fake clock: arming, following, splicing, stopping, faults, and what it tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from control_kit import (
    FORWARD_SPEC,
    JOINTS,
    LOWER_J,
    PERIOD_NS,
    SPEC,
    UPPER_J,
    Follower,
    make_chunk,
    smooth_plan,
    state_at,
)

from starry_ros.bench.fuzz import worst_use
from starry_ros.control.executor import Executor
from starry_ros.control.safety import Event, Mode
from starry_ros.control.schedule import Refusal
from starry_ros.control.status import ExecutorConfig
from starry_ros.errors import ConfigError
from starry_ros.robot_spec import RobotSpec
from starry_ros.timing import FakeClock
from starry_ros.types import RobotState

RATE_HZ = SPEC.rates.control_hz
STEPS_S = 0.1 * np.arange(16)
ARM_JOINTS = [j for j in range(JOINTS) if j not in SPEC.gripper_indices]
STAND_J = smooth_plan(0.0)


def running(spec_executor: Executor | None = None) -> Follower:
    follower = Follower(spec_executor, STAND_J)
    follower.arm()
    return follower


def moving(spec: RobotSpec = SPEC) -> Follower:
    """In the middle of a plan, all joints under way."""
    follower = running(Executor(spec))
    follower.follow(2.3)
    assert np.abs(follower.commands[-1].velocity_J[ARM_JOINTS]).max() > 0.3
    return follower


def mode_of(follower: Follower) -> Mode:
    return follower.executor.status(follower.now_ns).mode


def assert_stops_inside_limits(follower: Follower, within_s: float) -> None:
    begin = len(follower.sent)
    follower.run(within_s)
    assert not follower.commands[-1].velocity_J.any()
    assert not follower.commands[-1].acceleration_J.any()
    assert max(worst_use(follower.positions, SPEC, RATE_HZ).values()) <= 1 + 1e-6
    stopping = follower.positions[begin - 1:]
    assert np.abs(stopping - stopping[0]).max() < 0.5


# Arming


def test_nothing_is_sent_before_arming_and_the_first_command_is_the_measured_position() -> None:
    follower = Follower(position_J=STAND_J + 0.003)
    follower.run(0.5)
    assert not follower.sent
    follower.arm()
    command = follower.tick()
    assert command is not None
    assert np.array_equal(command.position_J, STAND_J + 0.003)
    assert not command.velocity_J.any()
    follower.run(0.5)
    assert np.ptp(follower.positions, axis=0).max() == 0


def test_arming_needs_a_fresh_valid_joint_state_inside_the_limits_and_standing_arms() -> None:
    executor, now_ns = Executor(SPEC), 10**9
    assert "no fresh joint state" in executor.arm(now_ns).message
    executor.step(now_ns, state_at(STAND_J, now_ns))
    assert "no fresh joint state" in executor.arm(now_ns + 10**9).message
    outside = STAND_J.copy()
    outside[2] = UPPER_J[2] + 0.2
    executor.step(now_ns + PERIOD_NS, state_at(outside, now_ns + PERIOD_NS))
    assert "left_elbow stands at" in executor.arm(now_ns + PERIOD_NS).message
    pushed = RobotState(now_ns + 2 * PERIOD_NS, STAND_J, np.full(JOINTS, 1.0))
    executor.step(now_ns + 2 * PERIOD_NS, pushed)
    assert "is moving" in executor.arm(now_ns + 2 * PERIOD_NS).message
    for tick in range(3, 20):
        executor.step(now_ns + tick * PERIOD_NS, state_at(STAND_J, now_ns + tick * PERIOD_NS))
    assert executor.arm(now_ns + 19 * PERIOD_NS).ok


def test_arms_whose_driver_reports_no_velocity_are_not_armed_while_somebody_moves_them() -> None:
    executor, now_ns, position_J = Executor(SPEC), 10**9, STAND_J.copy()
    for _ in range(30):
        now_ns += PERIOD_NS
        position_J[1] += 0.4 * PERIOD_NS * 1e-9
        executor.step(now_ns, state_at(position_J, now_ns))
    assert f"{SPEC.joint_names[1]} is moving" in executor.arm(now_ns).message
    executor.step(now_ns + PERIOD_NS, state_at(position_J, now_ns + PERIOD_NS))
    assert "is moving" in executor.arm(now_ns + PERIOD_NS).message, "it stands for less than a tenth of a second"
    for _ in range(10):
        now_ns += PERIOD_NS
        executor.step(now_ns, state_at(position_J, now_ns))
    assert executor.arm(now_ns).ok


def test_a_jaw_measured_slightly_outside_its_range_is_commanded_at_its_limit() -> None:
    position = STAND_J.copy()
    position[6], position[13] = -0.0004, 0.0403
    follower = Follower(position_J=position)
    follower.arm()
    command = follower.tick()
    assert command is not None
    assert (command.position_J[[6, 13]] == [0.0, 0.04]).all()


def test_plans_from_before_the_arming_are_refused() -> None:
    follower = Follower(position_J=STAND_J)
    follower.tick()
    early = make_chunk(smooth_plan(STEPS_S), follower.now_ns - 1)
    assert follower.executor.submit(early, follower.now_ns).reason is Refusal.NOT_RUNNING
    follower.arm()
    assert follower.executor.submit(early, follower.now_ns).reason is Refusal.BEFORE_ARM


# Following


@pytest.mark.parametrize("latency_s", [0.0, 0.1, 0.2, 0.4])
def test_a_plan_inside_the_limits_passes_through_unchanged(latency_s: float) -> None:
    follower = running()
    begin_ns = follower.now_ns
    follower.follow(8.0, latency_s=latency_s)
    times_s = np.array([(command.time_ns - begin_ns) / 1e9 for command in follower.commands])
    settled = times_s > 4.0  # the first plan comes late, and the arms catch up gently
    error = np.abs(follower.positions - smooth_plan(times_s))[settled]
    speed = np.abs(np.diff(follower.positions, axis=0)).max()
    assert error.max() < 2e-4
    assert error.max() < speed, "less than one tick of lag"
    status = follower.executor.status(follower.now_ns)
    assert status.stall_share == 0
    assert status.gate_interventions == 0
    assert max(worst_use(follower.positions, SPEC, RATE_HZ).values()) <= 1


def test_commands_are_continuous_across_splices_with_disagreeing_plans() -> None:
    """Every command lies where the last one's velocity and acceleration lead, within one tick of the jerk limit."""
    rng, follower = np.random.default_rng(1), running()
    for chunk_id in range(60):
        steps = follower.now_ns / 1e9 + STEPS_S
        walk = smooth_plan(steps) + rng.normal(0, 0.03, JOINTS) * (np.arange(JOINTS) % 7 < 6)
        observed_ns = follower.now_ns - int(rng.uniform(0, 0.4) * 1e9) if chunk_id else follower.now_ns
        follower.executor.submit(make_chunk(walk, observed_ns, chunk_id), follower.now_ns)
        follower.run(float(rng.choice([0.01, 0.05, 0.3])))
    dt = PERIOD_NS / 1e9
    for before, after in zip(follower.commands, follower.commands[1:], strict=False):
        predicted = before.position_J + dt * before.velocity_J + dt**2 / 2 * before.acceleration_J
        assert (np.abs(after.position_J - predicted) <= SPEC.limit("jerk") * dt**3 / 6 + 1e-9).all()
        assert (np.abs(after.velocity_J - before.velocity_J) <= SPEC.limit("acceleration") * dt).all()
        assert (np.abs(after.acceleration_J - before.acceleration_J) <= SPEC.limit("jerk") * dt).all()
    assert max(worst_use(follower.positions, SPEC, RATE_HZ).values()) <= 1 + 1e-6
    status = follower.executor.status(follower.now_ns)
    assert status.splice_jump_worst > 0.03
    assert status.velocity_jump_worst > 0.1, "of plans, not of commands: those are checked above"


def test_without_a_new_plan_the_arms_run_to_the_last_known_knot_and_hold_there() -> None:
    follower = running()
    steps = np.repeat(STAND_J[None], 16, axis=0)
    steps[:, 0] += 0.05 * np.arange(16)
    assert follower.executor.submit(make_chunk(steps, follower.now_ns), follower.now_ns).accepted
    follower.run(1.5)
    assert follower.executor.status(follower.now_ns).reason != Event.NO_CHUNK
    follower.run(1.5)
    waist = follower.positions[:, 0]
    assert waist[-1] == pytest.approx(steps[-1, 0], abs=1e-9)
    assert waist.max() <= steps[-1, 0] + 1e-9, "never beyond what is known"
    status = follower.executor.status(follower.now_ns)
    assert status.reason == Event.NO_CHUNK
    assert status.mode is Mode.RUN
    assert 0.2 < status.stall_share < 0.6
    assert status.slack_s < 0


def test_a_late_chunk_loses_its_past_and_one_that_is_over_is_refused() -> None:
    follower = running()
    observed_ns = follower.now_ns
    follower.run(1.0)
    late = make_chunk(np.repeat(STAND_J[None], 16, axis=0), observed_ns, 1)
    merge = follower.executor.submit(late, follower.now_ns)
    assert merge.accepted
    assert merge.dropped_steps in (10, 11)
    follower.run(1.0)
    assert follower.executor.submit(replace(late, chunk_id=2), follower.now_ns).reason is Refusal.PAST


def test_a_plan_far_too_fast_is_refused_and_the_known_one_goes_on() -> None:
    follower = moving()
    wild = np.where(np.arange(16)[:, None] % 2 == 0, LOWER_J, UPPER_J)
    merge = follower.executor.submit(make_chunk(wild, follower.now_ns, 1), follower.now_ns)
    assert merge.reason in (Refusal.TOO_FAST, Refusal.UNREACHABLE)
    follower.run(0.3)
    assert max(worst_use(follower.positions, SPEC, RATE_HZ).values()) <= 1
    assert sum(follower.executor.status(follower.now_ns).refused.values()) == 1


def test_slow_mode_halves_the_speed_and_keeps_the_path() -> None:
    fast, slow = running(), running()
    slow.executor.set_condition(Event.PLANNER_DEGRADED, True, slow.now_ns)
    steps = np.repeat(STAND_J[None], 16, axis=0)
    steps[:, 0] += 0.4 * (1 - np.cos(STEPS_S * 2))
    steps[:, 1] += 0.2 * (1 - np.cos(STEPS_S * 2))
    for follower in (fast, slow):
        assert follower.executor.submit(make_chunk(steps, follower.now_ns), follower.now_ns).accepted
        follower.run(4.0)
    assert mode_of(slow) is Mode.SLOW
    peak = [np.abs(np.diff(follower.positions[:, 0])).max() for follower in (fast, slow)]
    assert peak[1] == pytest.approx(peak[0] / 2, rel=0.15)
    offset = slow.positions - STAND_J
    assert np.allclose(offset[:, 0], 2 * offset[:, 1], atol=1e-6)
    slow.executor.set_condition(Event.PLANNER_DEGRADED, False, slow.now_ns)
    assert mode_of(slow) is Mode.RUN


def test_slowing_down_in_motion_is_smooth() -> None:
    follower = moving()
    follower.executor.set_condition(Event.MODEL_SURPRISE, True, follower.now_ns)
    follower.run(0.3)
    follower.executor.set_condition(Event.MODEL_SURPRISE, False, follower.now_ns)
    follower.run(1.0)
    assert max(worst_use(follower.positions, SPEC, RATE_HZ).values()) <= 1


# Stopping and faults


STOPS: dict[str, tuple[Callable[[Follower], object], Mode]] = {
    "hold": (lambda f: f.executor.hold(f.now_ns), Mode.HOLD),
    "stop": (lambda f: f.executor.stop(f.now_ns), Mode.STOP),
    "estop": (lambda f: f.executor.set_estop(True, f.now_ns), Mode.FAULT),
    "surprise": (lambda f: f.executor.report(Event.SURPRISE_HIGH, f.now_ns), Mode.STOP),
}


@pytest.mark.parametrize("cause", STOPS)
def test_each_stop_decelerates_inside_the_limits_and_drops_the_plan(cause: str) -> None:
    follower = moving()
    action, mode = STOPS[cause]
    action(follower)
    assert_stops_inside_limits(follower, 0.6)
    assert mode_of(follower) is mode
    still = make_chunk(np.repeat(follower.position_J[None], 16, axis=0), follower.now_ns, 1)
    assert follower.executor.submit(still, follower.now_ns).reason is Refusal.NOT_RUNNING
    follower.run(0.5)
    assert not follower.commands[-1].velocity_J.any()


def test_resuming_needs_arm_and_a_new_plan() -> None:
    follower = moving()
    follower.executor.hold(follower.now_ns)
    assert "still stopping" in follower.executor.arm(follower.now_ns).message
    follower.run(0.6)
    stood = follower.position_J
    assert follower.executor.arm(follower.now_ns).ok
    follower.run(0.5)
    assert np.array_equal(follower.position_J, stood), "the old plan is gone"
    knots = np.repeat(stood[None], 16, axis=0)
    knots[:, 0] += 0.02 * np.arange(16)
    assert follower.executor.submit(make_chunk(knots, follower.now_ns, 99), follower.now_ns).accepted
    follower.run(0.5)
    assert follower.position_J[0] > stood[0] + 0.05
    assert max(worst_use(follower.positions, SPEC, RATE_HZ).values()) <= 1


def test_estop_latches_until_release_reset_and_arm() -> None:
    follower = moving()
    executor = follower.executor
    executor.set_estop(True, follower.now_ns)
    assert not executor.reset_fault(follower.now_ns).ok
    follower.run(0.6)
    assert "estop_pressed" in executor.reset_fault(follower.now_ns).message
    executor.set_estop(False, follower.now_ns)
    assert mode_of(follower) is Mode.FAULT
    assert not executor.arm(follower.now_ns).ok
    assert executor.reset_fault(follower.now_ns).ok
    assert mode_of(follower) is Mode.DISARMED
    assert follower.tick() is None
    assert executor.arm(follower.now_ns).ok


def test_a_stale_joint_state_stops_the_arms_in_a_latched_fault() -> None:
    follower = moving()
    follower.run(0.2, silent=True)
    assert mode_of(follower) is Mode.RUN
    follower.run(0.9, silent=True)
    status = follower.executor.status(follower.now_ns)
    assert (status.mode, status.reason) == (Mode.FAULT, Event.STATE_STALE)
    assert not follower.commands[-1].velocity_J.any()
    follower.tick()
    assert mode_of(follower) is Mode.FAULT
    assert follower.executor.reset_fault(follower.now_ns).ok


@pytest.mark.parametrize("bad", [np.full(JOINTS, np.nan), np.full(JOINTS, np.inf), np.zeros(3)])
def test_an_invalid_joint_state_is_a_fault(bad: np.ndarray) -> None:
    follower = moving()
    follower.now_ns += PERIOD_NS
    follower.executor.step(follower.now_ns, RobotState(follower.now_ns, bad, np.zeros(len(bad))))
    status = follower.executor.status(follower.now_ns)
    assert (status.mode, status.reason) == (Mode.FAULT, Event.STATE_INVALID)


def test_a_joint_that_does_not_follow_is_a_fault_but_a_jaw_on_an_object_is_not() -> None:
    for joint, expected in ((1, Mode.FAULT), (6, Mode.RUN)):
        follower = running()
        stuck = STAND_J.copy()
        stuck[joint] += 0.4 if joint == 1 else -0.019
        for _ in range(40):
            follower.now_ns += PERIOD_NS
            follower.executor.step(follower.now_ns, state_at(stuck, follower.now_ns))
        status = follower.executor.status(follower.now_ns)
        assert status.mode is expected
        assert status.tracking_error_J[joint] == pytest.approx(abs(stuck - STAND_J)[joint])


def test_a_drive_that_lags_a_little_is_no_tracking_error() -> None:
    follower = running()
    lagging = [STAND_J] * 15
    begin_ns = follower.now_ns
    for t in range(400):
        if t % 50 == 0:
            steps = smooth_plan((follower.now_ns - begin_ns) / 1e9 + 0.1 * np.arange(1, 17))
            assert follower.executor.submit(make_chunk(steps, follower.now_ns, t), follower.now_ns).accepted
        follower.now_ns += PERIOD_NS
        command = follower.executor.step(follower.now_ns, state_at(lagging[-15], follower.now_ns))
        lagging.append(lagging[-1] if command is None else command.position_J)
    assert mode_of(follower) is Mode.RUN
    assert follower.executor.status(follower.now_ns).tracking_error_J[ARM_JOINTS].max() < 0.01


def test_a_lost_heartbeat_stops_when_one_is_required() -> None:
    executor = Executor(SPEC, ExecutorConfig(heartbeat_timeout_s=0.2))
    follower = Follower(executor, STAND_J)
    follower.tick()
    assert "heartbeat_lost" in executor.arm(follower.now_ns).message
    executor.heartbeat(follower.now_ns)
    follower.arm()
    follower.run(0.15)
    assert mode_of(follower) is Mode.RUN
    follower.run(0.15)
    assert mode_of(follower) is Mode.STOP
    executor.heartbeat(follower.now_ns)
    follower.tick()
    assert mode_of(follower) is Mode.STOP
    assert executor.arm(follower.now_ns).ok


@pytest.mark.parametrize("spec", [SPEC, FORWARD_SPEC], ids=["trajectories", "set-points"])
@pytest.mark.parametrize("jump_s", [5.0, -5.0])
def test_a_clock_jump_stops_the_arms_and_after_a_hold_up_leaves_them_where_they_stand(jump_s: float, spec) -> None:
    follower = moving(spec)
    clock, sent = FakeClock(follower.now_ns), len(follower.commands)
    clock.advance_s(jump_s)
    follower.now_ns = clock.now_ns()
    follower.step()
    assert mode_of(follower) in (Mode.STOP, Mode.FAULT)
    follower.run(0.8)
    if jump_s > 0:
        assert len(follower.commands) == sent
    else:
        assert not follower.commands[-1].velocity_J.any()
    assert follower.executor.arm(follower.now_ns).ok


def test_calls_between_periods_send_nothing_and_late_ones_are_counted() -> None:
    follower = moving()
    follower.now_ns += PERIOD_NS // 4
    assert follower.step() is None
    follower.now_ns += PERIOD_NS * 3 // 4 + 3 * PERIOD_NS
    assert follower.step() is not None
    assert follower.executor.status(follower.now_ns).missed_ticks == 3


def test_set_points_sent_one_by_one_never_jump_after_a_late_call() -> None:
    follower = running(Executor(FORWARD_SPEC))
    rng, chunk_id = np.random.default_rng(3), 0
    for t in range(600):
        if t % 40 == 0:
            chunk_id += 1
            steps = smooth_plan(t * 0.011 + STEPS_S)
            chunk = make_chunk(steps, follower.now_ns, chunk_id, contract_hash=FORWARD_SPEC.content_hash)
            assert follower.executor.submit(chunk, follower.now_ns).accepted
        follower.now_ns += PERIOD_NS * int(rng.choice([0, 0, 0, 0, 4]))
        follower.tick()
    assert follower.executor.status(follower.now_ns).missed_ticks > 100
    assert max(worst_use(follower.positions, SPEC, RATE_HZ).values()) <= 1


def test_only_lasting_events_are_conditions_and_services_are_no_events() -> None:
    executor = Executor(SPEC)
    with pytest.raises(ConfigError, match="no condition"):
        executor.set_condition(Event.CLOCK_JUMP, True, 0)
    for event in (Event.ARM, Event.MODEL_SURPRISE):
        with pytest.raises(ConfigError, match="no single event"):
            executor.report(event, 0)


# What others see


def test_status_tells_the_plan_and_never_changes_anything() -> None:
    follower = running()
    chunk = make_chunk(smooth_plan(STEPS_S), follower.now_ns, 41, epoch=6, instruction_id=3)
    assert follower.executor.submit(chunk, follower.now_ns).accepted
    follower.run(0.3)
    first, second = (follower.executor.status(follower.now_ns) for _ in range(2))
    assert (first.chunk_id, first.epoch, first.instruction_id) == (41, 6, 3)
    assert first.chunk_age_s == pytest.approx(0.3)
    assert first.slack_s == pytest.approx(1.3)
    assert first.ticks == second.ticks == 30
    with pytest.raises(TypeError):
        first.refused[Refusal.PAST] = 1  # type: ignore[index]


def test_an_epoch_set_by_hand_refuses_older_chunks() -> None:
    follower = running()
    follower.executor.set_epoch(5)
    chunk = make_chunk(smooth_plan(STEPS_S), follower.now_ns, 1, epoch=4)
    assert follower.executor.submit(chunk, follower.now_ns).reason is Refusal.STALE_EPOCH
    assert follower.executor.submit(replace(chunk, epoch=5), follower.now_ns).accepted


def test_an_instruction_swap_is_handed_over_within_bounds() -> None:
    follower = running()
    executor = follower.executor
    executor.set_instruction(1, follower.now_ns)
    executor.set_instruction(2, follower.now_ns)
    still = np.repeat(STAND_J[None], 16, axis=0)
    assert executor.submit(make_chunk(still, follower.now_ns, 1), follower.now_ns).accepted
    follower.run(1.1)
    assert executor.submit(make_chunk(still, follower.now_ns, 2), follower.now_ns).reason is Refusal.OLD_INSTRUCTION
    assert executor.submit(make_chunk(still, follower.now_ns, 3, instruction_id=2), follower.now_ns).accepted


def test_the_same_calls_give_the_same_commands() -> None:
    runs = []
    for _ in range(2):
        follower = running()
        follower.follow(3.0)
        runs.append(follower.positions)
    assert np.array_equal(runs[0], runs[1])
