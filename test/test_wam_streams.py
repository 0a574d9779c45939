"""The mixture of streams: who sees whom, and cached decoding against a full forward pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from starry_ros.wam.autoencoder import Autoencoder, AutoencoderConfig
from starry_ros.wam.config import StreamConfig, ViewConfig, WamConfig
from starry_ros.wam.layers import MASKED, Keys
from starry_ros.wam.masks import (
    CURRENT_FRAME,
    FUTURE_FRAMES,
    KEYS,
    LANGUAGE,
    PAST_ACTIONS,
    PAST_FRAMES,
    VALUE,
    VISIBLE,
    reaches,
)
from starry_ros.wam.model import Ropes, WorldActionModel
from starry_ros.wam.runtimes.base import Noise
from starry_ros.wam.runtimes.torch_runtime import torch_runtime
from starry_ros.wam.sampler import levels

CONFIG = WamConfig(
    name="test", canvas_height_px=96, canvas_width_px=64, token_px=32,
    views=(ViewConfig("head", 0, 0, 64, 64), ViewConfig("left", 0, 64, 32, 32), ViewConfig("right", 32, 64, 32, 32)),
    joints=3, step_s=0.1, chunk_steps=5, history_slots=3, history_actions=4, layers=3, heads=2, head_dim=12,
    video=StreamConfig(24, 32), value=StreamConfig(20, 24), action=StreamConfig(16, 24), latent_channels=4,
    detail_channels=8, text_width=10, text_tokens=6, value_steps=2, video_steps=2, action_steps=3,
)


@pytest.fixture(scope="module")
def model() -> WorldActionModel:
    """Random weights with no zero left, so that every allowed path carries a signal."""
    torch.manual_seed(0)
    model = WorldActionModel(CONFIG).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def autoencoder() -> Autoencoder:
    torch.manual_seed(1)
    return Autoencoder(AutoencoderConfig(96, 64, 4, (8, 8, 8))).eval()


def _inputs(seed: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g)

    n = CONFIG.frame_tokens
    return {
        "past_latents": normal(1, 4, 6, 4), "past_canvas": normal(1, 3, 96, 64),
        "latents": normal(1, 4, 6, 4), "canvas": normal(1, 3, 96, 64), "executed": normal(1, 4, 3),
        "text": normal(1, 6, 10), "x": normal(1, n, CONFIG.latent_token_width),
        "m": normal(1, n, CONFIG.value_token_width),
        "a": normal(1, 1, 5, 3), "state": normal(1, 3),
    }


OWNER = {
    "past_latents": PAST_FRAMES, "past_canvas": PAST_FRAMES, "latents": CURRENT_FRAME, "canvas": CURRENT_FRAME,
    "executed": PAST_ACTIONS, "text": LANGUAGE, "x": FUTURE_FRAMES, "m": VALUE, "a": "action",
}


@torch.no_grad()
def _forward(model: WorldActionModel, t: dict[str, torch.Tensor], s: float) -> dict[str, torch.Tensor]:
    """Outputs of the three streams for one noise level."""
    ropes, level = Ropes(CONFIG), torch.full((1,), s)
    observation = model.observe(t["latents"], t["canvas"], ropes.frame(8))
    groups = {
        CURRENT_FRAME: observation.keys,
        PAST_FRAMES: model.observe(t["past_latents"], t["past_canvas"], ropes.frame(4)).keys,
        PAST_ACTIONS: model.remember_actions(t["executed"], torch.ones(1, 4), ropes.actions(torch.arange(5, 9))),
    }
    text = model.encode_text(t["text"], torch.ones(1, 6))
    velocity, keys = model.imagine(t["x"], level, ropes.future(8), groups, text)
    groups[FUTURE_FRAMES] = keys
    value, keys = model.predict_value(t["m"], level, ropes.frame(8), groups, observation.pixels)
    groups[VALUE] = keys
    action = model.act(t["a"], level, ropes.chunk(8), groups, t["state"], value.landing, value.seen)
    return {FUTURE_FRAMES: velocity, VALUE: value.map, "action": action}


@pytest.mark.parametrize("s", [1.0, 0.6, 0.1])
@pytest.mark.parametrize("name", sorted(OWNER))
def test_a_perturbed_key_changes_a_query_exactly_where_the_visibility_table_leads(
    model: WorldActionModel, name: str, s: float
) -> None:
    base, changed = _inputs(0), _inputs(0)
    changed[name] = changed[name] + 0.5 * torch.randn(changed[name].shape, generator=torch.Generator().manual_seed(9))
    before, after = _forward(model, base, s), _forward(model, changed, s)
    for query in VISIBLE:
        moved = bool((before[query] - after[query]).abs().max() > 1e-6)
        assert moved == (OWNER[name] in reaches(query)), (query, name)


def test_actions_see_past_frames_and_future_frames_only_by_way_of_the_value_map(model: WorldActionModel) -> None:
    ropes, t, level = Ropes(CONFIG), _inputs(0), torch.full((1,), 0.7)
    outputs = []
    for seed in (1, 2):
        other = _inputs(seed)
        observation = model.observe(t["latents"], t["canvas"], ropes.frame(8))
        groups = {
            CURRENT_FRAME: observation.keys,
            PAST_FRAMES: model.observe(other["past_latents"], other["past_canvas"], ropes.frame(4)).keys,
            FUTURE_FRAMES: model.observe(other["latents"], other["canvas"], ropes.future(8)).keys,
            VALUE: model.predict_value(t["m"], level, ropes.frame(8), {}, observation.pixels)[1],
        }
        landing, seen = torch.full((1, 2, 3, 2), 0.4), torch.zeros(1, 2, 3)
        outputs.append(model.act(t["a"], level, ropes.chunk(8), groups, t["state"], landing, seen))
    assert torch.equal(*outputs)


def test_the_table_names_only_known_groups_and_every_query_sees_itself() -> None:
    assert set(VISIBLE) <= set(KEYS)
    for query, keys in VISIBLE.items():
        assert query in keys
        assert set(keys) <= set(KEYS)
    assert not {LANGUAGE} & (set(VISIBLE[VALUE]) | set(VISIBLE["action"]))
    assert not {FUTURE_FRAMES, PAST_FRAMES} & set(VISIBLE["action"])


def test_draws_that_share_an_observation_do_not_see_each_other(model: WorldActionModel) -> None:
    t, ropes, level = _inputs(0), Ropes(CONFIG), torch.full((1,), 0.5)
    observation = model.observe(t["latents"], t["canvas"], ropes.frame(8))
    groups = {CURRENT_FRAME: observation.keys}
    landing, seen = torch.full((1, 2, 3, 2), 0.3), torch.ones(1, 2, 3)
    both = torch.randn(1, 2, 5, 3, generator=torch.Generator().manual_seed(3))
    together = model.act(both, level, ropes.chunk(8, 2), groups, t["state"], landing, seen)
    for draw in range(2):
        alone = model.act(both[:, draw : draw + 1], level, ropes.chunk(8), groups, t["state"], landing, seen)
        torch.testing.assert_close(together[:, draw], alone[:, 0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def _uncached(model: WorldActionModel, autoencoder: Autoencoder, frames: list[np.ndarray], actions: list[np.ndarray],
              steps: list[int], text: np.ndarray, noise: Noise, state: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The last plan from the raw history alone: every key anew at every denoising step, no ring, no stored key."""
    ropes, slots = Ropes(CONFIG), CONFIG.history_slots
    first = max(0, len(frames) - 1 - slots)

    def keys_of_history() -> tuple[dict[str, Keys], torch.Tensor]:
        groups: dict[str, Keys] = {}
        past, executed = [], []
        for i in range(first, len(frames) - 1):
            image = torch.from_numpy(frames[i][None]).permute(0, 3, 1, 2).float() / 127.5 - 1
            past.append(model.observe(autoencoder.encode_float(image), image, ropes.frame(steps[i])).keys)
            times = ropes.actions(torch.arange(steps[i] + 1, steps[i] + 5))
            executed.append(model.remember_actions(torch.from_numpy(actions[i][None]), torch.ones(1, 4), times))
        for name, parts in ((PAST_FRAMES, past), (PAST_ACTIONS, executed)):
            if parts:
                groups[name] = Keys([tuple(torch.cat([p.layers[j][c] for p in parts], 2) for c in (0, 1))
                                     for j in range(CONFIG.layers)])
        image = torch.from_numpy(frames[-1][None]).permute(0, 3, 1, 2).float() / 127.5 - 1
        observation = model.observe(autoencoder.encode_float(image), image, ropes.frame(steps[-1]))
        groups[CURRENT_FRAME] = observation.keys
        return groups, observation.pixels

    now = steps[-1]
    x, m, a = (torch.from_numpy(v) for v in (noise.video, noise.value, noise.action))
    for s, ds in levels(CONFIG.video_steps):
        groups, pixels = keys_of_history()
        keys = model.encode_text(torch.from_numpy(text[None]), torch.ones(1, 6))
        v, future = model.imagine(x, torch.full((1,), s), ropes.future(now), groups, keys)
        x = x + ds * v
    for s, ds in levels(CONFIG.value_steps):
        groups, pixels = keys_of_history()
        groups[FUTURE_FRAMES] = future
        value, value_keys = model.predict_value(m, torch.full((1,), s), ropes.frame(now), groups, pixels)
        m = m + ds * (m - model.value_tokens(value.map)) / s
    for s, ds in levels(CONFIG.action_steps):
        groups, pixels = keys_of_history()
        v = model.act(a[:, None], torch.full((1,), s), ropes.chunk(now), {**groups, VALUE: value_keys},
                      torch.from_numpy(state[None]), value.landing, value.seen)[:, 0]
        a = a + ds * v
    return a[0], value.map[0]


