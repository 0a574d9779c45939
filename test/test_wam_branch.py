"""Cached decoding against the uncached pass through wrap, branch, roll-back and commit, with and without sinks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from wam_kit import CONFIG, LAYOUT, SPEC, STEP_NS, LetterEncoder, make_canvas, make_checkpoint, make_state

from starry_ros.errors import ConfigError, InputError
from starry_ros.types import F32, U8
from starry_ros.wam.autoencoder import to_float
from starry_ros.wam.checkpoint import Checkpoint, save_checkpoint
from starry_ros.wam.layers import Keys
from starry_ros.wam.load import differences, load_session
from starry_ros.wam.masks import CURRENT_FRAME, FUTURE_FRAMES, PAST_ACTIONS, PAST_FRAMES, VALUE
from starry_ros.wam.model import Ropes, WorldActionModel
from starry_ros.wam.runtimes.base import Noise
from starry_ros.wam.runtimes.runner import GraphRunner
from starry_ros.wam.runtimes.torch_runtime import torch_runtime
from starry_ros.wam.sampler import levels
from starry_ros.wam.session import Session, SessionConfig

Past = tuple[int, U8, F32]
"""An observation that is over: its step, its canvas, and the actions after it."""
SLOTS = 3
RED = "put the red block on the pad"


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def checkpoint_with(sinks: int) -> Checkpoint:
    config = dataclasses.replace(CONFIG, history_slots=SLOTS, sink_slots=sinks, video_steps=2, action_steps=2)
    return dataclasses.replace(make_checkpoint(), config=config)


def join(parts: list[Keys]) -> Keys:
    return Keys([(torch.cat([p.layers[i][0] for p in parts], 2), torch.cat([p.layers[i][1] for p in parts], 2))
                 for i in range(len(parts[0].layers))])


@torch.no_grad()
def uncached(checkpoint: Checkpoint, model: WorldActionModel, past: list[Past], now: tuple[int, U8], text: F32,
             noise: Noise, state: F32) -> tuple[F32, F32]:
    """A plan by the model alone: all keys anew at every denoising step, each past slot at the time it is shown with."""
    c, ropes = checkpoint.config, Ropes(checkpoint.config)
    step, canvas = now
    band = past if len(past) <= c.history_slots else past[: c.sink_slots] + past[c.sink_slots - c.history_slots :]
    shown = [max(then, step - c.sink_age_steps) if i < c.sink_slots else then for i, (then, _, _) in enumerate(band)]

    def look(image: U8, rope: torch.Tensor) -> tuple[Keys, torch.Tensor]:
        pixels = to_float(torch.from_numpy(image[None].copy()))
        observation = model.observe(checkpoint.autoencoder.encode_float(pixels), pixels, rope)
        return observation.keys, observation.pixels

    def groups() -> tuple[dict[str, Keys], torch.Tensor]:
        current, pixels = look(canvas, ropes.frame(step))
        found = {CURRENT_FRAME: current}
        if band:
            found[PAST_FRAMES] = join([look(image, ropes.frame(at))[0]
                                       for at, (_, image, _) in zip(shown, band, strict=True)])
            count = torch.arange(1, c.history_actions + 1)
            found[PAST_ACTIONS] = join([
                Keys(model.remember_actions(torch.from_numpy(done[None]), torch.ones(1, c.history_actions),
                                            ropes.actions(at + count)).layers)
                for at, (_, _, done) in zip(shown, band, strict=True)])
        return found, pixels

    x, m, a = (torch.from_numpy(v) for v in (noise.video, noise.value, noise.action))
    words = torch.from_numpy(text[None])
    for s, ds in levels(c.video_steps):
        velocity, future = model.imagine(x, torch.full((1,), s), ropes.future(step), groups()[0],
                                         model.encode_text(words, torch.ones(1, c.text_tokens)))
        x = x + ds * velocity
    for s, ds in levels(c.value_steps):
        seen, pixels = groups()
        value, keys = model.predict_value(m, torch.full((1,), s), ropes.frame(step), {**seen, FUTURE_FRAMES: future},
                                          pixels)
        m = m + ds * (m - model.value_tokens(value.map)) / s
    for s, ds in levels(c.action_steps):
        a = a + ds * model.act(a[:, None], torch.full((1,), s), ropes.chunk(step), {**groups()[0], VALUE: keys},
                               torch.from_numpy(state[None]), value.landing, value.seen)[:, 0]
    return a[0].numpy(), value.map[0].numpy()


@pytest.mark.parametrize("sinks", [0, 1])
def test_cached_equals_uncached_through_wrap_branch_roll_back_and_commit(sinks: int) -> None:
    checkpoint = checkpoint_with(sinks)
    c, rng, worst = checkpoint.config, np.random.default_rng(sinks), 0.0
    model = checkpoint.build_model()
    runtime = torch_runtime(model, checkpoint.autoencoder)

    def draw(*shape: int) -> F32:
        return rng.standard_normal(shape, dtype=np.float32)

    text, state = draw(c.text_tokens, c.text_width), draw(c.joints)
    runtime.set_text(text, np.ones(c.text_tokens, np.float32))
    past: list[Past] = []
    saved: list[tuple[list[Past], tuple[int, U8] | None]] = []
    now: tuple[int, U8] | None = None
    step = 0
    for word in "ooooo b o d o b oo a o bob odd o".replace(" ", ""):
        if word == "o":
            step += 4 if len(past) != 4 else 2 * c.rope_period  # a pause longer than any rotation can tell
            if now is not None:
                done = draw(c.history_actions, c.joints)
                runtime.commit(done, np.ones(c.history_actions, np.float32))
                past = [*past, (*now, done)]
            now = (step, make_canvas(step).image_HWC)
            runtime.observe(now[1], step)
        elif word == "b":
            runtime.branch()
            saved.append((past, now))
        else:
            before = saved.pop()
            past, now = before if word == "d" else (past, now)
            runtime.drop() if word == "d" else runtime.accept()
        assert now is not None
        noise = Noise(draw(1, c.frame_tokens, c.latent_token_width), draw(1, c.frame_tokens, c.value_token_width),
                      draw(1, c.chunk_steps, c.joints))
        plan = runtime.predict(noise, state)
        actions, value_map = uncached(checkpoint, model, past, now, text, noise, state)
        worst = max(worst, float(np.abs(plan.actions_KJ - actions).max()),
                    float(np.abs(plan.map_EYX - value_map).max()))
    assert runtime.frames.written == len(past) > 2 * SLOTS
    assert worst < 1e-5


def open_session(checkpoint: Checkpoint) -> Session:
    session = Session(torch_runtime(checkpoint.build_model(), checkpoint.autoencoder), checkpoint.stats,
                      LetterEncoder(), SPEC, LAYOUT.layout_hash, SessionConfig(imagine=True, temperature=1.0))
    session.reset(RED)
    return session


def test_a_dropped_branch_leaves_no_trace_in_any_later_plan_and_an_accepted_one_is_history() -> None:
    checkpoint = make_checkpoint()
    plain, other = open_session(checkpoint), open_session(checkpoint)
    for i in range(5):
        stamp_ns = 10**9 + 5 * i * STEP_NS
        for session in (plain, other):
            session.observe(make_canvas(stamp_ns), make_state(stamp_ns))
        plan, same = other.plan(), plain.plan()
        np.testing.assert_array_equal(plan.chunk.positions_KJ, same.chunk.positions_KJ)
        np.testing.assert_array_equal(plan.value_map.values_EHW, same.value_map.values_EHW)
        ahead = other.foreseen(plan)
        assert ahead[0].stamp_ns == stamp_ns + CONFIG.future_steps * STEP_NS
        np.testing.assert_array_equal(ahead[1].position_J, plan.chunk.positions_KJ[CONFIG.future_steps - 1])
        other.branch()
        other.observe(*ahead)
        assert other.plan().chunk.start_ns == plan.chunk.start_ns + CONFIG.future_steps * STEP_NS
        if i < 4:
            other.drop()
    other.accept()
    assert other.runtime.frames.written == plain.runtime.frames.written + 1  # type: ignore[attr-defined]
    for end in (other.drop, other.accept):
        with pytest.raises(InputError, match="no open branch"):
            end()
    with pytest.raises(InputError, match="no imagined frame"):
        other.foreseen(dataclasses.replace(plan, imagined_HWC=None))


def test_a_history_in_half_precision_takes_half_the_memory_and_plans_almost_the_same() -> None:
    checkpoint = make_checkpoint()
    model = checkpoint.build_model()
    plans, sizes = [], []
    for half in (False, True):
        runtime = torch_runtime(model, checkpoint.autoencoder, half_history=half)
        assert differences(runtime, torch_runtime(model, checkpoint.autoencoder), 3)[0] < (2e-2 if half else 1e-6)
        sizes.append(runtime.frames.bytes)
        plans.append(differences(runtime, torch_runtime(model, checkpoint.autoencoder), 4)[0])
    assert sizes[0] == 2 * sizes[1]
    assert plans[0] == 0.0 < plans[1]


def test_a_session_keeps_its_history_in_the_type_that_was_asked_for(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m", make_checkpoint())
    for cache, kept in (("auto", np.float32), ("float32", np.float32), ("float16", np.float16)):
        runtime = load_session(tmp_path / "m", SPEC, "torch", cache=cache).runtime
        assert isinstance(runtime, GraphRunner)
        assert runtime.frames.keys.dtype == runtime.actions.values.dtype == kept
    for name, cache in (("torch", "bfloat16"), ("auto", "float16"), ("onnxruntime", "float16"), ("torch", "fp4")):
        with pytest.raises(ConfigError, match=r"cache: runtime .* does not keep the history"):
            load_session(tmp_path / "m", SPEC, name, cache=cache)
