"""Building blocks of the streams.

Shapes: B batch, N tokens, D stream width, A = heads * head_dim common attention width, H heads, P = head_dim,
L layers, K keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MASKED = -1e4
"""Additive bias of an invisible key: finite, so that a row with no visible key stays finite, also in half precision."""

LayerKV = tuple[Tensor, Tensor]
Modulation = tuple[Tensor, ...]
"""Shift, scale, gate of attention, then of feed-forward: 6 x [B, 1, D]."""


@dataclass
class Keys:
    """Keys and values of one group of tokens in every layer: L x ([B, H, N, P], [B, H, N, P]).

    `bias` is [B, 1, 1, N] or [1, 1, Q, N], or None where every key is visible.
    """

    layers: list[LayerKV]
    bias: Tensor | None = None

    def detach(self) -> Keys:
        """The same keys without gradient."""
        return Keys([(k.detach(), v.detach()) for k, v in self.layers], self.bias)


def time_frequencies(pairs: int, period: int) -> list[float]:
    """Angular frequencies in rad a step, each an INTEGER multiple of 2 pi / period.

    So rotation by `step mod period` is exact however long an episode lasts. Wavelengths run from 8 steps to `period`.
    """
    fastest = period // 8
    multiples = [max(1, round(fastest ** (1 - i / max(1, pairs - 1)))) for i in range(pairs)]
    return [2 * math.pi * m / period for m in multiples]


def rope_table(times_N: Tensor, rows_N: Tensor, columns_N: Tensor, head_dim: int, period: int) -> Tensor:
    """cos and sin of every token's rotation [2, N, P/2]: a third of the pairs each for time, row and column.

    Computed in float64 and given to the graph as an input, so no runtime computes angles in low precision.
    """
    pairs = head_dim // 6
    time = torch.tensor(time_frequencies(pairs, period), dtype=torch.float64)
    space = torch.tensor([math.pi / 2 ** (1 + i / 2) for i in range(pairs)], dtype=torch.float64)
    angles = torch.cat([
        torch.remainder(times_N.double(), period)[:, None] * time,
        rows_N.double()[:, None] * space,
        columns_N.double()[:, None] * space,
    ], dim=1)
    return torch.stack([angles.cos(), angles.sin()]).float()


def rotate(x_BHNP: Tensor, rope: Tensor) -> Tensor:
    """Rotate pairs (i, i + P/2) by the table [2, N, P/2] or, per sample, [B, 2, 1, N, P/2]."""
    cos, sin = (rope[0], rope[1]) if rope.dim() == 3 else (rope[:, 0], rope[:, 1])
    first, second = x_BHNP.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def attend(q_BHNP: Tensor, groups: list[LayerKV], biases: list[Tensor | None]) -> Tensor:
    """Softmax attention over the concatenation of groups, returned as [B, N, A]."""
    key = torch.cat([k for k, _ in groups], dim=2) if len(groups) > 1 else groups[0][0]
    value = torch.cat([v for _, v in groups], dim=2) if len(groups) > 1 else groups[0][1]
    out = F.scaled_dot_product_attention(q_BHNP, key, value, attn_mask=_join(biases, groups))
    return out.transpose(1, 2).flatten(2)


def _join(biases: list[Tensor | None], groups: list[LayerKV]) -> Tensor | None:
    """One additive mask [b, 1, q, K] out of each group's, zeros where a group has none."""
    given = [bias for bias in biases if bias is not None]
    if not given:
        return None
    batch, queries = max(b.shape[0] for b in given), max(b.shape[2] for b in given)
    parts = [
        (given[0].new_zeros(1) if bias is None else bias).expand(batch, 1, queries, keys.shape[2])
        for bias, (keys, _) in zip(biases, groups, strict=True)
    ]
    return torch.cat(parts, dim=3)


