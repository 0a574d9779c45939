"""Markers for RViz, in the world: cubes, paths coloured by time, contacts, boxes.

Shapes: K points. Metres. Every marker lives for LIFETIME: what stops being published disappears.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker

from starry_ros.types import F64

WORLD_FRAME = "world"
LIFETIME = Duration(sec=1)
UPRIGHT = Pose(orientation=Quaternion(w=1.0))


def cube_marker(name: str, position: F64, rotation: F64, size_m: float, rgb: Sequence[float], stamp: Time) -> Marker:
    """A cube in the world; `ns` is its name."""
    x, y, z = position.tolist()
    return Marker(
        header=Header(stamp=stamp, frame_id=WORLD_FRAME), ns=name, id=0, type=Marker.CUBE, action=Marker.ADD,
        pose=Pose(position=Point(x=x, y=y, z=z), orientation=quaternion_of(rotation)),
        scale=Vector3(x=size_m, y=size_m, z=size_m), color=_rgba(rgb), lifetime=LIFETIME,
    )


def path_marker(name: str, points_K3: F64, rgb_K3: F64, width_m: float, stamp: Time, frame: str) -> Marker:
    """A line strip through points, each with its own colour in 0..1."""
    return Marker(
        header=Header(stamp=stamp, frame_id=frame), ns=name, id=0, type=Marker.LINE_STRIP, action=Marker.ADD,
        pose=UPRIGHT, scale=Vector3(x=width_m), points=_points(points_K3), colors=[_rgba(rgb) for rgb in rgb_K3],
        color=_rgba((1.0, 1.0, 1.0)), lifetime=LIFETIME,
    )


def sphere_marker(name: str, at_m: F64, size_m: float, rgb: Sequence[float], stamp: Time, frame: str) -> Marker:
    """A translucent ball."""
    return Marker(
        header=Header(stamp=stamp, frame_id=frame), ns=name, id=0, type=Marker.SPHERE, action=Marker.ADD,
        pose=Pose(position=_point(at_m), orientation=UPRIGHT.orientation), color=_rgba(rgb, 0.65),
        scale=Vector3(x=size_m, y=size_m, z=size_m), lifetime=LIFETIME,
    )


def text_marker(
    name: str, text: str, at_m: F64, size_m: float, rgb: Sequence[float], stamp: Time, frame: str
) -> Marker:
    """A text that faces the viewer."""
    return Marker(
        header=Header(stamp=stamp, frame_id=frame), ns=name, id=1, type=Marker.TEXT_VIEW_FACING, action=Marker.ADD,
        pose=Pose(position=_point(at_m), orientation=UPRIGHT.orientation), color=_rgba(rgb), text=text,
        scale=Vector3(z=size_m), lifetime=LIFETIME,
    )


def box_marker(name: str, bounds_m: Mapping[str, tuple[float, float]], stamp: Time, frame: str) -> Marker:
    """The twelve edges of a box given by its bounds along x, y and z."""
    corners = np.array(list(product(*(bounds_m[axis] for axis in "xyz"))))
    edges = [(a, b) for a in range(8) for b in range(a + 1, 8) if bin(a ^ b).count("1") == 1]
    return Marker(
        header=Header(stamp=stamp, frame_id=frame), ns=name, id=0, type=Marker.LINE_LIST, action=Marker.ADD,
        pose=UPRIGHT, scale=Vector3(x=0.003), color=_rgba((0.66, 0.69, 0.74), 0.6), lifetime=LIFETIME,
        points=_points(corners[np.array(edges).ravel()]),
    )


def _points(points_K3: F64) -> list[Point]:
    return [_point(point) for point in points_K3]


def _point(point_m: F64) -> Point:
    x, y, z = (float(value) for value in point_m)
    return Point(x=x, y=y, z=z)


def _rgba(rgb: Sequence[float], alpha: float = 1.0) -> ColorRGBA:
    return ColorRGBA(r=float(rgb[0]), g=float(rgb[1]), b=float(rgb[2]), a=alpha)


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
