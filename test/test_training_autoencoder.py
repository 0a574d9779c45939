"""Which frames tell how good an autoencoder is, and what one may start from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from starry_ros.errors import ConfigError, DataError
from starry_ros.training.budgets import AutoencoderTraining
from starry_ros.training.train_autoencoder import HELD_OUT, load_frames, train_autoencoder
from starry_ros.wam.autoencoder import Autoencoder, AutoencoderConfig, save_autoencoder

FRAMES = 40


def write(folder: Path, episodes: int, frames: int = FRAMES) -> Path:
    """Episodes whose first pixel says which episode it is, the second which frame."""
    (folder / "episodes").mkdir(parents=True)
    for episode in range(episodes):
        canvas = np.zeros((frames, 16, 16, 3), np.uint8)
        canvas[:, 0, 0, 0], canvas[:, 0, 1, 0] = episode, np.arange(frames)
        np.savez(folder / "episodes" / f"{episode:04d}.npz", canvas_THWC=canvas)
    return folder


@pytest.mark.parametrize("frames", [9, 100])
def test_quality_is_measured_on_frames_of_all_held_out_episodes_alike(frames: int, tmp_path: Path) -> None:
    """Episodes 0, 20, ... 220 of 240; of 40 frames each, 12 times 40 are more than are measured."""
    held_out = load_frames(write(tmp_path, 240), 240 * frames, 0).held_out_NHW3
    episode_N, frame_N = held_out[:, 0, 0, 0], held_out[:, 0, 1, 0]
    count = min(HELD_OUT, 12 * min(frames, FRAMES))
    assert len(np.unique(np.stack([episode_N, frame_N]), axis=1).T) == len(held_out) == count
    counts = {int(episode): int((episode_N == episode).sum()) for episode in np.unique(episode_N)}
    assert list(counts) == list(range(0, 240, 20))
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("noted", [True, False])
def test_a_run_is_not_continued_on_other_episodes_of_the_same_names_and_sizes(noted: bool, tmp_path: Path) -> None:
    data, training = write(tmp_path / "data", 2), AutoencoderTraining(steps=2, batch=2)
    (tmp_path / "data/meta.json").write_text(json.dumps({"data_hash": "first"} if noted else {}))
    facts = train_autoencoder(data, tmp_path / "run", training, report=lambda line: None)
    assert (facts["data_hash"] == "first") == noted
    path = data / "episodes" / "0001.npz"
    size = path.stat().st_size
    np.savez(path, canvas_THWC=np.full((FRAMES, 16, 16, 3), 9, np.uint8))
    assert path.stat().st_size == size
    (tmp_path / "data/meta.json").write_text(json.dumps({"data_hash": "second"} if noted else {}))
    with pytest.raises(DataError, match="belongs to another run"):
        train_autoencoder(data, tmp_path / "run", training, report=lambda line: None)


def test_an_autoencoder_of_another_canvas_is_no_start_and_nothing_is_written(tmp_path: Path) -> None:
    other = Autoencoder(AutoencoderConfig(height_px=32, width_px=16, latent_channels=4, widths=(8, 8, 8)))
    save_autoencoder(tmp_path / "other", other, {})
    with pytest.raises(ConfigError, match=r"--init: was trained on another canvas; got \(32, 16\); expected \(16, 16"):
        train_autoencoder(write(tmp_path / "data", 2), tmp_path / "run", AutoencoderTraining(steps=1, batch=2),
                          init=tmp_path / "other")
    assert not (tmp_path / "run").exists()
