"""Shapes of models: JSON round trip, presets, and refusal of shapes that do not fit together."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from wam_kit import CONFIG, JOINTS, LAYOUT

from starry_ros.errors import ConfigError
from starry_ros.wam.config import PRESETS, WamConfig, preset, tiny

TINY = tiny(LAYOUT, JOINTS)


@pytest.mark.parametrize("config", [TINY, CONFIG])
def test_a_config_survives_json(config: WamConfig) -> None:
    assert WamConfig.from_json_dict(json.loads(json.dumps(config.to_json_dict()))) == config


def test_missing_and_unknown_fields_are_named() -> None:
    raw = TINY.to_json_dict()
    del raw["heads"]
    raw["colour"] = "red"
    with pytest.raises(ConfigError, match=r"missing \['heads'\], unknown \['colour'\]"):
        WamConfig.from_json_dict(raw)


def test_the_tiny_preset_covers_the_canvas_with_whole_tokens_and_views() -> None:
    assert (TINY.canvas_height_px, TINY.canvas_width_px) == (LAYOUT.height_px, LAYOUT.width_px)
    assert TINY.rows * TINY.token_px == TINY.canvas_height_px
    assert TINY.columns * TINY.token_px == TINY.canvas_width_px
    assert TINY.frame_tokens == TINY.rows * TINY.columns
    assert sum(view.width_px * view.height_px for view in TINY.views) == LAYOUT.height_px * LAYOUT.width_px
    cells = LAYOUT.height_px * LAYOUT.width_px // TINY.value_stride_px**2
    assert TINY.frame_tokens * TINY.value_token_width == TINY.value_events * cells
    latents = LAYOUT.height_px * LAYOUT.width_px // TINY.latent_px**2
    assert TINY.frame_tokens * TINY.latent_token_width == TINY.latent_channels * latents


@pytest.mark.parametrize(("change", "match"), [
    ({"canvas_height_px": 200}, "canvas_height_px is not a whole number of tokens; got 200"),
    ({"canvas_width_px": 100}, "canvas_width_px is not a whole number of tokens"),
    ({"latent_px": 24}, "no multiple of the latent and value strides"),
    ({"value_stride_px": 5}, "no multiple of the latent and value strides"),
    ({"head_dim": 32}, "head_dim cannot be split"),
    ({"rope_period": 128}, "rope_period is shorter"),
])
def test_shapes_that_do_not_fit_together_are_refused(change: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        dataclasses.replace(TINY, **change)


def test_presets_go_by_name() -> None:
    assert preset("tiny", LAYOUT, JOINTS) == TINY
    with pytest.raises(ConfigError, match="unknown; got 'huge'"):
        preset("huge", LAYOUT, JOINTS)
    assert all(build(LAYOUT, JOINTS).name == name for name, build in PRESETS.items())
