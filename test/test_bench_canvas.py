"""The canvas and overlay benches report what they promise and compare equal pixels."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from starry_ros.bench import canvas, overlay
from starry_ros.robot_spec import load_robot_spec

SPEC = load_robot_spec(Path(__file__).parents[1] / "config" / "robots" / "bimanual_sim.yaml")


def test_the_canvas_bench_compares_packing_with_the_obvious_way_on_the_same_pixels() -> None:
    threads = cv2.getNumThreads()
    rows = {row["name"]: row for row in canvas.run(SPEC, seconds=0.5)}
    assert len(rows) == 8
    for size in ("640x480", "320x240"):
        for encoding in ("rgb8", "bgr8"):
            row = rows[f"canvas/pack_{encoding}_{size}"]
            assert row["ratio"] == pytest.approx(row["baseline"] / row["value"])
            assert rows[f"canvas/pack_{encoding}_{size}_difference"]["value"] <= 1
    assert cv2.getNumThreads() == threads


def test_the_overlay_bench_has_a_time_and_a_share_of_a_core_a_size() -> None:
    rows = {row["name"]: row for row in overlay.run(SPEC, seconds=0.1)}
    for size in ("640x480", "320x240"):
        row, share = rows.pop(f"overlay/three_{size}"), rows.pop(f"overlay/three_{size}_core_share")
        assert row["value"] > 0
        assert row["unit"] == "ms"
        assert share["value"] == pytest.approx(row["value"] / 1000 * overlay.CAMERA_HZ)
    assert not rows
