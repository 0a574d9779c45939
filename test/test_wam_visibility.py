"""Perturbation tests of both visibility tables, every pair, at every step of the sampler.

A model of one layer sees a group directly or not at all, so there the table itself is tested, not its closure: the
output of a query changes if and only if the table lets it see the perturbed group. Deeper models are tested against the
closure.
"""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from wam_kit import SPEC

from starry_ros.errors import RuntimeUnavailable
from starry_ros.wam.autoencoder import Autoencoder, AutoencoderConfig
from starry_ros.wam.config import StreamConfig, ViewConfig, WamConfig
from starry_ros.wam.joint import Noised, Tables, denoise_jointly
from starry_ros.wam.layers import Keys
from starry_ros.wam.masks import (
    ACTION,
    BY_INTENT,
    CURRENT_FRAME,
    FUTURE_FRAMES,
    KEYS,
    LANGUAGE,
    PAST_ACTIONS,
    PAST_FRAMES,
    TABLES,
    VALUE,
    VISIBLE,
    VISIBLE_JOINTLY,
    reaches,
)
from starry_ros.wam.model import Ropes, Sentence, WorldActionModel
from starry_ros.wam.runtimes.base import Effort, Noise
from starry_ros.wam.runtimes.graphs import graph_specs
from starry_ros.wam.runtimes.torch_runtime import torch_runtime
from starry_ros.wam.sampler import joint_levels, levels
from starry_ros.wam.session import Session, SessionConfig

WIDTH = StreamConfig(24, 24)
CONFIG = WamConfig(
    name="test", canvas_height_px=96, canvas_width_px=64, token_px=32,
    views=(ViewConfig("head", 0, 0, 64, 64), ViewConfig("left", 0, 64, 32, 32), ViewConfig("right", 32, 64, 32, 32)),
    joints=3, step_s=0.1, chunk_steps=5, history_slots=3, history_actions=4, layers=1, heads=2, head_dim=12,
    video=WIDTH, value=WIDTH, action=WIDTH, latent_channels=4, detail_channels=8, text_width=10, text_tokens=6,
    video_steps=2, value_steps=3, action_steps=4,
)
NOW = 8
QUERIES = (FUTURE_FRAMES, VALUE, ACTION)
OBSERVED = (PAST_FRAMES, CURRENT_FRAME, PAST_ACTIONS)


def make(config: WamConfig) -> WorldActionModel:
    """Random weights with no zero left."""
    torch.manual_seed(0)
    model = WorldActionModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return model


class World:
    """What one plan is made from: observed keys, sentence, pixels, state and noise."""

    def __init__(self, model: WorldActionModel) -> None:
        g = torch.Generator().manual_seed(1)
        c, ropes = model.config, Ropes(model.config)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=g)

        current = model.observe(normal(1, 4, 6, 4), normal(1, 3, 96, 64), ropes.frame(NOW))
        self.groups = {
            CURRENT_FRAME: current.keys,
            PAST_FRAMES: model.observe(normal(1, 4, 6, 4), normal(1, 3, 96, 64), ropes.frame(4)).keys,
            PAST_ACTIONS: model.remember_actions(normal(1, 4, 3), torch.ones(1, 4), ropes.actions(torch.arange(5, 9))),
        }
        self.pixels, self.text = current.pixels, model.encode_text(normal(1, 6, 10), torch.ones(1, 6))
        self.state = normal(1, 3)
        self.x, self.m = normal(1, c.frame_tokens, c.latent_token_width), normal(1, c.frame_tokens, c.value_token_width)
        self.a = normal(1, 5, 3)


def shaken(keys: Keys) -> Keys:
    """Other keys and values of the same shape."""
    return Keys([(k + 0.5, v - 0.5) for k, v in keys.layers], keys.bias)


def other_words(text: Sentence) -> Sentence:
    return Sentence(shaken(text.keys), text.vectors + 0.3)


