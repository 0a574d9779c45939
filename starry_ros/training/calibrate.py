"""`starry calibrate`: what surprise is usual for a model, measured in closed loop, and how well a disturbance is told.

Undisturbed episodes give mean, spread and thresholds (every third of them is held out for the thresholds). In pushed
episodes a block is nudged by an unseen hand: frames imagined before a nudge that came after it should surprise.

Shapes: N tokens, S samples.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field

import numpy as np

from starry_ros.errors import ConfigError
from starry_ros.paths import model_dir, robot_file
from starry_ros.report import BENCH_COLUMNS, bench_row, print_table, write_report
from starry_ros.robot_spec import load_robot_spec
from starry_ros.sim.cases import Case
from starry_ros.sim.cell import COLOURS, Cell
from starry_ros.sim.loop import LoopConfig, run_episode
from starry_ros.training.planner_policy import PlannerPolicy
from starry_ros.types import F32, F64, Canvas, Plan, RobotState
from starry_ros.wam.config import WamConfig
from starry_ros.wam.load import load_session
from starry_ros.wam.surprise import Calibration, Dream, Ints, calibrate, roc_area

MOVED_M = 0.01


@dataclass
class Comparisons:
    """A policy that keeps every dream with the frame that came, and where the blocks were at every observation."""

    policy: PlannerPolicy
    cell: Cell
    pairs: list[tuple[Dream, F32]] = field(default_factory=list)
    blocks: dict[int, F64] = field(default_factory=dict)

    def __post_init__(self) -> None:
        monitor = self.policy.planner.monitor
        compare = monitor.compare

        def kept(stamp_ns: int, real_ND: F32) -> Dream | None:
            dream = compare(stamp_ns, real_ND)
            if dream is not None:
                self.pairs.append((dream, real_ND))
            return dream

        monitor.compare = kept  # type: ignore[method-assign]

    def reset(self, instruction: str) -> int:
        self.pairs, self.blocks = [], {}
        return self.policy.reset(instruction)

    def set_instruction(self, text: str) -> int:
        return self.policy.set_instruction(text)

    def plan(self, canvas: Canvas, state: RobotState) -> Plan:
        free = self.cell.held("right") is None and self.cell.held("left") is None
        where = np.array([self.cell.block_position(colour) for colour in COLOURS])
        self.blocks[canvas.stamp_ns] = where if free else np.full_like(where, np.nan)
        return self.policy.plan(canvas, state)

    def moved(self, dream: Dream, ahead_ns: int) -> bool | None:
        """Whether a free block was moved between dream and frame; None where a hand held one."""
        stamps = np.array(sorted(self.blocks))
        ends = [stamps[np.abs(stamps - time_ns).argmin()] for time_ns in (dream.due_ns - ahead_ns, dream.due_ns)]
        distance = np.linalg.norm(self.blocks[int(ends[1])] - self.blocks[int(ends[0])], axis=1).max()
        return None if np.isnan(distance) else bool(distance > MOVED_M)


def calibrate_command(args: argparse.Namespace) -> int:
    """Measure, write surprise.json into the model's folder, and report the area under the ROC curve."""
    if args.episodes < 3 or args.pushed < 1:
        got = args.episodes, args.pushed
        raise ConfigError("starry calibrate", "too few episodes", got=got, expected=">= 3 undisturbed, 1 pushed")
    spec, folder = load_robot_spec(robot_file(args.robot)), model_dir(args.model)
    cell, loop = Cell(spec), LoopConfig()
    session = load_session(folder, spec, args.runtime)
    model = session.runtime.config
    if not isinstance(model, WamConfig):
        raise ConfigError(str(folder), "is of Wan's size: surprise is calibrated for models trained here alone")
    ahead_ns = round(model.future_steps * spec.action.step_s * 1e9)
    play = Comparisons(PlannerPolicy(session, loop), cell)
    tokens_M = still_tokens(model, {camera.name for camera in spec.cameras if camera.role == "head"})
    usual: list[list[tuple[Dream, F32]]] = []
    for i in range(args.episodes):
        run_episode(play, cell, Case(args.seed + i, task=args.task), loop)
        usual.append(list(play.pairs))
        print(f"undisturbed {i + 1}/{args.episodes}: {len(play.pairs)} frames", file=sys.stderr, flush=True)
    fitted = [one for i, episode in enumerate(usual) if i % 3 for one in episode]
    held_out = [one for i, episode in enumerate(usual) if not i % 3 for one in episode]
    calibration = calibrate(fitted, held_out, tokens_M, model.columns)
    calm, disturbed = _pushed(args, play, calibration, loop, ahead_ns)
    calm += [calibration.surprise(dream, real) for dream, real in held_out]
    cell.close()
    area = roc_area(calm, disturbed) if disturbed else float("nan")
    rows = [
        bench_row("surprise/roc_area", area, "", usual=len(calm), disturbed=len(disturbed)),
        bench_row("surprise/slow_at", calibration.slow_at, "deviations"),
        bench_row("surprise/stop_at", calibration.stop_at, "deviations"),
        bench_row("surprise/usual_that_slow", float(np.mean(np.array(calm) >= calibration.slow_at)), "share"),
        bench_row("surprise/disturbed_that_slow", float(np.mean(np.array(disturbed) >= calibration.slow_at)), "share"),
    ]
    print_table(rows, BENCH_COLUMNS)
    if not args.dry_run:
        calibration.save(folder)
    if args.json is not None:
        write_report(args.json, rows, seed=args.seed, model=folder)
    return 0


def still_tokens(model: WamConfig, cameras: set[str]) -> Ints:
    """Tokens whose centre lies in the view of one of these cameras, which do not move with the arms."""
    row_N, column_N = np.divmod(np.arange(model.frame_tokens), model.columns)
    x_N, y_N = (column_N + 0.5) * model.token_px, (row_N + 0.5) * model.token_px
    inside_N = np.zeros(model.frame_tokens, dtype=bool)
    for view in model.views:
        if view.camera in cameras:
            across = (view.x_px <= x_N) & (x_N < view.x_px + view.width_px)
            inside_N |= across & (view.y_px <= y_N) & (y_N < view.y_px + view.height_px)
    return np.flatnonzero(inside_N)


def _pushed(
    args: argparse.Namespace, play: Comparisons, calibration: Calibration, loop: LoopConfig, ahead_ns: int
) -> tuple[list[float], list[float]]:
    """Surprise of undisturbed and of disturbed frames of pushed episodes."""
    calm: list[float] = []
    disturbed: list[float] = []
    for i in range(args.pushed):
        run_episode(play, play.cell, Case(args.seed + args.episodes + i, "push", args.task), loop)
        for dream, real in play.pairs:
            moved = play.moved(dream, ahead_ns)
            if moved is not None:
                (disturbed if moved else calm).append(calibration.surprise(dream, real))
        print(f"pushed {i + 1}/{args.pushed}: {len(disturbed)} disturbed frames", file=sys.stderr, flush=True)
    return calm, disturbed
