"""The model as a few graphs of plain tensors: the contract between training, export and every runtime.

Names of inputs and outputs are the names in the exported files. Batch is 1. Noise, noise level `s`, step `ds` and
rotation tables are inputs: a seed gives the same chunk on every runtime, and no graph computes an angle of time.

Shapes: L layers, H heads, P head_dim, N frame tokens, R slots, U actions a slot, K chunk steps, J joints, T text
tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from starry_ros.wam.autoencoder import Autoencoder, to_float
from starry_ros.wam.config import WamConfig
from starry_ros.wam.detail import unpatchify
from starry_ros.wam.gasam import Scene, biased
from starry_ros.wam.layers import MASKED, Keys
from starry_ros.wam.masks import CURRENT_FRAME, FUTURE_FRAMES, PAST_ACTIONS, PAST_FRAMES, VALUE
from starry_ros.wam.model import Sentence, WorldActionModel
from starry_ros.wam.runtimes.joint_graph import LEVELS, OUTPUTS, Denoise


@dataclass(frozen=True)
class GraphSpec:
    """Names and example shapes of a graph's inputs (float32 unless the name is `canvas`), and names of its outputs."""

    name: str
    inputs: dict[str, tuple[int, ...]]
    outputs: tuple[str, ...]


def graph_specs(c: WamConfig) -> tuple[GraphSpec, ...]:
    """The contract for a model of this shape."""
    n, u, t, p = c.frame_tokens, c.history_actions, c.text_tokens, c.head_dim
    cells = (c.canvas_height_px // c.value_stride_px, c.canvas_width_px // c.value_stride_px)

    def kv(name: str, tokens: int) -> dict[str, tuple[int, ...]]:
        shape = (c.layers, 1, c.heads, tokens, p)
        return {f"{name}_k": shape, f"{name}_v": shape}

    slots = c.history_slots * c.past_tokens
    past = {**kv("past", slots), "past_valid": (1, slots)}
    executed = {**kv("executed", c.history_slots * u), "executed_valid": (1, c.history_slots * u)}
    level = {"s": (1,), "ds": (1,)}
    pixels = {"pixels": (1, c.detail_channels, *cells)}
    views = len(c.views)
    aim = {"landing": (1, c.value_events, views, 2), "seen": (1, c.value_events, views)}
    intent, keys = ("future", n) if c.intent == "video" else ("value", c.value_keys)
    bias = {} if not c.gasam else {"current_bias": (1, n), f"{intent}_bias": (1, n)}
    text = {**kv("text", t), "mask": (1, t), "sentence": (1, 7, c.video.width)}
    rope = {"rope": (2, n, p // 2)}
    streams = (
        GraphSpec("imagine", {"x": (1, n, c.latent_token_width), **level, **rope, **past, **kv("current", n),
                              **executed, **text},
                  ("x_next", "future_k", "future_v")),
        GraphSpec("predict_value", {"m": (1, n, c.value_token_width), **level, **rope, **past, **kv("current", n),
                                    **kv("future", n), **pixels},
                  ("m_next", "value_k", "value_v", "map", "landing", "seen")),
        GraphSpec("act", {"a": (1, c.chunk_steps, c.joints), **level, "rope": (2, 1 + c.chunk_steps, p // 2),
                          **kv("current", n), **executed, **kv(intent, keys), "state": (1, c.joints), **aim, **bias},
                  ("a_next",)),
    )
    together = GraphSpec("denoise", {
        "x": (1, n, c.latent_token_width), "m": (1, n, c.value_token_width), "a": (1, c.chunk_steps, c.joints),
        **dict.fromkeys(LEVELS, (1,)), "rope_x": rope["rope"], "rope_m": rope["rope"],
        "rope_a": (2, 1 + c.chunk_steps, p // 2), **past, **kv("current", n), **executed, **text, **pixels,
        "state": (1, c.joints), **bias, **({"future_bias": (1, n)} if c.gasam else {}),
    }, OUTPUTS)
    return (
        GraphSpec("encode_text", {"tokens": (1, t, c.text_width), "mask": (1, t)}, ("text_k", "text_v", "sentence")),
        GraphSpec("observe", {"canvas": (1, c.canvas_height_px, c.canvas_width_px, 3), "rope": (2, n, p // 2)},
                  ("current_k", "current_v", "pixels", "latents", *(() if c.states is None else ("slot_k", "slot_v")))),
        GraphSpec("remember_actions", {"actions": (1, u, c.joints), "valid": (1, u), "rope": (2, u, p // 2)},
                  ("executed_k", "executed_v")),
        *((together,) if c.coupling == "joint" else streams),
        *(() if c.gasam != "predicted" else (GraphSpec("foresee", {
            **scene(c), "s_x": (1,), "s_a": (1,), **rope, **past, **kv("current", n), **executed,
            **({} if c.coupling != "joint" else {**kv("text", t), "mask": (1, t)}),
        }, ("future_weights",)),)),
        GraphSpec("decode", {"x": (1, n, c.latent_token_width)}, ("imagined",)),
    )


def scene(c: WamConfig) -> dict[str, tuple[int, ...]]:
    """Inputs that describe what the geometry knows of an instant."""
    assert c.geometry is not None
    cells = (c.canvas_height_px // c.geometry.cell_px, c.canvas_width_px // c.geometry.cell_px)
    return {"depth": (1, *cells), "intrinsics": (1, len(c.views), 4), "poses": (1, len(c.views), 4, 4),
            "hands": (1, c.geometry.hands, 3)}


def _keys(k: Tensor, v: Tensor, valid: Tensor | None = None) -> Keys:
    bias = None if valid is None else ((1 - valid) * MASKED)[:, None, None, :]
    return Keys(list(zip(k.unbind(0), v.unbind(0), strict=True)), bias)


def _stack(keys: Keys) -> tuple[Tensor, Tensor]:
    return torch.stack([k for k, _ in keys.layers]), torch.stack([v for _, v in keys.layers])


class _Graph(nn.Module):
    """A view of the shared weights."""

    def __init__(self, model: WorldActionModel, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.model, self.autoencoder = model, autoencoder


class EncodeText(_Graph):
    """Sentence embedding to cross-attention keys."""

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        text = self.model.encode_text(tokens, mask)
        return (*_stack(text.keys), text.vectors)


class Observe(_Graph):
    """Canvas (uint8) to keys, pixel embeddings and latents."""

    def forward(self, canvas: Tensor, rope: Tensor) -> tuple[Tensor, ...]:
        image = to_float(canvas)
        latents = self.autoencoder.encode_float(image)
        observation = self.model.observe(latents, image, rope)
        outputs = (*_stack(observation.keys), observation.pixels, latents)
        if self.model.config.states is None:
            return outputs
        return (*outputs, *_stack(self.model.remember_state(latents, image, rope)))


class RememberActions(_Graph):
    """Executed actions of one slot to keys."""

    def forward(self, actions: Tensor, valid: Tensor, rope: Tensor) -> tuple[Tensor, Tensor]:
        return _stack(self.model.remember_actions(actions, valid, rope))


class Imagine(_Graph):
    """One Euler step of the future frame."""

    def forward(
        self, x: Tensor, s: Tensor, ds: Tensor, rope: Tensor, past_k: Tensor, past_v: Tensor, past_valid: Tensor,
        current_k: Tensor, current_v: Tensor, executed_k: Tensor, executed_v: Tensor, executed_valid: Tensor,
        text_k: Tensor, text_v: Tensor, mask: Tensor, sentence: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        groups = {
            PAST_FRAMES: _keys(past_k, past_v, past_valid), CURRENT_FRAME: _keys(current_k, current_v),
            PAST_ACTIONS: _keys(executed_k, executed_v, executed_valid),
        }
        velocity, keys = self.model.imagine(x, s, rope, groups, Sentence(_keys(text_k, text_v, mask), sentence))
        return (x + ds * velocity, *_stack(keys))


class PredictValue(_Graph):
    """One Euler step of the value map, and the clean map it points to: v = (m_s - m) / s."""

    def forward(
        self, m: Tensor, s: Tensor, ds: Tensor, rope: Tensor, past_k: Tensor, past_v: Tensor, past_valid: Tensor,
        current_k: Tensor, current_v: Tensor, future_k: Tensor, future_v: Tensor, pixels: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        groups = {
            PAST_FRAMES: _keys(past_k, past_v, past_valid), CURRENT_FRAME: _keys(current_k, current_v),
            FUTURE_FRAMES: _keys(future_k, future_v),
        }
        value, keys = self.model.predict_value(m, s, rope, groups, pixels)
        clean = self.model.value_tokens(value.map)
        return (m + ds * (m - clean) / s, *_stack(keys), value.map, value.landing, value.seen)


class Act(_Graph):
    """One Euler step of the action chunk, told what to do by the value map's keys or those of the imagined frame."""

    def forward(
        self, a: Tensor, s: Tensor, ds: Tensor, rope: Tensor, current_k: Tensor, current_v: Tensor,
        executed_k: Tensor, executed_v: Tensor, executed_valid: Tensor, intent_k: Tensor, intent_v: Tensor,
        state: Tensor, landing: Tensor, seen: Tensor, current_bias: Tensor | None = None,
        intent_bias: Tensor | None = None,
    ) -> Tensor:
        intent = FUTURE_FRAMES if self.model.config.intent == "video" else VALUE
        groups = {
            CURRENT_FRAME: _keys(current_k, current_v), PAST_ACTIONS: _keys(executed_k, executed_v, executed_valid),
            intent: _keys(intent_k, intent_v),
        }
        for name, bias in ((CURRENT_FRAME, current_bias), (intent, intent_bias)):
            if bias is not None:
                groups[name] = biased(groups[name], bias[:, None, None, :])
        return a + ds * self.model.act(a[:, None], s, rope, groups, state, landing, seen)[:, 0]


class Foresee(_Graph):
    """Weights of the tokens to come, from the scene of now and what was observed."""

    def forward(
        self, depth: Tensor, intrinsics: Tensor, poses: Tensor, hands: Tensor, s_x: Tensor, s_a: Tensor, rope: Tensor,
        past_k: Tensor, past_v: Tensor, past_valid: Tensor, current_k: Tensor, current_v: Tensor, executed_k: Tensor,
        executed_v: Tensor, executed_valid: Tensor, text_k: Tensor | None = None, text_v: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        groups = {
            PAST_FRAMES: _keys(past_k, past_v, past_valid), CURRENT_FRAME: _keys(current_k, current_v),
            PAST_ACTIONS: _keys(executed_k, executed_v, executed_valid),
        }
        expert, now = self.model.geometry, Scene(depth, intrinsics, poses, hands)
        assert expert is not None
        text = None if text_k is None or text_v is None else _keys(text_k, text_v, mask)
        return expert.future_weights(now, expert(now, s_x, s_a, rope, groups, text))


class Decode(_Graph):
    """Latent tokens to a uint8 canvas [1, H, W, 3]."""

    def forward(self, x: Tensor) -> Tensor:
        c = self.model.config
        return self.autoencoder.decode(unpatchify(x, c.latent_patch, c.rows, c.columns))


def build_graphs(model: WorldActionModel, autoencoder: Autoencoder) -> dict[str, nn.Module]:
    """Every graph by name, in evaluation mode, sharing the given weights."""
    kinds = {
        "encode_text": EncodeText, "observe": Observe, "remember_actions": RememberActions, "imagine": Imagine,
        "predict_value": PredictValue, "act": Act, "denoise": Denoise, "foresee": Foresee, "decode": Decode,
    }
    names = [spec.name for spec in graph_specs(model.config)]
    return {name: kinds[name](model, autoencoder).eval() for name in names}
