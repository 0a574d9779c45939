"""Actions drawn by a stochastic sampler whose every step has an exact Gaussian likelihood.

Flow matching denoises by the ordinary differential equation dx = v ds. Any noise added on the way leaves the marginals
as they are if the drift makes up for it (Flow-GRPO, arXiv 2505.05470, equation 8, with this project's s for its t):

    mean = x + ds (v + sigma^2 / (2 s) (x + (1 - s) v)),  deviation = sigma sqrt(-ds),  sigma = level sqrt(s / (1 - s))

so that a step from s to s + ds has log p = -|x' - mean|^2 / (2 deviation^2) + const. The last step adds no noise and
has no likelihood. The dimensions of a step are independent, so the likelihood of the chunk steps that are executed is
exact by itself; the noise of later ones, which the next plan replaces, would only blur it.

Shapes: D plans, N noisy steps of one plan, K chunk steps, J joints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from starry_ros.types import F32

S_MOST = 0.9
"""Nearer to pure noise sigma is held, because it grows without bound there."""
Arrays = dict[str, np.ndarray]
Span = tuple[int, int | None]
"""First step and the one after the last."""
ALL: Span = (0, None)


def deviation(s: float, level: float) -> float:
    """sigma at a noise level."""
    s = min(s, S_MOST)
    return level * math.sqrt(s / (1 - s))


def step_mean(x: Tensor, velocity: Tensor, s: float, ds: float, level: float) -> Tensor:
    """Mean of the next value."""
    drift = deviation(s, level) ** 2 / (2 * s)
    return x + ds * (velocity + drift * (x + (1 - s) * velocity))


def log_likelihood(following: Tensor, mean: Tensor, std: float) -> Tensor:
    """log p of each sample [N] of independent Gaussians over the other axes."""
    square = ((following - mean) / std).square().flatten(1).sum(1)
    return -0.5 * square - following[0].numel() * (math.log(std) + 0.5 * math.log(2 * math.pi))


@dataclass(frozen=True)
class Draw:
    """How one plan's actions were drawn: what the action stream saw, and each noisy step from `x` to `following`.

    `log_p_N` is of the `credited` chunk steps, those that the plan decides.
    """

    inputs: Arrays
    x_NKJ: F32
    following_NKJ: F32
    s_N: tuple[float, ...]
    ds_N: tuple[float, ...]
    log_p_N: F32
    credited: Span = ALL


class StochasticAct:
    """Stands in for the `act` engine of a runtime: takes noisy steps, and keeps how the newest plan was drawn."""

    def __init__(
        self, engine: Callable[[Arrays], Arrays], level: float, seed: int, credited: Span = ALL
    ) -> None:
        self._engine, self._level, self._rng = engine, level, np.random.default_rng(seed)
        self._credited = credited
        self._steps: list[tuple[F32, F32, float, float, float]] = []
        self._inputs: Arrays = {}

    def __call__(self, arrays: Arrays) -> Arrays:
        """One step of the sampler."""
        x, s, ds = arrays["a"], float(arrays["s"][0]), float(arrays["ds"][0])
        if s >= 1.0:
            self._steps = []
            self._inputs = {name: np.array(value) for name, value in arrays.items() if name not in ("a", "s", "ds")}
        velocity = (self._engine(arrays)["a_next"] - x) / ds
        if s + ds < 1e-6:
            return {"a_next": x + ds * velocity}
        mean = step_mean(torch.from_numpy(np.array(x)), torch.from_numpy(velocity), s, ds, self._level)
        std, credited = deviation(s, self._level) * math.sqrt(-ds), slice(*self._credited)
        following = mean + std * torch.from_numpy(self._rng.standard_normal(x.shape, dtype=np.float32))
        log_p = log_likelihood(following[:, credited], mean[:, credited], std)
        self._steps.append((x[0], following[0].numpy(), s, ds, float(log_p[0])))
        return {"a_next": following.numpy()}

    def draw(self) -> Draw:
        """How the newest plan was drawn."""
        x, following, s, ds, log_p = zip(*self._steps, strict=True)
        return Draw(self._inputs, np.stack(x), np.stack(following), s, ds, np.array(log_p, np.float32), self._credited)


def means(act: nn.Module, names: tuple[str, ...], draws: Sequence[Draw], level: float) -> Tensor:
    """Means [D, N, K, J] of the noisy steps of D plans under the weights of `act`, in one pass; gradients flow to them.

    All plans were drawn at the same noise levels.
    """
    s_N, ds_N = draws[0].s_N, draws[0].ds_N
    tensors = {name: _together(name, draws, len(s_N)) for name in draws[0].inputs}
    x_DNKJ = torch.from_numpy(np.stack([draw.x_NKJ for draw in draws]))
    s = torch.tensor(s_N).repeat(len(draws))
    tensors |= {"a": x_DNKJ.flatten(0, 1), "s": s, "ds": torch.ones(len(s))[:, None, None]}
    v_DNKJ = (act(*(tensors[name] for name in names)) - tensors["a"]).view_as(x_DNKJ)
    steps = zip(x_DNKJ.unbind(1), v_DNKJ.unbind(1), s_N, ds_N, strict=True)
    return torch.stack([step_mean(x, v, s_n, ds_n, level) for x, v, s_n, ds_n in steps], dim=1)


def _together(name: str, draws: Sequence[Draw], steps: int) -> Tensor:
    """An input of all plans, `steps` times each: keys and values have their batch second, rotation tables have none."""
    values = [torch.from_numpy(draw.inputs[name]) for draw in draws]
    if name == "rope":
        return torch.stack(values)[:, :, None].repeat_interleave(steps, dim=0)
    axis = 1 if name.endswith(("_k", "_v")) else 0
    return torch.cat(values, dim=axis).repeat_interleave(steps, dim=axis)


def deviations(draw: Draw, level: float) -> Tensor:
    """Standard deviation of every noisy step [N]."""
    pairs = zip(draw.s_N, draw.ds_N, strict=True)
    return torch.tensor([deviation(s, level) * math.sqrt(-ds) for s, ds in pairs])


def log_likelihoods(draw: Draw, mean_NKJ: Tensor, level: float) -> Tensor:
    """log p [N] of what was drawn, for means under other weights."""
    following = torch.from_numpy(draw.following_NKJ)[:, slice(*draw.credited)]
    parts = zip(following, mean_NKJ[:, slice(*draw.credited)], deviations(draw, level).tolist(), strict=True)
    return torch.cat([log_likelihood(one[None], mean[None], std) for one, mean, std in parts])
