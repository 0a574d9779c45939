"""What `--init` names: weights to start from, and the autoencoder in whose latents they learned."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from starry_ros.errors import ConfigError
from starry_ros.training.same_run import same_weights
from starry_ros.training.store import load_average
from starry_ros.wam.autoencoder import Autoencoder
from starry_ros.wam.checkpoint import CONFIG, WEIGHTS, load_checkpoint


def model_folder(init: Path) -> Path | None:
    """The model folder that `init` is, or that a run in it serves; None where there is neither."""
    return next((place for place in (init, init / "checkpoint") if (place / CONFIG).exists()), None)


def first_weights(init: Path) -> dict[str, Tensor]:
    """The weights of a model folder, or what a run serves. Raises ConfigError where there are none."""
    average = {} if (init / WEIGHTS).exists() else load_average(init)
    if average:
        return average
    place = model_folder(init)
    if place is None:
        raise ConfigError("--init", "holds no weights of a model", got=init,
                          fix="name a model folder, or that of a run of `starry train` or `starry train-rl`")
    return load_checkpoint(place).model


def require_start(init: Path, folder: Path, autoencoder: Autoencoder) -> None:
    """Raises ConfigError where `init` holds no weights, or such as learned in latents of another autoencoder.

    `autoencoder` is that of `folder`. One that was trained on from theirs will do: its latents are nearly the same.
    """
    place = model_folder(init)
    if place is None:
        first_weights(init)
        return
    own = load_checkpoint(place).autoencoder
    if not same_weights(own.state_dict(), autoencoder.state_dict()) and not _trained_on(folder, autoencoder, own):
        raise ConfigError("--autoencoder", "is another one than that which the weights of --init were trained with",
                          got=folder, expected=f"that of {place}",
                          fix=f"give --autoencoder {place}, or what `starry train-autoencoder --init` made of it")


def _trained_on(folder: Path, autoencoder: Autoencoder, own: Autoencoder) -> bool:
    """Whether the autoencoder of a run began as `own`, or as what that began as: all keep the first background."""
    record = folder / "autoencoder.json"
    facts = json.loads(record.read_bytes()).get("facts", {}) if record.exists() else {}
    return "init" in facts and torch.equal(autoencoder.background_3HW, own.background_3HW)
