"""Committed prefixes: training gives the model what serving will give it, and learns nothing of what is known."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from wam_kit import CONFIG, JOINTS, LAYOUT, MIDDLE_J, SPEC, LetterEncoder, make_canvas, make_checkpoint, make_state

from starry_ros.training.forward import _kept_actions
from starry_ros.training.losses import velocity_loss
from starry_ros.training.prefix import (
    ASTRAY_SHARE,
    CLOSED_SHARE,
    NONE_SHARE,
    Bender,
    committed,
    prefix_keys,
    prefix_lengths,
    unknown_loss,
)
from starry_ros.wam.kv_cache import Ring
from starry_ros.wam.model import Ropes
from starry_ros.wam.runtimes.torch_runtime import torch_runtime
from starry_ros.wam.session import Session


@pytest.mark.parametrize("known", [1, 5, 8])
def test_training_gives_the_model_the_keys_that_serving_writes(known: int) -> None:
    checkpoint = make_checkpoint()
    model = checkpoint.build_model()
    plan = MIDDLE_J + np.random.default_rng(0).uniform(-0.3, 0.3, (CONFIG.chunk_steps, JOINTS))
    with torch.no_grad():
        trained = prefix_keys(model, plan[None], checkpoint.stats, Ropes(CONFIG), torch.tensor([known]))
    session = Session(torch_runtime(model, checkpoint.autoencoder), checkpoint.stats, LetterEncoder(), SPEC,
                      LAYOUT.layout_hash)
    session.observe(make_canvas(0), make_state(0))
    ring = session.runtime.actions
    with session.supposing(plan[:known]):
        served_k = np.array(ring.keys[:, :, :, : CONFIG.history_actions])
        valid = np.array(ring.valid[0, : CONFIG.history_actions])
    trained_k = np.stack([k.numpy() for k, _ in trained.layers])
    assert np.allclose(served_k[:, :, :, :known], trained_k[:, :, :, :known], atol=1e-5)
    assert (valid == (np.arange(CONFIG.history_actions) < known)).all()
    assert np.array_equal(trained.bias[0, 0, 0].numpy() == 0, valid == 1)
    assert ring.valid.sum() == 0, "and serving forgets them"


@pytest.mark.parametrize("seen", [CONFIG.history_slots - 1, CONFIG.history_slots])
def test_training_shows_as_many_executed_actions_as_serving_keeps_beside_a_prefix(seen: int) -> None:
    """In serving a prefix is written over the actions of the oldest slot, once all are in use."""
    known, ring = 2, Ring(1, 1, 4, CONFIG.history_slots, CONFIG.history_actions)
    slot = np.zeros((1, 1, 1, CONFIG.history_actions, 4), dtype=np.float32)
    for _ in range(seen):
        ring.write(slot, slot)
    ring.write(slot, slot, np.arange(CONFIG.history_actions) < known)
    valid = np.ones((2, seen, CONFIG.history_actions), dtype=np.float32)
    batch = SimpleNamespace(executed_valid_BRU=valid, known_B=np.array([0, known]))
    model = SimpleNamespace(config=replace(CONFIG, prefix_steps=4))
    without, with_prefix = _kept_actions(model, batch).sum((1, 2)).tolist()  # type: ignore[arg-type]
    assert without == valid[0].sum()
    assert with_prefix + known == ring.valid.sum()


def test_known_steps_are_not_learned() -> None:
    """Against a loop over every number."""
    rng = torch.Generator().manual_seed(0)
    velocity, clean, noise = (torch.randn(3, 2, 5, 4, generator=rng) for _ in range(3))
    lengths = torch.tensor([0, 2, 4])
    errors = [
        float((velocity[b, g, k, j] - noise[b, g, k, j] + clean[b, g, k, j]) ** 2)
        for b in range(3) for g in range(2) for k in range(int(lengths[b]), 5) for j in range(4)
    ]
    assert float(unknown_loss(velocity, clean, noise, lengths)) == pytest.approx(np.mean(errors), rel=1e-5)


def test_lengths_are_nothing_or_uniform() -> None:
    lengths = prefix_lengths(20_000, 4, np.random.default_rng(1))
    shares = np.bincount(lengths, minlength=5) / len(lengths)
    assert shares[0] == pytest.approx(NONE_SHARE, abs=0.02)
    assert np.allclose(shares[1:], (1 - NONE_SHARE) / 4, atol=0.02)


def test_what_is_known_was_commanded_and_the_rest_is_the_plan_from_there() -> None:
    """Two episodes of 6 and 5 frames; numbers say frame and step. Commands and plans disagree, as in corrected data."""
    frames, steps = 11, 4
    command_FJ = 1000.0 + np.arange(frames)[:, None] * np.ones((1, 2))
    plan_FKJ = (10.0 * np.arange(frames)[:, None] + np.arange(steps))[:, :, None] * np.ones((1, 1, 2))
    frame_B, last_B, known_B = np.array([1, 2, 4, 7]), np.array([5, 5, 5, 10]), np.array([0, 2, 3, 4])
    chunk = committed(command_FJ, plan_FKJ, frame_B, last_B, known_B)[:, :, 0].tolist()
    assert chunk == [
        [10, 11, 12, 13],
        [1003, 1004, 40, 41],
        [1005, 1005, 1005, 50],
        [1008, 1009, 1010, 1010],
    ]


def held_open(samples: int, known: int) -> tuple[np.ndarray, np.ndarray]:
    """Chunks that creep along with open jaws."""
    steps_KJ = np.full((CONFIG.chunk_steps, JOINTS), 0.01)
    steps_KJ[:, list(SPEC.gripper_indices)] = 0.0
    chunk_KJ = (MIDDLE_J + np.cumsum(steps_KJ, axis=0)).astype(np.float32)
    chunk_KJ[:, list(SPEC.gripper_indices)] = 0.04
    return np.repeat(chunk_KJ[None], samples, axis=0), np.full(samples, known)


def test_some_known_steps_are_bent_and_the_plan_comes_back_at_the_pace_of_serving_and_goes_on() -> None:
    known = 6
    chunk_BKJ, known_B = held_open(400, known)
    out_BKJ, happened_B = Bender(SPEC).bent(chunk_BKJ, known_B, np.random.default_rng(0))
    assert (happened_B == 0).mean() == pytest.approx(ASTRAY_SHARE, abs=0.08)
    assert np.array_equal(out_BKJ[happened_B == 1], chunk_BKJ[happened_B == 1])
    arms = np.array([joint for joint in range(JOINTS) if joint not in SPEC.gripper_indices])
    longest = SPEC.limit("velocity") * SPEC.action.step_s
    for bent_KJ, plain_KJ in zip(out_BKJ[happened_B == 0], chunk_BKJ[happened_B == 0], strict=True):
        away_KJ = (bent_KJ - plain_KJ)[:known, arms]
        led = (np.abs(away_KJ).max(axis=0) > 1e-4).reshape(2, -1).any(axis=1)
        assert led.sum() <= 1, "one arm alone"
        assert np.allclose(away_KJ, (np.arange(known)[:, None] + 1) / known * away_KJ[-1], atol=1e-5)
        back_KJ = np.diff(bent_KJ[known - 1 :].astype(np.float64), axis=0)[:, arms]
        assert (np.abs(back_KJ) <= longest[arms] + 1e-5).all()
        needs = max(1.0, float((np.abs(plain_KJ[known] - bent_KJ[known - 1])[arms] / longest[arms]).max()))
        late = known + int(np.ceil(needs - 1))
        if late < CONFIG.chunk_steps - 1:  # a later plan, on the same way
            assert np.allclose(bent_KJ[late:, arms] - bent_KJ[late:, arms][:, :1],
                               plain_KJ[late:, arms] - plain_KJ[late:, arms][:, :1], atol=1e-4)
            assert (bent_KJ[late:, arms] <= plain_KJ[late:, arms] + 1e-5).all()
    jaws = out_BKJ[happened_B == 0][:, :, list(SPEC.gripper_indices)]
    closed = (jaws[:, known - 1] < 0.039).any(axis=1)
    assert 0.15 < closed.mean() <= CLOSED_SHARE + 0.1
    assert np.allclose(jaws[:, -1], 0.04), "and opens again"


def test_where_a_jaw_moves_in_the_known_steps_nothing_is_bent() -> None:
    chunk_BKJ, known_B = held_open(50, 6)
    chunk_BKJ[:, 3:, SPEC.gripper_indices[0]] = 0.0
    out_BKJ, happened_B = Bender(SPEC).bent(chunk_BKJ, known_B, np.random.default_rng(0))
    assert (happened_B == 1).all()
    assert np.array_equal(out_BKJ, chunk_BKJ)


def test_without_known_steps_nothing_is_bent() -> None:
    chunk_BKJ, known_B = held_open(50, 0)
    out_BKJ, happened_B = Bender(SPEC).bent(chunk_BKJ, known_B, np.random.default_rng(0))
    assert np.array_equal(out_BKJ, chunk_BKJ)
    assert (happened_B == 1).all()


def test_samples_that_did_not_happen_teach_nothing_about_the_future() -> None:
    rng = torch.Generator().manual_seed(0)
    velocity, clean, noise = (torch.randn(3, 5, 4, generator=rng) for _ in range(3))
    errors = [float((velocity[b, i, j] - noise[b, i, j] + clean[b, i, j]) ** 2)
              for b in (0, 2) for i in range(5) for j in range(4)]
    assert float(velocity_loss(velocity, clean, noise, torch.tensor([1.0, 0, 1]))) == pytest.approx(np.mean(errors))
    assert float(velocity_loss(velocity, clean, noise, torch.zeros(3))) == 0.0
