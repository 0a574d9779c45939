"""How much of the action a motion tells: `starry eval-state-tokens`.

A probe reads the difference of two frames' states and says the joint displacements of the steps between them. It is
measured on held-out episodes beside the same probe on the difference of the two canvases, averaged over squares of
POOL_PX: at the stride of the latents, so with more numbers than a state has. Errors are mean squares relative to the
spread of the displacements: 1 is a probe that knows nothing.

Shapes: n pairs of frames, D features, k steps, J joints.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from starry_ros.errors import ConfigError
from starry_ros.report import print_table, write_report
from starry_ros.training.dataset import I64, Demonstrations
from starry_ros.training.train_state_tokens import encode_frames, held_out, load_data
from starry_ros.types import F32, F64, U8, Record
from starry_ros.wam.normalise import ARM_SCALE_FLOOR_RAD
from starry_ros.wam.state_tokens import StateAutoencoder, load_states

POOL_PX = 16
BAR = 0.8
PENALTIES = (1.0, 10.0, 100.0, 1000.0, 1e4)
COLUMNS = ("probe", "horizon", "state", "pixels", "ratio", "rms_ratio", "bar")


@dataclass(frozen=True)
class LinearProbe:
    """y = ((x - offset) / scale) W + mean."""

    offset_D: F64
    scale_D: F64
    weight_DY: F64
    mean_Y: F64

    def __call__(self, x_nD: F32 | F64) -> F64:
        """Predictions [n, Y]."""
        y: F64 = ((x_nD - self.offset_D) / self.scale_D) @ self.weight_DY + self.mean_Y
        return y


def fit_linear(x_nD: F32 | F64, y_nY: F64, penalty: float) -> LinearProbe:
    """Ridge regression of standardised features, closed form."""
    offset, scale, mean = x_nD.mean(0), x_nD.std(0) + 1e-6, y_nY.mean(0)
    x = ((x_nD - offset) / scale).astype(np.float64)
    weight = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (y_nY - mean))
    return LinearProbe(offset.astype(np.float64), scale.astype(np.float64), weight, mean)


def choose_linear(x_nD: F32 | F64, y_nY: F64) -> LinearProbe:
    """The penalty that does best on the last fifth of the pairs, then fitted on all."""
    cut = len(x_nD) * 4 // 5
    errors = [squared_error(fit_linear(x_nD[:cut], y_nY[:cut], p)(x_nD[cut:]), y_nY[cut:]) for p in PENALTIES]
    return fit_linear(x_nD, y_nY, PENALTIES[int(np.argmin(errors))])


class MlpProbe:
    """Two hidden layers on standardised features, trained for a fixed number of steps."""

    def __init__(self, x_nD: F32 | F64, y_nY: F64, hidden: int = 256, steps: int = 400, seed: int = 0) -> None:
        self._offset, self._scale = x_nD.mean(0), x_nD.std(0) + 1e-6
        self._mean, self._spread = y_nY.mean(0), y_nY.std(0) + 1e-6
        x, y = self._scaled(x_nD), torch.from_numpy((y_nY - self._mean) / self._spread).float()
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = nn.Sequential(nn.Linear(x.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
                                        nn.Linear(hidden, y.shape[1]))
        optimiser = torch.optim.AdamW(self.layers.parameters(), lr=2e-3, weight_decay=0.01)
        for _ in range(steps):
            row = torch.randint(len(x), (256,), generator=generator)
            optimiser.zero_grad()
            (self.layers(x[row]) - y[row]).square().mean().backward()
            optimiser.step()

    def _scaled(self, x_nD: F32 | F64) -> torch.Tensor:
        return torch.from_numpy((x_nD - self._offset) / self._scale).float()

    @torch.no_grad()
    def __call__(self, x_nD: F32 | F64) -> F64:
        """Predictions [n, Y]."""
        y: F64 = self.layers(self._scaled(x_nD)).double().numpy() * self._spread + self._mean
        return y


def squared_error(got_nY: F64, wanted_nY: F64) -> float:
    """Mean squared error."""
    return float(np.square(got_nY - wanted_nY).mean())


def displacements(data: Demonstrations, frames: I64, horizon: int) -> F64:
    """Joint positions of the next `horizon` frames relative to each frame's, in standard deviations [n, k J]."""
    scale_J = np.maximum(data.position_FJ.std(0), ARM_SCALE_FLOOR_RAD)
    now = data.position_FJ[frames]
    steps = [(data.position_FJ[frames + i] - now) / scale_J for i in range(1, horizon + 1)]
    return np.concatenate(steps, axis=1).astype(np.float64)


