"""Where hands and cameras are, by the contract's joints."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from starry_ros.errors import ConfigError, ContractError
from starry_ros.kinematics.robot import RobotKinematics
from starry_ros.paths import robot_file
from starry_ros.robot_spec import NO_KINEMATICS, KinematicsSpec, RobotSpec, load_robot_spec
from starry_ros.types import CameraModel

SPEC = load_robot_spec(robot_file("bimanual_sim"))
URDF = """<robot name="one"><link name="world"/>
  <joint name="slide" type="prismatic"><parent link="world"/><child link="link"/><axis xyz="1 0 0"/>
  <limit lower="-1" upper="1" effort="1" velocity="1"/></joint>
  <link name="link"><inertial><mass value="1"/>
  <inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial></link>
  <joint name="mount" type="fixed"><parent link="link"/><child link="eye"/><origin xyz="0 0.2 0" rpy="3.14159265 0 0"/>
  </joint><link name="eye"/></robot>"""


def slide(tmp_path: Path) -> RobotSpec:
    """A robot of one joint with the head camera on it."""
    (tmp_path / "one.urdf").write_text(URDF)
    joint = dataclasses.replace(SPEC.joints[0], name="slide")
    camera = dataclasses.replace(SPEC.cameras[0], frame_id="eye")
    return dataclasses.replace(
        SPEC, cameras=(camera,), kinematics=KinematicsSpec("urdf", str(tmp_path / "one.urdf")),
        arms=(dataclasses.replace(SPEC.arms[0], joints=(joint,), end_effector_frame="eye"),),
    )


def test_a_joint_that_counts_the_other_way_is_turned_round() -> None:
    arm = SPEC.arms[0]
    waist = dataclasses.replace(arm.joints[0], sign=-1)
    turned = dataclasses.replace(arm, joints=(waist, *arm.joints[1:]))
    spec = dataclasses.replace(SPEC, arms=(turned, *SPEC.arms[1:]))
    there = SPEC.limit("home").copy()
    counted = there.copy()
    counted[0] = -there[0]
    assert there[0] != 0
    np.testing.assert_allclose(RobotKinematics(spec).paths(counted[None]), RobotKinematics(SPEC).paths(there[None]))
    assert not np.allclose(RobotKinematics(SPEC).paths(counted[None]), RobotKinematics(SPEC).paths(there[None]))


def test_paths_are_the_hands_of_one_posture_after_another() -> None:
    robot, home = RobotKinematics(SPEC), SPEC.limit("home")
    positions_KJ = home + np.linspace(0, 0.2, 4)[:, None]
    paths_AK3 = robot.paths(positions_KJ)
    for k, position_J in enumerate(positions_KJ):
        robot.place(position_J)
        np.testing.assert_array_equal(paths_AK3[:, k], robot.hands())
        np.testing.assert_array_equal(paths_AK3[1, k], robot.hand("right"))
        np.testing.assert_array_equal(paths_AK3[1, k], robot.hand_pose("right")[:3, 3])


def test_the_jacobian_is_how_the_hand_moves_and_turns_with_every_joint(tmp_path: Path) -> None:
    """Oracle: central differences of the hand's pose, for a site, a joint that counts the other way, and a body."""
    arm = SPEC.arms[0]
    turned = dataclasses.replace(arm, joints=(dataclasses.replace(arm.joints[0], sign=-1), *arm.joints[1:]))
    for spec in (dataclasses.replace(SPEC, arms=(turned, *SPEC.arms[1:])), slide(tmp_path)):
        robot, count, step = RobotKinematics(spec), len(spec.joint_names), 1e-6
        at_J = np.linspace(-0.3, 0.4, count)
        for name in [arm.name for arm in spec.arms]:
            robot.place(at_J)
            jacobian_6J, turn = robot.hand_jacobian(name), robot.hand_pose(name)[:3, :3]
            poses = []
            for sign in (-1, 1):
                poses.append([])
                for joint in range(count):
                    robot.place(at_J + sign * step * np.eye(count)[joint])
                    poses[-1].append(robot.hand_pose(name))
            change_J44 = (np.array(poses[1]) - np.array(poses[0])) / (2 * step)
            spin_J33 = change_J44[:, :3, :3] @ turn.T
            angular_3J = np.stack([spin_J33[:, 2, 1], spin_J33[:, 0, 2], spin_J33[:, 1, 0]])
            np.testing.assert_allclose(jacobian_6J, np.concatenate([change_J44[:, :3, 3].T, angular_3J]), atol=1e-7)
            assert np.abs(jacobian_6J).max() > 0.1


def test_a_camera_of_a_urdf_is_the_body_of_its_frame_with_its_calibration(tmp_path: Path) -> None:
    spec = slide(tmp_path)
    name = spec.cameras[0].name
    given = CameraModel(name, 320, 240, 300.0, 301.0, 160.0, 120.0, np.eye(4))
    robot = RobotKinematics(spec, {name: given})
    robot.place(np.array([0.5]))
    camera = robot.camera(name)
    assert (camera.fx_px, camera.fy_px) == (300.0, 301.0)
    np.testing.assert_allclose(camera.T_world_cam[:3, 3], [0.5, 0.2, 0.0], atol=1e-12)
    np.testing.assert_allclose(camera.T_world_cam[:3, :3], np.diag([1.0, -1.0, -1.0]), atol=1e-7)
    with pytest.raises(ContractError, match="no calibration"):
        RobotKinematics(spec).camera(name)


def test_a_camera_that_the_description_lacks_has_no_pose(tmp_path: Path) -> None:
    spec = slide(tmp_path)
    away = dataclasses.replace(spec, cameras=(dataclasses.replace(spec.cameras[0], frame_id="nowhere"),))
    assert RobotKinematics(away).camera_pose(spec.cameras[0].name) is None


def test_a_contract_without_kinematics_has_no_poses() -> None:
    with pytest.raises(ConfigError, match="switched off by the contract"):
        RobotKinematics(dataclasses.replace(SPEC, kinematics=KinematicsSpec(NO_KINEMATICS, "")))
