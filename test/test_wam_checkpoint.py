"""Model folder: what is written comes back, and every kind of damage is refused with a way out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.errors import CheckpointError
from starry_ros.robot_spec import RobotSpec, load_robot_spec
from starry_ros.wam.autoencoder import Autoencoder, AutoencoderConfig
from starry_ros.wam.checkpoint import Checkpoint, contract_fields, load_checkpoint, save_checkpoint
from starry_ros.wam.config import StreamConfig, WamConfig, tiny
from starry_ros.wam.model import WorldActionModel
from starry_ros.wam.normalise import fit

ROBOT = Path(__file__).parents[1] / "config" / "robots" / "bimanual_sim.yaml"


@pytest.fixture(scope="module")
def spec() -> RobotSpec:
    return load_robot_spec(ROBOT)


@pytest.fixture(scope="module")
def checkpoint(spec: RobotSpec) -> Checkpoint:
    narrow = StreamConfig(48, 64)
    full = tiny(t_pose_layout(spec), len(spec.joints))
    config = dataclasses.replace(full, layers=2, heads=1, video=narrow, value=narrow, action=narrow)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    stats = fit(rng.normal(size=(20, 16, 14)), rng.normal(size=(20, 14)), spec.gripper_indices)
    size = (config.canvas_height_px, config.canvas_width_px)
    autoencoder = Autoencoder(AutoencoderConfig(*size, config.latent_channels, (8, 8, 8)))
    return Checkpoint(
        config, stats, dict(WorldActionModel(config).state_dict()), autoencoder, spec.content_hash,
        t_pose_layout(spec).layout_hash, {"steps": 3}, contract_fields(spec),
    )


@pytest.fixture
def folder(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "m", checkpoint)
    return tmp_path / "m"


def _edit_config(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads((folder / "config.json").read_text())
    edit(record)
    (folder / "config.json").write_text(json.dumps(record))


def _edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change tensors and make the hash fit again, so that only the deeper check can notice."""
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")
    sha256 = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    _edit_config(folder, lambda record: record.update(weights_sha256=sha256))


