"""Make demonstrations of a task with the scripted expert: `generate` writes a folder of episodes and a meta.json.

Every episode has its own seed, so the same call gives the same data; a broken run resumes with the missing episodes.
Format of `episodes/000000.npz`: T frames at 10 Hz, J = 14 joints (contract order), K = 16 plan steps, E = 2 events,
V = 3 views, F = 5; see `Recorder.arrays`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.canvas.pack import CanvasPacker
from starry_ros.errors import ConfigError, DataError
from starry_ros.kinematics.backend import mujoco
from starry_ros.paths import robot_file
from starry_ros.robot_spec import RobotSpec, load_robot_spec
from starry_ros.sim.cell import Cell, Layout
from starry_ros.sim.choices import STAGES
from starry_ros.sim.experts import Expert, make_expert
from starry_ros.sim.motion import TICK_S, Ramp
from starry_ros.sim.tasks import TASKS, draw_layout, episode_rng, make_check, sentence, task_of
from starry_ros.training.annotate import ContactLog, Snapshot, label, snapshot
from starry_ros.training.disturb import kinds_of, make_disturber
from starry_ros.training.pool import run_jobs
from starry_ros.training.scenes import observe_scene
from starry_ros.types import Record

FORMAT_VERSION = 1
TICKS_PER_FRAME = 5
EXTRA_S = 4.0
"""How much longer than the task's own limit a disturbed episode may take."""
ATTEMPTS = 8
BESIDE_PAD, BESIDE_M = 0.25, 0.115
"""Share of layouts whose named block lies beside the pad, and how near that is."""


@dataclass(frozen=True)
class Outcome:
    """One finished episode: number, kind, frames, frames with an empty closed jaw, failed attempts before it."""

    episode: int
    kind: str
    frames: int
    empty_closed: int
    failed: int


class Recorder:
    """Records the frames of one episode."""

    def __init__(self, cell: Cell, task: str, expert: Expert, depth: bool = False) -> None:
        self._cell, self._task, self._expert, self._depth = cell, task, expert, depth
        self._layout = t_pose_layout(cell.spec)
        self._packer = CanvasPacker(self._layout)
        self._rows: list[dict[str, Any]] = []
        self._shots: list[Snapshot] = []
        self._texts: list[str] = []
        self.log = ContactLog()

    def frame(self, scene: Any, colour: str, text: str) -> None:
        """Record images, joints, the expert's plan and task state of this instant."""
        cell, cameras = self._cell, self._layout.cameras
        stage = self._expert.stage(scene, colour)
        state = cell.state(0)
        if text not in self._texts:
            self._texts.append(text)
        self._shots.append(snapshot(cell, cameras, colour, stage, self._expert.contacts(scene, colour)))
        self._rows.append({
            "canvas_THWC": self._packer.pack_images({camera: cell.render(camera) for camera in cameras}),
            "position_TJ": state.position_J.astype(np.float32),
            "velocity_TJ": state.velocity_J.astype(np.float32),
            "command_TJ": cell.command_J.astype(np.float32),
            "plan_TKJ": self._expert.plan(cell, colour).astype(np.float32),
            "stage_T": np.int8(STAGES.index(stage)),
            "empty_closed_T": self._expert.empty_jaw(scene, cell.pinch_position(self._expert.arm)),
            "time_s_T": np.float32(cell.sim_time_s),
            "text_T": np.int32(self._texts.index(text)),
            **(observe_scene(cell, self._layout) if self._depth else {}),
        })

    def arrays(self) -> dict[str, np.ndarray]:
        """The episode's arrays: rows stacked over T, sentences and value labels."""
        stacked = {name: np.stack([row[name] for row in self._rows]) for name in self._rows[0]}
        events = label(self._shots, self.log, self._layout, self._task)
        if self._depth:
            stacked["camera_V4"] = stacked["camera_V4"][0]
        return {**stacked, "events_TEVF": events, "texts": np.array(self._texts)}


def record_episode(
    cell: Cell, task: str, seed: int, episode: int, attempt: int, depth: bool = False,
    setting: str = "easy", kind: str | None = None,
) -> tuple[dict[str, np.ndarray], str, bool]:
    """Run and record one episode; returns its arrays, its kind (drawn if None) and whether the task succeeded."""
    rng = episode_rng("train", seed, episode, attempt)
    kinds = kinds_of(task)
    drawn = str(rng.choice(list(kinds), p=list(kinds.values())))
    kind = kind or drawn
    targets = rng.permutation(np.array(task_of(task).targets))
    templates = len(task_of(task).templates)
    template, layout = int(rng.integers(templates)), _layout(rng, task, str(targets[0]), setting)
    expert = make_expert(task, cell)
    disturber = make_disturber(task, rng, kind, expert, str(targets[0]))
    cell.reset(layout, disturber.start(cell.spec, layout))
    recorder, check = Recorder(cell, task, expert, depth), make_check(task, disturber.colour)
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
    return recorder.arrays(), kind, bool(np.isfinite(done_s))


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


_CELLS: dict[str, Cell] = {}
"""The one cell of a worker process, by robot contract path."""


