"""The geometry expert (STARRY): future depth of the canvas and future positions of the hands.

A stream beside the others in the shared attention: its tokens see observed frames, executed actions, the measured depth
and hands of now, and both noise levels. Depth is never read from the noised imagination. In joint coupling it also
reads the sentence; in intent-causal coupling it does not, so that words reach actions only by way of the value map.

Predictions are changes: of the logarithm of depth, where one was measured, and of a hand's position.

Shapes: B batch, N tokens, A hands, D width, Y x X cells, c cells along a token's side.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from starry_ros.wam.config import WamConfig
from starry_ros.wam.detail import patchify, unpatchify
from starry_ros.wam.gasam import CellGrid, Scene, geometry_of, moved, token_weights
from starry_ros.wam.layers import Keys, Stream, TimeEmbedding
from starry_ros.wam.masks import CURRENT_FRAME, PAST_ACTIONS, PAST_FRAMES
from starry_ros.wam.options import GeometryConfig

SEES = (PAST_FRAMES, CURRENT_FRAME, PAST_ACTIONS)
"""Groups that the expert attends to, besides its own tokens."""
HAND_UNIT_M = 0.1
TYPICAL_DEPTH_M = 0.5


@dataclass
class Foreseen:
    """Predicted depth [B, Y, X] in m, its logarithm, and predicted hands [B, A, 3] in m."""

    depth_BYX: Tensor
    log_depth_BYX: Tensor
    hands_BA3: Tensor


class GeometryExpert(nn.Module):
    """Scene of now to scene `future_steps` ahead."""

    def __init__(self, config: WamConfig) -> None:
        super().__init__()
        self.config, self.geometry = config, geometry_of(config)
        g: GeometryConfig = self.geometry
        self.grid = CellGrid(config)
        cells = self.grid.per_token**2
        self.depth_in = nn.Linear(2 * cells, g.width)
        self.hand_in = nn.Linear(3, g.width)
        self.position = nn.Parameter(0.02 * torch.randn(config.frame_tokens + g.hands, g.width))
        text = config.coupling == "joint"
        self.stream = Stream(config.layers, g.width, g.feed_forward, config.heads, config.head_dim, text)
        self.action_time = TimeEmbedding(g.width)
        self.depth_out, self.hand_out = nn.Linear(g.width, cells), nn.Linear(g.width, 3)
        for linear in (self.depth_out, self.hand_out):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, scene: Scene, s_video_B: Tensor, s_action_B: Tensor, rope: Tensor, groups: dict[str, Keys],
        text: Keys | None = None,
    ) -> Foreseen:
        """`rope` is that of the imagined frame [2, N, P/2]; hands stand where its first token does."""
        c, side, n = self.config, self.grid.per_token, self.config.frame_tokens
        known = (scene.depth_BYX > 0).float()
        log_depth = (scene.depth_BYX.clamp_min(1e-3) / TYPICAL_DEPTH_M).log() * known
        depth = self.depth_in(patchify(torch.stack([log_depth, known], dim=1), side))
        hands = self.hand_in(scene.hands_BA3)
        h = torch.cat([depth, hands], dim=1) + self.position
        rope = torch.cat([rope, rope[..., :1, :].expand(*rope.shape[:-2], self.geometry.hands, -1)], dim=-2)
        seen = [groups[name] for name in SEES if name in groups]
        h, _ = self.stream(h, s_video_B, rope, seen, text=text if c.coupling == "joint" else None,
                           condition=self.action_time(s_action_B))
        change = unpatchify(self.depth_out(h[:, :n]), side, c.rows, c.columns)[:, 0]
        predicted = log_depth + change
        place = scene.hands_BA3 + HAND_UNIT_M * self.hand_out(h[:, n:])
        return Foreseen(TYPICAL_DEPTH_M * predicted.exp(), predicted, place)

    def future_weights(self, scene: Scene, foreseen: Foreseen) -> Tensor:
        """Weights of the tokens of the imagined frame [B, N]. Depth is believed only where one was measured."""
        depth = foreseen.depth_BYX * (scene.depth_BYX > 0)
        return token_weights(moved(scene, depth, foreseen.hands_BA3, self.geometry.carriers), self.grid, self.geometry)


def geometry_losses(expert: GeometryExpert, scene: Scene, foreseen: Foreseen, target: Scene) -> dict[str, Tensor]:
    """L_depth (of log depth, where measured then), L_pose (in units of HAND_UNIT_M), L_weight = |w - w*|^2."""
    known = (target.depth_BYX > 0).float()
    wanted = (target.depth_BYX.clamp_min(1e-3) / TYPICAL_DEPTH_M).log()
    error = (foreseen.log_depth_BYX - wanted).abs() * known
    pose = ((foreseen.hands_BA3 - target.hands_BA3) / HAND_UNIT_M).square()
    truth = token_weights(target, expert.grid, expert.geometry)
    return {
        "depth": error.sum() / known.sum().clamp_min(1.0), "pose": pose.mean(),
        "weight": (expert.future_weights(scene, foreseen) - truth).square().mean(),
    }
