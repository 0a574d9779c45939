"""Stops near borders of the space, and how long arms wait for a plan before they need `arm` again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from control_kit import FULL_SPEC, JOINTS, LOWER_J, SPEC, UPPER_J, Follower, make_chunk, smooth_plan, state_at

from starry_ros.control.executor import Executor
from starry_ros.control.limits import Limits
from starry_ros.control.safety import Mode
from starry_ros.control.schedule import Refusal
from starry_ros.control.status import ExecutorConfig
from starry_ros.control.stop import StopPlanner
from starry_ros.control.trajectory import Curve, through_knots


class Closed:
    """A space that is closed to every stop that begins within the first moments of a curve, its margin included or
    not.
    """

    def __init__(self, until_s: float, margin_until_s: float = 0.0) -> None:
        self.until_s, self.margin_until_s, self.asked_s = until_s, margin_until_s, list[float]()

    def first_breach(
        self, _curve: Curve, from_s: float = 0.0, *, to_the_border: bool = False
    ) -> tuple[float, Refusal] | None:
        self.asked_s.append(from_s)
        closed_s = self.until_s if to_the_border else max(self.until_s, self.margin_until_s)
        return (from_s, Refusal.OUTSIDE_WORKSPACE) if from_s < closed_s else None


def moving_curve() -> Curve:
    time_s = 0.1 * np.arange(17)
    return through_knots(time_s, smooth_plan(2.0 + time_s), LOWER_J, UPPER_J)


def planner(until_s: float) -> StopPlanner:
    return StopPlanner(Limits.of(SPEC), Closed(until_s))  # type: ignore[arg-type]


@pytest.mark.parametrize(("closed_s", "turn_s"), [(0.0, 0.0), (0.03, 0.04), (0.25, 0.26), (0.55, 0.6)])
def test_next_to_a_border_the_arms_stop_at_the_first_moment_that_fits(closed_s: float, turn_s: float) -> None:
    curve = moving_curve()
    stopped = planner(closed_s).stop(curve, 0.0)
    free = StopPlanner(Limits.of(SPEC)).follow_then_stop(curve, 0.0, turn_s, turn_s)[0]
    assert stopped.duration_s == pytest.approx(free.duration_s, abs=1e-9)
    assert stopped.duration_s < curve.duration_s


def test_where_no_stop_fits_the_curve_itself_is_the_stop() -> None:
    curve, space = moving_curve(), Closed(0.0)
    whole = curve.cut(0.0).duration_s
    space.first_breach = lambda tried, from_s=0.0, **_: (
        None if tried.duration_s == whole else (0.0, Refusal.ARMS_TOO_CLOSE))
    stopped, turn_s = StopPlanner(Limits.of(SPEC), space).follow_then_stop(curve, 0.0, 0.0, 0.1)
    assert stopped.duration_s == whole
    assert np.isinf(turn_s)


def test_a_curve_that_leaves_the_space_itself_is_left_at_once() -> None:
    curve = moving_curve()
    stopped, turn_s = planner(np.inf).follow_then_stop(curve, 0.0, 0.0, 0.1)
    assert stopped.duration_s < curve.duration_s / 2
    assert turn_s == 0.0


def test_where_every_way_to_rest_leads_into_the_margin_the_one_inside_the_space_is_taken() -> None:
    """The fastest stop swung 2 mm past the border, while the curve itself ended before it."""
    curve, space = moving_curve(), Closed(0.25, margin_until_s=np.inf)
    stopped, turn_s = StopPlanner(Limits.of(SPEC), space).follow_then_stop(curve, 0.0, 0.0, 0.0)
    assert turn_s == pytest.approx(0.26)
    assert stopped.duration_s < curve.duration_s
    space.first_breach = lambda tried, from_s=0.0, to_the_border=False: (
        None if to_the_border and tried.duration_s == curve.cut(0.0).duration_s else (0.0, Refusal.ARMS_TOO_CLOSE))
    whole, turn_s = StopPlanner(Limits.of(SPEC), space).follow_then_stop(curve, 0.0, 0.0, 0.0)
    assert np.isinf(turn_s)
    assert whole.duration_s == curve.cut(0.0).duration_s


def test_a_look_ahead_turns_sooner_before_it_turns_later() -> None:
    space = Closed(0.0)
    space.first_breach = lambda _curve, from_s=0.0, **_: (0.0, Refusal.ARMS_TOO_CLOSE) if from_s > 0.075 else None
    turn_s = StopPlanner(Limits.of(SPEC), space).follow_then_stop(moving_curve(), 0.0, 0.03, 0.15)[1]
    assert turn_s == pytest.approx(0.07)


def test_stops_asked_for_while_sliding_along_the_border_are_early_and_inside() -> None:
    """Of plans that slide along the box, stops took up to 1.5 s where 0.2 s would do, before later turns were tried."""
    rng, late = np.random.default_rng(7), []
    for _ in range(12):
        robot = Follower(Executor(FULL_SPEC, ExecutorConfig(patience_s=None)))
        robot.arm()
        reach = robot.position_J + np.cumsum(rng.normal(0, 0.06, (16, JOINTS)), axis=0)
        chunk = make_chunk(np.clip(reach, LOWER_J, UPPER_J), robot.now_ns, contract_hash=FULL_SPEC.content_hash)
        if not robot.executor.submit(chunk, robot.now_ns).accepted:
            continue
        robot.run(float(rng.uniform(0.2, 1.0)))
        begin = len(robot.sent)
        robot.executor.set_estop(True, robot.now_ns)
        robot.run(1.2)
        moving = np.flatnonzero(np.abs(np.diff(robot.positions[begin:], axis=0)).max(axis=1) > 1e-6)
        late.append((moving[-1] + 1) / SPEC.rates.control_hz if len(moving) else 0.0)
    assert len(late) >= 6
    assert max(late) < 0.7


def following(patience_s: float | None) -> Follower:
    robot = Follower(Executor(SPEC, ExecutorConfig(patience_s=patience_s)))
    robot.arm()
    robot.follow(1.0)
    return robot


def test_arms_that_stood_too_long_without_a_plan_move_again_only_after_arm() -> None:
    robot = following(patience_s=2.0)
    robot.run(1.1 + 1.8)
    assert robot.executor.status(robot.now_ns).mode is Mode.RUN
    robot.run(0.5)
    status = robot.executor.status(robot.now_ns)
    assert (status.mode, status.reason) == (Mode.STOP, "planner_lost")
    chunk = make_chunk(smooth_plan(np.ones(16)), robot.now_ns, robot.now_ns)
    assert robot.executor.submit(chunk, robot.now_ns).reason is Refusal.NOT_RUNNING
    assert robot.executor.arm(robot.now_ns).ok


def test_arms_that_were_armed_and_have_no_plan_yet_wait_for_ever_and_so_do_patient_ones() -> None:
    fresh = Follower(Executor(SPEC, ExecutorConfig(patience_s=0.5)))
    fresh.arm()
    fresh.run(3.0)
    patient = following(patience_s=None)
    patient.run(6.0)
    for robot in (fresh, patient):
        assert robot.executor.status(robot.now_ns).mode is Mode.RUN


@pytest.mark.parametrize(("joint", "beyond", "accepted"), [(2, 0.002, True), (2, 0.01, False), (6, 0.0008, True),
                                                           (6, 0.004, False)])
def test_arm_makes_no_step_from_outside_a_limit(joint: int, beyond: float, accepted: bool) -> None:
    position_J = SPEC.limit("home")
    position_J[joint] = UPPER_J[joint] + beyond
    executor = Executor(SPEC)
    executor.step(1_000_000_000, state_at(position_J, 1_000_000_000))
    reply = executor.arm(1_000_000_000)
    assert reply.ok is accepted, reply.message
    assert accepted or "move it inside by hand" in reply.message


def test_patience_counts_from_the_end_of_the_plan_on() -> None:
    config = replace(ExecutorConfig(), patience_s=0.3)
    robot = Follower(Executor(SPEC, config))
    robot.arm()
    robot.follow(3.0)  # plans every 0.5 s, each lasts 1.6 s
    assert robot.executor.status(robot.now_ns).mode is Mode.RUN


def test_a_plan_that_cannot_be_followed_shows_that_the_planner_is_there() -> None:
    robot = following(patience_s=1.0)
    for _ in range(12):
        robot.run(0.5)
        swing = np.where(np.arange(16)[:, None] % 2, LOWER_J, UPPER_J)
        far = make_chunk(swing, robot.now_ns, robot.now_ns)
        assert robot.executor.submit(far, robot.now_ns).reason in (Refusal.TOO_FAST, Refusal.UNREACHABLE)
    status = robot.executor.status(robot.now_ns)
    assert status.mode is Mode.RUN
    assert status.stall_share > 0.5, "it is there, but nothing of it can be followed"


def test_a_planner_that_comes_back_with_another_session_does_not_end_the_patience() -> None:
    """A planner that was killed and started anew says so at once, which makes the executor forget the last plan."""
    robot = following(patience_s=2.0)
    robot.executor.set_epoch(2)
    robot.run(1.1 + 2.4)
    assert robot.executor.status(robot.now_ns).reason == "planner_lost"
