"""What a chunk of a Wan-size model is made of: regions of the field, its memory, its noise and its result.

Shapes: N tokens of a chunk of latents, U actions of a chunk, R history slots, W numbers a video token, J action slots.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from starry_ros.wam.kv_cache import Ring
from starry_ros.wam.wan.config import WanConfig
from starry_ros.wam.wan.streams import Field

DONE, EXECUTED, PAST, CURRENT = "done", "executed", "past", "current"
FUTURE, VALUE, ACTION = "future", "value", "action"


@dataclass(frozen=True)
class ChunkNoise:
    """Starting points: video [1, N, W], value [1, N, W] and action [1, U, J]."""

    video: Tensor
    value: Tensor | None
    action: Tensor


@dataclass(frozen=True)
class Held:
    """Numbers of the chunk that are known: `values` [1, U, J] where `where` is 1; noise decides the others."""

    values: Tensor
    where: Tensor


@dataclass(frozen=True)
class ChunkPrediction:
    """Clean tokens of the next chunk, shaped like the noise they came from."""

    video: Tensor
    value: Tensor | None
    action: Tensor


def regions(config: WanConfig) -> dict[str, slice]:
    """Where each group lies in the field."""
    c = config
    value = c.chunk_tokens if c.value else 0
    sizes = {DONE: c.chunk_actions, EXECUTED: c.history_chunks * c.chunk_actions,
             PAST: c.history_chunks * c.chunk_tokens, CURRENT: c.chunk_tokens, FUTURE: c.chunk_tokens, VALUE: value,
             ACTION: c.chunk_actions}
    ends = list(itertools.accumulate(sizes.values()))
    return {name: slice(end - size, end) for (name, size), end in zip(sizes.items(), ends, strict=True)}


def memory(c: WanConfig, at: dict[str, slice], device: torch.device, dtype: torch.dtype) -> tuple[Field, Ring, Ring]:
    """The field, and two rings whose keys and values are regions of it."""
    shape = (c.layers, 1, c.heads, at[ACTION].stop, c.head_dim)
    field = Field(*(torch.zeros(shape, device=device, dtype=dtype) for _ in range(2)))

    def ring(name: str, tokens: int) -> Ring:
        views = iter([field.keys[:, :, :, at[name]], field.values[:, :, :, at[name]]])

        def zeros(wanted: tuple[int, ...]) -> Tensor:
            """The ring's first two buffers are its regions of the field; the others are its own."""
            view = next(views, None)
            return torch.zeros(wanted, device=device, dtype=dtype) if view is None else view

        return Ring(c.layers, c.heads, c.head_dim, c.history_chunks, tokens, zeros=zeros)

    return field, ring(PAST, c.chunk_tokens), ring(EXECUTED, c.chunk_actions)
