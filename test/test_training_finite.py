"""A loss that is no number ends a training, in every process, before anything is saved over what is good."""

from __future__ import annotations

import dataclasses
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from process_kit import arguments, narrow_process, start
from rl_kit import CONFIG as RL
from rl_kit import draws
from test_training_autoencoder import write
from test_training_units import narrow_presets, prepare, write_data
from wam_kit import make_checkpoint

from starry_ros.errors import TrainingError
from starry_ros.training import train, train_autoencoder
from starry_ros.training.budgets import AutoencoderTraining
from starry_ros.training.forward import losses
from starry_ros.training.loop import run
from starry_ros.training.store import STATE
from starry_ros.training.train_rl import Learner
from starry_ros.wam.checkpoint import save_checkpoint

LONGEST_S = 120.0
COMES_APART = "the training has come apart; what was saved before is still there; got loss nan"


def nan_at(step: int, function: Any) -> Any:
    """A loss function whose value is no number at one of its calls, counted from 1."""
    calls = [0]

    def found(*given: Any) -> Any:
        calls[0] += 1
        terms, factor = function(*given), float("nan") if calls[0] == step else 1.0
        return {name: factor * term for name, term in terms.items()} if isinstance(terms, dict) else factor * terms

    return found


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.suffix == ".safetensors"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_checkpoint(folder, make_checkpoint())
    return folder


def test_a_loss_that_is_no_number_leaves_checkpoint_and_state_as_they_were_saved(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow_presets(monkeypatch)
    trainer = prepare(write_data(tmp_path / "data"), tmp_path / "run", model, "--init", str(model))
    trainer.step()
    trainer.save()
    saved, weights = files_of(tmp_path / "run"), trainer.model.state_dict()
    before = {name: value.clone() for name, value in weights.items()}
    trainer.losses = nan_at(1, losses)
    with pytest.raises(TrainingError, match=f"run, step 2: {COMES_APART}.*starry data check"):
        run(trainer, 1, None)
    assert all(torch.equal(weights[name], value) for name, value in before.items())
    assert files_of(tmp_path / "run") == saved
    assert {STATE, "model.safetensors"} <= set(saved)
    again = prepare(tmp_path / "data", tmp_path / "run", model, "--init", str(model))
    run(again, 99, None)
    assert again.progress.step == 9


def work(rank: int, port: int, data: Path, out: Path, model: Path, notes: Path) -> None:
    """`starry train` as torchrun starts it; the second step of process 1 alone has a loss that is no number."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(port)}
    patch = narrow_process()
    patch.setattr(train, "losses", nan_at(2 if rank else 0, losses))
    try:
        train.train_command(arguments(data, out, model, "--steps", "3", "--batch", "4", "--eval-every", "0",
                                      "--save-every", "1", "--precision", "fp32"))
    except TrainingError as error:
        (notes / f"{rank}.txt").write_text(str(error))


@pytest.mark.slow
def test_all_processes_end_at_the_step_at_which_one_has_lost_its_numbers(model: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [start(work, rank, port, data, tmp_path / "run", model, tmp_path) for rank in range(2)]
    for process in processes:
        process.join(LONGEST_S)
        process.kill()  # one that waits for the other for ever
        assert process.exitcode == 0
    assert [f"run, step 2: {COMES_APART}" in (tmp_path / f"{rank}.txt").read_text() for rank in range(2)] == [True] * 2
    saved = train.load_checkpoint(tmp_path / "run" / "checkpoint").model
    assert all(value.isfinite().all() for value in saved.values())


def test_an_autoencoder_that_comes_apart_leaves_its_state_as_it_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out, states = write(tmp_path / "data", 2), tmp_path / "run", []
    training = AutoencoderTraining(steps=4, batch=2, save_every=1)
    apart = nan_at(3, train_autoencoder.reconstruction_loss)
    monkeypatch.setattr(train_autoencoder, "reconstruction_loss", apart)

    def told(line: str) -> None:
        states.extend([files_of(out)] if line.startswith("step 2 ") else [])

    with pytest.raises(TrainingError, match=f"run, step 3: {COMES_APART}"):
        train_autoencoder.train_autoencoder(data, out, training, report=told)
    assert [files_of(out)] == states
    assert train_autoencoder.train_autoencoder(data, out, training, report=lambda line: None)["step"] == 4


def test_reinforcement_learning_ends_before_weights_become_no_numbers() -> None:
    first = make_checkpoint()
    learner, (samples, _) = Learner(first, RL), draws(first)
    spoiled = dataclasses.replace(samples[0], log_p=float("nan"))
    with pytest.raises(TrainingError, match=f"run, iteration 4: {COMES_APART}.*lower --learning-rate"):
        learner.update([(spoiled, 1.0), (samples[1], -1.0)], np.random.default_rng(0), "run, iteration 4")
    assert all(torch.equal(value, first.model[name]) for name, value in learner.model.state_dict().items())
