"""A narrow stream's weights from a wide one's: interpolated to the narrow width and scaled.

Every axis that differs is resampled linearly, ends on ends. A matrix that sums over fewer inputs is scaled by
sqrt(wide / narrow), so that its output keeps its size. Axes that stack several vectors (modulation) are resampled
vector by vector. Random weights converge slowly in a narrow stream; these do not start from nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from starry_ros.errors import ConfigError
from starry_ros.wam.layers import Stream

STACKED = {"time.out.weight": 6, "time.out.bias": 6}
"""Vectors stacked along the first axis of these parameters."""


@torch.no_grad()
def start_from_wide(narrow: Stream, wide: Stream) -> None:
    """Overwrite the weights of `narrow`. What `wide` has alone (text attention) is left out.

    Raises ConfigError if the streams differ in layers or in the attention width that all streams share.
    """
    source = dict(wide.named_parameters())
    for name, parameter in narrow.named_parameters():
        if name not in source:
            raise ConfigError("narrow stream", f"the wide stream has no {name}", fix="give both as many layers")
        if "qkv" in name and len(parameter) != len(source[name]):
            raise ConfigError("narrow stream", "has another attention width", got=len(parameter) // 3,
                              expected=len(source[name]) // 3)
        parameter.copy_(_resampled(source[name], parameter, STACKED.get(name, 1)))


def _resampled(wide: Tensor, like: Tensor, stacked: int) -> Tensor:
    """`wide` at the shape of `like`; matrices scaled by the square root of the ratio of their inputs."""
    out = wide.unflatten(0, (stacked, -1)) if stacked > 1 else wide
    shape = like.unflatten(0, (stacked, -1)).shape if stacked > 1 else like.shape
    for axis, size in enumerate(shape):
        out = _interpolated(out, axis, size)
    scale = math.sqrt(wide.shape[-1] / like.shape[-1]) if _sums_over_inputs(wide, stacked) else 1.0
    return scale * out.reshape(like.shape)


def _sums_over_inputs(parameter: Tensor, stacked: int) -> bool:
    """Whether the last axis is an input: all matrices but a stack of modulation vectors [6, D]."""
    return parameter.dim() == 2 and not (stacked == 1 and len(parameter) == 6)


def _interpolated(x: Tensor, axis: int, size: int) -> Tensor:
    """`x` with `size` samples along an axis, first on first and last on last."""
    given = x.shape[axis]
    if given == size:
        return x
    at = torch.linspace(0, given - 1, size, dtype=torch.float64)
    low = at.floor().long().clamp(max=given - 2) if given > 1 else at.long()
    share = (at - low).to(x.dtype).reshape([-1 if i == axis else 1 for i in range(x.dim())])
    below, above = x.index_select(axis, low), x.index_select(axis, (low + 1).clamp(max=given - 1))
    return (1 - share) * below + share * above
