"""Where the hands may be: the contract's workspace box and the least distance between the arms.

Forward kinematics and distances between bodies are MuJoCo's, from the MJCF or URDF that the contract names. The box
holds for the end-effector frames. The distance holds between what collides of two arms up to their hands; what both
hang from, such as a torso, belongs to neither, and what is mounted on a hand, such as fingers, is left out, so that two
hands may hold one object.

A curve is looked at every SAMPLE_S, against a box and a distance that are MARGIN_M tighter.
Shapes: N samples, J joints, A arms, G geoms of an arm.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from starry_ros.control.schedule import Refusal
from starry_ros.control.trajectory import Curve
from starry_ros.kinematics.robot import RobotKinematics
from starry_ros.robot_spec import NO_KINEMATICS, RobotSpec
from starry_ros.types import F64

SAMPLE_S = 0.025
MARGIN_M = 0.002

Ints = NDArray[np.intp]


class Space:
    """Checks positions of one robot. Not thread-safe."""

    def __init__(self, spec: RobotSpec, margin_m: float = MARGIN_M) -> None:
        self.robot = RobotKinematics(spec)
        links = [self._links(self.robot.hand_body(arm.name)) for arm in spec.arms]
        geoms, count = np.unique(np.concatenate(links), return_counts=True)
        self._geoms = [np.setdiff1d(found, geoms[count > 1]) for found in links]
        box = np.array([spec.workspace_m[axis] for axis in "xyz"])
        self._low_3, self._high_3 = box[:, 0] + margin_m, box[:, 1] - margin_m
        self._distance_m = spec.arm_distance_m + margin_m
        self._pairs = [(*pair, self._near(*pair)) for pair in combinations(self._geoms, 2)]

    @staticmethod
    def of(spec: RobotSpec) -> Space | None:
        """The space of a contract, or None where it names no kinematics: then nothing is checked."""
        return None if spec.kinematics.format == NO_KINEMATICS else Space(spec)

    def breach(self, position_J: F64) -> tuple[Refusal, str] | None:
        """Why the arms may not stand like this, as a code and in words, or None."""
        self.robot.place(position_J)
        hands_A3 = self.robot.hands()
        outside_A = ((hands_A3 < self._low_3) | (hands_A3 > self._high_3)).any(axis=1)
        if outside_A.any():
            arm = int(outside_A.argmax())
            name = self.robot.spec.arms[arm].name
            return Refusal.OUTSIDE_WORKSPACE, f"the {name} hand is at {hands_A3[arm].round(3).tolist()} m"
        gap_m = self._gap_m()
        if gap_m < self._distance_m:
            return Refusal.ARMS_TOO_CLOSE, f"the arms are {gap_m:.3f} m apart"
        return None

    def first_breach(self, curve: Curve, from_s: float = 0.0) -> tuple[float, Refusal] | None:
        """When a curve first leaves the space from `from_s` on, and how; None when it never does."""
        count = max(1, int(np.ceil((curve.duration_s - from_s) / SAMPLE_S)))
        times = np.linspace(from_s, max(from_s, curve.duration_s), count + 1)[1:]
        position_NJ = curve.sample(times)[:, 0]
        for i in np.flatnonzero(self._suspect(position_NJ)):
            found = self.breach(position_NJ[i])
            if found is not None:
                return float(times[i]), found[0]
        return None

    def _suspect(self, position_NJ: F64) -> NDArray[np.bool_]:
        """Which positions [N] have a hand outside or bounding spheres of two arms too close; all others are fine."""
        count = len(position_NJ)
        hands = np.empty((count, len(self._geoms), 3))
        centres = np.empty((count, self.robot.model.ngeom, 3))
        for i in range(count):
            self.robot.place(position_NJ[i])
            hands[i], centres[i] = self.robot.hands(), self.robot.data.geom_xpos
        suspect: NDArray[np.bool_] = np.any((hands < self._low_3) | (hands > self._high_3), axis=(1, 2))
        for first_G, second_G, near_GG in self._pairs:
            between = centres[:, first_G][:, :, None] - centres[:, second_G][:, None]
            suspect |= np.any(np.einsum("nijk,nijk->nij", between, between) < near_GG, axis=(1, 2))
        return suspect

    def _gap_m(self) -> float:
        """Least distance between any two arms, or `_distance_m` where it is certainly larger."""
        robot, data, least = self.robot, self.robot.data, self._distance_m
        for first_G, second_G, near_GG in self._pairs:
            between = data.geom_xpos[first_G][:, None] - data.geom_xpos[second_G][None]
            close_GG = np.einsum("ijk,ijk->ij", between, between) < near_GG
            for i, j in np.argwhere(close_GG) if close_GG.any() else ():
                pair = int(first_G[i]), int(second_G[j])
                least = min(least, robot.mujoco.mj_geomDistance(robot.model, data, *pair, least, None))
        return float(least)

    def _near(self, first_G: Ints, second_G: Ints) -> F64:
        """Squared distance of centres [G, G] from which on bounding spheres are certainly far enough apart."""
        radius = self.robot.model.geom_rbound
        reach: F64 = np.maximum(0.0, radius[first_G][:, None] + radius[second_G][None] + self._distance_m)
        return reach**2

    def _links(self, hand: int) -> Ints:
        """What collides of the links from the base to the hand; every shape of a link of which nothing collides."""
        model, found = self.robot.model, []
        body = hand
        while body > 0:
            shapes = np.flatnonzero(model.geom_bodyid == body)
            solid = shapes[(model.geom_contype[shapes] | model.geom_conaffinity[shapes]) != 0]
            found.append(solid if len(solid) else shapes)
            body = int(model.body_parentid[body])
        return np.concatenate(found)
