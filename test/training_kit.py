"""A small synthetic data folder: images and joints that say which frame they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from starry_ros.training.dataset import Demonstrations, load_demonstrations
from starry_ros.types import F32, U8

JOINTS, STEPS, EVENTS, VIEWS = 14, 16, 2, 3
CANVAS = (192, 160, 3)
LATENT = (4, 12, 10)
SENTENCES = ("put the red block on the pad", "put the blue block on the pad")


def write_episodes(folder: Path, lengths: tuple[int, ...] = (9, 30, 14), seed: int = 0) -> Path:
    """Episodes whose first canvas pixel, first joint and first command count the frames of the whole folder.

    The sentence changes half-way through each.
    """
    rng = np.random.default_rng(seed)
    (folder / "episodes").mkdir(parents=True)
    start = 0
    for episode, length in enumerate(lengths):
        number = np.arange(start, start + length)
        canvas = rng.integers(0, 256, (length, *CANVAS), dtype=np.uint8)
        canvas[:, 0, 0, 0] = number
        position = rng.uniform(-0.3, 0.3, (length, JOINTS))
        command = rng.uniform(-0.3, 0.3, (length, JOINTS))
        position[:, 0], command[:, 0] = number / 100, 1 + number / 100
        events = rng.uniform(20, 100, (length, EVENTS, VIEWS, 5))
        events[..., 2], events[..., 3] = 4.0, rng.random((length, EVENTS, VIEWS)) < 0.5
        np.savez(
            folder / "episodes" / f"{episode:05d}.npz", canvas_THWC=canvas, position_TJ=position, command_TJ=command,
            plan_TKJ=position[:, None] + rng.uniform(-0.1, 0.1, (length, STEPS, JOINTS)), events_TEVF=events,
            empty_closed_T=number % 5 == 0, stage_T=number % 3,
            text_T=(2 * (number - start) >= length).astype(int), texts=np.array(SENTENCES), kind="normal",
        )
        start += length
    return folder


def encode(canvas_BHWC: U8) -> F32:
    """Latents that carry the number of the frame."""
    return np.tile(canvas_BHWC[:, 0, 0, 0].astype(np.float32)[:, None, None, None], (1, *LATENT))


def load(folder: Path, cache: Path) -> Demonstrations:
    """The folder's frames, with those latents."""
    return load_demonstrations(folder, cache, encode)
