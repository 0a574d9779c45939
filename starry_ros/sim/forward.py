"""Forward kinematics of the contract's robot: where its hands and cameras are, from joint positions.

Reads the MJCF named by the contract; needs MuJoCo, no renderer and no physics. Shapes: J joints in contract order,
K poses, A arms. Metres, in the model's world frame.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from starry_ros.errors import ContractError, RuntimeUnavailable
from starry_ros.robot_spec import RobotSpec
from starry_ros.sim.backend import mujoco
from starry_ros.types import F64

PACKAGE_PREFIX = "package:"


class ForwardKinematics:
    """Poses of one robot. Not thread-safe."""

    def __init__(self, spec: RobotSpec) -> None:
        """Raises RuntimeUnavailable on a description that is not MJCF, ContractError on one that lacks a name."""
        if spec.kinematics.format != "mjcf":
            raise RuntimeUnavailable(
                f"{spec.name}: kinematics", "only MJCF can be read", got=spec.kinematics.format,
                fix="convert the URDF with MuJoCo's compiler",
            )
        self._model = mujoco.MjModel.from_xml_path(str(source_file(spec)))
        self._data = mujoco.MjData(self._model)
        self._sign_J = spec.limit("sign")
        try:
            self._qpos_J = np.array([int(self._model.joint(name).qposadr[0]) for name in spec.joint_names])
            self._sites = [self._model.site(arm.end_effector_frame).id for arm in spec.arms]
        except KeyError as error:
            raise ContractError(
                f"{spec.name}: kinematics", "the model lacks a name of the contract", got=str(error),
                fix="name MJCF joints and sites as in the robot contract",
            ) from error

    def hands(self, positions_KJ: F64) -> F64:
        """World positions [A, K, 3] of the arms' end-effector frames."""
        found = np.empty((len(self._sites), len(positions_KJ), 3))
        for k, position_J in enumerate(positions_KJ):
            self._place(position_J)
            found[:, k] = self._data.site_xpos[self._sites]
        return found

    def camera(self, name: str, position_J: F64) -> F64 | None:
        """Pose [4, 4] of a camera's ROS optical frame (z forward, y down) in the world; None if the model lacks it."""
        index = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_CAMERA, name)
        if index < 0:
            return None
        self._place(position_J)
        pose: F64 = np.eye(4)
        pose[:3, :3] = self._data.cam_xmat[index].reshape(3, 3) @ np.diag([1.0, -1.0, -1.0])
        pose[:3, 3] = self._data.cam_xpos[index]
        return pose

    def _place(self, position_J: F64) -> None:
        self._data.qpos[self._qpos_J] = self._sign_J * position_J
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)


def source_file(spec: RobotSpec) -> Path:
    """Path of the description that the contract names."""
    source = spec.kinematics.source
    if source.startswith(PACKAGE_PREFIX):
        return Path(__file__).resolve().parents[1] / source.removeprefix(PACKAGE_PREFIX)
    return Path(source).expanduser()
