"""The synchroniser against a brute-force search, and each fault by itself."""

from __future__ import annotations

import gc
import itertools

import numpy as np
import pytest

from starry_ros.canvas.sync import CameraState, Drop, FrameSync, Outcome
from starry_ros.errors import ConfigError, InputError
from starry_ros.types import CameraFrame

MS = 1_000_000
CAMERAS = ("head", "left_wrist", "right_wrist")


def frame(camera: str, stamp_ms: float, received_ms: float | None = None, seed: int | None = None) -> CameraFrame:
    """A frame whose pixels depend on the stamp unless a seed is given."""
    stamp_ns = round(stamp_ms * MS)
    rng = np.random.default_rng(abs(stamp_ns) if seed is None else seed)
    image = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return CameraFrame(camera, stamp_ns, round((stamp_ms if received_ms is None else received_ms) * MS), image)


def sync(**changes: float) -> FrameSync:
    settings = {"max_skew_s": 0.02, "max_age_s": 0.5} | changes
    return FrameSync(CAMERAS, **settings)  # type: ignore[arg-type]


def push_all(subject: FrameSync, stamp_ms: float, received_ms: float | None = None) -> None:
    for camera in CAMERAS:
        assert subject.push(frame(camera, stamp_ms, received_ms)) is None


def state(subject: FrameSync, camera: str, now_ms: float) -> CameraState:
    return next(c.state for c in subject.status(round(now_ms * MS)).cameras if c.camera == camera)


def test_frames_of_one_instant_form_a_set_exactly_once() -> None:
    subject = sync()
    push_all(subject, 100)
    first = subject.newest(105 * MS)
    assert first is not None
    assert first.stamp_ns == 100 * MS
    assert first.skew_ns == 0
    assert set(first.frames) == set(CAMERAS)
    assert subject.newest(106 * MS) is None
    assert subject.status(106 * MS).outcome is Outcome.SAME
    assert subject.status(700 * MS).sets == 1


def test_a_camera_with_a_longer_delay_still_meets_the_others() -> None:
    subject = sync()
    seen = []
    for tick in range(12):
        now = 1000 + tick * 66
        for camera, delay in (("head", 10), ("left_wrist", 10), ("right_wrist", 150)):
            subject.push(frame(camera, now - delay - (now - delay) % 66, now))
        found = subject.newest(now * MS)
        if found is not None and len(found.frames) == 3:
            assert found.skew_ns <= 20 * MS
            seen.append(found.stamp_ns)
    assert len(seen) >= 9
    assert seen == sorted(set(seen))


def brute_force(kept: dict[str, list[CameraFrame]], skew_ns: int, oldest_ns: int) -> tuple[int, int] | None:
    """(newest oldest-stamp, least spread) over every combination of frames of the live cameras."""
    live = [frames for frames in kept.values() if frames and frames[-1].stamp_ns >= oldest_ns]
    best: tuple[int, int] | None = None
    for chosen in itertools.product(*live):
        stamps = [f.stamp_ns for f in chosen]
        low, spread = min(stamps), max(stamps) - min(stamps)
        if spread <= skew_ns and low >= oldest_ns and (best is None or (low, -spread) > (best[0], -best[1])):
            best = (low, spread)
    return best if live else None


def test_the_set_is_what_a_search_over_all_combinations_finds() -> None:
    rng = np.random.default_rng(3)
    sets = skews = 0
    for _ in range(60):
        subject = FrameSync(CAMERAS, 0.015, 0.2, depth=4)
        kept: dict[str, list[CameraFrame]] = {camera: [] for camera in CAMERAS}
        now, last = 1000.0, (-1, -1)
        for _ in range(40):
            now += rng.integers(1, 25)
            camera = CAMERAS[rng.integers(3)]
            item = frame(camera, now - rng.integers(0, 90), now)
            if subject.push(item) is None:
                kept[camera] = [*kept[camera], item][-4:]
            now_ns = round(now * MS)
            expected = brute_force(kept, 15 * MS, now_ns - 200 * MS)
            found = subject.newest(now_ns)
            if found is not None:
                sets += 1
                assert expected == (found.stamp_ns, found.skew_ns)
                last = expected
            elif expected is None:
                skews += 1
                assert subject.status(now_ns).outcome in (Outcome.SKEW, Outcome.NO_CAMERA)
            else:
                assert expected == last or expected[0] < last[0]
                assert subject.status(now_ns).outcome is Outcome.SAME
    assert sets > 200
    assert skews > 100


def test_sets_never_go_back_in_time() -> None:
    rng = np.random.default_rng(5)
    subject, stamps, now = FrameSync(CAMERAS, 0.03, 0.3, depth=3), [], 0.0
    for _ in range(600):
        now += rng.integers(1, 12)
        subject.push(frame(CAMERAS[rng.integers(3)], now - rng.integers(0, 60), now))
        found = subject.newest(round(now * MS))
        if found is not None:
            stamps.append(found.stamp_ns)
    assert len(stamps) > 50
    assert stamps == sorted(stamps)


def test_views_further_apart_than_the_skew_are_never_joined() -> None:
    subject = sync()
    subject.push(frame("head", 100, 140))
    subject.push(frame("left_wrist", 110, 140))
    subject.push(frame("right_wrist", 125, 140))
    assert subject.newest(140 * MS) is None
    assert subject.status(140 * MS).outcome is Outcome.SKEW


