"""Forward dynamics for planning while moving: the imagined frame learns to follow from the steps that are committed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from test_training_units import narrow_presets
from training_kit import load, write_episodes
from wam_kit import CONFIG, MIDDLE_J, make_checkpoint

from starry_ros.training.budgets import LossWeights
from starry_ros.training.dataset import Batch, Sampler
from starry_ros.training.forward import TextTable, losses, prepare
from starry_ros.training.losses import total
from starry_ros.training.prefix import prefix_keys
from starry_ros.wam.detail import patchify
from starry_ros.wam.masks import PAST_ACTIONS
from starry_ros.wam.model import Ropes, WorldActionModel

DYNAMIC = dataclasses.replace(CONFIG, prefix_steps=8)
STATS = make_checkpoint().stats
KNOWN = 8


@pytest.fixture
def model() -> WorldActionModel:
    torch.manual_seed(0)
    return WorldActionModel(DYNAMIC)


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> TextTable:
    narrow_presets(monkeypatch)
    tokens = torch.randn(2, CONFIG.text_tokens, CONFIG.text_width, generator=torch.Generator().manual_seed(0))
    return TextTable(tokens, torch.ones(2, CONFIG.text_tokens))


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Batch:
    """Four samples of one picture and one sentence: where two are led one way by what is committed, light comes; where
    two are led the other way, darkness. Nothing else tells the two apart."""
    root = tmp_path_factory.mktemp("data")
    sampler = Sampler(load(write_episodes(root / "d", (20,)), root / "cache"), batch=4, future_steps=8,
                      history_slots=0, history_actions=8, seed=0, no_history=1.0)
    one, way_B = sampler.draw(0), np.array([1.0, 1.0, -1.0, -1.0], np.float32)
    same = {name: np.repeat(getattr(one, name)[:1], 4, axis=0)
            for name in ("canvas_BHWC", "events_BEV4", "text_B", "rival_B")}
    plan_KJ = np.repeat(0.2 * np.linspace(0, 1, CONFIG.chunk_steps)[:, None], len(MIDDLE_J), axis=1)
    future_CYX = np.ones(one.future_BCYX.shape[1:])
    return dataclasses.replace(
        one, **same, latents_BCYX=np.zeros_like(one.latents_BCYX), rivalled_B=np.zeros(4, np.float32),
        position_BJ=np.repeat(MIDDLE_J[None], 4, axis=0).astype(np.float32),
        plan_BKJ=(MIDDLE_J + way_B[:, None, None] * plan_KJ).astype(np.float32), known_B=np.full(4, KNOWN),
        future_BCYX=(way_B[:, None, None, None] * future_CYX).astype(np.float32))


def reach(model: WorldActionModel, batch: Batch, texts: TextTable) -> torch.Tensor:
    """Gradient of the video loss in what encodes executed actions."""
    terms = losses(model, batch, texts, STATS, torch.Generator().manual_seed(0))
    gradient, = torch.autograd.grad(terms["video"], [model.executed_in.weight])
    return gradient


def test_the_loss_of_the_imagined_frame_reaches_the_committed_steps_that_led_to_it(
    model: WorldActionModel, batch: Batch, texts: TextTable
) -> None:
    assert float(reach(model, batch, texts).abs().max()) > 1e-4
    nothing = dataclasses.replace(batch, known_B=np.zeros(4, np.int64))
    assert not reach(model, nothing, texts).any(), "not the steps of the plan, which the frame must not see"
    supposed = dataclasses.replace(batch, happened_B=np.zeros(4, np.float32))
    assert not reach(model, supposed, texts).any(), "nor from steps that led elsewhere than the picture shows"


def test_a_trained_model_imagines_what_the_committed_steps_lead_to(
    model: WorldActionModel, batch: Batch, texts: TextTable
) -> None:
    optimiser, noise = torch.optim.Adam(model.parameters(), 3e-3), torch.Generator().manual_seed(0)
    for _ in range(60):
        optimiser.zero_grad()
        total(losses(model, batch, texts, STATS, noise), LossWeights(video=1.0)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    wanted = patchify(torch.from_numpy(batch.future_BCYX), DYNAMIC.latent_patch)

    @torch.no_grad()
    def imagined(known: int) -> torch.Tensor:
        given, ropes = prepare(model, batch, texts, STATS), Ropes(DYNAMIC)
        prefix = prefix_keys(model, batch.plan_BKJ, STATS, ropes, torch.full((4,), known))
        start = torch.randn(wanted.shape[1:], generator=torch.Generator().manual_seed(5)).expand_as(wanted)
        groups = {**given.groups, PAST_ACTIONS: prefix}
        return start - model.imagine(start, torch.ones(4), ropes.future(0), groups, given.text)[0]

    def error(frame: torch.Tensor, other: torch.Tensor) -> float:
        return float((frame - other).square().mean())

    found = imagined(KNOWN)
    assert error(found, wanted) < 0.3 * error(found, -wanted), "light where that is what comes"
    alone = imagined(0)
    assert error(alone[:2], alone[2:]) < 1e-6, "without committed steps nothing tells the samples apart"
    assert error(found, wanted) < 0.5 * error(alone, wanted)
