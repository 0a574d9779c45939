"""Wan's transformer stream, over keys that stay where they are.

One `Field` holds the keys and values of every group of tokens in every layer, each group in a region of its own. A
stream writes its keys into its region and attends to whole regions: history is neither copied nor gathered.

Shapes: B batch, N tokens, D stream width, A = heads * head_dim common attention width, H heads, P = head_dim, L layers,
K keys of the field.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LayerKV = tuple[Tensor, Tensor]
THETA = 10_000.0
LEVELS = 1000.0
"""Wan's embedding of a noise level s takes 1000 s."""


@dataclass
class Field:
    """Keys and values [L, B, H, K, P] of all groups, and which keys exist, as an additive bias [1, 1, 1, K].

    `bias` is None where all that is looked at exists: then attention needs no mask.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor | None = None


def rope_table(frames_N: Tensor, rows_N: Tensor, columns_N: Tensor, head_dim: int) -> Tensor:
    """cos and sin of every token's rotation [2, N, P/2], computed in float64 on the host.

    Of the P/2 pairs, rows and columns have P // 3 // 2 each and time the rest; frequencies theta^(-2 i / pairs) each.
    Times may be fractions (actions lie between frames) and as large as 10^9 without a visible error.
    """
    space = head_dim // 3 // 2
    parts = []
    for place_N, pairs in ((frames_N, head_dim // 2 - 2 * space), (rows_N, space), (columns_N, space)):
        frequencies = THETA ** -(torch.arange(pairs, dtype=torch.float64) / pairs)
        parts.append(place_N.double()[:, None] * frequencies)
    angles = torch.cat(parts, dim=1)
    return torch.stack([angles.cos(), angles.sin()]).float()


def rotate(x_BHNP: Tensor, rope: Tensor) -> Tensor:
    """Rotate neighbouring pairs (2 i, 2 i + 1) by the table [2, N, P/2]."""
    even, odd = x_BHNP.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([even * rope[0] - odd * rope[1], even * rope[1] + odd * rope[0]], dim=-1)
    return turned.flatten(-2).to(x_BHNP.dtype)


class TimeEmbedding(nn.Module):
    """Noise level s in [0, 1] to one vector [B, D] for the output and six for every block [B, 6, D]."""

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        self.features = features
        self.first, self.second = nn.Linear(features, width), nn.Linear(width, width)
        self.six = nn.Linear(width, 6 * width)

    def forward(self, s_B: Tensor) -> tuple[Tensor, Tensor]:
        half = self.features // 2
        rates = torch.exp(-math.log(THETA) * torch.arange(half, device=s_B.device, dtype=torch.float32) / half)
        angles = LEVELS * s_B.float()[:, None] * rates
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.first.weight.dtype)
        vector = self.second(F.silu(self.first(waves)))
        return vector, self.six(F.silu(vector)).unflatten(-1, (6, -1))


class TextAttention(nn.Module):
    """Cross-attention to a sentence; its keys depend on the sentence alone and are made once for it."""

    def __init__(self, width: int, attention: int, heads: int, floor: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, floor)
        self.q, self.k, self.v = nn.Linear(width, attention), nn.Linear(width, attention), nn.Linear(width, attention)
        self.q_norm, self.k_norm = nn.RMSNorm(attention, floor), nn.RMSNorm(attention, floor)
        self.out = nn.Linear(attention, width)

    def keys(self, text_BTD: Tensor) -> LayerKV:
        """Keys and values of a sentence [B, H, T, P]."""
        return _heads(self.k_norm(self.k(text_BTD)), self.heads), _heads(self.v(text_BTD), self.heads)

    def forward(self, h_BND: Tensor, text: LayerKV) -> Tensor:
        q = _heads(self.q_norm(self.q(_norm(h_BND, self.norm))), self.heads)
        out: Tensor = self.out(_join(F.scaled_dot_product_attention(q, *text)))
        return out


class Block(nn.Module):
    """One layer: modulated self-attention over a field, optional text attention, modulated feed-forward."""

    def __init__(self, width: int, feed_forward: int, heads: int, head_dim: int, text: bool, floor: float) -> None:
        super().__init__()
        attention = heads * head_dim
        self.heads, self.width, self.floor = heads, width, floor
        self.modulation = nn.Parameter(torch.randn(6, width) / width**0.5)
        self.q, self.k, self.v = nn.Linear(width, attention), nn.Linear(width, attention), nn.Linear(width, attention)
        self.q_norm, self.k_norm = nn.RMSNorm(attention, floor), nn.RMSNorm(attention, floor)
        self.out = nn.Linear(attention, width)
        self.text = TextAttention(width, attention, heads, floor) if text else None
        self.up, self.down = nn.Linear(width, feed_forward), nn.Linear(feed_forward, width)

    def forward(self, h_BND: Tensor, six_B6D: Tensor, rope: Tensor, layer: LayerKV, place: slice,
                see: tuple[slice, ...], bias: Tensor | None, text: LayerKV | None) -> Tensor:
        """Put own keys at `place` of the layer [B, H, K, P], look at the regions `see`, return the next residual."""
        shift, scale, gate, shift2, scale2, gate2 = (six_B6D.float() + self.modulation.float())[:, None].unbind(2)
        normed = self._modulated(h_BND, shift, scale)
        q = rotate(_heads(self.q_norm(self.q(normed)), self.heads), rope)
        layer[0][:, :, place] = rotate(_heads(self.k_norm(self.k(normed)), self.heads), rope)
        layer[1][:, :, place] = _heads(self.v(normed), self.heads)
        k, v = (_regions(part, see, 2).to(q.dtype) for part in layer)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else _regions(bias, see, 3))
        h = (h_BND.float() + self.out(_join(attended)) * gate).to(h_BND.dtype)
        if self.text is not None and text is not None:
            h = h + self.text(h, text)
        spread = F.gelu(self.up(self._modulated(h, shift2, scale2)), approximate="tanh")
        out: Tensor = (h.float() + self.down(spread).float() * gate2).to(h.dtype)
        return out

    def _modulated(self, h_BND: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return (F.layer_norm(h_BND.float(), (self.width,), eps=self.floor) * (1 + scale) + shift).to(h_BND.dtype)


class Port(nn.Module):
    """How one kind of token enters and leaves a stream, and how its noise level modulates the blocks."""

    def __init__(self, token_width: int, width: int, time_features: int) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(token_width, width), nn.Linear(width, token_width)
        self.time = TimeEmbedding(width, time_features)


class Stream(nn.Module):
    """A stack of blocks; tokens of several kinds may share it, each by its own port."""

    def __init__(self, layers: int, width: int, feed_forward: int, heads: int, head_dim: int, *, text_width: int = 0,
                 floor: float = 1e-6) -> None:
        super().__init__()
        self.width, self.floor = width, floor
        self.text_in = nn.ModuleList([nn.Linear(text_width, width), nn.Linear(width, width)] if text_width else [])
        self.blocks = nn.ModuleList(
            Block(width, feed_forward, heads, head_dim, text_width > 0, floor) for _ in range(layers))
        self.modulation = nn.Parameter(torch.randn(2, width) / width**0.5)

    def encode_text(self, tokens_BTD: Tensor) -> list[LayerKV]:
        """A sentence's embedding to keys of every block. Once an instruction."""
        text = self.text_in[1](F.gelu(self.text_in[0](tokens_BTD), approximate="tanh"))
        return [block.text.keys(text) for block in self.blocks]  # type: ignore[union-attr, operator]

    def forward(self, port: Port, x_BND: Tensor, s_B: Tensor, rope: Tensor, field: Field, place: slice,
                see: tuple[slice, ...], text: list[LayerKV] | None = None) -> Tensor:
        """Velocity of tokens at noise level s; their keys stay in the field at `place`."""
        vector_BD, six_B6D = port.time(s_B)
        h = port.enter(x_BND)
        for i, block in enumerate(self.blocks):
            h = block(h, six_B6D, rope, (field.keys[i], field.values[i]), place, see, field.bias,
                      None if text is None else text[i])
        shift, scale = (vector_BD.float()[:, None] + self.modulation.float())[:, :, None].unbind(1)
        normed = F.layer_norm(h.float(), (self.width,), eps=self.floor) * (1 + scale) + shift
        out: Tensor = port.leave(normed.to(h.dtype))
        return out


def _heads(x_BNA: Tensor, heads: int) -> Tensor:
    x_BHNP: Tensor = x_BNA.unflatten(-1, (heads, -1)).transpose(1, 2)
    return x_BHNP


def _join(x_BHNP: Tensor) -> Tensor:
    return x_BHNP.transpose(1, 2).flatten(2)


def _norm(h_BND: Tensor, norm: nn.LayerNorm) -> Tensor:
    normed = F.layer_norm(h_BND.float(), norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps)
    return normed.to(h_BND.dtype)


def _regions(x: Tensor, see: tuple[slice, ...], dim: int) -> Tensor:
    """A view where one region is looked at; a copy of several small ones."""
    parts = [x.narrow(dim, region.start, region.stop - region.start) for region in see]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
