"""Where the hands may be: the contract's workspace box and the least distance between the arms.

Forward kinematics and distances between bodies are MuJoCo's, from the MJCF or URDF that the contract names. The box
holds for the end-effector frames. The distance holds between what collides of two arms up to their hands; what both
hang from, such as a torso, belongs to neither, and what is mounted on a hand, such as fingers, is left out, so that two
hands may hold one object.

A curve is looked at every SAMPLE_S, SLICE of them at a time, against a box and a distance that are MARGIN_M tighter:
arms may go on from what was told of a checked curve, which is not sampled at the same times, and is less smooth. Arms
that pass each other are nearest for an instant; where that may lie between two looks, these are FINE_S apart.
Shapes: N samples, J joints, A arms, G geoms, P pairs of them.
"""

from __future__ import annotations

from collections.abc import Sequence
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
FINE_S = 0.0025
SLICE = 8
BENT = 1.1
"""A way is longer than the straight line between two looks by at most this."""

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
        radius = self.robot.model.geom_rbound
        self._pairs = [(a, b, radius[a][:, None] + radius[b][None]) for a, b in combinations(self._geoms, 2)]
        self._arms = [np.setdiff1d(np.arange(len(spec.joint_names))[spec.arm_slice(arm.name)], spec.gripper_indices)
                      for arm in spec.arms]

    @staticmethod
    def of(spec: RobotSpec) -> Space | None:
        """The space of a contract, or None where it names no kinematics: then nothing is checked."""
        return None if spec.kinematics.format == NO_KINEMATICS else Space(spec)

    def breach(self, position_J: F64) -> tuple[Refusal, str] | None:
        """Why the arms may not stand like this, as a code and in words, or None."""
        return self._look(position_J[None], self._margin_m)[0].get(0)

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
        times = np.linspace(from_s, max(from_s, curve.duration_s), count + 1)
        margin_m = 0.0 if to_the_border else self._margin_m
        for first in range(0, count, SLICE):
            some = times[first:first + SLICE + 1]
            breaches, narrow = self._look(curve.sample(some)[:, 0], margin_m)
            for n in range(1, len(some)):
                if n in breaches:
                    return float(some[n]), breaches[n][0]
                if narrow[n - 1]:
                    fine = np.linspace(some[n - 1], some[n], int(np.ceil(SAMPLE_S / FINE_S)) + 1)[1:-1]
                    between, _ = self._look(curve.sample(fine)[:, 0], margin_m)
                    if between:
                        return float(fine[min(between)]), between[min(between)][0]
                    yield
            yield
        return None

    def _look(self, position_NJ: F64, margin_m: float) -> tuple[dict[int, tuple[Refusal, str]], NDArray[np.bool_]]:
        """Which of some positions on a way are not allowed, by their index: a code, and words.

        Beside it, between which neighbours [N - 1] the arms may be too close although they are not at either of them.
        """
        hands_NA3, centres_NG3 = self._places(position_NJ)
        low_3, high_3, least_m = self._low_3 + margin_m, self._high_3 - margin_m, self._distance_m + margin_m
        outside_NA = np.any((hands_NA3 < low_3) | (hands_NA3 > high_3), axis=2)
        nearer_n = self._nearer_m(position_NJ, centres_NG3)
        gap_N = self._gaps_m(position_NJ, centres_NG3, least_m + nearer_n.max(initial=0.0))
        found = {}
        for n in np.flatnonzero(outside_NA.any(axis=1) | (gap_N < least_m)).tolist():
            if outside_NA[n].any():
                arm = int(outside_NA[n].argmax())
                where = hands_NA3[n, arm].round(3).tolist()
                why = f"the {self.robot.spec.arms[arm].name} hand is at {where} m"
                found[n] = Refusal.OUTSIDE_WORKSPACE, why
            else:
                found[n] = Refusal.ARMS_TOO_CLOSE, f"the arms are {gap_N[n]:.3f} m apart"
        return found, gap_N[:-1] + gap_N[1:] - nearer_n < 2 * least_m

    def _nearer_m(self, position_NJ: F64, centres_NG3: F64) -> F64:
        """By how much two arms can come nearer to each other, and away again, from one position to the next [N - 1]."""
        radius_G = self.robot.model.geom_rbound
        moved_nG = np.linalg.norm(np.diff(centres_NG3, axis=0), axis=2)
        turned_nJ = np.abs(np.diff(position_NJ, axis=0))
        ways = [(moved_nG[:, geoms] + turned_nJ[:, joints].sum(axis=1, keepdims=True) * radius_G[geoms]).max(axis=1)
                for geoms, joints in zip(self._geoms, self._arms, strict=True)]
        nearer_n: F64 = BENT * np.sort(np.stack(ways), axis=0)[-2:].sum(axis=0)
        return nearer_n

    def _places(self, position_NJ: F64) -> tuple[F64, F64]:
        """Where hands [N, A, 3] and centres of all geoms [N, G, 3] are."""
        robot, count = self.robot, len(position_NJ)
        hands, centres = np.empty((count, len(self._geoms), 3)), np.empty((count, robot.model.ngeom, 3))
        for n in range(count):
            robot.place(position_NJ[n])
            hands[n], centres[n] = robot.hands(), robot.data.geom_xpos
        return hands, centres

    def _gaps_m(self, position_NJ: F64, centres_NG3: F64, most_m: float) -> F64:
        """Least distance of two arms at each position [N], `most_m` where it is larger."""
        gap_N, close_P3 = np.full(len(position_NJ), most_m), self._close(centres_NG3, most_m)
        for n in np.unique(close_P3[:, 0]).tolist():
            gap_N[n] = self._gap_m(position_NJ[n], close_P3[close_P3[:, 0] == n, 1:].tolist(), most_m)
        return gap_N

    def _close(self, centres_NG3: F64, apart_m: float) -> Ints:
        """Position and two geoms of two arms [P, 3] whose bounding spheres are nearer; all others are not."""
        found = []
        for first_G, second_G, radii_GG in self._pairs:
            between = centres_NG3[:, first_G][:, :, None] - centres_NG3[:, second_G][:, None]
            near_GG = np.maximum(0.0, radii_GG + apart_m) ** 2
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
