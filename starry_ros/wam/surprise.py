"""Imagination against reality: is the world where the last plan expected it?

*surprise* is how unusual it is that the aim has moved from one plan to the next (`aim`), in deviations of undisturbed
episodes. It slows and stops. Only a plan can tell it, and that plan already aims at the world as it is; the one after
it is made of the next frame of the history, however long `replan_s` is.

*picture* is how unusual the distance of a real frame is from the one that was imagined for its instant. A token's
distance is the logarithm of the mean squared difference of its latents; what is usual depends on how much change was
imagined in it and its neighbours, for where the arms move, a small error of their timing is a large one of the picture.
So tokens are binned by that change, and the distance is measured in the deviations that undisturbed episodes show in
the bin; it is the mean of the TOP most unusual tokens of a camera that stands still.

*progress* is how much of the imagined change has come about: 0 nothing, 1 all of it.

    progress = <z - z_0, z_imagined - z_0> / |z_imagined - z_0|^2

Where much change was imagined and less of it comes than hardly ever in undisturbed episodes, BEHIND frames in a row,
something holds the arms up: that slows them.

Shapes: N frame tokens, D numbers of a token's latents, M tokens that count, B bins of imagined change, S frames.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from starry_ros.errors import CheckpointError
from starry_ros.files import write_text
from starry_ros.types import F32, F64
from starry_ros.wam.aim import Aim, shift

TOP = 3
FILE = "surprise.json"
BINS = 8
FLOOR = 1e-4
SPREAD_FLOOR = 0.1
STOP_AFTER = 3.0
"""Deviations above the surprise that slows at which it stops."""
BEHIND = 2
"""So many frames in a row with too little progress count: a plan that went elsewhere spoils one."""
MUCH_CHANGE, LITTLE_PROGRESS = 0.5, 0.01
"""Quantiles of undisturbed frames: of the imagined change, and of the progress of those with more change than that."""

Ints = NDArray[np.intp]


@dataclass(frozen=True)
class Dream:
    """What a plan imagined for `due_ns`, and what it saw when it did; tokens [N, D]."""

    due_ns: int
    seen_ND: F32
    imagined_ND: F32

    @property
    def change(self) -> float:
        """How much change was imagined: a squared distance."""
        return float(((self.imagined_ND - self.seen_ND).astype(np.float64) ** 2).sum())


@dataclass(frozen=True)
class Score:
    """Surprise and picture in standard deviations, progress as a share.

    `shifted` is 1 where surprise slows and 2 where it stops; surprise is 0 where nothing can be said. `behind` counts
    frames in a row with too little progress.
    """

    surprise: float = 0.0
    shifted: float = 0.0
    progress: float = 1.0
    picture: float = 0.0
    behind: int = 0

    @property
    def level(self) -> float:
        """What acts: from 1 on it slows, from 2 on it stops."""
        return max(self.shifted, 1.0 if self.behind >= BEHIND else 0.0)


@dataclass(frozen=True)
class Calibration:
    """What undisturbed episodes show, and the two thresholds.

    `columns` of the token grid; `tokens_M` that count; bins of imagined change by their inner edges [B - 1], with mean
    and spread [B] of the log distance; mean and spread of an aim's shift. Surprise from `slow_at` on slows the arms and
    lets no plan wait for longer than a frame of the history, from `stop_at` on it stops them. Where more than
    `change_at` was imagined, progress below `progress_at` is too little; None: that was not calibrated.
    """

    columns: int
    tokens_M: Ints
    edges: F64
    mean_B: F64
    spread_B: F64
    aim_mean: float = 0.0
    aim_spread: float = 1.0
    slow_at: float = 0.0
    stop_at: float = 1.0
    change_at: float = 0.0
    progress_at: float | None = None

    def surprise(self, before: Aim, now: Aim) -> float | None:
        """How unusual it is that the aim moved so far; None where hands that were not free may have moved it."""
        moved = shift(before, now)
        return None if moved is None else (moved - self.aim_mean) / self.aim_spread

    def picture(self, dream: Dream, real_ND: F32) -> float:
        """How unusual the distance of a real frame is."""
        change_M, distance_M = measured(dream, real_ND, self.tokens_M, self.columns)
        bin_M = np.digitize(change_M, self.edges)
        return float(np.sort((distance_M - self.mean_B[bin_M]) / self.spread_B[bin_M])[-TOP:].mean())

    def level(self, surprise: float) -> float:
        """Surprise on a scale whose 1 is `slow_at` and 2 `stop_at`; at least 0."""
        return float(max(0.0, 1 + (surprise - self.slow_at) / (self.stop_at - self.slow_at)))

    def too_little(self, dream: Dream, progress: float) -> bool:
        """Whether hardly any undisturbed frame has so little progress."""
        return self.progress_at is not None and progress < self.progress_at and dream.change > self.change_at

    def behind(self, before: int, dream: Dream, real_ND: F32) -> int:
        """Frames in a row with too little progress, after `before` of them and this one."""
        return before + 1 if self.too_little(dream, progress(dream, real_ND)) else 0

    def save(self, folder: Path) -> None:
        """Write into a model folder, for the weights that are in it."""
        raw = {field.name: getattr(self, field.name) for field in fields(self)} | {"weights": _weights(folder)}
        plain = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in raw.items()}
        write_text(folder / FILE, json.dumps(plain))

    @staticmethod
    def load(folder: Path) -> Calibration | None:
        """Of a model folder; None where it has none, or one of other weights. CheckpointError on a broken file."""
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            if raw["weights"] != _weights(folder):
                return None
            tokens_M = np.array(raw["tokens_M"], dtype=np.intp)
            edges, mean, spread = (np.array(raw[name], dtype=np.float64) for name in ("edges", "mean_B", "spread_B"))
            numbers = {name: float(raw[name]) for name in ("aim_mean", "aim_spread", "slow_at", "stop_at")}
            numbers |= {name: float(raw[name]) for name in ("change_at", "progress_at") if raw.get(name) is not None}
            return Calibration(raw["columns"], tokens_M, edges, mean, spread, **numbers)
        except (ValueError, KeyError, TypeError) as error:
            fix = "starry calibrate, or delete the file"
            raise CheckpointError(str(path), f"is no calibration: {error}", fix=fix) from error


def _weights(folder: Path) -> str:
    """Hash of a model's weights; empty where there are none."""
    path = folder / "model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else ""


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
    return float((wanted * (real_ND - dream.seen_ND)).sum() / dream.change) if dream.change > FLOOR else 1.0


