"""Whether a command goes on with the run in its --out, or would make the weights there mean something else.

Names and shapes of tensors do not tell: weights that learned to go on from eight committed steps load just as well into
a model that knows of none, and would then be served as such.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from starry_ros.errors import CheckpointError, ConfigError
from starry_ros.robot_spec import RobotSpec
from starry_ros.training.store import STATE
from starry_ros.training.summary import data_hash
from starry_ros.types import Record
from starry_ros.wam.autoencoder import Autoencoder
from starry_ros.wam.checkpoint import CONFIG, STATS, WEIGHTS
from starry_ros.wam.config import WamConfig
from starry_ros.wam.normalise import NormStats
from starry_ros.wam.options import GeometryConfig


def option(name: str) -> str:
    """An argument's name as it is given."""
    return f"--{name.replace('_', '-')}"


STEPS = ("video_steps", "value_steps", "action_steps")
OPTIONS = {
    "name": "--preset", "prefix_steps": "--prefix",
    **{name: option(name)
       for name in ("coupling", "intent", "value_start", "layout", "paths", "geometry", "states", *STEPS)},
}
"""Fields of a model's configuration that `starry train` can choose, and how."""
OTHER_OPTIONS = ("init", "tint", "states", "video", "video_states", "video_weight", "narrow_from_video",
                 "only_geometry", "occluded")
"""Options of `starry train` that decide the weights and stand in neither configuration, the model's or the training's.
"""
KEPT_OPTIONS = ("seed", "batch", "learning_rate", "noisy_history", "text_dropout")
"""Fields of the training's configuration that a run keeps to its end. It may get more steps and other words."""


@dataclass(frozen=True)
class BegunRun:
    """What is the same in all saves of a run, but for how far it was then (`training`)."""

    config: WamConfig
    stats: NormStats
    autoencoder: dict[str, Tensor]
    contract_hash: str
    contract: Mapping[str, Any]
    training: Mapping[str, Any]


def begun_run(out: Path) -> BegunRun | None:
    """The run in a folder; None where none has begun. Raises CheckpointError on files that cannot be read.

    Of its checkpoint the weights are not looked at, nor whether they are those of config.json: where a save was cut off
    each file is whole, but of another step than the next.
    """
    folder = out / "checkpoint"
    if not ((out / STATE).exists() and (folder / CONFIG).exists()):
        return None
    try:
        record, stats = json.loads((folder / CONFIG).read_bytes()), (folder / STATS).read_bytes()
        if hashlib.sha256(stats).hexdigest() != record["norm_stats_sha256"]:
            raise ValueError(f"{STATS} was altered")
        tensors, prefix = load_file(folder / WEIGHTS), "autoencoder."
        return BegunRun(
            WamConfig.from_json_dict(record["config"]), NormStats.from_json_dict(json.loads(stats)),
            {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)},
            record["contract_hash"], record["contract"], record["training"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, ConfigError) as error:
        raise CheckpointError(str(folder), f"is no checkpoint of a run: {error}",
                              fix="copy the run again, or give another --out") from error


def chosen_options(args: argparse.Namespace) -> Record:
    """OTHER_OPTIONS as they were given, in plain JSON types."""
    given = {name: getattr(args, name) for name in OTHER_OPTIONS}
    return {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}


def require_same_options(out: Path, begun: BegunRun, args: argparse.Namespace, options: Record) -> None:
    """Raises ConfigError that names every option by which the training differs from that of the run in `out`.

    What older runs did not note is not checked.
    """
    given = {**options, **{name: getattr(args, name) for name in KEPT_OPTIONS}}
    pairs = {name: (begun.training.get(name, value), value) for name, value in given.items()}
    refuse(out, {option(name): pair for name, pair in pairs.items() if pair[0] != pair[1]})


def require_same_model(out: Path, begun: BegunRun, wam: WamConfig, spec: RobotSpec, autoencoder: Autoencoder) -> None:
    """Raises ConfigError that names every option by which the model differs from that of the run in `out`."""
    fields = _differences(begun.config, wam)
    differ = {OPTIONS[name]: values for name, values in fields.items() if name in OPTIONS}
    if begun.contract_hash != spec.content_hash:
        differ["--robot"] = (f"{begun.contract.get('name', '?')} ({begun.contract_hash})",
                             f"{spec.name} ({spec.content_hash})")
    if not same_weights(begun.autoencoder, autoencoder.state_dict()):
        differ["--autoencoder"] = (str(out / "checkpoint"), "another one")
    refuse(out, differ or fields)


def refuse(out: Path, differ: Mapping[str, tuple[object, object]]) -> None:
    """Raises ConfigError that names options that differ, each with what the run in `out` has and what was asked for."""
    if differ:
        expected, got = (", ".join(f"{name} {_shown(values[i])}" for name, values in differ.items())
                         for i in range(2))
        raise ConfigError(str(out), "holds a run that was begun with other options", got=got, expected=expected,
                          fix="give the options that it was begun with, or another --out")


def tell_changed_data(out: Path, begun: BegunRun, data: Path) -> None:
    """One line where the data are others than when the run was last saved: more of them may come on purpose."""
    before, now = begun.training.get("data_hash", ""), data_hash(data)
    if before and before != now:
        print(f"{data} has changed since {out} was saved (data hash {before}, now {now or 'unknown'}): "
              "goes on with the data as they are now", flush=True)


def _differences(run: WamConfig, wam: WamConfig) -> dict[str, tuple[object, object]]:
    """Fields of two configurations that differ, with both values; another preset brings its own steps."""
    names = [field.name for field in dataclasses.fields(WamConfig)]
    pairs = {name: (getattr(run, name), getattr(wam, name)) for name in names}
    fields = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    return {name: pair for name, pair in fields.items() if "name" not in fields or name not in STEPS}


def _shown(value: object) -> str:
    """A value as an option has it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    return value.mode if isinstance(value, GeometryConfig) else str(value)


def same_weights(state: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    """Whether two modules have the same weights."""
    return state.keys() == others.keys() and all(torch.equal(value, others[name]) for name, value in state.items())
