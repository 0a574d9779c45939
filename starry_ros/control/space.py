"""Where the hands may be: the contract's workspace box and the least distance between the arms.

Forward kinematics and distances between bodies are MuJoCo's, from the MJCF or URDF that the contract names. The box
holds for the end-effector frames. The distance holds between what collides of two arms up to their hands; what is
mounted on a hand, such as fingers, is left out, so that two hands may hold one object.

A curve is looked at every SAMPLE_S, against a box and a distance that are MARGIN_M tighter.
Shapes: N samples, J joints, A arms, G geoms of an arm.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starry_ros.control.schedule import Refusal
from starry_ros.control.trajectory import Curve
from starry_ros.errors import ConfigError
from starry_ros.robot_spec import RobotSpec
from starry_ros.types import F64

SAMPLE_S = 0.025
MARGIN_M = 0.002
FORMATS = ("mjcf", "urdf")
OFF = "none"
"""`kinematics: {format: none}` in a contract switches the checks off."""

Ints = NDArray[np.intp]


class Space:
    """Checks positions of one robot. Not thread-safe."""

    def __init__(self, spec: RobotSpec, margin_m: float = MARGIN_M) -> None:
        self._mujoco, self._model = _load(spec.kinematics.format, spec.kinematics.source)
        self._data = self._mujoco.MjData(self._model)
        self._arms = tuple(arm.name for arm in spec.arms)
        self._qpos_J = np.array([self._joint(name) for name in spec.joint_names])
        self._sign_J = np.array([joint.sign for joint in spec.joints], dtype=np.float64)
        self._frames = [self._frame(arm.end_effector_frame) for arm in spec.arms]
        self._geoms = [self._links(body) for _, body in self._frames]
        box = np.array([spec.workspace_m[axis] for axis in "xyz"])
        self._low_3, self._high_3 = box[:, 0] + margin_m, box[:, 1] - margin_m
        self._distance_m = spec.arm_distance_m + margin_m
        self._pairs = [(*pair, self._near(*pair)) for pair in combinations(self._geoms, 2)]

    @staticmethod
    def of(spec: RobotSpec) -> Space | None:
        """The space of a contract, or None where it names no kinematics."""
        return None if spec.kinematics.format == OFF else Space(spec)

    def breach(self, position_J: F64) -> tuple[Refusal, str] | None:
        """Why the arms may not stand like this, as a code and in words, or None."""
        self._place(position_J)
        hands_A3 = self.hands()
        outside_A = ((hands_A3 < self._low_3) | (hands_A3 > self._high_3)).any(axis=1)
        if outside_A.any():
            arm = int(outside_A.argmax())
            return Refusal.OUTSIDE_WORKSPACE, f"the {self._arms[arm]} hand is at {hands_A3[arm].round(3).tolist()} m"
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
        hands = np.empty((count, len(self._frames), 3))
        centres = np.empty((count, self._model.ngeom, 3))
        for i in range(count):
            self._place(position_NJ[i])
            hands[i], centres[i] = self.hands(), self._data.geom_xpos
        suspect: NDArray[np.bool_] = np.any((hands < self._low_3) | (hands > self._high_3), axis=(1, 2))
        for first_G, second_G, near_GG in self._pairs:
            between = centres[:, first_G][:, :, None] - centres[:, second_G][:, None]
            suspect |= np.any(np.einsum("nijk,nijk->nij", between, between) < near_GG, axis=(1, 2))
        return suspect

    def hands(self) -> F64:
        """World positions [A, 3] of the end-effector frames in the pose looked at last."""
        sites, bodies = self._data.site_xpos, self._data.xpos
        return np.array([sites[site] if site is not None else bodies[body] for site, body in self._frames])

    def _place(self, position_J: F64) -> None:
        self._data.qpos[self._qpos_J] = self._sign_J * position_J
        self._mujoco.mj_kinematics(self._model, self._data)

    def _gap_m(self) -> float:
        """Least distance between any two arms, or `_distance_m` where it is certainly larger."""
        data, least = self._data, self._distance_m
        for first_G, second_G, near_GG in self._pairs:
            between = data.geom_xpos[first_G][:, None] - data.geom_xpos[second_G][None]
            close_GG = np.einsum("ijk,ijk->ij", between, between) < near_GG
            for i, j in np.argwhere(close_GG) if close_GG.any() else ():
                pair = int(first_G[i]), int(second_G[j])
                least = min(least, self._mujoco.mj_geomDistance(self._model, data, *pair, least, None))
        return float(least)

    def _near(self, first_G: Ints, second_G: Ints) -> F64:
        """Squared distance of centres [G, G] from which on bounding spheres are certainly far enough apart."""
        radius = self._model.geom_rbound
        reach: F64 = np.maximum(0.0, radius[first_G][:, None] + radius[second_G][None] + self._distance_m)
        return reach**2

    def _joint(self, name: str) -> int:
        try:
            return int(self._model.joint(name).qposadr[0])
        except KeyError as error:
            raise ConfigError("kinematics", "lacks a joint of the contract", got=name) from error

    def _frame(self, name: str) -> tuple[int | None, int]:
        """Site (if it is one) and body of a frame."""
        kinds = self._mujoco.mjtObj
        site = self._mujoco.mj_name2id(self._model, kinds.mjOBJ_SITE, name)
        body = self._mujoco.mj_name2id(self._model, kinds.mjOBJ_BODY, name)
        if site >= 0:
            body = self._model.site_bodyid[site]
        if body < 0:
            raise ConfigError("kinematics", "lacks an end-effector frame", got=name, expected="a site or a body")
        return (site if site >= 0 else None), int(body)

    def _links(self, hand: int) -> Ints:
        """What collides of the links from the base to the hand; every shape of a link of which nothing collides."""
        model, found = self._model, []
        body = hand
        while body > 0:
            shapes = np.flatnonzero(model.geom_bodyid == body)
            solid = shapes[(model.geom_contype[shapes] | model.geom_conaffinity[shapes]) != 0]
            found.append(solid if len(solid) else shapes)
            body = int(model.body_parentid[body])
        return np.concatenate(found)


@lru_cache(maxsize=4)
def _load(form: str, source: str) -> tuple[Any, Any]:
    """MuJoCo and the compiled model. ConfigError on an unknown format or an unusable file."""
    if form not in FORMATS:
        raise ConfigError("kinematics", "has an unknown format", got=form, expected=[*FORMATS, OFF])
    mujoco = importlib.import_module("starry_ros.control.mujoco_backend").mujoco
    inside, _, path = source.rpartition("package:")
    file = Path(__file__).resolve().parents[1] / path if inside == "" and source != path else Path(source).expanduser()
    try:
        description = mujoco.MjSpec.from_file(str(file))
        description.compiler.fusestatic = False  # else a URDF loses its tool frames
        return mujoco, description.compile()
    except (ValueError, OSError) as error:
        raise ConfigError(
            str(file), "cannot be read for forward kinematics", got=str(error).strip(),
            fix="give an MJCF or a URDF whose meshes exist, or kinematics: {format: none} to do without the checks",
        ) from error