def test_cached_decoding_equals_the_uncached_forward_pass_also_after_the_ring_has_wrapped(
    model: WorldActionModel, autoencoder: Autoencoder
) -> None:
    rng = np.random.default_rng(5)
    runtime = torch_runtime(model, autoencoder)
    text, state = rng.standard_normal((6, 10)).astype(np.float32), rng.standard_normal(3).astype(np.float32)
    runtime.set_text(text, np.ones(6, np.float32))
    frames = [rng.integers(0, 256, (96, 64, 3), dtype=np.uint8) for _ in range(9)]
    actions = [rng.standard_normal((4, 3)).astype(np.float32) for _ in range(9)]
    steps = [1000 + 4 * i for i in range(9)]
    worst = 0.0
    for i, frame in enumerate(frames):
        runtime.observe(frame, steps[i])
        noise = Noise(*(rng.standard_normal((1, *shape)).astype(np.float32) for shape in (
            (CONFIG.frame_tokens, CONFIG.latent_token_width), (CONFIG.frame_tokens, CONFIG.value_token_width), (5, 3))))
        cached = runtime.predict(noise, state)
        a, value_map = _uncached(model, autoencoder, frames[: i + 1], actions, steps[: i + 1], text, noise, state)
        worst = max(worst, float(np.abs(cached.actions_KJ - a.numpy()).max()),
                    float(np.abs(cached.map_EYX - value_map.numpy()).max()))
        runtime.commit(actions[i], np.ones(4, np.float32))
    assert runtime.frames.written == 9 > 2 * CONFIG.history_slots
    assert worst < 1e-5


