"""Node `world_action`: the world-action model's session behind topics.

A worker thread owns the session. Each time the re-plan interval has passed it takes the newest pair of canvas and joint
state, refuses it with a reason when it is not fit to plan on, or publishes a chunk and its value map.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from rclpy.clock import Clock, ClockType
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.errors import CheckpointError, InputError, StarryError
from starry_ros.msg import ActionChunk, CanvasInfo, ValueMap, WorldActionStatus
from starry_ros.paths import model_dir, robot_file
from starry_ros.robot_spec import RobotSpec, load_robot_spec
from starry_ros.ros.convert import (
    EdgeClock,
    canvas_of,
    chunk_message,
    chunk_of,
    image_message,
    stamp_ns,
    state_of,
    value_map_message,
)
from starry_ros.ros.diagnostics import ERROR, OK, WARN, Diagnostics, Health
from starry_ros.ros.pairing import Film, ObservationGate, StampPairs, StateHistory
from starry_ros.ros.params import ROBOT, Parameter, declare
from starry_ros.ros.qos import LATCHED, NEWEST, PLAN, SENSOR, STATE
from starry_ros.ros.run import StarryNode, run
from starry_ros.ros.worker import Calls, Slot, Worker
from starry_ros.srv import ResetSession, SetInstruction
from starry_ros.timing import LatencyWindow, nanoseconds, seconds
from starry_ros.types import ActionChunk as Course
from starry_ros.types import Plan
from starry_ros.wam.choices import CACHES, RUNTIMES, PlanMode, SpliceMethod
from starry_ros.wam.course import REMEMBERED
from starry_ros.wam.ladder import LadderConfig
from starry_ros.wam.planner import Planner, PlannerConfig
from starry_ros.wam.session import Session, SessionConfig
from starry_ros.wam.steps import Step
from starry_ros.wam.surprise import Calibration
from starry_ros.wam.trace import TracingPlanner

MODES = tuple(mode.value for mode in PlanMode)
SPLICES = ("auto", "trained_prefix", "guided", "put_back", "linear_blend", "hard_switch")
PARAMETERS = (
    ROBOT,
    Parameter("model", "tiny", "Model: a name in models/ or the path of a model folder."),
    Parameter("runtime", "auto", "What evaluates the model.", choices=RUNTIMES),
    Parameter("cache", "auto", "In which type the history's keys and values are kept.", choices=CACHES),
    Parameter("instruction", "", "Sentence to start with; empty waits for set_instruction."),
    Parameter("replan_s", 0.4, "Time from one plan to the next, in s; below 0.4 tiny has no history.", 0.05, 5.0),
    Parameter("max_age_s", 0.3, "Observations older than this are refused, in seconds.", 0.01, 10.0),
    Parameter("max_pair_s", 0.05, "Largest time between the images and the joint state, in seconds.", 0.001, 1.0),
    Parameter("mode", "async_grounded", "When and from what plans are made.", choices=MODES),
    Parameter("splice", "auto", "How a chunk goes on from the last one in mode async_grounded.", choices=SPLICES),
    Parameter("budget_s", 1.0, "Plans that would take longer are made with less effort, in seconds.", 0.05, 60.0),
    Parameter("publish_imagined", False, "Whether to publish what the model imagines."),
)
STATUS_PERIOD_S = 0.2
WAIT_S = 0.02
FUTURE_NS = 10**9
"""An executor commands less than this ahead of the clock; a course from further on would hide those that follow."""
LOADING, NO_INSTRUCTION, NO_OBSERVATION, NO_TIME = "loading", "no_instruction", "no_observation", "no_time"


def open_session(values: Mapping[str, Any], spec: RobotSpec) -> Session:
    """Load the model; takes seconds, and imports what only a model needs."""
    from starry_ros.wam.load import load_session

    config = SessionConfig(imagine=values["publish_imagined"])
    return load_session(model_dir(values["model"]), spec, values["runtime"], config, cache=values["cache"],
                        guided=values["splice"] == SpliceMethod.GUIDED)


def calibration_of(model: str) -> Calibration | None:
    """The calibration of surprise that a model's folder holds, if any."""
    try:
        folder = model_dir(model)
    except CheckpointError:  # a session without a model
        return None
    return Calibration.load(folder)


