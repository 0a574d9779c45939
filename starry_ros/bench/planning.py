"""Planning while moving, in closed loop with the shipped model: stalls, jumps, jerk, age by mode, splice and latency.

Latency is injected: a chunk reaches the executor so much later than its observation, as a share of the part of a chunk
that the sync mode executes. Simulated time, so that a busy machine changes nothing. Shapes: N samples, J joints.
"""

from __future__ import annotations

import numpy as np

from starry_ros.paths import model_dir
from starry_ros.report import bench_row, print_table
from starry_ros.robot_spec import RobotSpec
from starry_ros.sim.cases import Case
from starry_ros.sim.cell import Cell
from starry_ros.sim.choices import LoopConfig
from starry_ros.sim.loop import run_episode
from starry_ros.training.planner_policy import PlannerPolicy
from starry_ros.types import F64, Canvas, Plan, Record
from starry_ros.wam.choices import PlanMode, SpliceMethod
from starry_ros.wam.load import load_session
from starry_ros.wam.planner import PlannerConfig

SHARES = (0.25, 0.5, 0.8)
METHODS = (SpliceMethod.PUT_BACK, SpliceMethod.LINEAR_BLEND, SpliceMethod.HARD_SWITCH)
LIMIT_S = 6.0
LOOK_HZ = 50.0
COLUMNS = ("mode", "splice", "latency_s", "stall_share", "splice_jump", "jerk", "chunk_age_s", "delay_s", "success")


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
        jerk_NJ = np.diff(np.array(self.positions), n=3, axis=0) * LOOK_HZ**3 / spec.limit("jerk")
        return float(np.sqrt((jerk_NJ**2).mean()))


def run(robot: RobotSpec, model: str = "tiny", episodes: int = 1) -> list[Record]:
    """A row `planning/stall_<mode>_<splice>_<percent>` for every mode and latency; its value is the stall share."""
    cell, session = Cell(robot), load_session(model_dir(model), robot)
    ways = [(PlanMode.SYNC, SpliceMethod.AUTO), (PlanMode.ASYNC_NAIVE, SpliceMethod.AUTO)]
    methods = METHODS + ((SpliceMethod.TRAINED_PREFIX,) if session.runtime.config.prefix_steps else ())
    methods += (SpliceMethod.GUIDED,) if session.runtime.name == "torch" else ()
    ways += [(PlanMode.ASYNC_GROUNDED, method) for method in methods]
    rows = []
    for share in SHARES:
        latency_s = share * PlannerConfig.execute_s
        for mode, splice in ways:
            loop = LoopConfig(latency_s, max(latency_s, LoopConfig.replan_s), limit_s=LIMIT_S, mode=mode, splice=splice)
            policy = PlannerPolicy(session, loop)
            results, jerks = [], []
            for seed in range(episodes):
                commands = Commands()
                results.append(run_episode(policy, cell, Case(seed), loop, commands))
                jerks.append(commands.jerk(robot))
            stall = float(np.mean([r.stall_share for r in results]))
            rows.append(bench_row(
                f"planning/stall_{mode}_{splice}_{round(100 * share)}", stall, "share", mode=str(mode),
                splice=str(splice) if mode is PlanMode.ASYNC_GROUNDED else "-", latency_s=latency_s, stall_share=stall,
                splice_jump=max(r.splice_jump for r in results), jerk=float(np.mean(jerks)),
                chunk_age_s=float(np.mean([r.chunk_age_s for r in results])), delay_s=max(r.delay_s for r in results),
                success=float(np.mean([r.success for r in results])), episodes=episodes,
            ))
    cell.close()
    print_table(rows, COLUMNS)
    print()
    return rows
