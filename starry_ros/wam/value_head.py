"""From value tokens to a spatial value map, and from the map to landing points.

Each value token asks a question (a vector) of the pixel embeddings under it; the answers are the map's logits. Inside
one view they are normalised like a probability of the contact's place; scaled by the chance that the contact is in the
view at all they become the map M in [0, 1]. The landing point is the mean of that probability (soft-argmax).

Shapes: B batch, N tokens, E events, V views, Y x X cells of the whole map, C pixel-embedding channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from starry_ros.wam.config import WamConfig
from starry_ros.wam.detail import patchify, unpatchify


@dataclass
class ValueOutput:
    """Value map and what it was made of.

    `log_probability` [B, E, Y, X] is normalised per view; `seen` [B, E, V] is the logit of the contact being in
    the view; `map` [B, E, Y, X] lies in [0, 1]; `landing` [B, E, V, 2] is (x, y) in cells of the view, in [0, 1].
    """

    log_probability: Tensor
    seen: Tensor
    map: Tensor
    landing: Tensor


def unseen(output: ValueOutput) -> ValueOutput:
    """What stands in an output's place where there is no value map: black, and no view shows a contact."""
    return ValueOutput(torch.zeros_like(output.log_probability), torch.full_like(output.seen, -torch.inf),
                       torch.zeros_like(output.map), torch.full_like(output.landing, 0.5))


class ValueHead(nn.Module):
    """Value tokens and pixel embeddings to a `ValueOutput`."""

    def __init__(self, config: WamConfig) -> None:
        super().__init__()
        self.config = config
        self.question = nn.Linear(config.value.width, config.value_events * config.detail_channels)
        self.coarse = nn.Linear(config.value.width, config.value_token_width)
        self.seen = nn.Linear(config.value.width, config.value_events)
        self.register_buffer("view_of_token", _view_of_token(config), persistent=False)
        self.boxes = _boxes(config)

    def forward(self, value_BND: Tensor, pixels_BCYX: Tensor) -> ValueOutput:
        config = self.config
        pixels = patchify(pixels_BCYX, config.value_cells).unflatten(-1, (config.detail_channels, -1))
        question = self.question(value_BND).unflatten(-1, (config.value_events, -1))
        answers = (question @ pixels) * config.detail_channels**-0.5 + self.coarse(value_BND).unflatten(
            -1, (config.value_events, -1)
        )
        logits = unpatchify(answers.flatten(2), config.value_cells, config.rows, config.columns)
        seen = torch.einsum("vn,bne->bev", self.view_of_token, self.seen(value_BND))
        return self._assemble(logits, seen)

    def _assemble(self, logits_BEYX: Tensor, seen_BEV: Tensor) -> ValueOutput:
        """Normalise every view and put the views back in their tiles."""
        cells_y, cells_x = logits_BEYX.shape[2:]
        log_probability, value_map = torch.zeros_like(logits_BEYX), torch.zeros_like(logits_BEYX)
        landing = []
        chance = torch.sigmoid(seen_BEV)
        for view, (x, y, width, height) in enumerate(self.boxes):
            flat = F.log_softmax(logits_BEYX[:, :, y : y + height, x : x + width].flatten(2), dim=-1)
            probability = flat.exp()
            peak = probability.amax(dim=-1, keepdim=True).detach()
            place = (x, cells_x - x - width, y, cells_y - y - height)
            box = probability.unflatten(-1, (height, width))
            log_probability = log_probability + F.pad(flat.unflatten(-1, (height, width)), place)
            value_map = value_map + F.pad(box / peak[..., None] * chance[:, :, view, None, None], place)
            landing.append(torch.stack([_mean(box.sum(2), width), _mean(box.sum(3), height)], dim=-1))
        return ValueOutput(log_probability, seen_BEV, value_map, torch.stack(landing, dim=2))


def _mean(weights_BEK: Tensor, cells: int) -> Tensor:
    """Expected cell centre along one axis, in [0, 1]."""
    centres = (torch.arange(cells, device=weights_BEK.device, dtype=weights_BEK.dtype) + 0.5) / cells
    return (weights_BEK * centres).sum(-1)


def _boxes(config: WamConfig) -> tuple[tuple[int, int, int, int], ...]:
    """Every view's (x, y, width, height) in cells."""
    stride = config.value_stride_px
    return tuple(
        (v.x_px // stride, v.y_px // stride, v.width_px // stride, v.height_px // stride) for v in config.views
    )


def _view_of_token(config: WamConfig) -> Tensor:
    """Averaging matrix [V, N]: which tokens lie in which view's tile."""
    matrix = torch.zeros(len(config.views), config.frame_tokens)
    for i, view in enumerate(config.views):
        for token in range(config.frame_tokens):
            row, column = divmod(token, config.columns)
            x, y = column * config.token_px, row * config.token_px
            inside = view.x_px <= x < view.x_px + view.width_px and view.y_px <= y < view.y_px + view.height_px
            matrix[i, token] = float(inside)
    return matrix / matrix.sum(1, keepdim=True)


class LandingEmbedding(nn.Module):
    """Landing points of every event and view, and the measured state, as one vector for the action stream."""

    frequencies: Tensor

    def __init__(self, config: WamConfig, hidden: int = 256) -> None:
        super().__init__()
        octaves = 5
        self.register_buffer("frequencies", torch.pi * 2.0 ** torch.arange(octaves), persistent=False)
        points = config.value_events * len(config.views)
        features = points * (2 * (1 + 2 * octaves) + 1) + config.joints
        self.layers = nn.Sequential(
            nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, config.action.width),
        )

    def forward(self, landing_BEV2: Tensor, seen_BEV: Tensor, state_BJ: Tensor) -> Tensor:
        """[B, width of the action stream]."""
        chance = torch.sigmoid(seen_BEV)[..., None]
        angles = landing_BEV2[..., None] * self.frequencies
        features = torch.cat([landing_BEV2, angles.sin().flatten(3), angles.cos().flatten(3)], dim=-1) * chance
        embedded: Tensor = self.layers(torch.cat([features.flatten(1), chance.flatten(1), state_BJ], dim=-1))
        return embedded
