"""The units of actions and states that a training keeps: those that its weights know, where they serve the data."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from training_kit import write_episodes
from wam_kit import CONFIG, JOINTS, MIDDLE_J, SPEC, make_checkpoint

from starry_ros.training import train
from starry_ros.training.arguments import add_train_command_arguments
from starry_ros.training.compute import PROCESSOR
from starry_ros.training.forward import TextTable
from starry_ros.training.train import Trainer
from starry_ros.wam import config as wam_config
from starry_ros.wam.checkpoint import load_checkpoint, save_checkpoint
from starry_ros.wam.normalise import NormStats, fit


def narrow_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two narrow presets, and random sentence embeddings in place of the text encoder."""
    torch.set_num_threads(1)
    other = dataclasses.replace(CONFIG, name="narrower", layers=1, value_steps=2)
    monkeypatch.setitem(wam_config.PRESETS, "narrow", lambda layout, joints, step_s=0.1: CONFIG)
    monkeypatch.setitem(wam_config.PRESETS, "narrower", lambda layout, joints, step_s=0.1: other)

    def embed(texts: tuple[str, ...]) -> TextTable:
        tokens = torch.randn(len(texts), CONFIG.text_tokens, CONFIG.text_width, generator=torch.Generator())
        return TextTable(tokens, torch.ones(len(texts), CONFIG.text_tokens))

    monkeypatch.setattr(train, "embed_texts", embed)


def write_data(folder: Path, spread: float = 0.3, seed: int = 0, **meta: object) -> Path:
    """An episode of 30 frames whose joints and plans spread evenly around the middle of every joint's range."""
    path = write_episodes(folder, (30,)) / "episodes" / "00000.npz"
    with np.load(path) as file:
        arrays = dict(file)
    rng = np.random.default_rng(seed)
    arrays["position_TJ"] = MIDDLE_J + rng.uniform(-spread, spread, (30, JOINTS))
    arrays["command_TJ"] = MIDDLE_J + rng.uniform(-spread, spread, (30, JOINTS))
    arrays["plan_TKJ"] = MIDDLE_J + rng.uniform(-spread, spread, (30, CONFIG.chunk_steps, JOINTS))
    np.savez(path, **arrays)
    (folder / "meta.json").write_text(json.dumps({"data_hash": f"{spread} {seed}", **meta}))
    return folder


def prepare(data: Path, out: Path, model: Path, *words: str) -> Trainer:
    """What `starry train` trains, with the autoencoder of a model folder."""
    parser = argparse.ArgumentParser()
    add_train_command_arguments(parser)
    usual = ["--preset", "narrow", "--steps", "9", "--batch", "2", "--eval-every", "0"]
    given = ["--data", str(data), "--out", str(out), "--autoencoder", str(model)]
    return train._prepare(parser.parse_args([*given, *usual, *words]), PROCESSOR)


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow_presets(monkeypatch)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose units are those of joints and plans within 0.3 of the middle."""
    folder = tmp_path_factory.mktemp("model")
    save_checkpoint(folder, make_checkpoint())
    return folder


def same(one: NormStats, other: NormStats) -> bool:
    return one.to_json_dict() == other.to_json_dict()


def fitted(data: Path) -> NormStats:
    with np.load(data / "episodes" / "00000.npz") as file:
        return fit(file["plan_TKJ"].astype(np.float32), file["position_TJ"].astype(np.float32), SPEC.gripper_indices)


def units(offset: float = 1.0, scale: float = 0.5, state_offset: float = -2.0, state_scale: float = 0.25,
          relative: float = 1.0, steps: int = 3) -> NormStats:
    """Of one joint."""
    return NormStats(np.array([relative]), np.full((steps, 1), offset), np.full((steps, 1), scale),
                     np.array([state_offset]), np.array([state_scale]))


@pytest.mark.parametrize(("other", "served"), [
    ({}, True),
    ({"scale": 0.1, "state_scale": 0.01}, True),
    ({"scale": 1.0, "state_scale": 0.5}, True),
    ({"scale": 1.01}, False),
    ({"state_scale": 0.51}, False),
    ({"offset": 1.5, "state_offset": -2.25}, True),
    ({"offset": 1.51}, False),
    ({"offset": 0.49}, False),
    ({"state_offset": -1.74}, False),
    ({"relative": 0.0}, False),
    ({"steps": 4}, False),
])
def test_units_serve_data_of_twice_their_spread_at_most_whose_middle_is_within_one_deviation(
    other: dict[str, float], served: bool
) -> None:
    assert units().serves(units(**other)) is served  # type: ignore[arg-type]


def test_one_joint_in_one_step_is_enough_for_units_not_to_serve() -> None:
    scale_KJ = np.full((3, 2), 0.5)
    known = NormStats(np.ones(2), np.zeros((3, 2)), scale_KJ.copy(), np.zeros(2), np.ones(2))
    scale_KJ[2, 1] = 1.2
    assert not known.serves(NormStats(np.ones(2), np.zeros((3, 2)), scale_KJ, np.zeros(2), np.ones(2)))


@pytest.mark.parametrize("spread", [0.1, 0.3])
def test_a_training_that_starts_from_a_model_keeps_its_units_for_data_that_spread_alike_or_less(
    spread: float, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data(tmp_path / "data", spread)
    trainer = prepare(data, tmp_path / "run", model, "--init", str(model))
    assert same(trainer.stats, load_checkpoint(model).stats)
    assert not same(trainer.stats, fitted(data))
    assert "new units" not in capsys.readouterr().out


def test_a_training_that_starts_from_a_model_takes_new_units_for_data_that_spread_much_wider_and_says_so(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data(tmp_path / "data", 1.5)
    trainer = prepare(data, tmp_path / "run", model, "--init", str(model))
    assert same(trainer.stats, fitted(data))
    assert f"otherwise than those of {model}: new units" in capsys.readouterr().out


def test_units_of_a_run_folder_to_start_from_are_those_of_its_checkpoint(model: Path, tmp_path: Path) -> None:
    first = prepare(write_data(tmp_path / "data", 0.3), tmp_path / "first", model)
    first.step()
    first.save()
    later = prepare(write_data(tmp_path / "more", 0.2, seed=1), tmp_path / "run", model, "--init",
                    str(tmp_path / "first"))
    assert same(later.stats, first.stats)


def test_without_a_model_to_start_from_units_are_those_of_the_data(model: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", 0.2)
    assert same(prepare(data, tmp_path / "run", model).stats, fitted(data))


@pytest.mark.parametrize("spread", [0.2, 1.5])
def test_a_resumed_run_keeps_its_units_although_its_data_have_changed(spread: float, model: Path, tmp_path: Path
                                                                      ) -> None:
    first = prepare(write_data(tmp_path / "data", 0.3), tmp_path / "run", model)
    first.step()
    first.save()
    changed = write_data(tmp_path / "changed", spread, seed=1)
    again = prepare(changed, tmp_path / "run", model)
    assert again.progress.step == 1
    assert same(again.stats, first.stats)
    assert not same(again.stats, fitted(changed))
    again.save()
    assert same(load_checkpoint(tmp_path / "run" / "checkpoint").stats, first.stats)
