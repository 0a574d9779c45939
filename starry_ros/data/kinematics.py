"""Where the hands and the cameras are, given the joints: forward kinematics from the robot contract.

The contract names an MJCF or URDF file. A hand is the site or body called as the arm's `end_effector_frame`; a camera
is the MJCF camera of that name, or the body called as its `frame_id` (optical frame: z forward, y down).

Shapes: J joints in contract order, T frames.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from starry_ros.errors import ContractError
from starry_ros.robot_spec import RobotSpec
from starry_ros.sim.backend import mujoco
from starry_ros.types import F64, CameraModel


class RobotKinematics:
    """Poses of hands and cameras of a robot. `calibration` overrides the intrinsics of cameras by name."""

    def __init__(self, spec: RobotSpec, calibration: dict[str, CameraModel] | None = None) -> None:
        self.spec = spec
        path = kinematics_file(spec)
        try:
            self._model = mujoco.MjModel.from_xml_path(str(path))
            addresses = [self._model.joint(name).qposadr[0] for name in spec.joint_names]
        except (ValueError, KeyError) as error:
            raise ContractError(str(path), f"does not give the kinematics of {spec.name}: {error}") from error
        self._data = mujoco.MjData(self._model)
        self._qpos_J = np.array(addresses)
        self._sign_J = np.array([joint.sign for joint in spec.joints], dtype=np.float64)
        self._calibration = calibration or {}

    def set_joints(self, position_J: F64) -> None:
        """Move to a posture; the other methods speak of it."""
        self._data.qpos[self._qpos_J] = self._sign_J * position_J
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)

    def hand(self, arm: str) -> F64:
        """World position [3] of the point between an arm's finger pads."""
        frame = next(spec.end_effector_frame for spec in self.spec.arms if spec.name == arm)
        for kind in (self._data.site, self._data.body):
            try:
                return np.array(kind(frame).xpos)
            except KeyError:
                continue
        raise ContractError(self.spec.name, f"the kinematics have no site or body {frame!r}", fix="name it so there")

    def camera(self, name: str) -> CameraModel:
        """Pinhole model of a camera at this posture."""
        spec, pose = self.spec.camera(name), np.eye(4)
        try:
            index = self._model.camera(name).id
        except KeyError:
            return self._body_camera(name)
        pose[:3, :3] = self._data.cam_xmat[index].reshape(3, 3) @ np.diag([1.0, -1.0, -1.0])
        pose[:3, 3] = self._data.cam_xpos[index]
        focal = 0.5 * spec.height_px / math.tan(math.radians(self._model.cam_fovy[index]) / 2)
        cx, cy = spec.width_px / 2 - 0.5, spec.height_px / 2 - 0.5
        model = CameraModel(name, spec.width_px, spec.height_px, focal, focal, cx, cy, pose)
        return self._calibrated(model)

    def _body_camera(self, name: str) -> CameraModel:
        spec, given = self.spec.camera(name), self._calibration.get(name)
        try:
            body = self._data.body(spec.frame_id)
        except KeyError:
            body = None
        if body is None or given is None:
            raise ContractError(
                self.spec.name, f"camera {name} has no place in the kinematics, or no calibration",
                expected=f"an MJCF camera {name!r}, or a body {spec.frame_id!r} and camera_info in the recording",
                fix="add it to the file that `kinematics` names",
            )
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = np.array(body.xmat).reshape(3, 3), body.xpos
        return replace(given, T_world_cam=pose)

    def _calibrated(self, model: CameraModel) -> CameraModel:
        given = self._calibration.get(model.camera)
        return model if given is None else replace(given, T_world_cam=model.T_world_cam)


def kinematics_file(spec: RobotSpec) -> Path:
    """The file that the contract names; ContractError if it is missing."""
    source = spec.kinematics.source
    inside = source.removeprefix("package:")
    path = Path(__file__).resolve().parents[1] / inside if inside != source else Path(source).expanduser()
    if not path.is_file():
        raise ContractError(spec.name, "the kinematics file is missing", got=str(path), fix="correct kinematics.source")
    return path