def changed(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).abs().max() > 1e-6)


def one(level: float) -> torch.Tensor:
    return torch.full((1,), level)


@pytest.mark.parametrize("intent", ["value", "video"])
@torch.no_grad()
def test_intent_causal_every_pair_at_every_step_exactly_as_the_table_says(intent: str) -> None:
    """Streams in order; every group is offered to every stream, and perturbed in turn."""
    model = make(dataclasses.replace(CONFIG, intent=intent))
    w, ropes = World(model), Ropes(CONFIG)
    stand_in = {ACTION: shaken(w.groups[PAST_ACTIONS]), VALUE: shaken(w.groups[CURRENT_FRAME])}
    offered = {**w.groups, **stand_in}
    tried = set()

    def without(groups: dict[str, Keys], query: str) -> dict[str, Keys]:
        return {name: keys for name, keys in groups.items() if name != query}

    def watch(query: str, step: int, run, base: torch.Tensor) -> None:  # type: ignore[no-untyped-def]
        for key in KEYS:
            if key == query:  # a stream's own tokens: one of its other tokens is perturbed
                moved = changed(run(offered, w.text, own=True), base)
            elif key == LANGUAGE:
                moved = changed(run(offered, other_words(w.text)), base)
            elif key in offered:
                moved = changed(run({**offered, key: shaken(offered[key])}, w.text), base)
            else:
                continue
            tried.add((query, key, step))
            assert moved == (key in BY_INTENT[intent][query]), (query, key, step)

    x = w.x
    offered[FUTURE_FRAMES] = shaken(w.groups[CURRENT_FRAME])
    for step, (s, ds) in enumerate(levels(CONFIG.video_steps)):
        def imagine(groups, text, own=False, x=x, s=s):  # type: ignore[no-untyped-def]
            tokens, groups = poke(x) if own else x, without(groups, FUTURE_FRAMES)
            return model.imagine(tokens, one(s), ropes.future(NOW), groups, text)[0][:, :-1]

        watch(FUTURE_FRAMES, step, imagine, imagine(offered, w.text))
        velocity, keys = model.imagine(x, one(s), ropes.future(NOW), without(offered, FUTURE_FRAMES), w.text)
        x = x + ds * velocity
    offered[FUTURE_FRAMES] = keys
    m = w.m
    for step, (s, ds) in enumerate(levels(CONFIG.value_steps)):
        def value(groups, text, own=False, m=m, s=s):  # type: ignore[no-untyped-def]
            tokens, groups = poke(m) if own else m, without(groups, VALUE)
            return model.predict_value(tokens, one(s), ropes.frame(NOW), groups, w.pixels)[0].map

        watch(VALUE, step, value, value(offered, w.text))
        out, keys = model.predict_value(m, one(s), ropes.frame(NOW), without(offered, VALUE), w.pixels)
        m = m + ds * (m - model.value_tokens(out.map)) / s
    offered[VALUE] = keys
    a = w.a
    for step, (s, ds) in enumerate(levels(CONFIG.action_steps)):
        def act(groups, text, own=False, a=a, s=s):  # type: ignore[no-untyped-def]
            chunk, groups = poke(a) if own else a, without(groups, ACTION)
            velocity = model.act(chunk[:, None], one(s), ropes.chunk(NOW), groups, w.state, out.landing, out.seen)
            return velocity[:, 0, :-1]

        watch(ACTION, step, act, act(offered, w.text))
        known = without(offered, ACTION)
        a = a + ds * model.act(a[:, None], one(s), ropes.chunk(NOW), known, w.state, out.landing, out.seen)[:, 0]
    assert len(tried) == len(KEYS) * (CONFIG.video_steps + CONFIG.value_steps + CONFIG.action_steps)


def poke(tokens: torch.Tensor) -> torch.Tensor:
    """Only the last token changes."""
    moved = tokens.clone()
    moved[:, -1] += 0.7
    return moved


