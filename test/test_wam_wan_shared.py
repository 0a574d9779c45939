"""The published way of decoding (LingBot-VA: actions in the video stream's own blocks) against a plain transformer.

The oracle keeps nothing: for every denoising step it runs all tokens of the whole episode through all layers at once,
in float64, under one table of who sees whom. It shares the weights with the decoder and none of its code.

Shapes: T all tokens, N tokens of a piece, D width, H heads, P head_dim.
"""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from test_wam_wan_model import SHARED, Episode, Slot, difference, model_of, walk
from torch import Tensor

from starry_ros.wam.wan.chunk import ChunkNoise, ChunkPrediction
from starry_ros.wam.wan.config import WanConfig
from starry_ros.wam.wan.decoding import ChunkDecoder
from starry_ros.wam.wan.model import WanModel


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@dataclass(frozen=True)
class Piece:
    """Tokens [N, W] of one kind at noise level s, where they are, their order in the episode and its chunk."""

    kind: str
    x: Tensor
    s: float
    places: list[tuple[float, float, float]]
    order: int
    chunk: int

    def sees(self, other: Piece, history: int) -> bool:
        """What lies before it, itself, and nothing older than the history of its chunk."""
        return other.order <= self.order and other.chunk >= self.chunk - history


class Whole:
    """The whole episode in one pass."""

    def __init__(self, model: WanModel) -> None:
        self.c: WanConfig = model.config
        self.w: Any = copy.deepcopy(model).double()

    @torch.inference_mode()
    def predict(self, past: list[Slot], now: Slot, text: Tensor, noise: ChunkNoise,
                used: list[int] | None = None) -> ChunkPrediction:
        """`used` slots of the actions; the others stay 0. All by default."""
        c, seen = self.c, []
        for chunk, (first, latents, done) in enumerate((*past, now)):
            seen.append(Piece("video", latents[0], 0.0, self._grid(first, latents.shape[1]), 2 * chunk, chunk))
            if done is not None:
                held = latents.shape[1] // c.frame_tokens * c.actions_per_latent
                places = self._between(first)[held - done.shape[1] : held]
                seen.append(Piece("action", done[0], 0.0, places, 2 * chunk + 1, chunk))
        newest, ahead = len(past), now[0] + now[1].shape[1] // c.frame_tokens
        mask = torch.ones(c.joints) if used is None else torch.zeros(c.joints).index_fill(0, torch.tensor(used), 1.0)
        x, a = noise.video[0].double(), noise.action[0].double()
        for s, following in _grid_of(c.video_steps, c.shift):
            future = Piece("video", x, s, self._grid(ahead, c.chunk_tokens), 2 * newest + 2, newest)
            x = x + (following - s) * self._velocity([*seen, future], text)
        future = Piece("video", x, 0.0, future.places, future.order, newest)
        for s, following in _grid_of(c.action_steps, 1.0):
            plan = Piece("action", a, s, self._between(ahead), 2 * newest + 3, newest)
            a = (a + (following - s) * self._velocity([*seen, future, plan], text)) * mask
        return ChunkPrediction(x[None], None, a[None])

    def _grid(self, first: int, tokens: int) -> list[tuple[float, float, float]]:
        c = self.c
        places = [(float(first + f), float(row), float(column)) for f in range(c.chunk_latents)
                  for row in range(c.rows) for column in range(c.columns)]
        return places[:tokens]

    def _between(self, first: int) -> list[tuple[float, float, float]]:
        n = self.c.actions_per_latent
        return [(first + f + k / (n + 1), -1.0, -1.0) for f in range(self.c.chunk_latents) for k in range(n)]

    def _velocity(self, pieces: list[Piece], text: Tensor) -> Tensor:
        """Of the last piece."""
        c, w, count = self.c, self.w.video, [len(piece.x) for piece in pieces]
        ports = [getattr(self.w, f"{piece.kind}_port") for piece in pieces]
        h = torch.cat([port.enter(piece.x.double()) for port, piece in zip(ports, pieces, strict=True)])
        vectors = [_time(port.time, piece.s) for port, piece in zip(ports, pieces, strict=True)]
        six = torch.cat([port.time.six(_silu(vector)).reshape(1, 6, -1).expand(n, -1, -1)
                         for port, vector, n in zip(ports, vectors, count, strict=True)])
        turns = torch.cat([self._turns(piece.places) for piece in pieces])
        visible = torch.cat([torch.cat([torch.full((n, m), q.sees(k, c.history_chunks)) for k, m in
                                        zip(pieces, count, strict=True)], 1)
                             for q, n in zip(pieces, count, strict=True)])
        words = w.text_in[1](_gelu(w.text_in[0](text.double())))
        for block in w.blocks:
            shift, scale, gate, shift2, scale2, gate2 = (six + block.modulation).unbind(1)
            normed = _centred(h) * (1 + scale) + shift
            q, k = (_turned(self._heads(self._rms(norm, line(normed))), turns)
                    for norm, line in ((block.q_norm, block.q), (block.k_norm, block.k)))
            h = h + gate * block.out(_attend(q, k, self._heads(block.v(normed)), visible))
            t = block.text
            q = self._heads(self._rms(t.q_norm, t.q(_centred(h) * t.norm.weight + t.norm.bias)))
            k = self._heads(self._rms(t.k_norm, t.k(words)))
            h = h + t.out(_attend(q, k, self._heads(t.v(words)), None))
            h = h + gate2 * block.down(_gelu(block.up(_centred(h) * (1 + scale2) + shift2)))
        last = h[-count[-1] :]
        velocity: Tensor = ports[-1].leave(
            _centred(last) * (1 + vectors[-1] + w.modulation[1]) + vectors[-1] + w.modulation[0])
        return velocity

    def _turns(self, places: list[tuple[float, float, float]]) -> Tensor:
        """Of every token and pair, the complex number by which the pair is multiplied [N, P / 2]."""
        pairs = self.c.head_dim // 2
        space = self.c.head_dim // 3 // 2
        rows = []
        for place in places:
            angles = [at * 10_000.0 ** (-i / own) for at, own in zip(place, (pairs - 2 * space, space, space),
                                                                    strict=True) for i in range(own)]
            rows.append([complex(math.cos(angle), math.sin(angle)) for angle in angles])
        return torch.tensor(rows, dtype=torch.complex128)

    def _heads(self, x_TA: Tensor) -> Tensor:
        return x_TA.reshape(len(x_TA), self.c.heads, -1).permute(1, 0, 2)

    def _rms(self, norm: Any, x_TA: Tensor) -> Tensor:
        scaled: Tensor = x_TA / (x_TA.square().mean(-1, keepdim=True) + self.c.norm_floor).sqrt() * norm.weight
        return scaled


