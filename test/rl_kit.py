"""Tools of the tests of reinforcement learning: plans of a narrow model, drawn around the served ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from wam_kit import SPEC, make_checkpoint

from starry_ros.training.budgets import RlConfig
from starry_ros.training.rl_sampler import AroundServed
from starry_ros.wam.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from starry_ros.wam.runtimes.base import Effort, Noise
from starry_ros.wam.runtimes.torch_runtime import torch_runtime

CONFIG = RlConfig(layouts=2, group=2, spread=0.2, learning_rate=1e-3, epochs=2, batch=2)


def narrow_model(folder: Path) -> Path:
    """A folder with a narrow model of random weights."""
    save_checkpoint(folder, make_checkpoint())
    return folder


def of_four_steps(folder: Path) -> Checkpoint:
    """The model in a folder, with as many denoising steps of the chunk."""
    checkpoint = load_checkpoint(folder, SPEC)
    return dataclasses.replace(checkpoint, config=dataclasses.replace(checkpoint.config, action_steps=4))


def draws(checkpoint, count=2, credited=(0, None), committed=0, held=1, directions=None, spread=CONFIG.spread):
    """Plans of a narrow model on random canvases, and how they were drawn; also what the runtime gave."""
    runner, rng = torch_runtime(checkpoint.build_model(), checkpoint.autoencoder), np.random.default_rng(0)
    act = runner.engines["act"] = AroundServed(
        runner.engines["act"], spread, np.random.default_rng(3), held, credited, directions)
    c, given = runner.config, []

    def normal(*shape):
        return rng.standard_normal(shape, dtype=np.float32)

    runner.set_text(normal(c.text_tokens, c.text_width), np.ones(c.text_tokens, np.float32))
    for i in range(count):
        runner.observe(rng.integers(0, 256, (c.canvas_height_px, c.canvas_width_px, 3), dtype=np.uint8), 4 * i)
        noise = Noise(normal(1, c.frame_tokens, c.latent_token_width), normal(1, c.frame_tokens, c.value_token_width),
                      normal(1, c.chunk_steps, c.joints))
        known = normal(committed, c.joints)
        given.append(runner.predict(noise, normal(c.joints), Effort(known_DJ=known)).actions_KJ)
        runner.commit(normal(c.history_actions, c.joints), np.ones(c.history_actions, np.float32))
    return act.draws, given
