"""Names in public files against names in this package: the one place that knows either.

Grammars of the transformer's files:

    wan        Wan-AI/Wan2.2-TI2V-5B             blocks.0.self_attn.q.weight
    diffusers  Wan-AI/Wan2.2-TI2V-5B-Diffusers   blocks.0.attn1.to_q.weight
    lingbot    LingBot-VA                        as diffusers, with action ports beside

VAE and UMT5-XXL are read from the Diffusers folder alone: elsewhere they are pickles, which this package never opens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from starry_ros.errors import CheckpointError
from starry_ros.wam.wan.config import WanConfig

GRAMMARS = ("wan", "diffusers", "lingbot")
_TIME = {
    "first": ("time_embedding.0", "time_embedder.linear_1"), "second": ("time_embedding.2", "time_embedder.linear_2"),
    "six": ("time_projection.1", "time_proj"),
}
_UMT5 = {  # ours: transformers'
    "attention_norm": "0.layer_norm", "q": "0.SelfAttention.q", "k": "0.SelfAttention.k", "v": "0.SelfAttention.v",
    "out": "0.SelfAttention.o", "distance": "0.SelfAttention.relative_attention_bias", "feed_norm": "1.layer_norm",
    "gate": "1.DenseReluDense.wi_0", "up": "1.DenseReluDense.wi_1", "down": "1.DenseReluDense.wo",
}
_BLOCK = {  # ours: (wan, diffusers and lingbot)
    "q": ("self_attn.q", "attn1.to_q"), "k": ("self_attn.k", "attn1.to_k"), "v": ("self_attn.v", "attn1.to_v"),
    "out": ("self_attn.o", "attn1.to_out.0"), "q_norm": ("self_attn.norm_q", "attn1.norm_q"),
    "k_norm": ("self_attn.norm_k", "attn1.norm_k"), "text.norm": ("norm3", "norm2"),
    "text.q": ("cross_attn.q", "attn2.to_q"), "text.k": ("cross_attn.k", "attn2.to_k"),
    "text.v": ("cross_attn.v", "attn2.to_v"), "text.out": ("cross_attn.o", "attn2.to_out.0"),
    "text.q_norm": ("cross_attn.norm_q", "attn2.norm_q"), "text.k_norm": ("cross_attn.norm_k", "attn2.norm_k"),
    "up": ("ffn.0", "ffn.net.0.proj"), "down": ("ffn.2", "ffn.net.2"),
    "modulation": ("modulation", "scale_shift_table"),
}
_TOP = {
    "video_port.enter": ("patch_embedding", "patch_embedding"), "video_port.leave": ("head.head", "proj_out"),
    "video.text_in.0": ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    "video.text_in.1": ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    "video.modulation": ("head.modulation", "scale_shift_table"),
    "action_port.enter": (None, "action_embedder"), "action_port.leave": (None, "action_proj_out"),
    **{f"video_port.time.{ours}": (wan, f"condition_embedder.{other}") for ours, (wan, other) in _TIME.items()},
    **{f"action_port.time.{ours}": (None, f"condition_embedder_action.{other}") for ours, (_, other) in _TIME.items()},
}
UNUSED = re.compile(r"condition_embedder_action\.text_embedder\..*|.*norm_added_q.*|rope\..*")
"""Tensors that public files hold and their own code never reads."""
UMT5_UNUSED = re.compile(r"encoder\.embed_tokens\.weight|decoder\..*|lm_head\..*")


@dataclass(frozen=True)
class Source:
    """Where a tensor comes from: its name and shape in the file, and how it becomes ours."""

    name: str
    shape: tuple[int, ...]
    convert: Callable[[Tensor], Tensor] | None = None


def transformer_sources(model: nn.Module, config: WanConfig, grammar: str) -> dict[str, Source]:
    """What a file of that grammar must hold for the video stream (and lingbot's action port), by our names.

    Streams that a public checkpoint lacks are not named: a value stream, an action stream of its own.
    """
    column = 0 if grammar == "wan" else 1
    sources = {}
    for name, tensor in model.state_dict().items():
        module, _, leaf = name.rpartition(".") if not name.endswith("modulation") else (name, "", "")
        block = re.fullmatch(r"video\.blocks\.(\d+)\.(.+)", module)
        theirs = _BLOCK[block[2]][column] if block else _TOP.get(module, (None, None))[column]
        if theirs is None or (module.startswith("action_port") and grammar != "lingbot"):
            continue
        full = (f"blocks.{block[1]}." if block else "") + theirs + ("." + leaf if leaf else "")
        if grammar == "lingbot":
            full = full.replace("patch_embedding", "patch_embedding_mlp")
        sources[name] = _reshaped(name, full, tuple(tensor.shape), config, grammar)
    return sources


def _reshaped(name: str, theirs: str, shape: tuple[int, ...], c: WanConfig, grammar: str) -> Source:
    """The file's shape of a tensor, where it is not ours."""
    if name.endswith("modulation"):
        return Source(theirs, (1, *shape), lambda tensor: tensor[0])
    if name == "video_port.enter.weight" and grammar != "lingbot":
        return Source(theirs, (shape[0], c.latent_channels, 1, c.patch, c.patch), lambda tensor: tensor.flatten(1))
    if name.startswith("video_port.leave"):  # they list a token's numbers by patch, then channel; we the other way
        return Source(theirs, shape, lambda tensor: tensor.unflatten(0, (c.patch**2, c.latent_channels)).transpose(
            0, 1).flatten(0, 1).contiguous())
    return Source(theirs, shape)


def same_names(model: nn.Module) -> dict[str, Source]:
    """For a module that carries the file's own names: the VAE, as Diffusers stores it."""
    return {name: Source(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()}


def umt5_sources(model: nn.Module) -> dict[str, Source]:
    """The text encoder's tensors by our names."""
    top = {"embed": "shared", "norm": "encoder.final_layer_norm"}
    sources = {}
    for name, tensor in model.state_dict().items():
        module, _, leaf = name.rpartition(".")
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)", module)
        theirs = f"encoder.block.{block[1]}.layer.{_UMT5[block[2]]}" if block else top[module]
        sources[name] = Source(f"{theirs}.{leaf}", tuple(tensor.shape))
    return sources


def transformer_config(raw: Mapping[str, Any], where: str) -> tuple[WanConfig, str]:
    """Shape and grammar out of a transformer's config.json. Raises CheckpointError on another architecture."""
    try:
        if "num_attention_heads" in raw:
            grammar = "lingbot" if "action_dim" in raw else "diffusers"
            heads, head_dim = raw["num_attention_heads"], raw["attention_head_dim"]
            layers, channels, patch = raw["num_layers"], raw["in_channels"], tuple(raw["patch_size"])
        else:
            grammar, heads, layers, channels = "wan", raw["num_heads"], raw["num_layers"], raw["in_dim"]
            head_dim, patch = raw["dim"] // heads, tuple(raw.get("patch_size", (1, 2, 2)))
        more: dict[str, Any] = {"feed_forward": raw["ffn_dim"], "time_features": raw.get("freq_dim", 256),
                                "text_width": raw.get("text_dim", 4096), "norm_floor": raw.get("eps", 1e-6)}
    except (KeyError, TypeError) as error:
        raise CheckpointError(where, f"lacks {error}", fix="give the transformer folder of a Wan2.2 model") from error
    if patch[0] != 1 or patch[1] != patch[2] or raw.get("model_type", "ti2v") != "ti2v":
        raise CheckpointError(where, "is another architecture", got=(raw.get("model_type"), patch),
                              expected=("ti2v", (1, 2, 2)), fix="use Wan2.2-TI2V-5B or a model made from it")
    if grammar == "lingbot":
        more |= {"name": "lingbot-va", "joints": raw["action_dim"], "action": None, "value": None}
    return WanConfig(heads=heads, head_dim=head_dim, layers=layers, latent_channels=channels, patch=patch[1],
                     **more), grammar
