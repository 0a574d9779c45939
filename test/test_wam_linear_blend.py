"""The linear blend: how much of a new chunk is in force at every step, by an oracle of its own."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from starry_ros.wam.choices import PlanMode, SpliceMethod
from starry_ros.wam.planner import Commitment, Planner, PlannerConfig

STEPS, JOINTS = 16, 3


def tied(method: SpliceMethod, decoded: np.ndarray, known: np.ndarray, committed: int) -> np.ndarray:
    planner = object.__new__(Planner)
    planner.method, planner.config = method, PlannerConfig(PlanMode.ASYNC_GROUNDED)
    planner.session = SimpleNamespace(spec=SimpleNamespace(action=SimpleNamespace(step_s=0.1)))  # type: ignore[assignment]
    return planner._tied(decoded, Commitment(known, committed))


@pytest.mark.parametrize(("committed", "known_steps"), [(1, 4), (3, 12), (8, 16), (5, 6), (4, 4)])
def test_the_blend_fades_in_equal_steps_from_the_last_chunk_to_the_new_one(committed: int, known_steps: int) -> None:
    """The last chunk says 1, the new one 0: what is left at a step is the weight of the last chunk."""
    decoded, known = np.zeros((STEPS, JOINTS)), np.ones((known_steps, JOINTS))
    weight = tied(SpliceMethod.LINEAR_BLEND, decoded, known, committed)[:, 0].tolist()
    faded = known_steps - committed
    expected = [1.0] * committed + [1 - i / faded for i in range(1, faded + 1)] + [0.0] * (STEPS - known_steps)
    assert weight == pytest.approx(expected, abs=1e-12)


def test_a_blend_is_neither_a_hard_switch_nor_a_mean() -> None:
    rng = np.random.default_rng(0)
    decoded, known = rng.normal(size=(STEPS, JOINTS)), rng.normal(size=(12, JOINTS))
    blend, switch = (tied(m, decoded, known, 4) for m in (SpliceMethod.LINEAR_BLEND, SpliceMethod.HARD_SWITCH))
    assert np.array_equal(switch, np.concatenate((known[:4], decoded[4:])))
    assert np.array_equal(blend[:4], known[:4])
    assert np.allclose(blend[4], known[4] + (decoded[4] - known[4]) / 8)
    assert np.allclose(blend[10], known[10] + (decoded[10] - known[10]) * 7 / 8)
    assert np.allclose(blend[11:], decoded[11:], atol=1e-12)
    assert not np.shares_memory(blend, decoded)


def test_without_a_prefix_nothing_is_blended() -> None:
    decoded, known = np.zeros((STEPS, JOINTS)), np.ones((12, JOINTS))
    assert np.array_equal(tied(SpliceMethod.LINEAR_BLEND, decoded, known, 0), decoded)
