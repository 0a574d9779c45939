"""Wan2.2's video autoencoder: causal in time, strides (4, 16, 16), streaming.

The first frame alone becomes one latent frame; after it every four frames become one. Each causal layer remembers the
last frames it saw in a `VaeState`, so frames may come piece by piece: the result is that of the whole video at once.
Modules carry the names of the public safetensors (`AutoencoderKLWan`).

Shapes: B batch, C channels, T frames, H x W pixels, h x w = H/16 x W/16 latent cells, Z latent channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from starry_ros.errors import CheckpointError, InputError
from starry_ros.wam.wan.vae_blocks import CausalConv, Down, Middle, RmsNorm, Up, VaeState

GROUP = 4
"""Frames that become one latent frame, after the first."""
_FIX = "use the vae folder of Wan2.2-TI2V-5B-Diffusers"


@dataclass(frozen=True)
class VaeConfig:
    """Widths and the latent statistics that make each channel zero-mean and unit-variance."""

    encoder_width: int = 160
    decoder_width: int = 256
    latent_channels: int = 48
    multiples: tuple[int, ...] = (1, 2, 4, 4)
    residuals: int = 2
    halves_time: tuple[bool, ...] = (False, True, True)
    patch: int = 2
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @staticmethod
    def from_json_dict(raw: Mapping[str, Any], where: str) -> VaeConfig:
        """Out of the folder's config.json. Raises CheckpointError on another architecture, such as Wan2.1's."""
        try:
            if not raw["is_residual"] or raw["patch_size"] is None or raw.get("attn_scales"):
                raise CheckpointError(where, "is not a Wan2.2 VAE", fix=_FIX)
            return VaeConfig(
                raw["base_dim"], raw["decoder_base_dim"], raw["z_dim"], tuple(raw["dim_mult"]), raw["num_res_blocks"],
                tuple(raw["temperal_downsample"]), raw["patch_size"], tuple(raw["latents_mean"]),
                tuple(raw["latents_std"]))
        except KeyError as error:
            raise CheckpointError(where, f"lacks {error}", fix=_FIX) from error


class Encoder(nn.Module):
    """Frames to twice the latent channels: mean and log variance."""

    def __init__(self, c: VaeConfig) -> None:
        super().__init__()
        widths = [c.encoder_width * m for m in (1, *c.multiples)]
        self.conv_in = CausalConv(3 * c.patch**2, widths[0], (3, 3, 3))
        self.down_blocks = nn.ModuleList(
            Down(inner, outer, c.residuals, i < len(c.halves_time), i < len(c.halves_time) and c.halves_time[i])
            for i, (inner, outer) in enumerate(itertools.pairwise(widths)))
        self.mid_block = Middle(widths[-1])
        self.norm_out = RmsNorm(widths[-1], 3)
        self.conv_out = CausalConv(widths[-1], 2 * c.latent_channels, (3, 3, 3))

    def forward(self, x: Tensor, state: VaeState) -> Tensor:
        x = self.conv_in(x, state)
        for block in self.down_blocks:
            x = block(x, state)
        out: Tensor = self.conv_out(F.silu(self.norm_out(self.mid_block(x, state))), state)
        return out


class Decoder(nn.Module):
    """Latents to frames."""

    def __init__(self, c: VaeConfig) -> None:
        super().__init__()
        widths = [c.decoder_width * m for m in (c.multiples[-1], *reversed(c.multiples))]
        times = [*reversed(c.halves_time), False]
        self.conv_in = CausalConv(c.latent_channels, widths[0], (3, 3, 3))
        self.mid_block = Middle(widths[0])
        self.up_blocks = nn.ModuleList(
            Up(inner, outer, c.residuals, i < len(c.halves_time), times[i])
            for i, (inner, outer) in enumerate(itertools.pairwise(widths)))
        self.norm_out = RmsNorm(widths[-1], 3)
        self.conv_out = CausalConv(widths[-1], 3 * c.patch**2, (3, 3, 3))

    def forward(self, z: Tensor, state: VaeState, first: bool) -> Tensor:
        x = self.mid_block(self.conv_in(z, state), state)
        for block in self.up_blocks:
            x = block(x, state, first)
        out: Tensor = self.conv_out(F.silu(self.norm_out(x)), state)
        return out


class WanVae(nn.Module):
    """Frames in [-1, 1] to normalised latents and back."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config
        z = config.latent_channels
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quant_conv, self.post_quant_conv = (CausalConv(n, n, (1, 1, 1)) for n in (2 * z, z))

    @torch.inference_mode()
    def encode(self, frames_B3THW: Tensor, state: VaeState | None = None) -> Tensor:
        """Latents [B, Z, t, h, w]. A new (empty) state takes 1 + 4 n frames, one that has seen some takes 4 n.

        Raises InputError on another number of frames.
        """
        state = {} if state is None else state
        frames, parts = _into_patches(frames_B3THW, self.config.patch), []
        head = 0 if state else 1
        if (frames.shape[2] - head) % GROUP or frames.shape[2] < 1:
            raise InputError("video", "cannot be cut into latent frames", got=f"{frames.shape[2]} frames",
                             expected=f"{head} + a multiple of {GROUP}")
        if head:
            parts.append(self.encoder(frames[:, :, :1], state))
        for start in range(head, frames.shape[2], GROUP):
            parts.append(self.encoder(frames[:, :, start : start + GROUP], state))
        mean = self.quant_conv(torch.cat(parts, dim=2), state).chunk(2, dim=1)[0]
        latents: Tensor = (mean - self._row(self.config.mean, mean, 0.0)) / self._row(self.config.std, mean, 1.0)
        return latents

    @torch.inference_mode()
    def decode(self, z_BZthw: Tensor, state: VaeState | None = None) -> Tensor:
        """Frames [B, 3, T, H, W] in [-1, 1]: 1 for the first latent of a state, 4 for each after it."""
        state = {} if state is None else state
        scaled = z_BZthw * self._row(self.config.std, z_BZthw, 1.0) + self._row(self.config.mean, z_BZthw, 0.0)
        z, parts = self.post_quant_conv(scaled, state), []
        for i in range(z.shape[2]):
            parts.append(self.decoder(z[:, :, i : i + 1], state, first=not state))
        return _out_of_patches(torch.cat(parts, dim=2), self.config.patch).clamp(-1, 1)

    def _row(self, values: tuple[float, ...], like: Tensor, default: float) -> Tensor:
        given = values or (default,) * self.config.latent_channels
        return torch.tensor(given, device=like.device, dtype=like.dtype)[None, :, None, None, None]


def _into_patches(x: Tensor, p: int) -> Tensor:
    """Pixels of p x p patches into channels, columns before rows."""
    cells: Tensor = x.unflatten(4, (-1, p)).unflatten(3, (-1, p))
    return cells.permute(0, 1, 6, 4, 2, 3, 5).flatten(1, 3)


def _out_of_patches(x: Tensor, p: int) -> Tensor:
    """Inverse of `_into_patches`."""
    cells: Tensor = x.unflatten(1, (-1, p, p))
    return cells.permute(0, 1, 4, 5, 3, 6, 2).flatten(5, 6).flatten(3, 4)
