"""Episodes played for reinforcement learning: how every plan was drawn, and what it earned.

An episode runs as `starry eval` runs it (latency, re-planning, history, noise of the imagined frame and of the value
map, actions from the middle of their noise), except that every plan brings the hand at work somewhere else than the
served one, turned as before. So the episodes of a group differ by nothing but what gets credit.

The reward of a plan is the model's own value map of the next contact where the chunk brings a hand (AIM equation 12:
M_t at the projected point), less what the map is where the hand is: an arm that hangs over the contact, as in most
failures, earns nothing more. The task's script says at every plan when it would be done from there: what a plan loses
shows in that within a second or two, while how a whole episode of failed grasps ends is chance.

Shapes: K chunk steps, J joints, A joints of an arm without its jaw, H directions: x, y, z of one hand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.errors import ConfigError
from starry_ros.kinematics.robot import RobotKinematics
from starry_ros.robot_spec import RobotSpec
from starry_ros.sim.cases import Case
from starry_ros.sim.cell import Cell
from starry_ros.sim.choices import LoopConfig
from starry_ros.sim.experts import Expert, make_expert
from starry_ros.sim.kinematics import ArmKinematics
from starry_ros.sim.loop import EpisodeResult, run_episode
from starry_ros.training.annotate import project
from starry_ros.training.cells import kept_cell
from starry_ros.training.policies import policy_of
from starry_ros.training.rl_sampler import AroundServed, Draw, Span
from starry_ros.types import F32, F64, Canvas, Plan, ValueMap
from starry_ros.wam.checkpoint import CONFIG, load_checkpoint
from starry_ros.wam.load import choose_runtime
from starry_ros.wam.normalise import NormStats
from starry_ros.wam.planner import PlannerConfig
from starry_ros.wam.runtimes.runner import Engine, GraphRunner
from starry_ros.wam.session import Session
from starry_ros.wam.text import load_text_encoder

LOOP = LoopConfig()
MOST_S = 15.0
"""What there is left to do never takes longer: a block that lies out of reach keeps the script busy for ever."""
LEAST_TURN = 0.03
"""Damping of the inverse of a hand's motion, in m or rad per rad of a joint."""


@dataclass(frozen=True)
class RolloutJob:
    """One episode: which weights, which layout, and how far (m) plans are drawn from the served ones.

    Every `held` plans in a row have the same offset. `noise_seed` may be several numbers.
    """

    model: Path
    spec: RobotSpec
    case: Case
    noise_seed: tuple[int, ...] = (0,)
    steps: int = 6
    spread: float = 0.0
    held: int = 1


@dataclass(frozen=True)
class Rollout:
    """What one episode gave: rewards and draws of its plans, and success.

    `expected_s`: when the task's script would have it done, seen from each plan and from the end.
    """

    job: RolloutJob
    success: bool
    draws: tuple[Draw, ...]
    rewards: tuple[float, ...]
    expected_s: tuple[float, ...]


@dataclass
class Harvest:
    """Watches an episode: collects rewards, and when the expert would be done."""

    expert: Expert
    rewards: list[float] = field(default_factory=list)
    expected_s: list[float] = field(default_factory=list)

    def looked(self, cell: Cell) -> None:
        """Nothing to do between plans."""

    def planned(self, cell: Cell, canvas: Canvas, plan: Plan, colour: str) -> None:
        """Keep what the plan earns, and when all would be done from its observation."""
        self.expected_s.append(len(self.rewards) * LOOP.replan_s + self.expert.to_go_s(cell, colour, MOST_S))
        self.rewards.append(landing_reward(cell, plan))


class BusyHand:
    """In which directions plans are drawn: x, y and z of the hand of the arm that is at work as an offset begins."""

    def __init__(self, cell: Cell, stats: NormStats, span: Span) -> None:
        self._cell, self._stats, self._robot, self._arm = cell, stats, RobotKinematics(cell.spec), ""
        self._scale_J: F64 = stats.action_scale_KJ[slice(*span)].mean(0)

    def __call__(self, served_KJ: F32, fresh: bool) -> F64:
        """Directions [J, H] for a served plan [K, J] in model units; `fresh`: the hand is chosen anew."""
        spec, position_J = self._cell.spec, self._cell.state(0).position_J
        if fresh:
            self._arm = spec.arms[busy_arm(spec, self._stats.actions_from_model(served_KJ, position_J))].name
        return hand_directions(self._robot, position_J, self._scale_J, self._arm)


def busy_arm(spec: RobotSpec, positions_KJ: F64) -> int:
    """Number of the arm whose joints go the longer way in a chunk, jaws aside."""
    ways_J = np.abs(np.diff(positions_KJ, axis=0)).sum(axis=0)
    return int(np.argmax([ways_J[spec.arm_slice(arm.name)][:-1].sum() for arm in spec.arms]))


