"""A training that is interrupted and resumed ends with the same bits as one that is not."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from training_kit import encode, write_episodes
from wam_kit import CONFIG, LAYOUT, SPEC, make_checkpoint

from starry_ros.errors import ConfigError
from starry_ros.training import train
from starry_ros.training.budgets import TrainConfig
from starry_ros.training.compute import Compute
from starry_ros.training.dataset import Demonstrations, load_demonstrations
from starry_ros.training.forward import TextTable
from starry_ros.training.train import Trainer
from starry_ros.training.train_data import given_autoencoder
from starry_ros.wam import config as wam_config
from starry_ros.wam.autoencoder import Autoencoder, AutoencoderConfig
from starry_ros.wam.checkpoint import load_checkpoint, save_checkpoint

STEPS = 6
TRAINING = TrainConfig(preset="narrow", steps=STEPS, batch=4, warm_up=2, learning_rate=3e-3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Demonstrations:
    folder = tmp_path_factory.mktemp("data")
    return load_demonstrations(write_episodes(folder / "d", (40,)), folder / "cache", encode)


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A narrow preset, and random sentence embeddings in place of the text encoder."""
    torch.set_num_threads(1)
    monkeypatch.setitem(wam_config.PRESETS, "narrow", lambda layout, joints, step_s=0.1: CONFIG)

    def embed(texts: tuple[str, ...]) -> TextTable:
        rng = np.random.default_rng(0)
        tokens = rng.standard_normal((len(texts), CONFIG.text_tokens, CONFIG.text_width), dtype=np.float32)
        return TextTable(torch.from_numpy(tokens), torch.ones(len(texts), CONFIG.text_tokens))

    monkeypatch.setattr(train, "embed_texts", embed)


def make_trainer(data: Demonstrations, out: Path, config: TrainConfig = TRAINING) -> Trainer:
    torch.manual_seed(9)
    autoencoder = Autoencoder(AutoencoderConfig(LAYOUT.height_px, LAYOUT.width_px, CONFIG.latent_channels, (8, 8, 8)))
    return Trainer(SPEC, data, autoencoder.eval(), config, out)


def bits(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Weights, their average and the optimiser's moments."""
    found = {f"model.{name}": value for name, value in trainer.model.state_dict().items()}
    found |= {f"average.{name}": value for name, value in trainer.average.items()}
    for index, slot in trainer.optimiser.state_dict()["state"].items():
        found |= {f"{index}.{name}": value for name, value in slot.items()}
    return {name: value.clone() for name, value in found.items()}


@pytest.mark.parametrize("stop", [1, 4])
def test_a_resumed_training_ends_with_the_same_bits(stop: int, data: Demonstrations, tmp_path: Path) -> None:
    straight = make_trainer(data, tmp_path / "straight")
    terms = [straight.step() for _ in range(STEPS)]
    first = make_trainer(data, tmp_path / "broken")
    again = [first.step() for _ in range(stop)]
    first.save()
    torch.manual_seed(12345)  # nothing may depend on the process's own generator
    second = make_trainer(data, tmp_path / "broken")
    assert second.progress.step == stop
    again += [second.step() for _ in range(STEPS - stop)]
    assert again == terms
    wanted, got = bits(straight), bits(second)
    assert wanted.keys() == got.keys()
    assert all(torch.equal(got[name], value) for name, value in wanted.items())
    assert any(not torch.equal(value, bits(first)[name]) for name, value in wanted.items())


def test_a_step_that_was_not_saved_is_trained_again(data: Demonstrations, tmp_path: Path) -> None:
    """Killed after a save: the next process continues from the save."""
    first = make_trainer(data, tmp_path / "run")
    train.run(first, save_every=2, until_s=-1.0)  # time is up after one step, which is saved
    saved = bits(first)
    first.step()
    second = make_trainer(data, tmp_path / "run")
    assert second.progress.step == 1
    assert all(torch.equal(value, saved[name]) for name, value in bits(second).items())


def test_training_writes_a_model_folder_of_the_averaged_weights(data: Demonstrations, tmp_path: Path) -> None:
    trainer = make_trainer(data, tmp_path / "run")
    train.run(trainer, save_every=4, until_s=None)
    assert trainer.progress.step == STEPS
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoint", SPEC)
    assert checkpoint.training["steps_done"] == STEPS
    assert all(torch.equal(checkpoint.model[name], value) for name, value in trainer.average.items())
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoint", "state.safetensors"]


def test_a_training_starts_from_the_model_of_another_robot(data: Demonstrations, tmp_path: Path) -> None:
    other = dataclasses.replace(make_checkpoint(3), contract_hash="0" * 16)
    save_checkpoint(tmp_path / "other", other)
    trainer = make_trainer(data, tmp_path / "run")
    start = argparse.Namespace(init=tmp_path / "other", states=None, narrow_from_video=False, only_geometry=False)
    train._start_from(trainer, start)
    parameters = dict(trainer.model.named_parameters())
    assert all(torch.equal(value, other.model[name]) for name, value in parameters.items())
    assert trainer.checkpoint().contract_hash == SPEC.content_hash
    inside = given_autoencoder(tmp_path / "other").state_dict()
    assert all(torch.equal(inside[name], value) for name, value in other.autoencoder.state_dict().items())


def test_a_model_of_another_shape_is_no_start(data: Demonstrations, tmp_path: Path) -> None:
    other = make_checkpoint()
    wrong = {name: value[..., :1] if name == "state_in.weight" else value for name, value in other.model.items()}
    trainer = make_trainer(data, tmp_path / "run")
    trainer.average = wrong
    trainer.save()
    start = argparse.Namespace(init=tmp_path / "run", states=None, narrow_from_video=False, only_geometry=False)
    with pytest.raises(ConfigError, match="another shape"):
        train._start_from(make_trainer(data, tmp_path / "new"), start)


def test_mixed_precision_trains_nearly_as_float32_does_and_saves_float32(data: Demonstrations, tmp_path: Path) -> None:
    plain, mixed = make_trainer(data, tmp_path / "a"), make_trainer(data, tmp_path / "b")
    mixed.compute = Compute(torch.device("cpu"), mixed=True)
    rows = [(plain.step(), mixed.step()) for _ in range(STEPS)]
    assert rows[0][0] != rows[0][1]
    for name in rows[0][0]:
        a, b = (np.mean([row[i][name] for row in rows]) for i in (0, 1))
        assert b == pytest.approx(a, rel=0.05, abs=2e-3), name
    mixed.save()
    saved = load_checkpoint(tmp_path / "b" / "checkpoint", SPEC).model
    assert {value.dtype for value in saved.values()} == {torch.float32}


def test_another_seed_trains_another_model(data: Demonstrations, tmp_path: Path) -> None:
    a = make_trainer(data, tmp_path / "a")
    b = make_trainer(data, tmp_path / "b", TrainConfig(preset="narrow", steps=STEPS, batch=4, seed=1))
    assert a.step() != b.step()


def test_the_learning_rate_warms_up_and_falls_to_its_end() -> None:
    config = TrainConfig(steps=1000, warm_up=100, learning_rate=1e-3, final_learning_rate=1e-5)
    rates = [config.rate(step) for step in range(1001)]
    assert rates[0] == pytest.approx(1e-5)
    assert max(rates) == rates[99] == pytest.approx(1e-3)
    assert rates[1000] == pytest.approx(1e-5)
    assert all(a > b for a, b in itertools.pairwise(rates[100:]))
    assert rates[550] == pytest.approx((1e-3 + 1e-5) / 2)
