"""The compact state: shapes, its flow's identities, files; and the probes against closed forms."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from training_kit import encode, write_episodes

from starry_ros.errors import CheckpointError, ConfigError, TrainingError
from starry_ros.training import probe_states
from starry_ros.training.budgets import StatesTraining
from starry_ros.training.compute import Compute
from starry_ros.training.dataset import Demonstrations, load_demonstrations
from starry_ros.training.probe_states import compare, displacements, fit_linear, pairs, pooled
from starry_ros.training.train_state_tokens import StatesTrainer, held_out, run, states_config
from starry_ros.wam.options import StatesConfig
from starry_ros.wam.state_tokens import StateAutoencoder, load_states, save_states

SMALL = StatesConfig(latent_channels=4, state_width=6, width=16, feed_forward=16, heads=2, layers=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Demonstrations:
    folder = tmp_path_factory.mktemp("data")
    return load_demonstrations(write_episodes(folder / "d", (12,) * 11), folder / "cache", encode)


def make(seed: int = 0) -> StateAutoencoder:
    torch.manual_seed(seed)
    model = StateAutoencoder(SMALL).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def latents(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 4, 12, 10, generator=torch.Generator().manual_seed(seed))


def canvases(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 192, 160, generator=torch.Generator().manual_seed(7))


def test_pixels_beside_a_latent_are_the_means_of_its_squares() -> None:
    canvas, z = canvases(1), latents(1)
    encoder = make().encoder
    features = encoder.features(z, encoder.means(canvas))
    assert torch.equal(features[:, :4], z)
    for row, column, channel, i, j in ((0, 0, 0, 0, 0), (11, 9, 2, 1, 0), (4, 7, 1, 0, 1)):
        y, x = 16 * row + 8 * i, 16 * column + 8 * j
        wanted = 3.0 * float(canvas[0, channel, y : y + 8, x : x + 8].mean())
        assert float(features[0, 4 + 4 * channel + 2 * i + j, row, column]) == pytest.approx(wanted, rel=1e-4)


def test_a_frame_is_two_tokens_and_a_motion_is_their_difference() -> None:
    model, z = make(), latents(3)
    states = model.encode(z, canvases(3))
    assert states.shape == (3, 2, 6)
    moved, lit = z.clone(), canvases(3)
    moved[0, 2, 11, 9] += 1.0
    lit[1, 0, 191, 159] += 1.0
    assert (model.encode(moved, canvases(3))[0] - states[0]).abs().max() > 1e-5
    assert (model.encode(z, lit)[1] - states[1]).abs().max() > 1e-6
    blind = StateAutoencoder(dataclasses.replace(SMALL, pixel_cells=0)).eval()
    assert torch.equal(blind.encode(z, lit), blind.encode(z, canvases(3)))
    assert model.decode(states, latents(3, 1), steps=2).shape == z.shape


def test_the_decoder_reads_the_state_everywhere_and_the_loss_is_its_velocity_error() -> None:
    model, z, noise = make(), latents(2), latents(2, 1)
    t = torch.tensor([0.25, 1.0])
    state = model.encode(z, canvases(2))
    base = model.decoder(noise, t, state)
    other = model.decoder(noise, t, state + 0.5)
    assert ((base - other).abs().amax(dim=(0, 1)) > 1e-7).all()
    mixed = torch.stack([0.75 * z[0] + 0.25 * noise[0], noise[1]])
    error = model.decoder(mixed, t, state) - (noise - z)
    assert float(model.loss(z, noise, t, state).detach()) == pytest.approx(float((error**2).mean().detach()), rel=1e-5)


def test_files_keep_every_bit_and_damage_is_refused(tmp_path: Path) -> None:
    model = make()
    save_states(tmp_path, model, {"note": 1})
    again = load_states(tmp_path)
    assert torch.equal(model.encode(latents(1), canvases(1)), again.encode(latents(1), canvases(1)))
    (tmp_path / "states.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="train-state-tokens"):
        load_states(tmp_path)
    with pytest.raises(ConfigError, match="patch must divide"):
        dataclasses.replace(SMALL, patch=7)


def test_training_lowers_the_loss_resumes_and_never_sees_held_out_episodes(
    data: Demonstrations, tmp_path: Path
) -> None:
    assert held_out(data).sum() == 24  # episodes 0 and 10 of 11
    assert states_config(data).latent_channels == 4
    training = StatesTraining(steps=6, batch=4, warm_up=1)
    straight = StatesTrainer(data, SMALL, training, tmp_path / "a")
    losses = [straight.step() for _ in range(6)]
    broken = StatesTrainer(data, SMALL, training, tmp_path / "b")
    run(broken, minutes=-1.0, report=lambda _: None)
    assert broken.progress.step == 1
    again = StatesTrainer(data, SMALL, training, tmp_path / "b")
    assert [again.step() for _ in range(5)] == losses[1:]
    assert not set(straight.frames) & set(np.flatnonzero(held_out(data)))
    assert load_states(tmp_path / "b").config == SMALL


def test_states_that_lose_their_numbers_end_the_training_before_a_weight_changes(
    data: Demonstrations, tmp_path: Path
) -> None:
    trainer = StatesTrainer(data, SMALL, StatesTraining(steps=6, batch=4), tmp_path)
    trainer.means_F3HW[:] = np.nan
    before = {name: value.clone() for name, value in trainer.trained.state_dict().items()}
    with pytest.raises(TrainingError, match="step 1: the training has come apart"):
        run(trainer, None, report=lambda _: None)
    assert all(torch.equal(value, before[name]) for name, value in trainer.trained.state_dict().items())
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_pass_on_another_device_mixes_no_devices(data: Demonstrations, tmp_path: Path) -> None:
    """The device without numbers stands for a GPU: an operation on two devices raises there too."""
    device = torch.device("meta")
    trainer = StatesTrainer(data, SMALL, StatesTraining(steps=6, batch=8), tmp_path, Compute(device))
    with trainer._compute.here():
        terms = trainer._terms(np.random.default_rng(0))
    assert {name: term.device for name, term in terms.items()} == dict.fromkeys(("flow", "position", "motion"), device)


def test_a_linear_probe_is_ridge_regression() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((50, 4)) * [1, 2, 3, 4] + 5, rng.standard_normal((50, 3))
    probe = fit_linear(x, y, penalty=2.0)
    xs = (x - x.mean(0)) / (x.std(0) + 1e-6)
    augmented = np.vstack([xs, np.sqrt(2.0) * np.eye(4)])
    wanted, *_ = np.linalg.lstsq(augmented, np.vstack([y - y.mean(0), np.zeros((4, 3))]), rcond=None)
    np.testing.assert_allclose(probe.weight_DY, wanted, atol=1e-9)
    np.testing.assert_allclose(probe(x), xs @ wanted + y.mean(0), atol=1e-9)


def test_targets_and_pixels_are_what_a_naive_loop_gives(data: Demonstrations) -> None:
    frames = np.array([0, 13, 40])
    got = displacements(data, frames, 2)
    scale = np.maximum(data.position_FJ.std(0), 0.02)
    for i, frame in enumerate(frames):
        for step in (1, 2):
            wanted = (data.position_FJ[frame + step] - data.position_FJ[frame]) / scale
            np.testing.assert_allclose(got[i, 14 * (step - 1) : 14 * step], wanted, rtol=1e-5)
    canvas = data.canvas_FHWC[:1]
    wanted = [canvas[0, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16, c].mean() / 255
              for y in range(12) for x in range(10) for c in range(3)]
    np.testing.assert_allclose(pooled(canvas)[0], wanted, rtol=1e-4)
    first = pairs(data, 8, np.ones(len(data), bool), 10**6, seed=0)
    assert len(first) == 11 * 4
    assert all(data.first_F[i] == data.first_F[i + 8] for i in first)


def test_the_comparison_prefers_a_state_that_knows_the_joints(
    data: Demonstrations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state that is the joints themselves leaves no error; random pixels tell nothing."""
    monkeypatch.setattr(probe_states, "encode_frames", lambda model, z, frames: data.position_FJ[frames])
    rows = compare(make(), data, (1,), 60)
    assert [row["probe"] for row in rows] == ["linear", "mlp"]
    assert rows[0]["state"] < 0.05 < 0.5 < rows[0]["pixels"]
    assert rows[0]["bar"] == "ok"