def landing_reward(cell: Cell, plan: Plan) -> float:
    """How much higher on the map of the next contact, in the head view, a hand gets over the chunk than it is now."""
    arms = {arm: ArmKinematics.from_model(cell.model, arm.name) for arm in cell.spec.arms}
    steps = [(kinematics, joints[:-1]) for arm, kinematics in arms.items()
             for joints in plan.chunk.positions_KJ[:, cell.spec.arm_slice(arm.name)]]
    ahead = max(_height(cell, plan.value_map, kinematics.pinch(joints)) for kinematics, joints in steps)
    now = max(_height(cell, plan.value_map, cell.pinch_position(arm.name)) for arm in arms)
    return max(0.0, ahead - now)


def _height(cell: Cell, value_map: ValueMap, point: F64) -> float:
    """The map of the next contact at a world point's place in the head view; 0 outside."""
    layout, values = t_pose_layout(cell.spec), value_map.values_EHW[0]
    u_px, v_px, _, inside, _ = project(point, cell.camera_model(layout.tiles[0].camera), layout, True)
    stride, (rows, columns) = value_map.stride_px, values.shape
    row, column = (round((at - (stride - 1) / 2) / stride) for at in (v_px, u_px))
    return float(values[min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)]) if inside else 0.0


def hand_directions(robot: RobotKinematics, position_J: F64, scale_J: F64, arm: str) -> F64:
    """By how many of its units `scale_J` each joint moves when the arm's hand moves 1 m along x, y or z without turning
    [J, H].

    `LEAST_TURN` keeps joints from racing where an arm is stretched.
    """
    robot.place(position_J)
    directions_JH = np.zeros((len(scale_J), 3))
    joints = np.arange(len(scale_J))[robot.spec.arm_slice(arm)][:-1]
    jacobian_6A = robot.hand_jacobian(arm)[:, joints]
    square_66 = jacobian_6A @ jacobian_6A.T + LEAST_TURN**2 * np.eye(6)
    moved_A3 = jacobian_6A.T @ np.linalg.solve(square_66, np.eye(6)[:, :3])
    directions_JH[joints] = moved_A3 / scale_J[joints, None]
    return directions_JH


def executed_steps(loop: LoopConfig, step_s: float) -> Span:
    """The steps of a chunk that it decides: after what is committed, until the next chunk arrives."""
    first_s, end_s = loop.latency_s + PlannerConfig.lead_s, loop.latency_s + loop.replan_s
    return math.ceil(first_s / step_s - 1e-9), math.ceil(end_s / step_s - 1e-9)


_KEPT: dict[tuple[Path, int, int], tuple[Session, GraphRunner, Engine, NormStats]] = {}
"""The newest weights of this process: a session, its runtime, that one's own engine of the action stream, and units."""


def play_rollout(job: RolloutJob) -> Rollout:
    """Play one episode in this process."""
    cell = kept_cell(job.spec)
    session, runner, engine, stats = _session(job)
    rng, span = np.random.default_rng(job.noise_seed), executed_steps(LOOP, job.spec.action.step_s)
    act = AroundServed(engine, job.spread, rng, job.held, span, BusyHand(cell, stats, span))
    runner.engines["act"] = act
    session.epoch = job.case.seed
    expert = make_expert(job.case.task, cell)
    harvest = Harvest(expert)
    result = run_episode(policy_of(session, cell, LOOP), cell, job.case, LOOP, harvest)
    done_s = result.duration_s + _to_go_s(result, expert, cell)
    return Rollout(job, result.success, tuple(act.draws), tuple(harvest.rewards), (*harvest.expected_s, done_s))


def _to_go_s(result: EpisodeResult, expert: Expert, cell: Cell) -> float:
    """How long the expert would need from where the episode ended; arms that were stopped go nowhere."""
    if result.success:
        return 0.0
    return MOST_S if result.failure.startswith("stopped") else expert.to_go_s(cell, result.colour, MOST_S)


def _session(job: RolloutJob) -> tuple[Session, GraphRunner, Engine, NormStats]:
    """A session of the job's weights as they are on disk now."""
    key = job.model, (job.model / CONFIG).stat().st_mtime_ns, job.steps
    if key not in _KEPT:
        checkpoint = load_checkpoint(job.model, job.spec)
        if checkpoint.config.coupling == "joint":
            raise ConfigError("train-rl", "needs a model whose streams run one after the other", got="coupling joint")
        config = replace(checkpoint.config, action_steps=job.steps)
        runner = choose_runtime("auto", replace(checkpoint, config=config), job.model)
        texts = load_text_encoder(checkpoint.text_encoder, config.text_tokens)
        _KEPT.clear()
        session = Session(runner, checkpoint.stats, texts, job.spec, checkpoint.layout_hash)
        _KEPT[key] = session, runner, runner.engines["act"], checkpoint.stats
    return _KEPT[key]
