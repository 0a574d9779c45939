"""Closed-form kinematics of one arm of the cell. Lengths are read from the MJCF, so they exist once.

Shapes: A = 6 arm joints (waist, shoulder, elbow, forearm_roll, wrist_pitch, wrist_roll), in rad. Metres, world frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from starry_ros.errors import InputError
from starry_ros.kinematics.backend import mujoco
from starry_ros.types import F64


@dataclass(frozen=True)
class ArmKinematics:
    """Forward kinematics of the pinch point, and inverse kinematics for a hand in the arm's vertical plane."""

    base_x_m: float
    base_y_m: float
    shoulder_z_m: float
    upper_m: float
    fore_m: float
    hand_m: float

    @staticmethod
    def from_model(model: mujoco.MjModel, arm: str) -> ArmKinematics:
        """Read the lengths of the arm called `arm` from a compiled cell."""
        base = model.body(f"{arm}_base").pos
        shoulder_z = base[2] + model.body(f"{arm}_waist_link").pos[2] + model.body(f"{arm}_shoulder_link").pos[2]
        fore = model.body(f"{arm}_forearm_link").pos[0] + model.body(f"{arm}_wrist_link").pos[0]
        hand = model.body(f"{arm}_hand").pos[0] + model.site(f"{arm}_pinch").pos[0]
        upper = model.body(f"{arm}_elbow_link").pos[2]
        return ArmKinematics(*(float(v) for v in (base[0], base[1], shoulder_z, upper, fore, hand)))

    def pinch(self, arm_A: F64) -> F64:
        """World position [3] of the point between the finger pads."""
        waist, shoulder, elbow, roll, pitch = (float(v) for v in arm_A[:5])
        bend = shoulder + elbow
        along = self.fore_m + self.hand_m * math.cos(pitch)
        drop = self.hand_m * math.sin(pitch) * math.cos(roll)
        side = self.hand_m * math.sin(pitch) * math.sin(roll)
        reach = self.upper_m * math.sin(shoulder) + along * math.cos(bend) - drop * math.sin(bend)
        height = self.shoulder_z_m + self.upper_m * math.cos(shoulder) - along * math.sin(bend) - drop * math.cos(bend)
        cos, sin = math.cos(waist), math.sin(waist)
        return np.array([
            self.base_x_m + reach * cos - side * sin,
            self.base_y_m + reach * sin + side * cos,
            height,
        ])

    def solve_down(self, x_m: float, y_m: float, z_m: float, yaw_rad: float) -> F64:
        """Arm joints [A] with the pinch point at (x, y, z), hand straight down, fingers opening along yaw + 90 deg.

        A point out of reach gives the pose of the nearest reachable one on the same ray from the shoulder.
        Raises InputError on a non-finite goal.
        """
        if not math.isfinite(yaw_rad):
            raise InputError("inverse kinematics", "non-finite goal", got=yaw_rad)
        waist = math.atan2(y_m - self.base_y_m, x_m - self.base_x_m)
        return self.solve(x_m, y_m, z_m, math.pi / 2, waist - yaw_rad)

    def solve(self, x_m: float, y_m: float, z_m: float, pitch_rad: float, roll_rad: float) -> F64:
        """Arm joints [A] with the hand `pitch_rad` below the horizontal, in the arm's vertical plane, turned by roll.

        At pitch 0 the hand points away from the arm's base, its fingers opening sideways at roll 0 and up and down at
        90 deg. Out of reach and InputError as in `solve_down`.
        """
        if not all(math.isfinite(v) for v in (x_m, y_m, z_m, pitch_rad, roll_rad)):
            raise InputError("inverse kinematics", "non-finite goal", got=(x_m, y_m, z_m, pitch_rad, roll_rad))
        dx, dy = x_m - self.base_x_m, y_m - self.base_y_m
        waist = math.atan2(dy, dx)
        reach = math.hypot(dx, dy) - self.hand_m * _cosine(pitch_rad)
        rise = z_m + self.hand_m * math.sin(pitch_rad) - self.shoulder_z_m
        length = math.hypot(reach, rise)
        bound = 0.999 * (self.upper_m + self.fore_m)
        if length > bound:
            reach, rise, length = reach * bound / length, rise * bound / length, bound
        upper, fore = self.upper_m, self.fore_m
        at_elbow = math.acos((upper**2 + fore**2 - length**2) / (2 * upper * fore))
        at_shoulder = math.acos((upper**2 + length**2 - fore**2) / (2 * upper * length))
        shoulder = math.pi / 2 - math.atan2(rise, reach) - at_shoulder
        elbow = math.pi / 2 - at_elbow
        return np.array([waist, shoulder, elbow, 0.0, pitch_rad - shoulder - elbow, roll_rad])


def _cosine(angle_rad: float) -> float:
    """Cosine that is exactly 0 straight down."""
    return 0.0 if angle_rad == math.pi / 2 else math.cos(angle_rad)
