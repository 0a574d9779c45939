"""The Wan-size model's decoding over its field, against the same streams run on nothing but what the table shows."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from starry_ros.errors import InputError
from starry_ros.wam.config import StreamConfig
from starry_ros.wam.runtimes.base import Effort
from starry_ros.wam.sampler import levels
from starry_ros.wam.wan.chunk import ChunkNoise, ChunkPrediction, Held
from starry_ros.wam.wan.config import WanConfig
from starry_ros.wam.wan.decoding import ChunkDecoder
from starry_ros.wam.wan.model import WanModel
from starry_ros.wam.wan.streams import Field, rope_table

SMALL = WanConfig(
    name="small", canvas_height_px=64, canvas_width_px=96, layers=2, heads=2, head_dim=12, feed_forward=32,
    value=StreamConfig(16, 24), action=StreamConfig(16, 24), text_width=8, text_tokens=5, time_features=16,
    actions_per_latent=3, joints=4, history_chunks=3, latent_channels=4, video_steps=2, value_steps=2, action_steps=3,
)
SHARED = dataclasses.replace(SMALL, name="shared", action=None, value=None)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def model_of(config: WanConfig) -> WanModel:
    torch.manual_seed(0)
    model = WanModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


class Episode:
    """Seeded observations, actions and noises of a config."""

    def __init__(self, config: WanConfig, seed: int = 0) -> None:
        self.config, self._generator = config, torch.Generator().manual_seed(seed)

    def draw(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator)

    def latents(self) -> Tensor:
        return self.draw(1, self.config.chunk_tokens, self.config.token_width)

    def actions(self) -> Tensor:
        return self.draw(1, self.config.chunk_actions, self.config.joints)

    def noise(self) -> ChunkNoise:
        return ChunkNoise(self.latents(), self.latents() if self.config.value else None, self.actions())


Slot = tuple[int, Tensor, Tensor | None]
"""A chunk: its first frame's time, its latents, and the actions during it."""


class Uncached:
    """Every key anew at every denoising step: a group's keys are made by a pass over just what that group sees."""

    def __init__(self, model: WanModel) -> None:
        self.model, self.c = model, model.config

    def frame_rope(self, first: int, tokens: int) -> Tensor:
        """Of the first tokens of a chunk."""
        c = self.c
        place = [(first + f, row, column) for f in range(c.chunk_latents) for row in range(c.rows)
                 for column in range(c.columns)]
        return rope_table(*torch.tensor(place).T, c.head_dim)[:, :tokens]

    def action_rope(self, first: int) -> Tensor:
        n = self.c.actions_per_latent
        times = [first + f + k / (n + 1) for f in range(self.c.chunk_latents) for k in range(n)]
        nowhere = -torch.ones(len(times))
        return rope_table(torch.tensor(times, dtype=torch.float64), nowhere, nowhere, self.c.head_dim)

    def run(self, name: str, x: Tensor, s: float, rope: Tensor, seen: list[Field],
            text: Tensor | None = None) -> tuple[Tensor, Field]:
        """Velocity, and the own keys of a stream that sees `seen` and itself."""
        known = sum(field.keys.shape[3] for field in seen)
        shape = (self.c.layers, 1, self.c.heads, known + x.shape[1], self.c.head_dim)
        field = Field(torch.zeros(shape), torch.zeros(shape))
        if seen:
            field.keys[:, :, :, :known] = torch.cat([part.keys for part in seen], 3)
            field.values[:, :, :, :known] = torch.cat([part.values for part in seen], 3)
        place = slice(known, known + x.shape[1])
        words = None if text is None else self.model.video.encode_text(text[None])
        velocity = self.model.stream_of(name)(self.model.port_of(name), x, torch.full((1,), s), rope, field, place,
                                              (slice(0, place.stop),), words)
        return velocity, Field(field.keys[:, :, :, place], field.values[:, :, :, place])

    def acted(self, slot: Slot) -> list[Field]:
        """Keys of the actions during a slot: an episode's first latents have none."""
        first, latents, done = slot
        if done is None:
            return []
        end = latents.shape[1] // self.c.frame_tokens * self.c.actions_per_latent
        return [self.run("action", done, 0.0, self.action_rope(first)[:, end - done.shape[1] : end], [])[1]]

    @torch.inference_mode()
    def predict(self, past: list[Slot], now: Slot, text: Tensor, noise: ChunkNoise,
                used: list[int] | None = None) -> ChunkPrediction:
        """`used` slots of the actions; the others stay 0. All by default."""
        c, ahead, whole = self.c, now[0] + now[1].shape[1] // self.c.frame_tokens, self.c.chunk_tokens
        mask = torch.ones(c.joints) if used is None else torch.zeros(c.joints).index_fill(0, torch.tensor(used), 1.0)
        past = past[-c.history_chunks :]
        acted = [*past, now]

        def groups() -> tuple[list[Field], Field, list[Field]]:
            frames = [self.run("video", latents, 0.0, self.frame_rope(t, latents.shape[1]), [])[1]
                      for t, latents, _ in (*past, now)]
            return frames[:-1], frames[-1], [field for slot in acted for field in self.acted(slot)]

        x, m, a = noise.video, noise.value, noise.action
        assert m is not None
        for s, ds in levels(c.video_steps, c.shift):
            frames, current, actions = groups()
            v, future = self.run("video", x, s, self.frame_rope(ahead, whole), [*actions, *frames, current], text)
            x = x + ds * v
        for s, ds in levels(c.value_steps, c.shift):
            frames, current, _ = groups()
            v, value = self.run("value", m, s, self.frame_rope(ahead, whole), [*frames, current, future])
            m = m + ds * v
        for s, ds in levels(c.action_steps):
            _, current, actions = groups()
            v, _ = self.run("action", a, s, self.action_rope(ahead), [*actions, current, value])
            a = (a + ds * v) * mask
        return ChunkPrediction(x, m, a)


