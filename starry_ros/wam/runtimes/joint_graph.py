"""The graph of the joint coupling: one Euler step of all three streams. It stands where the intent-causal coupling has
the graphs `imagine`, `predict_value` and `act`; names, shapes and rules as in `graphs`.
"""

from __future__ import annotations

from torch import Tensor, nn

from starry_ros.wam.autoencoder import Autoencoder
from starry_ros.wam.joint import Noised, Tables, action_biases, denoise_jointly
from starry_ros.wam.layers import MASKED, Keys
from starry_ros.wam.masks import CURRENT_FRAME, PAST_ACTIONS, PAST_FRAMES
from starry_ros.wam.model import Sentence, WorldActionModel

LEVELS = ("s_x", "ds_x", "s_m", "ds_m", "s_a", "ds_a")
OUTPUTS = ("x_next", "m_next", "a_next", "map", "landing", "seen")


class Denoise(nn.Module):
    """One Euler step of video, value and action together, each from its level `s` by its own `ds`."""

    def __init__(self, model: WorldActionModel, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.model, self.autoencoder = model, autoencoder

    def forward(
        self, x: Tensor, m: Tensor, a: Tensor, s_x: Tensor, ds_x: Tensor, s_m: Tensor, ds_m: Tensor, s_a: Tensor,
        ds_a: Tensor, rope_x: Tensor, rope_m: Tensor, rope_a: Tensor, past_k: Tensor, past_v: Tensor,
        past_valid: Tensor, current_k: Tensor, current_v: Tensor, executed_k: Tensor, executed_v: Tensor,
        executed_valid: Tensor, text_k: Tensor, text_v: Tensor, mask: Tensor, sentence: Tensor, pixels: Tensor,
        state: Tensor, current_bias: Tensor | None = None, value_bias: Tensor | None = None,
        future_bias: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        groups = {
            PAST_FRAMES: _keys(past_k, past_v, past_valid), CURRENT_FRAME: _keys(current_k, current_v),
            PAST_ACTIONS: _keys(executed_k, executed_v, executed_valid),
        }
        velocity_x, value, velocity_a = denoise_jointly(
            self.model, Noised(x, m, a, s_x, s_m, s_a), Tables(rope_x, rope_m, rope_a), groups,
            Sentence(_keys(text_k, text_v, mask), sentence), pixels, state,
            action_biases(self.model.config.value_keys, current_bias, value_bias, future_bias))
        velocity_m = (m - self.model.value_tokens(value.map)) / s_m.clamp_min(1e-6)
        return (x + ds_x * velocity_x, m + ds_m * velocity_m, a + ds_a * velocity_a,
                value.map, value.landing, value.seen)


def _keys(k: Tensor, v: Tensor, valid: Tensor | None = None) -> Keys:
    bias = None if valid is None else ((1 - valid) * MASKED)[:, None, None, :]
    return Keys(list(zip(k.unbind(0), v.unbind(0), strict=True)), bias)


