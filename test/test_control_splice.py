"""Joining plans to the commanded motion: continuity, exactness of feasible plans, slowing of infeasible ones."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from control_kit import JOINTS, LOWER_J, SPEC, UPPER_J, smooth_plan

from starry_ros.bench.splices import rows, seam, step_over
from starry_ros.bench.streams import worst_use
from starry_ros.control.executor import Executor
from starry_ros.control.fade import BREAKS_S, FADE_TIMES_S, fade_demand, fades
from starry_ros.control.limits import Limits, admits, demand
from starry_ros.control.slices import at_once
from starry_ros.control.splice import Method, Splice, Splicer
from starry_ros.control.trajectory import Curve

LIMITS = Limits.of(SPEC)
GRIPPERS = list(SPEC.gripper_indices)
STEPS_S = 0.1 * np.arange(16)


@pytest.fixture(scope="module")
def splicer() -> Splicer:
    return Splicer(LIMITS)


def rest_at(position_J: np.ndarray) -> np.ndarray:
    motion = np.zeros((3, JOINTS))
    motion[0] = position_J
    return motion


def test_a_fade_starts_as_the_gap_and_ends_at_nothing() -> None:
    """Oracle: integrate the three jerk pieces in small steps."""
    rng = np.random.default_rng(1)
    gap = rng.normal(0, 1, (3, 2))
    for index, duration_s in enumerate(FADE_TIMES_S):
        breaks = np.linspace(0, duration_s, 4)
        wanted = np.arange(len(FADE_TIMES_S)) == index
        jerks = fades(gap, np.unique(np.concatenate((breaks, [9.0]))), wanted)[0, :3, 3]
        motion, n = gap.copy(), 3000
        for jerk in jerks:
            for _ in range(n):
                h = duration_s / 3 / n
                motion[0] += h * motion[1] + h**2 / 2 * motion[2] + h**3 / 6 * jerk
                motion[1] += h * motion[2] + h**2 / 2 * jerk
                motion[2] += h * jerk
        assert np.allclose(motion, 0, atol=1e-7)


def test_what_a_fade_demands_is_what_its_curve_demands() -> None:
    """Oracle: the offset as a curve among the pieces of all fades, looked at as any other curve."""
    rng = np.random.default_rng(2)
    gaps = rng.normal(0, [[0.1], [0.5], [2.0]], (4, 3, JOINTS))
    times = np.append(BREAKS_S, 2.0)
    found = fade_demand(gaps, LIMITS)
    for gap, found_T in zip(gaps, found, strict=True):
        offsets = fades(gap, times, np.ones(len(FADE_TIMES_S), dtype=bool))
        assert np.allclose(found_T, demand(times, offsets, LIMITS).max(axis=(1, 2)), rtol=1e-9)
        assert found_T[0] > found_T[-1] > 0


def test_a_feasible_plan_on_which_the_arms_already_are_is_followed_exactly(splicer: Splicer) -> None:
    whole = at_once(splicer.splicing(rest_at(smooth_plan(0.0)), STEPS_S + 0.1, smooth_plan(STEPS_S + 0.1)))
    assert whole is not None
    now_s = 2.35
    knots_s = np.arange(20, 40) * 0.1
    plan = at_once(Splicer(LIMITS).splicing(rest_at(smooth_plan(2.0)), knots_s - 2.0, smooth_plan(knots_s)))
    assert plan is not None
    h = 1e-5
    there = np.stack((
        smooth_plan(now_s),
        (smooth_plan(now_s + h) - smooth_plan(now_s - h)) / (2 * h),
        (smooth_plan(now_s + h) - 2 * smooth_plan(now_s) + smooth_plan(now_s - h)) / h**2,
    ))
    splice = at_once(splicer.splicing(there, knots_s - now_s, smooth_plan(knots_s)))
    assert splice is not None
    assert splice.method is Method.BLEND
    assert not splice.limited_J.any()
    t = np.linspace(0, 1.2, 121)
    assert np.abs(splice.curve.sample(t)[:, 0] - smooth_plan(now_s + t)).max() < 2e-4


def test_every_splice_starts_with_the_commanded_motion_and_obeys_every_limit(splicer: Splicer) -> None:
    """From random points of random admitted curves to random plans: continuous in position, velocity, acceleration."""
    rng, curve, methods = np.random.default_rng(2), Curve.hold(SPEC.limit("home")), set()
    for _ in range(150):
        at_s = float(rng.uniform(0, 0.8))
        motion = curve.at(at_s)
        size = rng.choice([0.003, 0.03, 0.1])
        walk = motion[0] + np.cumsum(rng.normal(0, size, (16, JOINTS)), axis=0) * (UPPER_J - LOWER_J) / 6
        time_s = STEPS_S - float(rng.uniform(-0.1, 1.3))
        splice = at_once(splicer.splicing(motion, time_s, np.clip(walk, LOWER_J, UPPER_J)))
        if splice is None:
            assert motion[1:].any(), "from rest every plan can be reached"
            continue
        methods.add(splice.method)
        assert step_over(curve, at_s, splice.curve) < 1e-9
        assert seam(splice.curve) < 1e-9
        assert admits(splice.curve, LIMITS)
        tail_s = max(0.0, at_s - 0.03) + 0.01 * np.arange(4)
        before = curve.sample(tail_s[tail_s <= at_s + 1e-12])[:, 0]
        after = splice.curve.sample(tail_s[-1] + 0.01 - at_s + 0.01 * np.arange(60))[:, 0]
        across = np.concatenate((before, after)) if at_s >= 0.03 else after
        assert max(worst_use(across, SPEC, 100.0).values()) <= 1 + 1e-6
        assert not splice.curve.at(splice.curve.duration_s)[1:].any()
        assert np.allclose(splice.curve.at(1e9)[0], np.clip(walk, LOWER_J, UPPER_J)[-1], atol=1e-8)
        curve = splice.curve
    assert methods == set(Method)


def test_a_plan_that_is_too_fast_is_slowed_as_a_whole_and_keeps_its_path(splicer: Splicer) -> None:
    """Two joints on a straight line in joint space, six times too fast: the line is kept."""
    knots = np.repeat(SPEC.limit("home")[None], 16, axis=0)
    knots[:, 0] += 1.2 * np.sin(STEPS_S * 4)
    knots[:, 7] += 0.6 * np.sin(STEPS_S * 4)
    splice = at_once(splicer.splicing(rest_at(knots[0]), STEPS_S + 0.05, knots))
    assert splice is not None
    assert splice.limited_J[0]
    assert splice.delay_s > 0.5
    positions = splice.curve.sample(np.linspace(0, splice.curve.duration_s, 500))[:, 0]
    assert np.allclose(positions[:, 0] - knots[0, 0], 2 * (positions[:, 7] - knots[0, 7]), atol=1e-9)
    for knot in knots:
        assert np.abs(positions - knot).max(axis=1).min() < 0.16 * 1.2 / 6 + 0.005


def test_a_plan_that_leaves_the_range_of_a_joint_is_cut_off_there_and_the_joint_is_said_to_be_limited(
    splicer: Splicer
) -> None:
    knots = np.repeat(SPEC.limit("home")[None], 16, axis=0)
    knots[:, 1] = np.linspace(knots[0, 1], UPPER_J[1] + 0.02 * (UPPER_J[1] - LOWER_J[1]), 16)
    knots[:, GRIPPERS] = np.minimum(knots[:, GRIPPERS], LOWER_J[GRIPPERS] - 0.0001)
    splice = at_once(splicer.splicing(rest_at(np.clip(knots[0], LOWER_J, UPPER_J)), STEPS_S * 3, knots))
    assert splice is not None
    assert splice.limited_J.nonzero()[0].tolist() == [1]
    assert splice.curve.at(1e9)[0, 1] == pytest.approx(UPPER_J[1], abs=1e-8)


def test_the_arms_wait_for_a_jaw_that_is_slower_than_the_plan(splicer: Splicer) -> None:
    """The plan closes the jaws within one step while the waist moves on: the waist is late by what the jaws need."""
    knots = np.repeat(SPEC.limit("home")[None], 16, axis=0)
    knots[:, 0] = 0.3 * (1 - np.cos(STEPS_S * 2))
    closing = knots.copy()
    closing[:, GRIPPERS] = np.where(STEPS_S < 0.5, 0.04, 0.0)[:, None]
    plain, jaws = (at_once(splicer.splicing(rest_at(k[0]), STEPS_S, k)) for k in (knots, closing))
    assert plain is not None
    assert jaws is not None
    assert jaws.limited_J.nonzero()[0].tolist() == GRIPPERS
    assert plain.delay_s + 0.03 < jaws.delay_s < plain.delay_s + 0.5
    dense = jaws.curve.sample(np.linspace(0, 3, 300))[:, 0]
    assert np.diff(dense[:, GRIPPERS[0]]).max() < 1e-9, "the jaw closes in one go"
    half_closed = int(np.argmax(dense[:, GRIPPERS[0]] < 0.02))
    assert dense[half_closed, 0] == pytest.approx(0.3 * (1 - np.cos(0.45 * 2)), abs=0.02), "where the plan meant it to"


def test_arms_that_are_behind_join_their_path_where_they_are(splicer: Splicer) -> None:
    """0.2 s late, too far for a gentle fade: no cut across to where the plan is, and no haste."""
    knots_s = np.arange(0, 30) * 0.1
    now_s, late_s, h = 2.0, 0.2, 1e-4
    here_s = now_s - late_s + np.array([-h, 0, h])
    q = smooth_plan(here_s, amplitude=0.5)
    there = np.stack((q[1], (q[2] - q[0]) / (2 * h), (q[2] - 2 * q[1] + q[0]) / h**2))
    splice = at_once(splicer.splicing(there, knots_s - now_s, smooth_plan(knots_s, amplitude=0.5)))
    assert splice is not None
    t = np.linspace(0, 0.5, 50)
    path = smooth_plan(np.linspace(1.5, 2.9, 1400), amplitude=0.5)
    off = [np.abs(path - q_J).max(axis=1).min() for q_J in splice.curve.sample(t)[:, 0]]
    across = [np.abs(path - q_J).max(axis=1).min() for q_J in np.linspace(q[1], smooth_plan(2.3, amplitude=0.5), 50)]
    assert max(off) < 0.02
    assert max(off) < 0.5 * max(across)


def test_a_plan_with_sharp_corners_is_rounded_before_it_is_slowed(splicer: Splicer) -> None:
    """A velocity step that the interpolating spline cannot make: a corner cut by a sixth of the second difference."""
    knots = np.repeat(SPEC.limit("home")[None], 16, axis=0)
    knots[:, 0] = np.where(STEPS_S < 0.7, 0.0, (STEPS_S - 0.7) * 0.5)
    splice = at_once(splicer.splicing(rest_at(knots[0]), STEPS_S, knots))
    assert splice is not None
    assert splice.limited_J[0]
    waist = splice.curve.sample(STEPS_S[:12])[:, 0, 0]
    assert np.abs(waist - knots[:12, 0]).max() == pytest.approx(0.05 / 6, rel=0.1)


def test_a_plan_that_ends_in_motion_slows_down_before_its_last_knot(splicer: Splicer) -> None:
    knots = np.repeat(SPEC.limit("home")[None], 16, axis=0)
    knots[:, 0] = 0.08 * np.arange(16)
    splice = at_once(splicer.splicing(rest_at(knots[0]), STEPS_S, knots))
    assert splice is not None
    waist = splice.curve.sample(np.linspace(0, 5, 5001))[:, 0, 0]
    assert waist.max() <= knots[-1, 0] + 1e-9
    assert waist[-1] == pytest.approx(knots[-1, 0])
    assert 0 < splice.delay_s < 0.4


@pytest.mark.parametrize("piece", [0, 1, 5, -1])
def test_a_jump_is_found_wherever_it_is(splicer: Splicer, piece: int) -> None:
    """At the splice itself, at the first breakpoint after it, inside, and at the end."""
    standing = Curve.hold(SPEC.limit("home"))
    splice = at_once(splicer.splicing(rest_at(SPEC.limit("home")), STEPS_S, smooth_plan(STEPS_S)))
    assert splice is not None
    pieces = splice.curve.pieces_B4J.copy()
    pieces[piece:, 0, 3] += 2e-9
    broken = Curve(splice.curve.time_s_B, pieces)
    assert max(seam(splice.curve), step_over(standing, 0.3, splice.curve)) < 1e-12
    assert max(seam(broken), step_over(standing, 0.3, broken)) == pytest.approx(2e-9, rel=1e-3)


def test_a_motion_to_a_meeting_point_ends_on_it_to_the_last_digit() -> None:
    """What the generator's tolerance leaves of the way is spread over it, and is no jump at the meeting point."""
    rng = np.random.default_rng(5)
    move = Curve.from_motions(np.array([0.0, 0.1, 0.4]), np.zeros((3, 3, JOINTS)))
    target = rng.normal(0, 1e-8, JOINTS)
    moved = move.ending_at(target)
    assert np.array_equal(moved.at(1.0)[0], target)
    assert not moved.at(0.0).any(), "it begins as it did"
    assert seam(moved) < 1e-22
    assert np.abs(moved.sample(np.linspace(0, 0.399, 50))[:, 1]).max() < 1e-6


def test_what_is_commanded_never_jumps_over_random_splices() -> None:
    position, velocity = rows(SPEC, 60, seed=3)
    assert position["value"] < 1e-9
    assert 0.9 < velocity["value"] <= 1
    assert position["splices"] == 60 <= position["curves"]
    assert position["answers"]["out_of_order"] > 10


@pytest.mark.parametrize("way", ["splice", "breakpoint", "velocity"])
def test_a_splice_that_jumps_misses_the_bars(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    follow = Executor._follow

    def wrong(executor: Executor, splice: Splice) -> None:
        pieces = splice.curve.pieces_B4J.copy()
        if way == "velocity":
            pieces[:, 0] += 0.002
        else:
            pieces[0 if way == "splice" else 1 :, 0] += 3e-9
        follow(executor, dataclasses.replace(splice, curve=Curve(splice.curve.time_s_B, pieces)))

    monkeypatch.setattr(Executor, "_follow", wrong)
    position, velocity = rows(SPEC, 2 if way == "velocity" else 8, seed=3)
    assert position["value"] > 1e-9
    assert (velocity["value"] > 1) == (way == "velocity")
