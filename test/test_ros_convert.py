"""Messages and values: there and back again, and refusal of what is malformed. No DDS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="the ROS 2 wheels are not installed: make setup")

from sensor_msgs.msg import Image, JointState

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.errors import InputError
from starry_ros.paths import robot_file
from starry_ros.robot_spec import RobotSpec, load_robot_spec
from starry_ros.ros import convert
from starry_ros.ros.convert import EdgeClock, stamp_ns, to_stamp
from starry_ros.types import ActionChunk, CameraModel, Canvas, LandingPoint, RobotState, TileStatus, ValueMap

ROS_NS, MONO_NS = 1_795_000_000_123_456_789, 777_000_000_001


@dataclass
class Instant:
    nanoseconds: int


class FakeRosClock:
    def __init__(self) -> None:
        self.now_ns = ROS_NS

    def now(self) -> Instant:
        return Instant(self.now_ns)


class Clocks:
    """Both clocks under control."""

    def __init__(self) -> None:
        self.ros, self.mono_ns = FakeRosClock(), MONO_NS
        self.edge = EdgeClock(self.ros, lambda: self.mono_ns)  # type: ignore[arg-type]

    def advance(self, ros_ns: int, mono_ns: int) -> None:
        self.ros.now_ns += ros_ns
        self.mono_ns += mono_ns


@pytest.fixture
def clock() -> EdgeClock:
    return Clocks().edge


@pytest.fixture(scope="module")
def spec() -> RobotSpec:
    return load_robot_spec(robot_file("bimanual_sim"))


def test_a_stamp_becomes_the_local_time_of_the_same_moment() -> None:
    clocks = Clocks()
    assert clocks.edge.local_ns(to_stamp(ROS_NS - 5_000)) == MONO_NS - 5_000


def test_stamps_survive_the_round_trip_exactly_while_the_clocks_jitter() -> None:
    clocks, rng = Clocks(), np.random.default_rng(0)
    for _ in range(200):
        clocks.advance(10_000_000 + int(rng.integers(-2_000_000, 2_000_000)), 10_000_000)
        stamp = to_stamp(ROS_NS + int(rng.integers(0, 10**10)))
        assert clocks.edge.stamp(clocks.edge.local_ns(stamp)) == stamp


def test_a_jump_of_the_ros_clock_is_followed() -> None:
    clocks = Clocks()
    clocks.edge.local_ns(to_stamp(ROS_NS))
    clocks.advance(ros_ns=-60_000_000_000, mono_ns=1_000)
    assert clocks.edge.local_ns(to_stamp(clocks.ros.now_ns)) == clocks.mono_ns


def test_an_interruption_between_the_two_readings_is_no_jump() -> None:
    clocks = Clocks()
    before = clocks.edge.local_ns(to_stamp(ROS_NS))
    read = clocks.ros.now

    def held_up() -> Instant:
        clocks.advance(40_000_000, 40_000_000)
        return read()

    clocks.ros.now = held_up  # type: ignore[method-assign]
    assert [clocks.edge.local_ns(to_stamp(ROS_NS)) for _ in range(3)] == [before] * 3


def position_coded(height: int = 6, width: int = 8) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 16, columns * 16, rows + 10 * columns], axis=-1).astype(np.uint8)


def test_an_image_survives_the_round_trip() -> None:
    message = convert.image_message(position_coded(), to_stamp(5), "frame")
    assert (message.encoding, message.step, message.width, message.height) == ("rgb8", 24, 8, 6)
    np.testing.assert_array_equal(convert.image_of("head", message), position_coded())


def test_padded_rows_and_bgr_are_understood() -> None:
    image = position_coded()
    padded = np.full((6, 30), 99, np.uint8)
    padded[:, :24] = image[..., ::-1].reshape(6, 24)
    message = Image(height=6, width=8, encoding="bgr8", step=30, data=padded.tobytes())
    np.testing.assert_array_equal(convert.image_of("head", message), image)


def test_a_joint_state_is_ordered_by_name_and_turned_into_the_contracts_sign(spec: RobotSpec, clock: EdgeClock) -> None:
    position = np.linspace(-0.3, 0.3, 14)
    state = RobotState(MONO_NS, position, 2 * position)
    message = convert.state_message(spec, state, clock)
    order = np.random.default_rng(1).permutation(14)
    shuffled = JointState(
        header=message.header, name=[message.name[i] for i in order], position=[message.position[i] for i in order],
        velocity=[message.velocity[i] for i in order],
    )
    back = convert.state_of(spec, shuffled, clock)
    assert back.stamp_ns == state.stamp_ns
    np.testing.assert_allclose(back.position_J, position)
    np.testing.assert_allclose(back.velocity_J, 2 * position)


def test_a_driver_without_velocities_is_taken_to_be_at_rest(spec: RobotSpec, clock: EdgeClock) -> None:
    message = JointState(name=list(spec.joint_names), position=[0.0] * 14)
    assert not convert.state_of(spec, message, clock).velocity_J.any()


@pytest.mark.parametrize("velocity", [[0.0] * 13, [float("inf")] * 14])
def test_bad_velocities_are_refused(spec: RobotSpec, clock: EdgeClock, velocity: list[float]) -> None:
    message = JointState(name=list(spec.joint_names), position=[0.0] * 14, velocity=velocity)
    with pytest.raises(InputError):
        convert.state_of(spec, message, clock)


def chunk(spec: RobotSpec) -> ActionChunk:
    positions = np.arange(16 * 14, dtype=np.float64).reshape(16, 14) / 100
    return ActionChunk(7, 2, 3, MONO_NS, MONO_NS + 10**8, 10**8, spec.joint_names, positions, spec.content_hash)


def same(first: Any, second: Any) -> None:
    for name, value in vars(first).items():
        np.testing.assert_array_equal(getattr(second, name), value, err_msg=name)


def test_a_chunk_survives_the_round_trip(spec: RobotSpec, clock: EdgeClock) -> None:
    same(chunk(spec), convert.chunk_of(convert.chunk_message(chunk(spec), clock), clock))


@pytest.mark.parametrize(
    "change",
    [{"positions": [0.0] * 15}, {"positions": []}, {"joint_names": []}, {"step_s": 0.0}, {"step_s": float("nan")},
     {"step_s": 1e-10}],
)
def test_a_chunk_that_is_no_table_is_refused(spec: RobotSpec, clock: EdgeClock, change: dict[str, Any]) -> None:
    message = convert.chunk_message(chunk(spec), clock)
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(InputError):
        convert.chunk_of(message, clock)


def test_a_value_map_survives_the_round_trip(spec: RobotSpec, clock: EdgeClock) -> None:
    values = np.random.default_rng(0).random((2, 48, 40), dtype=np.float32)
    landing = (LandingPoint("head", 0, 12.5, 20.25, 0.75), LandingPoint("right_wrist", 1, 1.0, 2.0, 0.5))
    value = ValueMap(MONO_NS, "abc", 4, values, landing)
    message = convert.value_map_message(value, chunk(spec), clock)
    assert (message.chunk_id, message.epoch) == (7, 2)
    same(value, convert.value_map_of(message, clock))
    message.rows = 47
    with pytest.raises(InputError):
        convert.value_map_of(message, clock)


def test_a_canvas_survives_the_round_trip(spec: RobotSpec, clock: EdgeClock) -> None:
    layout = t_pose_layout(spec)
    tiles = tuple(
        TileStatus(name, MONO_NS + i * 10**6, 30_000_000, i != 1) for i, name in enumerate(layout.cameras)
    )
    canvas = Canvas(MONO_NS, layout.layout_hash, position_coded(layout.height_px, layout.width_px), tiles)
    image, info = convert.canvas_messages(canvas, layout, spec.content_hash, clock)
    assert [tile.skew_s for tile in info.tiles] == pytest.approx([0.0, 0.001, 0.002])
    assert stamp_ns(info.header.stamp) == ROS_NS
    same(canvas, convert.canvas_of(image, info, clock))
    info.tiles[1].age_s = float("nan")
    with pytest.raises(InputError, match="age of a tile"):
        convert.canvas_of(image, info, clock)
    info.tiles[1].age_s, info.header.stamp = 0.0, to_stamp(1)
    with pytest.raises(InputError, match="same instant"):
        convert.canvas_of(image, info, clock)


def test_a_trajectory_message_carries_one_arm_and_its_times(spec: RobotSpec, clock: EdgeClock) -> None:
    points = np.arange(3 * 3 * 14, dtype=np.float64).reshape(3, 3, 14)
    arm = spec.arms[1]
    message = convert.trajectory_message(spec, arm, clock, MONO_NS, np.array([0.02, 0.04, 0.06]), points)
    back = convert.trajectory_of(message, clock)
    assert back.start_ns == MONO_NS
    assert back.joint_names == tuple(joint.name for joint in arm.joints)
    assert [point.time_from_start_ns for point in back.points] == [20_000_000, 40_000_000, 60_000_000]
    assert back.points[1].velocities == tuple(points[1, 1, 7:])
    message = convert.trajectory_message(spec, arm, clock, None, np.array([0.02]), points[:1])
    assert convert.trajectory_of(message, clock).start_ns is None


def test_calibration_puts_a_point_on_the_axis_at_the_principal_point() -> None:
    model = CameraModel("head", 320, 240, 300.0, 301.0, 159.5, 119.5, np.eye(4))
    info = convert.camera_info_message(model, to_stamp(5), "frame")
    projection = np.array(info.p).reshape(3, 4) @ [0.0, 0.0, 2.0, 1.0]
    assert projection[:2] / projection[2] == pytest.approx([159.5, 119.5])
    np.testing.assert_array_equal(np.array(info.k).reshape(3, 3), np.array(info.p).reshape(3, 4)[:, :3])
