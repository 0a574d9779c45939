"""Planning while moving, in closed loop with a model: stalls, jumps, jerk, age by mode, splice and latency.

Latency is injected: a chunk reaches the executor so much later than its observation, as a share of the part of a chunk
that the sync mode executes. Simulated time, so that a busy machine changes nothing. Shapes: N samples, J joints.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from starry_ros.errors import RuntimeUnavailable
from starry_ros.paths import model_dir
from starry_ros.report import bench_row
from starry_ros.robot_spec import RobotSpec
from starry_ros.sim.cases import Case
from starry_ros.sim.cell import Cell
from starry_ros.sim.choices import LoopConfig
from starry_ros.sim.loop import LOOK_EVERY_TICKS, EpisodeResult, run_episode
from starry_ros.timing import nanoseconds
from starry_ros.training.planner_policy import PlannerPolicy
from starry_ros.types import F64, ActionChunk, Canvas, Plan, Record, RobotState
from starry_ros.wam.choices import PlanMode, SpliceMethod
from starry_ros.wam.load import load_session
from starry_ros.wam.planner import PlannerConfig
from starry_ros.wam.session import Session

SHARES = (0.25, 0.5, 0.8)
METHODS = (SpliceMethod.TRAINED_PREFIX, SpliceMethod.GUIDED, SpliceMethod.PUT_BACK, SpliceMethod.LINEAR_BLEND,
           SpliceMethod.HARD_SWITCH)
LIMIT_S = 6.0


@dataclass(frozen=True)
class Way:
    """A mode, a method of splicing, and a latency as a share of the executed part of a chunk."""

    mode: PlanMode
    splice: SpliceMethod
    share: float

    @property
    def name(self) -> str:
        """What its rows are called after."""
        splice = f"_{self.splice}" if self.mode is PlanMode.ASYNC_GROUNDED else ""
        return f"{self.mode}{splice}_{round(100 * self.share)}"


@dataclass
class Played:
    """One row of the table, and the plans behind it at the times at which they arrived, in ns."""

    way: Way
    row: Record
    arrivals: tuple[tuple[int, ActionChunk], ...]


class Commands:
    """Keeps what the joints are told, at half the control rate."""

    def __init__(self) -> None:
        self.positions: list[F64] = []

    def looked(self, cell: Cell) -> None:
        """Called at half the control rate."""
        self.positions.append(cell.command_J)

    def planned(self, cell: Cell, canvas: Canvas, plan: Plan, colour: str) -> None:
        """Called at every observation."""

    def jerk(self, spec: RobotSpec) -> float:
        """Root mean square of the commanded jerk, as a share of the limits."""
        rate_hz = spec.rates.control_hz / LOOK_EVERY_TICKS
        jerk_NJ = np.diff(np.array(self.positions), n=3, axis=0) * rate_hz**3 / spec.limit("jerk")
        return float(np.sqrt((jerk_NJ**2).mean()))


class Taped(PlannerPolicy):
    """A planner that keeps its plans."""

    def __init__(self, session: Session, loop: LoopConfig) -> None:
        super().__init__(session, loop)
        self._latency_ns = nanoseconds(loop.latency_s)
        self.arrivals: list[tuple[int, ActionChunk]] = []

    def plan(self, canvas: Canvas, state: RobotState) -> Plan:
        """Observe, and plan from it."""
        plan = super().plan(canvas, state)
        self.arrivals.append((canvas.stamp_ns + self._latency_ns, plan.chunk))
        return plan


def ways(session: Session, shares: Sequence[float] = SHARES) -> Iterator[Way]:
    """Every mode; the grounded one with every method that the model can."""
    for share in shares:
        yield Way(PlanMode.SYNC, SpliceMethod.AUTO, share)
        yield Way(PlanMode.ASYNC_NAIVE, SpliceMethod.AUTO, share)
        for method in METHODS:
            if method is not SpliceMethod.TRAINED_PREFIX or session.runtime.config.prefix_steps:
                yield Way(PlanMode.ASYNC_GROUNDED, method, share)


def play(
    robot: RobotSpec, model: str = "tiny", shares: Sequence[float] = SHARES, limit_s: float = LIMIT_S
) -> list[Played]:
    """One episode of every way. Guided splices need the gradient of the denoiser and run on PyTorch."""
    cell, session = Cell(robot), load_session(model_dir(model), robot)
    torch = session if session.runtime.name == "torch" else load_session(model_dir(model), robot, "torch")
    played = []
    for way in ways(session, shares):
        used = torch if way.splice is SpliceMethod.GUIDED else session
        latency_s = way.share * PlannerConfig.execute_s
        loop = LoopConfig(latency_s, max(latency_s, LoopConfig.replan_s), limit_s=limit_s, mode=way.mode,
                          splice=way.splice)
        policy, commands = Taped(used, loop), Commands()
        result = run_episode(policy, cell, Case(0), loop, commands)
        if not policy.arrivals:
            raise RuntimeUnavailable("bench control", f"{way.name} made no plan", fix="starry check model")
        played.append(Played(way, _row(way, latency_s, used, result, commands.jerk(robot)), tuple(policy.arrivals)))
    cell.close()
    return played


def _row(way: Way, latency_s: float, session: Session, result: EpisodeResult, jerk: float) -> Record:
    return bench_row(
        f"control/stall_{way.name}", result.stall_share, "share", mode=str(way.mode),
        splice=str(way.splice) if way.mode is PlanMode.ASYNC_GROUNDED else "-", runtime=session.runtime.name,
        latency_s=latency_s, stall_share=result.stall_share, splice_jump=result.splice_jump,
        velocity_jump=result.velocity_jump, jerk=jerk, chunk_age_s=result.chunk_age_s, delay_s=result.delay_s,
        success=float(result.success),
    )