def pooled(canvas_nHWC: U8) -> F32:
    """Canvases averaged over squares of POOL_PX [n, D], in [0, 1]."""
    n, height, width, channels = canvas_nHWC.shape
    boxes = canvas_nHWC.reshape(n, height // POOL_PX, POOL_PX, width // POOL_PX, POOL_PX, channels)
    means: F32 = (boxes.mean(axis=(2, 4), dtype=np.float32) / 255).reshape(n, -1)
    return means


def pooled_difference(data: Demonstrations, frames: I64, horizon: int) -> F32:
    """The baseline's features, a few frames at a time: canvases are large."""
    parts = np.array_split(frames, max(1, len(frames) // 64))
    return np.concatenate([pooled(data.canvas_FHWC[part + horizon]) - pooled(data.canvas_FHWC[part]) for part in parts])


def pairs(data: Demonstrations, horizon: int, mask_F: NDArray[np.bool_], limit: int, seed: int) -> I64:
    """First frames of up to `limit` pairs inside one episode, in order of time."""
    fits = np.flatnonzero(mask_F & (np.arange(len(data)) + horizon <= data.last_F))
    chosen: I64 = np.sort(np.random.default_rng([seed, horizon]).permutation(fits)[:limit])
    return chosen


def compare(model: StateAutoencoder, data: Demonstrations, horizons: tuple[int, ...], limit: int, seed: int = 0
            ) -> list[Record]:
    """One row a probe and horizon: relative errors on held-out episodes of states and of pooled pixels."""
    rows = []
    for horizon in horizons:
        sets = [pairs(data, horizon, mask, size, seed)
                for mask, size in ((~held_out(data), limit), (held_out(data), limit // 2))]
        y, y_test = (displacements(data, frames, horizon) for frames in sets)
        motion, motion_test = (encode_frames(model, data, frames + horizon)
                               - encode_frames(model, data, frames) for frames in sets)
        pixels, pixels_test = (pooled_difference(data, frames, horizon) for frames in sets)
        spread = squared_error(np.broadcast_to(y.mean(0), y_test.shape), y_test)
        for name, fit in (("linear", choose_linear), ("mlp", MlpProbe)):
            state = squared_error(fit(motion, y)(motion_test), y_test) / spread
            pixel = squared_error(fit(pixels, y)(pixels_test), y_test) / spread
            ratio = state / pixel
            rows.append({"probe": name, "horizon": horizon, "state": state, "pixels": pixel, "ratio": ratio,
                         "rms_ratio": ratio**0.5, "bar": "" if name == "mlp" else "ok" if ratio <= BAR else "missed"})
    return rows


def eval_state_tokens_command(args: argparse.Namespace) -> int:
    """`starry eval-state-tokens`: prints the table; 1 if a linear probe misses its bar."""
    if min(args.horizons) < 1 or args.pairs < 10:
        raise ConfigError("starry eval-state-tokens", "--horizons must be positive and --pairs at least 10")
    model = load_states(args.states)
    rows = compare(model, load_data(args, args.states), tuple(args.horizons), args.pairs)
    print_table(rows, COLUMNS)
    if args.json:
        write_report(args.json, rows, data=args.data, states=args.states, pairs=args.pairs, bar=BAR)
    return int(any(row["bar"] == "missed" for row in rows))
