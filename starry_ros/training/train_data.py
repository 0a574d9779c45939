"""What trainings share: the autoencoder as a function of arrays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from starry_ros.types import F32, U8
from starry_ros.wam.autoencoder import Autoencoder


def encoder(autoencoder: Autoencoder) -> Callable[[U8], F32]:
    """The autoencoder as a function of arrays: canvases [n, H, W, 3] to latents [n, C, Y, X]."""

    @torch.no_grad()
    def encode(canvas_BHWC: U8) -> F32:
        groups = (canvas_BHWC[i : i + 32] for i in range(0, len(canvas_BHWC), 32))
        latents: F32 = torch.cat([autoencoder.encode(torch.from_numpy(np.array(group))) for group in groups]).numpy()
        return latents

    return encode
