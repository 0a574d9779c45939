"""The mean of models that differ in their weights alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from wam_kit import make_checkpoint

from starry_ros.cli import main
from starry_ros.errors import CheckpointError
from starry_ros.wam.average import average
from starry_ros.wam.checkpoint import Checkpoint, load_checkpoint, save_checkpoint


def moved(checkpoint: Checkpoint, by: float) -> Checkpoint:
    weights = {name: value + by if value.is_floating_point() else value for name, value in checkpoint.model.items()}
    return dataclasses.replace(checkpoint, model=weights, training={"seed": by})


def test_every_weight_is_the_mean_and_the_parts_are_named(tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    for by in (0.0, 1.0, 5.0):
        save_checkpoint(tmp_path / f"m{by:g}", moved(checkpoint, by))
    folders = [str(tmp_path / f"m{by:g}") for by in (0.0, 1.0, 5.0)]
    assert main(["model", "average", *folders, "--out", str(tmp_path / "mean")]) == 0
    found = load_checkpoint(tmp_path / "mean")
    for name, value in checkpoint.model.items():
        torch.testing.assert_close(found.model[name], value + 2.0 if value.is_floating_point() else value)
    assert [part["seed"] for part in found.training["average_of"]] == [0.0, 1.0, 5.0]
    assert main(["model", "average", *folders, "--out", str(tmp_path / "mean")]) == 2


def test_models_that_differ_in_more_than_weights_are_refused(tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    save_checkpoint(tmp_path / "a", checkpoint)
    stats = dataclasses.replace(checkpoint.stats, state_scale_J=checkpoint.stats.state_scale_J * 2)
    for what, other in (
        ("units", dataclasses.replace(checkpoint, stats=stats)),
        ("robot", dataclasses.replace(checkpoint, contract_hash="0" * 16)),
    ):
        save_checkpoint(tmp_path / what, other)
        with pytest.raises(CheckpointError, match=f"differs from .* in its {what}"):
            average([tmp_path / "a", tmp_path / what])