class WorldActionNode(StarryNode):
    """Canvas and joints in, chunks and value maps out. `open_session` runs in the worker thread."""

    def __init__(self, open_session: Callable[[Mapping[str, Any], RobotSpec], Session] = open_session) -> None:
        super().__init__("world_action")
        self._open_session = open_session
        values = declare(self, *PARAMETERS)
        self._values = values
        self._spec = load_robot_spec(robot_file(values["robot"]))
        self._edge = EdgeClock(self.get_clock())
        self._gate = ObservationGate(
            t_pose_layout(self._spec).layout_hash, nanoseconds(values["max_age_s"]), nanoseconds(values["max_pair_s"])
        )
        self._session: Session | None = None
        self._planner: Planner | None = None
        self._status = WorldActionStatus(model=values["model"], contract_hash=self._spec.content_hash, rung="full")
        self._say("waiting", LOADING)
        self._latency = LatencyWindow()
        self._refused: Counter[str] = Counter()
        self._latest_plan_ns = self._observed_ns = 0
        self._states = StateHistory()
        self._courses: deque[Course] = deque(maxlen=REMEMBERED)
        self._course: Course | None = None
        self._pairs: StampPairs[Image, CanvasInfo] = StampPairs()
        self._newest: Slot[tuple[Image, CanvasInfo]] = Slot()
        self._film: Film[tuple[Image, CanvasInfo]] = Film()
        self._calls = Calls(self)
        self._worker = Worker("world_action", self._work, self.fail)
        self._make_interfaces()
        self._worker.start()

    def _make_interfaces(self) -> None:
        self._chunks = self.create_publisher(ActionChunk, "action_chunk", PLAN)
        self._maps = self.create_publisher(ValueMap, "value_map", PLAN)
        self._imagined = self.create_publisher(Image, "imagined_canvas", SENSOR)
        self._log = self.create_publisher(String, "planning_log", STATE)
        self._statuses = self.create_publisher(WorldActionStatus, "world_action_status", STATE)
        self.create_subscription(Image, "canvas", self._on_canvas, NEWEST)
        self.create_subscription(CanvasInfo, "canvas_info", self._on_info, NEWEST)
        self.create_subscription(JointState, self._spec.joint_state_topic, self._on_state, STATE)
        self.create_subscription(ActionChunk, "executor_course", self._on_course, LATCHED)
        self.create_service(SetInstruction, "set_instruction", self._on_set_instruction)
        self.create_service(ResetSession, "reset_session", self._on_reset_session)
        self.create_timer(STATUS_PERIOD_S, self._publish_status, clock=Clock(clock_type=ClockType.STEADY_TIME))
        Diagnostics(self, self._health, self._spec.name)

    def close(self) -> None:
        """End the worker."""
        self._worker.close()

    # In the executor's thread

    def _on_canvas(self, message: Image) -> None:
        self._offer(self._pairs.first(stamp_ns(message.header.stamp), message))

    def _on_info(self, message: CanvasInfo) -> None:
        self._offer(self._pairs.second(stamp_ns(message.header.stamp), message))

    def _offer(self, pair: tuple[Image, CanvasInfo] | None) -> None:
        if pair is None:
            return
        if self._session is not None and self._session.reads_video:
            self._film.add(pair)
        self._newest.put(pair)

    def _on_state(self, message: JointState) -> None:
        try:
            self._states.add(state_of(self._spec, message, self._edge))
        except InputError as error:
            self._refused["joint_state_invalid"] += 1
            self.get_logger().error(f"refused: {error}", throttle_duration_sec=5.0)

    def _on_course(self, message: ActionChunk) -> None:
        try:
            course = chunk_of(message, self._edge)
            if course.contract_hash != self._spec.content_hash or course.joint_names != self._spec.joint_names:
                raise InputError("executor_course", "is of another robot", got=course.contract_hash)
            if not np.isfinite(course.positions_KJ).all():
                raise InputError("executor_course", "is not finite")
            if course.start_ns > self._edge.now_ns() + FUTURE_NS:
                raise InputError("executor_course", "starts in the future", fix="synchronise the machines' clocks")
            self._courses.append(course)
        except InputError as error:
            self._refused["course_invalid"] += 1
            self.get_logger().error(f"refused: {error}", throttle_duration_sec=5.0)

    async def _on_set_instruction(
        self, request: SetInstruction.Request, response: SetInstruction.Response
    ) -> SetInstruction.Response:
        try:
            response.instruction_id = await self._calls.run(lambda: self._set_instruction(request.text))
            response.accepted, response.message = True, f"following: {request.text}"
        except StarryError as error:
            response.instruction_id, response.message = self._status.instruction_id, str(error)
        return response

    async def _on_reset_session(
        self, request: ResetSession.Request, response: ResetSession.Response
    ) -> ResetSession.Response:
        try:
            response.epoch = await self._calls.run(lambda: self._reset(request.text or self._status.instruction))
            response.accepted, response.message = True, f"epoch {response.epoch}"
        except StarryError as error:
            response.epoch, response.message = self._status.epoch, str(error)
        response.instruction_id = self._status.instruction_id
        return response

    def _publish_status(self) -> None:
        self._status.header.stamp = self.get_clock().now().to_msg()
        self._statuses.publish(self._status)

    def _health(self) -> Health:
        status = self._status
        values = {"state": status.state, "reason": status.reason, "plans": status.plans, "runtime": status.runtime,
                  "latency_p50_s": status.latency_p50_s, "latency_p95_s": status.latency_p95_s,
                  "observation_age_s": status.observation_age_s, "epoch": status.epoch, "rung": status.rung}
        if self._planner is not None and self._planner.monitor.score is not None:
            score = self._planner.monitor.score
            values |= {"surprise": score.surprise, "surprise_level": score.level, "progress": score.progress,
                       "picture": score.picture}
        values |= {f"refused.{reason}": count for reason, count in dict(self._refused).items()}
        level = {"planning": OK, "waiting": WARN, "refused": ERROR}[status.state]
        return Health(level, f"{status.state} {status.reason}".strip(), values)

    # In the worker's thread

    def _work(self) -> None:
        if self._session is None:
            self._load()
        self._calls.serve()
        pair = self._newest.take(WAIT_S)
        while self._courses:
            self._course = self._courses.popleft()
            self._planning().told(self._course)
        if pair is not None:
            self._catch_up(pair)
            self._take_in(*pair)
        elif self._status.state == "planning" and self._edge.now_ns() > self._silent_after_ns():
            self._say("refused", NO_OBSERVATION)

    def _load(self) -> Session:
        session = self._open_session(self._values, self._spec)
        self._status.runtime = session.runtime.name
        self._session = session
        values = self._values
        if not session.reads_video and values["replan_s"] < session.spacing_s:
            self.get_logger().warning(f"replan_s {values['replan_s']:g} is shorter than the {session.spacing_s:g} s "
                                      "between frames of the history: the model will remember next to nothing")
        config = PlannerConfig(
            PlanMode(values["mode"]), SpliceMethod(values["splice"]), values["replan_s"],
            ladder=LadderConfig(budget_s=values["budget_s"]),
        )
        self._planner = TracingPlanner(session, config, tell=self._tell, calibration=calibration_of(values["model"]))
        self._say("waiting", NO_INSTRUCTION)
        if self._values["instruction"]:
            self._reset(self._values["instruction"])
        return session

    def _tell(self, step: Step) -> None:
        """Log a step of the planner, so that a recording can be planned again."""
        stamps = {name: stamp_ns(self._edge.stamp(time_ns)) for name, time_ns in step.times_ns.items()}
        self._log.publish(String(data=json.dumps({"do": step.do, **step.values, **stamps})))

    def _set_instruction(self, text: str) -> int:
        if not self._status.instruction:
            self._reset(text)
        else:
            self._status.instruction_id = self._planning().set_instruction(text)
            self._status.instruction = text
        return int(self._status.instruction_id)

    def _reset(self, text: str) -> int:
        planner = self._planning()
        self._status.epoch = planner.reset(text)
        if self._course is not None and self._course.end_ns > self._edge.now_ns():
            planner.told(self._course)  # a new session stops no arms: they run to the end of what is known
        self._status.surprise, self._status.progress = [], []
        self._status.instruction, self._status.instruction_id = text, planner.session.instruction_id
        self._say("waiting", NO_OBSERVATION)
        return int(self._status.epoch)

    def _planning(self) -> Planner:
        if self._planner is None:
            self._load()
        assert self._planner is not None
        return self._planner

    def _executor_is_there(self) -> bool:
        return self.count_publishers(self.resolve_topic_name("executor_course")) > 0

    def _silent_after_ns(self) -> int:
        """When a planner that hears nothing more must say so."""
        due_ns = self._planning().next_ns
        if due_ns is None:
            due_ns = self._latest_plan_ns + nanoseconds(self._values["replan_s"])
        return due_ns + self._gate.age_ns

    def _take_in(self, image: Image, info: CanvasInfo) -> None:
        """Plan on a canvas if a plan is due, or take it into the history, if it is fit for that."""
        now_ns, planner = self._edge.now_ns(), self._planning()
        due = planner.due(now_ns)
        wanted = planner.session.reads_video or now_ns - self._observed_ns >= nanoseconds(planner.session.spacing_s)
        if not self._status.instruction or not (due or wanted):
            return
        try:
            canvas = canvas_of(image, info, self._edge)
            state = self._states.nearest(canvas.stamp_ns)
            reason = self._gate.refusal(canvas, state, now_ns)
            if reason is None and state is not None:
                self._observed_ns = now_ns
                planner.session.courses.expected = self._executor_is_there()
                planner.observe(canvas, state)
                self._status.observations += 1
                if due:
                    self._plan(planner, now_ns)
            else:
                self._refuse(str(reason))
        except InputError as error:
            self._refuse(error.what)

    def _catch_up(self, newest: tuple[Image, CanvasInfo]) -> None:
        """Take in the frames of a video that came before `newest`, while a plan was made."""
        for pair in self._film.before(newest):
            with contextlib.suppress(InputError):  # a refused frame is a missing one
                canvas = canvas_of(*pair, self._edge)
                state = self._states.nearest(canvas.stamp_ns)
                fit = self._gate.refusal(canvas, state, canvas.stamp_ns) is None
                if fit and state is not None and self._status.instruction:
                    self._planning().observe(canvas, state)

    def _plan(self, planner: Planner, now_ns: int) -> None:
        self._latest_plan_ns = now_ns
        plan = planner.plan(self._edge.now_ns(), now_ns)
        self._status.rung = planner.ladder.rung.value
        score = planner.monitor.score
        self._status.surprise = [] if score is None else [score.level]
        self._status.progress = [] if score is None else [score.progress]
        if plan is None:
            self._say("refused", NO_TIME)
        else:
            self._publish(plan, now_ns)

    def _refuse(self, reason: str) -> None:
        self._refused[reason] += 1
        self._status.observations_refused += 1
        self._say("refused", reason)

    def _publish(self, plan: Plan, asked_ns: int) -> None:
        done_ns = self._edge.now_ns()
        self._chunks.publish(chunk_message(plan.chunk, self._edge))
        self._maps.publish(value_map_message(plan.value_map, plan.chunk, self._edge))
        if self._values["publish_imagined"] and plan.imagined_HWC is not None:
            stamp = self._edge.stamp(plan.chunk.observation_ns)
            self._imagined.publish(image_message(plan.imagined_HWC, stamp, "canvas"))
        self._latency.add(seconds(done_ns - asked_ns))
        self._status.plans += 1
        self._status.latency_p50_s = self._latency.percentile_s(50) or 0.0
        self._status.latency_p95_s = self._latency.percentile_s(95) or 0.0
        self._status.observation_age_s = seconds(done_ns - plan.chunk.observation_ns)
        self._say("planning", "")

    def _say(self, state: str, reason: str) -> None:
        self._status.state, self._status.reason = state, reason


def main() -> None:
    """Entry point."""
    raise SystemExit(run(WorldActionNode))


if __name__ == "__main__":
    main()
