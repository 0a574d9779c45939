"""Parts of a world-action model that a configuration may have or lack. All are off by default.

A part that is off has no weights, no tensors in any graph and no effect on any number.
"""

from __future__ import annotations

from dataclasses import dataclass

from starry_ros.errors import ConfigError

COUPLINGS = ("intent_causal", "joint")
VALUE_STARTS = ("noise", "black")
INTENTS = ("value", "blind", "video")
LAYOUTS = ("rgb", "rgbd")
GASAM_MODES = ("off", "measured", "predicted")


@dataclass(frozen=True)
class GeometryConfig:
    """Geometry expert and geometry-aware attention (GASAM).

    Depth lives on the canvas in cells of `cell_px`. A cell at distance d from the nearest hand has the weight
    exp(-d^2 / 2 radius_m^2); a token has the largest weight of its cells; `strength` and `floor` are the lambda and
    the epsilon of the bias. `mode` says which weights the actions use; the expert exists in every mode.
    """

    mode: str = "predicted"
    cell_px: int = 8
    hands: int = 2
    width: int = 96
    feed_forward: int = 192
    radius_m: float = 0.1
    strength: float = 1.0
    floor: float = 1e-2
    carriers: tuple[int, ...] = (-1, 0, 1)

    def __post_init__(self) -> None:
        object.__setattr__(self, "carriers", tuple(self.carriers))
        require("geometry mode", self.mode, GASAM_MODES)
        if min(self.radius_m, self.floor, self.cell_px, self.hands) <= 0 or self.strength < 0:
            raise ConfigError("geometry", "radius_m, floor, cell_px and hands must be positive, strength not negative")


@dataclass(frozen=True)
class StatesConfig:
    """Shape of the state autoencoder: a frame to `tokens` vectors of `state_width`, and back to its latents.

    The frozen features are the latents of the image autoencoder, and beside each latent the means of `pixel_cells` x
    `pixel_cells` squares of its pixels (none at 0); `patch` x `patch` latents make a token. `reading` is how many
    numbers of every token are read at its own place, beside what the queries gather.
    """

    latent_channels: int = 16
    latent_rows: int = 12
    latent_columns: int = 10
    patch: int = 2
    tokens: int = 2
    state_width: int = 64
    width: int = 96
    feed_forward: int = 192
    heads: int = 4
    layers: int = 2
    pixel_cells: int = 2
    reading: int = 16

    def __post_init__(self) -> None:
        if self.latent_rows % self.patch or self.latent_columns % self.patch or self.width % self.heads:
            raise ConfigError("states", "patch must divide the latent, heads the width", got=self)


def require(what: str, value: str, known: tuple[str, ...]) -> None:
    """Raise ConfigError unless `value` is one of the known words."""
    if value not in known:
        raise ConfigError(what, "is unknown", got=repr(value), expected=", ".join(known))
