"""Value maps on camera pixels: against a pixel-by-pixel interpolation, in the right place, without bleeding."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from starry_ros.canvas.layout import CanvasLayout, Tile, t_pose_layout
from starry_ros.canvas.pack import CanvasPacker
from starry_ros.errors import InputError
from starry_ros.robot_spec import load_robot_spec
from starry_ros.types import F32, F64, LandingPoint, ValueMap
from starry_ros.value.project import ValueProjector, landing_in_camera

SPEC = load_robot_spec(Path(__file__).parents[1] / "config" / "robots" / "bimanual_sim.yaml")
SIZES = ((640, 480), (320, 240), (641, 479), (480, 640), (1280, 720))
STRIDE = 4


def layout_for(width: int, height: int) -> CanvasLayout:
    cameras = tuple(dataclasses.replace(c, width_px=width, height_px=height) for c in SPEC.cameras)
    return t_pose_layout(dataclasses.replace(SPEC, cameras=cameras))


def value_map(layout: CanvasLayout, values_EHW: F32, stride: int = STRIDE) -> ValueMap:
    return ValueMap(0, layout.layout_hash, stride, values_EHW, ())


def centroid(weight_HW: NDArray[Any]) -> F64:
    """(u, v) of the centre of mass."""
    columns, rows = (np.arange(size) for size in weight_HW.shape[::-1])
    return np.array([weight_HW.sum(axis=0) @ columns, weight_HW.sum(axis=1) @ rows]) / weight_HW.sum()


def cell_grid(layout: CanvasLayout) -> tuple[F32, F32]:
    """Canvas coordinates (v, u) of every cell centre."""
    v, u = np.mgrid[: layout.height_px // STRIDE, : layout.width_px // STRIDE]
    return (v + 0.5) * STRIDE - 0.5, (u + 0.5) * STRIDE - 0.5


def test_a_blob_painted_on_the_canvas_appears_where_the_camera_sees_it() -> None:
    rng = np.random.default_rng(0)
    for size in SIZES:
        layout = layout_for(*size)
        projector, (v, u) = ValueProjector(layout, STRIDE), cell_grid(layout)
        for tile in layout.tiles:
            centre = np.array(size) * rng.uniform(0.35, 0.65, 2)
            cu, cv = layout.camera_to_canvas(tile.camera, centre)
            values = np.exp(-((u - cu) ** 2 + (v - cv) ** 2) / (2 * 5.0**2)).astype(np.float32)
            seen = projector.project(value_map(layout, values[None]), tile.camera, 0).astype(float)
            assert seen.shape == (size[1], size[0])
            assert np.hypot(*(centroid(seen) - centre)) < 0.2 + 0.08 * size[0] / tile.content.width_px


@pytest.mark.parametrize("size", SIZES)
def test_a_blob_survives_packing_labelling_and_projection_within_one_and_a_half_pixels(size: tuple[int, int]) -> None:
    """Camera image -> canvas -> mean over value cells (what a label is) -> camera image."""
    layout, rng = layout_for(*size), np.random.default_rng(6)
    packer, projector = CanvasPacker(layout), ValueProjector(layout, STRIDE)
    rows, columns = np.arange(size[1])[:, None], np.arange(size[0])
    width = 2 * (0.06 * size[0]) ** 2
    for _ in range(2 if size[0] < 1000 else 1):
        centres = {c: np.array(size) * rng.uniform(0.35, 0.65, 2) for c in layout.cameras}
        blobs = {
            c: 255 * np.exp(-((columns - p[0]) ** 2) / width) * np.exp(-((rows - p[1]) ** 2) / width)
            for c, p in centres.items()
        }
        canvas = packer.pack_images({c: np.repeat(b[..., None], 3, axis=2).astype(np.uint8) for c, b in blobs.items()})
        cells = canvas[..., 0].reshape(layout.height_px // STRIDE, STRIDE, layout.width_px // STRIDE, STRIDE)
        seen_map = value_map(layout, (cells.mean(axis=(1, 3))[None] / 255).astype(np.float32))
        for camera, centre in centres.items():
            seen = projector.project(seen_map, camera, 0).astype(float)
            assert np.hypot(*(centroid(seen) - centre)) < 1.5


def naive_value(values_HW: F32, tile: Tile, u_px: int, v_px: int) -> float:
    """Keys' cubic interpolation at one camera pixel, written out from the definition."""

    def kernel(d: float) -> float:
        d = abs(d)
        if d < 1:
            return 1.5 * d**3 - 2.5 * d**2 + 1
        return -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 if d < 2 else 0.0

    canvas_u = tile.content.x_px + (u_px + 0.5) * tile.content.width_px / tile.camera_width_px - 0.5
    canvas_v = tile.content.y_px + (v_px + 0.5) * tile.content.height_px / tile.camera_height_px - 0.5
    i, j = (canvas_v + 0.5) / STRIDE - 0.5, (canvas_u + 0.5) / STRIDE - 0.5
    low_i, low_j = tile.rect.y_px // STRIDE, tile.rect.x_px // STRIDE
    high_i, high_j = low_i + tile.rect.height_px // STRIDE - 1, low_j + tile.rect.width_px // STRIDE - 1
    total = 0.0
    for a in range(math.floor(i) - 1, math.floor(i) + 3):
        for b in range(math.floor(j) - 1, math.floor(j) + 3):
            cell = values_HW[min(max(a, low_i), high_i), min(max(b, low_j), high_j)]
            total += kernel(i - a) * kernel(j - b) * float(cell)
    return min(max(total, 0.0), 1.0)


