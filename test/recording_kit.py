"""Sessions for tests of recordings: written with the package's own messages, planned by a small known function."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="messages are serialised by ROS 2: make setup")

from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from starry_ros.msg import WorldActionStatus
from std_msgs.msg import String

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.paths import robot_file
from starry_ros.recording.session_file import Channel, Record, SessionFile, describe
from starry_ros.robot_spec import load_robot_spec
from starry_ros.ros import convert
from starry_ros.ros.definitions import full_definition
from starry_ros.types import ActionChunk, Canvas, LandingPoint, Plan, RobotState, TileStatus, ValueMap
from starry_ros.wam.steps import checksum

SPEC = load_robot_spec(robot_file("bimanual_sim"))
LAYOUT = t_pose_layout(SPEC)
ORIGIN_NS, STEP_NS, S = 1_700_000_000_000_000_000, 100_000_000, 1_000_000_000


class SmallPlanner:
    """A planner with memory: its plan depends on the canvas, the joints, the sentence, the epoch and all before."""

    def __init__(self, weight: float = 1.0, weight_from: int = 0) -> None:
        self.weight, self.weight_from = weight, weight_from
        self.epoch = self.instruction_id = self.chunk_id = 0
        self.memory, self.text = 0.0, ""

    def reset(self, text: str) -> int:
        self.set_instruction(text)
        self.memory, self.epoch = 0.0, self.epoch + 1
        return self.epoch

    def set_instruction(self, text: str) -> int:
        self.text, self.instruction_id = text, self.instruction_id + 1
        return self.instruction_id

    def observe(self, canvas: Canvas, state: RobotState, executed_UJ: object = None) -> None:
        self.memory = 0.5 * self.memory + canvas.image_HWC.mean() / 255
        self.canvas, self.state = canvas, state

    def plan_as(self, rung: str, committed: int, known: object) -> Plan:
        assert (rung, committed, known) == ("full", 0, [])
        return self.plan()

    def plan(self) -> Plan:
        self.chunk_id += 1
        weight = self.weight if self.chunk_id > self.weight_from else 1.0
        level = weight * self.memory + 0.01 * len(self.text) + 0.1 * self.epoch
        positions = self.state.position_J + 0.1 * level * np.linspace(0, 1, 16)[:, None]
        chunk = ActionChunk(self.chunk_id, self.epoch, self.instruction_id, self.canvas.stamp_ns,
                            self.canvas.stamp_ns + STEP_NS, STEP_NS, SPEC.joint_names, positions, SPEC.content_hash)
        values = np.full((2, 48, 40), level % 1.0, np.float32)
        landing = (LandingPoint("head", 0, 79.5, 63.5, 0.9),)
        return Plan(chunk, ValueMap(self.canvas.stamp_ns, LAYOUT.layout_hash, 4, values, landing), None)


class Writer:
    """Writes messages at times that are given in seconds."""

    def __init__(self, path: Path) -> None:
        self.file = SessionFile(path, *describe("bimanual_sim", "tiny"))
        clock: Any = SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=ORIGIN_NS))
        self.edge = convert.EdgeClock(clock, lambda: 0)
        self._channels: dict[str, Channel] = {}

    def write(self, topic: str, at_s: float, message: Any) -> None:
        kind = f"{type(message).__module__.split('.')[0]}/msg/{type(message).__name__}"
        channel = self._channels.setdefault(topic, Channel(topic, kind, full_definition(kind)))
        at_ns = ORIGIN_NS + round(at_s * S)
        self.file.write(channel, Record(topic, serialize_message(message), at_ns, at_ns))


def canvas_at(at_ns: int, rng: np.random.Generator) -> Canvas:
    """A canvas of noise."""
    image = rng.integers(0, 256, (LAYOUT.height_px, LAYOUT.width_px, 3), dtype=np.uint8)
    tiles = tuple(TileStatus(camera, at_ns, 0, True) for camera in LAYOUT.cameras)
    return Canvas(at_ns, LAYOUT.layout_hash, image, tiles)


def write_session(
    path: Path, plans: int = 12, epoch_at: int = 6, swap_at: int = 3, skip: Callable[[int], bool] = lambda _: False,
    more: Callable[[Writer], None] = lambda _: None, twins: bool = False,
) -> None:
    """A session of one plan every 0.4 s, of two epochs, with a new sentence in the first.

    `skip` loses canvases; with `twins`, each canvas comes between two others of its stamp, as while views are late.
    """
    writer, planner, rng = Writer(path), SmallPlanner(), np.random.default_rng(4)

    def log(at_s: float, **step: Any) -> None:
        writer.write("/planning_log", at_s, String(data=json.dumps(step)))

    log(0.4, do="open", mode="async_naive", splice="auto", execute_s=0.8)
    log(0.5, do="reset", text="put the red block on the pad", epoch=planner.reset("put the red block on the pad"))
    state = near = RobotState(0, SPEC.limit("home"), np.zeros(14))
    for index in range(plans):
        at_ns, at_s = round((1 + 0.4 * index) * S), 1 + 0.4 * index
        if index == epoch_at:
            text = "put the green block on the pad"
            log(at_s, do="reset", text=text, epoch=planner.reset(text))
        if index == swap_at:
            planner.set_instruction("put the blue block on the pad")
            log(at_s, do="sentence", text="put the blue block on the pad")
        for offset_ms in (-20, 0, 20):
            moved = state.position_J + 0.01 * index + 0.0001 * offset_ms
            sample = RobotState(at_ns + offset_ms * 1_000_000, moved, state.velocity_J)
            writer.write("/joint_states", at_s + 0.02, convert.state_message(SPEC, sample, writer.edge))
            near = sample if offset_ms == 0 else near
        canvas = canvas_at(at_ns, rng)
        image, info = convert.canvas_messages(canvas, LAYOUT, SPEC.content_hash, writer.edge)
        twin = [convert.canvas_messages(canvas_at(at_ns, rng), LAYOUT, "", writer.edge)[0]] if twins else []
        for picture in [*twin, image, *twin] if not skip(index) else []:
            writer.write("/canvas", at_s + 0.03, picture)
        writer.write("/canvas_info", at_s + 0.03, info)
        planner.observe(canvas, near)
        log(at_s + 0.05, do="observe", canvas=ORIGIN_NS + at_ns, state=ORIGIN_NS + near.stamp_ns,
            crc=checksum(canvas), executed=None)
        plan = planner.plan()
        log(at_s + 0.1, do="plan", chunk=plan.chunk.chunk_id, rung="full", committed=0, known=[])
        status = WorldActionStatus(instruction=planner.text, instruction_id=planner.instruction_id, epoch=planner.epoch,
                                   plans=index + 1, runtime="small", model="tiny")
        writer.write("/action_chunk", at_s + 0.1, convert.chunk_message(plan.chunk, writer.edge))
        writer.write("/value_map", at_s + 0.1, convert.value_map_message(plan.value_map, plan.chunk, writer.edge))
        writer.write("/world_action_status", at_s + 0.15, status)
    more(writer)
    writer.file.close()


def image_message(picture: np.ndarray, at_ns: int, frame: str) -> Image:
    """An rgb8 image stamped on the recording's clock."""
    return convert.image_message(picture, convert.to_stamp(ORIGIN_NS + at_ns), frame)