def test_a_camera_that_falls_silent_is_left_out_and_does_not_hold_the_others_up() -> None:
    subject = sync()
    push_all(subject, 100)
    assert subject.newest(100 * MS) is not None
    for stamp in range(150, 800, 50):
        subject.push(frame("head", stamp))
        subject.push(frame("left_wrist", stamp))
        found = subject.newest(stamp * MS)
        assert (found is None) == (stamp <= 600)
    assert found is not None
    assert set(found.frames) == {"head", "left_wrist"}
    assert state(subject, "right_wrist", 750) is CameraState.SILENT
    assert state(subject, "head", 750) is CameraState.OK


def test_duplicate_late_future_and_stale_frames_are_dropped_and_counted_by_reason() -> None:
    subject = sync()
    assert subject.push(frame("head", 100)) is None
    assert subject.push(frame("head", 100, 120)) is Drop.DUPLICATE
    assert subject.push(frame("head", 90, 125)) is Drop.OUT_OF_ORDER
    assert subject.push(frame("head", 200, 150)) is Drop.FUTURE
    assert subject.push(frame("head", 160, 150)) is None, "a stamp 10 ms ahead is within tolerance"
    assert subject.push(frame("left_wrist", 100, 700)) is Drop.STALE
    counters = {c.camera: c.counters for c in subject.status(700 * MS).cameras}
    head = counters["head"]
    assert (head.accepted, head.duplicate, head.out_of_order, head.future, head.stale) == (2, 1, 1, 1, 0)
    assert head.dropped == 3
    assert counters["left_wrist"].stale == 1
    assert counters["right_wrist"].dropped == 0


def test_stamps_that_stand_still_lag_or_run_ahead_are_told_apart() -> None:
    subject = sync()
    assert state(subject, "head", 0) is CameraState.NEVER_SEEN
    for now in range(100, 800, 50):
        subject.push(frame("head", 100, now))
        subject.push(frame("left_wrist", now - 2000, now))
        subject.push(frame("right_wrist", now + 100, now))
    assert state(subject, "head", 760) is CameraState.FROZEN
    assert state(subject, "left_wrist", 760) is CameraState.LATE
    assert state(subject, "right_wrist", 760) is CameraState.AHEAD
    subject.push(frame("head", 770))
    assert state(subject, "head", 770) is CameraState.OK


def test_identical_pixels_under_advancing_stamps_raise_a_suspicion_that_clears() -> None:
    subject = FrameSync(CAMERAS, 0.02, 0.5, suspect_after=5)
    for stamp in range(0, 300, 50):
        subject.push(frame("head", stamp, seed=1))
    assert state(subject, "head", 260) is CameraState.SAME_IMAGE
    subject.push(frame("head", 300, seed=2))
    assert state(subject, "head", 300) is CameraState.OK
    one = np.zeros((40, 40, 3), np.uint8)
    other = one.copy()
    other[1, 1, 2] = 1
    subject.push(CameraFrame("head", 350 * MS, 350 * MS, one))
    subject.push(CameraFrame("head", 400 * MS, 400 * MS, other))
    head = subject.status(400 * MS).cameras[0]
    assert head.identical_in_a_row == 0, "a difference between the sampled pixels is seen"
    subject.push(CameraFrame("head", 450 * MS, 450 * MS, other.copy()))
    assert subject.status(450 * MS).cameras[0].identical_in_a_row == 1


def test_a_clock_that_jumps_back_starts_over() -> None:
    subject = sync()
    push_all(subject, 5000)
    assert subject.newest(5000 * MS) is not None
    push_all(subject, 1000)
    found = subject.newest(1000 * MS)
    assert found is not None
    assert found.stamp_ns == 1000 * MS
    assert subject.status(1000 * MS).resets == 1
    push_all(subject, 1050, 1050)
    assert subject.newest(1040 * MS) is not None, "ten milliseconds of jitter are no jump"
    assert subject.status(1050 * MS).resets == 1


def test_no_set_is_older_than_the_age_bound() -> None:
    subject = sync()
    push_all(subject, 100)
    assert subject.newest(601 * MS) is None
    assert subject.status(601 * MS).outcome is Outcome.NO_CAMERA


def test_wrong_settings_and_unknown_cameras_are_refused() -> None:
    for broken in (lambda: FrameSync((), 0.1, 0.1), lambda: FrameSync(("a", "a"), 0.1, 0.1),
                   lambda: FrameSync(("a",), -1.0, 0.1), lambda: FrameSync(("a",), 0.1, float("nan")),
                   lambda: FrameSync(("a",), 0.1, 0.1, depth=0)):
        with pytest.raises(ConfigError):
            broken()
    with pytest.raises(InputError, match="unknown camera 'rear'"):
        sync().push(frame("rear", 1))


def test_what_is_kept_does_not_grow_with_the_number_of_frames_seen() -> None:
    subject = sync()
    for tick in range(1000):
        for camera in CAMERAS:
            item = frame(camera, 10 * tick)
            subject.push(item)
            subject.newest(item.received_ns)
    kept = {id(held) for held in gc.get_objects() if isinstance(held, CameraFrame)}
    assert len(CAMERAS) <= len(kept) <= 10 * len(CAMERAS)
