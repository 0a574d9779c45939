# ruff: noqa: E402 - the signal handler comes before the slow imports
"""The world_action node with a session that needs no model: one joint swings, and the value map has one bright spot.

Run as a program.
"""

import signal

signal.signal(signal.SIGINT, lambda *_: exit(0))  # quiet while the libraries are loading

from types import SimpleNamespace

import numpy as np

from starry_ros.errors import InputError
from starry_ros.robot_spec import RobotSpec
from starry_ros.ros.run import run
from starry_ros.ros.world_action_node import WorldActionNode
from starry_ros.timing import nanoseconds
from starry_ros.types import ActionChunk, Canvas, LandingPoint, Plan, RobotState, ValueMap
from starry_ros.wam.course import Courses
from starry_ros.wam.text import check_sentence

SWING_RAD, PERIOD_S = 0.5, 4.0
SWINGING = "right_waist"


class FakeRuntime:
    name = "fake"
    lag_steps = 0
    config = SimpleNamespace(
        video_steps=1, coupling="intent_causal", history_actions=8, chunk_steps=16, prefix_steps=0, views=()
    )

    def latents(self) -> np.ndarray:
        return np.zeros((1, 1), np.float32)


class FakeSession:
    """Plans a slow swing of one joint around home, as a function of absolute time."""

    dream = None
    executed_UJ: np.ndarray | None = None
    spacing_s, reads_video = 0.4, False

    def __init__(self, spec: RobotSpec) -> None:
        self.runtime, self.spec, self._spec, self.courses = FakeRuntime(), spec, spec, Courses()
        self.epoch = self.instruction_id = self._chunk_id = 0
        self._origin_ns: int | None = None

    def reset(self, text: str) -> int:
        self.set_instruction(text)
        self.epoch += 1
        self._origin_ns = None
        self.courses.forget()
        return self.epoch

    def set_instruction(self, text: str) -> int:
        check_sentence(text)
        self.instruction_id += 1
        return self.instruction_id

    def observe(
        self, canvas: Canvas, state: RobotState, scene: object = None, executed_UJ: object = None
    ) -> None:
        if not np.isfinite(state.position_J).all():
            raise InputError("state", "not finite")
        self._canvas, told_J = canvas, self.courses.at(canvas.stamp_ns)
        self.executed_UJ = None if told_J is None else told_J[None]
        self._origin_ns = self._origin_ns or canvas.stamp_ns

    def in_model_units(self, positions_DJ: np.ndarray) -> np.ndarray:
        return positions_DJ

    @property
    def observed_ns(self) -> int:
        return self._canvas.stamp_ns

    newest_ns = observed_ns

    def plan(self, effort: object = None, shape: object = None, committed: int = 0) -> Plan:
        self._chunk_id += 1
        spec, step_ns = self._spec, nanoseconds(self._spec.action.step_s)
        start_ns = self._canvas.stamp_ns + step_ns
        times_s = (start_ns - self._origin_ns + step_ns * np.arange(spec.action.chunk_steps)) / 1e9
        positions = np.tile(spec.limit("home"), (len(times_s), 1))
        positions[:, spec.joint_names.index(SWINGING)] += SWING_RAD * (1 - np.cos(2 * np.pi * times_s / PERIOD_S)) / 2
        chunk = ActionChunk(
            self._chunk_id, self.epoch, self.instruction_id, self._canvas.stamp_ns, start_ns, step_ns, spec.joint_names,
            positions, spec.content_hash,
        )
        values = np.zeros((2, spec.canvas.height_px // 4, spec.canvas.width_px // 4), np.float32)
        values[0, 14:18, 18:22] = 1.0
        landing = (LandingPoint("head", 0, 79.5, 63.5, 0.9),)
        return Plan(chunk, ValueMap(self._canvas.stamp_ns, self._canvas.layout_hash, 4, values, landing), None)


if __name__ == "__main__":
    raise SystemExit(run(lambda: WorldActionNode(lambda values, spec: FakeSession(spec))))
