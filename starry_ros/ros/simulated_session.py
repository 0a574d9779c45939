"""A session of the simulated robot, recorded in simulated time: the messages of the graph, without processes and DDS.

The loop is that of `sim/loop.py`; what each node would publish is written at the instant at which it would be. A
machine of any speed makes the same file, so tests, documentation and comparisons of runtimes have a session to work on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from rclpy.serialization import serialize_message
from rosgraph_msgs.msg import Clock as ClockMsg
from std_msgs.msg import String

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.canvas.pack import CanvasPacker
from starry_ros.control.executor import Executor
from starry_ros.control.safety import Mode
from starry_ros.msg import WorldActionStatus
from starry_ros.recording.session_file import Channel, Record, SessionFile, describe
from starry_ros.robot_spec import RobotSpec
from starry_ros.ros import convert
from starry_ros.ros.definitions import full_definition
from starry_ros.ros.pairing import StateHistory
from starry_ros.ros.rates import Every
from starry_ros.sim.cell import Cell
from starry_ros.sim.choices import COLOURS
from starry_ros.sim.driver import CameraRig, Scene, SimulatedDriver
from starry_ros.timing import NS_PER_S, LatencyWindow, nanoseconds, seconds
from starry_ros.types import CameraFrame, Canvas, FrameSet, Plan
from starry_ros.wam.ladder import LadderConfig
from starry_ros.wam.planner import PlannerConfig
from starry_ros.wam.steps import Step
from starry_ros.wam.trace import TracingPlanner

ORIGIN_NS = 1_800_000_000 * NS_PER_S
"""ROS time at the beginning of every simulated session: the same file from the same arguments."""

PAUSE_S = 0.4
PAIRING_NS = 20_000_000
"""So long after its stamp a canvas reaches the model: the joint state nearest to it has come by then."""


@dataclass(frozen=True)
class SimulatedConfig:
    """`latency_s` is the middle of a seeded spread of 30 %; `swap_after_s` changes the sentence in motion, 0 never."""

    episodes: int = 1
    task: str = "place_block_pad"
    setting: str = "easy"
    seed: int = 0
    limit_s: float = 12.0
    latency_s: float = 0.08
    replan_s: float = 0.4
    swap_after_s: float = 0.0


class SimulatedSession:
    """Runs episodes and writes what the nodes would say. `session` is a `wam.session.Session`."""

    def __init__(self, spec: RobotSpec, session: Any, path: Path, config: SimulatedConfig, model: str) -> None:
        self._spec, self._session, self._config = spec, session, config
        self._now_ns = NS_PER_S
        clock: Any = SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=ORIGIN_NS + self._now_ns))
        self._edge = convert.EdgeClock(clock, lambda: self._now_ns)
        self._file = SessionFile(path, *describe(spec.name, model))
        self._channels: dict[str, Channel] = {}
        self._sent: Counter[str] = Counter()
        self._cell = Cell(spec)
        self._scene, self._rig = Scene(self._cell), CameraRig(spec)
        self._driver, self._executor = SimulatedDriver(spec, self._cell, self._now_ns), Executor(spec)
        self._layout = t_pose_layout(spec)
        self._packer = CanvasPacker(self._layout)
        self._rng = np.random.default_rng(config.seed)
        self._rates: dict[str, Every] = {}
        self._latency = LatencyWindow(warm_up=0)
        self._status = WorldActionStatus(model=model, runtime=session.runtime.name, contract_hash=spec.content_hash,
                                         rung="full", state="waiting", reason="no_instruction")
        self._accepted = 0
        # with a latency that is given, a slow machine makes the same plans
        patient = PlannerConfig(latency_s=config.latency_s, ladder=LadderConfig(budget_s=60.0))
        self._planner = TracingPlanner(session, patient, tell=self._tell)
        self._canvas: Canvas | None = None
        self._states = StateHistory()
        self._pending: tuple[int, int, Plan] | None = None
        self._plan_ns = 0

    def run(self) -> Mapping[str, int]:
        """All episodes; how many there were and how many succeeded."""
        successes = sum(self._episode(index) for index in range(self._config.episodes))
        self._rig.close()
        self._cell.close()
        self._file.close()
        return {"episodes": self._config.episodes, "successes": successes, "messages": self._file.written}

    def _episode(self, index: int) -> bool:
        config, scene = self._config, self._scene
        sentence = scene.reset(config.task, config.setting, config.seed + index)
        self._driver.restart()
        self._executor = Executor(self._spec)  # the old one would bring the arms back from where the scene put them
        # everything is said anew at the first instant, so that nothing lies between two episodes
        self._rates = {"camera": Every(self._spec.rates.camera_hz), "state": Every(50.0), "command": Every(50.0),
                       "executor": Every(10.0), "session": Every(5.0), "truth": Every(10.0)}
        self._status.epoch = self._planner.reset(sentence)
        self._set_sentence(sentence)
        self._executor.set_epoch(self._session.epoch)
        self._executor.step(self._now_ns, self._driver.state())
        self._executor.arm(self._now_ns)
        self._pending, self._canvas, self._plan_ns, begin_ns = None, None, self._now_ns, self._now_ns
        swap_ns = begin_ns + nanoseconds(config.swap_after_s) if config.swap_after_s else 2**63
        while seconds(self._now_ns - begin_ns) < config.limit_s and not scene.success:
            if self._now_ns >= swap_ns and self._cell.held("right") is None:
                colour = COLOURS[(COLOURS.index(scene.colour) + 1) % len(COLOURS)]
                swap_ns, text = 2**63, scene.ask_for(colour)
                self._planner.set_instruction(text)
                self._set_sentence(text)
            self._tick()
        success = scene.success
        self._executor.hold(self._now_ns)
        for _ in range(round(PAUSE_S * self._spec.rates.control_hz)):
            self._tick(planning=False)
        return success

    def _set_sentence(self, text: str) -> None:
        self._status.instruction, self._status.instruction_id = text, self._session.instruction_id
        self._executor.set_instruction(self._session.instruction_id, self._now_ns)

    def _tick(self, *, planning: bool = True) -> None:
        """One control period."""
        self._now_ns, state = self._driver.time_ns, self._driver.state()
        now_ns, stamp = self._now_ns, self._edge.stamp(self._driver.time_ns)
        self._write("/clock", ClockMsg(clock=stamp))
        if self._rates["state"].due(now_ns):
            self._write(self._spec.joint_state_topic, convert.state_message(self._spec, state, self._edge))
            self._states.add(state)
            self._scene.update()
        if self._rates["camera"].due(now_ns):
            self._photograph()
        if planning:
            self._plan(now_ns)
        self._executor.step(now_ns, state)
        if self._rates["command"].due(now_ns):
            self._command(now_ns)
        self._write_statuses(now_ns)
        self._driver.tick()

    def _photograph(self) -> None:
        """All cameras of this instant, and their canvas."""
        now_ns, stamp, frames = self._now_ns, self._edge.stamp(self._now_ns), {}
        for name, image, model in self._rig.pictures(self._cell.sight()):
            camera = self._spec.camera(name)
            self._write(camera.topic, convert.image_message(image, stamp, camera.frame_id))
            self._write(camera.info_topic, convert.camera_info_message(model, stamp, camera.frame_id))
            frames[name] = CameraFrame(name, now_ns, now_ns, image)
        self._canvas = self._packer.pack(FrameSet(now_ns, 0, frames), now_ns)
        image_message, info = convert.canvas_messages(self._canvas, self._layout, self._spec.content_hash, self._edge)
        self._write("canvas", image_message)
        self._write("canvas_info", info)

    def _plan(self, now_ns: int) -> None:
        """Hand over the plan that has become due, or plan on the newest canvas once the joints around it are known."""
        if self._pending is not None and now_ns >= self._pending[0]:
            _, asked_ns, ready = self._pending
            self._pending = None
            self._publish(ready, seconds(now_ns - asked_ns))
            self._accepted += self._executor.submit(ready.chunk, now_ns).accepted
        if (course := self._executor.new_course()) is not None:
            self._planner.told(course)
            self._write("executor_course", convert.chunk_message(course, self._edge))
        if self._pending is None and now_ns >= self._plan_ns and self._canvas is not None:
            state = self._states.nearest(self._canvas.stamp_ns)
            if now_ns < self._canvas.stamp_ns + PAIRING_NS or state is None:
                return
            self._plan_ns = now_ns + nanoseconds(self._config.replan_s)
            self._planner.observe(self._canvas, state)
            self._status.observations += 1
            spread = self._config.latency_s * float(np.clip(self._rng.normal(1.0, 0.3), 0.4, 2.5))
            plan = self._planner.plan(now_ns)
            if plan is not None:
                self._pending = now_ns + nanoseconds(spread), now_ns, plan

    def _tell(self, step: Step) -> None:
        stamps = {name: ORIGIN_NS + time_ns for name, time_ns in step.times_ns.items()}
        self._write("planning_log", String(data=json.dumps({"do": step.do, **step.values, **stamps})))

    def _publish(self, plan: Plan, latency_s: float) -> None:
        chunk = plan.chunk
        self._write("action_chunk", convert.chunk_message(chunk, self._edge))
        self._write("value_map", convert.value_map_message(plan.value_map, chunk, self._edge))
        if plan.imagined_HWC is not None:
            stamp = self._edge.stamp(chunk.observation_ns)
            self._write("imagined_canvas", convert.image_message(plan.imagined_HWC, stamp, "canvas"))
        self._latency.add(latency_s)
        self._status.plans += 1
        self._status.latency_p50_s = self._latency.percentile_s(50) or 0.0
        self._status.latency_p95_s = self._latency.percentile_s(95) or 0.0
        self._status.observation_age_s = seconds(self._now_ns - chunk.observation_ns)
        self._status.state, self._status.reason = "planning", ""

    def _command(self, now_ns: int) -> None:
        """The look-ahead to both controllers, through the messages that a controller would get."""
        ahead = self._executor.look_ahead(now_ns)
        if ahead is None:
            return
        points_N3J = np.stack([ahead.position_NJ, ahead.velocity_NJ, ahead.acceleration_NJ], axis=1)
        for arm in self._spec.arms:
            message = convert.trajectory_message(
                self._spec, arm, self._edge, ahead.start_ns, ahead.time_s_N, points_N3J
            )
            self._write(arm.command_topic, message)
            self._driver.accept(arm.name, convert.trajectory_of(message, self._edge))

    def _write_statuses(self, now_ns: int) -> None:
        stamp = self._edge.stamp(now_ns)
        if self._rates["executor"].due(now_ns):
            status = self._executor.status(now_ns)
            message = convert.executor_status_message(self._spec, status, self._accepted, {}, 0.0)
            message.header.stamp, message.speed_scale = stamp, float(status.mode is Mode.RUN)
            self._write("executor_status", message)
        if self._rates["session"].due(now_ns):
            self._status.header.stamp = stamp
            self._write("world_action_status", self._status)
        if self._rates["truth"].due(now_ns):
            self._write("ground_truth/placed", String(data=",".join(self._scene.placed)))

    def _write(self, topic: str, message: Any) -> None:
        topic = topic if topic.startswith("/") else f"/{topic}"
        if topic not in self._channels:
            package, kind = type(message).__module__.split(".")[0], type(message).__name__
            name = f"{package}/msg/{kind}"
            self._channels[topic] = Channel(topic, name, full_definition(name))
        time_ns = ORIGIN_NS + self._now_ns
        self._sent[topic] += 1
        record = Record(topic, serialize_message(message), time_ns, time_ns, self._sent[topic])
        self._file.write(self._channels[topic], record)


def simulate(
    spec: RobotSpec, folder: Path, runtime: str, path: Path, config: SimulatedConfig, model: str, imagine: bool = True
) -> Mapping[str, int]:
    """Load the model and record a session of it."""
    from starry_ros.wam.load import load_session
    from starry_ros.wam.session import SessionConfig

    session = load_session(folder, spec, runtime, SessionConfig(imagine=imagine))
    return SimulatedSession(spec, session, path, config, model).run()