def difference(a: ChunkPrediction, b: ChunkPrediction) -> float:
    pairs = [(a.video, b.video), (a.action, b.action)]
    if a.value is not None and b.value is not None:
        pairs.append((a.value, b.value))
    return max(float((mine - its).abs().max()) for mine, its in pairs)


def walk(runtime: ChunkDecoder, plain: Any, play: Episode, config: WanConfig) -> float:
    """An episode with branch ("b"), roll-back ("d"), commit ("a"), a leap in time and wraps, beside `plain`, which gets
    the whole past every time. Returns the largest difference of the two."""
    text = play.draw(5, 8)
    runtime.set_text(text)
    past: list[Slot] = []
    saved: list[list[Slot]] = []
    worst, frame = 0.0, 0
    for word in ["", "", "b", "", "d", "", "", "ba", "", "b", "d", ""]:
        now: Slot = (frame, play.latents(), play.actions() if frame else None)
        if "b" in word:
            runtime.branch()
            saved.append(past)
        if "a" in word:
            runtime.accept()
            saved.pop()
        if "d" in word:
            runtime.drop()
            past = saved.pop()
        runtime.observe(now[1], now[2], frame)
        noise = play.noise()
        worst = max(worst, difference(runtime.predict(noise), plain.predict(past, now, text, noise)))
        runtime.commit()
        past = [*past, now]
        frame += config.chunk_latents if len(past) != 5 else 10**6
    assert runtime.frames.written == len(past) > 2 * config.history_chunks
    return worst


def test_decoding_over_the_field_equals_the_uncached_pass_through_wrap_branch_roll_back_and_commit() -> None:
    model = model_of(SMALL)
    runtime = ChunkDecoder(model)
    addresses = [buffer.data_ptr() for buffer in (runtime.field.keys, runtime.field.values)]
    assert walk(runtime, Uncached(model), Episode(SMALL), SMALL) < 1e-5
    assert addresses == [buffer.data_ptr() for buffer in (runtime.field.keys, runtime.field.values)]


def test_a_new_sentence_changes_the_plan_and_keeps_the_history() -> None:
    model, play = model_of(SMALL), Episode(SMALL)
    runtime, noise = ChunkDecoder(model), play.noise()
    plans = []
    runtime.observe(play.latents(), None, 0)
    for text in (play.draw(5, 8), play.draw(5, 8)):
        before = runtime.frames.snapshot()
        runtime.set_text(text)
        plans.append(runtime.predict(noise))
        assert torch.equal(before.keys, runtime.frames.snapshot().keys)
    assert difference(*plans) > 1e-3


def test_sentence_and_future_reach_actions_by_the_value_map_alone_unless_the_blocks_are_shared() -> None:
    for config in (SMALL, SHARED):
        model, play = model_of(config), Episode(config)
        runtime, noise = ChunkDecoder(model), dataclasses.replace(play.noise(), value=None)
        runtime.observe(play.latents(), None, 0)
        plans = []
        for text, video in ((play.draw(5, 8), noise.video), (play.draw(5, 8), play.latents())):
            runtime.set_text(text)
            plans.append(runtime.predict(dataclasses.replace(noise, video=video)))
        assert float((plans[0].video - plans[1].video).abs().max()) > 1e-3
        assert torch.equal(plans[0].action, plans[1].action) == (config is SMALL)


def test_half_precision_storage_halves_the_memory_and_stays_close() -> None:
    model, play = model_of(SMALL), Episode(SMALL)
    narrow, wide = ChunkDecoder(model, torch.bfloat16), ChunkDecoder(model)
    assert narrow.bytes * 2 == wide.bytes
    text, noise = play.draw(5, 8), play.noise()
    for i in range(4):
        latents, done = play.latents(), play.actions()
        for runtime in (narrow, wide):
            runtime.set_text(text)
            runtime.observe(latents, done, 2 * i)
            if i < 3:
                runtime.commit()
    gap = difference(narrow.predict(noise), wide.predict(noise))
    assert 0 < gap < 0.1