def _grid_of(steps: int, shift: float) -> list[tuple[float, float]]:
    """Noise levels from 1 to 0, each with the one that follows."""
    even = [1 - i / steps for i in range(steps + 1)]
    bent = [shift * u / (1 + (shift - 1) * u) for u in even]
    return list(itertools.pairwise(bent))


def _time(embedding: Any, s: float) -> Tensor:
    half = embedding.features // 2
    angles = [1000.0 * s * 10_000.0 ** (-i / half) for i in range(half)]
    waves = torch.tensor([[math.cos(a) for a in angles] + [math.sin(a) for a in angles]], dtype=torch.float64)
    vector: Tensor = embedding.second(_silu(embedding.first(waves)))
    return vector


def _silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def _gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh())


def _centred(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + SHARED.norm_floor).sqrt()


def _turned(x_HTP: Tensor, turns: Tensor) -> Tensor:
    turned = torch.view_as_complex(x_HTP.reshape(*x_HTP.shape[:2], -1, 2).contiguous()) * turns
    return torch.view_as_real(turned).flatten(-2)


def _attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
    logits = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
    logits = logits if visible is None else logits.masked_fill(~visible, -math.inf)
    return (logits.softmax(-1) @ v).permute(1, 0, 2).flatten(1)


def test_decoding_over_the_field_equals_the_whole_episode_anew_through_wrap_branch_roll_back_and_commit() -> None:
    model = model_of(SHARED)
    assert walk(ChunkDecoder(model), Whole(model), Episode(SHARED), SHARED) < 1e-5


def test_a_plan_may_start_from_a_part_of_a_chunk_whose_rest_comes_later() -> None:
    model, play = model_of(SHARED), Episode(SHARED)
    runtime, plain, text = ChunkDecoder(model), Whole(model), play.draw(5, 8)
    runtime.set_text(text)
    half, past, worst = SHARED.frame_tokens, list[Slot](), 0.0
    for chunk in range(6):
        latents, done, frame = play.latents(), play.actions(), chunk * SHARED.chunk_latents
        for tokens in (half, 2 * half):
            seen, count = latents[:, :tokens], tokens // half * SHARED.actions_per_latent
            valid = torch.ones(count)
            if not chunk:
                valid[: SHARED.actions_per_latent] = 0.0
            runtime.observe(seen, done[:, :count], frame, valid)
            acted = done[:, int(count - valid.sum()) : count] if valid.any() else None
            noise = play.noise()
            worst = max(worst, difference(runtime.predict(noise),
                                          plain.predict(past, (frame, seen, acted), text, noise)))
        runtime.commit()
        past = [*past, (frame, latents, acted)]
    assert worst < 1e-5


def test_the_oracle_tells_a_history_that_is_one_chunk_longer_and_one_action_that_is_later() -> None:
    """The comparison above is sharp: either changes the plan by a hundred times its tolerance."""
    model, play = model_of(SHARED), Episode(SHARED)
    plain, text, noise = Whole(model), play.draw(5, 8), play.noise()
    past: list[Slot] = [(2 * i, play.latents(), play.actions()) for i in range(SHARED.history_chunks + 1)]
    now: Slot = (2 * len(past), play.latents(), play.actions())
    made = plain.predict(past, now, text, noise)
    late = (now[0], now[1], torch.roll(now[2], 1, 1) if now[2] is not None else None)
    assert difference(made, plain.predict(past, late, text, noise)) > 1e-3
    assert difference(made, plain.predict(past[-SHARED.history_chunks :], now, text, noise)) > 1e-7, \
        "keys of old chunks hold what those saw when they were new"
