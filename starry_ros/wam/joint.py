"""Joint denoising (STARRY): all streams attend to each other in every layer, each at its own noise level.

The same weights as the intent-causal coupling, run side by side instead of one after the other. Who sees whom is
`masks.VISIBLE_JOINTLY`. A landing point is not known before the pass ends, so the action stream gets none: it sees the
value tokens themselves.

Shapes: B batch, N frame tokens, K chunk steps, J joints, D stream width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from starry_ros.wam.gasam import biased
from starry_ros.wam.layers import MASKED, Block, Keys, Modulation, Stream, attend
from starry_ros.wam.masks import ACTION, CURRENT_FRAME, FUTURE_FRAMES, VALUE, VISIBLE_JOINTLY
from starry_ros.wam.model import Groups, Sentence, WorldActionModel
from starry_ros.wam.value_head import ValueOutput

Biases = Mapping[tuple[str, str], Tensor]
"""Additive bias [B, 1, 1, N] by (query group, key group)."""


def action_biases(keys: int, current_BN: Tensor | None, value_BN: Tensor | None, future_BN: Tensor | None
                  ) -> dict[tuple[str, str], Tensor]:
    """Biases of the action stream by key group; that of the value stream is padded to its `keys` with zeros."""
    given = {CURRENT_FRAME: current_BN, VALUE: value_BN, FUTURE_FRAMES: future_BN}
    biases = {(ACTION, name): bias[:, None, None, :] for name, bias in given.items() if bias is not None}
    if value_BN is not None:
        biases[ACTION, VALUE] = F.pad(biases[ACTION, VALUE], (0, keys - value_BN.shape[1]))
    return biases


@dataclass
class Branch:
    """One stream in a joint pass: its tokens [B, N, D], noise level [B], rotation, and the observed keys it sees."""

    name: str
    stream: Stream
    h: Tensor
    s_B: Tensor
    rope: Tensor
    seen: list[Keys]
    text: Keys | None = None
    condition: Tensor | None = None
    shared: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.shared = self.stream.time(self.s_B)
        if self.condition is not None:
            self.shared = self.shared + self.condition

    def modulation(self, layer: int) -> Modulation:
        """The six modulation vectors of a layer."""
        return (self.shared + self.block(layer).modulation)[:, None].unbind(2)

    def block(self, layer: int) -> Block:
        """One layer's weights."""
        block = self.stream.blocks[layer]
        assert isinstance(block, Block)
        return block


def run_jointly(branches: list[Branch], biases: Biases) -> list[Tensor]:
    """Run all layers of all branches together; returns each branch's output tokens."""
    for layer in range(len(branches[0].stream.blocks)):
        modulations = [branch.modulation(layer) for branch in branches]
        projected = [branch.block(layer).project(branch.h, modulation, branch.rope)
                     for branch, modulation in zip(branches, modulations, strict=True)]
        finished = []
        for branch, modulation, (q, _, _) in zip(branches, modulations, projected, strict=True):
            groups = [keys.layers[layer] for keys in branch.seen]
            masks: list[Tensor | None] = [keys.bias for keys in branch.seen]
            for other, (_, k, v) in zip(branches, projected, strict=True):
                if other.name in VISIBLE_JOINTLY[branch.name]:
                    groups.append((k, v))
                    masks.append(biases.get((branch.name, other.name)))
            text = None if branch.text is None else branch.text.layers[layer]
            text_bias = None if branch.text is None else branch.text.bias
            attended = attend(q, groups, masks)
            finished.append(branch.block(layer).finish(branch.h, attended, modulation, text, text_bias))
        for branch, h in zip(branches, finished, strict=True):
            branch.h = h
    return [F.layer_norm(branch.h, (branch.stream.width,)) for branch in branches]


@dataclass
class Noised:
    """The three noised variables [B, N, ...], [B, N, ...], [B, K, J] and their noise levels [B]."""

    x: Tensor
    m: Tensor
    a: Tensor
    s_x: Tensor
    s_m: Tensor
    s_a: Tensor


@dataclass
class Tables:
    """Rotations of the imagined frame, of the value map, and of the state token with its chunk."""

    future: Tensor
    now: Tensor
    chunk: Tensor


def denoise_jointly(
    model: WorldActionModel, noised: Noised, tables: Tables, groups: Groups, text: Sentence, pixels_BCYX: Tensor,
    state_BJ: Tensor, biases: Biases | None = None,
) -> tuple[Tensor, ValueOutput, Tensor]:
    """Velocity of the imagined frame, the clean value map, and velocity of the chunk [B, K, J], in one pass."""
    n = noised.x.shape[1]
    h_x = model.latent_in(noised.x) + model.frame_position + model.imagined + text.vectors[:, :1]
    h_m, now = model.value_inputs(noised.m, tables.now)
    views, events = len(model.config.views), model.config.value_events
    nowhere = state_BJ.new_zeros(len(state_BJ), events, views, 2)
    aim = model.landing(nowhere, torch.full_like(nowhere[..., 0], MASKED), state_BJ)[:, None, :]
    actions = model.action_in(noised.a) + model.step_position
    h_a = torch.cat([model.state_in(state_BJ)[:, None, :], actions], dim=1) + aim

    given = biases or {}

    def seen(name: str) -> list[Keys]:
        shown = {key: groups[key] for key in VISIBLE_JOINTLY[name] if key in groups}
        return [biased(keys, given[name, key]) if (name, key) in given else keys for key, keys in shown.items()]

    branches = [
        Branch(FUTURE_FRAMES, model.video, h_x, noised.s_x, tables.future, seen(FUTURE_FRAMES), text.keys,
               text.vectors[:, 1:]),
        Branch(VALUE, model.value, h_m, noised.s_m, now, seen(VALUE)),
        Branch(ACTION, model.action, h_a, noised.s_a, tables.chunk, seen(ACTION)),
    ]
    h_x, h_m, h_a = run_jointly(branches, given)
    return model.latent_out(h_x), model.value_head(h_m[:, :n], pixels_BCYX), model.action_out(h_a[:, 1:])