def test_a_plan_may_start_from_a_part_of_a_chunk_and_the_rest_of_it_replaces_the_part() -> None:
    model, play = model_of(SMALL), Episode(SMALL)
    runtime, plain, text = ChunkDecoder(model), Uncached(model), play.draw(5, 8)
    runtime.set_text(text)
    half, past, worst = SMALL.frame_tokens, [], 0.0
    for chunk in range(6):
        latents, done, frame = play.latents(), play.actions(), chunk * SMALL.chunk_latents
        for tokens in (half, 2 * half):
            seen, count = latents[:, :tokens], tokens // half * SMALL.actions_per_latent
            valid = torch.ones(count)
            if not chunk:
                valid[: SMALL.actions_per_latent] = 0.0
            runtime.observe(seen, done[:, :count], frame, valid)
            acted = done[:, int(count - valid.sum()) : count] if valid.any() else None
            noise = play.noise()
            worst = max(worst, difference(runtime.predict(noise),
                                          plain.predict(past, (frame, seen, acted), text, noise)))
        runtime.commit()
        past = [*past, (frame, latents, acted)]
    assert worst < 1e-5


def test_held_numbers_stay_and_steer_the_others_and_no_effort_repeats_what_was_imagined() -> None:
    model, play = model_of(SMALL), Episode(SMALL)
    runtime, noise = ChunkDecoder(model), play.noise()
    runtime.set_text(play.draw(5, 8))
    runtime.observe(play.latents(), play.actions(), 0)
    free = runtime.predict(noise)
    where = torch.zeros_like(noise.action)
    where[:, :2] = 1.0
    held = runtime.predict(noise, Held(torch.full_like(noise.action, 0.5), where))
    assert torch.equal(held.action[:, :2], torch.full_like(held.action[:, :2], 0.5))
    assert float((held.action - free.action)[:, 2:].abs().max()) > 1e-5
    assert torch.equal(runtime.predict(noise, Held(noise.action, torch.zeros_like(where))).action, free.action)
    last = runtime.predict(noise, effort=Effort(video_steps=1))
    assert float((last.video - free.video).abs().max()) > 1e-5
    for effort in (Effort(video=False), Effort(video=False, value=False)):
        again = runtime.predict(play.noise(), effort=effort)
        assert torch.equal(again.video, last.video)
        assert again.value is not None
        assert last.value is not None
        assert torch.equal(again.value, last.value) == (not effort.value)
        last = again


def test_a_branch_that_writes_more_than_it_may_is_refused() -> None:
    runtime, play = ChunkDecoder(model_of(SMALL)), Episode(SMALL)
    runtime.observe(play.latents(), None, 0)
    for _ in range(SMALL.history_chunks):
        runtime.commit()
    runtime.branch()
    runtime.commit()
    runtime.commit()
    with pytest.raises(InputError, match="no room for another speculative slot"):
        runtime.commit()


# ---- what a CUDA graph captures, without a GPU --------------------------------------------------------------------


class NothingFromTheHost(TorchDispatchMode):
    """Refuses what a capture refuses: numbers read back, or taken from the host, and sizes that depend on data."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert function.overloadpacket.__name__ not in (
            "_local_scalar_dense", "lift_fresh", "lift_fresh_copy", "nonzero", "masked_select", "is_nonzero", "equal")
        return function(*args, **(kwargs or {}))


class StandInGraph:
    """Replays by running the loop again, out of the same buffers and into the same results."""

    decoder: ChunkDecoder

    def replay(self) -> None:
        again, graph = self.decoder._loop({"video", "value", "action"}), self.decoder._graph
        assert graph is not None
        for name in ("video", "value", "action"):
            getattr(graph[1], name).copy_(getattr(again, name))


@contextlib.contextmanager
def captured(_: StandInGraph) -> Iterator[None]:
    with NothingFromTheHost():
        yield


def test_the_captured_loop_asks_nothing_of_the_host_and_replays_give_the_plans_of_every_moment(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    model, play = model_of(SMALL), Episode(SMALL)
    graphed, plain = ChunkDecoder(model), ChunkDecoder(model)
    StandInGraph.decoder, graphed._capture = graphed, True
    monkeypatch.setattr(torch.cuda, "CUDAGraph", StandInGraph)
    monkeypatch.setattr(torch.cuda, "graph", captured)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    replayed = 0
    for chunk in range(9):
        latents, done, text, noise = play.latents(), play.actions(), play.draw(5, 8), play.noise()
        held = Held(play.actions(), (play.actions() > 0.5).float()) if chunk % 2 else None
        short = Effort(video_steps=1) if chunk == 7 else Effort()
        plans = []
        for runtime in (graphed, plain):
            runtime.set_text(text)
            runtime.observe(latents, done, chunk * SMALL.chunk_latents)
            plans.append(runtime.predict(noise, held, short))
            runtime.commit()
        assert difference(*plans) == 0.0
        replayed += graphed._graph is not None
    assert replayed == 9 - SMALL.history_chunks - 1, "captured as soon as the first chunk has left the history"