def _refused(folder: Path, spec: RobotSpec | None, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        load_checkpoint(folder, spec)
    assert caught.value.fix


def test_a_saved_model_comes_back_bit_for_bit(checkpoint: Checkpoint, folder: Path, spec: RobotSpec) -> None:
    back = load_checkpoint(folder, spec)
    assert (back.config, back.training, back.text_encoder) == (checkpoint.config, {"steps": 3}, "all-MiniLM-L6-v2")
    assert back.model.keys() == checkpoint.model.keys()
    assert all(torch.equal(back.model[key], value) for key, value in checkpoint.model.items())
    for key, value in checkpoint.autoencoder.state_dict().items():
        assert torch.equal(back.autoencoder.state_dict()[key], value)
    assert np.array_equal(back.stats.action_scale_KJ, checkpoint.stats.action_scale_KJ)
    assert back.weights_sha256 == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    built = back.build_model()
    assert not built.training
    assert all(torch.equal(built.state_dict()[key], value) for key, value in checkpoint.model.items())
    assert back.parameters == sum(v.numel() for v in load_file(folder / "model.safetensors").values())


def test_folder_holds_only_safetensors_and_json(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "norm_stats.json"]


def test_saving_over_an_older_model_replaces_it(checkpoint: Checkpoint, folder: Path) -> None:
    (folder / "MODEL_CARD.md").write_text("kept")
    newer = dataclasses.replace(checkpoint, model={key: value + 1 for key, value in checkpoint.model.items()})
    save_checkpoint(folder, newer)
    back = load_checkpoint(folder)
    assert all(torch.equal(back.model[key], value) for key, value in newer.model.items())
    assert (folder / "MODEL_CARD.md").exists()


@pytest.mark.parametrize("name", ["config.json", "norm_stats.json", "model.safetensors"])
def test_missing_and_truncated_files_are_named(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    for length in (0, 5, len(data) // 2, len(data) - 1 if name != "norm_stats.json" else len(data) - 2):
        (folder / name).write_bytes(data[:length] if name != "config.json" else data[: length - 1 if length else 0])
        _refused(folder, None, name.replace(".", r"\."))
    (folder / name).unlink()
    _refused(folder, None, "cannot be read")


def test_one_flipped_bit_is_noticed(folder: Path) -> None:
    for name in ("norm_stats.json", "model.safetensors"):
        data = bytearray((folder / name).read_bytes())
        place = len(data) - 9 if name == "model.safetensors" else data.index(b".") + 1
        data[place] ^= 1
        (folder / name).write_bytes(bytes(data))
        _refused(folder, None, "was altered")
        data[place] ^= 1
        (folder / name).write_bytes(bytes(data))
    load_checkpoint(folder)


def test_another_robot_is_refused_and_the_field_is_named(folder: Path, spec: RobotSpec) -> None:
    left, right = spec.arms
    longer = dataclasses.replace(right.joints[1], upper=1.5)
    right = dataclasses.replace(right, joints=(right.joints[0], longer, *right.joints[2:]))
    other = dataclasses.replace(spec, arms=(left, right))
    _refused(folder, other, r"another contract.*arms\[1\]\.joints\[1\]\.upper \(model 1\.25, robot 1\.5\)")
    load_checkpoint(folder, dataclasses.replace(spec, description="other words"))


def test_what_a_model_sees_nothing_of_may_differ(folder: Path, spec: RobotSpec) -> None:
    slow = dataclasses.replace(spec.arms[0].joints[0], velocity=0.3, acceleration=1.0, jerk=10.0)
    left = dataclasses.replace(spec.arms[0], command_topic="left/commands", joints=(slow, *spec.arms[0].joints[1:]))
    head = dataclasses.replace(spec.cameras[0], topic="/camera/color/image_raw", frame_id="eye")
    careful = dataclasses.replace(
        spec, arms=(left, spec.arms[1]), cameras=(head, *spec.cameras[1:]), arm_distance_m=0.2,
        workspace_m={**spec.workspace_m, "z": (0.1, 0.5)}, joint_state_topic="states",
    )
    assert careful.content_hash != spec.content_hash
    load_checkpoint(folder, careful)
    _refused(folder, dataclasses.replace(careful, action=dataclasses.replace(spec.action, step_s=0.2)), "step_s")
    _refused(folder, dataclasses.replace(careful, arms=(careful.arms[1], careful.arms[0])), "another contract")


def test_another_layout_version_or_field_is_refused(folder: Path, spec: RobotSpec) -> None:
    original = (folder / "config.json").read_text()
    edits: list[tuple[Callable[[dict[str, Any]], object], str]] = [
        (lambda r: r.update(layout_hash="0" * 16), "another canvas layout; got 0000000000000000"),
        (lambda r: r.update(format_version=2), "another format version; got 2; expected 1"),
        (lambda r: r.pop("format_version"), "another format version; got|another format version; expected 1"),
        (lambda r: r.pop("training"), r"missing fields \['training'\]"),
        (lambda r: r["config"].pop("heads"), "cannot be used"),
        (lambda r: r["config"].update(views=[{"camera": "head"}]), "cannot be used"),
        (lambda r: r["autoencoder"].update(height_px=208), "autoencoder does not fit"),
        (lambda r: r["config"].update(chunk_steps=8), r"does not fit the model \(steps, joints\)"),
    ]
    for edit, match in edits:
        _edit_config(folder, edit)
        _refused(folder, spec, match)
        (folder / "config.json").write_text(original)


def test_tensors_that_do_not_fit_the_config_are_named(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    edits: list[tuple[Callable[[dict[str, torch.Tensor]], object], str]] = [
        (lambda t: t.pop("model.action_in.weight"), r"1 tensors too few and 0 too many.*model\.action_in\.weight"),
        (lambda t: t.update(stray=torch.zeros(1)), r"0 tensors too few and 1 too many.*stray"),
        (lambda t: t.update({"model.action_in.bias": torch.zeros(3)}), r"model\.action_in\.bias has the wrong.*\(3,\)"),
        (lambda t: t.update({"model.action_in.bias": t["model.action_in.bias"].half()}), "float16"),
        (lambda t: t["autoencoder.encoder.0.bias"].fill_(float("nan")), r"autoencoder\.encoder\.0\.bias is not finite"),
    ]
    for edit, match in edits:
        _edit_weights(folder, edit)
        _refused(folder, None, match)
        (folder / "model.safetensors").write_bytes(whole)


def test_contract_fields_cover_every_joint_limit(spec: RobotSpec) -> None:
    fields = contract_fields(spec)
    assert fields["arms[0].joints[6].upper"] == 0.04
    assert fields["cameras[2].name"] == "right_wrist"
    assert len([key for key in fields if key.endswith(".jerk")]) == 14
    config = tiny(t_pose_layout(spec), 14)
    assert WamConfig.from_json_dict(json.loads(json.dumps(config.to_json_dict()))) == config