def test_without_the_value_path_language_reaches_actions_by_way_of_future_frames_alone() -> None:
    assert BY_INTENT["value"] is BY_INTENT["blind"] is VISIBLE
    table = BY_INTENT["video"]
    assert {query: table[query] for query in QUERIES if query != ACTION} == {
        query: VISIBLE[query] for query in QUERIES if query != ACTION}
    assert reaches(ACTION, table) == set(KEYS) - {VALUE}
    closed = {**table, ACTION: tuple(key for key in table[ACTION] if key != FUTURE_FRAMES)}
    assert reaches(ACTION, closed) == {CURRENT_FRAME, PAST_ACTIONS, ACTION}


@torch.no_grad()
def test_joint_every_pair_at_every_step_exactly_as_the_table_says() -> None:
    model = make(dataclasses.replace(CONFIG, coupling="joint"))
    w, ropes = World(model), Ropes(CONFIG)
    tables = Tables(ropes.future(NOW), ropes.frame(NOW), ropes.chunk(NOW))
    x, m, a = w.x, w.m, w.a
    for step, grid in enumerate(joint_levels(CONFIG.video_steps, CONFIG.value_steps, CONFIG.action_steps)):
        s = [one(level) for level, _ in grid]

        def outputs(groups, text, x=x, m=m, a=a, s=s):  # type: ignore[no-untyped-def]
            v_x, value, v_a = denoise_jointly(model, Noised(x, m, a, *s), tables, groups, text, w.pixels, w.state)
            return {FUTURE_FRAMES: v_x[:, :-1], VALUE: value.log_probability, ACTION: v_a[:, :-1]}, (v_x, value, v_a)

        base, (v_x, value, v_a) = outputs(w.groups, w.text)
        shaken_by = {key: outputs({**w.groups, key: shaken(w.groups[key])}, w.text)[0] for key in OBSERVED}
        shaken_by[LANGUAGE] = outputs(w.groups, Sentence(shaken(w.text.keys), w.text.vectors))[0]
        shaken_by[FUTURE_FRAMES] = outputs(w.groups, w.text, x=poke(x))[0]
        shaken_by[VALUE] = outputs(w.groups, w.text, m=poke(m))[0]
        shaken_by[ACTION] = outputs(w.groups, w.text, a=poke(a))[0]
        assert set(shaken_by) == set(KEYS)
        for query in QUERIES:
            for key in KEYS:
                moved = changed(shaken_by[key][query], base[query])
                assert moved == (key in VISIBLE_JOINTLY[query]), (query, key, step)
        velocity_m = (m - model.value_tokens(value.map)) / s[1].clamp_min(1e-6)
        x, m, a = (v + ds * d for v, (_, ds), d in zip((x, m, a), grid, (v_x, velocity_m, v_a), strict=True))


@torch.no_grad()
def test_streams_that_are_not_masked_apart_reach_each_other_in_two_joint_layers() -> None:
    model = make(dataclasses.replace(CONFIG, coupling="joint", layers=2))
    w, ropes = World(model), Ropes(CONFIG)
    tables, half = Tables(ropes.future(NOW), ropes.frame(NOW), ropes.chunk(NOW)), one(0.5)
    noised = Noised(w.x, w.m, w.a, half, half, half)
    before = denoise_jointly(model, noised, tables, w.groups, w.text, w.pixels, w.state)
    after = denoise_jointly(model, noised, tables, w.groups, other_words(w.text), w.pixels, w.state)
    assert LANGUAGE in reaches(ACTION, VISIBLE_JOINTLY)
    assert changed(before[0], after[0])
    assert changed(before[1].log_probability, after[1].log_probability)
    assert changed(before[2], after[2])


