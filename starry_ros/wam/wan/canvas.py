"""Between the robot's canvas and the latent canvas of LingBot-VA.

The robot packs one picture: the head over the two wrists. The VAE encodes each camera by itself, so that nothing leaks
across a border, and the latents are laid with the wrists above the head:

    pixels          +------------+        latents     +-----+-----+
                    |    head    |                    |left |right|
                    +-----+------+                    +-----+-----+
                    |left | right|                    |    head   |
                    +-----+------+                    +-----------+

Both ways are exact: pixels and latents are moved, never mixed.

Shapes: T frames, H x W canvas pixels, t latent frames, h x w latent cells, Z latent channels, N = t rows columns tokens
in that order, each of W = Z patch^2 numbers, channels first.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from starry_ros.canvas.layout import CanvasLayout, Rect
from starry_ros.errors import ContractError
from starry_ros.types import U8
from starry_ros.wam.detail import patchify, unpatchify
from starry_ros.wam.wan.config import WanConfig
from starry_ros.wam.wan.vae import WanVae
from starry_ros.wam.wan.vae_blocks import VaeState

WRISTS = ("left_wrist", "right_wrist")


class CameraVae:
    """The VAE over a canvas: the head as one video, both wrists as a batch of two."""

    def __init__(self, vae: WanVae, layout: CanvasLayout, config: WanConfig) -> None:
        """Raises ContractError on a canvas whose borders do not fall on tokens."""
        self.vae, self.config = vae, config
        rects = {tile.role: tile.rect for tile in layout.tiles}
        self._head, self._wrists = rects["head"], tuple(rects[role] for role in WRISTS)
        self._size = layout.height_px, layout.width_px
        token_px = config.latent_px * config.patch
        for rect in (self._head, *self._wrists):
            if any(edge % token_px for edge in (rect.x_px, rect.y_px, rect.width_px, rect.height_px)):
                raise ContractError("canvas", "has a border inside a token of the model", got=rect,
                                    expected=f"multiples of {token_px} px",
                                    fix="use a contract with a canvas of 384 x 320 px and token_px 32")

    def encode(self, frames_THWC: list[U8], state: tuple[VaeState, VaeState]) -> Tensor:
        """Latents [1, Z, t, h, w] of canvases that follow those which `state` saw: one at first, then four a latent."""
        weight = next(self.vae.parameters())
        video = torch.from_numpy(np.stack(frames_THWC)).to(weight.device).permute(3, 0, 1, 2)[None]
        video = (video.to(torch.float32) / 127.5 - 1).to(weight.dtype)
        head = self.vae.encode(_cut(video, self._head), state[0])
        wrists = self.vae.encode(torch.cat([_cut(video, rect) for rect in self._wrists]), state[1])
        return join(head, wrists)

    def decode(self, latents_1Zthw: Tensor) -> U8:
        """The last canvas [H, W, 3] of latents that begin a video; the VAE needs those before it for its context."""
        head, wrists = split(latents_1Zthw, self._head.height_px // self.config.latent_px)
        canvas = latents_1Zthw.new_full((3, *self._size), -1.0)
        for part, rects in ((head, (self._head,)), (wrists, self._wrists)):
            for view, rect in zip(self.vae.decode(part), rects, strict=True):
                canvas[(slice(None), *rect.slices)] = view[:, -1]
        pixels = ((canvas.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        image: U8 = pixels.permute(1, 2, 0).cpu().numpy()
        return image


def join(head_1Zthw: Tensor, wrists_2Zthw: Tensor) -> Tensor:
    """The latent canvas: left beside right, above the head."""
    return torch.cat([torch.cat([wrists_2Zthw[:1], wrists_2Zthw[1:]], dim=4), head_1Zthw], dim=3)


def split(latents_1Zthw: Tensor, head_rows: int) -> tuple[Tensor, Tensor]:
    """Inverse of `join`."""
    above, head = latents_1Zthw.tensor_split([latents_1Zthw.shape[3] - head_rows], dim=3)
    return head, torch.cat(above.chunk(2, dim=4))


def to_tokens(latents_1Zthw: Tensor, patch: int) -> Tensor:
    """Tokens [1, N, W] of a latent canvas."""
    return patchify(latents_1Zthw[0].transpose(0, 1), patch).flatten(0, 1)[None]


def to_latents(tokens_1NW: Tensor, config: WanConfig) -> Tensor:
    """Inverse of `to_tokens`."""
    frames_tNW: Tensor = tokens_1NW[0].unflatten(0, (-1, config.frame_tokens))
    return unpatchify(frames_tNW, config.patch, config.rows, config.columns).transpose(0, 1)[None]


def fresh_states() -> tuple[VaeState, VaeState]:
    """What the VAE remembers before the first frame: of the head, and of the wrists."""
    return {}, {}


def copied(states: tuple[VaeState, VaeState]) -> tuple[VaeState, VaeState]:
    """A snapshot: tensors in a state are never written to."""
    head, wrists = states
    return dict[nn.Module, Tensor](head), dict[nn.Module, Tensor](wrists)


def _cut(video_13THW: Tensor, rect: Rect) -> Tensor:
    rows, columns = rect.slices
    return video_13THW[:, :, :, rows, columns]
