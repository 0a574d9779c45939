"""Compact states (StaMo): a frame's latents to two tokens and back; the difference of two states is a motion.

    latents, pooled pixels (frozen features) -> compressor: learned queries among the frame's tokens -> state
    noised latents + state -> flow-matching decoder -> velocity; Euler from noise gives the latents back

Source: E || D(z_t, E(x), t) - u ||^2 with z_t = (1 - t) z + t noise, u = noise - z. Only compressor and decoder are
trained; the features are the latents of the image autoencoder, which stays as it is, and means of pixels: a latent is
too coarse for the motion of one tenth of a second. For the same reason the compressor also reads every token where it
stands; queries alone blur places.

Shapes: B batch, C latent channels, h x w latent cells, M patches of a latent, S state tokens, D state width.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from starry_ros.errors import CheckpointError, ConfigError
from starry_ros.files import write_text
from starry_ros.wam.detail import patchify, unpatchify
from starry_ros.wam.layers import Stream
from starry_ros.wam.options import StatesConfig
from starry_ros.wam.sampler import levels

FORMAT_VERSION = 1
PIXEL_SCALE = 3.0
_WEIGHTS, RECORD = "states.safetensors", "states.json"


class StateEncoder(nn.Module):
    """A frame's latents [B, C, h, w] and canvas [B, 3, H, W] in [-1, 1] to its state [B, S, D]."""

    def __init__(self, config: StatesConfig) -> None:
        super().__init__()
        self.config = config
        features = (config.latent_channels + 3 * config.pixel_cells**2) * config.patch**2
        numbers = config.tokens * config.state_width
        self.patch_in = nn.Linear(features, config.width)
        self.position = nn.Parameter(0.02 * torch.randn(_patches(config), config.width))
        self.queries = nn.Parameter(torch.randn(config.tokens, config.width))
        self.stream = _stream(config)
        self.out = nn.Linear(config.width, config.state_width)
        self.squeeze = nn.Linear(config.width, config.reading)
        self.read = nn.Sequential(
            nn.Linear(_patches(config) * config.reading, 2 * numbers), nn.ReLU(), nn.Linear(2 * numbers, numbers))
        self.straight = nn.Linear(_patches(config) * features, numbers, bias=False)
        nn.init.normal_(self.straight.weight, std=0.2 / (_patches(config) * features) ** 0.5)

    def forward(self, latents_BCHW: Tensor, canvas_B3HW: Tensor) -> Tensor:
        return self.compress(self.features(latents_BCHW, self.means(canvas_B3HW)))

    def compress(self, features_BCHW: Tensor) -> Tensor:
        """State [B, S, D] of a frame's features."""
        c, features = self.config, patchify(features_BCHW, self.config.patch)
        h = self.patch_in(features) + self.position
        h = torch.cat([self.queries.expand(len(h), -1, -1), h], dim=1)
        h, _ = self.stream(h, h.new_zeros(1), _unrotated(h, c), [])
        read = self.read(self.squeeze(h[:, c.tokens :]).flatten(1)) + self.straight(features.flatten(1))
        state: Tensor = self.out(h[:, : c.tokens]) + read.unflatten(1, (c.tokens, c.state_width))
        return state

    def means(self, canvas_B3HW: Tensor) -> Tensor:
        """Means of the squares of pixels that the features hold: `pixel_cells` squared of them beside each latent."""
        size = canvas_B3HW.shape[-1] // (self.config.latent_columns * max(1, self.config.pixel_cells))
        return F.avg_pool2d(canvas_B3HW, size)

    def features(self, latents_BCHW: Tensor, means_B3HW: Tensor) -> Tensor:
        """Latents, and the pixel means beside each of them [B, C', h, w]."""
        if not self.config.pixel_cells:
            return latents_BCHW
        return torch.cat([latents_BCHW, F.pixel_unshuffle(PIXEL_SCALE * means_B3HW, self.config.pixel_cells)], dim=1)


