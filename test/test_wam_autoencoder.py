"""Autoencoder: geometry, determinism, normalisation, storage, and training that learns, resumes and repeats."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch

from starry_ros.errors import CheckpointError, ConfigError, DataError
from starry_ros.training.arguments import add_train_autoencoder_command_arguments
from starry_ros.training.budgets import AutoencoderTraining
from starry_ros.training.train_autoencoder import (
    MOVING_WEIGHT,
    load_frames,
    pixel_weight,
    reconstruction_loss,
    train_autoencoder,
    train_autoencoder_command,
)
from starry_ros.wam.autoencoder import (
    Autoencoder,
    AutoencoderConfig,
    load_autoencoder,
    save_autoencoder,
    to_float,
    to_uint8,
)

SMALL = AutoencoderConfig(height_px=48, width_px=32, latent_channels=8, widths=(8, 8, 16))


def _canvases(count: int, seed: int = 0, size: tuple[int, int] = (48, 32)) -> np.ndarray:
    """A gradient backdrop (position coded) with one coloured square at a random place."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    frames = np.stack([rows * 3, columns * 4, rows + columns], -1).astype(np.uint8)[None].repeat(count, 0)
    for frame in frames:
        y, x = rng.integers(size[0] - 8), rng.integers(size[1] - 8)
        frame[y : y + 8, x : x + 8] = [(230, 30, 30), (30, 200, 30), (30, 60, 220)][rng.integers(3)]
    return frames


def _dataset(folder: Path, episodes: int = 8, frames: int = 12) -> Path:
    (folder / "episodes").mkdir(parents=True)
    for i in range(episodes):
        np.savez(folder / "episodes" / f"{i:04d}.npz", canvas_THWC=_canvases(frames, seed=i))
    return folder


def _model(seed: int = 0) -> Autoencoder:
    torch.manual_seed(seed)
    return Autoencoder(SMALL).eval()


def test_shapes_and_types_follow_the_stride_of_sixteen() -> None:
    model, canvas = _model(), torch.from_numpy(_canvases(3))
    with torch.no_grad():
        z = model.encode(canvas)
        assert z.shape == (3, *SMALL.latent_shape) == (3, 8, 3, 2)
        assert z.dtype == torch.float32
        back = model.decode(z)
    assert back.shape == canvas.shape
    assert back.dtype == torch.uint8


def test_pixel_conversion_is_exact_for_every_byte() -> None:
    every = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    image = to_float(every)
    assert (image.min(), image.max()) == (-1, 1)
    assert torch.equal(to_uint8(image), every)
    assert torch.equal(to_uint8(image * 3)[0, 0, 0], torch.zeros(3, dtype=torch.uint8))


def test_a_frame_encodes_alike_alone_and_in_a_batch() -> None:
    model, canvas = _model(), torch.from_numpy(_canvases(5))
    with torch.no_grad():
        batch = model.encode(canvas)
        for i in range(5):
            torch.testing.assert_close(model.encode(canvas[i : i + 1])[0], batch[i], atol=1e-5, rtol=1e-5)
        assert torch.equal(model.encode(canvas), batch)


def test_latent_cell_lies_over_its_own_pixels() -> None:
    model = Autoencoder(AutoencoderConfig(96, 96, 4, (8, 8, 16))).eval()
    image = torch.zeros(1, 3, 96, 96, requires_grad=True)
    model.encode_float(image)[0, :, 3, 2].square().sum().backward()
    assert image.grad is not None
    rows, columns = torch.nonzero(image.grad[0].abs().sum(0), as_tuple=True)
    for seen, first in ((rows, 48), (columns, 32)):
        assert first - 48 <= seen.min() <= first
        assert first + 15 <= seen.max() < first + 64


def test_statistics_normalise_latents_and_decoding_undoes_them() -> None:
    model, canvas = _model(), torch.from_numpy(_canvases(64))
    with torch.no_grad():
        raw = model.encode(canvas)
        before = model.decode_float(raw)
        model.set_latent_statistics(raw.mean((0, 2, 3)), raw.std((0, 2, 3)))
        z = model.encode(canvas)
        torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(8), atol=1e-4, rtol=0)
        torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(8), atol=1e-2, rtol=0)
        torch.testing.assert_close(model.decode_float(z), before, atol=1e-4, rtol=0)


def test_saved_weights_come_back_bit_for_bit_and_damage_is_refused(tmp_path: Path) -> None:
    model, canvas = _model(), torch.from_numpy(_canvases(2))
    save_autoencoder(tmp_path, model, {"step": 1})
    with torch.no_grad():
        assert torch.equal(load_autoencoder(tmp_path).encode(canvas), model.encode(canvas))
    weights = tmp_path / "autoencoder.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_autoencoder(tmp_path)
    with pytest.raises(CheckpointError, match="train it again"):
        load_autoencoder(tmp_path / "absent")


def test_canvas_that_is_no_multiple_of_the_stride_is_refused() -> None:
    with pytest.raises(ConfigError, match="height_px is wrong; got 50; expected a multiple of 16"):
        AutoencoderConfig(height_px=50)
    assert AutoencoderConfig.from_json_dict(SMALL.to_json_dict()) == SMALL