def test_every_pixel_agrees_with_the_definition_also_at_the_borders() -> None:
    rng = np.random.default_rng(1)
    for size in ((97, 61), (61, 97), (320, 240)):
        layout = layout_for(*size)
        values = rng.uniform(0, 1, (2, 48, 40)).astype(np.float32)
        for tile in layout.tiles:
            seen = ValueProjector(layout, STRIDE).project(value_map(layout, values), tile.camera, 1)
            corners = [(0, 0), (size[0] - 1, 0), (0, size[1] - 1), (size[0] - 1, size[1] - 1)]
            inside = [(int(rng.integers(size[0])), int(rng.integers(size[1]))) for _ in range(60)]
            for u_px, v_px in corners + inside:
                assert abs(seen[v_px, u_px] - naive_value(values[1], tile, u_px, v_px)) < 1e-5


def test_a_bright_neighbour_does_not_bleed_and_a_constant_stays_constant() -> None:
    layout = layout_for(640, 480)
    projector = ValueProjector(layout, STRIDE)
    for tile in layout.tiles:
        values = np.full((1, 48, 40), 1.0, np.float32)
        values[0][tile.rect.y_px // 4 : (tile.rect.y_px + tile.rect.height_px) // 4,
                  tile.rect.x_px // 4 : (tile.rect.x_px + tile.rect.width_px) // 4] = 0.25
        np.testing.assert_allclose(projector.project(value_map(layout, values), tile.camera, 0), 0.25, atol=1e-6)


def test_the_region_is_the_same_picture_and_misses_nothing_above_the_floor() -> None:
    rng = np.random.default_rng(2)
    layout = layout_for(640, 480)
    projector, (v, u) = ValueProjector(layout, STRIDE), cell_grid(layout)
    for _ in range(10):
        cu, cv = rng.uniform(0, 160), rng.uniform(0, 192)
        values = value_map(layout, np.exp(-((u - cu) ** 2 + (v - cv) ** 2) / 60).astype(np.float32)[None])
        for camera in layout.cameras:
            full, part = projector.project(values, camera, 0), projector.region(values, camera, 0, 0.05)
            rest = full.copy()
            if part is not None:
                np.testing.assert_allclose(part.values_hw, full[part.rect.slices], atol=1e-6)
                rest[part.rect.slices] = 0
            assert rest.max() < 0.06
    dark = value_map(layout, np.zeros((1, 48, 40), np.float32))
    assert projector.region(dark, "head", 0, 0.05) is None


def test_an_output_buffer_is_filled_and_returned() -> None:
    layout = layout_for(320, 240)
    out = np.empty((240, 320), np.float32)
    values = value_map(layout, np.full((1, 48, 40), 0.5, np.float32))
    assert ValueProjector(layout, STRIDE).project(values, "head", 0, out) is out
    np.testing.assert_allclose(out, 0.5, atol=1e-6)


def test_landing_points_go_back_to_camera_pixels() -> None:
    for size in SIZES:
        layout = layout_for(*size)
        for camera in layout.cameras:
            u_px, v_px = layout.camera_to_canvas(camera, (123.25, 45.5))
            np.testing.assert_allclose(
                landing_in_camera(layout, LandingPoint(camera, 0, u_px, v_px, 1.0)), (123.25, 45.5), atol=1e-9
            )


def test_maps_of_another_layout_size_or_stride_and_broken_values_are_refused() -> None:
    layout = layout_for(640, 480)
    projector, good = ValueProjector(layout, STRIDE), np.zeros((2, 48, 40), np.float32)
    with pytest.raises(InputError, match="another canvas layout"):
        projector.project(value_map(layout_for(320, 240), good), "head", 0)
    with pytest.raises(InputError, match="another resolution"):
        projector.project(value_map(layout, good, stride=8), "head", 0)
    with pytest.raises(InputError, match="another resolution"):
        projector.project(value_map(layout, good[:, 1:]), "head", 0)
    with pytest.raises(InputError, match=r"no such event; got 2; expected 0 to 1"):
        projector.project(value_map(layout, good), "head", 2)
    with pytest.raises(InputError, match="no camera named 'rear'"):
        projector.project(value_map(layout, good), "rear", 0)
    broken = good.copy()
    broken[1, 3, 3] = np.nan
    with pytest.raises(InputError, match="non-finite values; got event 1, camera head"):
        projector.project(value_map(layout, broken), "head", 1)
    with pytest.raises(InputError, match="cuts a cell"):
        ValueProjector(layout, 3)
