"""A model folder: config.json, norm_stats.json, model.safetensors (the autoencoder inside, under its own prefix).

`config.json` is written last and holds the SHA-256 of the other two, the hash and the fields of the robot contract, and
the hash of the canvas layout. A folder is used only if all of it fits; nothing is repaired or guessed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn

from starry_ros.canvas.depth import rgbd_layout
from starry_ros.canvas.layout import t_pose_layout
from starry_ros.errors import CheckpointError, ConfigError
from starry_ros.robot_spec import RobotSpec
from starry_ros.wam.autoencoder import Autoencoder, AutoencoderConfig
from starry_ros.wam.config import WamConfig
from starry_ros.wam.model import WorldActionModel
from starry_ros.wam.normalise import NormStats
from starry_ros.wam.text import MiniLmEncoder

FORMAT_VERSION = 1
CONFIG, STATS, WEIGHTS = "config.json", "norm_stats.json", "model.safetensors"
_PREFIXES = {"model": "model.", "autoencoder": "autoencoder."}
_FIELDS = {"format_version", "config", "autoencoder", "text_encoder", "contract_hash", "contract", "layout_hash",
           "weights_sha256", "norm_stats_sha256", "training"}
_FIX = "copy the model folder again, or train the model again"


@dataclass(frozen=True)
class Checkpoint:
    """Everything that serving needs. `model` is a WorldActionModel's state dict; `training` says how it was made."""

    config: WamConfig
    stats: NormStats
    model: dict[str, Tensor]
    autoencoder: Autoencoder
    contract_hash: str
    layout_hash: str
    training: Mapping[str, Any] = field(default_factory=dict)
    contract: Mapping[str, Any] = field(default_factory=dict)
    text_encoder: str = MiniLmEncoder.name
    weights_sha256: str = ""

    def build_model(self) -> WorldActionModel:
        """The model with these weights, in evaluation mode."""
        model = WorldActionModel(self.config)
        model.load_state_dict(self.model)
        return model.eval()

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor under the name it has in `model.safetensors`."""
        parts = {"model": self.model, "autoencoder": self.autoencoder.state_dict()}
        return {_PREFIXES[part] + key: value.detach().cpu().contiguous().clone()
                for part, state in parts.items() for key, value in state.items()}

    @property
    def parameters(self) -> int:
        """Numbers in the model and its autoencoder."""
        return sum(value.numel() for value in [*self.model.values(), *self.autoencoder.state_dict().values()])


UNSEEN = re.compile(
    r"name|joint_state_topic|command_interface|arm_distance_m|(kinematics|workspace_m)\b.*|rates\.(control|camera)_hz"
    r"|.*\.(topic|info_topic|command_topic|frame_id|end_effector_frame|velocity|acceleration|jerk)"
)
"""Fields of a contract that a model sees nothing of: it may run with other topics, or with lower limits of speed."""


def contract_fields(spec: RobotSpec) -> dict[str, Any]:
    """The contract's fields as flat `path: value` pairs, for naming what differs."""
    raw = dataclasses.asdict(spec)
    del raw["description"]
    return dict(sorted(_flatten("", json.loads(json.dumps(raw))).items()))


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a model folder; each file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{WEIGHTS}.partial"
    save_file(checkpoint.tensors(), partial)
    weights_sha256 = hashlib.sha256(partial.read_bytes()).hexdigest()
    os.replace(partial, folder / WEIGHTS)
    stats = _write_json(folder / STATS, checkpoint.stats.to_json_dict())
    _write_json(folder / CONFIG, {
        "format_version": FORMAT_VERSION, "config": checkpoint.config.to_json_dict(),
        "autoencoder": checkpoint.autoencoder.config.to_json_dict(), "text_encoder": checkpoint.text_encoder,
        "contract_hash": checkpoint.contract_hash, "contract": dict(checkpoint.contract),
        "layout_hash": checkpoint.layout_hash, "weights_sha256": weights_sha256,
        "norm_stats_sha256": hashlib.sha256(stats).hexdigest(), "training": dict(checkpoint.training),
    })


def load_checkpoint(folder: Path, spec: RobotSpec | None = None) -> Checkpoint:
    """Read a model folder, and check it against a robot contract if one is given.

    Raises CheckpointError on a missing, truncated or altered file, another version, another robot or canvas, or weights
    whose names, shapes or values do not fit the configuration.
    """
    folder = Path(folder)
    where = str(folder / CONFIG)
    record = _read_json(folder / CONFIG)
    version = record.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(where, "has another format version", got=version, expected=FORMAT_VERSION,
                              fix="use a model written by this version of the package")
    if set(record) != _FIELDS:
        missing, unknown = sorted(_FIELDS - set(record)), sorted(set(record) - _FIELDS)
        raise CheckpointError(where, f"missing fields {missing}, unknown fields {unknown}", fix=_FIX)
    if spec is not None:
        _check_robot(where, record, spec)
    try:
        config = WamConfig.from_json_dict(record["config"])
        autoencoder_config = AutoencoderConfig.from_json_dict(record["autoencoder"])
    except (ConfigError, TypeError, KeyError, ValueError) as error:
        raise CheckpointError(where, f"model configuration cannot be used: {error}", fix=_FIX) from error
    _check_sizes(where, config, autoencoder_config)
    stats = _load_stats(folder / STATS, record["norm_stats_sha256"], config)
    tensors = _load_tensors(folder / WEIGHTS, record["weights_sha256"])
    model, autoencoder = _split(str(folder / WEIGHTS), tensors, config, autoencoder_config)
    return Checkpoint(
        config, stats, model, autoencoder, record["contract_hash"], record["layout_hash"], record["training"],
        record["contract"], record["text_encoder"], record["weights_sha256"],
    )


