"""`starry model average`: one model from several that were trained from the same start.

Source: model soups (Wortsman et al., ICML 2022): fine-tunings of one model lie in one basin, and the mean of their
weights is often better than each.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from starry_ros.errors import CheckpointError
from starry_ros.paths import model_dir
from starry_ros.wam.checkpoint import CONFIG, Checkpoint, load_checkpoint, save_checkpoint


def average(folders: list[Path]) -> Checkpoint:
    """The mean of the weights of model folders; of every tensor with float64 in between.

    CheckpointError where they differ in more than weights: in configuration, robot, units or autoencoder.
    """
    models = [load_checkpoint(folder) for folder in folders]
    first = models[0]
    for folder, other in zip(folders[1:], models[1:], strict=True):
        if (difference := _difference(first, other)) is not None:
            raise CheckpointError(str(folder), f"differs from {folders[0]} in its {difference}",
                                  fix="average models that were trained from the same --init with the same options")
    mean = {name: _mean([model.model[name] for model in models]) for name in first.model}
    parts = [{"weights_sha256": model.weights_sha256, **model.training} for model in models]
    return replace(first, model=mean, training={"average_of": parts})


def _difference(first: Checkpoint, other: Checkpoint) -> str | None:
    """What cannot be averaged, in words."""
    ours, theirs = (model.autoencoder.state_dict() for model in (first, other))
    if first.config != other.config or first.layout_hash != other.layout_hash:
        return "configuration"
    if first.contract_hash != other.contract_hash:
        return "robot"
    if any(not np.array_equal(getattr(first.stats, name), getattr(other.stats, name)) for name in vars(first.stats)):
        return "units"
    return None if all(torch.equal(ours[name], theirs[name]) for name in ours) else "autoencoder"


def _mean(tensors: list[Tensor]) -> Tensor:
    if not tensors[0].is_floating_point():
        return tensors[0]
    return torch.stack([tensor.double() for tensor in tensors]).mean(dim=0).to(tensors[0].dtype)


def average_command(args: argparse.Namespace) -> int:
    """Average the weights of model folders into a new one; returns 0."""
    folders = [model_dir(str(folder)) for folder in args.models]
    if (args.out / CONFIG).exists():
        raise CheckpointError(str(args.out), "holds a model already", fix="give another folder")
    save_checkpoint(args.out, average(folders))
    print(f"{args.out}: the mean of {len(folders)} models")
    return 0
