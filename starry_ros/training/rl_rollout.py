"""Episodes played for reinforcement learning: how every plan was drawn, and what it earned.

The reward of a plan is the model's own value map of the next contact where the chunk brings a hand (AIM equation 12:
M_t at the projected point); an episode earns a bonus for success.

Shapes: K chunk steps, J joints, A = 6 arm joints.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.errors import ConfigError
from starry_ros.robot_spec import RobotSpec
from starry_ros.sim.cases import Case
from starry_ros.sim.cell import Cell
from starry_ros.sim.choices import LoopConfig
from starry_ros.sim.kinematics import ArmKinematics
from starry_ros.sim.loop import run_episode
from starry_ros.training.annotate import project
from starry_ros.training.evaluate import SessionPolicy
from starry_ros.training.rl_sampler import Draw, StochasticAct
from starry_ros.types import Canvas, Plan
from starry_ros.wam.checkpoint import load_checkpoint
from starry_ros.wam.runtimes.torch_runtime import torch_runtime
from starry_ros.wam.session import Session, SessionConfig
from starry_ros.wam.text import load_text_encoder

FIRST_SEED = 5_000_000
"""Layouts of reinforcement learning begin here, far from those of `starry eval` and of early evaluation."""


@dataclass(frozen=True)
class RolloutJob:
    """One episode: which weights, which layout, which noise."""

    model: Path
    spec: RobotSpec
    case: Case
    noise_seed: int
    steps: int
    level: float
    plans_kept: int


@dataclass(frozen=True)
class Rollout:
    """What one episode gave: the mean reward of its plans, success, and how some of its plans were drawn."""

    case: Case
    dense: float
    success: bool
    draws: tuple[Draw, ...]
    plans: int


@dataclass
class Harvest:
    """Watches an episode: collects draws and rewards."""

    cell: Cell
    act: StochasticAct
    draws: list[Draw] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)

    def looked(self, cell: Cell) -> None:
        """Nothing to do between plans."""

    def planned(self, cell: Cell, canvas: Canvas, plan: Plan, colour: str) -> None:
        """Keep how the plan was drawn and what it earns."""
        self.draws.append(self.act.draw())
        self.rewards.append(landing_reward(cell, plan))


def landing_reward(cell: Cell, plan: Plan) -> float:
    """The highest that a hand's path over the chunk gets on the map of the next contact, in the head view."""
    layout, best = t_pose_layout(cell.spec), 0.0
    head, values = cell.camera_model(layout.tiles[0].camera), plan.value_map.values_EHW[0]
    stride, (rows, columns) = plan.value_map.stride_px, values.shape
    for arm in cell.spec.arms:
        kinematics = ArmKinematics.from_model(cell.model, arm.name)
        for joints in plan.chunk.positions_KJ[:, cell.spec.arm_slice(arm.name)]:
            u_px, v_px, _, inside, _ = project(kinematics.pinch(joints[:-1]), head, layout, True)
            row, column = (round((at - (stride - 1) / 2) / stride) for at in (v_px, u_px))
            if inside:
                best = max(best, float(values[min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)]))
    return best


_CELLS: dict[str, Cell] = {}


def play_rollout(job: RolloutJob) -> Rollout:
    """Play one episode in this process."""
    spec = job.spec
    if spec.content_hash not in _CELLS:
        _CELLS[spec.content_hash] = Cell(spec)
    cell = _CELLS[spec.content_hash]
    checkpoint = load_checkpoint(job.model, spec)
    if checkpoint.config.coupling == "joint":
        raise ConfigError("train-rl", "needs a model whose streams run one after the other", got="coupling joint")
    config = dataclasses.replace(checkpoint.config, action_steps=job.steps)
    checkpoint = dataclasses.replace(checkpoint, config=config)
    runner = torch_runtime(checkpoint.build_model(), checkpoint.autoencoder)
    act = StochasticAct(runner.engines["act"], job.level, job.noise_seed)
    runner.engines["act"] = act
    texts = load_text_encoder(checkpoint.text_encoder, config.text_tokens)
    session = Session(runner, checkpoint.stats, texts, spec, checkpoint.layout_hash,
                      SessionConfig(seed=job.noise_seed, temperature=1.0))
    harvest = Harvest(cell, act)
    result = run_episode(SessionPolicy(session), cell, job.case, LoopConfig(), harvest)
    kept = np.linspace(0, len(harvest.draws) - 1, min(job.plans_kept, len(harvest.draws))).round().astype(int)
    draws = tuple(harvest.draws[int(i)] for i in kept)
    return Rollout(job.case, float(np.mean(harvest.rewards)), result.success, draws, len(harvest.draws))
