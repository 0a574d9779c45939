"""What trainings share: the autoencoder, also as a function of arrays, and the running average of weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from starry_ros.training.pool import one_thread
from starry_ros.types import F32, U8
from starry_ros.wam.autoencoder import Autoencoder, load_autoencoder
from starry_ros.wam.checkpoint import WEIGHTS, load_checkpoint


def given_autoencoder(folder: Path) -> Autoencoder:
    """The autoencoder of a run of `starry train-autoencoder`, or the one inside a model folder; CheckpointError."""
    return load_checkpoint(folder).autoencoder if (folder / WEIGHTS).exists() else load_autoencoder(folder)


def encoder(autoencoder: Autoencoder) -> Callable[[U8], F32]:
    """The autoencoder as a function of arrays: canvases [n, H, W, 3] to latents [n, C, Y, X].

    Frame by frame and on one thread, so that every latent has the bits that serving on one thread gives it.
    """

    @torch.no_grad()
    def encode(canvas_BHWC: U8) -> F32:
        with one_thread():
            frames = (autoencoder.encode(torch.from_numpy(np.array(frame)[None])) for frame in canvas_BHWC)
            latents: F32 = torch.cat(list(frames)).numpy()
        return latents

    return encode


def follow(average: dict[str, Tensor], model: nn.Module, most: float, step: int) -> None:
    """Move the running average of the weights after a step; faster at the start, so that early ones are usable."""
    decay = min(most, (1 + step) / (10 + step))
    for name, value in model.state_dict().items():
        average[name].lerp_(value, 1 - decay)
