"""Compact states (StaMo): a frame's latents to two tokens and back; the difference of two states is a motion.

    latents (frozen features) -> compressor: learned queries among the frame's tokens -> state
    noised latents + state -> flow-matching decoder -> velocity; Euler from noise gives the latents back

Source: E || D(z_t, E(x), t) - u ||^2 with z_t = (1 - t) z + t noise, u = noise - z. Only compressor and decoder are
trained; the features are the latents of the image autoencoder, which stays as it is.

Shapes: B batch, C latent channels, h x w latent cells, M patches of a latent, S state tokens, D state width.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from starry_ros.errors import CheckpointError, ConfigError
from starry_ros.wam.detail import patchify, unpatchify
from starry_ros.wam.layers import Stream
from starry_ros.wam.options import StatesConfig
from starry_ros.wam.sampler import levels

FORMAT_VERSION = 1
_WEIGHTS, _RECORD = "states.safetensors", "states.json"


class StateEncoder(nn.Module):
    """Latents [B, C, h, w] to states [B, S, D]."""

    def __init__(self, config: StatesConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_in = nn.Linear(_patch_width(config), config.width)
        self.position = nn.Parameter(0.02 * torch.randn(_patches(config), config.width))
        self.queries = nn.Parameter(torch.randn(config.tokens, config.width))
        self.stream = _stream(config)
        self.out = nn.Linear(config.width, config.state_width)

    def forward(self, latents_BCHW: Tensor) -> Tensor:
        h = self.patch_in(patchify(latents_BCHW, self.config.patch)) + self.position
        h = torch.cat([self.queries.expand(len(h), -1, -1), h], dim=1)
        h, _ = self.stream(h, h.new_zeros(1), _unrotated(h, self.config), [])
        state: Tensor = self.out(h[:, : self.config.tokens])
        return state


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

    def encode(self, latents_BCHW: Tensor) -> Tensor:
        """States [B, S, D]."""
        state: Tensor = self.encoder(latents_BCHW)
        return state

    def motion(self, before_BCHW: Tensor, after_BCHW: Tensor) -> Tensor:
        """What happened between two frames: the difference of their states [B, S, D]."""
        return self.encode(after_BCHW) - self.encode(before_BCHW)

    def loss(self, latents_BCHW: Tensor, noise_BCHW: Tensor, t_B: Tensor, state_BSD: Tensor) -> Tensor:
        """Mean squared error of the decoder's velocity, given the latents' states."""
        t = t_B[:, None, None, None]
        velocity = self.decoder((1 - t) * latents_BCHW + t * noise_BCHW, t_B, state_BSD)
        return (velocity - (noise_BCHW - latents_BCHW)).square().mean()

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
    save_file({name: value.detach().contiguous() for name, value in model.state_dict().items()}, folder / _WEIGHTS)
    record = {"format_version": FORMAT_VERSION, "config": dataclasses.asdict(model.config), "facts": dict(facts)}
    (folder / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def load_states(folder: Path) -> StateAutoencoder:
    """Inverse of `save_states`, in evaluation mode. Raises CheckpointError on anything missing or damaged."""
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        if record["format_version"] != FORMAT_VERSION:
            raise CheckpointError(str(folder), "has another version", got=record["format_version"],
                                  expected=FORMAT_VERSION)
        model = StateAutoencoder(StatesConfig(**record["config"]))
        model.load_state_dict(load_file(folder / _WEIGHTS))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, ConfigError) as error:
        raise CheckpointError(str(folder), f"state autoencoder cannot be read: {error}",
                              fix="train it again with `starry train-state-tokens`") from error
    return model.eval()
