"""Plans drawn around the one that is served, with an exact Gaussian likelihood.

The served plan is the end of the sampler's ordinary differential equation, begun in the middle of the noise
(`temperature` 0). The last step of the sampler adds a Gaussian offset to it, the same for every chunk step in model
units, so that the arms end somewhere else and move there smoothly; some plans in a row have the same one, so that they
do not undo each other. It lies along a few directions, such as those in which a hand moves without turning. Read along
them, the mean of the executed chunk steps is a Gaussian around that of the served plan, whose likelihood is exact. What
learns is the policy that is served, through every step of the sampler. (Noise in every step and dimension, as in
Flow-GRPO, arXiv 2505.05470, has hundreds of times the dimensions to share one reward among, and improves the policy
with the noise.)

Two things are left out. Plans that share an offset are credited one by one, as if each had drawn its own, although the
later ones have seen what the first one did. And the keys of what was executed are part of what a plan saw: the
likelihood holds them as they were, although the weights that made them learn too.

Shapes: D plans, N steps of the sampler, K chunk steps, J joints, H directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from starry_ros.types import F32, F64

Arrays = dict[str, np.ndarray]
Span = tuple[int, int | None]
"""First step and the one after the last."""
ALL: Span = (0, None)


@dataclass(frozen=True)
class Draw:
    """How one plan's actions were drawn: what the action stream saw, and where the plan ended.

    `x_NKJ` is what every step of the sampler began with, in it the `committed` steps that are put back before each.
    `aim_J` is the mean over the `credited` chunk steps, those that the plan decides; `read_HJ` reads it along the
    directions in which it was drawn, with log p `log_p`.
    """

    inputs: Arrays
    x_NKJ: F32
    committed: int
    s_N: tuple[float, ...]
    ds_N: tuple[float, ...]
    aim_J: F32
    read_HJ: F32
    log_p: float
    credited: Span = ALL


def log_likelihood(aim_DH: Tensor, mean_DH: Tensor, spread: float) -> Tensor:
    """log p [D] of independent Gaussians of one deviation."""
    square = ((aim_DH - mean_DH) / spread).square().sum(-1)
    return -0.5 * square - aim_DH.shape[-1] * (math.log(spread) + 0.5 * math.log(2 * math.pi))


class AroundServed:
    """Stands in for the `act` engine of a runtime: adds offsets to plans, and keeps how they were drawn.

    Every `held` plans a new offset is drawn. `directions` gives what an offset of 1 along each of them is in model
    units [J, H], for a served plan [K, J] and whether its offset is new; without it every joint is a direction.
    """

    def __init__(
        self, engine: Callable[[Arrays], Arrays], spread: float, rng: np.random.Generator, held: int = 1,
        credited: Span = ALL, directions: Callable[[F32, bool], F64] | None = None,
    ) -> None:
        self._engine, self._spread, self._rng, self._held = engine, spread, rng, held
        self._credited, self._directions = credited, directions
        self._steps: list[tuple[F32, F32, float, float]] = []
        self._inputs: Arrays = {}
        self._offset_H = np.zeros(0)
        self.draws: list[Draw] = []

    def __call__(self, arrays: Arrays) -> Arrays:
        """One step of the sampler."""
        x, s, ds = arrays["a"], float(arrays["s"][0]), float(arrays["ds"][0])
        if s >= 1.0:
            self._steps = []
            self._inputs = {name: np.array(value) for name, value in arrays.items() if name not in ("a", "s", "ds")}
        following: F32 = self._engine(arrays)["a_next"]
        self._steps.append((np.array(x[0]), following[0], s, ds))
        if s + ds > 1e-6:
            return {"a_next": following}
        fresh = len(self.draws) % self._held == 0
        directions_JH = np.eye(following.shape[-1]) if self._directions is None else self._directions(
            following[0], fresh)
        if fresh:
            self._offset_H = self._spread * self._rng.standard_normal(directions_JH.shape[1:])
        offset_J: F32 = np.asarray(directions_JH @ self._offset_H, dtype=np.float32)
        self.draws.append(self._keep(following[0], offset_J, directions_JH))
        return {"a_next": following + offset_J}

    def _keep(self, served_KJ: F32, offset_J: F32, directions_JH: F64) -> Draw:
        x, following, s, ds = zip(*self._steps, strict=True)
        mean_J = served_KJ[slice(*self._credited)].mean(0)
        aim_J, read_HJ = mean_J + offset_J, np.linalg.pinv(directions_JH).astype(np.float32)
        aim_H, mean_H = (torch.from_numpy(read_HJ @ each_J) for each_J in (aim_J, mean_J))
        log_p = float(log_likelihood(aim_H, mean_H, self._spread))
        return Draw(self._inputs, np.stack(x), _committed(x, following), s, ds, aim_J, read_HJ, log_p, self._credited)


def _committed(x: Sequence[F32], following: Sequence[F32]) -> int:
    """How many first chunk steps do not go on from where the step before left them."""
    changed = [np.flatnonzero((now != before).any(axis=1)) for now, before in zip(x[1:], following[:-1], strict=True)]
    return max((int(rows[-1]) + 1 for rows in changed if len(rows)), default=0)


def means(act: nn.Module, names: tuple[str, ...], draws: Sequence[Draw]) -> Tensor:
    """Served aims [D, J] of D plans under the weights of `act`, in one pass; gradients flow to them.

    All plans were sampled at the same noise levels.
    """
    fixed = {name: _together(name, draws) for name in draws[0].inputs}
    x_DNKJ = torch.as_tensor(np.stack([draw.x_NKJ for draw in draws]))
    put_back = torch.tensor([[k < draw.committed for k in range(x_DNKJ.shape[2])] for draw in draws])[..., None]
    x = x_DNKJ[:, 0]
    for n, (s, ds) in enumerate(zip(draws[0].s_N, draws[0].ds_N, strict=True)):
        if n:
            x = torch.where(put_back, x_DNKJ[:, n], x)
        tensors = fixed | {"a": x, "s": torch.full((len(draws),), s), "ds": torch.full((len(draws), 1, 1), ds)}
        x = act(*(tensors[name] for name in names))
    return torch.stack([plan[slice(*draw.credited)].mean(0) for plan, draw in zip(x, draws, strict=True)])


def _together(name: str, draws: Sequence[Draw]) -> Tensor:
    """An input of all plans: keys and values have their batch second, rotation tables have none."""
    values = [torch.as_tensor(draw.inputs[name]) for draw in draws]
    if name == "rope":
        return torch.stack(values)[:, :, None]
    return torch.cat(values, dim=1 if name.endswith(("_k", "_v")) else 0)


def aims(draws: Sequence[Draw]) -> Tensor:
    """What was drawn [D, J]."""
    return torch.as_tensor(np.stack([draw.aim_J for draw in draws]))


def along(x_DJ: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Aims [D, H] along the directions in which each was drawn."""
    return torch.einsum("dhj,dj->dh", torch.as_tensor(np.stack([draw.read_HJ for draw in draws])), x_DJ)
