"""The world-action model: one mixture of three streams.

    observed canvas -> frame tokens (video weights, no noise) ----+--------------+-------------------+
    executed actions -> action tokens (action weights, no noise) -+              |                   |
    sentence -> cross-attention of the video stream only ---------+              |                   |
                                                                  v              v                   v
                                                     imagine: future frame -> value: map -> act: action chunk

Every arrow is an entry of `masks.VISIBLE`. Because nothing points back, the streams are run one after the other, each
for its own number of denoising steps, and a finished stream is only keys and values to the next. A stream's final keys
are those of its last denoising pass, which training sees at the same noise levels.

Flow convention: x_s = (1 - s) x + s noise, velocity v = noise - x, s = 1 is pure noise.

Shapes: B batch, N frame tokens, R history slots, U actions a slot, G draws of noise, K chunk steps, J joints,
T text tokens, D width, C latent channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from starry_ros.wam.config import WamConfig
from starry_ros.wam.detail import DetailStem, patchify
from starry_ros.wam.geometry import GeometryExpert
from starry_ros.wam.layers import MASKED, Keys, Stream, rope_table
from starry_ros.wam.masks import ACTION, BY_INTENT, CURRENT_FRAME, FUTURE_FRAMES, PAST_ACTIONS, PAST_FRAMES, VALUE
from starry_ros.wam.state_tokens import StateEncoder
from starry_ros.wam.value_head import LandingEmbedding, ValueHead, ValueOutput, unseen

Groups = dict[str, Keys]
"""Keys by the group names of `masks`."""


@dataclass
class Observation:
    """An encoded canvas: its keys in every layer and its pixel embeddings [B, C, Y, X]."""

    keys: Keys
    pixels: Tensor


@dataclass
class Sentence:
    """An encoded instruction: keys for the video stream's cross-attention, and `vectors` [B, 7, D] of all of it.

    The first vector is added to every imagined token; the others modulate every layer, like the noise level does.
    """

    keys: Keys
    vectors: Tensor


class WorldActionModel(nn.Module):
    """Three streams over one shared attention width."""

    text_mean: Tensor
    text_scale: Tensor

    def __init__(self, config: WamConfig) -> None:
        super().__init__()
        self.config, self.visible = config, BY_INTENT[config.intent]
        c = config
        self.detail = DetailStem(c.detail_channels, c.token_px, c.video.width)
        self.latent_in = nn.Linear(c.latent_token_width, c.video.width)
        self.observed = nn.Parameter(torch.zeros(c.video.width))
        self.imagined = nn.Parameter(torch.zeros(c.video.width))
        self.frame_position = nn.Parameter(0.02 * torch.randn(c.frame_tokens, c.video.width))
        self.video = Stream(c.layers, c.video.width, c.video.feed_forward, c.heads, c.head_dim, text=True)
        self.latent_out = nn.Linear(c.video.width, c.latent_token_width)
        self.text_kv = nn.ModuleList(nn.Linear(c.text_width, 2 * c.heads * c.head_dim) for _ in range(c.layers))

        self.sentence = nn.Linear(c.text_width, c.video.width)
        self.sentence_modulation = nn.Linear(c.text_width, 6 * c.video.width)
        self.register_buffer("text_mean", torch.zeros(c.text_width))
        self.register_buffer("text_scale", torch.ones(c.text_width))

        self.value_in = nn.Linear(c.value_token_width, c.value.width)
        self.value_noise = nn.Parameter(torch.zeros(c.value.width))
        self.value_position = nn.Parameter(0.02 * torch.randn(c.frame_tokens, c.value.width))
        self.value = Stream(c.layers, c.value.width, c.value.feed_forward, c.heads, c.head_dim)
        self.value_head = ValueHead(c)
        if c.value_start == "black":
            self.value_token = nn.Parameter(0.02 * torch.randn(c.value.width))

        self.action_in = nn.Linear(c.joints, c.action.width)
        self.state_in = nn.Linear(c.joints, c.action.width)
        self.executed_in = nn.Linear(c.joints, c.action.width)
        self.step_position = nn.Parameter(0.02 * torch.randn(c.chunk_steps, c.action.width))
        self.landing = LandingEmbedding(c)
        self.action = Stream(c.layers, c.action.width, c.action.feed_forward, c.heads, c.head_dim)
        self.action_out = nn.Linear(c.action.width, c.joints)
        self.geometry = None if c.geometry is None else GeometryExpert(c)
        if c.states is not None:
            self.compact = StateEncoder(c.states).requires_grad_(False)
            self.compact_in = nn.Linear(c.states.state_width, c.video.width)

    # ---- conditions -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def set_text_statistics(self, pooled_SD: Tensor) -> None:
        """Store mean and spread of pooled embeddings: what sentences share must not drown what they differ in."""
        self.text_mean.copy_(pooled_SD.mean(0))
        self.text_scale.copy_(pooled_SD.std(0, correction=0).clamp_min(0.02))

    def encode_text(self, tokens_BTD: Tensor, mask_BT: Tensor) -> Sentence:
        """Token embeddings of a sentence to what the video stream reads of it. Once an instruction."""
        layers = []
        for linear in self.text_kv:
            k, v = linear(tokens_BTD).unflatten(-1, (2, self.config.heads, -1)).permute(2, 0, 3, 1, 4)
            layers.append((k, v))
        keys = Keys(layers, ((1 - mask_BT) * MASKED)[:, None, None, :])
        pooled = (pool(tokens_BTD, mask_BT) - self.text_mean) / self.text_scale
        vectors = torch.cat([self.sentence(pooled), self.sentence_modulation(pooled)], dim=-1)
        return Sentence(keys, vectors.unflatten(-1, (7, -1)))

    def observe(self, latents_BCHW: Tensor, canvas_B3HW: Tensor, rope: Tensor) -> Observation:
        """Encode an observed canvas (in [-1, 1]) and its latents. It sees only itself, so it can be cached for ever."""
        pixels, detail = self.detail(canvas_B3HW)
        h = self.latent_in(patchify(latents_BCHW, self.config.latent_patch)) + detail
        h = h + self.frame_position + self.observed
        _, keys = self.video(h, _clean(h), rope, [])
        return Observation(keys, pixels)

    def remember_state(self, latents_BCHW: Tensor, canvas_B3HW: Tensor, rope: Tensor) -> Keys:
        """Encode an observed frame as its compact state: a few keys where `observe` gives one a token.

        `rope` is that of the frame; the state stands where its first token does.
        """
        h = self.compact_in(self.compact(latents_BCHW, canvas_B3HW)) + self.observed
        keys: Keys = self.video(h, _clean(h), rope[..., :1, :].expand(*rope.shape[:-2], h.shape[1], -1), [])[1]
        return keys

    def remember_actions(self, executed_BUJ: Tensor, valid_BU: Tensor, rope: Tensor) -> Keys:
        """Encode the executed actions of one slot (normalised like states). They see only each other."""
        bias = ((1 - valid_BU) * MASKED)[:, None, None, :]
        h = self.executed_in(executed_BUJ)
        _, keys = self.action(h, _clean(h), rope, [], own_bias=bias)
        return Keys(keys.layers, bias)

    # ---- the three streams -------------------------------------------------------------------------------------------

    def imagine(self, x_BND: Tensor, s_B: Tensor, rope: Tensor, groups: Groups, text: Sentence) -> tuple[Tensor, Keys]:
        """Velocity of the future frame's latent tokens [B, N, C patch patch] at noise level s, and its keys."""
        h = self.latent_in(x_BND) + self.frame_position + self.imagined + text.vectors[:, :1]
        visible = self._visible(FUTURE_FRAMES, groups)
        h, keys = self.video(h, s_B, rope, visible, text=text.keys, condition=text.vectors[:, 1:])
        return self.latent_out(h), keys

    def predict_value(
        self, m_BND: Tensor, s_B: Tensor, rope: Tensor, groups: Groups, pixels_BCYX: Tensor
    ) -> tuple[ValueOutput, Keys]:
        """Clean value map from its noised tokens, and the stream's keys. A blind model's map is black."""
        h, rope = self.value_inputs(m_BND, rope)
        h, keys = self.value(h, s_B, rope, self._visible(VALUE, groups))
        output = self.value_head(h[:, : m_BND.shape[1]], pixels_BCYX)
        return unseen(output) if self.config.intent == "blind" else output, keys

    def value_inputs(self, m_BND: Tensor, rope: Tensor) -> tuple[Tensor, Tensor]:
        """The value stream's tokens and their rotation.

        A black start appends the learned noise token (AIM equation (5)), which stands where the first token does.
        """
        h = self.value_in(m_BND) + self.value_noise + self.value_position
        if self.config.value_start == "black":
            h = torch.cat([h, self.value_token.expand(len(h), 1, -1)], dim=1)
            rope = torch.cat([rope, rope[..., :1, :]], dim=-2)
        return h, rope

    def value_source(self, noise_BND: Tensor) -> Tensor:
        """What the value stream's flow starts from: the noise, or a black map whatever the noise."""
        return -torch.ones_like(noise_BND) if self.config.value_start == "black" else noise_BND

    def value_tokens(self, map_BEYX: Tensor) -> Tensor:
        """A value map in [0, 1] to tokens in [-1, 1] [B, N, E cells cells]."""
        return patchify(2 * map_BEYX - 1, self.config.value_cells)

    def act(
        self, a_BGKJ: Tensor, s_B: Tensor, rope: Tensor, groups: Groups, state_BJ: Tensor, landing_BEV2: Tensor,
        seen_BEV: Tensor,
    ) -> Tensor:
        """Velocity of G independently noised chunks [B, G, K, J] that share one observation.

        The draws share a noise level. The measured state is one token; a draw sees it and itself, never another draw.
        Landing points count only where the intent is the value map.
        """
        if self.config.intent != "value":
            landing_BEV2, seen_BEV = torch.zeros_like(landing_BEV2), torch.full_like(seen_BEV, -torch.inf)
        draws, steps = a_BGKJ.shape[1:3]
        aim = self.landing(landing_BEV2, seen_BEV, state_BJ)[:, None, :]
        actions = (self.action_in(a_BGKJ) + self.step_position).flatten(1, 2)
        h = torch.cat([self.state_in(state_BJ)[:, None, :], actions], dim=1) + aim
        h, _ = self.action(h, s_B, rope, self._visible(ACTION, groups), own_bias=draw_bias(draws, steps).to(h))
        velocity: Tensor = self.action_out(h[:, 1:]).unflatten(1, (draws, steps))
        return velocity

    def _visible(self, query: str, groups: Groups) -> list[Keys]:
        """The groups at hand that the visibility table lets `query` see."""
        return [groups[name] for name in self.visible[query] if name in groups]