def _work(
    robot: str, task: str, folder: str, seed: int, episode: int, depth: bool = False, setting: str = "easy",
    kind: str | None = None,
) -> Outcome:
    """Record one episode, trying further seeds until the expert succeeds, and write it in one move."""
    cell = _CELLS.setdefault(robot, Cell(load_robot_spec(robot))) if robot not in _CELLS else _CELLS[robot]
    for attempt in range(ATTEMPTS):
        arrays, drawn, success = record_episode(cell, task, seed, episode, attempt, depth, setting, kind)
        if success:
            part = Path(folder) / f"{episode:06d}.npz.partial"
            with part.open("wb") as file:
                np.savez(file, **arrays, kind=np.array(drawn), failed=np.array(attempt))  # type: ignore[arg-type]
            part.rename(Path(folder) / f"{episode:06d}.npz")
            return Outcome(episode, drawn, len(arrays["time_s_T"]), int(arrays["empty_closed_T"].sum()), attempt)
    raise DataError(f"episode {episode}", f"the expert failed {ATTEMPTS} times in a row", fix="use another seed")


def generate(
    out: Path, task: str, episodes: int, seed: int, robot: Path, workers: int = 1, depth: bool = False,
    setting: str = "easy", kind: str | None = None,
) -> Record:
    """Write `episodes` demonstrations of `task` under `out` and return the contents of its meta.json.

    `depth` adds depth, cameras and hands of every frame (see `scenes`); `kind` makes all episodes of that kind.
    Raises ConfigError on an unknown task or kind, DataError if `out` holds data of another robot or seed.
    """
    if task not in TASKS:
        raise ConfigError("generate", "unknown task", got=task, expected=list(TASKS))
    if kind is not None and kind not in kinds_of(task):
        raise ConfigError("generate", f"{task} has no such kind of episode", got=kind, expected=list(kinds_of(task)))
    spec, folder = load_robot_spec(robot), out / "episodes"
    folder.mkdir(parents=True, exist_ok=True)
    _claim(out, spec, task, seed, depth, setting, kind)
    missing = [i for i in range(episodes) if not (folder / f"{i:06d}.npz").exists()]
    started = time.monotonic()
    work = partial(_work, str(robot), task, str(folder), seed, depth=depth, setting=setting, kind=kind)
    for count, outcome in enumerate(run_jobs(work, missing, workers), 1):
        _progress(count, len(missing), outcome, time.monotonic() - started)
    meta = _meta(out, spec, task, seed, episodes, setting)
    (out / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
    return meta


def _claim(
    out: Path, spec: RobotSpec, task: str, seed: int, depth: bool, setting: str, kind: str | None
) -> None:
    """Note what this folder is made from, or check that it is the same."""
    options = {"depth": depth or None, "setting": setting if setting != "easy" else None, "kind": kind}
    claim = {"task": task, "seed": seed, "contract_hash": spec.content_hash, "format_version": FORMAT_VERSION,
             **{name: value for name, value in options.items() if value is not None}}
    path = out / "source.json"
    if path.exists():
        found = json.loads(path.read_text())
        if found != claim:
            raise DataError(str(out), "holds other data", got=found, expected=claim, fix="choose another folder")
    path.write_text(json.dumps(claim) + "\n")


def _progress(count: int, total: int, outcome: Outcome, elapsed_s: float) -> None:
    """One line that stays in place on a terminal; every twentieth episode elsewhere."""
    left_s = elapsed_s / count * (total - count)
    line = f"{count}/{total} episodes, {outcome.kind}, {outcome.frames} frames; {elapsed_s:.0f} s, {left_s:.0f} s left"
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="" if count < total else "\n", file=sys.stderr, flush=True)
    elif count % 20 == 0 or count == total:
        print(line, file=sys.stderr, flush=True)


def _meta(out: Path, spec: RobotSpec, task: str, seed: int, episodes: int, setting: str) -> Record:
    """Counts and hashes over the finished episodes."""
    digest, kinds = hashlib.sha256(), Counter[str]()
    frames = empty = failed = 0
    for i in range(episodes):
        path = out / "episodes" / f"{i:06d}.npz"
        digest.update(hashlib.sha256(path.read_bytes()).digest())
        with np.load(path) as data:
            frames += len(data["time_s_T"])
            empty += int(data["empty_closed_T"].sum())
            failed += int(data["failed"])
            kinds[str(data["kind"])] += 1
    return {
        "format_version": FORMAT_VERSION, "tasks": [task], "setting": setting, "seed": seed,
        "episodes": episodes, "frames": frames, "frame_hz": 1 / (TICK_S * TICKS_PER_FRAME),
        "empty_closed_frames": empty, "failed_attempts": failed, "kinds": dict(kinds),
        "robot": spec.name, "contract_hash": spec.content_hash, "joint_names": list(spec.joint_names),
        "layout_hash": t_pose_layout(spec).layout_hash, "data_hash": digest.hexdigest()[:16],
        "versions": {"mujoco": mujoco.__version__, "numpy": np.__version__},
    }


def generate_command(args: argparse.Namespace) -> int:
    """`starry data generate`: returns 0 when all episodes are written."""
    if args.episodes < 1 or args.workers < 1 or args.seed < 0:
        raise ConfigError("starry data generate", "--episodes and --workers must be positive, --seed not negative")
    robot = robot_file(args.robot)
    meta = generate(args.out, args.task, args.episodes, args.seed, robot, args.workers, args.depth, args.setting,
                    args.kind)
    print(f"{args.out}: {meta['episodes']} episodes, {meta['frames']} frames, data hash {meta['data_hash']}")
    return 0
