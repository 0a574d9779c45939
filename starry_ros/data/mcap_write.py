"""Export to MCAP: one file an episode, ROS 2 messages on the topics of the robot contract, readable without ROS.

Images are those of the canvas, one a camera, with `camera_info` where the calibration is known. Each further array of
the episode is a topic `labels/<array>`, one Float64MultiArray a frame: nothing is lost.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.data import INSTALL
from starry_ros.data.calibration import calibration_of
from starry_ros.data.recording import views_of
from starry_ros.data.store import sentences, whole_values
from starry_ros.errors import RuntimeUnavailable
from starry_ros.kinematics.robot import at_size
from starry_ros.robot_spec import RobotSpec
from starry_ros.training.form import Arrays, frame_names
from starry_ros.types import CameraModel, Record

LABELS, INSTRUCTION, EPISODE = "labels/", "instruction", "labels/episode"
BEGIN_NS = 1_000_000_000
_RULE = "=" * 80
_HEADER = "std_msgs/Header header\n"
_NESTED_HEADER = f"{_RULE}\nMSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id\n"
DEFINITIONS = {
    "sensor_msgs/msg/Image": _HEADER + "uint32 height\nuint32 width\nstring encoding\nuint8 is_bigendian\n"
    "uint32 step\nuint8[] data\n" + _NESTED_HEADER,
    "sensor_msgs/msg/JointState": _HEADER + "string[] name\nfloat64[] position\nfloat64[] velocity\n"
    "float64[] effort\n" + _NESTED_HEADER,
    "trajectory_msgs/msg/JointTrajectory": _HEADER + "string[] joint_names\nJointTrajectoryPoint[] points\n"
    + _NESTED_HEADER + f"{_RULE}\nMSG: trajectory_msgs/JointTrajectoryPoint\nfloat64[] positions\n"
    "float64[] velocities\nfloat64[] accelerations\nfloat64[] effort\nbuiltin_interfaces/Duration time_from_start\n"
    f"{_RULE}\nMSG: builtin_interfaces/Duration\nint32 sec\nuint32 nanosec\n",
    "sensor_msgs/msg/CameraInfo": _HEADER + "uint32 height\nuint32 width\nstring distortion_model\nfloat64[] d\n"
    "float64[9] k\nfloat64[9] r\nfloat64[12] p\nuint32 binning_x\nuint32 binning_y\nRegionOfInterest roi\n"
    + _NESTED_HEADER + f"{_RULE}\nMSG: sensor_msgs/RegionOfInterest\nuint32 x_offset\nuint32 y_offset\n"
    "uint32 height\nuint32 width\nbool do_rectify\n",
    "std_msgs/msg/String": "string data\n",
    "std_msgs/msg/Float64MultiArray": "MultiArrayLayout layout\nfloat64[] data\n"
    f"{_RULE}\nMSG: std_msgs/MultiArrayLayout\nMultiArrayDimension[] dim\nuint32 data_offset\n"
    f"{_RULE}\nMSG: std_msgs/MultiArrayDimension\nstring label\nuint32 size\nuint32 stride\n",
}
"""Messages of common_interfaces, with those that they contain, as MCAP wants them."""


def export_mcap(path: Path, arrays: Arrays, spec: RobotSpec) -> None:
    """Write one episode, in one move."""
    try:
        from mcap_ros2.writer import Writer
    except ImportError as error:
        raise RuntimeUnavailable("MCAP", "mcap-ros2-support is missing", fix=INSTALL) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}")
    with part.open("wb") as file:
        writer = Writer(file)
        _Episode(writer, spec, arrays).write()
        writer.finish()
    part.rename(path)


class _Episode:
    """Writes the messages of one episode in order of time."""

    def __init__(self, writer: Any, spec: RobotSpec, arrays: Arrays) -> None:
        self._writer, self._spec, self._arrays = writer, spec, arrays
        self._schemas = {name: writer.register_msgdef(name, text) for name, text in DEFINITIONS.items()}
        self._views = views_of(arrays["canvas_THWC"].astype(np.uint8), t_pose_layout(spec))
        skipped = ("canvas_THWC", "text_T", "position_TJ", "command_TJ", "velocity_TJ")
        self._labels = [name for name in frame_names(arrays) if name not in skipped]

    def write(self) -> None:
        """All frames; the sentence whenever it changes."""
        texts = sentences(self._arrays)
        self._send(EPISODE, "std_msgs/msg/String", BEGIN_NS, {"data": self._rest()})
        for name, camera in calibration_of(self._arrays, self._spec).items():
            height, width = self._views[name].shape[1:3]
            info = _camera_info(at_size(camera, width, height), self._spec.camera(name).frame_id)
            self._send(self._spec.camera(name).info_topic, "sensor_msgs/msg/CameraInfo", BEGIN_NS, info)
        for frame, time_s in enumerate(self._arrays["time_s_T"].astype(np.float64).tolist()):
            now_ns = BEGIN_NS + round(time_s * 1e9)
            if frame == 0 or texts[frame] != texts[frame - 1]:
                self._send(INSTRUCTION, "std_msgs/msg/String", now_ns, {"data": texts[frame]})
            self._frame(frame, now_ns)

    def _rest(self) -> str:
        """What belongs to the episode as a whole, and how the labels are stored."""
        values, types = whole_values(self._arrays)
        labels = {name: self._arrays[name] for name in self._labels}
        forms = {name: [str(array.dtype), list(array.shape[1:])] for name, array in labels.items()}
        return json.dumps({"contract_hash": self._spec.content_hash, "episode": values, "types": types,
                           "labels": forms})

    def _frame(self, frame: int, now_ns: int) -> None:
        spec, arrays = self._spec, self._arrays
        for camera in spec.cameras:
            view = np.ascontiguousarray(self._views[camera.name][frame])
            height, width = view.shape[:2]
            image = {"header": _header(now_ns, camera.frame_id), "height": height, "width": width, "encoding": "rgb8",
                     "is_bigendian": 0, "step": 3 * width, "data": view.tobytes()}
            self._send(camera.topic, "sensor_msgs/msg/Image", now_ns, image)
        sign_J = spec.limit("sign")
        position = (sign_J * arrays["position_TJ"][frame]).tolist()
        velocity = (sign_J * arrays["velocity_TJ"][frame]).tolist() if "velocity_TJ" in arrays else []
        state = {"header": _header(now_ns), "name": list(spec.joint_names), "position": position, "velocity": velocity,
                 "effort": []}
        self._send(spec.joint_state_topic, "sensor_msgs/msg/JointState", now_ns, state)
        for arm in spec.arms:
            target = (sign_J * arrays["command_TJ"][frame])[spec.arm_slice(arm.name)].tolist()
            point = {"positions": target, "velocities": [], "accelerations": [], "effort": [],
                     "time_from_start": {"sec": 0, "nanosec": 0}}
            names = [joint.name for joint in arm.joints]
            trajectory = {"header": _header(now_ns), "joint_names": names, "points": [point]}
            self._send(arm.command_topic, "trajectory_msgs/msg/JointTrajectory", now_ns, trajectory)
        for name in self._labels:
            values = arrays[name][frame].astype(np.float64).ravel().tolist()
            self._send(LABELS + name, "std_msgs/msg/Float64MultiArray", now_ns,
                       {"layout": {"dim": [], "data_offset": 0}, "data": values})

    def _send(self, topic: str, kind: str, now_ns: int, message: Record) -> None:
        self._writer.write_message(f"/{topic}", self._schemas[kind], message, now_ns, now_ns)


def _header(stamp_ns: int, frame_id: str = "") -> Record:
    return {"stamp": {"sec": stamp_ns // 10**9, "nanosec": stamp_ns % 10**9}, "frame_id": frame_id}


def _camera_info(camera: CameraModel, frame_id: str) -> Record:
    """A pinhole; of lens distortion, which episodes do not store, it says nothing."""
    fx, fy, cx, cy = camera.fx_px, camera.fy_px, camera.cx_px, camera.cy_px
    roi = {"x_offset": 0, "y_offset": 0, "height": 0, "width": 0, "do_rectify": False}
    return {
        "header": _header(BEGIN_NS, frame_id), "height": camera.height_px, "width": camera.width_px,
        "distortion_model": "", "d": [], "k": [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0],
        "r": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        "p": [fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0], "binning_x": 0, "binning_y": 0, "roi": roi,
    }
