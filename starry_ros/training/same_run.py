"""Whether a command goes on with the run in its --out, or would make the weights there mean something else.

Names and shapes of tensors do not tell: weights that learned to go on from eight committed steps load just as well into
a model that knows of none, and would then be served as such.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch

from starry_ros.errors import ConfigError
from starry_ros.robot_spec import RobotSpec
from starry_ros.training.store import STATE
from starry_ros.training.summary import data_hash
from starry_ros.wam.autoencoder import Autoencoder
from starry_ros.wam.checkpoint import CONFIG, Checkpoint, load_checkpoint
from starry_ros.wam.config import WamConfig
from starry_ros.wam.options import GeometryConfig

STEPS = ("video_steps", "value_steps", "action_steps")
OPTIONS = {
    "name": "--preset", "prefix_steps": "--prefix",
    **{name: f"--{name.replace('_', '-')}"
       for name in ("coupling", "intent", "value_start", "layout", "paths", "geometry", "states", *STEPS)},
}
"""Fields of a model's configuration that `starry train` can choose, and how."""


def begun_run(out: Path) -> Checkpoint | None:
    """The model of the run in a folder as it was last saved; None where no run has begun. Raises CheckpointError."""
    folder = out / "checkpoint"
    return load_checkpoint(folder) if (out / STATE).exists() and (folder / CONFIG).exists() else None


def require_same_model(out: Path, begun: Checkpoint, wam: WamConfig, spec: RobotSpec, autoencoder: Autoencoder) -> None:
    """Raises ConfigError that names every option by which the model differs from that of the run in `out`."""
    fields = _differences(begun.config, wam)
    differ = {OPTIONS[name]: values for name, values in fields.items() if name in OPTIONS}
    if begun.contract_hash != spec.content_hash:
        differ["--robot"] = (f"{begun.contract.get('name', '?')} ({begun.contract_hash})",
                             f"{spec.name} ({spec.content_hash})")
    if not _equal(begun.autoencoder, autoencoder):
        differ["--autoencoder"] = (str(out / "checkpoint"), "another one")
    refuse(out, differ or fields)


def refuse(out: Path, differ: Mapping[str, tuple[object, object]]) -> None:
    """Raises ConfigError that names options that differ, each with what the run in `out` has and what was asked for."""
    if differ:
        expected, got = (", ".join(f"{option} {_shown(values[i])}" for option, values in differ.items())
                         for i in range(2))
        raise ConfigError(str(out), "holds a run that was begun with other options", got=got, expected=expected,
                          fix="give the options that it was begun with, or another --out")


def tell_changed_data(out: Path, begun: Checkpoint, data: Path) -> None:
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


def _equal(one: Autoencoder, other: Autoencoder) -> bool:
    """Whether two autoencoders have the same weights."""
    state, others = one.state_dict(), other.state_dict()
    return state.keys() == others.keys() and all(torch.equal(value, others[name]) for name, value in state.items())
