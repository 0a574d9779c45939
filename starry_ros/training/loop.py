"""The loop of stage-one training: steps, reports, closed-loop evaluations and saves."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from starry_ros.training.early import EarlyEvaluation

if TYPE_CHECKING:
    from starry_ros.training.train import Trainer

REPORT_EVERY = 25
"""Steps that a line of the metrics is the mean of."""


def run(trainer: Trainer, save_every: int, until_s: float | None, early: EarlyEvaluation | None = None) -> None:
    """Train to the last step, or until `until_s` seconds of this call have passed; saves on the way and at the end."""
    start, mark = time.monotonic(), time.monotonic()
    sums: dict[str, float] = {}
    count = 0
    while trainer.progress.step < trainer.config.steps:
        for name, value in trainer.step().items():
            sums[name] = sums.get(name, 0.0) + value
        count += 1
        now = time.monotonic()
        if trainer.progress.step % REPORT_EVERY == 0:
            trainer.progress.seconds += now - mark
            _report(trainer, {name: value / count for name, value in sums.items()}, count / (now - mark))
            sums, count, mark = {}, 0, now
        if early is not None and early.due(trainer.progress.step):  # before the save: else a kill would leave it out
            _evaluate(trainer, early)
            mark += time.monotonic() - now
        if trainer.progress.step % save_every == 0:
            trainer.save()
        if time_is_up(now - start, until_s):
            break
    trainer.save()


def time_is_up(elapsed_s: float, until_s: float | None) -> bool:
    """Whether to stop; process 0 decides for all, so that no process waits for one that has left."""
    if until_s is None:
        return False
    flag = torch.tensor([1.0 if elapsed_s > until_s else 0.0])
    if dist.is_initialized():
        dist.broadcast(flag, 0)
    return bool(flag.item())


def _report(trainer: Trainer, means: dict[str, float], steps_per_s: float) -> None:
    """One line on the terminal and one in metrics.jsonl."""
    if trainer.rank != 0:
        return
    progress, config = trainer.progress, trainer.config
    left_min = (config.steps - progress.step) / steps_per_s / 60
    text = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
    print(f"step {progress.step}/{config.steps}  {steps_per_s:.2f}/s  {left_min:.0f} min left  {text}", flush=True)
    trainer.note({"step": progress.step, "seconds": progress.seconds, "rate": config.rate(progress.step), **means})


def _evaluate(trainer: Trainer, early: EarlyEvaluation) -> None:
    """Play episodes with the averaged weights; one line on the terminal and one in metrics.jsonl."""
    found = early.run(trainer.checkpoint(), trainer.progress.step, trainer.rank, trainer.world)
    if trainer.rank == 0:
        each = ", ".join(f"{task} {count}" for task, count in found.by_task.items())
        print(f"step {found.step}: {found.successes} of {found.episodes} episodes succeed ({each})", flush=True)
        trainer.note({"step": found.step, "success": found.successes / found.episodes,
                      "episodes": found.episodes, "by_task": found.by_task})
