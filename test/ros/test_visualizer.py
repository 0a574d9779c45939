"""Node value_map_visualizer: what it draws belongs to its source, follows live parameters, costs nothing unseen."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from sensor_msgs.msg import CameraInfo, Image, JointState
from starry_ros.msg import ActionChunk, ExecutorStatus, ValueMap
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint
from visualization_msgs.msg import MarkerArray

from starry_ros.bench.canvas import camera_image
from starry_ros.bench.overlay import blob_map
from starry_ros.canvas.layout import t_pose_layout
from starry_ros.ros.convert import (
    EdgeClock,
    camera_info_message,
    chunk_message,
    image_message,
    stamp_ns,
    state_message,
    value_map_message,
)
from starry_ros.ros.qos import COMMAND, LATCHED, NEWEST, PLAN, SENSOR, STATE
from starry_ros.sim.cell import Cell
from starry_ros.types import ActionChunk as Chunk
from starry_ros.types import RobotState

SIZE = (320, 240)


class Sources:
    """Everything the node listens to, published on request."""

    def __init__(self, world: Any, spec: Any) -> None:
        self.world, self.spec, self.node = world, spec, world.node
        self.edge, self.layout, self.cell = EdgeClock(world.node.get_clock()), t_pose_layout(spec), Cell(spec)
        self.image = camera_image(*SIZE, seed=0)
        make = world.node.create_publisher
        self.images = {c.name: make(Image, c.topic, SENSOR) for c in spec.cameras}
        self.infos = {c.name: make(CameraInfo, c.info_topic, SENSOR) for c in spec.cameras}
        self.maps, self.chunks = make(ValueMap, "value_map", PLAN), make(ActionChunk, "action_chunk", PLAN)
        self.states = make(JointState, spec.joint_state_topic, STATE)
        self.commands = make(JointTrajectory, spec.arms[1].command_topic, COMMAND)
        self.canvas, self.imagined = make(Image, "canvas", SENSOR), make(Image, "imagined_canvas", SENSOR)
        self.stamps: set[int] = set()

    def publish(self) -> None:
        """One instant of everything."""
        spec, now_ns = self.spec, self.edge.now_ns()
        stamp = self.edge.stamp(now_ns)
        self.stamps.add(stamp_ns(stamp))
        positions = np.tile(spec.limit("home"), (16, 1))
        positions[:, spec.joint_names.index("right_waist")] += np.linspace(0, 0.5, 16)
        chunk = Chunk(1, 1, 1, now_ns, now_ns, 100_000_000, spec.joint_names, positions, spec.content_hash)
        value_map = dataclasses.replace(blob_map(self.layout), observation_ns=now_ns)
        self.chunks.publish(chunk_message(chunk, self.edge))
        self.maps.publish(value_map_message(value_map, chunk, self.edge))
        self.states.publish(state_message(spec, RobotState(now_ns, positions[0], np.zeros(14)), self.edge))
        names = [joint.name for joint in spec.arms[1].joints]
        points = [JointTrajectoryPoint(positions=row[7:].tolist()) for row in positions[:5]]
        self.commands.publish(JointTrajectory(joint_names=names, points=points))
        for camera in spec.cameras:
            model = self.cell.camera_model(camera.name)
            self.infos[camera.name].publish(camera_info_message(model, stamp, camera.frame_id))
            self.images[camera.name].publish(image_message(self.image, stamp, camera.frame_id))
        canvas = np.full((192, 160, 3), 90, np.uint8)
        self.canvas.publish(image_message(canvas, stamp, "canvas"))
        self.imagined.publish(image_message(canvas + 10, self.edge.stamp(now_ns - 800_000_000), "canvas"))

    def until(self, ready: Any, what: str) -> None:
        """Publish at about 15 Hz until something is true."""
        for _ in range(300):
            self.publish()
            self.world.spin(0.06)
            if ready():
                return
        pytest.fail(f"waited for {what}: {self.world.health} {self.world.children['value_map_visualizer'].text()}")


@pytest.fixture(scope="module")
def sources(shared_world: Any, spec: Any) -> Sources:
    shared_world.start("value_map_visualizer")
    made = Sources(shared_world, spec)
    shared_world.until(lambda: "value_map_visualizer" in shared_world.health, 90, "diagnostics")
    return made


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_unwatched_it_receives_nothing_and_uses_no_processor(sources: Sources) -> None:
    pid = sources.world.children["value_map_visualizer"].process.pid
    before = cpu_s(pid)
    for _ in range(30):
        sources.publish()
        sources.world.spin(0.06)
    assert cpu_s(pid) - before < 0.06
    publishers = (*sources.images.values(), sources.maps, sources.chunks, sources.states, sources.canvas)
    assert [publisher.get_subscription_count() for publisher in publishers] == [0] * len(publishers)


def test_overlay_raw_values_and_calibration_carry_stamp_and_frame_of_their_image(sources: Sources) -> None:
    world = sources.world
    shown = world.listen(Image, "left_wrist/value_map/image_raw", NEWEST)
    raw = world.listen(Image, "left_wrist/value_map/next", NEWEST)
    infos = world.listen(CameraInfo, "left_wrist/value_map/camera_info", NEWEST)
    sources.until(lambda: len(shown) > 3 and len(raw) > 3 and len(infos) > 3, "overlays")
    for message in (shown[-1], raw[-1], infos[-1]):
        assert stamp_ns(message.header.stamp) in sources.stamps
        assert message.header.frame_id == "left_wrist_optical_frame"
    assert (raw[-1].encoding, raw[-1].width, raw[-1].height, raw[-1].step) == ("32FC1", 320, 240, 1280)
    values = np.frombuffer(raw[-1].data, np.float32).reshape(240, 320)
    v_px, u_px = np.unravel_index(values.argmax(), values.shape)
    assert abs(u_px - 320 / 3) < 3
    assert abs(v_px - 0.6 * 240) < 3
    model = sources.cell.camera_model("left_wrist")
    assert infos[-1].k[0] == pytest.approx(model.fx_px)


def test_paths_tail_contacts_and_workspace_are_drawn_where_they_are(sources: Sources) -> None:
    heard = sources.world.listen(MarkerArray, "plan/markers", STATE)
    wanted = {"left_path", "right_path", "right_stop_tail", "contact_next", "contact_after", "workspace"}
    sources.until(lambda: heard and wanted <= {marker.ns for marker in heard[-1].markers}, f"markers {wanted}")
    markers = {(marker.ns, marker.id): marker for marker in heard[-1].markers}
    cell, start = sources.cell, sources.spec.limit("home")
    for turn, index in ((0.0, 0), (0.5, -1)):
        posture = start.copy()
        posture[sources.spec.joint_names.index("right_waist")] += turn
        cell.data.qpos[cell._qpos_J] = posture
        import mujoco
        mujoco.mj_forward(cell.model, cell.data)
        point = markers["right_path", 0].points[index]
        np.testing.assert_allclose([point.x, point.y, point.z], cell.pinch_position("right"), atol=1e-6)
    path = markers["right_path", 0]
    assert len(path.colors) == len(path.points) == 46
    assert path.colors[0].g > path.colors[-1].g, "soon is bright"
    box = np.array([[p.x, p.y, p.z] for p in markers["workspace", 0].points])
    assert box.min(axis=0).tolist() == [-0.10, -0.55, 0.0]
    assert box.max(axis=0).tolist() == [0.60, 0.55, 0.70]
    assert all(m.header.frame_id == "world" and m.lifetime.sec == 1 and m.color.a > 0 for m in heard[-1].markers)


def test_what_was_imagined_is_shown_beside_what_came(sources: Sources) -> None:
    heard = sources.world.listen(Image, "imagined/image_raw", NEWEST)
    sources.until(lambda: len(heard) > 1, "a comparison")
    assert heard[-1].width == 3 * 320 + 2 * 6
    assert heard[-1].height == 2 * 192 + 26


def test_live_parameters_change_the_picture_and_wrong_ones_change_nothing(sources: Sources) -> None:
    world = sources.world
    shown = world.listen(Image, "head/value_map/image_raw", NEWEST)

    def newest() -> np.ndarray:
        shown.clear()
        sources.until(lambda: len(shown) > 2, "overlays")
        return np.frombuffer(shown[-1].data, np.uint8).reshape(240, 320, 3).copy()

    def put(name: str, **value: Any) -> Any:
        parameter = ParameterMessage(name=name, value=ParameterValue(**value))
        return world.call(SetParameters, "value_map_visualizer/set_parameters", parameters=[parameter]).results[0]

    double, text = ParameterType.PARAMETER_DOUBLE, ParameterType.PARAMETER_STRING
    before = newest()
    assert put("alpha", type=double, double_value=0.0).successful
    faint = newest()
    assert np.abs(before.astype(int) - faint).max() > 60
    for name, value in (("alpha", 1.5), ("range_low", 1.0)):
        reply = put(name, type=double, double_value=value)
        assert not reply.successful
        assert reply.reason
    reply = put("colour_next", type=text, string_value="jet")
    assert reply.reason == "colour_next is one of ember, fern, slate, tide"
    assert (newest() == faint).all()
    assert put("alpha", type=double, double_value=0.8).successful
    assert put("colour_next", type=text, string_value="fern").successful
    assert put("scale_bar", type=ParameterType.PARAMETER_BOOL, bool_value=True).successful
    changed = newest()
    assert (changed[4:8, 250:310] != before[4:8, 250:310]).any()
    assert not put("robot", type=text, string_value="other").successful


def test_an_executor_that_has_gone_silent_is_not_shown_as_running(sources: Sources) -> None:
    shown = sources.world.listen(Image, "right_wrist/value_map/image_raw", NEWEST)
    executor = sources.node.create_publisher(ExecutorStatus, "executor_status", LATCHED)

    def pill() -> str:
        """By the colour of its frame in the bar."""
        if not shown:
            return ""
        bar = np.frombuffer(shown[-1].data, np.uint8).reshape(240, 320, 3)[-18:].astype(int)
        redder = bar[..., 0] - bar[..., 1]
        return "green" if (redder < -90).sum() > 20 else "red" if (redder > 90).sum() > 20 else ""

    def told_to_run() -> bool:
        executor.publish(ExecutorStatus(mode_name="RUN"))
        return pill() == "green"

    sources.until(told_to_run, "RUN")
    sources.until(lambda: pill() == "red", "silence")
    sources.until(told_to_run, "RUN again")
