"""Shape of a world-action model around a Wan video stream: frozen, JSON round trip, cross-field checks.

A history slot is a chunk: `chunk_latents` latent frames (each 4 camera frames by the VAE's stride in time) and the
actions executed during them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starry_ros.errors import ConfigError
from starry_ros.wam.config import StreamConfig

NARROW = StreamConfig(1024, 4096)
"""Value and action stream: a third of the video stream's width, as in Motus and Fast-WAM."""


@dataclass(frozen=True)
class WanConfig:
    """Everything that decides a tensor's shape. The defaults are Wan2.2-TI2V-5B's, with two narrow streams beside it.

    `action` None means that actions pass through the video stream's own blocks, as in LingBot-VA, and see what it
    sees; `value` None means a model without value map. `shift` bends the grid of noise levels of video and value.
    """

    name: str = "wan2.2-5b"
    canvas_height_px: int = 384
    canvas_width_px: int = 320
    latent_px: int = 16
    patch: int = 2
    latent_channels: int = 48
    chunk_latents: int = 2
    actions_per_latent: int = 16
    joints: int = 30
    history_chunks: int = 36
    layers: int = 30
    heads: int = 24
    head_dim: int = 128
    feed_forward: int = 14336
    value: StreamConfig | None = NARROW
    action: StreamConfig | None = NARROW
    text_width: int = 4096
    text_tokens: int = 512
    time_features: int = 256
    norm_floor: float = 1e-6
    video_steps: int = 3
    value_steps: int = 3
    action_steps: int = 10
    shift: float = 5.0

    def __post_init__(self) -> None:
        token_px = self.latent_px * self.patch
        for name in ("canvas_height_px", "canvas_width_px"):
            if getattr(self, name) % token_px:
                raise ConfigError("model config", f"{name} is not a whole number of tokens", got=getattr(self, name),
                                  expected=f"a multiple of {token_px}")
        if self.head_dim % 2 or self.head_dim < 6:
            raise ConfigError("model config", "head_dim cannot be split into time, row and column pairs",
                              got=self.head_dim, expected="an even number >= 6")

    @property
    def width(self) -> int:
        """Width of the video stream, which is the common attention width."""
        return self.heads * self.head_dim

    @property
    def rows(self) -> int:
        """Token rows of a latent frame."""
        return self.canvas_height_px // (self.latent_px * self.patch)

    @property
    def columns(self) -> int:
        """Token columns of a latent frame."""
        return self.canvas_width_px // (self.latent_px * self.patch)

    @property
    def frame_tokens(self) -> int:
        """Tokens of one latent frame."""
        return self.rows * self.columns

    @property
    def chunk_tokens(self) -> int:
        """Video tokens of a chunk."""
        return self.chunk_latents * self.frame_tokens

    @property
    def chunk_actions(self) -> int:
        """Action tokens of a chunk."""
        return self.chunk_latents * self.actions_per_latent

    @property
    def token_width(self) -> int:
        """Numbers in one token's latent patch."""
        return self.latent_channels * self.patch**2

    @property
    def slot_tokens(self) -> int:
        """Tokens of history that one chunk costs in every layer."""
        return self.chunk_tokens + self.chunk_actions

    def to_json_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json_dict(raw: Mapping[str, Any]) -> WanConfig:
        """Inverse of `to_json_dict`. Raises ConfigError on unknown fields; absent ones have their default."""
        unknown = sorted(set(raw) - {f.name for f in dataclasses.fields(WanConfig)})
        if unknown:
            raise ConfigError("model config", f"unknown {unknown}", fix="use a configuration written by this version")
        streams = {name: raw[name] and StreamConfig(**raw[name]) for name in ("value", "action") if name in raw}
        return WanConfig(**{**raw, **streams})


WAN_PRESETS = {
    "wan2.2-5b": WanConfig(),
    "lingbot-va": WanConfig(name="lingbot-va", value=None, action=None, video_steps=5, action_steps=10),
}