def test_pixel_weight_is_one_on_background_and_full_on_moving_pixels() -> None:
    median = torch.zeros(3, 2, 2)
    image = torch.zeros(1, 3, 2, 2)
    image[0, 1, 0, 1], image[0, 2, 1, 0] = 0.1, -0.7
    assert pixel_weight(image, median)[0, 0].tolist() == [[1.0, pytest.approx(5.5)], [MOVING_WEIGHT, 1.0]]


def test_loss_equals_a_naive_loop() -> None:
    rng = np.random.default_rng(3)
    got, image = rng.normal(size=(2, 2, 3, 4, 5))
    weight = rng.uniform(1, 10, size=(2, 1, 4, 5))
    error, sums = got - image, np.zeros((3, 2))
    for b in range(2):
        for y in range(4):
            for x in range(5):
                w = weight[b, 0, y, x]
                sums[0] += [w * (np.abs(error[b, :, y, x]) + 5 * error[b, :, y, x] ** 2).sum(), 3 * w]
                for row, (y2, x2) in ((1, (y + 1, x)), (2, (y, x + 1))):
                    if y2 < 4 and x2 < 5:
                        pair = max(w, weight[b, 0, y2, x2])
                        sums[row] += [pair * np.abs(error[b, :, y2, x2] - error[b, :, y, x]).sum(), 3 * pair]
    parts = sums[:, 0] / sums[:, 1]
    loss = reconstruction_loss(*(torch.from_numpy(a) for a in (got, image, weight)))
    assert float(loss) == pytest.approx(parts[0] + 0.5 * (parts[1] + parts[2]))


def test_short_training_beats_the_background_and_keeps_the_colour(tmp_path: Path) -> None:
    plan = AutoencoderTraining(steps=200, batch=16)
    facts = train_autoencoder(_dataset(tmp_path / "data"), tmp_path / "out", plan, report=lambda _: None)
    assert facts["psnr_moving_db"] > facts["psnr_moving_background_db"] + 5
    model, frames = load_autoencoder(tmp_path / "out"), _canvases(20, seed=99)
    with torch.no_grad():
        back = model.decode(model.encode(torch.from_numpy(frames))).numpy()
    square = (frames.max(-1) >= 200) & (frames.min(-1) == 30)
    right = [np.argmax(b[s].mean(0)) == np.argmax(f[s].mean(0)) for b, f, s in zip(back, frames, square, strict=True)]
    assert np.mean(right) >= 0.9


def test_interrupted_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    data, plan = _dataset(tmp_path / "data", 3, 6), AutoencoderTraining(steps=6, batch=4, save_every=2)
    quiet = {"report": lambda _: None}
    train_autoencoder(data, tmp_path / "whole", plan, **quiet)

    def interrupt(line: str) -> None:
        if line.startswith("step 4 loss"):
            raise KeyboardInterrupt

    train_autoencoder(data, tmp_path / "parts", plan, report=interrupt)
    train_autoencoder(data, tmp_path / "parts", plan, **quiet)
    whole, parts = (load_autoencoder(tmp_path / name).state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    with pytest.raises(DataError, match="belongs to another run"):
        train_autoencoder(data, tmp_path / "parts", AutoencoderTraining(steps=7, batch=4), **quiet)


def test_held_out_frames_come_from_other_episodes(tmp_path: Path) -> None:
    frames = load_frames(_dataset(tmp_path, 21, 4), 100, 0)
    assert len(frames.held_out_NHW3) + len(frames.train_NHW3) == 84
    assert len(frames.held_out_NHW3) == 8
    train = {frame.tobytes() for frame in frames.train_NHW3}
    assert sum(frame.tobytes() in train for frame in frames.held_out_NHW3) <= 1


def test_unreadable_or_missing_episodes_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too few episodes"):
        load_frames(tmp_path, 10, 0)
    data = _dataset(tmp_path, 2, 2)
    (data / "episodes" / "0001.npz").write_bytes(b"PK broken")
    with pytest.raises(DataError, match=r"0001\.npz"):
        load_frames(data, 10, 0)


def test_command_trains_and_refuses_an_empty_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_train_autoencoder_command_arguments(parser)
    common = ["--data", str(_dataset(tmp_path / "data", 2, 4)), "--out", str(tmp_path / "out"), "--batch", "2"]
    assert train_autoencoder_command(parser.parse_args([*common, "--steps", "2"])) == 0
    assert "moving pixels" in capsys.readouterr().out
    assert load_autoencoder(tmp_path / "out").config.height_px == 48
    with pytest.raises(SystemExit):
        parser.parse_args([*common, "--steps", "0"])
    assert "--steps" in capsys.readouterr().err


def test_a_training_can_start_from_another_and_keeps_its_background(tmp_path: Path) -> None:
    plan, quiet = AutoencoderTraining(steps=1, batch=4, learning_rate=0.0), {"report": lambda _: None}
    train_autoencoder(_dataset(tmp_path / "first", 3, 6), tmp_path / "first_out", plan, **quiet)
    train_autoencoder(_dataset(tmp_path / "other", 2, 4), tmp_path / "out", plan, init=tmp_path / "first_out", **quiet)
    first, later = (load_autoencoder(tmp_path / name).state_dict() for name in ("first_out", "out"))
    changed = {name for name in first if not torch.equal(first[name], later[name])}
    assert changed <= {"mean_C11", "std_C11"}, "with no learning rate only the statistics of the latents may differ"
