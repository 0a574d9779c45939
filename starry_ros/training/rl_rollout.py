"""Episodes played for reinforcement learning: how every plan was drawn, and what it earned.

An episode runs as `starry eval` runs it (latency, re-planning, history, noise of the imagined frame and of the value
map, actions from the middle of their noise), except for a few plans in a row that bring one hand somewhere else than
the served ones, turned as before. So the episodes of a pair differ by nothing but what these plans get credit for.

The reward of a plan is the model's own value map of the next contact where the chunk brings a hand (AIM equation 12:
M_t at the projected point), less what the map is where the hand is: an arm that hangs over the contact, as in most
failures, earns nothing more. What an episode earns beside is how early it succeeds; one that ends before that is said
to succeed when the task's script would have it done from there. That tells within a second or two what a plan was
worth: how a whole episode of failed grasps ends is chance.

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
from starry_ros.sim.tasks import task_of
from starry_ros.training.annotate import project
from starry_ros.training.cells import kept_cell
from starry_ros.training.policies import policy_of
from starry_ros.training.rl_sampler import AroundServed, Draw, Span
from starry_ros.types import F64, Canvas, Plan, ValueMap
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
    """One episode: which weights, which layout, which plans are drawn around the served ones, and how far (m).

    `arm` is the number of the arm whose hand they bring elsewhere; `mirrored` turns their offsets round. `anchors`
    plans of an episode without any are kept as they were served. The episode ends when its time is up, or after
    `look_on_s` from the last drawn plan.
    """

    model: Path
    spec: RobotSpec
    case: Case
    noise_seed: int = 0
    steps: int = 6
    spread: float = 0.0
    drawn: tuple[int, ...] = ()
    anchors: int = 0
    arm: int = 0
    mirrored: bool = False
    look_on_s: float = math.inf

    @property
    def limit_s(self) -> float:
        """How long the episode may take."""
        drawn_s = (max(self.drawn) + 1) * LOOP.replan_s if self.drawn else math.inf
        return min(task_of(self.case.task).time_limit_s, drawn_s + self.look_on_s)


@dataclass(frozen=True)
class Rollout:
    """What one episode gave: the mean reward of its plans from the first drawn one on, success, when it succeeded or
    the script would have, the draws, and of every plan the number of the arm that it moves farther.

    `expected_s`: when the script would have, seen from each plan and from the end, if nothing was drawn.
    """

    job: RolloutJob
    dense: float
    success: bool
    done_s: float
    draws: tuple[Draw, ...]
    arms: tuple[int, ...]
    expected_s: tuple[float, ...] = ()


@dataclass
class Harvest:
    """Watches an episode: collects rewards, which arm is at work, and, with an expert, when it would be done."""

    cell: Cell
    expert: Expert | None = None
    rewards: list[float] = field(default_factory=list)
    arms: list[int] = field(default_factory=list)
    expected_s: list[float] = field(default_factory=list)

    def looked(self, cell: Cell) -> None:
        """Nothing to do between plans."""

    def planned(self, cell: Cell, canvas: Canvas, plan: Plan, colour: str) -> None:
        """Keep what the plan earns."""
        self.rewards.append(landing_reward(cell, plan))
        self.arms.append(busy_arm(cell.spec, plan))
        if self.expert is not None:
            begun_s = (len(self.arms) - 1) * LOOP.replan_s
            self.expected_s.append(begun_s + self.expert.to_go_s(cell, colour, MOST_S))


def busy_arm(spec: RobotSpec, plan: Plan) -> int:
    """Number of the arm whose joints go the longer way in a plan, jaws aside."""
    ways_J = np.abs(np.diff(plan.chunk.positions_KJ, axis=0)).sum(axis=0)
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
    spec = job.spec
    cell = kept_cell(spec)
    session, runner, engine, stats = _session(job)
    rng, span = np.random.default_rng(job.noise_seed), executed_steps(LOOP, spec.action.step_s)
    scale_J = stats.action_scale_KJ[slice(*span)].mean(0)
    robot, arm = RobotKinematics(spec), spec.arms[job.arm].name
    act = AroundServed(engine, -job.spread if job.mirrored else job.spread, rng, job.drawn, span, job.anchors,
                       lambda: hand_directions(robot, cell.state(0).position_J, scale_J, arm))
    runner.engines["act"] = act
    session.epoch = job.case.seed
    expert = make_expert(job.case.task, cell)
    harvest = Harvest(cell, None if job.drawn else expert)
    result = run_episode(policy_of(session, cell, LOOP), cell, job.case, replace(LOOP, limit_s=job.limit_s), harvest)
    dense = float(np.mean(harvest.rewards[min(job.drawn, default=0):] or [0.0]))
    done_s = result.duration_s + _to_go_s(result, expert, cell)
    expected_s = () if job.drawn else (*harvest.expected_s, done_s)
    return Rollout(job, dense, result.success, done_s, tuple(act.draws), tuple(harvest.arms), expected_s)


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