def calibrate(
    fitted: Sequence[tuple[Dream, F32]], shifts: Sequence[float], held_out: Sequence[float],
    held_out_frames: Sequence[tuple[Dream, F32]], tokens_M: Ints, columns: int, slow_quantile: float = 0.95,
) -> Calibration:
    """From dreams with the undisturbed frames that came, and undisturbed shifts of the aim.

    Thresholds come from shifts and frames that means and spreads do not know.
    """
    pairs = [measured(dream, real, tokens_M, columns) for dream, real in fitted]
    change, distance = (np.concatenate(part) for part in zip(*pairs, strict=True))
    edges = np.quantile(change, np.linspace(0, 1, BINS + 1)[1:-1])
    bins = np.digitize(change, edges)
    inside = [distance[bins == b] if (bins == b).any() else distance for b in range(BINS)]
    mean_B, spread_B = np.array([part.mean() for part in inside]), np.array([part.std() for part in inside])
    mean, spread = float(np.mean(shifts)), max(float(np.std(shifts)), SPREAD_FLOOR)
    slow_at = float(np.quantile((np.asarray(held_out) - mean) / spread, slow_quantile))
    spread_B = np.maximum(spread_B, SPREAD_FLOOR)
    change_at = float(np.quantile([dream.change for dream, _ in fitted], MUCH_CHANGE))
    come = [progress(dream, real) for dream, real in held_out_frames if dream.change > change_at]
    return Calibration(
        columns, tokens_M, edges, mean_B, spread_B, mean, spread, slow_at, slow_at + STOP_AFTER, change_at,
        float(np.quantile(come, LITTLE_PROGRESS)) if come else None,
    )


def roc_area(usual: Sequence[float], disturbed: Sequence[float]) -> float:
    """Chance that a disturbed sample scores higher than a usual one, ties counting half (Mann and Whitney)."""
    first, second = np.asarray(usual)[None, :], np.asarray(disturbed)[:, None]
    return float(((second > first) + 0.5 * (second == first)).mean())


class Monitor:
    """Remembers what was imagined until its time has come, and where the last plan aimed."""

    def __init__(self, calibration: Calibration | None, tolerance_ns: int) -> None:
        self.calibration, self._tolerance_ns = calibration, tolerance_ns
        self._dreams: deque[Dream] = deque(maxlen=8)
        self._aim: Aim | None = None
        self.score: Score | None = None

    def forget(self) -> None:
        """A new episode."""
        self._dreams.clear()
        self._aim = self.score = None

    def forget_aim(self) -> None:
        """A new sentence: the next plan aims elsewhere, and what the last ones imagined will not come."""
        self._aim = None
        self._dreams.clear()
        self.score = replace(self.score, behind=0) if self.score is not None else None

    def aim(self, aim: Aim | None) -> None:
        """A plan aims there; None where it does not say."""
        before, self._aim = self._aim, aim
        if self.calibration is None:
            return
        found = self.calibration.surprise(before, aim) if before is not None and aim is not None else None
        surprise, shifted = (found, self.calibration.level(found)) if found is not None else (0.0, 0.0)
        self.score = replace(self.score or Score(), surprise=surprise, shifted=shifted)

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
            score = self.score or Score()
            self.score = replace(
                score, progress=progress(dream, real_ND), picture=self.calibration.picture(dream, real_ND),
                behind=self.calibration.behind(score.behind, dream, real_ND),
            )
        return dream
