"""Markers for RViz: cubes in the world."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker

from starry_ros.types import F64

WORLD_FRAME = "world"
LIFETIME = Duration(sec=1)


def cube_marker(name: str, position: F64, rotation: F64, size_m: float, rgb: Sequence[float], stamp: Time) -> Marker:
    """A cube in the world; `ns` is its name."""
    x, y, z = position.tolist()
    return Marker(
        header=Header(stamp=stamp, frame_id=WORLD_FRAME), ns=name, id=0, type=Marker.CUBE, action=Marker.ADD,
        pose=Pose(position=Point(x=x, y=y, z=z), orientation=quaternion_of(rotation)),
        scale=Vector3(x=size_m, y=size_m, z=size_m), color=_rgba(rgb), lifetime=LIFETIME,
    )


def _rgba(rgb: Sequence[float]) -> ColorRGBA:
    return ColorRGBA(r=float(rgb[0]), g=float(rgb[1]), b=float(rgb[2]), a=1.0)


def quaternion_of(rotation: F64) -> Quaternion:
    """Unit quaternion of a rotation [3, 3]: the eigenvector of largest eigenvalue of Bar-Itzhack's matrix (2000)."""
    r = rotation
    matrix = np.array([
        [r[0, 0] - r[1, 1] - r[2, 2], r[1, 0] + r[0, 1], r[2, 0] + r[0, 2], r[2, 1] - r[1, 2]],
        [r[1, 0] + r[0, 1], r[1, 1] - r[0, 0] - r[2, 2], r[2, 1] + r[1, 2], r[0, 2] - r[2, 0]],
        [r[2, 0] + r[0, 2], r[2, 1] + r[1, 2], r[2, 2] - r[0, 0] - r[1, 1], r[1, 0] - r[0, 1]],
        [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], r[0, 0] + r[1, 1] + r[2, 2]],
    ])
    x, y, z, w = np.linalg.eigh(matrix)[1][:, -1].tolist()
    return Quaternion(x=x, y=y, z=z, w=w)
