"""What a folder of demonstrations is made from, and the recorder of one episode, whoever acts in it.

Format of `episodes/000000.npz`: T frames at 10 Hz, J = 14 joints (contract order), K = 16 plan steps, E = 2 events,
V = 3 views, F = 5; see `Recorder.episodes`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from starry_ros.errors import ConfigError
from starry_ros.robot_spec import RobotSpec
from starry_ros.sim.cell import Cell
from starry_ros.sim.choices import STAGES, cases_of
from starry_ros.sim.experts import Expert
from starry_ros.sim.look import Look
from starry_ros.sim.motion import TICK_S
from starry_ros.sim.tasks import TASKS
from starry_ros.training.annotate import ContactLog
from starry_ros.training.disturb import kinds_of
from starry_ros.training.film import Arrays, Film
from starry_ros.training.form import progress_of
from starry_ros.training.summary import FORMAT_VERSION
from starry_ros.types import Record

TICKS_PER_FRAME = 5
FRAME_S = TICK_S * TICKS_PER_FRAME
ATTEMPTS = 16
"""Seeds tried for an episode."""
EXTRA_S = 4.0
"""How much longer than the task's own limit a disturbed episode may take."""


@dataclass(frozen=True)
class Source:
    """What the episodes of a folder are made from.

    `kind` makes all of that kind; `depth` adds depth, cameras and hands; with a `model` it is the model that acts first
    (`correct`), and a kind is a case forced upon it; every motion is filmed under `looks` looks. Raises ConfigError on
    an unknown task or kind, and on further looks in the easy setting, which has one.
    """

    task: str
    seed: int
    robot: Path
    setting: str = "easy"
    kind: str | None = None
    depth: bool = False
    model: Path | None = None
    looks: int = 1

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ConfigError("generate", "unknown task", got=self.task, expected=list(TASKS))
        if self.kind is not None and self.kind not in self._kinds():
            by = "the expert" if self.model is None else "a model"
            raise ConfigError("generate", f"{self.task} has no such kind of episode for {by} that begins it",
                              got=self.kind, expected=self._kinds())
        if self.looks < 1 or (self.looks > 1 and self.setting != "hard"):
            raise ConfigError("generate", "1 look at least, and several looks only in the hard setting", got=self.looks,
                              fix="add --setting hard")

    def _kinds(self) -> list[str]:
        """The expert is misled, in ways of its own; what comes upon a model is what `starry eval --case` forces."""
        return list(kinds_of(self.task)) if self.model is None else cases_of(self.task)

    def further_looks(self, episode: int, attempt: int) -> tuple[Look, ...]:
        """What else a motion is filmed under; the same for the same episode and attempt."""
        seeds = np.random.default_rng([0x66696C, self.seed, episode, attempt]).integers(2**31, size=self.looks - 1)
        return tuple(Look(int(seed)) for seed in seeds)

    def claim(self, spec: RobotSpec) -> Record:
        """What tells this source from others, as it is noted in the folder."""
        options = {
            "depth": self.depth or None, "setting": self.setting if self.setting != "easy" else None,
            "kind": self.kind, "model": self.model and _weights_hash(self.model),
            "looks": self.looks if self.looks > 1 else None,
        }
        return {"task": self.task, "seed": self.seed, "contract_hash": spec.content_hash,
                "format_version": FORMAT_VERSION,
                **{name: value for name, value in options.items() if value is not None}}


def _weights_hash(model: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(model.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class Recorder:
    """Records the frames of one motion: once what the robot does, and a film under every look."""

    def __init__(self, cell: Cell, task: str, expert: Expert, films: Sequence[Film]) -> None:
        self._cell, self._task, self._expert, self._films = cell, task, expert, films
        self._rows: list[dict[str, Any]] = []
        self._texts: list[str] = []
        self.log = ContactLog()

    def __len__(self) -> int:
        return len(self._rows)

    def frame(self, scene: Any, colour: str, text: str) -> None:
        """Record images, joints, the expert's plan and task state of this instant."""
        cell = self._cell
        stage = self._expert.stage(scene, colour)
        state = cell.state(0)
        if text not in self._texts:
            self._texts.append(text)
        named = self.log.name(cell, self._expert.contacts(scene, colour))
        for film in self._films:
            film.shoot(cell, colour, stage, named)
        self._rows.append({
            "position_TJ": state.position_J.astype(np.float32),
            "velocity_TJ": state.velocity_J.astype(np.float32),
            "command_TJ": cell.command_J.astype(np.float32),
            "plan_TKJ": self._expert.plan(cell, colour).astype(np.float32),
            "stage_T": np.int8(STAGES.index(stage)),
            "empty_closed_T": self._expert.empty_jaw(scene, cell.pinch_position(self._expert.arm)),
            "time_s_T": np.float32(cell.sim_time_s),
            "text_T": np.int32(self._texts.index(text)),
        })

    def episodes(self) -> Iterator[Arrays]:
        """The arrays of each film's episode: rows stacked over T, sentences and value labels."""
        stacked = {name: np.stack([row[name] for row in self._rows]) for name in self._rows[0]}
        stacked["progress_T"] = progress_of(stacked["stage_T"])
        for film in self._films:
            yield {**stacked, **film.arrays(self.log, self._task), "texts": np.array(self._texts)}