def test_joint_levels_run_every_branch_on_its_own_grid_and_hold_the_finished() -> None:
    grid = joint_levels(1, 2, 4)
    assert [step[2] for step in grid] == levels(4)
    assert [step[1] for step in grid] == [*levels(2), (0.0, 0.0), (0.0, 0.0)]
    assert [step[0] for step in grid] == [(1.0, -1.0)] + 3 * [(0.0, 0.0)]
    assert set(TABLES) == {"intent_causal", "joint"}


@pytest.mark.parametrize("change", [
    {"coupling": "joint"}, {"value_start": "black"}, {"coupling": "joint", "value_start": "black"}, {"intent": "video"},
])
def test_the_runtime_samples_each_coupling_as_a_naive_loop_does(change: dict[str, str]) -> None:
    config = dataclasses.replace(CONFIG, layers=2, **change)
    model = make(config)
    torch.manual_seed(1)
    runtime = torch_runtime(model, Autoencoder(AutoencoderConfig(96, 64, 4, (8, 8, 8))).eval())
    rng = np.random.default_rng(2)
    runtime.set_text(rng.standard_normal((6, 10), dtype=np.float32), np.ones(6, np.float32))
    for i in range(config.history_slots + 2):  # the ring wraps
        runtime.observe(rng.integers(0, 256, (96, 64, 3), dtype=np.uint8), 4 * i)
        runtime.commit(rng.standard_normal((4, 3), dtype=np.float32), np.ones(4, np.float32))
    runtime.observe(rng.integers(0, 256, (96, 64, 3), dtype=np.uint8), 24)
    noise = Noise(*(rng.standard_normal((1, *shape), dtype=np.float32) for shape in (
        (config.frame_tokens, config.latent_token_width), (config.frame_tokens, config.value_token_width), (5, 3))))
    state = rng.standard_normal(3, dtype=np.float32)
    got = runtime.predict(noise, state)
    wanted = _naive(model, runtime, noise, state, 24)
    np.testing.assert_allclose(got.actions_KJ, wanted[0][0].numpy(), atol=1e-5)
    np.testing.assert_allclose(got.map_EYX, wanted[1][0].numpy(), atol=1e-5)
    again = runtime.predict(noise, state)
    np.testing.assert_array_equal(got.actions_KJ, again.actions_KJ)


def test_after_the_video_no_graph_is_given_words_and_finished_streams_come_as_keys() -> None:
    inputs = {spec.name: set(spec.inputs) for spec in graph_specs(CONFIG)}
    words = {"text_k", "text_v", "mask", "sentence", "tokens"}
    assert {name for name, given in inputs.items() if given & words} == {"encode_text", "imagine"}
    assert {"future_k", "future_v"} <= inputs["predict_value"]
    assert "x" not in inputs["predict_value"]
    assert {"value_k", "value_v"} <= inputs["act"]
    assert not {"x", "m", "future_k", "past_k"} & inputs["act"]
    by_video = {spec.name: set(spec.inputs) for spec in graph_specs(dataclasses.replace(CONFIG, intent="video"))}
    assert by_video["act"] ^ inputs["act"] == {"value_k", "value_v", "future_k", "future_v"}
    together = {spec.name for spec in graph_specs(dataclasses.replace(CONFIG, coupling="joint"))}
    assert together == {"encode_text", "observe", "remember_actions", "denoise", "decode"}


@pytest.mark.parametrize(("start", "black"), [("noise", False), ("black", True)])
def test_a_session_starts_the_value_map_as_the_model_was_trained(start: str, black: bool) -> None:
    config = dataclasses.replace(CONFIG, value_start=start)
    runtime = SimpleNamespace(config=config)
    session = Session(runtime, None, None, SPEC, "", SessionConfig())  # type: ignore[arg-type]
    value = session._noise().value
    assert bool((value == -1.0).all()) == black
    model = make(config)
    assert torch.equal(model.value_source(torch.from_numpy(value)), torch.from_numpy(value))
    assert torch.equal(model.value_source(torch.ones(1, 2)), -torch.ones(1, 2) if black else torch.ones(1, 2))
    assert ("value_token" in model.state_dict()) == black


