"""What every runtime offers, and the choice of one by name.

A runtime runs the graphs of `graphs.graph_specs` on arrays. It owns the history ring and the denoising loop; the
session above it knows nothing of engines.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from starry_ros.types import F32, U8
from starry_ros.wam.config import ViewConfig


class PlanShape(Protocol):
    """What session and planner ask of a model's configuration, whatever its size: see `WamConfig`.

    `frame_tokens` are the tokens that a plan imagines. Frames of the history lie on a grid of `frame_steps` steps; 0
    lets them lie anywhere.
    """

    @property
    def name(self) -> str: ...
    @property
    def canvas_height_px(self) -> int: ...
    @property
    def canvas_width_px(self) -> int: ...
    @property
    def joints(self) -> int: ...
    @property
    def chunk_steps(self) -> int: ...
    @property
    def future_steps(self) -> int: ...
    @property
    def frame_steps(self) -> int: ...
    @property
    def history_actions(self) -> int: ...
    @property
    def prefix_steps(self) -> int: ...
    @property
    def frame_tokens(self) -> int: ...
    @property
    def latent_token_width(self) -> int: ...
    @property
    def value_token_width(self) -> int: ...
    @property
    def value_start(self) -> str: ...
    @property
    def value_events(self) -> int: ...
    @property
    def value_stride_px(self) -> int: ...
    @property
    def views(self) -> tuple[ViewConfig, ...]: ...
    @property
    def coupling(self) -> str: ...
    @property
    def video_steps(self) -> int: ...
    @property
    def snap_grippers(self) -> bool: ...
    @property
    def needs_scene(self) -> bool: ...


@dataclass(frozen=True)
class Noise:
    """Starting points of the three streams: tokens [1, N, D], [1, N, D] and the chunk [1, K, J]."""

    video: F32
    value: F32
    action: F32


@dataclass(frozen=True)
class Prediction:
    """What a denoising pass gives, in model units.

    `map_EYX` in [0, 1]; `landing_EV2` (x, y) in [0, 1] of the view; `seen_EV` chance in [0, 1]; `latents` the imagined
    frame's tokens; `seconds` by stage.
    """

    actions_KJ: F32
    map_EYX: F32
    landing_EV2: F32
    seen_EV: F32
    latents: F32
    seconds: dict[str, float]


@dataclass(frozen=True)
class Effort:
    """What of a plan is computed anew, and what its chunk begins with.

    Without `video` the last imagined frame serves again, without `value` the last map as well, unless the sentence has
    none yet. `known_DJ` are the first steps of the chunk in model units: they are put back, at the noise level of the
    moment, at every denoising step. `target_KJ` and `weight_K` pull the chunk towards known steps by gradient instead;
    engines that give one only.
    """

    video_steps: int | None = None
    video: bool = True
    value: bool = True
    known_DJ: F32 | None = None
    target_KJ: F32 | None = None
    weight_K: F32 | None = None


WHOLE_PLAN = Effort()


class Runtime(Protocol):
    """An engine with one episode's memory."""

    name: str

    @property
    def config(self) -> PlanShape:
        """The shape that the session plans for."""

    @property
    def lag_steps(self) -> int:
        """Steps from the moment that plans start from to the newest observation; 0 where every frame counts at once."""

    @property
    def guides(self) -> bool:
        """Whether it gives the gradient that guided inpainting (`Effort.target_KJ`) needs."""

    def set_text(self, tokens_TD: F32, mask_T: F32) -> None:
        """Take a sentence's embedding. The next prediction imagines anew, whatever its effort.

        The history stays valid: observed frames never saw the sentence, or the current ones are read again.
        """

    def observe(self, canvas_HWC: U8, step: int) -> None:
        """Encode a canvas as the current frame, taken at integer step `step`. Replaces the current frame."""

    def look(self, scene: dict[str, F32]) -> None:
        """Take the scene of the current frame (`gasam.scene_arrays`), for models with geometry-aware attention."""

    def commit(self, actions_UJ: F32, valid_U: F32) -> None:
        """Move the current frame, with the actions executed after it (normalised like states), into the ring."""

    def branch(self) -> None:
        """What is observed and committed from now on is speculative. Branches nest."""

    def drop(self) -> None:
        """Return to the state at the last `branch`: to the bit, without having copied the history."""

    def accept(self) -> None:
        """Let what came since the last `branch` stand."""

    def reset(self) -> None:
        """Forget frames and actions; the sentence stays."""

    def predict(self, noise: Noise, state_J: F32, effort: Effort = WHOLE_PLAN) -> Prediction:
        """Run video, value and action streams from the given noise."""

    def supposing(self, actions_UJ: F32, valid_U: F32) -> AbstractContextManager[None]:
        """Within this context the current frame is followed by these actions, as if they had been executed."""

    def latents(self) -> F32:
        """The current frame's latents as tokens [N, D], in the units of `Prediction.latents`."""

    def decode(self, latents: F32) -> U8:
        """An imagined frame's tokens to a canvas [H, W, 3]."""