class TimeEmbedding(nn.Module):
    """Flow time s in [0, 1] to the six modulation vectors shared by a stream's layers [B, 6, D]."""

    frequencies: Tensor

    def __init__(self, width: int, features: int = 32) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(200.0), features)), persistent=False)
        self.hidden = nn.Linear(2 * features, width)
        self.out = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, s_B: Tensor) -> Tensor:
        angles = s_B[:, None] * self.frequencies
        hidden = F.silu(self.hidden(torch.cat([angles.cos(), angles.sin()], dim=-1)))
        out: Tensor = self.out(hidden).unflatten(-1, (6, -1))
        return out


class Block(nn.Module):
    """One layer of one stream: modulated self-attention to visible groups, optional text attention, feed-forward."""

    def __init__(self, width: int, feed_forward: int, heads: int, head_dim: int, text: bool) -> None:
        super().__init__()
        attention = heads * head_dim
        self.heads, self.width = heads, width
        self.modulation = nn.Parameter(torch.zeros(6, width))
        self.qkv = nn.Linear(width, 3 * attention, bias=False)
        self.q_scale = nn.Parameter(torch.ones(head_dim))
        self.k_scale = nn.Parameter(torch.ones(head_dim))
        self.out = nn.Linear(attention, width)
        self.up = nn.Linear(width, feed_forward)
        self.down = nn.Linear(feed_forward, width)
        self.text_q = nn.Linear(width, attention) if text else None
        self.text_out = nn.Linear(attention, width) if text else None

    def project(self, h_BND: Tensor, modulation: Modulation, rope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated query and key, and value, each [B, H, N, P]."""
        normed = F.layer_norm(h_BND, (self.width,)) * (1 + modulation[1]) + modulation[0]
        q, k, v = self.qkv(normed).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q = F.rms_norm(q, q.shape[-1:], self.q_scale)
        k = F.rms_norm(k, k.shape[-1:], self.k_scale)
        return rotate(q, rope), rotate(k, rope), v

    def finish(self, h_BND: Tensor, attended_BNA: Tensor, modulation: Modulation, text: LayerKV | None,
               text_bias: Tensor | None) -> Tensor:
        """Residual updates after attention."""
        h = h_BND + (1 + modulation[2]) * self.out(attended_BNA)
        if text is not None and self.text_q is not None and self.text_out is not None:
            q = self.text_q(F.layer_norm(h, (self.width,))).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            h = h + self.text_out(attend(q, [text], [text_bias]))
        normed = F.layer_norm(h, (self.width,)) * (1 + modulation[4]) + modulation[3]
        out: Tensor = h + (1 + modulation[5]) * self.down(F.relu(self.up(normed)))
        return out


class Stream(nn.Module):
    """A stack of blocks with a time embedding: video, value or action."""

    def __init__(
        self, layers: int, width: int, feed_forward: int, heads: int, head_dim: int, text: bool = False
    ) -> None:
        super().__init__()
        self.width = width
        self.time = TimeEmbedding(width)
        self.blocks = nn.ModuleList(Block(width, feed_forward, heads, head_dim, text) for _ in range(layers))

    def forward(
        self, h_BND: Tensor, s_B: Tensor, rope: Tensor, context: list[Keys], own_bias: Tensor | None = None,
        text: Keys | None = None, condition: Tensor | None = None,
    ) -> tuple[Tensor, Keys]:
        """Run all layers. Tokens see `context` and themselves; `condition` [B, 6, D] adds to the time's modulation.

        Returns the output and the keys others may see.
        """
        shared = self.time(s_B) if condition is None else self.time(s_B) + condition
        own: list[LayerKV] = []
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            modulation = (shared + block.modulation)[:, None].unbind(2)
            q, k, v = block.project(h_BND, modulation, rope)
            own.append((k, v))
            groups = [keys.layers[i] for keys in context] + [(k, v)]
            attended = attend(q, groups, [keys.bias for keys in context] + [own_bias])
            text_kv = None if text is None else text.layers[i]
            h_BND = block.finish(h_BND, attended, modulation, text_kv, None if text is None else text.bias)
        return F.layer_norm(h_BND, (self.width,)), Keys(own)
