"""Guided inpainting: a chunk is pulled towards steps that are already committed, by the gradient of the denoiser.

With a noised chunk a at level s and velocity v(a) = noise - clean, the clean chunk is guessed as g(a) = a - s v(a). The
guess is pulled towards the target Y where the weight W is not 0:

    v' = v - min(BETA, s / ((1 - s) r^2)) (dg/da)^T W (Y - g),   r^2 = s^2 / (s^2 + (1 - s)^2)

Source: Black, Galliker, Levine, Real-Time Execution of Action Chunking Flow Policies, 2025, equations (2) to (5), with
tau = 1 - s. The product with the transposed Jacobian comes from reverse-mode differentiation.

Shapes: K chunk steps, J joints.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from starry_ros.types import F32

BETA = 5.0


def strength(s: float) -> float:
    """Weight of the pull at noise level s, at most BETA."""
    if s <= 0.0:
        return 0.0
    spread = s * s / (s * s + (1 - s) ** 2)
    return BETA if s >= 1.0 else min(BETA, s / ((1 - s) * spread))


def pull(
    velocity: Callable[[Tensor], Tensor], a_1KJ: Tensor, s: float, target_1KJ: Tensor, weight_1K1: Tensor
) -> Tensor:
    """(dg/da)^T W (Y - g) at a noised chunk."""
    with torch.enable_grad():
        a = a_1KJ.detach().clone().requires_grad_(True)
        guess = a - s * velocity(a)
        wanted = (weight_1K1 * (target_1KJ - guess)).detach()
        (product,) = torch.autograd.grad(guess, a, wanted)
    return product


def soft_weights(steps: int, committed: int, known: int) -> F32:
    """Weights [K]: 1 for the committed steps, fading to 0 at the end of what the last plan knows (their equation 5)."""
    index = np.arange(steps, dtype=np.float64)
    fade = np.clip((known - index) / max(1, known - committed + 1), 0.0, 1.0)
    weights = fade * np.expm1(fade) / np.expm1(1.0)
    weights[:committed] = 1.0
    weights[known:] = 0.0
    soft: F32 = weights.astype(np.float32)
    return soft
