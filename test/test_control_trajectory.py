"""Curves against finite differences, dense sampling and the edge table."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from starry_ros.control.trajectory import Curve, peak_velocity, position_range, taylor, through_knots

WIDE = np.array([10.0, 10.0])


def random_knots(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.cumsum(rng.uniform(0.05, 0.2, count)), np.cumsum(rng.normal(0, 0.1, (count, 2)), axis=0)


def random_curve(rng: np.random.Generator, *, from_rest: bool = False) -> Curve:
    return through_knots(*random_knots(rng, int(rng.integers(2, 20))), -WIDE, WIDE, from_rest=from_rest)


@pytest.mark.parametrize("from_rest", [False, True])
def test_a_curve_goes_through_its_knots_and_ends_at_rest(from_rest: bool) -> None:
    rng = np.random.default_rng(1)
    for count in range(2, 20):
        time_s, position = random_knots(rng, count)
        curve = through_knots(time_s, position, -WIDE, WIDE, from_rest=from_rest)
        assert np.allclose(curve.sample(time_s - time_s[0])[:, 0], position, atol=1e-10)
        assert not curve.at(curve.duration_s)[1:].any()
        assert np.allclose(curve.at(curve.duration_s - 1e-9)[1:], 0, atol=1e-5)
        if from_rest:
            assert np.allclose(curve.at(0.0)[1:], 0, atol=1e-9)


def test_velocity_and_acceleration_are_the_derivatives_of_position() -> None:
    rng, h = np.random.default_rng(2), 1e-4
    for _ in range(20):
        curve = random_curve(rng)
        t = rng.uniform(2 * h, curve.duration_s - 2 * h, 50)
        before, here, after = (curve.sample(t + shift) for shift in (-h, 0.0, h))
        jerk = np.abs(curve.pieces_B4J[:, 3]).max()
        assert np.allclose((after[:, 0] - before[:, 0]) / (2 * h), here[:, 1], atol=jerk * h**2)
        assert np.allclose((after[:, 1] - before[:, 1]) / (2 * h), here[:, 2], atol=jerk * h)


def test_a_curve_is_c2_across_its_pieces() -> None:
    rng = np.random.default_rng(3)
    for from_rest in (False, True):
        for _ in range(20):
            curve = random_curve(rng, from_rest=from_rest)
            for start_s in curve.time_s_B[1:]:
                assert np.allclose(curve.at(start_s - 1e-12), curve.at(start_s), atol=1e-6)


def test_between_its_ends_a_long_plan_is_the_usual_cubic_spline() -> None:
    time_s = np.arange(30) * 0.1
    position = np.sin(time_s)[:, None] * np.array([[1.0, 0.5]])
    curve = through_knots(time_s, position, -WIDE, WIDE)
    middle_s = np.linspace(0.0, 2.0, 77)
    assert np.allclose(curve.sample(middle_s)[:, 0], CubicSpline(time_s, position)(middle_s), atol=1e-6)


def test_the_edge_table_holds() -> None:
    time_s, position = random_knots(np.random.default_rng(4), 6)
    curve = through_knots(time_s, position, -WIDE, WIDE)
    assert np.array_equal(curve.at(-5.0), curve.at(0.0))
    for late_s in (0.0, 1e-9, 1.0, 1e6):
        assert np.allclose(curve.at(curve.duration_s + late_s)[0], position[-1])
        assert not curve.at(curve.duration_s + late_s)[1:].any()
    with pytest.raises(ValueError, match="at least one knot"):
        through_knots(np.zeros(0), np.zeros((0, 2)), -WIDE, WIDE)
    single = through_knots(np.zeros(1), position[:1], -WIDE, WIDE)
    assert np.allclose(single.sample(np.linspace(-1, 1, 9))[:, 0], position[0])
    assert np.array_equal(Curve.hold(position[0]).at(3.0)[0], position[0])


def test_a_joint_whose_spline_would_leave_its_limits_stays_within_its_knots() -> None:
    rng = np.random.default_rng(5)
    for from_rest in (False, True):
        for _ in range(50):
            time_s = np.arange(16) * 0.1
            jaw = np.where(np.arange(16) < rng.integers(1, 16), 0.04, 0.0)
            curve = through_knots(
                time_s, np.stack((jaw, jaw), axis=1), np.array([0.0, -1.0]), np.array([0.04, 1.0]), from_rest=from_rest
            )
            dense = curve.sample(np.linspace(0, 2, 2001))[:, 0]
            assert dense[:, 0].min() >= -1e-12
            assert dense[:, 0].max() <= 0.04 + 1e-12
            assert dense[-1, 0] == pytest.approx(jaw[-1])
            assert dense[:, 1].max() > 0.0401 or dense[:, 1].min() < -1e-4 or np.ptp(jaw) == 0


def test_ranges_and_peaks_agree_with_dense_sampling() -> None:
    rng = np.random.default_rng(6)
    for _ in range(50):
        curve = random_curve(rng)
        dense = curve.sample(np.linspace(0, curve.duration_s, 20001))
        low, high = position_range(curve.time_s_B, curve.pieces_B4J)
        assert np.allclose(low, dense[:, 0].min(axis=0), atol=1e-6)
        assert np.allclose(high, dense[:, 0].max(axis=0), atol=1e-6)
        peak = peak_velocity(curve.time_s_B, curve.pieces_B4J).max(axis=0)
        assert np.allclose(peak, np.abs(dense[:, 1]).max(axis=0), rtol=1e-4)


def test_cutting_joining_and_slowing_keep_the_motion() -> None:
    rng = np.random.default_rng(7)
    for _ in range(30):
        curve = random_curve(rng)
        at_s = float(rng.uniform(0, curve.duration_s * 1.2))
        t = rng.uniform(0, 3, 40)
        assert np.allclose(curve.cut(at_s).sample(t), curve.sample(t + at_s), atol=1e-9)
        assert np.allclose(curve.then(at_s, curve.cut(at_s)).sample(t), curve.sample(t), atol=1e-9)
        slow = curve.slowed(2.0).sample(2 * t)
        assert np.allclose(slow * np.array([1, 2, 4])[:, None], curve.sample(t), atol=1e-9)


def test_the_transition_matrix_integrates_constant_jerk() -> None:
    motion, step_s = np.array([0.1, -0.4, 2.0, 30.0]), 0.3
    brute, n = motion.copy(), 200_000
    for _ in range(20):  # twenty coarse steps, each with the closed form of the same constant jerk
        brute[:3] = taylor(step_s / 20) @ brute
    assert np.allclose(brute[:3], taylor(step_s) @ motion, atol=1e-12)
    t = (np.arange(n) + 0.5) * step_s / n
    velocity = motion[1] + motion[2] * t + motion[3] * t**2 / 2
    assert (taylor(step_s) @ motion)[0] == pytest.approx(motion[0] + velocity.mean() * step_s, abs=1e-10)
