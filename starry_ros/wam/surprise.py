"""Imagination against reality: how far a real frame is from the one that was imagined for its instant.

*surprise* is how unusual the distance is. A token's distance is the logarithm of the mean squared difference of its
latents; what is usual depends on how much change was imagined in it and its neighbours, for where the arms move, a
small error of their timing is a large one of the picture. So tokens are binned by that change, and the distance is
measured in the deviations that undisturbed episodes show in the bin. Surprise is the mean of the TOP most
unusual tokens, for an object that was moved by hand changes few. Only tokens of a camera that stands still count.

*progress* is how much of the imagined change has come about: 0 nothing, 1 all of it.

    progress = <z - z_0, z_imagined - z_0> / |z_imagined - z_0|^2

Shapes: N frame tokens, D numbers of a token's latents, M tokens that count, B bins of imagined change, S frames.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from starry_ros.errors import CheckpointError
from starry_ros.types import F32, F64

TOP = 3
FILE = "surprise.json"
BINS = 8
FLOOR = 1e-4
SPREAD_FLOOR = 0.1

Ints = NDArray[np.intp]


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
    """What undisturbed episodes show, and the two thresholds.

    `columns` of the token grid; `tokens_M` that count; bins of imagined change by their inner edges [B - 1], with mean
    and spread [B] of the log distance. Surprise from `slow_at` on slows the arms and plans anew, from `stop_at` on it
    stops them.
    """

    columns: int
    tokens_M: Ints
    edges: F64
    mean_B: F64
    spread_B: F64
    slow_at: float = 0.0
    stop_at: float = 1.0

    def surprise(self, dream: Dream, real_ND: F32) -> float:
        """How unusual the distance of a real frame is."""
        change_M, distance_M = measured(dream, real_ND, self.tokens_M, self.columns)
        bin_M = np.digitize(change_M, self.edges)
        return float(np.sort((distance_M - self.mean_B[bin_M]) / self.spread_B[bin_M])[-TOP:].mean())

    def level(self, surprise: float) -> float:
        """Surprise on a scale whose 1 is `slow_at` and 2 `stop_at`; at least 0."""
        return float(max(0.0, 1 + (surprise - self.slow_at) / (self.stop_at - self.slow_at)))

    def save(self, folder: Path) -> None:
        """Write into a model folder."""
        raw = {field.name: getattr(self, field.name) for field in fields(self)}
        plain = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in raw.items()}
        (folder / FILE).write_text(json.dumps(plain), encoding="utf-8")

    @staticmethod
    def load(folder: Path) -> Calibration | None:
        """Of a model folder; None where it has none. CheckpointError on a broken file."""
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            tokens_M = np.array(raw["tokens_M"], dtype=np.intp)
            edges, mean, spread = (np.array(raw[name], dtype=np.float64) for name in ("edges", "mean_B", "spread_B"))
            return Calibration(raw["columns"], tokens_M, edges, mean, spread, raw["slow_at"], raw["stop_at"])
        except (ValueError, KeyError, TypeError) as error:
            fix = "starry calibrate, or delete the file"
            raise CheckpointError(str(path), f"is no calibration: {error}", fix=fix) from error


def measured(dream: Dream, real_ND: F32, tokens_M: Ints, columns: int) -> tuple[F64, F64]:
    """Of the tokens that count [M]: log of the change imagined there or next to there, log distance from reality."""
    change_N = _log_mean_square(dream.imagined_ND - dream.seen_ND)
    rows = -(-len(change_N) // columns)
    grid = np.full((rows + 2, columns + 2), -np.inf)
    row_M, column_M = np.divmod(tokens_M, columns)
    grid[row_M + 1, column_M + 1] = change_N[tokens_M]
    around = [grid[row_M + 1 + i, column_M + 1 + j] for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return np.max(around, axis=0), _log_mean_square(dream.imagined_ND - real_ND)[tokens_M]


def _log_mean_square(difference_ND: F32) -> F64:
    logarithm: F64 = np.log((difference_ND.astype(np.float64) ** 2).mean(axis=1) + FLOOR)
    return logarithm


def progress(dream: Dream, real_ND: F32) -> float:
    """How much of the imagined change has come about."""
    wanted = (dream.imagined_ND - dream.seen_ND).astype(np.float64)
    length = float((wanted**2).sum())
    return float((wanted * (real_ND - dream.seen_ND)).sum() / length) if length > FLOOR else 1.0


def calibrate(
    fitted: Sequence[tuple[Dream, F32]], held_out: Sequence[tuple[Dream, F32]], tokens_M: Ints, columns: int,
    slow_quantile: float = 0.99,
) -> Calibration:
    """From dreams and the undisturbed frames that came; thresholds from frames that mean and spread do not know."""
    pairs = [measured(dream, real, tokens_M, columns) for dream, real in fitted]
    change, distance = (np.concatenate(part) for part in zip(*pairs, strict=True))
    edges = np.quantile(change, np.linspace(0, 1, BINS + 1)[1:-1])
    bins = np.digitize(change, edges)
    inside = [distance[bins == b] if (bins == b).any() else distance for b in range(BINS)]
    mean_B, spread_B = np.array([part.mean() for part in inside]), np.array([part.std() for part in inside])
    usual = Calibration(columns, tokens_M, edges, mean_B, np.maximum(spread_B, SPREAD_FLOOR))
    scores = [usual.surprise(dream, real) for dream, real in held_out]
    slow_at = float(np.quantile(scores, slow_quantile))
    return replace(usual, slow_at=slow_at, stop_at=slow_at + 2.0 * max(1.0, float(np.std(scores))))


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
