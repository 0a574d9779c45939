"""Limits, jerk-limited motion and stop tails, against closed forms and differences of dense samples."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from control_kit import SPEC

from starry_ros.control.limits import Gate, JerkLimiter, Limits, admits, demand, load_ruckig
from starry_ros.control.stop import StopPlanner
from starry_ros.control.trajectory import Curve, through_knots
from starry_ros.errors import RuntimeUnavailable

LIMITS = Limits.of(SPEC)
PLAN = LIMITS.for_planning()
ONE = Limits(np.array([-1.0]), np.array([1.0]), np.array([2.0]), np.array([10.0]), np.array([100.0]))


def dense_use(curve: Curve, limits: Limits, step_s: float = 1e-3) -> np.ndarray:
    """Share of velocity, acceleration and jerk limits used, by differences of positions alone: [3, J]."""
    positions = curve.sample(np.arange(0.0, curve.duration_s + 5 * step_s, step_s))[:, 0]
    bounds = (limits.velocity_J, limits.acceleration_J, limits.jerk_J)
    return np.array([
        np.abs(np.diff(positions, n=order, axis=0)).max(axis=0) / step_s**order / bound
        for order, bound in enumerate(bounds, start=1)
    ])


def random_plan(rng: np.random.Generator, size: float) -> Curve:
    middle, half = (PLAN.lower_J + PLAN.upper_J) / 2, (PLAN.upper_J - PLAN.lower_J) / 2
    knots = middle + half * np.clip(np.cumsum(rng.normal(0, size, (16, len(middle))), axis=0), -0.9, 0.9)
    return through_knots(np.arange(16) * 0.1, knots, PLAN.lower_J, PLAN.upper_J)


def test_demand_is_the_stretch_that_brings_a_curve_to_its_limits() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        curve = random_plan(rng, 0.1)
        factor = float(demand(curve.time_s_B, curve.pieces_B4J, PLAN).max())
        slowed = curve.slowed(factor)
        assert demand(slowed.time_s_B, slowed.pieces_B4J, PLAN).max() == pytest.approx(1.0)
        assert dense_use(slowed, PLAN).max() <= 1 + 1e-4
        assert dense_use(slowed.slowed(0.98), PLAN).max() > 1 - 0.06


def test_a_curve_is_admitted_exactly_when_it_obeys_every_limit() -> None:
    assert admits(Curve.hold(LIMITS.lower_J), LIMITS)
    assert not admits(Curve.hold(LIMITS.lower_J - 1e-6), LIMITS)
    assert not admits(Curve.hold(np.full(len(LIMITS.lower_J), np.nan)), LIMITS)
    moving = Curve.from_motions(np.array([0.0, 0.1]), np.zeros((2, 3, 1)))
    too_jerky = Curve(moving.time_s_B, moving.pieces_B4J + np.array([0, 0, 0, 101.0])[:, None])
    assert admits(moving, ONE)
    assert not admits(too_jerky, ONE)


@pytest.mark.parametrize(
    ("speed", "duration_s"),
    [(0.1, 2 * np.sqrt(0.1 / 100)), (1.0, 2 * np.sqrt(1.0 / 100)), (2.0, 2.0 / 10 + 10.0 / 100)],
)
def test_a_stop_takes_as_long_as_the_closed_form_says(speed: float, duration_s: float) -> None:
    """Triangular below v = A^2 / J, trapezoidal above; the distance is v T / 2 by symmetry."""
    curve = JerkLimiter(ONE).stop(np.array([[0.0], [speed], [0.0]]))
    assert curve is not None
    assert curve.duration_s == pytest.approx(duration_s, abs=1e-6)
    assert curve.at(9.0)[0, 0] == pytest.approx(speed * duration_s / 2, abs=1e-6)


def test_reaching_arrives_at_the_target_with_all_joints_together_inside_the_limits() -> None:
    rng, limiter = np.random.default_rng(2), JerkLimiter(PLAN)
    for _ in range(200):
        plan = random_plan(rng, 0.01)
        if not admits(plan, PLAN):
            continue
        begin, target = plan.at(rng.uniform(0, 1.5)), plan.at(rng.uniform(0, 1.5))
        least_s = float(rng.uniform(0, 1))
        curve = limiter.reach(begin, target, least_s)
        assert curve is not None
        assert curve.duration_s >= least_s - 1e-9
        arrival = curve.at(curve.duration_s - 1e-9)
        assert np.allclose(arrival, target, atol=1e-5)
        assert np.array_equal(curve.at(0.0), begin)
        moving = Curve(curve.time_s_B[:-1], curve.pieces_B4J[:-1])
        use = [moving.sample(np.linspace(0, curve.duration_s, 500)[:-1])[:, row] for row in (1, 2)]
        assert (np.abs(use[0]) <= PLAN.velocity_J * (1 + 1e-6)).all()
        assert (np.abs(use[1]) <= PLAN.acceleration_J * (1 + 1e-6)).all()


def test_a_motion_that_is_not_finite_is_never_computed_with() -> None:
    limiter = JerkLimiter(ONE)
    for bad in (np.nan, np.inf):
        assert limiter.stop(np.array([[0.0], [bad], [0.0]])) is None


def test_a_stop_from_anywhere_on_an_admitted_plan_obeys_every_limit_and_starts_there() -> None:
    rng, planner, tried = np.random.default_rng(3), StopPlanner(PLAN), 0
    while tried < 150:
        plan = random_plan(rng, float(rng.uniform(0.001, 0.03)))
        need = float(demand(plan.time_s_B, plan.pieces_B4J, PLAN).max())
        plan = plan.slowed(max(need, 1.0))
        at_s = float(rng.uniform(0, plan.duration_s))
        curve = planner.stop(plan, at_s)
        tried += 1
        assert np.allclose(curve.at(0.0), plan.at(at_s), atol=1e-12)
        assert admits(curve, PLAN)
        assert dense_use(curve, LIMITS).max() <= 1 + 1e-6
        positions = curve.sample(np.linspace(0, 3, 3001))[:, 0]
        assert (positions >= LIMITS.lower_J - 1e-9).all()
        assert (positions <= LIMITS.upper_J + 1e-9).all()
        assert not curve.at(curve.duration_s)[1:].any()


def test_a_stop_next_to_a_position_limit_does_not_pass_it() -> None:
    """The joint reverses just inside its limit: the fastest stop from there would swing out."""
    time_s = np.arange(12) * 0.1
    towards = 1.0 - 0.6 * np.abs(np.cos(time_s * 3.0))
    plan = through_knots(time_s, towards[:, None], ONE.lower_J, ONE.upper_J)
    plan = plan.slowed(max(1.0, float(demand(plan.time_s_B, plan.pieces_B4J, ONE).max())))
    planner = StopPlanner(ONE)
    for at_s in np.linspace(0, plan.duration_s, 400):
        assert admits(planner.stop(plan, float(at_s)), ONE)


def test_the_gate_lets_one_legal_step_pass_and_names_the_joints_of_an_illegal_one() -> None:
    period_s = 0.01
    gate = Gate(LIMITS, period_s)
    rest = np.zeros((3, len(LIMITS.lower_J)))
    rest[0] = SPEC.limit("home")
    assert gate.violations(rest, rest) is None
    for row, joint, by in ((0, 2, 0.1), (1, 3, 0.2), (2, 4, 1.6), (1, 5, np.nan)):
        after = rest.copy()
        after[row, joint] += by
        broken = gate.violations(rest, after)
        assert broken is not None
        assert broken.nonzero()[0].tolist() == [joint]
    outside = rest.copy()
    outside[0] = LIMITS.upper_J + 1e-6
    assert gate.violations(outside, outside).all()


def test_without_ruckig_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ruckig", None)
    with pytest.raises(RuntimeUnavailable, match="pip install ruckig"):
        load_ruckig()
