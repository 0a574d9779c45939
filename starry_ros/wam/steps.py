"""The steps of a planner by name, as a recording holds them. Needs no model: a replay of sensors reads it, too."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from starry_ros.types import Canvas

OPEN, RESET, SENTENCE, OBSERVE, PLAN = "open", "reset", "sentence", "observe", "plan"


@dataclass(frozen=True)
class Step:
    """One step. `times_ns` are local times by name, `values` whatever else it takes to do it again."""

    do: str
    values: Mapping[str, Any]
    times_ns: Mapping[str, int]


def checksum(canvas: Canvas) -> int:
    """CRC-32 of a canvas's pixels: while views are late, canvases of one stamp differ."""
    return zlib.crc32(np.ascontiguousarray(canvas.image_HWC).data)
