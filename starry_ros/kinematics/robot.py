"""Where a robot's hands, cameras and links are, given its joints: forward kinematics by MuJoCo.

The robot contract names an MJCF or URDF file. A hand is the site or body called as the arm's `end_effector_frame`; a
camera is the MJCF camera of that name, or the body called as its `frame_id` (optical frame: z forward, y down).

Shapes: J joints in contract order, A arms, K postures. Metres, in the world frame of the description.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from starry_ros.errors import ConfigError, ContractError, DataError
from starry_ros.robot_spec import KINEMATICS_FORMATS, NO_KINEMATICS, PACKAGE_PREFIX, CameraSpec, RobotSpec
from starry_ros.types import F64, CameraModel

OPTICAL_FROM_MUJOCO = np.diag([1.0, -1.0, -1.0])
"""A MuJoCo camera looks along -z with y up."""
ASPECT_TOLERANCE = 0.02


class RobotKinematics:
    """One robot in one posture, that of `place`. `calibration` overrides cameras' intrinsics. Not thread-safe.

    A calibration may be of any size of the contract's aspect; cameras are always of the contract's size.
    `mujoco`, `model`, `data` are the library and what it holds, for what else can be told from a posture.
    """

    def __init__(self, spec: RobotSpec, calibration: Mapping[str, CameraModel] | None = None) -> None:
        """ConfigError on a description that cannot be read or lacks a joint or hand of the contract.

        DataError on a calibration of another aspect than the contract's.
        """
        self.spec = spec
        self.mujoco, self.model = _load(spec.kinematics.format, spec.kinematics.source)
        self.data = self.mujoco.MjData(self.model)
        self._joints = joints = [self._joint(name) for name in spec.joint_names]
        self._qpos_J, self._dof_J = self.model.jnt_qposadr[joints], self.model.jnt_dofadr[joints]
        self._sign_J = spec.limit("sign")
        self._frames = {arm.name: self._frame(arm.end_effector_frame) for arm in spec.arms}
        self._calibration = {name: self._fitted(name, given) for name, given in (calibration or {}).items()}

    def place(self, position_J: F64) -> None:
        """Take a posture; everything else speaks of it."""
        self.data.qpos[self._qpos_J] = self._sign_J * position_J
        self.mujoco.mj_kinematics(self.model, self.data)

    def hand(self, arm: str) -> F64:
        """World position [3] of an arm's end-effector frame."""
        return np.array(self._position(*self._frames[arm]))

    def hand_pose(self, arm: str) -> F64:
        """Pose [4, 4] of an arm's end-effector frame in the world."""
        (site, body), pose = self._frames[arm], np.eye(4)
        turn = self.data.xmat[body] if site is None else self.data.site_xmat[site]
        pose[:3, :3], pose[:3, 3] = turn.reshape(3, 3), self._position(site, body)
        return pose

    def hands(self) -> F64:
        """World positions [A, 3] of the end-effector frames."""
        return np.array([self._position(*frame) for frame in self._frames.values()])

    def paths(self, positions_KJ: F64) -> F64:
        """World positions [A, K, 3] of the end-effector frames along a path; leaves the robot at its end."""
        found = np.empty((len(self._frames), len(positions_KJ), 3))
        for k, position_J in enumerate(positions_KJ):
            self.place(position_J)
            found[:, k] = self.hands()
        return found

    def hand_jacobian(self, arm: str) -> F64:
        """Velocity [6, J] of an arm's end-effector frame, linear (m) then angular (rad), per velocity of each joint."""
        site, body = self._frames[arm]
        self.mujoco.mj_comPos(self.model, self.data)
        jacobian = np.zeros((6, self.model.nv))
        parts = self.model, self.data, jacobian[:3], jacobian[3:]
        if site is None:
            self.mujoco.mj_jacBody(*parts, body)
        else:
            self.mujoco.mj_jacSite(*parts, site)
        columns: F64 = self._sign_J * jacobian[:, self._dof_J]
        return columns

    def hand_body(self, arm: str) -> int:
        """Index of the body that carries an arm's end-effector frame."""
        return self._frames[arm][1]

    def camera_pose(self, name: str) -> F64 | None:
        """Pose [4, 4] of a camera's optical frame in the world; None if the description lacks the camera."""
        pose: F64 = np.eye(4)
        camera = self._index("mjOBJ_CAMERA", name)
        body = self._index("mjOBJ_BODY", self.spec.camera(name).frame_id)
        if camera >= 0:
            self.mujoco.mj_camlight(self.model, self.data)
            pose[:3, :3] = self.data.cam_xmat[camera].reshape(3, 3) @ OPTICAL_FROM_MUJOCO
            pose[:3, 3] = self.data.cam_xpos[camera]
        elif body >= 0:
            pose[:3, :3], pose[:3, 3] = self.data.xmat[body].reshape(3, 3), self.data.xpos[body]
        else:
            return None
        return pose

    def carriers(self, name: str) -> tuple[int, ...] | None:
        """Joints, by place in contract order, that move a camera; None if the description lacks the camera."""
        camera = self._index("mjOBJ_CAMERA", name)
        body = self._index("mjOBJ_BODY", self.spec.camera(name).frame_id)
        body = int(self.model.cam_bodyid[camera]) if camera >= 0 else body
        if body < 0:
            return None
        chain = [body]
        while chain[-1] != 0:
            chain.append(int(self.model.body_parentid[chain[-1]]))
        return tuple(j for j, joint in enumerate(self._joints) if self.model.jnt_bodyid[joint] in chain)

    def camera(self, name: str) -> CameraModel:
        """Pinhole model of a camera: its calibration, or the description's field of view. ContractError without both.
        """
        pose, intrinsics = self.camera_pose(name), self._calibration.get(name) or self._drawn(name)
        if pose is None or intrinsics is None:
            frame_id = self.spec.camera(name).frame_id
            raise ContractError(
                self.spec.name, f"camera {name} has no place in the kinematics, or no calibration",
                expected=f"an MJCF camera {name!r}, or a body {frame_id!r} and camera_info in the recording",
                fix="add it to the file that `kinematics` names",
            )
        return replace(intrinsics, T_world_cam=pose)

    def _fitted(self, name: str, given: CameraModel) -> CameraModel:
        """A calibration at the contract's size."""
        camera = self.spec.camera(name)
        check_aspect(self.spec.name, "calibration", camera, given.width_px, given.height_px)
        return at_size(given, camera.width_px, camera.height_px)

    def _drawn(self, name: str) -> CameraModel | None:
        """A camera by the field of view in the MJCF, without its pose."""
        spec, index = self.spec.camera(name), self._index("mjOBJ_CAMERA", name)
        if index < 0:
            return None
        focal = 0.5 * spec.height_px / math.tan(math.radians(self.model.cam_fovy[index]) / 2)
        cx, cy = spec.width_px / 2 - 0.5, spec.height_px / 2 - 0.5
        return CameraModel(name, spec.width_px, spec.height_px, focal, focal, cx, cy, np.eye(4))

    def _position(self, site: int | None, body: int) -> F64:
        found: F64 = self.data.xpos[body] if site is None else self.data.site_xpos[site]
        return found

    def _joint(self, name: str) -> int:
        index = self._index("mjOBJ_JOINT", name)
        if index < 0:
            raise ConfigError("kinematics", "lacks a joint of the contract", got=name)
        return index

    def _frame(self, name: str) -> tuple[int | None, int]:
        """Site (if it is one) and body of a frame."""
        site, body = self._index("mjOBJ_SITE", name), self._index("mjOBJ_BODY", name)
        if site >= 0:
            return site, int(self.model.site_bodyid[site])
        if body < 0:
            raise ConfigError("kinematics", "lacks an end-effector frame", got=name, expected="a site or a body")
        return None, body

    def _index(self, kind: str, name: str) -> int:
        return int(self.mujoco.mj_name2id(self.model, getattr(self.mujoco.mjtObj, kind), name))


