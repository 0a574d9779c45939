"""Stage-one losses: L = video + lambda_m value + lambda_a action (AIM equation 9), and STARRY's geometry terms.

Shapes: B batch, N tokens, G draws, K steps, J joints, E events, V views, Y x X cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from starry_ros.training.budgets import LossWeights
from starry_ros.wam.config import WamConfig
from starry_ros.wam.value_head import ValueOutput


@dataclass
class ValueTarget:
    """Value labels on the map's grid.

    `map` [B, E, Y, X] in [0, 1]; `probability` the same, normalised per view; `point` [B, E, V, 2] in [0, 1] of the
    view; `inside` [B, E, V] is 1 where the contact projects into the view.
    """

    map: Tensor
    probability: Tensor
    point: Tensor
    inside: Tensor


def value_target(events_BEV4: Tensor, config: WamConfig) -> ValueTarget:
    """Labels (u_px, v_px, sigma_px, inside) on the canvas to Gaussians on the map: exp(-r^2 / 2 sigma^2)."""
    stride = config.value_stride_px
    height, width = config.canvas_height_px // stride, config.canvas_width_px // stride
    batch, events = events_BEV4.shape[:2]
    value_map = events_BEV4.new_zeros(batch, events, height, width)
    probability = torch.zeros_like(value_map)
    points = []
    for view, tile in enumerate(config.views):
        u, v, sigma, inside = events_BEV4[:, :, view].unbind(-1)
        x = torch.arange(tile.width_px // stride) * stride + tile.x_px + (stride - 1) / 2
        y = torch.arange(tile.height_px // stride) * stride + tile.y_px + (stride - 1) / 2
        square = (x[None, :] - u[..., None]).square()[..., None, :] + (y[None, :] - v[..., None]).square()[..., :, None]
        blob = torch.exp(-square / (2 * sigma.clamp_min(1.0).square()[..., None, None])) * inside[..., None, None]
        rows = slice(tile.y_px // stride, (tile.y_px + tile.height_px) // stride)
        columns = slice(tile.x_px // stride, (tile.x_px + tile.width_px) // stride)
        value_map[:, :, rows, columns] = blob
        probability[:, :, rows, columns] = blob / blob.sum((-2, -1), keepdim=True).clamp_min(1e-6)
        points.append(torch.stack([
            (u + 0.5 - tile.x_px) / tile.width_px, (v + 0.5 - tile.y_px) / tile.height_px], dim=-1))
    return ValueTarget(value_map, probability, torch.stack(points, dim=2), events_BEV4[..., 3])


def value_losses(output: ValueOutput, target: ValueTarget) -> dict[str, Tensor]:
    """Cross-entropy of the place, distance of the landing point, chance of being in view, squared error of the map."""
    views = target.inside.sum().clamp_min(1.0)
    cross_entropy = -(target.probability * output.log_probability).sum((-2, -1)).sum() / views
    distance = (output.landing - target.point).abs().sum(-1) * target.inside
    return {
        "value_place": cross_entropy,
        "value_coordinate": distance.sum() / views,
        "value_seen": F.binary_cross_entropy_with_logits(output.seen, target.inside),
        "value_map": F.mse_loss(output.map, target.map),
    }


def rival_loss(output: ValueOutput, target: ValueTarget, applies_B: Tensor) -> Tensor:
    """-log(1 - p), p the probability that another sentence's map gives to THIS sentence's next contact (event 0).

    A demonstration names its target in the arm's motion as well as in words; without this term the words are ignored.
    """
    near = (target.map[:, :1] > 0.3).float()
    log_probability = output.log_probability[:, :1]
    mass = (log_probability.exp() * near).sum((1, 2, 3)) / target.inside[:, 0].sum(1).clamp_min(1.0)
    return -(torch.log((1 - mass).clamp_min(1e-3)) * applies_B).sum() / applies_B.sum().clamp_min(1.0)


def velocity_loss(velocity: Tensor, clean: Tensor, noise: Tensor, counts_B: Tensor | None = None) -> Tensor:
    """Mean squared error to v = noise - x, over all samples or those that count."""
    if counts_B is None:
        return F.mse_loss(velocity, noise - clean)
    error_B = (velocity - (noise - clean)).square().flatten(1).mean(1)
    return (error_B * counts_B).sum() / counts_B.sum().clamp_min(1.0)


def noised(clean: Tensor, noise: Tensor, s_B: Tensor) -> Tensor:
    """x_s = (1 - s) x + s noise, one s a sample."""
    s = s_B.reshape(-1, *([1] * (clean.dim() - 1)))
    return (1 - s) * clean + s * noise


def total(terms: dict[str, Tensor], weights: LossWeights) -> Tensor:
    """Weighted sum."""
    return torch.stack([getattr(weights, name) * term for name, term in terms.items()]).sum()
