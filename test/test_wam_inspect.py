"""Presets and folders described without allocating them; memory planned and refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from wam_kit import CONFIG, JOINTS, LAYOUT, make_checkpoint

from starry_ros import cli
from starry_ros.errors import CheckpointError, ConfigError, RuntimeUnavailable
from starry_ros.wam import load, memory
from starry_ros.wam.checkpoint import save_checkpoint
from starry_ros.wam.config import base
from starry_ros.wam.inspect import build_on_meta, of_folder, parameters, stream_rows
from starry_ros.wam.memory import free_bytes, plan_memory, require_memory
from starry_ros.wam.runtimes.torch_runtime import torch_runtime
from starry_ros.wam.wan.config import WAN_PRESETS, WanConfig
from starry_ros.wam.wan.decoding import ChunkDecoder
from starry_ros.wam.wan.model import WanModel

DATA = Path(__file__).parent / "data" / "wan"


def test_the_published_size_has_its_parameters_tokens_and_history() -> None:
    config = WAN_PRESETS["wan2.2-5b"]
    rows = {row["stream"]: row for row in stream_rows(config, build_on_meta(config), 2)}
    assert rows["video"]["parameters"] == pytest.approx(5.0e9, rel=0.02)
    assert config.frame_tokens == 120
    assert (config.canvas_height_px, config.canvas_width_px) == (384, 320)
    assert rows["action"]["width"] < rows["video"]["width"]
    # 72 latent frames in chunks of two, 240 + 32 tokens a chunk; keys and values of 24 x 128 in 30 layers, 2 bytes each
    assert 72 // 2 * (240 + 32) == 9792
    plan = plan_memory(config, rows["all"]["parameters"], weight_bytes=2)
    assert plan.history_bytes == 9792 * 24 * 128 * 2 * 30 * 2
    assert plan.history_bytes / 1e9 == pytest.approx(3.6, abs=0.05)
    assert parameters(build_on_meta(WAN_PRESETS["lingbot-va"])) == pytest.approx(5.09e9, rel=0.01)


def test_base_lies_between_and_keeps_the_canvas() -> None:
    config = base(LAYOUT, JOINTS)
    assert 1e8 < parameters(build_on_meta(config)) < 3e8
    assert config.frame_tokens == 120


def test_the_plan_is_what_the_buffers_take() -> None:
    checkpoint = make_checkpoint()
    runtime = torch_runtime(checkpoint.build_model(), checkpoint.autoencoder)
    plan = plan_memory(CONFIG, checkpoint.parameters)
    masks = 4 * (CONFIG.history_slots + 2) * (CONFIG.frame_tokens + CONFIG.history_actions)
    assert runtime.frames.bytes + runtime.actions.bytes == plan.history_bytes + plan.aside_bytes + masks
    assert plan.weights_bytes == sum(4 * tensor.numel() for tensor in checkpoint.tensors().values())
    small = WanConfig(canvas_height_px=64, canvas_width_px=64, layers=2, heads=2, head_dim=12, feed_forward=24,
                      value=None, action=None, text_width=8, history_chunks=4, actions_per_latent=3)
    wan = ChunkDecoder(WanModel(small), torch.bfloat16)
    plan = plan_memory(small, 0, cache_bytes=2)
    work = 2 * small.chunk_tokens + 2 * small.chunk_actions
    masks = 2 * 2 * small.slot_tokens
    assert wan.bytes - masks == plan.history_bytes + plan.aside_bytes + work * 2 * memory.token_numbers(small) * 2


def test_a_plan_that_cannot_fit_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 0 < free_bytes("cpu") < 2**50
    plan = plan_memory(WAN_PRESETS["wan2.2-5b"], 6_000_000_000, 2)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**30)
    with pytest.raises(RuntimeUnavailable, match=r"does not fit into the memory of cpu.*1 GiB free"):
        require_memory(plan, "cpu", "wan")
    save_checkpoint(tmp_path / "m", make_checkpoint())
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**20)
    monkeypatch.setattr(load, "choose_runtime", lambda *_: pytest.fail("loaded all the same"))
    from wam_kit import SPEC

    with pytest.raises(RuntimeUnavailable, match="smaller preset"):
        load.load_session(tmp_path / "m", SPEC)


def test_inspect_prints_and_reports_a_preset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "r.json"
    words = ["model", "inspect", "--preset", "wan2.2-5b", "--history", "1", "--cache", "float32", "--json", str(report)]
    assert cli.main(words) in (0, 1)
    out = capsys.readouterr().out
    assert "12 x 10 = 120 tokens a latent frame" in out
    assert "272 tokens of 737280 bytes" in out
    rows = {row["stream"]: row for row in json.loads(report.read_text())["rows"]}
    assert rows["video"]["parameters"] == 4_999_787_712
    assert cli.main(["model", "inspect"]) == 2
    assert cli.main(["model", "inspect", "nowhere"]) == 2


def test_inspect_names_what_a_folder_lacks_and_what_it_has_too_much(tmp_path: Path) -> None:
    config, files = of_folder(str(DATA))
    assert isinstance(config, WanConfig)
    assert (config.layers, config.heads, config.value) == (2, 2, None)
    assert files == {"grammar": "diffusers", "tensors": "69 of 69 wanted", "missing": "none", "unexpected": "none"}
    save_checkpoint(tmp_path / "m", make_checkpoint())
    assert of_folder(str(tmp_path / "m"))[0] == CONFIG
    (tmp_path / "m" / "config.json").write_text(json.dumps({"format_version": 1}))
    with pytest.raises(CheckpointError, match="is no model folder"):
        of_folder(str(tmp_path / "m"))


def test_wan_shapes_that_do_not_fit_together_are_refused() -> None:
    for change, match in (({"canvas_height_px": 100}, "whole number of tokens"), ({"head_dim": 5}, "cannot be split")):
        with pytest.raises(ConfigError, match=match):
            dataclasses.replace(WanConfig(), **change)
    for config in WAN_PRESETS.values():
        assert WanConfig.from_json_dict(json.loads(json.dumps(config.to_json_dict()))) == config
    with pytest.raises(ConfigError, match="unknown"):
        WanConfig.from_json_dict({"colour": 1})