def test_an_empty_slot_changes_nothing_whatever_garbage_it_holds(
    model: WorldActionModel, autoencoder: Autoencoder
) -> None:
    rng = np.random.default_rng(6)
    runtime = torch_runtime(model, autoencoder)
    runtime.set_text(rng.standard_normal((6, 10)).astype(np.float32), np.ones(6, np.float32))
    runtime.observe(rng.integers(0, 256, (96, 64, 3), dtype=np.uint8), 0)
    noise = Noise(*(np.ones((1, *s), np.float32) for s in (
        (CONFIG.frame_tokens, CONFIG.latent_token_width), (CONFIG.frame_tokens, CONFIG.value_token_width), (5, 3))))
    clean = runtime.predict(noise, np.zeros(3, np.float32)).actions_KJ
    runtime.frames.keys[:], runtime.actions.values[:] = 7.0, -3.0
    np.testing.assert_array_equal(runtime.predict(noise, np.zeros(3, np.float32)).actions_KJ, clean)


def test_an_episode_shifted_by_whole_rope_periods_gives_the_same_bits_and_by_any_time_the_same_plan(
    model: WorldActionModel, autoencoder: Autoencoder
) -> None:
    rng = np.random.default_rng(7)
    frames = [rng.integers(0, 256, (96, 64, 3), dtype=np.uint8) for _ in range(3)]
    plans = []
    for offset in (0, 3 * CONFIG.rope_period, 100_003):
        runtime = torch_runtime(model, autoencoder)
        runtime.set_text(np.full((6, 10), 0.3, np.float32), np.ones(6, np.float32))
        for i, frame in enumerate(frames):
            runtime.observe(frame, offset + 4 * i)
            if i < 2:
                runtime.commit(np.full((4, 3), 0.1, np.float32), np.ones(4, np.float32))
        noise = Noise(*(np.full((1, *s), 0.5, np.float32) for s in (
            (CONFIG.frame_tokens, CONFIG.latent_token_width), (CONFIG.frame_tokens, CONFIG.value_token_width), (5, 3))))
        plans.append(runtime.predict(noise, np.zeros(3, np.float32)).actions_KJ)
    np.testing.assert_array_equal(plans[0], plans[1])
    np.testing.assert_allclose(plans[0], plans[2], atol=2e-5)


def test_a_masked_key_is_finite_in_half_precision() -> None:
    assert np.isfinite(np.float16(MASKED))
