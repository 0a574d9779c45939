"""`starry calibrate`: what surprise and progress are usual for a model, in closed loop, and how well they tell.

A sample is what two plans in a row say while the hands are free. Undisturbed episodes give mean, spread and thresholds
(every third of them is held out for the thresholds, that of progress too, and for the comparison). In pushed episodes a
block is nudged by an unseen hand: samples in which a free block went more than MOVED_M are disturbed, those in which it
stayed are not.

Shapes: N tokens, S samples.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TypeVar

import numpy as np

from starry_ros.errors import ConfigError
from starry_ros.paths import model_dir, robot_file
from starry_ros.report import BENCH_COLUMNS, bench_row, print_table, write_report
from starry_ros.robot_spec import load_robot_spec
from starry_ros.sim.cases import Case, require_case
from starry_ros.sim.cell import Cell
from starry_ros.sim.choices import COLOURS, LoopConfig
from starry_ros.sim.loop import run_episode
from starry_ros.training.planner_policy import PlannerPolicy
from starry_ros.types import F32, F64, ActionChunk, Canvas, Plan, RobotState
from starry_ros.wam.aim import Aim, shift
from starry_ros.wam.config import WamConfig
from starry_ros.wam.load import load_session
from starry_ros.wam.surprise import BEHIND, Calibration, Dream, Ints, calibrate, roc_area

MOVED_M, STAYED_M = 0.01, 0.002
AFTER_S = 4.0
"""Undisturbed episodes go on after success: aims wander where nothing is left to do, and that must not stop arms."""

One = TypeVar("One")


@dataclass
class Comparisons:
    """A policy that keeps every dream with the frame that came, every aim, and where the blocks were then."""

    policy: PlannerPolicy
    cell: Cell
    pairs: list[tuple[Dream, F32]] = field(default_factory=list)
    aims: list[tuple[Aim | None, F64]] = field(default_factory=list)

    def __post_init__(self) -> None:
        monitor = self.policy.planner.monitor
        compare, take = monitor.compare, monitor.aim

        def compared(stamp_ns: int, real_ND: F32) -> Dream | None:
            dream = compare(stamp_ns, real_ND)
            if dream is not None:
                self.pairs.append((dream, real_ND))
            return dream

        def aimed(aim: Aim | None) -> None:
            self.aims.append((aim, self._blocks()))
            take(aim)

        monitor.compare, monitor.aim = compared, aimed  # type: ignore[method-assign]

    def _blocks(self) -> F64:
        """Positions of the blocks; nan while a hand holds one."""
        where = np.array([self.cell.block_position(colour) for colour in COLOURS])
        free = self.cell.held("right") is None and self.cell.held("left") is None
        return where if free else np.full_like(where, np.nan)

    def reset(self, instruction: str) -> int:
        self.pairs, self.aims = [], []
        return self.policy.reset(instruction)

    def set_instruction(self, text: str) -> int:
        return self.policy.set_instruction(text)

    def told(self, course: ActionChunk) -> None:
        self.policy.told(course)

    def plan(self, canvas: Canvas, state: RobotState) -> Plan:
        return self.policy.plan(canvas, state)

    def samples(self) -> list[tuple[float, float]]:
        """Shift of the aim, and how far a free block went meanwhile (nan where one was held)."""
        found = []
        for (before, there), (now, here) in pairwise(self.aims):
            moved = shift(before, now) if before is not None and now is not None else None
            if moved is not None:
                found.append((moved, float(np.linalg.norm(here - there, axis=1).max())))
        return found


def calibrate_command(args: argparse.Namespace) -> int:
    """Measure, write surprise.json into the model's folder, and report the area under the ROC curve."""
    if args.episodes < 3 or args.pushed < 1:
        got = args.episodes, args.pushed
        raise ConfigError("starry calibrate", "too few episodes", got=got, expected=">= 3 undisturbed, 1 pushed")
    require_case(args.task, "push")
    spec, folder = load_robot_spec(robot_file(args.robot)), model_dir(args.model)
    cell, loop = Cell(spec), LoopConfig()
    session = load_session(folder, spec, args.runtime)
    model = session.runtime.config
    if not isinstance(model, WamConfig):
        raise ConfigError(str(folder), "is of Wan's size: surprise is calibrated for models trained here alone")
    play = Comparisons(PlannerPolicy(session, loop), cell)
    tokens_M = still_tokens(model, {camera.name for camera in spec.cameras if camera.role == "head"})
    frames, shifts = list[list[tuple[Dream, F32]]](), list[list[float]]()
    for i in range(args.episodes):
        run_episode(play, cell, Case(args.seed + i, task=args.task), replace(loop, after_s=AFTER_S))
        frames.append(play.pairs)
        shifts.append([moved for moved, _ in play.samples()])
        print(f"undisturbed {i + 1}/{args.episodes}: {len(shifts[-1])} samples", file=sys.stderr, flush=True)
    (fitted, held_out), (dreams, later) = _parted(shifts), _parted(frames)
    calibration = calibrate(dreams, fitted, held_out, later, tokens_M, model.columns)
    usual = [slow for episode in frames[::3] for slow in too_slow(calibration, episode)]
    calm, disturbed, behind = _pushed(args, play, loop, calibration)
    cell.close()
    slow_at = calibration.aim_mean + calibration.slow_at * calibration.aim_spread
    stop_at = calibration.aim_mean + calibration.stop_at * calibration.aim_spread
    rows = [
        bench_row("surprise/roc_area", roc_area(calm + held_out, disturbed) if disturbed else float("nan"), "",
                  usual=len(calm + held_out), disturbed=len(disturbed)),
        bench_row("surprise/slow_at", calibration.slow_at, "deviations"),
        bench_row("surprise/stop_at", calibration.stop_at, "deviations"),
        bench_row("surprise/usual_that_slow", float(np.mean(np.array(calm) >= slow_at)), "share",  # held_out chose it
                  usual=len(calm)),
        bench_row("surprise/disturbed_that_slow", float(np.mean(np.array(disturbed) >= slow_at)), "share"),
        bench_row("surprise/usual_that_stop", float(np.mean(np.array(calm) >= stop_at)), "share"),
        bench_row("surprise/disturbed_that_stop", float(np.mean(np.array(disturbed) >= stop_at)), "share"),
        bench_row("progress/slow_at", float("nan") if calibration.progress_at is None else calibration.progress_at,
                  "share"),
        bench_row("progress/usual_that_slow", float(np.mean(usual)), "share", usual=len(usual)),
        bench_row("progress/pushed_that_slow", float(np.mean(behind)), "share", pushed=len(behind)),
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


def _parted(episodes: list[list[One]]) -> tuple[list[One], list[One]]:
    """What is fitted, and what is held out: of every third episode."""
    fitted = [one for i, episode in enumerate(episodes) if i % 3 for one in episode]
    return fitted, [one for i, episode in enumerate(episodes) if not i % 3 for one in episode]


def too_slow(calibration: Calibration, frames: list[tuple[Dream, F32]]) -> list[bool]:
    """At which frames of an episode progress slows the arms."""
    found, behind = list[bool](), 0
    for dream, real_ND in frames:
        behind = calibration.behind(behind, dream, real_ND)
        found.append(behind >= BEHIND)
    return found


def _pushed(
    args: argparse.Namespace, play: Comparisons, loop: LoopConfig, calibration: Calibration
) -> tuple[list[float], list[float], list[bool]]:
    """Of pushed episodes: shifts of undisturbed and of disturbed samples, and at which frames progress slows."""
    calm, disturbed, behind = list[float](), list[float](), list[bool]()
    for i in range(args.pushed):
        run_episode(play, play.cell, Case(args.seed + args.episodes + i, "push", args.task), loop)
        for moved, distance_m in play.samples():
            calm += [moved] if distance_m < STAYED_M else []
            disturbed += [moved] if distance_m > MOVED_M else []
        behind += too_slow(calibration, play.pairs)
        print(f"pushed {i + 1}/{args.pushed}: {len(disturbed)} disturbed samples", file=sys.stderr, flush=True)
    return calm, disturbed, behind
