"""Train the state autoencoder on the frames of a data set: `starry train-state-tokens`.

With `action_weight` 0 it learns from images alone, as StaMo does. Otherwise a linear head also has to tell the joints'
positions from a state, and the same head their displacement from a motion, which is the difference of two states: the
states of a robot's own data then turn straight where its actions are straight. Positions teach where the arms are from
every single frame; displacements weigh what little moves in a tenth of a second. The head is dropped. Seeded and
resumable. Every tenth episode is held out: `starry eval-state-tokens` measures there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from starry_ros.errors import ConfigError, DataError
from starry_ros.paths import robot_file
from starry_ros.robot_spec import load_robot_spec
from starry_ros.training.budgets import StatesTraining
from starry_ros.training.compute import PROCESSOR, Compute, chosen_compute
from starry_ros.training.dataset import I64, Demonstrations, load_demonstrations
from starry_ros.training.finite import OTHER_SEED, clip_gradients
from starry_ros.training.same_run import refuse
from starry_ros.training.store import Progress, load_state, save_state
from starry_ros.training.summary import check_contract
from starry_ros.training.train_data import encoder, follow, given_autoencoder
from starry_ros.types import F32, F64
from starry_ros.wam.autoencoder import to_float
from starry_ros.wam.normalise import ARM_SCALE_FLOOR_RAD
from starry_ros.wam.options import StatesConfig
from starry_ros.wam.state_tokens import RECORD, StateAutoencoder, load_states, save_states

HELD_OUT_EVERY = 10
KEPT = ("seed", "batch", "action_weight")
"""What a run keeps to its end, by option: it decides the weights."""


def held_out(data: Demonstrations) -> NDArray[np.bool_]:
    """Frames of the episodes that training does not see."""
    mask: NDArray[np.bool_] = np.searchsorted(np.unique(data.first_F), data.first_F) % HELD_OUT_EVERY == 0
    return mask


def states_config(data: Demonstrations) -> StatesConfig:
    """The default shape for the latents of a data set. Pixels are read in squares of 4: a wrist that turns by a degree
    moves its picture by less than a pixel.
    """
    channels, rows, columns = data.latents_FCYX.shape[1:]
    return StatesConfig(latent_channels=channels, latent_rows=rows, latent_columns=columns, pixel_cells=4, reading=32)


class StatesTrainer:
    """Model, its running average, optimiser and the frames to draw from."""

    def __init__(
        self, data: Demonstrations, config: StatesConfig, training: StatesTraining, out: Path,
        compute: Compute = PROCESSOR,
    ) -> None:
        self.data, self.training, self.out, self._compute = data, training, out, compute
        self.frames: I64 = np.flatnonzero(~held_out(data))
        torch.manual_seed(training.seed)
        self.model = StateAutoencoder(config)
        self.head = nn.Linear(config.tokens * config.state_width, data.position_FJ.shape[1])
        self.means_F3HW = pixel_means(config, data)
        self.trained = nn.ModuleDict({"states": self.model, "head": self.head}).to(compute.device)
        self.middle_J = data.position_FJ.mean(0)
        self.scale_J = np.maximum(data.position_FJ.std(0), ARM_SCALE_FLOOR_RAD)
        self.spread_K = torch.from_numpy(self._spread(training.longest_motion)).float().to(compute.device)
        self.optimiser = torch.optim.AdamW(self.trained.parameters(), lr=training.learning_rate, weight_decay=0.01)
        self.average = {name: value.clone() for name, value in self.trained.state_dict().items()}
        self.progress = load_state(out, self.trained, self.average, self.optimiser)

    def _spread(self, longest: int) -> F64:
        """Mean square of the joints' displacement over 0 .. longest steps, so that short motions count as much."""
        found = [1.0]
        for k in range(1, longest + 1):
            start = self.frames[self.frames + k <= self.data.last_F[self.frames]]
            moved = (self.data.position_FJ[start + k] - self.data.position_FJ[start]) / self.scale_J
            found.append(float(np.square(moved).mean()) + 1e-9 if len(start) else 1.0)
        return np.array(found)

    def step(self) -> dict[str, float]:
        """One update on pairs of frames; they and the noise depend on (seed, step) alone. Returns the loss terms."""
        step = self.progress.step
        with self._compute.here():
            terms = self._terms(np.random.default_rng([self.training.seed, step]))
        loss = terms["flow"]
        for name in ("position", "motion"):
            if name in terms:
                loss = loss + self.training.action_weight * terms[name]
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        clip_gradients(self.trained.parameters(), 1.0, float(loss.detach()), f"{self.out}, step {step + 1}", OTHER_SEED)
        for group in self.optimiser.param_groups:
            group["lr"] = self.training.rate(step)
        self.optimiser.step()
        follow(self.average, self.trained, self.training.average_decay, step)
        self.progress.step += 1
        return {name: float(term.detach()) for name, term in terms.items()}

    def _terms(self, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """The loss terms of one draw of pairs."""
        data = self.data
        before = np.sort(rng.choice(self.frames, self.training.batch // 2))
        after = np.minimum(before + rng.integers(1, self.training.longest_motion + 1, len(before)), data.last_F[before])
        drawn = np.concatenate([before, after])
        latents, means = (torch.as_tensor(part[drawn].astype(np.float32))
                          for part in (data.latents_FCYX, self.means_F3HW))
        state = self.model.encode_features(latents, means)
        half = len(before)  # one frame of a pair is enough for the decoder
        noise = torch.as_tensor(rng.standard_normal(latents[:half].shape, dtype=np.float32))
        terms = {"flow": self.model.loss(latents[:half], noise, _times(rng, half), state[:half])}
        if self.training.action_weight:
            position = torch.as_tensor((data.position_FJ[drawn] - self.middle_J) / self.scale_J).float()
            error = self.head(state.flatten(1)) - position
            terms["position"] = error.square().mean()
            moved = (error[half:] - error[:half]).square().mean(1)
            terms["motion"] = (moved / self.spread_K[torch.as_tensor(after - before)]).mean()
        return terms

    def save(self) -> None:
        """State to resume from, and the averaged weights as a model."""
        save_state(self.out, self.trained, self.average, self.optimiser, self.progress)
        averaged = StateAutoencoder(self.model.config)
        prefix = "states."
        averaged.load_state_dict({name.removeprefix(prefix): value for name, value in self.average.items()
                                  if name.startswith(prefix)})
        save_states(self.out, averaged, {"steps_done": self.progress.step, **dataclasses.asdict(self.training)})


def _times(rng: np.random.Generator, size: int) -> torch.Tensor:
    """Flow times 1 - u^2: mostly near pure noise, where the state is all that the decoder has."""
    return torch.as_tensor((1 - rng.random(size, dtype=np.float32) ** 2).astype(np.float32))


def run(trainer: StatesTrainer, minutes: float | None, report: Callable[[str], None] = print) -> None:
    """Train to the last step or for `minutes`; saves every 100 steps and at the end."""
    started, rows = time.monotonic(), []
    before = trainer.progress.seconds
    while trainer.progress.step < trainer.training.steps:
        rows.append(trainer.step())
        elapsed = time.monotonic() - started
        trainer.progress = Progress(trainer.progress.step, before + elapsed)
        if trainer.progress.step % 100 == 0:
            trainer.save()
            means = "  ".join(f"{name} {np.mean([row[name] for row in rows]):.4f}" for name in rows[0])
            report(f"step {trainer.progress.step}  {means}  {elapsed / 60:.1f} min")
            rows = []
        if minutes is not None and elapsed > 60 * minutes:
            break
    trainer.save()


def pixel_means(config: StatesConfig, data: Demonstrations) -> NDArray[np.float16]:
    """Of every frame, what the encoder reads of its pixels [F, 3, H, W]: a hundredth of a canvas, held in memory."""
    cells = max(1, config.pixel_cells)
    means = np.empty((len(data), 3, config.latent_rows * cells, config.latent_columns * cells), np.float16)
    for frame, canvas_HWC in enumerate(data.canvas_FHWC):
        small = cv2.resize(canvas_HWC.astype(np.float32), means.shape[:1:-1], interpolation=cv2.INTER_AREA)
        means[frame] = (small / 127.5 - 1).transpose(2, 0, 1)
    return means


def frame_tensors(data: Demonstrations, frames: I64) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents and canvases (in [-1, 1]) of some frames."""
    latents = torch.from_numpy(data.latents_FCYX[frames].astype(np.float32))
    return latents, to_float(torch.from_numpy(data.canvas_FHWC[frames]))


@torch.no_grad()
def encode_frames(model: StateAutoencoder, data: Demonstrations, frames: I64) -> F32:
    """States [n, S D] of the given frames."""
    parts = [model.encode(*frame_tensors(data, part)).flatten(1).numpy()
             for part in np.array_split(frames, max(1, len(frames) // 64))]
    states: F32 = np.concatenate(parts)
    return states


def load_data(args: argparse.Namespace, run_folder: Path) -> Demonstrations:
    """The data set that the arguments name, with its latents. Raises DataError on data of another robot, or too few."""
    check_contract(args.data, load_robot_spec(robot_file(args.robot)))
    autoencoder = given_autoencoder(args.autoencoder)
    data = load_demonstrations(args.data, args.cache or run_folder / "cache", encoder(autoencoder))
    if held_out(data).all():
        raise DataError(str(args.data), "too few episodes: the first is held out", got=1, expected="at least 2",
                        fix="give more demonstrations")
    return data


def _require_same_run(out: Path, training: StatesTraining) -> None:
    """ConfigError where the run in `out` was begun with another of the KEPT options. It may get more steps."""
    begun, given = json.loads((out / RECORD).read_bytes()).get("facts", {}), dataclasses.asdict(training)
    refuse(out, {f"--{name.replace('_', '-')}": (begun[name], given[name]) for name in KEPT
                 if begun.get(name, given[name]) != given[name]})


def train_state_tokens_command(args: argparse.Namespace) -> int:
    """`starry train-state-tokens`: returns 0 when the run is saved."""
    for name in ("steps", "batch"):
        if getattr(args, name) < 2:
            raise ConfigError(f"--{name}", "is too small", got=getattr(args, name), expected=">= 2")
    data = load_data(args, args.out)
    training = StatesTraining(args.steps, args.batch, args.seed, action_weight=args.action_weight)
    begun = (args.out / RECORD).is_file()
    config = load_states(args.out).config if begun else states_config(data)
    if begun:
        _require_same_run(args.out, training)
    trainer = StatesTrainer(data, config, training, args.out, chosen_compute(args.device))
    run(trainer, args.minutes)
    print(f"{trainer.progress.step} steps, written to {args.out}")
    return 0
