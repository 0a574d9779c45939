"""Train the canvas autoencoder: seeded, resumable, about six minutes on one core.

Shapes: N frames, B batch, H x W canvas pixels, 3 RGB, C latent channels.

Loss: weighted absolute and squared error of pixels, plus weighted absolute error of differences of neighbours. Without
the square a small object at an unpredictable place stays invisible: its median is the background. A pixel that deviates
from the median of the training frames there (a block, a jaw, an arm) weighs up to ten times a background pixel. Latents
get Gaussian noise relative to their own spread, so that neighbouring latents decode to neighbouring images.
"""

from __future__ import annotations

import argparse
import json
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from starry_ros.errors import ConfigError, DataError
from starry_ros.files import write_text
from starry_ros.paths import robot_file
from starry_ros.robot_spec import load_robot_spec
from starry_ros.training.budgets import AutoencoderTraining
from starry_ros.training.compute import PROCESSOR, Compute, chosen_compute
from starry_ros.training.finite import OTHER_SEED, clip_gradients
from starry_ros.training.scenes import PLAIN, View, view_of
from starry_ros.training.store import Progress, load_state, save_state
from starry_ros.training.summary import check_contract, content_hash, data_hash
from starry_ros.training.tint import tinted
from starry_ros.training.train_data import given_autoencoder
from starry_ros.types import U8
from starry_ros.wam.autoencoder import Autoencoder, AutoencoderConfig, save_autoencoder, to_float

MOVING_WEIGHT = 10.0
FULL_DEVIATION = 0.2  # of [-1, 1]; from here on a pixel has full weight
SQUARE_WEIGHT = 5.0
GRADIENT_WEIGHT = 0.5
LATENT_NOISE = 0.05
HELD_OUT = 256
"""Frames that the quality is measured on."""


@dataclass(frozen=True)
class Frames:
    """Training and held-out canvases (of other episodes), and the hash of all episodes of their folder."""

    train_NHW3: U8
    held_out_NHW3: U8
    median_HW3: U8
    data_hash: str


def train_autoencoder(
    data_dir: Path, out: Path, training: AutoencoderTraining, minutes: float | None = None,
    report: Callable[[str], None] = print, view: View = PLAIN, init: Path | None = None, compute: Compute = PROCESSOR,
) -> dict[str, Any]:
    """Train on `data_dir/episodes/*.npz`, write weights and facts to `out`, and return the facts.

    `init` is an autoencoder to start from: its background stays, and its latents change little.

    Continues from the state in `out` if it belongs to the same data and hyperparameters. Stops early after `minutes`;
    the same command then continues. Equal data and seed give equal weights, interrupted or not. Raises DataError, and
    ConfigError on an `init` of another canvas.
    """
    frames = load_frames(data_dir, training.max_frames, training.seed, view)
    identity = {"training": asdict(training), "data_hash": frames.data_hash}
    identity |= {} if view.name == PLAIN.name else {"view": view.name}
    identity |= {} if init is None else {"init": str(init)}
    model = _first_model(frames, training.seed, init).to(compute.device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=training.learning_rate, weight_decay=1e-4)
    _check_identity(out, identity)
    before = load_state(out, model, {}, optimiser)
    step = first = before.step
    report(f"{len(frames.train_NHW3)} frames, step {step} of {training.steps}")
    started = time.monotonic()

    def save() -> float:
        seconds = before.seconds + time.monotonic() - started
        save_state(out, model, {}, optimiser, Progress(step, seconds))
        return seconds

    try:
        while step < training.steps and (minutes is None or time.monotonic() - started < 60 * minutes):
            loss = _train_step(model, optimiser, frames, training, step, out, compute)
            step += 1
            if step % training.save_every == 0 or step == training.steps:
                save()
                report(f"step {step} loss {loss:.4f} {(time.monotonic() - started) / (step - first):.2f} s/step")
    except KeyboardInterrupt:
        report("interrupted; the same command continues")
    seconds = save()
    model.cpu().eval()
    _measure_latents(model, frames)
    facts = {**identity, "step": step, "seconds": round(seconds, 1), **evaluate(model, frames)}
    save_autoencoder(out, model, facts)
    return facts


