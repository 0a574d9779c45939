"""What a training may start from, and what it keeps of that."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import pytest
import torch
from test_training_units import narrow_presets, prepare, write_data
from wam_kit import CONFIG, SPEC, make_checkpoint

from starry_ros.errors import ConfigError
from starry_ros.training.arguments import add_train_autoencoder_command_arguments
from starry_ros.training.budgets import RlConfig
from starry_ros.training.store import STATE, Progress, save_state
from starry_ros.training.train_autoencoder import train_autoencoder_command
from starry_ros.training.train_data import given_autoencoder
from starry_ros.training.train_rl import RlTrainer
from starry_ros.wam.autoencoder import Autoencoder, save_autoencoder
from starry_ros.wam.checkpoint import Checkpoint, save_checkpoint


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow_presets(monkeypatch)


def known() -> Checkpoint:
    """A model that knows of sentences with a mean and spread that no data here have."""
    checkpoint, draw = make_checkpoint(), torch.Generator().manual_seed(5)
    units = {"text_mean": 3 + torch.randn(CONFIG.text_width, generator=draw),
             "text_scale": 2 + torch.rand(CONFIG.text_width, generator=draw)}
    return dataclasses.replace(checkpoint, model={**checkpoint.model, **units})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_checkpoint(folder, known())
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


def autoencoder_run(folder: Path, model: Autoencoder, facts: dict[str, object]) -> Path:
    """What `starry train-autoencoder` leaves behind."""
    save_state(folder, model, {}, torch.optim.AdamW(model.parameters()), Progress(1, 0.0))
    save_autoencoder(folder, model, facts)
    return folder


def trained_autoencoder(data: Path, out: Path, *words: str) -> Path:
    """One step of `starry train-autoencoder`."""
    episodes = data / "episodes"
    (episodes / "00001.npz").write_bytes((episodes / "00000.npz").read_bytes())
    parser = argparse.ArgumentParser()
    add_train_autoencoder_command_arguments(parser)
    usual = ["--data", str(data), "--out", str(out), "--batch", "2", "--device", "cpu", "--steps", "1"]
    train_autoencoder_command(parser.parse_args([*usual, *words]))
    return out


def test_a_run_that_keeps_no_average_is_started_from_as_it_is_served(data: Path, model: Path, tmp_path: Path) -> None:
    RlTrainer(model, SPEC, RlConfig(layouts=2), tmp_path / "rl")
    trainer = prepare(data, tmp_path / "run", model, "--init", str(tmp_path / "rl"))
    wanted = known().model
    for weights in (trainer.model.state_dict(), trainer.average):
        assert all(torch.equal(weights[name], value) for name, value in wanted.items())


def test_a_run_of_which_only_the_state_is_left_is_started_from_by_its_average(
    data: Path, model: Path, tmp_path: Path
) -> None:
    first = prepare(data, tmp_path / "first", model)
    first.step()
    first.save()
    (tmp_path / "first" / "checkpoint").rename(tmp_path / "elsewhere")
    trainer = prepare(data, tmp_path / "run", model, "--init", str(tmp_path / "first"))
    assert all(torch.equal(trainer.model.state_dict()[name], value) for name, value in first.average.items())


@pytest.mark.parametrize("kind", ["an autoencoder's run", "an empty folder"])
def test_what_holds_no_model_is_no_start_and_nothing_is_written(
    kind: str, data: Path, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "start").mkdir()
    if kind == "an autoencoder's run":
        autoencoder_run(tmp_path / "start", known().autoencoder, {})
        assert (tmp_path / "start" / STATE).exists()
    with pytest.raises(ConfigError, match=r"--init: holds no weights of a model; got .*start\. Fix: name a model"):
        prepare(data, tmp_path / "run", model, "--init", str(tmp_path / "start"))
    assert not (tmp_path / "run").exists()


def test_a_training_keeps_the_mean_and_spread_of_sentences_that_its_first_weights_know(
    data: Path, model: Path, tmp_path: Path
) -> None:
    wanted = known().model
    for _ in range(2):  # begun, and gone on with
        trainer = prepare(data, tmp_path / "run", model, "--init", str(model))
        for name in ("text_mean", "text_scale"):
            assert torch.equal(trainer.model.state_dict()[name], wanted[name])
            assert torch.allclose(trainer.average[name], wanted[name], rtol=1e-6)
        trainer.step()
        trainer.save()


def test_from_nothing_the_mean_and_spread_of_sentences_are_those_of_the_data(
    data: Path, model: Path, tmp_path: Path
) -> None:
    trainer = prepare(data, tmp_path / "run", model)
    pooled = trainer.texts.tokens_STD[:-1].numpy().astype("f8").mean(1)  # here every token exists
    assert len(pooled) == 2
    assert trainer.model.text_mean.numpy() == pytest.approx(pooled.mean(0), abs=1e-6)
    assert trainer.model.text_scale.numpy() == pytest.approx(pooled.std(0).clip(0.02), abs=1e-6)


@pytest.mark.parametrize("start", ["a model", "a run"])
def test_weights_are_not_trained_on_in_the_latents_of_another_autoencoder(
    start: str, data: Path, model: Path, tmp_path: Path
) -> None:
    init, place = model, model
    if start == "a run":
        first = prepare(data, tmp_path / "first", model)
        first.step()
        first.save()
        init, place = tmp_path / "first", tmp_path / "first" / "checkpoint"
    other = tmp_path / "other"
    save_checkpoint(other, make_checkpoint(1))
    with pytest.raises(ConfigError, match="another one than that which the weights of --init") as refused:
        prepare(data, tmp_path / "run", other, "--init", str(init))
    assert (refused.value.got, refused.value.expected) == (other, f"that of {place}")
    assert f"--autoencoder {place}" in refused.value.fix
    assert not (tmp_path / "run").exists()
    assert prepare(data, tmp_path / "run", place, "--init", str(init)).progress.step == 0


def test_an_autoencoder_that_was_trained_on_from_that_of_the_weights_goes_with_them(
    data: Path, model: Path, tmp_path: Path
) -> None:
    coder = trained_autoencoder(data, tmp_path / "coder", "--init", str(model))
    again = trained_autoencoder(data, tmp_path / "again", "--init", str(coder))
    changed = given_autoencoder(again).state_dict()
    assert any(not torch.equal(changed[name], value) for name, value in known().autoencoder.state_dict().items())
    for number, folder in enumerate((coder, again)):
        assert prepare(data, tmp_path / f"run{number}", folder, "--init", str(model)).progress.step == 0


def test_an_autoencoder_with_the_same_background_or_another_first_one_does_not(
    data: Path, model: Path, tmp_path: Path
) -> None:
    """Trained from nothing on the same data, or from something else."""
    alike, foreign = make_checkpoint(1).autoencoder, make_checkpoint(1).autoencoder
    assert torch.equal(alike.background_3HW, known().autoencoder.background_3HW)
    foreign.background_3HW += 0.25
    for name, coder, facts in (("alike", alike, {}), ("foreign", foreign, {"init": str(model)})):
        folder = autoencoder_run(tmp_path / name, coder, facts)
        with pytest.raises(ConfigError, match="--autoencoder: is another one"):
            prepare(data, tmp_path / "run", folder, "--init", str(model))
