"""UMT5-XXL's encoder, Wan's reader of sentences: run once an instruction, never in the control loop.

Shapes: B batch, T tokens, D width, H heads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from starry_ros.errors import CheckpointError
from starry_ros.wam.text import TextEmbedding, check_sentence, text_hash
from starry_ros.wam.wan.adapter import UMT5_UNUSED, umt5_sources
from starry_ros.wam.wan.files import WeightFolder, read_json


@dataclass(frozen=True)
class Umt5Config:
    """Sizes of the encoder; the defaults are those of google/umt5-xxl."""

    vocabulary: int = 256384
    width: int = 4096
    head_width: int = 64
    heads: int = 64
    feed_forward: int = 10240
    layers: int = 24
    buckets: int = 32
    furthest: int = 128
    floor: float = 1e-6

    @staticmethod
    def from_json_dict(raw: Mapping[str, Any], where: str) -> Umt5Config:
        """Out of the folder's config.json. Raises CheckpointError on another architecture."""
        if raw.get("model_type") != "umt5" or raw.get("feed_forward_proj", "gated-gelu") != "gated-gelu":
            raise CheckpointError(where, "is not a UMT5 encoder", got=raw.get("model_type"), expected="umt5",
                                  fix="use the text_encoder folder of Wan2.2-TI2V-5B-Diffusers")
        names = ("vocab_size", "d_model", "d_kv", "num_heads", "d_ff", "num_layers", "relative_attention_num_buckets",
                 "relative_attention_max_distance", "layer_norm_epsilon")
        absent = [name for name in names if name not in raw]
        if absent:
            raise CheckpointError(where, f"lacks {absent}", fix="download the folder again")
        return Umt5Config(*(raw[name] for name in names))


class Umt5Block(nn.Module):
    """Attention with a bias by distance of its own in every layer, then a gated feed-forward."""

    def __init__(self, c: Umt5Config) -> None:
        super().__init__()
        self.config = c
        inner = c.heads * c.head_width
        self.attention_norm, self.feed_norm = (nn.RMSNorm(c.width, c.floor) for _ in range(2))
        self.q, self.k, self.v = (nn.Linear(c.width, inner, bias=False) for _ in range(3))
        self.out = nn.Linear(inner, c.width, bias=False)
        self.distance = nn.Embedding(c.buckets, c.heads)
        self.gate, self.up = (nn.Linear(c.width, c.feed_forward, bias=False) for _ in range(2))
        self.down = nn.Linear(c.feed_forward, c.width, bias=False)

    def forward(self, h_BTD: Tensor, bucket_TT: Tensor, exists_BT: Tensor) -> Tensor:
        normed = self.attention_norm(h_BTD)
        q, k, v = (part(normed).unflatten(-1, (self.config.heads, -1)).transpose(1, 2)
                   for part in (self.q, self.k, self.v))
        bias = self.distance(bucket_TT).permute(2, 0, 1)[None].expand(len(h_BTD), -1, -1, -1)
        bias = bias.masked_fill(~exists_BT[:, None, None, :], torch.finfo(h_BTD.dtype).min)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), scale=1.0)
        h = h_BTD + self.out(mixed.transpose(1, 2).flatten(2))
        normed = self.feed_norm(h)
        out: Tensor = h + self.down(F.gelu(self.gate(normed), approximate="tanh") * self.up(normed))
        return out


class Umt5(nn.Module):
    """Token numbers to embeddings; zeros where there is no token."""

    def __init__(self, config: Umt5Config) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocabulary, config.width)
        self.blocks = nn.ModuleList(Umt5Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, config.floor)

    @torch.inference_mode()
    def forward(self, tokens_BT: Tensor, exists_BT: Tensor) -> Tensor:
        h = self.embed(tokens_BT)
        bucket = buckets(tokens_BT.shape[1], self.config).to(h.device)
        for block in self.blocks:
            h = block(h, bucket, exists_BT)
        out: Tensor = self.norm(h) * exists_BT[..., None]
        return out


def buckets(tokens: int, c: Umt5Config) -> Tensor:
    """Bucket of every pair (query, key) [T, T]: half for keys after the query; near exact, far by logarithm."""
    place = torch.arange(tokens)
    offset = place[None, :] - place[:, None]
    half = c.buckets // 2
    exact = half // 2
    far = exact + (torch.log(offset.abs().clamp_min(1).float() / exact) / math.log(c.furthest / exact)
                   * (half - exact)).long()
    size = torch.where(offset.abs() < exact, offset.abs(), far.clamp_max(half - 1))
    return size + half * (offset > 0)


TEXT_ENCODER, TOKENIZER = "text_encoder", Path("tokenizer", "tokenizer.json")


class Umt5Encoder:
    """A `TextEncoder` over a local folder with `text_encoder/` and `tokenizer/`."""

    name = "umt5-xxl"

    def __init__(self, folder: Path, max_tokens: int = 512, dtype: torch.dtype = torch.bfloat16,
                 device: str = "cpu") -> None:
        """Raises CheckpointError where weights or tokenizer are missing, damaged or of another model."""
        from tokenizers import Tokenizer

        weights = folder / TEXT_ENCODER
        config = Umt5Config.from_json_dict(read_json(weights / "config.json"), str(weights / "config.json"))
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(str(folder / TOKENIZER), f"cannot be read: {error}",
                                  fix="download the tokenizer folder too") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        with torch.device("meta"):
            self.model = Umt5(config)
        WeightFolder(weights).load_into(self.model, umt5_sources(self.model), dtype, device, UMT5_UNUSED)
        self.model.eval()
        self.dim, self.max_tokens, self._device = config.width, max_tokens, device

    def encode(self, text: str) -> TextEmbedding:
        """Embeddings of a sentence, zeros after its last token. Raises InputError on an unusable sentence."""
        clean = check_sentence(text)
        ids = self._tokenizer.encode(clean).ids
        tokens = torch.zeros(1, self.max_tokens, dtype=torch.long)
        tokens[0, : len(ids)] = torch.tensor(ids)
        exists = torch.arange(self.max_tokens)[None] < len(ids)
        embedded = self.model(tokens.to(self._device), exists.to(self._device))[0].float().cpu().numpy()
        return TextEmbedding(embedded, exists[0].numpy(), clean, text_hash(self.name, clean))
