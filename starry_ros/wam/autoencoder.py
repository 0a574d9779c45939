"""Convolutional latent autoencoder of the canvas: stride 16 in space, one float vector a cell, deterministic.

Shapes: B batch, H x W canvas pixels, 3 RGB, C latent channels, h x w latent cells (h = H/16, w = W/16). Images inside
the networks are float in [-1, 1].

The network sees and returns the difference to a stored background (the training data's median canvas), so capacity
goes to what moves. The whole canvas is encoded at once: cells at a tile border also see some pixels of the next tile.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from starry_ros.errors import CheckpointError, ConfigError
from starry_ros.files import write_text
from starry_ros.types import U8

STRIDE_PX = 16
FORMAT_VERSION = 1


@dataclass(frozen=True)
class AutoencoderConfig:
    """Canvas size, latent channels and the widths of the stages at strides 4, 8 and 16."""

    height_px: int = 192
    width_px: int = 160
    latent_channels: int = 16
    widths: tuple[int, int, int] = (32, 48, 96)

    def __post_init__(self) -> None:
        for name in ("height_px", "width_px"):
            size = getattr(self, name)
            if size <= 0 or size % STRIDE_PX:
                expected = f"a multiple of {STRIDE_PX}"
                raise ConfigError("autoencoder config", f"{name} is wrong", got=size, expected=expected)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one latent."""
        return self.latent_channels, self.height_px // STRIDE_PX, self.width_px // STRIDE_PX

    def to_json_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**dataclasses.asdict(self), "widths": list(self.widths)}

    @staticmethod
    def from_json_dict(raw: Mapping[str, Any]) -> AutoencoderConfig:
        """Inverse of `to_json_dict`. Raises ConfigError on missing or unknown fields."""
        fields = {field.name for field in dataclasses.fields(AutoencoderConfig)}
        if set(raw) != fields:
            missing, unknown = sorted(fields - set(raw)), sorted(set(raw) - fields)
            raise ConfigError("autoencoder config", f"missing fields {missing}, unknown fields {unknown}")
        return AutoencoderConfig(**{**raw, "widths": tuple(raw["widths"])})


class _Residual(nn.Module):
    """x + 1x1(relu(3x3(relu(x))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spread = nn.Conv2d(width, width, 3, padding=1)
        self.mix = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.mix(functional.relu(self.spread(functional.relu(x))))
        return out


class Autoencoder(nn.Module):
    """Encoder, decoder, background, and the statistics that make each latent channel zero-mean and unit-variance."""

    background_3HW: Tensor
    mean_C11: Tensor
    std_C11: Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        fine, middle, coarse = config.widths
        channels, rows, columns = config.latent_shape
        self.encoder = nn.Sequential(
            nn.Conv2d(3, fine, 6, stride=4, padding=1), nn.ReLU(),
            nn.Conv2d(fine, middle, 3, stride=2, padding=1), _Residual(middle), nn.ReLU(),
            nn.Conv2d(middle, coarse, 3, stride=2, padding=1), _Residual(coarse), nn.ReLU(),
            nn.Conv2d(coarse, channels, 1),
        )
        self.cells_in = nn.Conv2d(channels, coarse, 1)
        self.place_DHW = nn.Parameter(torch.zeros(coarse, rows, columns))
        self.decoder = nn.Sequential(
            _Residual(coarse), nn.ReLU(), nn.Conv2d(coarse, middle * 4, 1), nn.PixelShuffle(2),
            _Residual(middle), nn.ReLU(), nn.Conv2d(middle, fine * 4, 1), nn.PixelShuffle(2), nn.ReLU(),
            nn.Conv2d(fine, 48, 3, padding=1), nn.PixelShuffle(4),
        )
        self.register_buffer("background_3HW", torch.zeros(3, config.height_px, config.width_px))
        self.register_buffer("mean_C11", torch.zeros(channels, 1, 1))
        self.register_buffer("std_C11", torch.ones(channels, 1, 1))

    def encode_float(self, image_B3HW: Tensor) -> Tensor:
        """Images in [-1, 1] to normalised latents [B, C, h, w]."""
        raw: Tensor = self.encoder(image_B3HW - self.background_3HW)
        return (raw - self.mean_C11) / self.std_C11

    def decode_float(self, z_BCHW: Tensor) -> Tensor:
        """Normalised latents to images, nominally in [-1, 1] but not clamped."""
        cells = self.cells_in(z_BCHW * self.std_C11 + self.mean_C11) + self.place_DHW
        return self.background_3HW + self.decoder(cells)  # type: ignore[no-any-return]

    def encode(self, canvas_BHW3: Tensor) -> Tensor:
        """uint8 canvases [B, H, W, 3] to normalised latents [B, C, h, w]."""
        return self.encode_float(to_float(canvas_BHW3))

    def decode(self, z_BCHW: Tensor) -> Tensor:
        """Normalised latents to uint8 canvases [B, H, W, 3]."""
        return to_uint8(self.decode_float(z_BCHW))

    @torch.no_grad()
    def set_background(self, canvas_HW3: U8) -> None:
        """Store the canvas that latents describe differences to."""
        self.background_3HW.copy_(to_float(torch.from_numpy(np.array(canvas_HW3))[None])[0])

    @torch.no_grad()
    def set_latent_statistics(self, raw_mean_C: Tensor, raw_std_C: Tensor) -> None:
        """Store mean and standard deviation of the raw latents a channel."""
        self.mean_C11.copy_(raw_mean_C[:, None, None])
        self.std_C11.copy_(raw_std_C.clamp_min(1e-3)[:, None, None])


def to_float(canvas_BHW3: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] to float [B, 3, H, W] in [-1, 1]."""
    return canvas_BHW3.permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1.0


def to_uint8(image_B3HW: Tensor) -> Tensor:
    """Float [B, 3, H, W] in [-1, 1], clamped, to uint8 [B, H, W, 3]."""
    return ((image_B3HW.clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def save_autoencoder(folder: Path, model: Autoencoder, facts: Mapping[str, Any]) -> None:
    """Write `autoencoder.safetensors` and `autoencoder.json` (config and how the weights were made)."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(tensors, folder / "autoencoder.safetensors")
    record = {"format_version": FORMAT_VERSION, "config": model.config.to_json_dict(), "facts": dict(facts)}
    write_text(folder / "autoencoder.json", json.dumps(record, indent=2) + "\n")


def load_autoencoder(folder: Path) -> Autoencoder:
    """Read what `save_autoencoder` wrote, in evaluation mode. Raises CheckpointError on anything missing or damaged."""
    description, weights = folder / "autoencoder.json", folder / "autoencoder.safetensors"
    fix = "train it again with `starry train-autoencoder`"
    try:
        record = json.loads(description.read_text(encoding="utf-8"))
        version = record["format_version"]
        if version != FORMAT_VERSION:
            raise CheckpointError(str(description), "has another version", got=version, expected=FORMAT_VERSION)
        model = Autoencoder(AutoencoderConfig.from_json_dict(record["config"]))
        model.load_state_dict(load_file(weights))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, ConfigError) as error:
        raise CheckpointError(str(folder), f"autoencoder cannot be read: {error}", fix=fix) from error
    return model.eval()
