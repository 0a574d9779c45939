"""A training in progress on disk: safetensors and JSON only, written atomically, resumable to the step."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from starry_ros.files import write_text
from starry_ros.types import Record

STATE = "state.safetensors"
"""The file of a run folder that a training goes on from."""
METRICS = "metrics.jsonl"


@dataclass
class Progress:
    """Where a training stands."""

    step: int
    seconds: float


def save_state(folder: Path, model: nn.Module, average: dict[str, Tensor], optimiser: torch.optim.Optimizer,
               progress: Progress) -> None:
    """Write weights, their running average, the optimiser's moments and the step."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.items()}
    for index, slot in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": value for name, value in slot.items()}
    temporary = folder / f"{STATE}.partial"
    note = {"progress": json.dumps({"step": progress.step, "seconds": progress.seconds})}
    kept = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    save_file(kept, temporary, metadata=note)
    os.replace(temporary, folder / STATE)


def load_state(
    folder: Path, model: nn.Module, average: dict[str, Tensor], optimiser: torch.optim.Optimizer
) -> Progress:
    """Inverse of `save_state`; a folder without a state gives step 0 and changes nothing."""
    path = folder / STATE
    if not path.exists():
        return Progress(0, 0.0)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        progress = json.loads(file.metadata()["progress"])
    tensors = load_file(path)
    model.load_state_dict(_under(tensors, "model."))
    for name, value in _under(tensors, "average.").items():
        average[name] = value.to(average.get(name, value).device)
    slots: dict[int, dict[str, Any]] = {}
    for name, value in _under(tensors, "optimiser.").items():
        index, key = name.split(".", 1)
        slots.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
    return Progress(int(progress["step"]), float(progress["seconds"]))


def write_records(folder: Path, records: Sequence[Record]) -> None:
    """The metrics of a run, one JSON object a line."""
    write_text(folder / METRICS, "".join(json.dumps(record) + "\n" for record in records))


def read_records(folder: Path, counter: str, done: int) -> list[Record]:
    """The metrics of a run up to the step `done` that its saved state knows of, by the record's field `counter`.

    What was noted after that step, and cut off before it was saved, is done and noted again.
    """
    path = folder / METRICS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [record for record in map(json.loads, lines) if record[counter] <= done]


def load_average(folder: Path) -> dict[str, Tensor]:
    """The running average of a run's weights; empty where the run keeps none, or where there is no run."""
    path = folder / STATE
    return _under(load_file(path), "average.") if path.exists() else {}


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix):]: value for name, value in tensors.items() if name.startswith(prefix)}
