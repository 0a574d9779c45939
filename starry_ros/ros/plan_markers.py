"""The plan in space: paths of both hands, where they would come to rest, expected contacts, and the workspace.

Shapes: A arms, K points of a path, J joints in contract order. Metres in the model's world frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from builtin_interfaces.msg import Time
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import Marker

from starry_ros.canvas.layout import CanvasLayout
from starry_ros.kinematics.robot import RobotKinematics
from starry_ros.robot_spec import RobotSpec, order_by_name
from starry_ros.ros.markers import box_marker, path_marker, sphere_marker, text_marker
from starry_ros.types import F64, ActionChunk, CameraModel, ValueMap
from starry_ros.value.colour import LEVELS, table
from starry_ros.value.landing import Ray, locate, ray_of
from starry_ros.value.project import landing_in_camera

POINTS_A_STEP = 3
PATH_WIDTH_M, TAIL_WIDTH_M, CONTACT_M, TEXT_M = 0.006, 0.010, 0.03, 0.025
TAIL_RGB = (0.96, 0.30, 0.24)
EVENTS = (("next", (1.0, 0.84, 0.36)), ("after", (0.50, 0.95, 0.90)))


class PlanMarkers:
    """Builds the markers of one robot from the newest plan, commands, value map and calibrations."""

    def __init__(self, spec: RobotSpec, layout: CanvasLayout, frame: str) -> None:
        self._spec, self._layout, self._frame = spec, layout, frame
        self._robot = RobotKinematics(spec)

    def paths(self, chunk: ActionChunk, stamp: Time) -> list[Marker]:
        """One line strip an arm through the whole chunk, from bright (soon) to dark (late)."""
        between = np.linspace(0, len(chunk.positions_KJ) - 1, POINTS_A_STEP * (len(chunk.positions_KJ) - 1) + 1)
        steps = np.arange(len(chunk.positions_KJ))
        dense = np.stack([np.interp(between, steps, column) for column in chunk.positions_KJ.T], axis=-1)
        rgb = table("fern")[np.linspace(LEVELS - 1, LEVELS // 6, len(dense)).astype(int)] / 255.0
        hands = self._robot.paths(dense)
        return [
            path_marker(f"{arm.name}_path", path, rgb, PATH_WIDTH_M, stamp, self._frame)
            for arm, path in zip(self._spec.arms, hands, strict=True)
        ]

    def tails(self, commands: Mapping[str, JointTrajectory], stamp: Time) -> list[Marker]:
        """Where each hand goes and comes to rest should nothing more be commanded: the command in force.

        Raises InputError on a command of other joints.
        """
        markers = []
        for index, arm in enumerate(self._spec.arms):
            command = commands.get(arm.name)
            if command is None or len(command.points) < 2:
                continue
            positions = np.tile(self._spec.limit("home"), (len(command.points), 1))
            part, names = self._spec.arm_slice(arm.name), [joint.name for joint in arm.joints]
            wire = np.array([
                order_by_name(f"{arm.name} command", names, command.joint_names, point.positions)
                for point in command.points
            ])
            positions[:, part] = wire * self._spec.limit("sign")[part]
            path = self._robot.paths(positions)[index]
            rgb = np.tile(TAIL_RGB, (len(path), 1))
            markers.append(path_marker(f"{arm.name}_stop_tail", path, rgb, TAIL_WIDTH_M, stamp, self._frame))
        return markers

    def contacts(
        self, value_map: ValueMap, cameras: Sequence[CameraModel], least: float, surface_z_m: float, stamp: Time
    ) -> list[Marker]:
        """A ball and a word where each contact event is expected, from all views that are confident of it."""
        markers = []
        models = {camera.camera: camera for camera in cameras}
        for event, (name, rgb) in enumerate(EVENTS):
            point = locate(self._rays(value_map, models, event, least), surface_z_m)
            if point is not None:
                above = point + np.array([0.0, 0.0, CONTACT_M])
                markers += [sphere_marker(f"contact_{name}", point, CONTACT_M, rgb, stamp, self._frame),
                            text_marker(f"contact_{name}", name, above, TEXT_M, rgb, stamp, self._frame)]
        return markers

    def workspace(self, stamp: Time) -> list[Marker]:
        """The box that the hands may not leave."""
        return [box_marker("workspace", self._spec.workspace_m, stamp, self._frame)]

    def camera_model(self, name: str, calibration: F64, position_J: F64) -> CameraModel | None:
        """A camera at a posture of the arms, from its calibration matrix [9]; None if the model lacks the camera."""
        self._robot.place(position_J)
        pose, spec = self._robot.camera_pose(name), self._spec.camera(name)
        if pose is None or calibration[0] == 0:
            return None
        fx, fy, cx, cy = (float(calibration[i]) for i in (0, 4, 2, 5))
        return CameraModel(name, spec.width_px, spec.height_px, fx, fy, cx, cy, pose)

    def _rays(self, value_map: ValueMap, models: Mapping[str, CameraModel], event: int, least: float) -> list[Ray]:
        rays = []
        for point in value_map.landing:
            if point.event == event and point.confidence >= least and point.camera in models:
                u_px, v_px = landing_in_camera(self._layout, point)
                rays.append(ray_of(models[point.camera], float(u_px), float(v_px), point.confidence))
        return rays
