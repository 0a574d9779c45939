"""What a folder of demonstrations is made from, and the recorder of one episode, whoever acts in it.

Format of `episodes/000000.npz`: T frames at 10 Hz, J = 14 joints (contract order), K = 16 plan steps, E = 2 events,
V = 3 views, F = 5; see `Recorder.arrays`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.canvas.pack import CanvasPacker
from starry_ros.errors import ConfigError
from starry_ros.robot_spec import RobotSpec
from starry_ros.sim.cell import Cell
from starry_ros.sim.choices import STAGES
from starry_ros.sim.experts import Expert
from starry_ros.sim.motion import TICK_S
from starry_ros.sim.tasks import TASKS
from starry_ros.training.annotate import ContactLog, Snapshot, label, snapshot
from starry_ros.training.disturb import kinds_of
from starry_ros.training.scenes import observe_scene
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
    (`correct`). Raises ConfigError on an unknown task or kind.
    """

    task: str
    seed: int
    robot: Path
    setting: str = "easy"
    kind: str | None = None
    depth: bool = False
    model: Path | None = None

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ConfigError("generate", "unknown task", got=self.task, expected=list(TASKS))
        if self.kind is not None and self.model is not None:
            raise ConfigError("generate", "a kind is the expert's, who does not act first here", got=self.kind)
        if self.kind is not None and self.kind not in kinds_of(self.task):
            known = list(kinds_of(self.task))
            raise ConfigError("generate", f"{self.task} has no such kind of episode", got=self.kind, expected=known)

    def claim(self, spec: RobotSpec) -> Record:
        """What tells this source from others, as it is noted in the folder."""
        options = {
            "depth": self.depth or None, "setting": self.setting if self.setting != "easy" else None,
            "kind": self.kind, "model": self.model and _weights_hash(self.model),
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
