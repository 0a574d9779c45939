"""TF of the simulated robot: frames where MuJoCo itself sees them, and only where somebody can and wants to hear it."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: make setup")

import mujoco
from builtin_interfaces.msg import Time

from starry_ros.kinematics.robot import RobotKinematics
from starry_ros.paths import robot_file
from starry_ros.robot_spec import load_robot_spec
from starry_ros.ros.frames import FramePublisher, transforms
from starry_ros.sim.cell import Cell

SPEC = load_robot_spec(robot_file("bimanual_sim"))


def turned(rotation: Any, vector: np.ndarray) -> np.ndarray:
    """A vector turned by a quaternion, by MuJoCo."""
    found = np.zeros(3)
    mujoco.mju_rotVecQuat(found, vector, np.array([rotation.w, rotation.x, rotation.y, rotation.z]))
    return found


def test_cameras_look_along_z_and_hands_are_where_mujoco_says() -> None:
    cell, posture = Cell(SPEC), SPEC.limit("home") + 0.02
    cell.data.qpos[cell._qpos_J] = posture
    mujoco.mj_forward(cell.model, cell.data)
    found = {t.child_frame_id: t for t in transforms(RobotKinematics(SPEC), posture, Time(sec=3))}
    assert set(found) == {c.frame_id for c in SPEC.cameras} | {a.end_effector_frame for a in SPEC.arms}
    assert all(t.header.frame_id == "world" and t.header.stamp.sec == 3 for t in found.values())
    for arm in SPEC.arms:
        transform, site = found[arm.end_effector_frame].transform, cell.model.site(arm.end_effector_frame).id
        place = [getattr(transform.translation, axis) for axis in "xyz"]
        assert np.allclose(place, cell.data.site_xpos[site], atol=1e-6)
        for axis, column in zip(np.eye(3), cell.data.site_xmat[site].reshape(3, 3).T, strict=True):
            assert np.allclose(turned(transform.rotation, axis), column, atol=1e-6)
    for camera in SPEC.cameras:
        transform, index = found[camera.frame_id].transform, cell.model.camera(camera.name).id
        place = [getattr(transform.translation, axis) for axis in "xyz"]
        axes = cell.data.cam_xmat[index].reshape(3, 3)
        assert np.allclose(place, cell.data.cam_xpos[index], atol=1e-6)
        assert np.allclose(turned(transform.rotation, np.array([0.0, 0.0, 1.0])), -axes[:, 2], atol=1e-6)
        assert np.allclose(turned(transform.rotation, np.array([1.0, 0.0, 0.0])), axes[:, 0], atol=1e-6)


@pytest.mark.parametrize(("listeners", "sent"), [(0, 0), (1, 1)])
def test_frames_are_sent_where_tf_exists_and_somebody_listens(
    listeners: int, sent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("tf2_msgs.msg")
    module.TFMessage = SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tf2_msgs", ModuleType("tf2_msgs"))
    monkeypatch.setitem(sys.modules, "tf2_msgs.msg", module)
    out: list[Any] = []
    publisher = SimpleNamespace(publish=out.append, get_subscription_count=lambda: listeners)
    node: Any = SimpleNamespace(create_publisher=lambda kind, topic, qos: publisher)
    FramePublisher(node, SPEC).publish(SPEC.limit("home"), Time())
    assert len(out) == sent


def test_without_tf2_msgs_nothing_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tf2_msgs", None)
    node: Any = SimpleNamespace(create_publisher=lambda *_: pytest.fail("there is no such message"))
    FramePublisher(node, SPEC).publish(SPEC.limit("home"), Time())
