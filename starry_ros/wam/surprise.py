"""Imagination against reality: how far a real frame is from the one that was imagined for its instant.

*surprise* is how unusual the distance is: per token, squared distance of the latents against what undisturbed episodes
show there, in standard deviations of its logarithm; the mean of the TOP most unusual tokens, for an object that was
moved by hand changes few. *progress* is how much of the imagined change has come about: 0 nothing, 1 all of it.

    progress = <z - z_0, z_imagined - z_0> / |z_imagined - z_0|^2

Shapes: N frame tokens, D numbers of a token's latents, S samples.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from starry_ros.errors import CheckpointError
from starry_ros.types import F32, F64

TOP = 3
FILE = "surprise.json"
FLOOR = 1e-6
SPREAD_FLOOR = 0.15


@dataclass(frozen=True)
class Dream:
    """What a plan imagined for `due_ns`, and what it saw when it did; tokens [N, D]."""

    due_ns: int
    seen_ND: F32
    imagined_ND: F32


@dataclass(frozen=True)
class Score:
    """Surprise in standard deviations, progress as a share; `level` is 1 where surprise slows and 2 where it stops."""

    surprise: float
    progress: float
    level: float


@dataclass(frozen=True)
class Calibration:
    """What undisturbed episodes show: per token mean and spread [N] of the log distance, and the two thresholds.

    Surprise from `slow_at` on slows the arms and plans anew, from `stop_at` on it stops them.
    """

    mean_N: F64
    spread_N: F64
    slow_at: float
    stop_at: float

    def surprise(self, dream: Dream, real_ND: F32) -> float:
        """How unusual the distance of a real frame is."""
        unusual_N = (log_distance(dream, real_ND) - self.mean_N) / self.spread_N
        return float(np.sort(unusual_N)[-TOP:].mean())

    def level(self, surprise: float) -> float:
        """Surprise on a scale whose 1 is `slow_at` and 2 `stop_at`; at least 0."""
        return float(max(0.0, 1 + (surprise - self.slow_at) / (self.stop_at - self.slow_at)))

    def save(self, folder: Path) -> None:
        """Write into a model folder."""
        raw = {"mean": self.mean_N.tolist(), "spread": self.spread_N.tolist(),
               "slow_at": self.slow_at, "stop_at": self.stop_at}
        (folder / FILE).write_text(json.dumps(raw), encoding="utf-8")

    @staticmethod
    def load(folder: Path) -> Calibration | None:
        """Of a model folder; None where it has none. CheckpointError on a broken file."""
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            return Calibration(np.array(raw["mean"]), np.array(raw["spread"]), raw["slow_at"], raw["stop_at"])
        except (ValueError, KeyError, TypeError) as error:
            fix = "starry calibrate, or delete the file"
            raise CheckpointError(str(path), f"is no calibration: {error}", fix=fix) from error


def log_distance(dream: Dream, real_ND: F32) -> F64:
    """Logarithm of the mean squared distance of every token [N]."""
    distance: F64 = np.log(((dream.imagined_ND - real_ND).astype(np.float64) ** 2).mean(axis=1) + FLOOR)
    return distance


def progress(dream: Dream, real_ND: F32) -> float:
    """How much of the imagined change has come about."""
    wanted = (dream.imagined_ND - dream.seen_ND).astype(np.float64)
    length = float((wanted**2).sum())
    return float((wanted * (real_ND - dream.seen_ND)).sum() / length) if length > FLOOR else 1.0


def calibrate(distances_SN: F64, held_out_SN: F64, slow_quantile: float = 0.99) -> Calibration:
    """From log distances of undisturbed frames; the thresholds come from frames that mean and spread do not know."""
    mean_N = distances_SN.mean(0)
    spread_N = np.maximum(distances_SN.std(0), SPREAD_FLOOR)
    usual_S = np.sort((held_out_SN - mean_N) / spread_N, axis=1)[:, -TOP:].mean(1)
    slow_at = float(np.quantile(usual_S, slow_quantile))
    return Calibration(mean_N, spread_N, slow_at, slow_at + 2.0 * max(1.0, float(usual_S.std())))


def roc_area(usual: Sequence[float], disturbed: Sequence[float]) -> float:
    """Chance that a disturbed sample scores higher than a usual one, ties counting half (Mann and Whitney)."""
    first, second = np.asarray(usual)[None, :], np.asarray(disturbed)[:, None]
    return float(((second > first) + 0.5 * (second == first)).mean())


class Monitor:
    """Remembers what was imagined until its time has come."""

    def __init__(self, calibration: Calibration | None, tolerance_ns: int) -> None:
        self.calibration, self._tolerance_ns = calibration, tolerance_ns
        self._dreams: deque[Dream] = deque(maxlen=8)
        self.score: Score | None = None

    def forget(self) -> None:
        """A new episode."""
        self._dreams.clear()
        self.score = None

    def expect(self, dream: Dream) -> None:
        """A plan imagined this."""
        self._dreams.append(dream)

    def compare(self, stamp_ns: int, real_ND: F32) -> Dream | None:
        """Score a real frame if one was imagined for its instant; returns that dream."""
        while self._dreams and self._dreams[0].due_ns < stamp_ns - self._tolerance_ns:
            self._dreams.popleft()
        if not self._dreams or self._dreams[0].due_ns > stamp_ns + self._tolerance_ns:
            return None
        dream = self._dreams.popleft()
        if self.calibration is not None:
            surprise = self.calibration.surprise(dream, real_ND)
            self.score = Score(surprise, progress(dream, real_ND), self.calibration.level(surprise))
        return dream
