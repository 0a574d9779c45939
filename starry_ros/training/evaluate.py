"""Success of policies in closed loop without ROS: `starry eval`, and the early evaluation of a training.

Every policy sees the same episodes, whose seeds never occur in training. Rows carry the success rate with its interval,
the same by colour, and what else was measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.errors import ConfigError
from starry_ros.paths import model_dir, robot_file
from starry_ros.report import EVALUATION_COLUMNS, print_table, write_report
from starry_ros.robot_spec import RobotSpec, load_robot_spec
from starry_ros.sim.cases import Case, require_case
from starry_ros.sim.cell import Cell
from starry_ros.sim.choices import COLOURS, KINDS, SETTINGS, Kind, LoopConfig
from starry_ros.sim.expert_policy import ExpertPolicy
from starry_ros.sim.loop import Policy, run_episode
from starry_ros.sim.tasks import TASKS
from starry_ros.training.ablate import ablate
from starry_ros.training.arguments import ABLATED, POLICIES, SUITES, Suite
from starry_ros.training.cells import kept_cell
from starry_ros.training.measure import Meter
from starry_ros.training.policies import policy_of
from starry_ros.training.pool import HERE, Workers
from starry_ros.training.report_page import write_page
from starry_ros.training.score import Score, compared, row
from starry_ros.training.strips import Strips
from starry_ros.types import Record
from starry_ros.wam.checkpoint import load_checkpoint, save_checkpoint
from starry_ros.wam.choices import SpliceMethod
from starry_ros.wam.load import load_session
from starry_ros.wam.model import WorldActionModel
from starry_ros.wam.session import Session, SessionConfig

COLUMNS = (
    *EVALUATION_COLUMNS, *COLOURS, "mean_s", "stall", "hit", "landing_px", "imagined", "copied", "plan_p50_ms",
    "plan_p95_ms", "failures",
)
AGAINST_FIRST = ("won", "lost", "by_chance")
"""Columns where several models are compared."""
PLAYED_ONCE = ("expert", "untrained")
"""Policies that play beside the first model only, where several are compared."""
SUCCESSES_SHOWN = 10
"""One in so many seeds is pictured also when it succeeds."""
DEFAULTS = LoopConfig()


@dataclass(frozen=True)
class Job:
    """One episode of one policy."""

    policy: str
    model: Path | None
    spec: RobotSpec
    case: Case
    runtime: str
    config: LoopConfig
    geometry: str | None = None


_KEPT: dict[Any, Any] = {}
"""Policies of this process, so that a worker loads each once."""


def play(job: Job) -> Score:
    """Run one job in this process."""
    spec = job.spec
    cell = kept_cell(spec)
    task = "" if job.model else job.case.task
    key = (spec.content_hash, job.policy, job.model, job.runtime, task, job.config, job.geometry)
    if key not in _KEPT:
        _KEPT[key] = _policy(job, cell)
    policy, session = _KEPT[key]
    horizon_s = 0.0
    if session is not None:
        session.epoch = job.case.seed  # noise depends on it: no episode depends on what this process played before
        horizon_s = session.runtime.config.future_steps * spec.action.step_s
    meter = Meter(cell, job.case.task, horizon_s)
    result = run_episode(policy, cell, job.case, job.config, meter)
    if result.success and job.case.seed % SUCCESSES_SHOWN:
        result = dataclasses.replace(result, frames=())
    return Score(job.policy, result, meter.quality())


def _policy(job: Job, cell: Cell) -> tuple[Policy, Session | None]:
    """The policy, and the session in it."""
    if job.policy == "expert" or job.model is None:
        return ExpertPolicy(cell, job.case.task), None
    session = load_session(job.model, cell.spec, job.runtime, SessionConfig(imagine=job.policy == "model"),
                           scene=True, geometry=job.geometry, guided=job.config.splice == SpliceMethod.GUIDED)
    if job.policy.startswith(ABLATED):
        ablate(session.runtime, job.policy.removeprefix(ABLATED))
    return policy_of(session, cell, job.config), session


def untrained_copy(folder: Path, out: Path, spec: RobotSpec, seed: int) -> Path:
    """A model folder of the same architecture with random weights."""
    checkpoint = load_checkpoint(folder, spec)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        weights = WorldActionModel(checkpoint.config).state_dict()
    save_checkpoint(out, dataclasses.replace(checkpoint, model=weights, training={"untrained_seed": seed}))
    return out


def run_scores(jobs: Sequence[Job], workers: Workers) -> list[Score]:
    """All jobs, with one line of progress; in the order of `jobs`."""
    scores: list[Score] = []
    for score in workers.run(play, jobs):
        scores.append(score)
        _progress(scores, len(jobs))
    order = {(job.policy, job.case): i for i, job in enumerate(jobs)}
    return sorted(scores, key=lambda score: order[score.policy, score.result.case])


def _progress(scores: Sequence[Score], total: int) -> None:
    parts = []
    for policy in dict.fromkeys(score.policy for score in scores):
        successes = [score.result.success for score in scores if score.policy == policy]
        parts.append(f"{policy} {sum(successes)}/{len(successes)}")
    last = scores[-1].result
    outcome = "ok" if last.success else last.failure
    line = f"{len(scores)}/{total}  {', '.join(parts)}  (seed {last.case.seed}: {outcome}, {last.duration_s:.1f} s)"
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="" if len(scores) < total else "\n", file=sys.stderr, flush=True)
    elif len(scores) % 10 == 0 or len(scores) == total:
        print(line, file=sys.stderr, flush=True)


def evaluate(
    model: Path | None, spec: RobotSpec, episodes: int, seed: int = 0, workers: Workers = HERE,
    case: Kind = "normal", *, policies: Sequence[str] = ("model",), task: str = "place_block_pad",
    setting: str = "easy", runtime: str = "auto", config: LoopConfig = DEFAULTS, strips: Strips | None = None,
    geometry: str | None = None,
) -> list[Record]:
    """One row a policy over the evaluation episodes `seed` .. `seed + episodes - 1`.

    `model` may be None if only the expert plays; `geometry` overrides what weighs the actions' attention. `strips`
    takes pictures of the failed episodes.
    """
    if set(policies) - {"expert"} and model is None:
        raise ConfigError("evaluate", "no model was given", expected="a model folder")
    config = dataclasses.replace(config, keep_frames=strips is not None)
    cases = [Case(seed + i, case, task, setting) for i in range(episodes)]
    with tempfile.TemporaryDirectory(prefix="starry_untrained_") as scratch:
        models = dict.fromkeys(policies, model)
        if "untrained" in policies and model is not None:
            models["untrained"] = untrained_copy(model, Path(scratch), spec, seed)
        engines = {**dict.fromkeys(policies, runtime), "untrained": "torch"}
        jobs = [Job(policy, models[policy], spec, one, engines[policy], config, geometry)
                for policy in policies for one in cases]
        scores = run_scores(jobs, workers)
    if strips is not None:
        for score in scores:
            strips.write(score)
    loop = {"mode": config.mode, "latency_s": config.latency_s}
    return [{**row(policy, [score for score in scores if score.policy == policy]), **loop} for policy in policies]


def evaluate_command(args: argparse.Namespace) -> int:
    """`starry eval`: prints the table and returns 0."""
    policies = POLICIES if args.policy == "all" else (args.policy,)
    policies = (*policies, *(ABLATED + name for name in args.ablation))
    spec = load_robot_spec(robot_file(args.robot))
    models: dict[str, Path | None] = {"": None} if policies == ("expert",) else {
        name: model_dir(name) for name in args.model}
    several = len(models) > 1
    rows, pictures = list[Record](), list[Path]()
    loops = [LoopConfig(latency_s, args.replan, mode=mode, splice=args.splice)
             for mode, latency_s in product(args.mode, args.latency)]
    with Workers(args.workers) as workers:
        for (task, setting, case), loop, (i, name) in product(_suite(args), loops, enumerate(models)):
            found = evaluate(
                models[name], spec, args.episodes, args.seed, workers, case, task=task, setting=setting,
                policies=[policy for policy in policies if i == 0 or policy not in PLAYED_ONCE], runtime=args.runtime,
                strips=_strips(args, name if several else "", _named(loop) if len(loops) > 1 else "", pictures),
                geometry=args.geometry, config=loop,
            )
            rows += [{**r, "model": None if r["policy"] == "expert" else name} for r in found] if several else found
    rows = compared(rows) if several else rows
    columns = COLUMNS if len(loops) == 1 else ("mode", "latency_s", *COLUMNS)
    columns = ("case", "played", *columns) if any(r["case"] != "normal" for r in rows) else columns
    columns = ("model", *columns, *AGAINST_FIRST) if several else columns
    print_table([{**r, "failures": _words(r["failures"])} for r in rows], columns)
    meta = {
        "seed": args.seed, "suite": args.suite, "case": args.case,
        "model": ", ".join(str(path) for path in models.values() if path) or None,
        "runtime": args.runtime, "geometry": args.geometry, "robot": spec.name,
        "contract_hash": spec.content_hash, "layout_hash": t_pose_layout(spec).layout_hash,
        "latency_s": args.latency, "replan_s": args.replan, "mode": args.mode, "splice": args.splice,
    }
    if args.json:
        write_report(args.json, rows, **meta)
    if args.report:
        write_report(args.report / "report.json", rows, **meta)
        print(write_page(args.report, rows, sorted(pictures), meta))
    return 0


def _strips(args: argparse.Namespace, model: str, loop: str, written: list[Path]) -> Strips | None:
    """Where pictures go, if any are wanted."""
    folder = args.report / "pictures" if args.report else args.strips
    return None if folder is None else Strips(folder / model.strip("/").replace("/", "_"), loop, written)


def _named(loop: LoopConfig) -> str:
    """A way of planning, for the names of pictures."""
    return f"{loop.mode}_{loop.latency_s:g}s"


def _suite(args: argparse.Namespace) -> Suite:
    """What is measured: (task, setting, case). Raises ConfigError on a case that a task lacks, or on a setting, task or
    case that the suite lacks, before any is played.
    """
    if args.suite:
        return _chosen(args)
    tasks = TASKS if args.task == "all" else (args.task or TASKS[0],)
    case = args.case or KINDS[0]
    for task in tasks:
        require_case(task, case)
    return tuple((task, args.setting or SETTINGS[0], case) for task in tasks)


def _chosen(args: argparse.Namespace) -> Suite:
    """What of a suite was asked for."""
    suite: Suite = SUITES[args.suite]
    wanted = (None if args.task == "all" else args.task, args.setting, args.case)
    if args.setting not in (None, *(setting for _, setting, _ in suite)):
        raise ConfigError("--setting", f"is not that of suite {args.suite}, which brings its own", got=args.setting,
                          fix="leave out --setting, or choose another suite")
    chosen = tuple(row for row in suite
                   if all(want in (None, value) for want, value in zip(wanted, row, strict=True)))
    if not chosen:
        raise ConfigError("--task, --case", f"leave nothing of suite {args.suite}",
                          got=", ".join(filter(None, (args.task, args.case))),
                          expected="; ".join(sorted({f"{task} {case}" for task, _, case in suite})))
    return chosen


def _words(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "-"
