"""Frozen values that cross the seams between rooms.

Shapes: H rows, W columns, C colour channels, J joints of the contract in its order, K steps of a chunk,
E contact events of a value map. Arrays are made read-only on construction. Times are integer nanoseconds on the
process's monotonic clock unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]


def _freeze(owner: object, *names: str) -> None:
    for name in names:
        array = getattr(owner, name)
        if array is not None:
            view = array.view()
            view.setflags(write=False)
            object.__setattr__(owner, name, view)


@dataclass(frozen=True)
class CameraFrame:
    """One decoded image. `image_HWC` is uint8 RGB; `stamp_ns` is the acquisition time."""

    camera: str
    stamp_ns: int
    received_ns: int
    image_HWC: U8

    def __post_init__(self) -> None:
        _freeze(self, "image_HWC")


@dataclass(frozen=True)
class FrameSet:
    """Frames that belong together, at most one a camera. `stamp_ns` is the oldest frame's stamp."""

    stamp_ns: int
    skew_ns: int
    frames: Mapping[str, CameraFrame]


@dataclass(frozen=True)
class TileStatus:
    """What one camera contributed to a canvas."""

    camera: str
    stamp_ns: int
    age_ns: int
    valid: bool


@dataclass(frozen=True)
class Canvas:
    """All views of one instant in one image."""

    stamp_ns: int
    layout_hash: str
    image_HWC: U8
    tiles: tuple[TileStatus, ...]

    def __post_init__(self) -> None:
        _freeze(self, "image_HWC")

    @property
    def complete(self) -> bool:
        """Whether every camera contributed a valid view."""
        return all(tile.valid for tile in self.tiles)


@dataclass(frozen=True)
class RobotState:
    """Measured joints in contract order: rad and rad/s, grippers m and m/s."""

    stamp_ns: int
    position_J: F64
    velocity_J: F64

    def __post_init__(self) -> None:
        _freeze(self, "position_J", "velocity_J")


@dataclass(frozen=True)
class ActionChunk:
    """A plan: step k is the joint position at `start_ns + k * step_ns`. Keyed by absolute time, never by arrival."""

    chunk_id: int
    epoch: int
    instruction_id: int
    observation_ns: int
    start_ns: int
    step_ns: int
    joint_names: tuple[str, ...]
    positions_KJ: F64
    contract_hash: str

    def __post_init__(self) -> None:
        _freeze(self, "positions_KJ")

    @property
    def end_ns(self) -> int:
        """Time of the last step."""
        return self.start_ns + (len(self.positions_KJ) - 1) * self.step_ns


@dataclass(frozen=True)
class LandingPoint:
    """Where in one view the next contacts are expected: soft-argmax of the value map, in canvas pixels."""

    camera: str
    event: int
    u_px: float
    v_px: float
    confidence: float


@dataclass(frozen=True)
class ValueMap:
    """Where the robot is about to act, on the canvas at `stride_px`: 1 at the expected contact, 0 elsewhere.

    Event 0 is the next contact, event 1 the one after it.
    """

    observation_ns: int
    layout_hash: str
    stride_px: int
    values_EHW: F32
    landing: tuple[LandingPoint, ...]

    def __post_init__(self) -> None:
        _freeze(self, "values_EHW")


@dataclass(frozen=True)
class Plan:
    """What one call of the session returns."""

    chunk: ActionChunk
    value_map: ValueMap
    imagined_HWC: U8 | None
    timing_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class JointCommand:
    """One set-point in contract order: position, velocity, acceleration in rad (m for grippers) and seconds."""

    time_ns: int
    position_J: F64
    velocity_J: F64
    acceleration_J: F64

    def __post_init__(self) -> None:
        _freeze(self, "position_J", "velocity_J", "acceleration_J")


@dataclass(frozen=True)
class CameraModel:
    """Pinhole camera, pixel centres at integers. `T_world_cam` maps the ROS optical frame (z forward, y down)."""

    camera: str
    width_px: int
    height_px: int
    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float
    T_world_cam: F64

    def __post_init__(self) -> None:
        _freeze(self, "T_world_cam")


Record = dict[str, Any]
"""One row of a JSON report."""
