"""Recordings as drivers and controllers send them: signs, set-points, namespaces, calibrated cameras."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from mcap_ros2.writer import Writer
from test_data_store import jaw_story
from test_data_transfer import painted

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.cli import main
from starry_ros.data.contacts import annotate
from starry_ros.data.mcap_read import read_mcap
from starry_ros.data.mcap_write import DEFINITIONS, export_mcap
from starry_ros.data.store import read_episode
from starry_ros.errors import DataError
from starry_ros.kinematics.robot import RobotKinematics
from starry_ros.paths import robot_file
from starry_ros.robot_spec import RobotSpec, load_robot_spec

SPEC = load_robot_spec(robot_file("bimanual_sim"))
LAYOUT = t_pose_layout(SPEC)
HOME = SPEC.limit("home")
FLIPPED = [0, 9]
"""Joints that turn the other way on the wire of `TURNED`: one of each arm."""
KINDS = {
    **DEFINITIONS, "starry_ros/msg/WorldActionStatus": "string instruction\nuint32 epoch\n",
    "sensor_msgs/msg/CompressedImage": "string format\nuint8[] data\n",
    "sensor_msgs/msg/CameraInfo": "uint32 height\nuint32 width\nfloat64[9] k\n",
}


def turned(spec: RobotSpec) -> RobotSpec:
    signed = [dataclasses.replace(joint, sign=-1 if i in FLIPPED else 1) for i, joint in enumerate(spec.joints)]
    arms = tuple(dataclasses.replace(arm, joints=tuple(signed[spec.arm_slice(arm.name)])) for arm in spec.arms)
    return dataclasses.replace(spec, arms=arms)


TURNED = turned(SPEC)
WIRE_SIGN = np.where(np.isin(np.arange(14), FLIPPED), -1.0, 1.0)


class Wire:
    """Writes messages to an MCAP file, at times in s after 1000 s."""

    def __init__(self, path: Path, kinds: dict[str, str] | None = None) -> None:
        self._file = path.open("wb")
        self._writer = Writer(self._file)
        defined = {**KINDS, **(kinds or {})}
        self._schemas = {kind: self._writer.register_msgdef(kind, text) for kind, text in defined.items()}

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.finish()
        self._file.close()

    def send(self, topic: str, kind: str, at_s: float, message: dict[str, Any]) -> None:
        schema = next(schema for name, schema in self._schemas.items() if name.endswith(f"/{kind}"))
        at_ns = round((1000 + at_s) * 1e9)
        self._writer.write_message(topic, schema, message, at_ns, at_ns)

    def epoch(self, at_s: float, number: int, sentence: str = "put the red block on the pad") -> None:
        self.send("/world_action_status", "WorldActionStatus", at_s, {"instruction": sentence, "epoch": number})

    def joints(self, at_s: float, position: np.ndarray, topic: str = "/joint_states", leave_out: int = 0) -> None:
        count = len(SPEC.joint_names) - leave_out
        self.send(topic, "JointState", at_s, {
            "header": HEADER, "name": list(SPEC.joint_names)[:count], "position": position[:count].tolist(),
            "velocity": [], "effort": []})

    def images(self, at_s: float, shade: int = 0, namespace: str = "") -> None:
        for camera in SPEC.cameras:
            self.send(f"{namespace}/{camera.topic}", "Image", at_s, image_of(camera.name, shade))


HEADER = {"stamp": {"sec": 0, "nanosec": 0}, "frame_id": ""}


def image_of(camera: str, shade: int) -> dict[str, Any]:
    content = LAYOUT.tile(camera).content
    view = np.full((content.height_px, content.width_px, 3), shade, np.uint8)
    return {"header": HEADER, "height": content.height_px, "width": content.width_px, "encoding": "rgb8",
            "is_bigendian": 0, "step": 3 * content.width_px, "data": view.tobytes()}


def stand(wire: Wire, frames: int = 15, position: np.ndarray = HOME, begin_s: float = 0.0) -> None:
    """A robot that stands still before its cameras."""
    for frame in range(frames):
        wire.joints(begin_s + 0.1 * frame, position)
        wire.images(begin_s + 0.1 * frame, frame)


def sent(path: Path, topic: str) -> list[Any]:
    """Messages of a topic as any reader of MCAP finds them."""
    with path.open("rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        return [decoded for *_, decoded in reader.iter_decoded_messages(topics=[topic])]


def test_a_joint_of_sign_minus_one_turns_the_other_way_on_the_wire_and_back(tmp_path):
    arrays, path = painted(3, 20), tmp_path / "a.mcap"
    arrays["position_TJ"][:, FLIPPED] += 0.2
    export_mcap(path, arrays, TURNED)
    states = sent(path, "/joint_states")
    assert np.allclose([state.position for state in states], WIRE_SIGN * arrays["position_TJ"])
    assert np.allclose([state.velocity for state in states], WIRE_SIGN * arrays["velocity_TJ"])
    right = [message.points[0].positions for message in sent(path, "/right_arm_controller/joint_trajectory")]
    assert np.allclose(right, (WIRE_SIGN * arrays["command_TJ"])[:, 7:])
    [back] = read_mcap(path, dataclasses.replace(TURNED, name="twin"))
    for name in ("position_TJ", "velocity_TJ", "command_TJ"):
        assert np.allclose(getattr(back, name), arrays[name], atol=1e-6), name


def test_wire_values_of_a_joint_of_sign_minus_one_come_in_as_the_contracts(tmp_path):
    with Wire(tmp_path / "a.mcap") as wire:
        stand(wire, position=np.full(14, 0.03))
        names = [joint.name for joint in SPEC.arms[0].joints][::-1]
        point = {"positions": [0.02] * 7, "velocities": [], "accelerations": [], "effort": [],
                 "time_from_start": {"sec": 0, "nanosec": 0}}
        wire.send("/left_arm_controller/joint_trajectory", "JointTrajectory", 0.0,
                  {"header": HEADER, "joint_names": names, "points": [point]})
    [made] = read_mcap(tmp_path / "a.mcap", TURNED, "put the red block on the pad")
    expected = np.full(14, 0.03)
    expected[FLIPPED] = -0.03
    assert np.allclose(made.position_TJ, expected)
    assert np.allclose(made.command_TJ[:, :7], [-0.02, *[0.02] * 6])
    assert np.allclose(made.command_TJ[:, 7:], expected[7:])


def test_set_points_of_a_forward_position_controller_hold_until_the_next(tmp_path):
    arms = tuple(dataclasses.replace(arm, command_topic=f"{arm.name}_controller/commands") for arm in TURNED.arms)
    forward = dataclasses.replace(TURNED, arms=arms, command_interface="position_forward")
    layout = {"dim": [], "data_offset": 0}
    with Wire(tmp_path / "a.mcap") as wire:
        for at_s, value in ((0.0, 0.01), (0.55, 0.02)):
            wire.send("/left_controller/commands", "Float64MultiArray", at_s, {"layout": layout, "data": [value] * 7})
        stand(wire)
    [made] = read_mcap(tmp_path / "a.mcap", forward, "put the red block on the pad")
    assert np.allclose(made.command_TJ[:, 0], [-0.01] * 6 + [-0.02] * 9)
    assert np.allclose(made.command_TJ[:, 1:7], np.repeat([0.01, 0.02], (6, 9))[:, None])
    with Wire(tmp_path / "b.mcap") as wire:
        wire.send("/left_controller/commands", "Float64MultiArray", 0.0, {"layout": layout, "data": [0.0] * 6})
        stand(wire)
    with pytest.raises(DataError, match=r"b\.mcap, episode 0: /left_controller/commands.*another length.*got 6"):
        read_mcap(tmp_path / "b.mcap", forward, "put the red block on the pad")


def test_two_robots_in_one_file_are_refused_with_both_names(tmp_path):
    with Wire(tmp_path / "a.mcap") as wire:
        stand(wire)
    assert len(read_mcap(tmp_path / "a.mcap", SPEC, "x")) == 1
    with Wire(tmp_path / "b.mcap") as wire:
        for frame in range(15):
            wire.images(0.1 * frame)
            wire.joints(0.1 * frame, HOME, "/robot_a/joint_states")
            wire.joints(0.1 * frame, HOME + 0.1, "/robot_b/joint_states")
    with pytest.raises(DataError, match=r"two sources of joints.*/robot_a/joint_states.*/robot_b/joint_states"):
        read_mcap(tmp_path / "b.mcap", SPEC, "x")


def test_the_contracts_own_topic_wins_over_one_that_ends_the_same(tmp_path):
    with Wire(tmp_path / "a.mcap") as wire:
        for frame in range(15):
            wire.joints(0.1 * frame, HOME + 0.1, "/gripper_driver/joint_states")
            wire.joints(0.1 * frame, HOME)
            wire.images(0.1 * frame, 9, "/mirror")
            wire.images(0.1 * frame, 5)
    [made] = read_mcap(tmp_path / "a.mcap", SPEC, "x")
    assert np.allclose(made.position_TJ, HOME)
    assert {int(view.max()) for view in made.views.values()} == {5}


def test_a_camera_that_is_recorded_both_raw_and_compressed_counts_once(tmp_path):
    png = cv2.imencode(".png", np.full((96, 128, 3), 200, np.uint8))[1].tobytes()
    for namespace in ("", "/robot_a"):
        with Wire(tmp_path / "a.mcap") as wire:
            for frame in range(15):
                wire.joints(0.1 * frame, HOME)
                wire.send(f"{namespace}/head/image_raw/compressed", "CompressedImage", 0.1 * frame,
                          {"format": "png", "data": png})
                wire.images(0.1 * frame, 7, namespace)
        [made] = read_mcap(tmp_path / "a.mcap", SPEC, "x")
        assert len(made.time_s_T) == 15
        assert set(made.views["head"].ravel()) == {7}


@pytest.mark.parametrize("commanded", [True, False])
def test_labels_made_anew_see_with_the_cameras_that_the_recording_was_made_with(tmp_path, commanded):
    position, command = jaw_story()
    with Wire(tmp_path / "a.mcap") as wire:
        k = [700.0, 0, 150.0, 0, 690.0, 130.0, 0, 0, 1]
        wire.send("/head/camera_info", "CameraInfo", 0.0, {"height": 240, "width": 320, "k": k})
        wire.epoch(0.0, 1)
        for frame, (row, told) in enumerate(zip(position, command, strict=True)):
            wire.joints(0.1 * frame, row)
            wire.images(0.1 * frame)
            point = {"positions": told[7:].tolist(), "velocities": [], "accelerations": [], "effort": [],
                     "time_from_start": {"sec": 0, "nanosec": 0}}
            if commanded:
                wire.send("/right_arm_controller/joint_trajectory", "JointTrajectory", 0.1 * frame, {
                    "header": HEADER, "joint_names": [joint.name for joint in SPEC.arms[1].joints], "points": [point]})
    made, again, fast = (tmp_path / name for name in ("made", "again", "fast"))
    assert main(["data", "import", str(tmp_path / "a.mcap"), "--out", str(made)]) == 0
    assert main(["data", "resample", str(made), "--out", str(fast)]) == 0
    assert main(["data", "annotate", str(fast), "--out", str(again), "--from-joints"]) == 0
    first, second = (read_episode(folder / "episodes" / "000000.npz") for folder in (made, again))
    plain = annotate(RobotKinematics(SPEC), LAYOUT, first, trust_command=commanded)
    assert np.abs(plain["events_TEVF"] - first["events_TEVF"])[:, :, 0].max() > 1
    assert np.array_equal(plain["events_TEVF"][:, :, 1:], first["events_TEVF"][:, :, 1:])
    assert np.allclose(second["events_TEVF"], first["events_TEVF"])
    assert np.array_equal(second["stage_T"], first["stage_T"])
