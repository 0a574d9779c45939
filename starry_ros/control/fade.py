"""Offsets that let the difference between a plan and the commanded motion fade: three constant-jerk pieces each.

All are linear in the difference. Shapes: T fades, J joints, B pieces of a curve, a motion is [3, J].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from starry_ros.control.limits import Limits, demand
from starry_ros.control.trajectory import LEAST_PIECE_S, taylor
from starry_ros.types import F64

FADE_TIMES_S = (0.12, 0.2, 0.3, 0.45, 0.7, 1.1)
"""Every length of a fade, ascending."""

_WHOLE_T = np.array(FADE_TIMES_S)
_PIECE_T1 = _WHOLE_T[:, None] / 3
_TIME_T4 = _PIECE_T1 * np.arange(4)
BREAKS_S: F64 = np.unique(np.outer(FADE_TIMES_S, (0.0, 1 / 3, 2 / 3, 1.0)))
"""Where pieces of any fade start."""
_INVERSE_3x3 = np.linalg.inv(np.array(((19 / 6, 7 / 6, 1 / 6), (2.5, 1.5, 0.5), (1.0, 1.0, 1.0))))
"""Inverse of the effect of three unit-jerk pieces of unit length on position, velocity, acceleration at their end."""


def _pieces_per_gap() -> F64:
    """What makes the pieces [T, 4, 4, J] of a gap [3, J]: [T, 4, 4, 3]. The fourth piece is rest at 0."""
    scale_T31 = np.stack((_PIECE_T1**3, _PIECE_T1**2, _PIECE_T1), axis=1)
    pieces = np.zeros((len(_WHOLE_T), 4, 4, 3))
    pieces[:, 0, :3] = np.eye(3)
    pieces[:, :3, 3] = _INVERSE_3x3 @ (-taylor(_WHOLE_T)[:, :, :3] / scale_T31)
    for piece in range(2):
        pieces[:, piece + 1, :3] = taylor(_PIECE_T1[:, 0]) @ pieces[:, piece]
    return pieces


_PER_GAP_T443 = _pieces_per_gap()


def fade_demand(gap_P3J: F64, limits: Limits) -> F64:
    """How many times too fast each fade [P, T] of each gap would be by itself."""
    pieces_PT44J = _PER_GAP_T443 @ gap_P3J[:, None, None]
    worst: F64 = demand(_TIME_T4, pieces_PT44J, limits).max(axis=(-2, -1))
    return worst


def fades(gap_3J: F64, time_s_B: F64, wanted_T: NDArray[np.bool_]) -> F64:
    """Offsets that start as `gap_3J` and are 0, with their derivatives, after each wanted one of FADE_TIMES_S.

    Returned as pieces [wanted, B, 4, J] at the piece starts `time_s_B`, which include BREAKS_S.
    """
    pieces_T44J, piece_T1 = _PER_GAP_T443[wanted_T] @ gap_3J, _PIECE_T1[wanted_T]
    index_TB = np.minimum((time_s_B + LEAST_PIECE_S) / piece_T1, 3.0).astype(np.intp)
    chosen_TB4J = pieces_T44J[np.arange(len(piece_T1))[:, None], index_TB]
    since_TB = np.maximum(time_s_B - index_TB * piece_T1, 0.0)
    chosen_TB4J[:, :, :3] = taylor(since_TB) @ chosen_TB4J
    return chosen_TB4J
