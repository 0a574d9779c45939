"""Where the hands may be: the contract's workspace box and the least distance between the arms.

Forward kinematics and distances between bodies are MuJoCo's, from the MJCF or URDF that the contract names. The box
holds for the end-effector frames. The distance holds between what collides of two arms up to their hands; what both
hang from, such as a torso, belongs to neither, and what is mounted on a hand, such as fingers, is left out, so that two
hands may hold one object.

A curve is looked at every SAMPLE_S, SLICE of them at a time, against a box and a distance that are MARGIN_M tighter:
arms may go on from what was told of a checked curve, which is not sampled at the same times, and is less smooth.
Shapes: N samples, J joints, A arms, G geoms, P pairs of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from starry_ros.control.schedule import Refusal
from starry_ros.control.slices import Slices, at_once
from starry_ros.control.trajectory import Curve
from starry_ros.kinematics.robot import RobotKinematics
from starry_ros.robot_spec import NO_KINEMATICS, RobotSpec
from starry_ros.types import F64

SAMPLE_S = 0.025
MARGIN_M = 0.002
SLICE = 8

Ints = NDArray[np.intp]


class Space:
    """Checks positions of one robot. Not thread-safe."""

    def __init__(self, spec: RobotSpec, margin_m: float = MARGIN_M) -> None:
        self.robot = RobotKinematics(spec)
        links = [self._links(self.robot.hand_body(arm.name)) for arm in spec.arms]
        geoms, count = np.unique(np.concatenate(links), return_counts=True)
        self._geoms = [np.setdiff1d(found, geoms[count > 1]) for found in links]
        self._low_3, self._high_3 = np.array([spec.workspace_m[axis] for axis in "xyz"]).T
        self._margin_m, self._distance_m = margin_m, spec.arm_distance_m
        self._pairs = [(*pair, self._near(*pair)) for pair in combinations(self._geoms, 2)]

    @staticmethod
    def of(spec: RobotSpec) -> Space | None:
        """The space of a contract, or None where it names no kinematics: then nothing is checked."""
        return None if spec.kinematics.format == NO_KINEMATICS else Space(spec)

    def breach(self, position_J: F64) -> tuple[Refusal, str] | None:
        """Why the arms may not stand like this, as a code and in words, or None."""
        found = self._breaches(position_J[None], self._margin_m)
        return next(((refusal, why) for _, refusal, why in found), None)

    def first_breach(
        self, curve: Curve, from_s: float = 0.0, *, to_the_border: bool = False
    ) -> tuple[float, Refusal] | None:
        """When a curve first leaves the space from `from_s` on, and how; None when it never does.

        `to_the_border`: what leads into the margin does not leave the space.
        """
        return at_once(self.looking(curve, from_s, to_the_border=to_the_border))

    def looking(
        self, curve: Curve, from_s: float = 0.0, *, to_the_border: bool = False
    ) -> Slices[tuple[float, Refusal] | None]:
        """`first_breach`, a slice at a time."""
        count = max(1, int(np.ceil((curve.duration_s - from_s) / SAMPLE_S)))
        times = np.linspace(from_s, max(from_s, curve.duration_s), count + 1)[1:]
        position_NJ, margin_m = curve.sample(times)[:, 0], 0.0 if to_the_border else self._margin_m
        for first in range(0, len(times), SLICE):
            for n, refusal, _ in self._breaches(position_NJ[first:first + SLICE], margin_m):
                return float(times[first + n]), refusal
            yield
        return None

    def _breaches(self, position_NJ: F64, margin_m: float) -> Iterator[tuple[int, Refusal, str]]:
        """Which of some positions are not allowed, in order: its index, a code, and words."""
        hands_NA3, centres_NG3 = self._places(position_NJ)
        low_3, high_3, least_m = self._low_3 + margin_m, self._high_3 - margin_m, self._distance_m + margin_m
        outside_NA = np.any((hands_NA3 < low_3) | (hands_NA3 > high_3), axis=2)
        close_P3 = self._close(centres_NG3)
        for n in np.union1d(np.flatnonzero(outside_NA.any(axis=1)), close_P3[:, 0]).tolist():
            if outside_NA[n].any():
                arm = int(outside_NA[n].argmax())
                where = hands_NA3[n, arm].round(3).tolist()
                yield n, Refusal.OUTSIDE_WORKSPACE, f"the {self.robot.spec.arms[arm].name} hand is at {where} m"
                continue
            gap_m = self._gap_m(position_NJ[n], close_P3[close_P3[:, 0] == n, 1:].tolist(), least_m)
            if gap_m < least_m:
                yield n, Refusal.ARMS_TOO_CLOSE, f"the arms are {gap_m:.3f} m apart"

    def _places(self, position_NJ: F64) -> tuple[F64, F64]:
        """Where hands [N, A, 3] and centres of all geoms [N, G, 3] are."""
        robot, count = self.robot, len(position_NJ)
        hands, centres = np.empty((count, len(self._geoms), 3)), np.empty((count, robot.model.ngeom, 3))
        for n in range(count):
            robot.place(position_NJ[n])
            hands[n], centres[n] = robot.hands(), robot.data.geom_xpos
        return hands, centres

    def _close(self, centres_NG3: F64) -> Ints:
        """Position and two geoms of two arms [P, 3] whose bounding spheres are too close; all others are fine."""
        found = []
        for first_G, second_G, near_GG in self._pairs:
            between = centres_NG3[:, first_G][:, :, None] - centres_NG3[:, second_G][:, None]
            n, i, j = np.nonzero(np.einsum("nijk,nijk->nij", between, between) < near_GG)
            found.append(np.stack((n, first_G[i], second_G[j]), axis=1))
        return np.concatenate(found) if found else np.empty((0, 3), dtype=np.intp)

    def _gap_m(self, position_J: F64, pairs: Sequence[tuple[int, int]], least: float) -> float:
        """Least distance between any of some pairs of geoms, or `least` where it is certainly larger."""
        robot = self.robot
        robot.place(position_J)
        for first, second in pairs:
            least = min(least, robot.mujoco.mj_geomDistance(robot.model, robot.data, first, second, least, None))
        return float(least)

    def _near(self, first_G: Ints, second_G: Ints) -> F64:
        """Squared distance of centres [G, G] from which on bounding spheres are certainly far enough apart."""
        radius, apart_m = self.robot.model.geom_rbound, self._distance_m + self._margin_m
        reach: F64 = np.maximum(0.0, radius[first_G][:, None] + radius[second_G][None] + apart_m)
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
