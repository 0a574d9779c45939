"""Committed prefixes in training: the first steps of a chunk are known for a random number of steps.

They are given as clean action tokens that follow the current frame, exactly as `Session.supposing` gives them in
serving, and their own steps are not learned. Source: training-time real-time chunking (Black et al. 2025), with the
prefix as keys of its own instead of a noise level of 0, so that the imagined frame sees it as well.

Shapes: B batch, G draws, K chunk steps, U actions a history slot, J joints.
"""

from __future__ import annotations

import torch
from torch import Tensor

from starry_ros.training.dataset import Batch
from starry_ros.wam.layers import Keys
from starry_ros.wam.model import Ropes, WorldActionModel
from starry_ros.wam.normalise import NormStats

NONE_SHARE = 0.3
"""Share of samples without a prefix: the first plan of an episode has none."""


def prefix_lengths(size: int, most: int, noise: torch.Generator) -> Tensor:
    """Known steps of every sample [B]: none, or uniformly 1 to `most`."""
    lengths = torch.randint(1, most + 1, (size,), generator=noise)
    return torch.where(torch.rand(size, generator=noise) < NONE_SHARE, torch.zeros_like(lengths), lengths)


def prefix_keys(model: WorldActionModel, batch: Batch, stats: NormStats, ropes: Ropes, lengths_B: Tensor) -> Keys:
    """Keys of the known steps, as executed actions of the slot that begins now."""
    steps = torch.arange(model.config.history_actions)
    known = torch.from_numpy(stats.state_to_model(batch.plan_BKJ[:, : len(steps)])).float()
    valid = (steps[None] < lengths_B[:, None]).float()
    return model.remember_actions(known * valid[..., None], valid, ropes.actions(steps + 1))


def unknown_loss(velocity_BGKJ: Tensor, clean_BGKJ: Tensor, noise_BGKJ: Tensor, lengths_B: Tensor) -> Tensor:
    """Mean squared error to v = noise - x over the steps that are not known."""
    steps = torch.arange(velocity_BGKJ.shape[2])
    weight_B1K1 = (steps[None] >= lengths_B[:, None]).float()[:, None, :, None]
    error = (velocity_BGKJ - (noise_BGKJ - clean_BGKJ)).square()
    return (error * weight_B1K1).sum() / (weight_B1K1.expand_as(error).sum()).clamp_min(1.0)