def _flatten(path: str, value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        parts = [_flatten(f"{path}.{key}" if path else str(key), item) for key, item in value.items()]
    elif isinstance(value, list):
        parts = [_flatten(f"{path}[{i}]", item) for i, item in enumerate(value)]
    else:
        return {path: value}
    return {key: item for part in parts for key, item in part.items()}


def _write_json(path: Path, value: Mapping[str, Any]) -> bytes:
    text = (json.dumps(value, indent=1) + "\n").encode()
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(text)
    os.replace(partial, path)
    return text


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(str(path), "cannot be read", got=error.strerror, fix=_FIX) from error


def _read_json(path: Path, data: bytes | None = None) -> dict[str, Any]:
    try:
        record = json.loads(_read_bytes(path) if data is None else data)
    except ValueError as error:
        raise CheckpointError(str(path), f"is not valid JSON: {error}", fix=_FIX) from error
    if not isinstance(record, dict):
        raise CheckpointError(str(path), "is not a JSON object", got=type(record).__name__, fix=_FIX)
    return record


def _check_robot(where: str, record: Mapping[str, Any], spec: RobotSpec) -> None:
    trained, now = dict(record["contract"]), contract_fields(spec)
    differ = [key for key in sorted({*trained, *now}) if trained.get(key) != now.get(key)] if trained else []
    differ = [key for key in differ if not UNSEEN.fullmatch(key)]
    if record["contract_hash"] != spec.content_hash and (differ or not trained):
        named = ", ".join(f"{key} (model {trained.get(key)}, robot {now.get(key)})" for key in differ[:5])
        raise CheckpointError(
            where, f"was trained for another contract than {spec.name}; differs in {named or 'unrecorded fields'}",
            got=record["contract_hash"], expected=spec.content_hash,
            fix="use the contract that the model was trained with, or train a model for this robot",
        )
    layout = t_pose_layout(spec)
    layout_hash = (rgbd_layout(layout) if record["config"].get("layout") == "rgbd" else layout).layout_hash
    if record["layout_hash"] != layout_hash:
        raise CheckpointError(where, "was trained on another canvas layout", got=record["layout_hash"],
                              expected=layout_hash, fix="train a model for this canvas")


def _check_sizes(where: str, config: WamConfig, autoencoder: AutoencoderConfig) -> None:
    wanted = (config.latent_channels, config.canvas_height_px, config.canvas_width_px)
    got = (autoencoder.latent_channels, autoencoder.height_px, autoencoder.width_px)
    if got != wanted:
        raise CheckpointError(where, "autoencoder does not fit the model (channels, height, width)", got=got,
                              expected=wanted, fix=_FIX)


def _check_hash(path: Path, data: bytes, expected: str) -> None:
    got = hashlib.sha256(data).hexdigest()
    if got != expected:
        raise CheckpointError(
            str(path), "was altered or belongs to another model", got=got, expected=expected, fix=_FIX
        )


def _load_stats(path: Path, sha256: str, config: WamConfig) -> NormStats:
    data = _read_bytes(path)
    raw = _read_json(path, data)
    _check_hash(path, data, sha256)
    stats = NormStats.from_json_dict(raw)
    wanted = (config.chunk_steps, config.joints)
    if stats.action_scale_KJ.shape != wanted:
        raise CheckpointError(str(path), "does not fit the model (steps, joints)", got=stats.action_scale_KJ.shape,
                              expected=wanted, fix=_FIX)
    return stats


def _load_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    data = _read_bytes(path)
    try:
        tensors: dict[str, Tensor] = load(data)
    except SafetensorError as error:
        raise CheckpointError(
            str(path), f"is truncated or no safetensors file: {error}", got=f"{len(data)} bytes", fix=_FIX
        ) from error
    _check_hash(path, data, sha256)
    return tensors


def _split(
    where: str, tensors: Mapping[str, Tensor], config: WamConfig, autoencoder_config: AutoencoderConfig
) -> tuple[dict[str, Tensor], Autoencoder]:
    """Sort tensors by prefix and check every name, shape and value against freshly built modules."""
    with torch.random.fork_rng(devices=[]):  # the "meta" device would import PyTorch's compiler, for seconds
        modules: dict[str, nn.Module] = {
            "model": WorldActionModel(config), "autoencoder": Autoencoder(autoencoder_config),
        }
    wanted = {_PREFIXES[part] + key: value
              for part, module in modules.items() for key, value in module.state_dict().items()}
    missing, unexpected = sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted))
    if missing or unexpected:
        raise CheckpointError(where, f"has {len(missing)} tensors too few and {len(unexpected)} too many",
                              got=unexpected[:3], expected=missing[:3], fix=_FIX)
    for key, value in tensors.items():
        expected = (wanted[key].dtype, tuple(wanted[key].shape))
        if (value.dtype, tuple(value.shape)) != expected:
            raise CheckpointError(where, f"tensor {key} has the wrong type or shape",
                                  got=(value.dtype, tuple(value.shape)), expected=expected, fix=_FIX)
        if not torch.isfinite(value).all():
            raise CheckpointError(where, f"tensor {key} is not finite", fix="train again: this training diverged")
    states = {part: {key[len(prefix):]: value for key, value in tensors.items() if key.startswith(prefix)}
              for part, prefix in _PREFIXES.items()}
    autoencoder = Autoencoder(autoencoder_config)
    autoencoder.load_state_dict(states["autoencoder"])
    return states["model"], autoencoder.eval()
