"""One training pass: a batch to its loss terms.

The streams are run in the order of serving (video, value, action) with the keys of each handed to the next at the noise
level it was run at. Nine in ten video and value draws are pure noise (s = 1), which a one-step sampler serves; at
lower levels the label shines through its noise and nothing is learned about words. The landing points that the actions
see are the model's own predictions, never the labels. A blind model (`WamConfig.intent`) has no loss of the value map
and is never shown one: its value stream always starts from pure noise, and learns from the action loss alone. In joint
coupling all streams run side by side, each at a uniform time of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from starry_ros.errors import DataError
from starry_ros.training.dataset import Batch
from starry_ros.training.losses import ValueTarget, noised, rival_loss, value_losses, value_target, velocity_loss
from starry_ros.training.prefix import prefix_keys, unknown_loss
from starry_ros.training.scenes import FIX
from starry_ros.wam.autoencoder import to_float
from starry_ros.wam.config import WamConfig
from starry_ros.wam.detail import patchify
from starry_ros.wam.gasam import biased, log_bias, token_weights
from starry_ros.wam.geometry import geometry_losses
from starry_ros.wam.joint import Biases, Noised, Tables, action_biases, denoise_jointly
from starry_ros.wam.layers import MASKED, Keys
from starry_ros.wam.masks import ACTION, CURRENT_FRAME, FUTURE_FRAMES, PAST_ACTIONS, PAST_FRAMES, VALUE
from starry_ros.wam.model import Groups, Ropes, Sentence, WorldActionModel, pool
from starry_ros.wam.normalise import NormStats

DRAWS = 4
PURE_NOISE = 0.9


@dataclass(frozen=True)
class TextTable:
    """Embeddings of every sentence of the data [S, T, 384] and their masks [S, T]."""

    tokens_STD: Tensor
    mask_ST: Tensor

    def with_silence(self) -> TextTable:
        """The same, and last a sentence that says nothing: one token, the mean of what all sentences pool to.

        So it differs from no sentence in particular: of what tells sentences apart, pooled less mean, it has none.
        """
        token_D = pool(self.tokens_STD, self.mask_ST).mean(0)
        first_T = torch.zeros_like(self.mask_ST[0])
        first_T[0] = 1.0
        silence_TD = first_T[:, None] * token_D
        return TextTable(torch.cat([self.tokens_STD, silence_TD[None]]), torch.cat([self.mask_ST, first_T[None]]))

    def to(self, device: torch.device) -> TextTable:
        """The same on another device."""
        return TextTable(self.tokens_STD.to(device), self.mask_ST.to(device))


def losses(
    model: WorldActionModel, batch: Batch, texts: TextTable, stats: NormStats, noise: torch.Generator
) -> dict[str, Tensor]:
    """Every loss term of one batch, unweighted."""
    if model.config.coupling == "joint":
        return joint_losses(model, batch, texts, stats, noise)
    config, ropes = model.config, Ropes(model.config)
    given = prepare(model, batch, texts, stats)
    groups, pixels, size = dict(given.groups), given.pixels, len(batch.text_B)
    known_B = _add_prefix(model, batch, stats, groups)
    x_noise, s_x = torch.randn(given.future.shape, generator=noise), _levels(size, noise, config.video_steps)
    velocity, keys = model.imagine(noised(given.future, x_noise, s_x), s_x, ropes.future(0), groups, given.text)
    groups[FUTURE_FRAMES] = keys
    happened_B = torch.as_tensor(batch.happened_B)
    terms, blind = {"video": velocity_loss(velocity, given.future, x_noise, happened_B)}, config.intent == "blind"

    m_noise, s_m = torch.randn(given.map.shape, generator=noise), _levels(size, noise, config.value_steps)
    m_noise, s_m = model.value_source(m_noise), torch.ones(size) if blind else s_m
    value, keys = model.predict_value(noised(given.map, m_noise, s_m), s_m, ropes.frame(0), groups, pixels)
    groups[VALUE] = keys
    terms |= {} if blind else value_losses(value, given.target)

    if batch.rivalled_B.any() and not blind:
        seen = {name: keys for name, keys in groups.items() if name not in (FUTURE_FRAMES, VALUE)}
        terms["value_rival"] = _rival_term(model, batch, texts, given, seen, (x_noise, m_noise))

    clean = given.actions[:, None].expand(-1, DRAWS, -1, -1)
    a_noise, s_a = torch.randn(clean.shape, generator=noise), torch.rand(size, generator=noise)
    geometry, biases = geometry_terms(model, batch, given, s_x, s_a)
    for (_, name), bias in biases.items():
        if name in model.visible[ACTION]:
            groups[name] = biased(groups[name], bias)
    chunk = ropes.chunk(0, DRAWS)
    velocity = model.act(noised(clean, a_noise, s_a), s_a, chunk, groups, given.state, value.landing, value.seen)
    if known_B is None:
        terms["action"] = velocity_loss(velocity, clean, a_noise)
    else:
        terms["action"] = unknown_loss(velocity, clean, a_noise, known_B)
    return terms | geometry


def expert_losses(
    model: WorldActionModel, batch: Batch, texts: TextTable, stats: NormStats, noise: torch.Generator
) -> dict[str, Tensor]:
    """The terms of the geometry expert alone, at the noise levels that it is used at; no other stream is run."""
    size, joint = len(batch.text_B), model.config.coupling == "joint"
    with torch.no_grad():
        given = prepare(model, batch, texts, stats)
    s_x = torch.rand(size, generator=noise) if joint else _levels(size, noise, model.config.video_steps)
    return geometry_terms(model, batch, given, s_x, torch.rand(size, generator=noise))[0]


def _rival_term(
    model: WorldActionModel, batch: Batch, texts: TextTable, given: Given, seen: Groups, noise: tuple[Tensor, Tensor]
) -> Tensor:
    """What the value map of a sentence naming another object says, where that contact would be elsewhere."""
    groups, ropes, pure = dict(seen), Ropes(model.config), torch.ones(len(batch.text_B))
    rival = model.encode_text(texts.tokens_STD[batch.rival_B], texts.mask_ST[batch.rival_B])
    _, groups[FUTURE_FRAMES] = model.imagine(noise[0], pure, ropes.future(0), groups, rival)
    other, _ = model.predict_value(noise[1], pure, ropes.frame(0), groups, given.pixels)
    return rival_loss(other, given.target, torch.as_tensor(batch.rivalled_B))


def joint_losses(
    model: WorldActionModel, batch: Batch, texts: TextTable, stats: NormStats, noise: torch.Generator
) -> dict[str, Tensor]:
    """The terms of the joint coupling: one pass of all streams, each at a time of its own."""
    ropes, size = Ropes(model.config), len(batch.text_B)
    given = prepare(model, batch, texts, stats)
    x_noise, m_noise, a_noise = (torch.randn(clean.shape, generator=noise)
                                 for clean in (given.future, given.map, given.actions))
    m_noise = model.value_source(m_noise)
    s_x, s_m, s_a = (torch.rand(size, generator=noise) for _ in range(3))
    groups = dict(given.groups)
    known_B = _add_prefix(model, batch, stats, groups)
    geometry, biases = geometry_terms(model, batch, given, s_x, s_a)
    mixed = Noised(noised(given.future, x_noise, s_x), noised(given.map, m_noise, s_m),
                   noised(given.actions, a_noise, s_a), s_x, s_m, s_a)
    tables = Tables(ropes.future(0), ropes.frame(0), ropes.chunk(0))
    velocity_x, value, velocity_a = denoise_jointly(
        model, mixed, tables, groups, given.text, given.pixels, given.state, biases)
    action = velocity_loss(velocity_a, given.actions, a_noise) if known_B is None else unknown_loss(
        velocity_a[:, None], given.actions[:, None], a_noise[:, None], known_B)
    return {
        "video": velocity_loss(velocity_x, given.future, x_noise, torch.as_tensor(batch.happened_B)),
        **value_losses(value, given.target),
        "action": action, **geometry,
    }


def _add_prefix(model: WorldActionModel, batch: Batch, stats: NormStats, groups: Groups) -> Tensor | None:
    """Show first steps of the chunk as executed already; returns how many of each sample, None without prefixes."""
    if not model.config.prefix_steps:
        return None
    known_B = torch.as_tensor(batch.known_B)
    prefix = prefix_keys(model, batch.plan_BKJ, stats, Ropes(model.config), known_B)
    groups[PAST_ACTIONS] = join([groups[PAST_ACTIONS], prefix]) if PAST_ACTIONS in groups else prefix
    return known_B


@dataclass(frozen=True)
class Given:
    """A batch as the streams take it: what is observed, and the clean variables."""

    groups: Groups
    pixels: Tensor
    text: Sentence
    state: Tensor
    future: Tensor
    map: Tensor
    target: ValueTarget
    actions: Tensor


def prepare(model: WorldActionModel, batch: Batch, texts: TextTable, stats: NormStats) -> Given:
    """Encode what is observed, and bring the targets into model units."""
    config, ropes = model.config, Ropes(model.config)
    canvas = to_float(torch.as_tensor(batch.canvas_BHWC))
    observation = model.observe(torch.as_tensor(batch.latents_BCYX), canvas, ropes.frame(0))
    groups: Groups = {CURRENT_FRAME: observation.keys, **_history(model, batch, stats, ropes)}
    target = value_target(torch.as_tensor(batch.events_BEV4), config)
    return Given(
        groups, observation.pixels, model.encode_text(texts.tokens_STD[batch.text_B], texts.mask_ST[batch.text_B]),
        torch.as_tensor(stats.state_to_model(batch.position_BJ)).float(),
        patchify(torch.as_tensor(batch.future_BCYX), config.latent_patch), model.value_tokens(target.map), target,
        torch.as_tensor(stats.actions_to_model(batch.plan_BKJ, batch.position_BJ)).float(),
    )


def geometry_terms(
    model: WorldActionModel, batch: Batch, given: Given, s_video_B: Tensor, s_action_B: Tensor
) -> tuple[dict[str, Tensor], Biases]:
    """Losses of the geometry expert, and the biases that its weights (or the measured ones) give to the actions."""
    expert, config = model.geometry, model.config
    if expert is None:
        return {}, {}
    if batch.scene is None or batch.future_scene is None:
        raise DataError("training data", "have no depth", fix=FIX)
    rope = Ropes(config).future(0)
    foreseen = expert(batch.scene, s_video_B, s_action_B, rope, given.groups, given.text.keys)
    terms = geometry_losses(expert, batch.scene, foreseen, batch.future_scene)
    keys = config.value_keys
    if config.gasam == "measured":
        bias = log_bias(token_weights(batch.scene, expert.grid, expert.geometry), expert.geometry)[:, 0, 0]
        return terms, action_biases(keys, bias, bias, None)
    if config.gasam == "predicted":
        bias = log_bias(expert.future_weights(batch.scene, foreseen), expert.geometry)[:, 0, 0]
        return terms, action_biases(keys, None, bias, bias)
    return terms, {}


def _levels(size: int, noise: torch.Generator, steps: int) -> Tensor:
    """Noise levels: uniform, and pure noise for as many of the batch as a sampler of so many steps asks for."""
    uniform = torch.rand(size, generator=noise)
    pure = torch.rand(size, generator=noise) < (PURE_NOISE if steps == 1 else 1 / steps)
    return torch.where(pure, torch.ones(size), uniform)


def _history(model: WorldActionModel, batch: Batch, stats: NormStats, ropes: Ropes) -> Groups:
    """Keys of past frames (without gradient: the same weights learn from the current frame) and executed actions."""
    slots = batch.history_valid_BR.shape[1]
    if slots == 0:
        return {}
    frames, actions = [], []
    executed = torch.as_tensor(stats.state_to_model(batch.executed_BRUJ)).float()
    happened = _kept_actions(model, batch)
    for slot in range(slots):
        then = -batch.spacing * (slot + 1)
        with torch.no_grad():
            latents = torch.as_tensor(batch.history_latents_BRCYX[:, slot])
            canvas = to_float(torch.as_tensor(batch.history_canvas_BRHWC[:, slot]))
            compact = model.config.states is not None
            keys = None if compact else model.observe(latents, canvas, ropes.frame(then)).keys
        if keys is None:
            keys = model.remember_state(latents, canvas, ropes.frame(then))
        valid = torch.as_tensor(batch.history_valid_BR[:, slot])[:, None].expand(-1, model.config.past_tokens)
        frames.append(Keys(keys.layers, ((1 - valid) * MASKED)[:, None, None, :]))
        steps = then + 1 + torch.arange(model.config.history_actions)
        actions.append(model.remember_actions(
            executed[:, slot], happened[:, slot], ropes.actions(steps)))
    return {PAST_FRAMES: join(frames), PAST_ACTIONS: join(actions)}


def _kept_actions(model: WorldActionModel, batch: Batch) -> Tensor:
    """Which executed actions [B, R, U] there are: in serving a prefix is written over those of the oldest slot."""
    valid = torch.as_tensor(batch.executed_valid_BRU).clone()
    if model.config.prefix_steps and valid.shape[1] == model.config.history_slots:
        valid[:, -1] *= (torch.as_tensor(batch.known_B) == 0)[:, None]
    return valid


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
