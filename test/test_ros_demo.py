"""Counting lost frames, and the pictures of a demonstration. No DDS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="the ROS 2 wheels are not installed: make setup")
pytest.importorskip("av", reason="the film needs PyAV")

import av
import cv2

from starry_ros.ros.demo import MOST_FRAMES_LOST, missed_bars
from starry_ros.ros.demo_film import BAR_PX, ContactSheet, Film, compose
from starry_ros.ros.demo_operator import FrameCount, frames_lost
from starry_ros.types import Record


def test_frames_lost_is_the_share_that_never_reached_a_canvas() -> None:
    begin = FrameCount({"head": 10, "wrist": 10}, {"head": 100, "wrist": 100})
    end = FrameCount({"head": 20, "wrist": 14}, {"head": 200, "wrist": 140})
    seen = {"head": set(range(110, 201, 10)), "wrist": {90, 100, 110, 120, 150}}
    assert frames_lost(begin, end, seen) == {"head": 0.0, "wrist": 0.5}


def test_nothing_published_is_nothing_lost() -> None:
    count = FrameCount({"head": 3}, {"head": 5})
    assert frames_lost(count, count, {}) == {"head": 0.0}


def test_counters_come_from_diagnostics_or_not_at_all() -> None:
    assert FrameCount.of({"head.published": "3"}, ["head"]) is None
    assert FrameCount.of({"head.published": "3", "head.last_ns": "9"}, ["head"]) == FrameCount({"head": 3}, {"head": 9})


def views() -> list[np.ndarray]:
    rows, columns = np.mgrid[0:60, 0:80]
    return [np.stack([rows * 4, columns * 3, np.full_like(rows, 80 * i)], axis=-1).astype(np.uint8) for i in range(3)]


def test_a_picture_shows_the_views_side_by_side_untouched() -> None:
    picture = compose(views(), "put the red block on the pad", "RUN")
    assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0
    for i, view in enumerate(views()):
        left = i * (80 + 4)
        np.testing.assert_array_equal(picture[BAR_PX : BAR_PX + 60, left : left + 80], view)
    assert picture[:BAR_PX].max() > 200, "the texts"


def test_a_film_holds_every_picture_at_its_time(tmp_path: Path) -> None:
    with Film(tmp_path / "deep" / "film.mp4") as film:
        for i in range(20):
            film.add(compose(views(), str(i), ""), i / 10)
        film.add(compose(views(), "late", ""), 1.0)
    assert film.pictures == 20
    with av.open(str(tmp_path / "deep" / "film.mp4")) as file:
        times = [float(frame.pts * frame.time_base) for frame in file.decode(video=0)]
    assert times == pytest.approx([i / 10 for i in range(20)], abs=0.002)


def test_a_film_without_pictures_closes_quietly(tmp_path: Path) -> None:
    with Film(tmp_path / "film.mp4") as film:
        pass
    assert film.pictures == 0


def test_a_contact_sheet_has_one_row_an_episode(tmp_path: Path) -> None:
    sheet = ContactSheet(columns=3, scale=0.5)
    for success in (True, False):
        for _ in range(7):
            sheet.add(compose(views(), "", ""))
        sheet.end_row("an episode", success)
    sheet.end_row("nothing was seen", False)
    sheet.save(tmp_path / "sheet.png")
    image = cv2.imread(str(tmp_path / "sheet.png"))
    assert image.shape == (2 * (BAR_PX + (BAR_PX + 60) // 2), 3 * (248 // 2), 3)


FINE: Record = {"success": 0.2, "stall_share": 0.0, "pictures": 7, "lost_head": MOST_FRAMES_LOST}


def test_a_demo_of_which_everything_came_misses_nothing() -> None:
    assert missed_bars(FINE) == []


@pytest.mark.parametrize(("change", "words"), [
    ({"success": 0.0}, "no episode succeeded"),
    ({"stall_share": 0.01}, "the arms waited for plans 1.0% of an episode"),
    ({"pictures": 0}, "no picture of a value map came"),
    ({"lost_head": MOST_FRAMES_LOST + 0.01}, "lost_head is "),
])
def test_each_thing_that_is_missed_is_named(change: Record, words: str) -> None:
    (missed,) = missed_bars(FINE | change)
    assert missed.startswith(words)
