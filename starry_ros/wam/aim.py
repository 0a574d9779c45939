"""Does the aim stay? Where two plans in a row say that the next contact will be, while the hands are free.

A hand that reaches for an object aims at the same place until it is there; an object that is moved takes the next
plan's aim with it. So the *shift* between two plans tells of it within one plan. What was the contact after the next
one may have become the next, and while a jaw is closed the aim goes on to the next stage by itself: then nothing is
said. With d the distance of the landing points in px and c the cosine of the two maps of the view,

    shift = log(d + POINT_FLOOR_PX) + log(1 - c + MAP_FLOOR)

Shapes: E events, Y x X value pixels of one view, J joints.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from starry_ros.robot_spec import RobotSpec
from starry_ros.types import F32, F64, RobotState, ValueMap
from starry_ros.wam.config import ViewConfig

POINT_FLOOR_PX, MAP_FLOOR = 0.5, 0.02
FREE_SHARE = 0.75
"""A jaw that is open by this share of its range holds nothing."""


@dataclass(frozen=True)
class Aim:
    """Landing points and value maps of one plan in a view that stands still."""

    stamp_ns: int
    point_E2: F64
    map_EYX: F32
    hands_free: bool


def hands_free(spec: RobotSpec, state: RobotState) -> bool:
    """Whether no jaw is closed or about an object."""
    jaws = list(spec.gripper_indices)
    lower, upper = (spec.limit(name)[jaws] for name in ("lower", "upper"))
    return bool((state.position_J[jaws] >= lower + FREE_SHARE * (upper - lower)).all())


def aim_of(value_map: ValueMap, view: ViewConfig, free: bool) -> Aim | None:
    """The aim of a plan in one view; None where the plan names no landing point there."""
    points = {point.event: (point.u_px, point.v_px) for point in value_map.landing
              if point.camera == view.camera and point.confidence > 0}
    events = len(value_map.values_EHW)
    if set(points) != set(range(events)):
        return None
    stride = value_map.stride_px
    rows = slice(view.y_px // stride, (view.y_px + view.height_px) // stride)
    columns = slice(view.x_px // stride, (view.x_px + view.width_px) // stride)
    point_E2 = np.array([points[event] for event in range(events)], dtype=np.float64)
    return Aim(value_map.observation_ns, point_E2, value_map.values_EHW[:, rows, columns], free)


def shift(before: Aim, now: Aim) -> float | None:
    """How far the aim has moved between two plans; None where hands that were not free may have moved it."""
    if not (before.hands_free and now.hands_free):
        return None
    distance_px = np.linalg.norm(before.point_E2 - now.point_E2[0], axis=1).min()
    apart = min(_apart(one_YX, now.map_EYX[0]) for one_YX in before.map_EYX)
    return float(np.log(distance_px + POINT_FLOOR_PX) + np.log(apart + MAP_FLOOR))


def _apart(one_YX: F32, other_YX: F32) -> float:
    """1 minus the cosine of two maps, negative values being none."""
    one, other = (np.maximum(values, 0.0).astype(np.float64).ravel() for values in (one_YX, other_YX))
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return 1 - float(one @ other) / max(lengths, 1e-9)
