"""Normalisation: known values, exact round trips, floors, JSON."""

from __future__ import annotations

import json
import statistics

import numpy as np
import pytest

from starry_ros.errors import CheckpointError, InputError
from starry_ros.wam.normalise import NormStats, fit

GRIPPERS = (2, 5)


def _data(seed: int = 0, count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Six joints: 0, 1 move, 2 is a gripper; 3, 4 never move, 5 is a gripper that stays open."""
    rng = np.random.default_rng(seed)
    states = np.zeros((count, 6))
    states[:, :2] = rng.normal(0.3, 0.5, (count, 2))
    states[:, 2] = rng.uniform(0, 0.04, count)
    states[:, 3:] = [0.7, -0.9, 0.04]
    plans = states[:, None].repeat(4, 1)
    plans[:, :, :2] += np.cumsum(rng.normal(0.02, 0.05, (count, 4, 2)), 1)
    plans[:, :, 2] = rng.choice([0.0, 0.04], (count, 4))
    return plans, states


def test_known_values_by_hand() -> None:
    stats = NormStats(
        relative_J=np.array([1.0, 0.0]), action_offset_KJ=np.array([[0.1, 0.02], [0.2, 0.02]]),
        action_scale_KJ=np.array([[0.5, 0.02], [0.25, 0.02]]), state_offset_J=np.array([1.0, 0.02]),
        state_scale_J=np.array([2.0, 0.02]),
    )
    x = stats.actions_to_model(np.array([[1.6, 0.04], [1.7, 0.0]]), np.array([1.0, 0.04]))
    np.testing.assert_allclose(x, [[(0.6 - 0.1) / 0.5, 1.0], [(0.7 - 0.2) / 0.25, -1.0]])
    np.testing.assert_allclose(stats.state_to_model(np.array([2.0, 0.0])), [0.5, -1.0])


def test_fit_equals_a_naive_loop_over_steps_and_joints() -> None:
    plans, states = _data()
    stats = fit(plans, states, GRIPPERS)
    for k in range(4):
        for j in (0, 1):
            changes = [plan[k][j] - state[j] for plan, state in zip(plans, states, strict=True)]
            assert stats.action_offset_KJ[k, j] == pytest.approx(statistics.fmean(changes))
            assert stats.action_scale_KJ[k, j] == pytest.approx(statistics.pstdev(changes))
    assert stats.state_scale_J[0] == pytest.approx(statistics.pstdev(states[:, 0].tolist()))


def test_model_units_of_the_training_data_are_standard_and_grippers_span_minus_one_to_one() -> None:
    plans, states = _data()
    stats = fit(plans, states, GRIPPERS)
    x = stats.actions_to_model(plans, states)
    np.testing.assert_allclose(x[..., :2].mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(x[..., :2].std(0), 1, atol=1e-12)
    assert (x[..., 2].min(), x[..., 2].max()) == (pytest.approx(-1), pytest.approx(1))


def test_round_trip_is_exact_with_and_without_batch_dimensions() -> None:
    plans, states = _data()
    stats = fit(plans, states, GRIPPERS)
    for shape in ((), (3,), (2, 3)):
        rng = np.random.default_rng(len(shape))
        positions, state = rng.uniform(-3, 3, (*shape, 4, 6)), rng.uniform(-3, 3, (*shape, 6))
        back = stats.actions_from_model(stats.actions_to_model(positions, state), state)
        np.testing.assert_allclose(back, positions, atol=1e-14)
        np.testing.assert_allclose(stats.state_from_model(stats.state_to_model(state)), state, atol=1e-14)


def test_gripper_actions_do_not_depend_on_the_measured_opening() -> None:
    plans, states = _data()
    stats = fit(plans, states, GRIPPERS)
    moved = states.copy()
    moved[:, GRIPPERS] += 0.01
    np.testing.assert_array_equal(stats.actions_to_model(plans, states), stats.actions_to_model(plans, moved))


def test_joints_that_never_move_have_a_floor_and_stay_where_they_are() -> None:
    plans, states = _data()
    stats = fit(plans, states, GRIPPERS)
    np.testing.assert_array_equal(stats.action_scale_KJ[:, 3:5], 0.02)
    np.testing.assert_array_equal(stats.action_scale_KJ[:, 5], 0.005)
    noisy = stats.actions_from_model(np.full((4, 6), 0.1), states[0])
    assert np.abs(noisy - states[0])[:, 3:5].max() <= 0.002 + 1e-12
    assert np.abs(noisy - states[0])[:, 5].max() <= 0.0005 + 1e-12


def test_json_keeps_every_bit() -> None:
    stats = fit(*_data(), GRIPPERS)
    back = NormStats.from_json_dict(json.loads(json.dumps(stats.to_json_dict())))
    for name in NormStats.__dataclass_fields__:
        assert np.array_equal(getattr(back, name), getattr(stats, name))


def test_statistics_cannot_be_changed() -> None:
    stats = fit(*_data(), GRIPPERS)
    with pytest.raises(ValueError, match="read-only"):
        stats.state_scale_J[0] = 1.0


@pytest.mark.parametrize("damage", ["missing", "unknown", "ragged", "zero", "nan", "shape", "text", "scalar"])
def test_damaged_statistics_are_refused(damage: str) -> None:
    raw = fit(*_data(), GRIPPERS).to_json_dict()
    if damage == "missing":
        del raw["relative_J"]
    elif damage == "unknown":
        raw["more"] = 1
    else:
        raw["state_scale_J"] = {
            "ragged": [[1.0], 1.0], "zero": [0.0] * 6, "nan": [float("nan")] * 6, "shape": [1.0] * 5, "text": "x",
            "scalar": 1,
        }[damage]
    with pytest.raises(CheckpointError, match="norm stats"):
        NormStats.from_json_dict(raw)


def test_non_finite_demonstrations_are_refused() -> None:
    plans, states = _data()
    plans[3, 1, 0] = np.nan
    with pytest.raises(InputError, match="not finite"):
        fit(plans, states, GRIPPERS)