def test_joint_denoising_keeps_the_steps_of_a_chunk_that_are_known() -> None:
    config = dataclasses.replace(CONFIG, coupling="joint")
    torch.manual_seed(1)
    runtime = torch_runtime(make(config), Autoencoder(AutoencoderConfig(96, 64, 4, (8, 8, 8))).eval())
    rng = np.random.default_rng(3)
    runtime.set_text(rng.standard_normal((6, 10), dtype=np.float32), np.ones(6, np.float32))
    runtime.observe(rng.integers(0, 256, (96, 64, 3), dtype=np.uint8), 0)
    noise = Noise(*(rng.standard_normal((1, *shape), dtype=np.float32) for shape in (
        (config.frame_tokens, config.latent_token_width), (config.frame_tokens, config.value_token_width), (5, 3))))
    state, known = np.zeros(3, np.float32), np.full((2, 3), 0.25, np.float32)
    free, kept = (runtime.predict(noise, state, Effort(known_DJ=steps)).actions_KJ for steps in (None, known))
    np.testing.assert_allclose(kept[:2], known, atol=1e-6)
    assert np.abs(kept[2:] - free[2:]).max() > 1e-4
    with pytest.raises(RuntimeUnavailable, match="no gradient"):
        runtime.predict(noise, state, Effort(target_KJ=known))


@torch.no_grad()
def _naive(model: WorldActionModel, runtime, noise: Noise, state: np.ndarray, now: int):  # type: ignore[no-untyped-def]
    """Euler by hand over the model's own methods, from the ring's keys."""
    c, ropes = model.config, Ropes(model.config)

    def keys(k: np.ndarray, v: np.ndarray) -> Keys:
        return Keys(list(zip(torch.from_numpy(k).unbind(0), torch.from_numpy(v).unbind(0), strict=True)))

    groups = {PAST_FRAMES: keys(runtime.frames.keys, runtime.frames.values),
              PAST_ACTIONS: keys(runtime.actions.keys, runtime.actions.values),
              CURRENT_FRAME: keys(runtime._current["current_k"], runtime._current["current_v"])}
    text = Sentence(keys(runtime._text["text_k"], runtime._text["text_v"]), torch.from_numpy(runtime._text["sentence"]))
    pixels, q = torch.from_numpy(runtime._current["pixels"]), torch.from_numpy(state[None])
    x, m, a = (torch.from_numpy(v) for v in (noise.video, noise.value, noise.action))
    if c.coupling == "joint":
        tables = Tables(ropes.future(now), ropes.frame(now), ropes.chunk(now))
        for (s_x, d_x), (s_m, d_m), (s_a, d_a) in joint_levels(c.video_steps, c.value_steps, c.action_steps):
            noised = Noised(x, m, a, one(s_x), one(s_m), one(s_a))
            v_x, value, v_a = denoise_jointly(model, noised, tables, groups, text, pixels, q)
            x, a = x + d_x * v_x, a + d_a * v_a
            if d_m:
                m = m + d_m * (m - model.value_tokens(value.map)) / s_m
        return a, value.map
    for s, ds in levels(c.video_steps):
        v, future = model.imagine(x, one(s), ropes.future(now), groups, text)
        x = x + ds * v
    groups[FUTURE_FRAMES] = future
    for s, ds in levels(c.value_steps):
        value, value_keys = model.predict_value(m, one(s), ropes.frame(now), groups, pixels)
        m = m + ds * (m - model.value_tokens(value.map)) / s
    assert value_keys.layers[0][0].shape[2] == c.value_keys
    groups[VALUE] = value_keys
    for s, ds in levels(c.action_steps):
        a = a + ds * model.act(a[:, None], one(s), ropes.chunk(now), groups, q, value.landing, value.seen)[:, 0]
    return a, value.map
