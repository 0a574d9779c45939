"""Noise levels of the Euler sampler.

Flow convention: s = 1 is pure noise, s = 0 is clean; x <- x + v (s_next - s).
Shifted grid: s = k u / (1 + (k - 1) u), u linear 1 -> 0.
"""

from __future__ import annotations

import itertools


def levels(steps: int, shift: float = 1.0) -> list[tuple[float, float]]:
    """(s, s_next - s) of every step from noise to clean."""
    grid = [shift * u / (1 + (shift - 1) * u) for u in (1 - i / steps for i in range(steps + 1))]
    return [(s, following - s) for s, following in itertools.pairwise(grid)]


def joint_levels(*steps: int) -> list[tuple[tuple[float, float], ...]]:
    """Levels of several branches denoised together, a tuple of (s, s_next - s) a branch for every step.

    A branch with fewer steps is finished earlier and then held at s = 0.
    """
    grids = [levels(count) for count in steps]
    return [tuple(grid[i] if i < len(grid) else (0.0, 0.0) for grid in grids) for i in range(max(steps))]
