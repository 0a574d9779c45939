"""Imagination against reality: closed forms, a moved token among undisturbed ones, and the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from starry_ros.errors import CheckpointError
from starry_ros.wam.surprise import FLOOR, Calibration, Dream, Monitor, calibrate, measured, progress, roc_area

N, D = 30, 16
RNG = np.random.default_rng(0)
COLUMNS, TOKENS = 5, np.arange(N)
NOISE_N = np.where(np.arange(N) < 6, 0.5, 0.05)
"""How badly each token is imagined in an undisturbed world: where the arms move, badly."""


def frames(rng: np.random.Generator, moved: int = 0) -> tuple[Dream, np.ndarray]:
    seen = rng.standard_normal((N, D))
    real = seen + rng.standard_normal((N, D)) * (np.arange(N) < 6)[:, None]
    imagined = real + NOISE_N[:, None] * rng.standard_normal((N, D))
    tokens = rng.choice(np.arange(12, N), moved, replace=False)
    real = real.copy()
    real[tokens] += rng.standard_normal((moved, D))
    return Dream(1_000, seen.astype(np.float32), imagined.astype(np.float32)), real.astype(np.float32)


def undisturbed(count: int, seed: int) -> list[tuple[Dream, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [frames(rng) for _ in range(count)]


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return calibrate(undisturbed(150, 1), undisturbed(100, 2), TOKENS, COLUMNS)


def test_a_moved_object_is_told_from_an_undisturbed_world(calibration: Calibration) -> None:
    rng = np.random.default_rng(3)
    usual = [calibration.surprise(*frames(rng)) for _ in range(60)]
    moved = [calibration.surprise(*frames(rng, moved=2)) for _ in range(60)]
    assert roc_area(usual, moved) > 0.95
    assert np.mean([calibration.level(value) >= 1 for value in usual]) < 0.1


def test_change_counts_around_a_token_and_only_among_those_that_count() -> None:
    """Oracle: a loop over the grid."""
    dream, real = frames(np.random.default_rng(7))
    tokens = np.arange(20)
    change, distance = measured(dream, real, tokens, COLUMNS)
    own = np.log(((dream.imagined_ND - dream.seen_ND).astype(np.float64) ** 2).mean(1) + FLOOR)
    for k in tokens:
        near = [n for n in tokens if abs(n // 5 - k // 5) <= 1 and abs(n % 5 - k % 5) <= 1]
        assert change[k] == pytest.approx(max(own[n] for n in near))
        apart = np.log(((dream.imagined_ND[k] - real[k]).astype(np.float64) ** 2).mean() + FLOOR)
        assert distance[k] == pytest.approx(apart)


def test_levels_are_one_where_it_slows_and_two_where_it_stops(calibration: Calibration) -> None:
    assert calibration.level(calibration.slow_at) == pytest.approx(1.0)
    assert calibration.level(calibration.stop_at) == pytest.approx(2.0)
    assert calibration.level(-100.0) == 0.0
    assert calibration.stop_at > calibration.slow_at


def test_progress_is_the_share_of_the_imagined_change() -> None:
    dream, _ = frames(np.random.default_rng(4))
    for share in (0.0, 0.3, 1.0, 1.2):
        real = dream.seen_ND + share * (dream.imagined_ND - dream.seen_ND)
        assert progress(dream, real) == pytest.approx(share, abs=1e-5)


def test_the_area_counts_ties_half() -> None:
    """Oracle: every pair, one by one."""
    usual, moved = [1.0, 2.0, 2.0, 5.0], [2.0, 3.0, 6.0]
    wins = sum((m > u) + 0.5 * (m == u) for m in moved for u in usual)
    assert roc_area(usual, moved) == pytest.approx(wins / 12)


def test_a_dream_is_compared_once_and_only_with_its_own_instant(calibration: Calibration) -> None:
    dream, real = frames(np.random.default_rng(5))
    monitor = Monitor(calibration, tolerance_ns=50)
    monitor.expect(dream)
    assert monitor.compare(900, real) is None
    assert monitor.compare(1_040, real) is dream
    assert monitor.score is not None
    assert monitor.compare(1_041, real) is None
    monitor.expect(dream)
    assert monitor.compare(1_100, real) is None, "too late"
    assert monitor.compare(1_000, real) is None, "and then forgotten"


def test_a_calibration_survives_its_file_and_a_broken_one_says_so(calibration: Calibration, tmp_path: Path) -> None:
    assert Calibration.load(tmp_path) is None
    calibration.save(tmp_path)
    loaded = Calibration.load(tmp_path)
    assert loaded is not None
    dream, real = frames(np.random.default_rng(6), moved=1)
    assert loaded.surprise(dream, real) == calibration.surprise(dream, real)
    assert (loaded.slow_at, loaded.stop_at) == (calibration.slow_at, calibration.stop_at)
    (tmp_path / "surprise.json").write_text("{}")
    with pytest.raises(CheckpointError, match="starry calibrate"):
        Calibration.load(tmp_path)
