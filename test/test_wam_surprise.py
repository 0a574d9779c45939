"""Imagination against reality: closed forms, a moved token among undisturbed ones, and the file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from starry_ros.errors import CheckpointError
from starry_ros.types import LandingPoint, ValueMap
from starry_ros.wam.aim import MAP_FLOOR, POINT_FLOOR_PX, Aim, aim_of, shift
from starry_ros.wam.config import ViewConfig
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
    rng = np.random.default_rng(2)
    shifts = [shift(*aims(rng, rng.uniform(0, 0.5))) or 0.0 for _ in range(200)]
    return calibrate(undisturbed(150, 1), shifts[:130], shifts[130:], undisturbed(100, 9), TOKENS, COLUMNS)


def aims(rng: np.random.Generator, moved_px: float, free: bool = True) -> tuple[Aim, Aim]:
    """The aims of two plans: round spots on a map of 32 x 40, the first of which moves."""
    rows, columns = np.mgrid[:32, :40]
    first, second = rng.uniform(10, 100, 2), rng.uniform(10, 100, 2)
    angle = rng.uniform(0, 2 * np.pi)

    def aim(stamp_ns: int, *points: np.ndarray) -> Aim:
        maps = [np.exp(-((columns - p[0] / 4) ** 2 + (rows - p[1] / 4) ** 2) / 8) for p in points]
        return Aim(stamp_ns, np.array(points), np.array(maps, dtype=np.float32), free)

    return aim(0, first, second), aim(1, first + moved_px * np.array((np.cos(angle), np.sin(angle))), second)


def test_a_moved_object_takes_the_aim_along_and_is_told_from_an_undisturbed_world(calibration: Calibration) -> None:
    rng = np.random.default_rng(3)
    usual = [calibration.surprise(*aims(rng, rng.uniform(0, 0.5))) for _ in range(60)]
    moved = [calibration.surprise(*aims(rng, 6.0)) for _ in range(60)]
    assert roc_area([u for u in usual if u is not None], [m for m in moved if m is not None]) > 0.95
    assert np.mean([calibration.level(value) >= 1 for value in usual if value is not None]) < 0.15


def test_the_shift_of_an_aim_by_hand() -> None:
    rng = np.random.default_rng(1)
    before, now = aims(rng, 0.0)
    assert shift(before, now) == pytest.approx(np.log(POINT_FLOOR_PX) + np.log(MAP_FLOOR))
    handed_over = replace(now, point_E2=before.point_E2[::-1], map_EYX=before.map_EYX[::-1])
    assert shift(before, handed_over) == pytest.approx(np.log(POINT_FLOOR_PX) + np.log(MAP_FLOOR)), "the next stage"
    apart = replace(now, point_E2=before.point_E2 + np.array((3.0, 4.0)), map_EYX=np.zeros_like(now.map_EYX))
    assert shift(before, apart) == pytest.approx(np.log(5.0 + POINT_FLOOR_PX) + np.log(1.0 + MAP_FLOOR))
    assert shift(*aims(rng, 9.0, free=False)) is None


def test_an_aim_is_the_part_of_a_plan_in_one_view() -> None:
    points = tuple(LandingPoint(camera, e, 10.0 * e + 1, 2.0, 1.0) for camera in ("head", "wrist") for e in range(2))
    values = np.arange(2 * 48 * 40, dtype=np.float32).reshape(2, 48, 40)
    view = ViewConfig("head", 0, 0, 160, 128)
    found = aim_of(ValueMap(7, "x", 4, values, points), view, True)
    assert found is not None
    assert (found.stamp_ns, found.point_E2.tolist()) == (7, [[1.0, 2.0], [11.0, 2.0]])
    assert np.array_equal(found.map_EYX, values[:, :32])
    assert aim_of(ValueMap(7, "x", 4, values, points[1:]), view, True) is None


def test_a_monitor_scores_an_aim_against_the_last_one_of_the_same_sentence(calibration: Calibration) -> None:
    monitor, (before, now) = Monitor(calibration, 50), aims(np.random.default_rng(8), 8.0)
    monitor.aim(before)
    assert monitor.score is not None
    assert monitor.score.level == 0
    monitor.aim(now)
    assert monitor.score.level > 1
    monitor.forget_aim()
    monitor.aim(before)
    assert monitor.score.level == 0


def test_a_picture_that_differs_is_told_from_one_as_imagined(calibration: Calibration) -> None:
    rng = np.random.default_rng(3)
    usual = [calibration.picture(*frames(rng)) for _ in range(60)]
    moved = [calibration.picture(*frames(rng, moved=2)) for _ in range(60)]
    assert roc_area(usual, moved) > 0.95


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


def come(dream: Dream, share: float) -> np.ndarray:
    return (dream.seen_ND + share * (dream.imagined_ND - dream.seen_ND)).astype(np.float32)


def test_arms_that_are_held_up_slow_after_two_frames_until_the_imagined_change_comes(calibration: Calibration) -> None:
    assert calibration.progress_at is not None
    monitor, rng, levels = Monitor(calibration, 50), np.random.default_rng(11), []
    for share in (0.0, 1.0, 0.0, 0.0, 0.0, 1.0):
        dream = next(d for d, _ in iter(lambda: frames(rng), None) if d.change > calibration.change_at)
        monitor.expect(dream)
        monitor.compare(1_000, come(dream, share))
        assert monitor.score is not None
        levels.append(monitor.score.level)
        monitor.aim(None)
        assert monitor.score.level == levels[-1], "a plan that says nothing of its aim changes nothing"
    assert levels == [0, 0, 0, 1, 1, 0]


def test_arms_that_are_meant_to_stand_and_undisturbed_ones_are_not_slow(calibration: Calibration) -> None:
    dream, _ = frames(np.random.default_rng(12))
    still = replace(dream, imagined_ND=come(dream, 0.1))
    assert still.change < calibration.change_at
    assert not calibration.too_little(still, 0.0)
    usual = [calibration.too_little(dream, progress(dream, real)) for dream, real in undisturbed(100, 13)]
    assert sum(usual) <= 3
    assert not replace(calibration, progress_at=None).too_little(dream, 0.0), "calibrated before progress was"


def test_what_was_imagined_for_another_sentence_is_not_waited_for(calibration: Calibration) -> None:
    dream = max((dream for dream, _ in undisturbed(20, 14)), key=lambda dream: dream.change)
    monitor = Monitor(calibration, 50)
    for _ in range(2):
        monitor.expect(dream)
        monitor.compare(1_000, dream.seen_ND)
    assert monitor.score is not None
    assert monitor.score.level == 1
    monitor.expect(dream)
    monitor.forget_aim()
    assert monitor.score.level == 0
    assert monitor.compare(1_000, dream.seen_ND) is None


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
    assert loaded.picture(dream, real) == calibration.picture(dream, real)
    two = aims(np.random.default_rng(6), 2.0)
    assert loaded.surprise(*two) == calibration.surprise(*two)
    assert (loaded.slow_at, loaded.stop_at) == (calibration.slow_at, calibration.stop_at)
    assert (loaded.change_at, loaded.progress_at) == (calibration.change_at, calibration.progress_at)
    older = json.loads((tmp_path / "surprise.json").read_text())
    del older["change_at"], older["progress_at"]
    (tmp_path / "surprise.json").write_text(json.dumps(older))
    assert getattr(Calibration.load(tmp_path), "progress_at", 0.0) is None
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    assert Calibration.load(tmp_path) is None
    (tmp_path / "surprise.json").write_text("{}")
    with pytest.raises(CheckpointError, match="starry calibrate"):
        Calibration.load(tmp_path)
