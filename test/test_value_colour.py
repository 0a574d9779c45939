"""The colour maps: evenly spaced to the eye, brightening all the way, readable with any colour vision."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from starry_ros.errors import ConfigError
from starry_ros.types import F64
from starry_ros.value.colour import RAMPS_LCH, colourise, levels, robust_range, table

MAPS = sorted(RAMPS_LCH)
# Machado, Oliveira and Fernandes 2009, full severity, on linear RGB.
DEFICIENCIES = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def cielab(rgb_N3: F64) -> F64:
    """sRGB in 0..1 to CIELAB, by OpenCV."""
    return cv2.cvtColor(rgb_N3.astype(np.float32)[None], cv2.COLOR_RGB2LAB)[0].astype(np.float64)


def as_seen_with(deficiency: str, rgb_N3: F64) -> F64:
    linear = np.where(rgb_N3 <= 0.04045, rgb_N3 / 12.92, ((rgb_N3 + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(DEFICIENCIES[deficiency]).T, 0, 1)
    return np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("name", MAPS)
def test_lightness_rises_all_the_way_for_every_kind_of_colour_vision(name: str) -> None:
    rgb = table(name) / 255.0
    for seen in [rgb, *(as_seen_with(d, rgb) for d in DEFICIENCIES)]:
        lightness = cielab(seen)[:, 0]
        assert lightness[0] < 18
        assert lightness[-1] > 90
        assert (np.diff(lightness[::8]) > 0).all()


@pytest.mark.parametrize("name", MAPS)
def test_equal_steps_look_about_equal(name: str) -> None:
    """OKLab distances between every 16th level, by the published formulas written out here."""
    rgb = table(name)[::15] / 255.0
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    r, g, b = linear.T
    long = np.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b)
    medium = np.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b)
    short = np.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b)
    lab = np.stack([
        0.2104542553 * long + 0.7936177850 * medium - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * medium + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * medium - 0.8086757660 * short,
    ], axis=-1)
    steps = np.linalg.norm(np.diff(lab, axis=0), axis=1)
    assert steps.max() / steps.min() < 1.15


@pytest.mark.parametrize("deficiency", sorted(DEFICIENCIES))
def test_the_two_maps_stay_apart_for_every_kind_of_colour_vision(deficiency: str) -> None:
    warm, cool = (cielab(as_seen_with(deficiency, table(name)[110:200] / 255.0)) for name in ("ember", "tide"))
    assert np.linalg.norm(warm - cool, axis=1).min() > 20


def test_values_map_to_levels_by_rounding_and_clip_outside_the_range() -> None:
    values = np.array([[-1.0, 0.0, 0.5, 1.0, 7.0]], np.float32)
    assert levels(values).tolist() == [[0, 0, 128, 255, 255]]
    assert levels(values, 0.0, 2.0).tolist() == [[0, 0, 64, 128, 255]]
    ramp = (np.arange(256, dtype=np.float32) / 255)[None]
    np.testing.assert_array_equal(colourise(ramp, "tide")[0], table("tide"))


def test_the_robust_range_ignores_a_few_outliers_and_never_collapses() -> None:
    values = np.linspace(0, 0.5, 1000)
    values[:3] = (9.0, np.nan, np.inf)
    low, high = robust_range(values, percent=99)
    assert low == 0.0
    assert 0.48 < high < 0.51
    assert robust_range(np.zeros(10))[1] > 0
    assert robust_range(np.array([np.nan]))[1] > 0


def test_unknown_maps_and_empty_ranges_are_refused_and_tables_are_read_only() -> None:
    known = r"\['ember', 'fern', 'slate', 'tide'\]"
    with pytest.raises(ConfigError, match=rf"colour map: is unknown; got 'jet'; expected {known}"):
        table("jet")
    with pytest.raises(ConfigError, match="is empty"):
        levels(np.zeros((1, 1), np.float32), 1.0, 1.0)
    with pytest.raises(ValueError, match="read-only"):
        table("ember")[0, 0] = 1