class StateDecoder(nn.Module):
    """Velocity of noised latents at flow time t, given a state."""

    def __init__(self, config: StatesConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_in = nn.Linear(_patch_width(config), config.width)
        self.state_in = nn.Linear(config.state_width, config.width)
        self.position = nn.Parameter(0.02 * torch.randn(config.tokens + _patches(config), config.width))
        self.stream = _stream(config)
        self.out = nn.Linear(config.width, _patch_width(config))

    def forward(self, z_BCHW: Tensor, t_B: Tensor, state_BSD: Tensor) -> Tensor:
        c = self.config
        h = torch.cat([self.state_in(state_BSD), self.patch_in(patchify(z_BCHW, c.patch))], dim=1) + self.position
        h, _ = self.stream(h, t_B, _unrotated(h, c), [])
        return unpatchify(self.out(h[:, c.tokens :]), c.patch, c.latent_rows // c.patch, c.latent_columns // c.patch)


class StateAutoencoder(nn.Module):
    """Compressor and decoder."""

    def __init__(self, config: StatesConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = StateEncoder(config)
        self.decoder = StateDecoder(config)

    def encode(self, latents_BCHW: Tensor, canvas_B3HW: Tensor) -> Tensor:
        """States [B, S, D]. The difference of two is a motion."""
        state: Tensor = self.encoder(latents_BCHW, canvas_B3HW)
        return state

    def encode_features(self, latents_BCHW: Tensor, means_B3HW: Tensor) -> Tensor:
        """What `encode` gives, from the means of the canvas (`StateEncoder.means`)."""
        return self.encoder.compress(self.encoder.features(latents_BCHW, means_B3HW))

    def loss(self, latents_BCHW: Tensor, noise_BCHW: Tensor, t_B: Tensor, state_BSD: Tensor) -> Tensor:
        """Mean squared error of the decoder's velocity, given the latents' states."""
        t = t_B[:, None, None, None]
        velocity = self.decoder((1 - t) * latents_BCHW + t * noise_BCHW, t_B, state_BSD)
        error: Tensor = (velocity - (noise_BCHW - latents_BCHW)).square().mean()
        return error

    @torch.no_grad()
    def decode(self, state_BSD: Tensor, noise_BCHW: Tensor, steps: int = 4) -> Tensor:
        """Latents of a state, by Euler steps from noise."""
        z = noise_BCHW
        for t, dt in levels(steps):
            z = z + dt * self.decoder(z, torch.full((len(z),), t, device=z.device), state_BSD)
        return z


def _stream(c: StatesConfig) -> Stream:
    return Stream(c.layers, c.width, c.feed_forward, c.heads, c.width // c.heads)


def _patches(c: StatesConfig) -> int:
    return c.latent_rows * c.latent_columns // c.patch**2


def _patch_width(c: StatesConfig) -> int:
    return c.latent_channels * c.patch**2


def _unrotated(h_BND: Tensor, c: StatesConfig) -> Tensor:
    """The rotation by nothing: places are learned here."""
    ones = h_BND.new_ones(h_BND.shape[1], c.width // c.heads // 2)
    return torch.stack([ones, torch.zeros_like(ones)])


def save_states(folder: Path, model: StateAutoencoder, facts: Mapping[str, Any]) -> None:
    """Write `states.safetensors` and `states.json` (shape, and how the weights were made)."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{_WEIGHTS}.partial"
    save_file({name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}, partial)
    os.replace(partial, folder / _WEIGHTS)
    record = {"format_version": FORMAT_VERSION, "config": dataclasses.asdict(model.config), "facts": dict(facts)}
    write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")


def load_states(folder: Path) -> StateAutoencoder:
    """Inverse of `save_states`, in evaluation mode. Raises CheckpointError on anything missing or damaged."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if record["format_version"] != FORMAT_VERSION:
            raise CheckpointError(str(folder), "has another version", got=record["format_version"],
                                  expected=FORMAT_VERSION)
        model = StateAutoencoder(StatesConfig(**record["config"]))
        model.load_state_dict(load_file(folder / _WEIGHTS))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, ConfigError) as error:
        raise CheckpointError(str(folder), f"state autoencoder cannot be read: {error}",
                              fix="train it again with `starry train-state-tokens`") from error
    return model.eval()