def load_frames(data_dir: Path, max_frames: int, seed: int, view: View = PLAIN) -> Frames:
    """Up to `max_frames` canvases, evenly from all episodes; every twentieth episode is held out. Raises DataError."""
    paths = sorted((data_dir / "episodes").glob("*.npz"))
    if len(paths) < 2:
        raise DataError(
            str(data_dir), "too few episodes", got=len(paths), expected="at least 2", fix="run `starry data generate`"
        )
    rng = np.random.default_rng(seed)
    share = max(1, max_frames // len(paths))
    train: list[U8] = []
    held_out: list[U8] = []
    for i, path in enumerate(paths):
        canvas_THW3 = _read_canvas(path, view)
        chosen = np.sort(rng.permutation(len(canvas_THW3))[:share])
        (held_out if i % 20 == 0 else train).append(canvas_THW3[chosen])
    train_NHW3 = np.concatenate(train)
    sample = rng.permutation(len(train_NHW3))[:256]
    median_HW3 = np.median(train_NHW3[sample], axis=0).astype(np.uint8)
    known = data_hash(data_dir) or content_hash(paths)
    return Frames(train_NHW3, _spread(np.concatenate(held_out)), median_HW3, known)


def _spread(frames_NHW3: U8) -> U8:
    """Up to HELD_OUT of these frames, evenly from the first to the last, so that every episode is among them."""
    count = min(HELD_OUT, len(frames_NHW3))
    chosen: U8 = frames_NHW3[np.linspace(0, len(frames_NHW3) - 1, count).round().astype(int)]
    return chosen


def _read_canvas(path: Path, view: View) -> U8:
    try:
        with np.load(path, allow_pickle=False) as episode:
            canvas = view.compose(episode)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(str(path), f"cannot be read: {error}", fix="generate this episode again") from error
    if canvas.dtype != np.uint8 or canvas.ndim != 4 or canvas.shape[-1] != 3 or not len(canvas):
        got = f"{canvas.dtype} {canvas.shape}"
        raise DataError(str(path), "canvas has the wrong type", got=got, expected="uint8 [T, H, W, 3]")
    frames: U8 = canvas
    return frames


def pixel_weight(image_B3HW: Tensor, median_3HW: Tensor) -> Tensor:
    """Weight [B, 1, H, W] from 1 (as the median) to MOVING_WEIGHT (deviates by FULL_DEVIATION or more in a channel)."""
    deviation = (image_B3HW - median_3HW).abs().amax(dim=1, keepdim=True)
    return 1.0 + (MOVING_WEIGHT - 1.0) * (deviation / FULL_DEVIATION).clamp(max=1.0)


def reconstruction_loss(got_B3HW: Tensor, image_B3HW: Tensor, weight_B1HW: Tensor) -> Tensor:
    """Weighted mean of |error|, error squared and |difference of neighbouring errors| along rows and columns."""
    error = got_B3HW - image_B3HW
    pixel = error.abs() + SQUARE_WEIGHT * error.square()
    total = (pixel * weight_B1HW).sum() / (3 * weight_B1HW.sum())
    for axis in (2, 3):
        size = error.shape[axis] - 1
        weight = torch.maximum(weight_B1HW.narrow(axis, 0, size), weight_B1HW.narrow(axis, 1, size))
        total = total + GRADIENT_WEIGHT * (error.diff(dim=axis).abs() * weight).sum() / (3 * weight.sum())
    return total


@torch.no_grad()
def evaluate(model: Autoencoder, frames: Frames) -> dict[str, float]:
    """PSNR in dB on held-out episodes: all pixels, pixels of full weight, and those for the background alone."""
    squared, moving, still, count, moving_count = 0.0, 0.0, 0.0, 0, 0
    median = to_float(torch.from_numpy(frames.median_HW3)[None])
    for start in range(0, len(frames.held_out_NHW3), 32):
        image = to_float(torch.from_numpy(frames.held_out_NHW3[start : start + 32]))
        mask = (pixel_weight(image, median) >= MOVING_WEIGHT).expand_as(image)
        error = (model.decode_float(model.encode_float(image)).clamp(-1, 1) - image).square()
        squared, count = squared + float(error.sum()), count + error.numel()
        moving, moving_count = moving + float(error[mask].sum()), moving_count + int(mask.sum())
        still += float((median - image).square()[mask].sum())

    def psnr_db(total: float, number: int) -> float:
        return round(10 * float(np.log10(4.0 * max(number, 1) / max(total, 1e-12))), 2)

    return {"psnr_db": psnr_db(squared, count), "psnr_moving_db": psnr_db(moving, moving_count),
            "psnr_moving_background_db": psnr_db(still, moving_count)}


def _first_model(frames: Frames, seed: int, init: Path | None) -> Autoencoder:
    """A new autoencoder, or the one in `init`. Raises ConfigError where that is of another canvas."""
    size = frames.median_HW3.shape[:2]
    if init is None:
        torch.manual_seed(seed)
        model = Autoencoder(AutoencoderConfig(*size))
        model.set_background(frames.median_HW3)
        return model
    model = given_autoencoder(init)
    given = model.config.height_px, model.config.width_px
    if given != size:
        raise ConfigError("--init", "was trained on another canvas", got=given, expected=size,
                          fix="give one of this canvas (--layout, --robot), or leave out --init")
    return model


def _train_step(
    model: Autoencoder, optimiser: torch.optim.Optimizer, frames: Frames, training: AutoencoderTraining, step: int,
    out: Path, compute: Compute = PROCESSOR,
) -> float:
    """One update; batch and noise depend on (seed, step) alone, so that a resumed run equals an uninterrupted one."""
    rng = np.random.default_rng((training.seed, step))
    chosen = rng.integers(len(frames.train_NHW3), size=training.batch)
    image = to_float(torch.from_numpy(frames.train_NHW3[chosen]).to(compute.device))
    z = model.encode_float(image)
    noise = torch.from_numpy(rng.standard_normal(z.shape, dtype=np.float32)).to(compute.device)
    z = z + LATENT_NOISE * z.detach().std(dim=(0, 2, 3), keepdim=True) * noise
    loss = reconstruction_loss(model.decode_float(z), image, pixel_weight(image, model.background_3HW))
    for group in optimiser.param_groups:
        group["lr"] = training.rate(step)
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    clip_gradients(model.parameters(), 1.0, float(loss.detach()), f"{out}, step {step + 1}", OTHER_SEED)
    optimiser.step()
    return float(loss.detach())


@torch.no_grad()
def _measure_latents(model: Autoencoder, frames: Frames) -> None:
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.permutation(len(frames.train_NHW3))[:512])
    raw = torch.cat([model.encoder(to_float(torch.from_numpy(frames.train_NHW3[part])) - model.background_3HW)
                     for part in np.array_split(chosen, max(1, len(chosen) // 32))])
    model.set_latent_statistics(raw.mean(dim=(0, 2, 3)), raw.std(dim=(0, 2, 3)))


def _check_identity(out: Path, identity: dict[str, Any]) -> None:
    """Note which run `out` belongs to. Raises DataError where it belongs to another one."""
    path = out / "run.json"
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != identity:
            raise DataError(str(path), "belongs to another run", got=found, expected=identity, fix=f"remove {out}")
    out.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(identity, indent=2) + "\n")


def train_autoencoder_command(args: argparse.Namespace) -> int:
    """`starry train-autoencoder`: train and print how well held-out canvases come back."""
    for name in ("steps", "batch"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name}", "is not positive", got=getattr(args, name), expected=">= 1")
    training = AutoencoderTraining(steps=args.steps, batch=args.batch, seed=args.seed)
    spec = load_robot_spec(robot_file(args.robot))
    check_contract(args.data, spec)
    view = tinted(view_of(spec, args.layout, args.paths), args.tint)
    facts = train_autoencoder(args.data, args.out, training, args.minutes, view=view, init=args.init,
                              compute=chosen_compute(args.device))
    print(f"{facts['psnr_db']} dB, moving pixels {facts['psnr_moving_db']} dB "
          f"(background alone {facts['psnr_moving_background_db']} dB), written to {args.out}")
    return 0
