"""The model of joint_trajectory_controller: acceptance rules and interpolation."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.polynomial import Polynomial

from starry_ros.sim.trajectory_controller import (
    JointPoint,
    Rejection,
    Trajectory,
    TrajectoryController,
    TrajectoryPoint,
    interpolate,
)

NAMES = ("a", "b")
MS = 1_000_000


def point(time_ms: int, positions=(0.1, 0.2), velocities=(0.0, 0.0), **more) -> TrajectoryPoint:
    return TrajectoryPoint(time_ms * MS, tuple(positions), tuple(velocities), **more)


GOOD = Trajectory(NAMES, None, (point(40), point(80)))


def controller() -> TrajectoryController:
    return TrajectoryController(NAMES, np.array([0.5, -0.5]), now_ns=0)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (replace(GOOD, joint_names=()), Rejection.NO_JOINTS),
        (replace(GOOD, joint_names=("a", "a")), Rejection.DUPLICATE_JOINTS),
        (replace(GOOD, joint_names=("a", "z")), Rejection.UNKNOWN_JOINTS),
        (replace(GOOD, joint_names=("a",)), Rejection.INCOMPLETE_JOINTS),
        (replace(GOOD, points=()), Rejection.NO_POINTS),
        (replace(GOOD, points=(point(40), point(40))), Rejection.TIMES_NOT_INCREASING),
        (replace(GOOD, points=(point(-1), point(40))), Rejection.TIMES_NOT_INCREASING),
        (replace(GOOD, points=(point(40, positions=()),)), Rejection.POSITIONS_MISSING),
        (replace(GOOD, points=(point(40, positions=(1.0,)),)), Rejection.WRONG_LENGTH),
        (replace(GOOD, points=(point(40, accelerations=(0.0,)),)), Rejection.WRONG_LENGTH),
        (replace(GOOD, points=(point(40, effort=(0.0, 0.0)),)), Rejection.EFFORT_GIVEN),
        (replace(GOOD, points=(point(40, positions=(np.nan, 0.0)),)), Rejection.NOT_FINITE),
        (replace(GOOD, points=(point(40, positions=(0.0, -1e300)),)), Rejection.NOT_FINITE),
        (replace(GOOD, points=(point(40, velocities=(np.inf, 0.0)), point(80))), Rejection.NOT_FINITE),
        (replace(GOOD, points=(point(40, velocities=(0.0, 1e-3)),)), Rejection.MOVING_AT_END),
        (replace(GOOD, start_ns=1), Rejection.IN_THE_PAST),
    ],
)
def test_a_broken_rule_is_named_and_nothing_moves(message: Trajectory, reason: Rejection) -> None:
    jtc = controller()
    assert jtc.accept(message, now_ns=1000 * MS) is reason
    np.testing.assert_array_equal(jtc.sample(2000 * MS).position_J, [0.5, -0.5])


def test_a_jumbled_joint_order_is_matched_by_name() -> None:
    jtc = controller()
    assert jtc.accept(Trajectory(("b", "a"), None, (point(40, positions=(2.0, 1.0)),)), 0) is None
    np.testing.assert_allclose(jtc.sample(100 * MS).position_J, [1.0, 2.0])


def test_the_end_is_held_and_the_begin_is_the_desired_state() -> None:
    jtc = controller()
    assert jtc.accept(GOOD, now_ns=10 * MS) is None
    np.testing.assert_allclose(jtc.sample(10 * MS).position_J, [0.5, -0.5])
    np.testing.assert_allclose(jtc.sample(90 * MS).position_J, [0.1, 0.2])
    held = jtc.sample(10_000 * MS)
    np.testing.assert_allclose(held.position_J, [0.1, 0.2])
    assert held.velocity_J is not None
    assert not held.velocity_J.any()


def test_a_new_trajectory_replaces_the_old_without_a_jump() -> None:
    jtc = controller()
    jtc.accept(GOOD, now_ns=0)
    before = jtc.sample(20 * MS)
    jtc.accept(Trajectory(NAMES, None, (point(50, positions=(-1.0, 1.0)),)), now_ns=20 * MS)
    after = jtc.sample(20 * MS)
    np.testing.assert_allclose(after.position_J, before.position_J, atol=1e-12)
    np.testing.assert_allclose(after.velocity_J, before.velocity_J, atol=1e-9)
    np.testing.assert_allclose(jtc.sample(70 * MS).position_J, [-1.0, 1.0])


def test_a_start_stamp_in_the_past_skips_what_is_over() -> None:
    jtc = controller()
    message = Trajectory(NAMES, 0, (point(0), point(100, positions=(1.1, 1.2))))
    assert jtc.accept(message, now_ns=50 * MS) is None
    np.testing.assert_allclose(jtc.sample(50 * MS).position_J, [0.6, 0.7])  # half way of a symmetric cubic


def fitted(values: np.ndarray, span_s: float) -> list[Polynomial]:
    """Oracle: solve the boundary conditions, values [end, derivative, joint], as one linear system a joint."""
    orders = values.shape[1]
    rows = [
        [Polynomial.basis(power).deriv(order)(at_s) if order else at_s**power for power in range(2 * orders)]
        for at_s in (0.0, span_s)
        for order in range(orders)
    ]
    return [Polynomial(np.linalg.solve(rows, values[:, :, joint].ravel())) for joint in range(values.shape[2])]


@pytest.mark.parametrize("orders", [1, 2, 3])
def test_interpolation_solves_the_boundary_conditions(orders: int) -> None:
    rng = np.random.default_rng(orders)
    for _ in range(20):
        values = rng.normal(size=(2, orders, 2))
        span_ms = int(rng.integers(10, 500))
        states = [JointPoint(end * span_ms * MS, *(list(values[end]) + [None] * (3 - orders))) for end in (0, 1)]
        oracle = fitted(values, span_ms / 1e3)
        for share in (0.0, 0.25, 0.7, 1.0):
            got = interpolate(*states, round(share * span_ms * MS))
            at_s = share * span_ms / 1e3
            np.testing.assert_allclose(got.position_J, [p(at_s) for p in oracle], atol=1e-8)
            np.testing.assert_allclose(got.velocity_J, [p.deriv()(at_s) for p in oracle], atol=1e-6)
