"""Plans at the pace of the joints: nothing takes longer than a plan says."""

from __future__ import annotations

import numpy as np
import pytest
from wam_kit import JOINTS, MIDDLE_J, SPEC

from starry_ros.wam.pace import Pace

STEPS = 16
JAWS = list(SPEC.gripper_indices)
ARMS = [joint for joint in range(JOINTS) if joint not in JAWS]
LONGEST_J = SPEC.limit("velocity") * SPEC.action.step_s


def way(seed: int, share: float = 0.9) -> np.ndarray:
    """A chunk whose longest steps are a share of those allowed."""
    steps_KJ = np.random.default_rng(seed).uniform(-share, share, (STEPS, JOINTS)) * LONGEST_J
    steps_KJ[:, JAWS] = 0.0
    return np.asarray(MIDDLE_J + np.cumsum(steps_KJ, axis=0))


@pytest.mark.parametrize("committed", [0, 5, STEPS])
def test_a_plan_that_joints_can_follow_stays_as_it_is(committed: int) -> None:
    positions_KJ = way(1)
    assert np.array_equal(Pace(SPEC).of_arms(positions_KJ, committed), positions_KJ)


def test_a_jump_after_the_committed_steps_takes_its_time_and_all_that_follows_comes_later() -> None:
    """A joint jumps by four steps' way: three steps are put in, and the last three of the plan fall away."""
    positions_KJ, joint, committed = way(2, share=0.0), ARMS[1], 6
    positions_KJ[:committed, joint] += 4 * LONGEST_J[joint]
    positions_KJ[10:, JAWS[0]] = 0.0
    paced_KJ = Pace(SPEC).of_arms(positions_KJ, committed)
    assert np.array_equal(paced_KJ[:committed], positions_KJ[:committed]), "what is committed stays"
    back = positions_KJ[0, joint] - np.arange(5) * LONGEST_J[joint]
    assert np.allclose(paced_KJ[committed - 1 : committed + 4, joint], back, atol=1e-12)
    assert np.allclose(paced_KJ[committed + 3 :], positions_KJ[committed:-3], atol=1e-12)
    assert paced_KJ[12, JAWS[0]] == pytest.approx(MIDDLE_J[JAWS[0]]), "the jaw waits for the arm"
    assert paced_KJ[13, JAWS[0]] == pytest.approx(0.0)


def test_no_step_is_longer_than_allowed_and_the_way_is_the_same() -> None:
    for seed in range(50):
        positions_KJ = way(seed, share=3.0)
        paced_KJ = Pace(SPEC).of_arms(positions_KJ, 0)
        assert (np.abs(np.diff(paced_KJ[:, ARMS], axis=0)) <= LONGEST_J[ARMS] * (1 + 1e-9)).all()
        for row_J in paced_KJ:  # on the polyline of the plan
            ahead = np.diff(positions_KJ, axis=0)
            share_K = ((row_J - positions_KJ[:-1]) * ahead).sum(axis=1) / (ahead**2).sum(axis=1)
            nearest_KJ = positions_KJ[:-1] + np.clip(share_K, 0, 1)[:, None] * ahead
            assert np.abs(nearest_KJ - row_J).max(axis=1).min() < 1e-9


def test_committed_steps_are_never_stretched() -> None:
    positions_KJ = way(3, share=4.0)
    assert np.array_equal(Pace(SPEC).of_arms(positions_KJ, STEPS), positions_KJ)


def test_jaws_jump_at_no_pace_of_arms() -> None:
    positions_KJ = way(4)
    positions_KJ[5:, JAWS] = 0.0
    assert np.array_equal(Pace(SPEC).of_arms(positions_KJ, 0), positions_KJ)


@pytest.mark.parametrize("joint", JAWS)
def test_a_jaw_that_jumps_gets_the_time_its_limits_ask_for(joint: int) -> None:
    """0.04 m at 0.2 m/s and 2 m/s^2: 0.2 s and 0.1 s more, three steps; the fastest of them 0.133 m/s."""
    positions_KJ = way(5)
    positions_KJ[:, joint] = [0.03] * 5 + [0.01] * 11
    Pace(SPEC).snap_jaws(positions_KJ, 0)
    rows = positions_KJ[:, joint]
    assert np.allclose(rows, [0.04] * 4 + [0.08 / 3, 0.04 / 3] + [0.0] * 10, atol=1e-12)
    speed = np.abs(np.diff(rows)) / SPEC.action.step_s
    assert speed.max() < SPEC.limit("velocity")[joint]
    assert np.abs(np.diff(speed)).max() / SPEC.action.step_s < SPEC.limit("acceleration")[joint]
