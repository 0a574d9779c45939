"""Which joints a camera must show moving: those that carry it, or, where it stands, those of any arm. Jaws count never.
"""

from __future__ import annotations

from starry_ros.errors import StarryError
from starry_ros.kinematics.robot import RobotKinematics
from starry_ros.robot_spec import CameraSpec, RobotSpec

Joints = tuple[int, ...]


def shown_joints(spec: RobotSpec) -> dict[str, tuple[Joints, ...]]:
    """By camera, joints in groups, by place in contract order: pictures differ once one of every group has moved.

    Nobody knows who carries a wrist camera that the kinematics lack, or whose kinematics are switched off or cannot be
    read: its pictures differ for certain only once every arm has moved.
    """
    jaws = set(spec.gripper_indices)
    slices = [spec.arm_slice(arm.name) for arm in spec.arms]
    arms = tuple(tuple(j for j in range(part.start, part.stop) if j not in jaws) for part in slices)
    try:
        robot = RobotKinematics(spec)
    except StarryError:
        robot = None
    return {camera.name: _groups(camera, robot, arms) for camera in spec.cameras}


def _groups(camera: CameraSpec, robot: RobotKinematics | None, arms: tuple[Joints, ...]) -> tuple[Joints, ...]:
    carriers = None if robot is None else robot.carriers(camera.name)
    moving = {j for arm in arms for j in arm}
    carried = tuple(j for j in carriers or () if j in moving)
    if carried:
        return (carried,)
    return arms if carriers is None and camera.role != "head" else (tuple(sorted(moving)),)
