"""Closed-loop evaluation during a training: the loss does not tell which checkpoint puts blocks on pads.

Every process plays its share of the same episodes with the averaged weights, in the settings of the data, one after the
other in turns. Their seeds are neither those of the data nor those of `starry eval`. The best checkpoint so far is kept
in `best/`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from starry_ros.files import write_text
from starry_ros.robot_spec import RobotSpec
from starry_ros.sim.cases import Case
from starry_ros.sim.cell import Cell
from starry_ros.sim.choices import SETTINGS, LoopConfig
from starry_ros.sim.loop import run_episode
from starry_ros.training.policies import policy_of
from starry_ros.wam.checkpoint import Checkpoint, save_checkpoint
from starry_ros.wam.runtimes.torch_runtime import torch_runtime
from starry_ros.wam.session import Session
from starry_ros.wam.text import load_text_encoder

FIRST_SEED = 1_000_000


@dataclass(frozen=True)
class Early:
    """How many of the episodes succeeded at a step, in all and by task."""

    step: int
    successes: int
    episodes: int
    by_task: dict[str, int]


class EarlyEvaluation:
    """Plays `episodes` episodes of each task, split among `settings`, every `every` steps and keeps the best checkpoint
    under `out`."""

    def __init__(
        self, spec: RobotSpec, tasks: Sequence[str], every: int, episodes: int, out: Path,
        settings: Sequence[str] = SETTINGS[:1],
    ) -> None:
        self._spec, self._tasks, self._every, self._episodes, self._out = spec, tuple(tasks), every, episodes, out
        self._settings = tuple(settings)
        self._cell: Cell | None = None

    def due(self, step: int) -> bool:
        """Whether to evaluate after this step."""
        return self._every > 0 and bool(self._tasks) and step % self._every == 0

    def run(self, checkpoint: Checkpoint, step: int, rank: int = 0, world: int = 1) -> Early:
        """Evaluate on all processes together; process 0 keeps the checkpoint if none before was better."""
        self._cell = self._cell or Cell(self._spec)
        session = _session(checkpoint, self._spec)
        policy = policy_of(session, self._cell, LoopConfig())
        wins = torch.zeros(len(self._tasks), dtype=torch.int64)
        for number, task in enumerate(self._tasks):
            for i in range(rank, self._episodes, world):
                session.epoch = i
                case = Case(FIRST_SEED + i, task=task, setting=self._settings[i % len(self._settings)])
                wins[number] += run_episode(policy, self._cell, case).success
        if dist.is_initialized():
            dist.all_reduce(wins)
        by_task = {task: int(count) for task, count in zip(self._tasks, wins, strict=True)}
        found = Early(step, sum(by_task.values()), self._episodes * len(self._tasks), by_task)
        if rank == 0:
            self._keep(found, checkpoint)
        return found

    def _keep(self, found: Early, checkpoint: Checkpoint) -> None:
        note = self._out / "best.json"
        best = json.loads(note.read_text()) if note.exists() else {"successes": -1, "episodes": 1}
        # Shares, not counts: a resumed run may play fewer episodes.
        if found.successes / found.episodes >= best["successes"] / best["episodes"]:
            save_checkpoint(self._out / "best", checkpoint)
            write_text(note, json.dumps(asdict(found)) + "\n")


def _session(checkpoint: Checkpoint, spec: RobotSpec) -> Session:
    """A session of weights that are in no folder yet."""
    runtime = torch_runtime(checkpoint.build_model(), checkpoint.autoencoder, "cpu")
    texts = load_text_encoder(checkpoint.text_encoder, checkpoint.config.text_tokens)
    return Session(runtime, checkpoint.stats, texts, spec, checkpoint.layout_hash)
