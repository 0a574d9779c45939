"""Where in the world an expected contact is, from where the cameras see it.

Each view gives a ray; the point sought is the one nearest to all rays, held to the height of the work surface as far as
the rays leave it open. It minimises

    sum_i w_i |(I - d_i d_i^T) (p - o_i)|^2  +  w_z (p_z - z)^2

which is a linear system in p: one ray meets the surface, several triangulate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from starry_ros.types import F64, CameraModel

SURFACE_WEIGHT = 0.05
LEAST_CONDITION = 1e-4


@dataclass(frozen=True)
class Ray:
    """Origin [3] and unit direction [3] in the world, in m; `weight` is the view's confidence."""

    origin_m: F64
    direction: F64
    weight: float


def ray_of(camera: CameraModel, u_px: float, v_px: float, weight: float) -> Ray:
    """The ray of a camera pixel."""
    inside = np.array([(u_px - camera.cx_px) / camera.fx_px, (v_px - camera.cy_px) / camera.fy_px, 1.0])
    direction = camera.T_world_cam[:3, :3] @ inside
    return Ray(camera.T_world_cam[:3, 3].copy(), direction / np.linalg.norm(direction), weight)


def locate(rays: Sequence[Ray], surface_z_m: float) -> F64 | None:
    """The point [3] that the rays mean; None without rays, or when a ray alone runs along the surface."""
    normal = np.diag([0.0, 0.0, SURFACE_WEIGHT])
    right = np.array([0.0, 0.0, SURFACE_WEIGHT * surface_z_m])
    for ray in rays:
        across = ray.weight * (np.eye(3) - np.outer(ray.direction, ray.direction))
        normal += across
        right += across @ ray.origin_m
    if not rays or np.linalg.eigvalsh(normal)[0] < LEAST_CONDITION:
        return None
    point: F64 = np.linalg.solve(normal, right)
    return point