def check_aspect(where: str, what: str, camera: CameraSpec, width_px: int, height_px: int) -> None:
    """DataError if a size has another aspect than a camera of the contract."""
    empty = min(width_px, height_px) < 1
    if empty or abs(width_px / height_px * camera.height_px / camera.width_px - 1) > ASPECT_TOLERANCE:
        raise DataError(
            where, f"{what} of camera {camera.name} is of another aspect than the robot contract",
            got=f"{width_px}x{height_px}", expected=f"{camera.width_px}x{camera.height_px} or a multiple",
            fix="write its size in the contract",
        )


def at_size(camera: CameraModel, width_px: int, height_px: int) -> CameraModel:
    """The camera with its picture scaled to another size."""
    across, down = width_px / camera.width_px, height_px / camera.height_px
    return replace(
        camera, width_px=width_px, height_px=height_px, fx_px=across * camera.fx_px, fy_px=down * camera.fy_px,
        cx_px=(camera.cx_px + 0.5) * across - 0.5, cy_px=(camera.cy_px + 0.5) * down - 0.5,
    )


def source_file(source: str) -> Path:
    """Path of a description as a contract names it: a path, or `package:<path in starry_ros>`."""
    inside = source.removeprefix(PACKAGE_PREFIX)
    return Path(__file__).resolve().parents[1] / inside if inside != source else Path(source).expanduser()


@lru_cache(maxsize=4)
def _load(form: str, source: str) -> tuple[Any, Any]:
    """MuJoCo and the compiled model. ConfigError on an unknown format or an unusable file."""
    if form == NO_KINEMATICS:
        raise ConfigError("kinematics", "are switched off by the contract, and this needs them", got=f"format: {form}",
                          expected="an MJCF or a URDF", fix="name one under `kinematics` of the contract")
    if form not in KINEMATICS_FORMATS:
        raise ConfigError("kinematics", "has an unknown format", got=form, expected=list(KINEMATICS_FORMATS))
    from starry_ros.kinematics.backend import mujoco

    file = source_file(source)
    try:
        description = mujoco.MjSpec.from_file(str(file))
        description.compiler.fusestatic = False  # else a URDF loses its tool frames
        return mujoco, description.compile()
    except (ValueError, OSError) as error:
        raise ConfigError(
            str(file), "cannot be read for forward kinematics", got=str(error).strip(),
            fix="give an MJCF or a URDF whose meshes exist; kinematics: {format: none, source: ''} does without checks "
            "of the workspace",
        ) from error
