"""Make demonstrations of a task with the scripted expert: `generate` writes a folder of episodes and a meta.json.

Every motion has its own seed, so the same call gives the same data; a broken run resumes with what is missing. With
K looks, motion i gives the episodes i K to i K + K - 1.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from starry_ros.errors import DataError
from starry_ros.files import write_text
from starry_ros.kinematics.backend import mujoco
from starry_ros.paths import model_dir, robot_file
from starry_ros.robot_spec import load_robot_spec
from starry_ros.sim.cell import Cell, Layout
from starry_ros.sim.experts import make_expert
from starry_ros.sim.motion import TICK_S, Ramp
from starry_ros.sim.tasks import draw_layout, episode_rng, make_check, sentence, task_of
from starry_ros.training.cells import kept_cell
from starry_ros.training.disturb import kinds_of, make_disturber
from starry_ros.training.episodes import ATTEMPTS, EXTRA_S, TICKS_PER_FRAME, Recorder, Source
from starry_ros.training.film import films
from starry_ros.training.pool import run_jobs
from starry_ros.training.summary import summary
from starry_ros.types import Record

BESIDE_PAD, BESIDE_M = 0.25, 0.115
"""Share of layouts whose named block lies beside the pad, and how near that is."""


@dataclass(frozen=True)
class Outcome:
    """One finished motion: its kind, its frames and the failed attempts before it."""

    kind: str
    frames: int
    failed: int


def record_episode(cell: Cell, source: Source, episode: int, attempt: int) -> tuple[Recorder, str, bool]:
    """Run and record one motion; returns its record, its kind (drawn if None) and whether the task succeeded."""
    task = source.task
    rng = episode_rng("train", source.seed, episode, attempt)
    kinds = kinds_of(task)
    drawn = str(rng.choice(list(kinds), p=list(kinds.values())))
    kind = source.kind or drawn
    targets = rng.permutation(np.array(task_of(task).targets))
    templates = len(task_of(task).templates)
    template, layout = int(rng.integers(templates)), _layout(rng, task, str(targets[0]), source.setting)
    expert = make_expert(task, cell)
    disturber = make_disturber(task, rng, kind, expert, str(targets[0]))
    cell.reset(layout, disturber.start(cell.spec, layout))
    recorder = Recorder(cell, task, expert, films(cell, source.further_looks(episode, attempt), source.depth))
    check = make_check(task, disturber.colour)
    done_s = float("inf")
    tail_s = 2.0 if rng.random() < 0.15 else 0.6
    ramp, tick = Ramp(cell.spec), 0
    while cell.sim_time_s < min(task_of(task).time_limit_s + EXTRA_S, done_s + tail_s):
        if disturber.colour != check.colour:
            check, template = make_check(task, disturber.colour), int(rng.integers(templates))
        scene = expert.look(cell)
        if tick % TICKS_PER_FRAME == 0:
            recorder.frame(scene, check.colour, sentence(check.colour, template, task))
        wish = disturber.wish(cell, scene, expert.follow(cell.command_J, expert.motion(scene, check.colour)))
        cell.apply(disturber.push(cell, scene, ramp.toward(cell.command_J, wish)))
        cell.advance(TICK_S)
        recorder.log.update(cell)
        if check.update(cell):
            done_s = min(done_s, cell.sim_time_s)
        tick += 1
    return recorder, kind, bool(np.isfinite(done_s))


def _layout(rng: np.random.Generator, task: str, target: str, setting: str) -> Layout:
    """A layout; with one block and one pad, in some the block lies beside the pad, as if it had been placed."""
    beside = task == "place_block_pad" and rng.random() < BESIDE_PAD
    while True:
        layout = draw_layout(rng, task, target, setting)
        if not beside:
            return layout
        block = layout.blocks[target]
        if math.hypot(block.x_m - layout.pad_x_m, block.y_m - layout.pad_y_m) < BESIDE_M:
            return layout


def _work(source: Source, folder: str, episode: int) -> Outcome:
    """Record one motion, trying further seeds until it succeeds, and write each of its episodes in one move."""
    cell = kept_cell(load_robot_spec(str(source.robot)))
    for attempt in range(ATTEMPTS):
        record = record_episode if source.model is None else _corrected
        recorder, drawn, success = record(cell, source, episode, attempt)
        if success:
            for number, arrays in enumerate(recorder.episodes(), episode * source.looks):
                part = Path(folder) / f"{number:06d}.npz.partial"
                with part.open("wb") as file:
                    np.savez(file, **arrays, kind=np.array(drawn), failed=np.array(attempt))  # type: ignore[arg-type]
                part.rename(Path(folder) / f"{number:06d}.npz")
            return Outcome(drawn, len(recorder), attempt)
    raise DataError(f"episode {episode}", f"the expert failed {ATTEMPTS} times in a row", fix="use another seed")


def _corrected(cell: Cell, source: Source, episode: int, attempt: int) -> tuple[Recorder, str, bool]:
    from starry_ros.training.correct import record_corrected  # loads engines, which the expert alone does not need

    return record_corrected(cell, source, episode, attempt)


def generate(out: Path, source: Source, motions: int, workers: int = 1) -> Record:
    """Write the demonstrations of `motions` motions under `out` and return the contents of its meta.json.

    That counts all episodes which lie there, since training takes them all: an earlier call may have made more.
    Raises DataError if `out` holds data of another source.
    """
    spec, folder = load_robot_spec(source.robot), out / "episodes"
    folder.mkdir(parents=True, exist_ok=True)
    _claim(out, source.claim(spec))
    files = [folder / f"{i:06d}.npz" for i in range(motions * source.looks)]
    missing = sorted({i // source.looks for i, path in enumerate(files) if not path.exists()})
    started = time.monotonic()
    for count, outcome in enumerate(run_jobs(partial(_work, source, str(folder)), missing, workers), 1):
        _progress(count, len(missing), outcome, time.monotonic() - started)
    made_by = {"tasks": [source.task], "setting": source.setting, "seed": source.seed,
               "versions": {"mujoco": mujoco.__version__, "numpy": np.__version__}}
    meta = made_by | summary(sorted(folder.glob("*.npz")), spec)
    write_text(out / "meta.json", json.dumps(meta, indent=1) + "\n")
    return meta


def _claim(out: Path, claim: Record) -> None:
    """Note what this folder is made from, or check that it is the same."""
    path = out / "source.json"
    if not path.exists():
        write_text(path, json.dumps(claim) + "\n")
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(str(path), f"cannot be read: {error}", fix="choose another folder") from error
    if found != claim:
        raise DataError(str(out), "holds other data", got=found, expected=claim, fix="choose another folder")


def _progress(count: int, total: int, outcome: Outcome, elapsed_s: float) -> None:
    """One line that stays in place on a terminal; every twentieth episode elsewhere."""
    left_s = elapsed_s / count * (total - count)
    line = f"{count}/{total} motions, {outcome.kind}, {outcome.frames} frames; {elapsed_s:.0f} s, {left_s:.0f} s left"
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="" if count < total else "\n", file=sys.stderr, flush=True)
    elif count % 20 == 0 or count == total:
        print(line, file=sys.stderr, flush=True)


def generate_command(args: argparse.Namespace) -> int:
    """`starry data generate`: returns 0 when all episodes are written."""
    model = None if args.model is None else model_dir(args.model)
    robot = robot_file(args.robot)
    source = Source(args.task, args.seed, robot, args.setting, args.kind, args.depth, model, args.looks)
    meta = generate(args.out, source, args.episodes, args.workers)
    print(f"{args.out}: {meta['episodes']} episodes, {meta['frames']} frames, data hash {meta['data_hash']}")
    return 0
