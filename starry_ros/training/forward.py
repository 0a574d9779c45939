"""One training pass: a batch to its loss terms.

The streams are run in the order of serving (video, value, action) with the keys of each handed to the next at the noise
level it was run at. Nine in ten video and value draws are pure noise (s = 1), which a one-step sampler serves; at
lower levels the label shines through its noise and nothing is learned about words. The landing points that the actions
see are the model's own predictions, never the labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from starry_ros.training.dataset import Batch
from starry_ros.training.losses import noised, rival_loss, value_losses, value_target, velocity_loss
from starry_ros.wam.autoencoder import to_float
from starry_ros.wam.config import WamConfig
from starry_ros.wam.detail import patchify
from starry_ros.wam.layers import MASKED, Keys
from starry_ros.wam.masks import CURRENT_FRAME, FUTURE_FRAMES, PAST_ACTIONS, PAST_FRAMES, VALUE
from starry_ros.wam.model import Groups, Ropes, WorldActionModel
from starry_ros.wam.normalise import NormStats

DRAWS = 4
PURE_NOISE = 0.9


@dataclass(frozen=True)
class TextTable:
    """Embeddings of every sentence of the data [S, T, 384] and their masks [S, T]."""

    tokens_STD: Tensor
    mask_ST: Tensor


def losses(
    model: WorldActionModel, batch: Batch, texts: TextTable, stats: NormStats, noise: torch.Generator
) -> dict[str, Tensor]:
    """Every loss term of one batch, unweighted."""
    config, ropes = model.config, Ropes(model.config)
    canvas = to_float(torch.from_numpy(batch.canvas_BHWC))
    observation = model.observe(torch.from_numpy(batch.latents_BCYX), canvas, ropes.frame(0))
    groups: Groups = {CURRENT_FRAME: observation.keys, **_history(model, batch, stats, ropes)}
    text = model.encode_text(texts.tokens_STD[batch.text_B], texts.mask_ST[batch.text_B])
    size = len(batch.text_B)

    future = patchify(torch.from_numpy(batch.future_BCYX), config.latent_patch)
    x_noise, s_x = torch.randn(future.shape, generator=noise), _levels(size, noise)
    velocity, keys = model.imagine(noised(future, x_noise, s_x), s_x, ropes.future(0), groups, text)
    groups[FUTURE_FRAMES] = keys
    terms = {"video": velocity_loss(velocity, future, x_noise)}

    target = value_target(torch.from_numpy(batch.events_BEV4), config)
    m_clean = model.value_tokens(target.map)
    m_noise, s_m = torch.randn(m_clean.shape, generator=noise), _levels(size, noise)
    value, keys = model.predict_value(noised(m_clean, m_noise, s_m), s_m, ropes.frame(0), groups, observation.pixels)
    groups[VALUE] = keys
    terms |= value_losses(value, target)

    if batch.rivalled_B.any():
        rival = model.encode_text(texts.tokens_STD[batch.rival_B], texts.mask_ST[batch.rival_B])
        seen = {name: keys for name, keys in groups.items() if name not in (FUTURE_FRAMES, VALUE)}
        _, keys = model.imagine(x_noise, torch.ones(size), ropes.future(0), seen, rival)
        seen[FUTURE_FRAMES] = keys
        other, _ = model.predict_value(m_noise, torch.ones(size), ropes.frame(0), seen, observation.pixels)
        terms["value_rival"] = rival_loss(other, target, torch.from_numpy(batch.rivalled_B))

    clean = torch.from_numpy(stats.actions_to_model(batch.plan_BKJ, batch.position_BJ)).float()[:, None]
    clean = clean.expand(-1, DRAWS, -1, -1)
    a_noise, s_a = torch.randn(clean.shape, generator=noise), torch.rand(size, generator=noise)
    state = torch.from_numpy(stats.state_to_model(batch.position_BJ)).float()
    chunk = ropes.chunk(0, DRAWS)
    velocity = model.act(noised(clean, a_noise, s_a), s_a, chunk, groups, state, value.landing, value.seen)
    terms["action"] = velocity_loss(velocity, clean, a_noise)
    return terms


def _levels(size: int, noise: torch.Generator) -> Tensor:
    """Noise levels: pure noise for PURE_NOISE of the batch, uniform for the rest."""
    uniform = torch.rand(size, generator=noise)
    return torch.where(torch.rand(size, generator=noise) < PURE_NOISE, torch.ones(size), uniform)


def _history(model: WorldActionModel, batch: Batch, stats: NormStats, ropes: Ropes) -> Groups:
    """Keys of past frames (without gradient: the same weights learn from the current frame) and executed actions."""
    slots = batch.history_valid_BR.shape[1]
    if slots == 0:
        return {}
    frames, actions = [], []
    executed = torch.from_numpy(stats.state_to_model(batch.executed_BRUJ)).float()
    for slot in range(slots):
        then = -batch.spacing * (slot + 1)
        with torch.no_grad():
            latents = torch.from_numpy(batch.history_latents_BRCYX[:, slot])
            canvas = to_float(torch.from_numpy(batch.history_canvas_BRHWC[:, slot]))
            keys = model.observe(latents, canvas, ropes.frame(then)).keys
        valid = torch.from_numpy(batch.history_valid_BR[:, slot])[:, None].expand(-1, model.config.frame_tokens)
        frames.append(Keys(keys.layers, ((1 - valid) * MASKED)[:, None, None, :]))
        steps = then + 1 + torch.arange(model.config.history_actions)
        actions.append(model.remember_actions(
            executed[:, slot], torch.from_numpy(batch.executed_valid_BRU[:, slot]), ropes.actions(steps)))
    return {PAST_FRAMES: join(frames), PAST_ACTIONS: join(actions)}


def join(parts: list[Keys]) -> Keys:
    """Several groups as one."""
    layers = [
        (torch.cat([part.layers[i][0] for part in parts], 2), torch.cat([part.layers[i][1] for part in parts], 2))
        for i in range(len(parts[0].layers))
    ]
    biases = [part.bias for part in parts if part.bias is not None]
    return Keys(layers, torch.cat(biases, dim=3))


def count_parameters(config: WamConfig) -> int:
    """Parameters of the model of this shape."""
    with torch.device("meta"):
        return sum(p.numel() for p in WorldActionModel(config).parameters())
