"""TF of the simulated robot: its cameras and hands in the world. A real robot's frames are robot_state_publisher's.

`tf2_msgs` is part of every ROS 2 distribution but not on PyPI: where it is missing, nothing is published.
"""

from __future__ import annotations

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Transform, TransformStamped, Vector3
from rclpy.node import Node
from std_msgs.msg import Header

from starry_ros.kinematics.robot import RobotKinematics
from starry_ros.robot_spec import RobotSpec
from starry_ros.ros.markers import WORLD_FRAME, quaternion_of
from starry_ros.ros.qos import STATE
from starry_ros.types import F64


class FramePublisher:
    """Publishes `/tf` while somebody listens."""

    def __init__(self, node: Node, spec: RobotSpec) -> None:
        self._spec, self._publisher, self._message = spec, None, None
        self._robot: RobotKinematics | None = None
        try:
            from tf2_msgs.msg import TFMessage
        except ImportError:
            return
        self._message, self._publisher = TFMessage, node.create_publisher(TFMessage, "/tf", STATE)

    def publish(self, position_J: F64, stamp: Time) -> None:
        """Publish the frames of a posture."""
        if self._publisher is None or self._message is None or not self._publisher.get_subscription_count():
            return
        self._robot = self._robot or RobotKinematics(self._spec)
        self._publisher.publish(self._message(transforms=transforms(self._robot, position_J, stamp)))


def transforms(robot: RobotKinematics, position_J: F64, stamp: Time) -> list[TransformStamped]:
    """Optical frames of the cameras that the description has, and end-effector frames, in the world."""
    robot.place(position_J)
    poses = {camera.frame_id: robot.camera_pose(camera.name) for camera in robot.spec.cameras}
    poses |= {arm.end_effector_frame: robot.hand_pose(arm.name) for arm in robot.spec.arms}
    return [_transform(name, pose, stamp) for name, pose in poses.items() if pose is not None]


def _transform(name: str, pose: F64, stamp: Time) -> TransformStamped:
    x, y, z = pose[:3, 3].tolist()
    return TransformStamped(
        header=Header(stamp=stamp, frame_id=WORLD_FRAME), child_frame_id=name,
        transform=Transform(translation=Vector3(x=x, y=y, z=z), rotation=quaternion_of(pose[:3, :3])),
    )