def pool(tokens_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean of the tokens that exist [B, D]."""
    return (tokens_BTD * mask_BT[..., None]).sum(1) / mask_BT.sum(1, keepdim=True).clamp_min(1.0)


def draw_bias(draws: int, steps: int) -> Tensor:
    """Additive mask [1, 1, 1 + G K, 1 + G K]: the state sees itself, a draw sees the state and its own steps."""
    owner = torch.cat([torch.tensor([-1]), torch.arange(draws).repeat_interleave(steps)])
    visible = (owner[:, None] == owner[None, :]) | (owner[None, :] == -1)
    return ((~visible).float() * MASKED)[None, None]


def _clean(h_BND: Tensor) -> Tensor:
    """Noise level 0, one for the whole batch [1]."""
    return h_BND.new_zeros(1)


class Ropes:
    """Rotation tables of every group of tokens, for an observation at integer step `now` (units of `step_s`)."""

    def __init__(self, config: WamConfig) -> None:
        self.config = config
        index = torch.arange(config.frame_tokens)
        self._rows, self._columns = index // config.columns, index % config.columns

    def frame(self, step: int) -> Tensor:
        """Tokens of a frame or value map at `step` [2, N, P/2]."""
        return self._table(torch.full((self.config.frame_tokens,), step), self._rows, self._columns)

    def future(self, now: int) -> Tensor:
        """Tokens of the imagined frame."""
        return self.frame(now + self.config.future_steps)

    def chunk(self, now: int, draws: int = 1) -> Tensor:
        """The state token and G draws of a chunk [2, 1 + G K, P/2]; actions have a time and no place."""
        steps = torch.arange(1, self.config.chunk_steps + 1).repeat(draws)
        return self.actions(torch.cat([torch.zeros(1, dtype=torch.long), steps]) + now)

    def actions(self, steps_N: Tensor) -> Tensor:
        """Action tokens at the given steps."""
        nowhere = torch.zeros_like(steps_N)
        return self._table(steps_N, nowhere, nowhere)

    def _table(self, steps_N: Tensor, rows_N: Tensor, columns_N: Tensor) -> Tensor:
        return rope_table(steps_N, rows_N, columns_N, self.config.head_dim, self.config.rope_period)


__all__ = [
    "CURRENT_FRAME", "PAST_ACTIONS", "PAST_FRAMES", "Groups", "Observation", "Ropes", "WorldActionModel", "draw_bias",
]
