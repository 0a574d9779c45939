"""The overlay: lights up where the value is, leaves the rest alone, and writes what it is told."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from starry_ros.canvas.layout import CanvasLayout, t_pose_layout
from starry_ros.errors import InputError
from starry_ros.robot_spec import load_robot_spec
from starry_ros.types import F32, U8, LandingPoint, ValueMap
from starry_ros.value.colour import table
from starry_ros.value.overlay import Caption, OverlayPainter, blend

SPEC = load_robot_spec(Path(__file__).parents[1] / "config" / "robots" / "bimanual_sim.yaml")
SIZES = ((640, 480), (320, 240), (641, 479))


def layout_for(width: int, height: int) -> CanvasLayout:
    cameras = tuple(dataclasses.replace(c, width_px=width, height_px=height) for c in SPEC.cameras)
    return t_pose_layout(dataclasses.replace(SPEC, cameras=cameras))


def picture(width: int, height: int) -> U8:
    """Position-coded: red follows u, green follows v, blue is noise."""
    u, v = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    noise = np.random.default_rng(0).integers(0, 256, (height, width))
    return np.stack([u, v, noise], axis=-1).astype(np.uint8)


def blob_map(layout: CanvasLayout, centres: dict[str, tuple[float, float]], confidence: float = 0.9) -> ValueMap:
    """Event 0 is a blob at each camera's pixel; event 1 is dark."""
    v, u = np.mgrid[: layout.height_px // 4, : layout.width_px // 4]
    values: F32 = np.zeros((2, *v.shape), np.float32)
    landing = []
    for camera, uv in centres.items():
        cu, cv = layout.camera_to_canvas(camera, uv)
        values[0] += np.exp(-((4 * u + 1.5 - cu) ** 2 + (4 * v + 1.5 - cv) ** 2) / (2 * 4.0**2))
        landing.append(LandingPoint(camera, 0, float(cu), float(cv), confidence))
    return ValueMap(0, layout.layout_hash, 4, values, tuple(landing))


def test_blending_agrees_with_the_formula_and_leaves_dark_values_untouched() -> None:
    image = picture(64, 48)
    values = np.linspace(0, 1, 64 * 48, dtype=np.float32).reshape(48, 64)
    t = np.clip((np.round(values * 255) / 255 - 0.06) / 0.54, 0, 1)
    opacity = (0.7 * t * t * (3 - 2 * t))[..., None]
    colour = table("tide")[np.round(values * 255).astype(int)]
    expected = image * (1 - opacity) + colour * opacity
    got = blend(image, values, alpha=0.7, colour_map="tide")
    assert np.abs(got - expected).max() <= 2.0
    np.testing.assert_array_equal(got[values < 0.055], image[values < 0.055])
    assert blend(image, np.zeros((48, 64), np.float32)).tolist() == image.tolist()


def test_opacity_rises_with_the_value() -> None:
    ramp = np.tile(np.linspace(0, 1, 256, dtype=np.float32), (2, 1))
    black, white = (np.full((2, 256, 3), grey, np.uint8) for grey in (0, 255))
    visible = blend(white, ramp).astype(int) - blend(black, ramp).astype(int)
    assert (np.diff(visible[0], axis=0) <= 1).all()
    assert visible[0, 0].tolist() == [255] * 3
    assert visible[0, -1].max() <= 0.21 * 255


def test_blending_into_the_image_itself_gives_the_same_picture() -> None:
    image = picture(64, 48)
    values = np.random.default_rng(1).uniform(0, 1, (48, 64)).astype(np.float32)
    expected, own = blend(image, values), image.copy()
    assert blend(own, values, out=own) is own
    np.testing.assert_array_equal(own, expected)


@pytest.mark.parametrize("size", SIZES)
def test_each_camera_lights_up_around_its_own_target_and_nowhere_else(size: tuple[int, int]) -> None:
    layout, image = layout_for(*size), picture(*size)
    painter = OverlayPainter(layout, 4)
    centres = {c: (size[0] * (0.3 + 0.2 * i), size[1] * (0.6 - 0.1 * i)) for i, c in enumerate(layout.cameras)}
    rows, columns = np.mgrid[: size[1], : size[0]]
    for tile in layout.tiles:
        shown = painter.paint(tile.camera, image, blob_map(layout, centres))
        changed = (shown != image).any(axis=-1)
        u_px, v_px = centres[tile.camera]
        distance = np.hypot(columns - u_px, rows - v_px) * tile.content.width_px / size[0]
        assert changed[distance < 3].mean() > 0.98
        assert not changed[distance > 18].any()


def test_the_landing_mark_lies_on_its_point_and_needs_confidence() -> None:
    layout = layout_for(640, 480)
    painter, grey = OverlayPainter(layout, 4, min_confidence=0.3), np.full((480, 640, 3), 90, np.uint8)
    dark: F32 = np.zeros((2, 48, 40), np.float32)
    rows, columns = np.mgrid[:480, :640]
    for event in (0, 1):
        for uv in ((200.0, 150.0), (301.5, 222.25)):
            cu, cv = layout.camera_to_canvas("left_wrist", uv)
            for confidence, drawn in ((0.9, True), (float("nan"), False)) if event else ((0.9, True), (0.1, False)):
                point = LandingPoint("left_wrist", event, float(cu), float(cv), confidence)
                shown = painter.paint("left_wrist", grey, ValueMap(0, layout.layout_hash, 4, dark, (point,)))
                weight = np.abs(shown.astype(np.int32) - 90).sum(axis=-1)
                assert bool(weight.any()) == drawn
                assert (painter.paint("head", grey, ValueMap(0, layout.layout_hash, 4, dark, (point,))) == 90).all()
                if drawn:
                    found = np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()
                    assert np.hypot(*(found - uv)) < 0.5
    outside = LandingPoint("left_wrist", 0, 200.0, 10.0, 1.0)
    assert (painter.paint("left_wrist", grey, ValueMap(0, layout.layout_hash, 4, dark, (outside,))) == 90).all()


@pytest.mark.parametrize("size", SIZES)
def test_the_caption_bar_holds_any_sentence_and_spares_the_rest(size: tuple[int, int]) -> None:
    layout, image = layout_for(*size), picture(*size)
    painter = OverlayPainter(layout, 4)
    bar = max(18, round(size[1] * 0.08))
    for sentence in ("put the red block on the pad", "x", "word " * 400, "two\nlines", "größer als 你好 \U0001f600"):
        for mode in ("RUN", "", "A VERY LONG MODE NAME"):
            shown = painter.paint("head", image, None, Caption(sentence, mode, (90, 200, 120)))
            np.testing.assert_array_equal(shown[:-bar], image[:-bar])
            assert shown[-bar:].mean() < image[-bar:].mean()
    written, other = (painter.paint("head", image, None, Caption(s)) for s in ("put it left", "put it right"))
    assert (written != other).any()
    for nothing in (None, Caption("", "")):
        np.testing.assert_array_equal(painter.paint("head", image, None, nothing), image)


def test_the_image_given_is_never_changed_and_an_output_buffer_is_used() -> None:
    layout, image = layout_for(320, 240), picture(320, 240)
    painter, before, out = OverlayPainter(layout, 4), image.copy(), np.empty((240, 320, 3), np.uint8)
    values = blob_map(layout, {"head": (100.0, 100.0)})
    image.setflags(write=False)
    plain = painter.paint("head", image, values, Caption("go", "RUN"))
    assert painter.paint("head", image, values, Caption("go", "RUN"), out) is out
    np.testing.assert_array_equal(out, plain)
    np.testing.assert_array_equal(image, before)
    bgr_view = np.ascontiguousarray(image[..., ::-1])[..., ::-1]
    np.testing.assert_array_equal(painter.paint("head", bgr_view, values, Caption("go", "RUN")), plain)


def test_wrong_sizes_are_refused() -> None:
    layout = layout_for(320, 240)
    with pytest.raises(InputError, match=r"camera head: image has the wrong size.*expected uint8 \(240, 320, 3\)"):
        OverlayPainter(layout, 4).paint("head", picture(640, 480), None)
    with pytest.raises(InputError, match="differ in size"):
        blend(picture(64, 48), np.zeros((48, 63), np.float32))
