"""Committed prefixes in training: the first steps of a chunk are known for a random number of steps.

They are given as clean action tokens that follow the current frame, exactly as `Session.supposing` gives them in
serving, and their own steps are not learned. Source: training-time real-time chunking (Black et al. 2025), with the
prefix as keys of its own instead of a noise level of 0, so that the imagined frame sees it as well.

What is known is what was commanded then, and what follows is the plan from where that led: in corrected data, where the
expert disagrees with what was commanded, the model so learns the way out of a wrong commitment. The first steps of
the plan itself would teach it to go on with whatever it has begun. Some known steps are bent to lead elsewhere, with
the way back before the plan goes on: what is commanded and what the picture asks for part only rarely by themselves.

Shapes: B batch, G draws, K chunk steps, D known steps, U actions a history slot, J joints.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from starry_ros.robot_spec import RobotSpec
from starry_ros.types import F32, F64
from starry_ros.wam.layers import Keys
from starry_ros.wam.model import Ropes, WorldActionModel
from starry_ros.wam.normalise import NormStats
from starry_ros.wam.pace import Pace

NONE_SHARE = 0.5
"""Share of samples without a prefix: first plans of an episode have none, nor has any in the other modes."""

ASTRAY_SHARE = 0.4
"""Share of the prefixes that are bent."""
ASTRAY_RAD = 0.3
"""Greatest standard deviation of a joint's offset at the end of a bent prefix."""
CLOSED_SHARE = 0.3
"""Share of the bent prefixes in which an open jaw closes."""
JAW_STEPS, STILL_JAW_M = 3, 0.002
"""How long a jaw takes to close; one that moves by less stands."""

I64 = NDArray[np.int64]


def prefix_lengths(size: int, most: int, rng: np.random.Generator) -> I64:
    """Known steps of every sample [B]: none, or uniformly 1 to `most`."""
    lengths: I64 = np.where(rng.random(size) < NONE_SHARE, 0, rng.integers(1, most + 1, size))
    return lengths


def committed(command_FJ: F32, plan_FKJ: F32, frame_B: I64, last_B: I64, known_B: I64) -> F32:
    """Chunks [B, K, J]: the first `known_B` steps as they were commanded, then the plan of the frame they lead to."""
    steps = np.arange(plan_FKJ.shape[1])
    commanded = command_FJ[np.minimum(frame_B[:, None] + 1 + steps, last_B[:, None])]
    then_B, after_BK = np.minimum(frame_B + known_B, last_B), np.maximum(steps[None] - known_B[:, None], 0)
    planned = plan_FKJ[then_B[:, None], after_BK]
    chunk: F32 = np.where(steps[None, :, None] < known_B[:, None, None], commanded, planned)
    return chunk


class Bender:
    """Known steps that lead astray, and the way back, at the pace of serving."""

    def __init__(self, spec: RobotSpec) -> None:
        self._pace = Pace(spec)
        self._arms = [spec.arm_slice(arm.name) for arm in spec.arms]
        self._jaws = list(spec.gripper_indices)
        self._lower_J, self._upper_J = spec.limit("lower"), spec.limit("upper")

    def bent(self, chunk_BKJ: F32, known_B: I64, rng: np.random.Generator) -> tuple[F32, F32]:
        """The chunks [B, K, J], some of them bent, and 1 for those whose known steps are what happened [B].

        Where jaws move in the known steps these stay: what the jaws took hold of, or let go, would be elsewhere.
        """
        out, happened_B = chunk_BKJ.copy(), np.ones(len(chunk_BKJ), np.float32)
        for sample, known in enumerate(known_B):
            if not known:
                continue
            chunk_KJ = out[sample].astype(np.float64)
            still = np.ptp(chunk_KJ[: known + 1, self._jaws], axis=0).max() < STILL_JAW_M
            if still and rng.random() < ASTRAY_SHARE:
                self._bend(chunk_KJ, int(known), rng)
                happened_B[sample] = 0.0
            out[sample] = self._pace.of_arms(np.clip(chunk_KJ, self._lower_J, self._upper_J), int(known))
        return out, happened_B

    def _bend(self, chunk_KJ: F64, known: int, rng: np.random.Generator) -> None:
        """Lead one arm's known steps away, in place; some close an open jaw at their end."""
        arm = int(rng.integers(len(self._arms)))
        jaw, steps = self._jaws[arm], np.arange(known) + 1.0
        offset_J: F64 = rng.normal(0.0, rng.random() * ASTRAY_RAD, len(self._lower_J))
        offset_J[jaw] = 0.0
        chunk_KJ[:known, self._arms[arm]] += (steps[:, None] / known) * offset_J[self._arms[arm]]
        lower, upper = self._lower_J[jaw], self._upper_J[jaw]
        if rng.random() < CLOSED_SHARE and chunk_KJ[known, jaw] > (lower + upper) / 2:
            open_K = np.clip(1 - (steps - rng.integers(known)) / JAW_STEPS, 0.0, 1.0)
            chunk_KJ[:known, jaw] = lower + open_K * (chunk_KJ[:known, jaw] - lower)


def prefix_keys(model: WorldActionModel, plan_BKJ: F32, stats: NormStats, ropes: Ropes, lengths_B: Tensor) -> Keys:
    """Keys of the known steps of a chunk, as executed actions of the slot that begins now."""
    steps = torch.arange(model.config.history_actions)
    known = torch.as_tensor(stats.state_to_model(plan_BKJ[:, : len(steps)])).float()
    valid = (steps[None] < lengths_B[:, None]).float()
    return model.remember_actions(known * valid[..., None], valid, ropes.actions(steps + 1))


def unknown_loss(velocity_BGKJ: Tensor, clean_BGKJ: Tensor, noise_BGKJ: Tensor, lengths_B: Tensor) -> Tensor:
    """Mean squared error to v = noise - x over the steps that are not known."""
    steps = torch.arange(velocity_BGKJ.shape[2])
    weight_B1K1 = (steps[None] >= lengths_B[:, None]).float()[:, None, :, None]
    error = (velocity_BGKJ - (noise_BGKJ - clean_BGKJ)).square()
    return (error * weight_B1K1).sum() / (weight_B1K1.expand_as(error).sum()).clamp_min(1.0)
