"""The faults of `starry chaos`: what is done to a running graph, what the arms must do, and how things go on.

A scenario's verdict comes from the simulated robot's own joint states; reasons are read only to say that they are told.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory

from starry_ros.msg import ActionChunk
from starry_ros.robot_spec import RobotSpec
from starry_ros.ros.relay import Fault

SKEW_NS = 500_000_000
GOES_ON, RESTS = "goes_on", "rests"
REST_AFTER_PLAN_S = 4.0
"""A chunk lasts 1.6 s; limits and a late end may add to it."""
REST_AFTER_FAULT_S = 1.2
REST_AFTER_KILL_S = 0.8
"""At most the last look-ahead, and what a busy machine adds to it."""


class Stage(Protocol):
    """What a fault may use of the running graph."""

    spec: RobotSpec

    def spoil(self, topic: str, fault: Fault | None) -> None:
        """Put a fault on a relayed topic, or take it away."""

    def send(self, node: str, number: signal.Signals) -> None:
        """Send a signal to a node's process."""

    def start(self, node: str) -> None:
        """Start a node that was killed."""

    def estop(self, pressed: bool) -> None:
        """Press or release the emergency stop."""

    def chunk(self) -> ActionChunk:
        """The newest real plan."""

    def offer(self, chunk: ActionChunk) -> None:
        """Publish a plan of our own."""

    def flood(self, duration_s: float) -> None:
        """Let another process publish garbage on the graph's topics."""

    def during(self, duration_s: float, act: Callable[[], None], every_s: float) -> None:
        """Do something again and again while the graph runs."""

    def fill_disk(self) -> None:
        """Let the recorder's next writes fail."""


@dataclass(frozen=True)
class Scenario:
    """`outcome`: the arms go on, or rest `within_s` after the fault; one of the reason codes `told` must be published.

    `latched`: the arms must stay at rest after the fault has gone until the services reset and arm are called.
    `commands_lost`: commands do not arrive, or late, so that controllers ask for a step when the next one comes. Where
    joint states are late as well nobody can know of it, and it is the driver's own limits that hold the arms: what
    counts is what they did.
    `arguments.SCENARIOS` says in words what each does.
    """

    outcome: str
    inject: Callable[[Stage], None]
    clear: Callable[[Stage], None] = lambda _: None
    within_s: float = REST_AFTER_PLAN_S
    told: tuple[str, ...] = ()
    latched: bool = False
    commands_lost: bool = False


def _camera(make: Callable[[], Fault], camera: int = 1) -> dict[str, Any]:
    def put(stage: Stage) -> None:
        stage.spoil(stage.spec.cameras[camera].topic, make())

    def take(stage: Stage) -> None:
        stage.spoil(stage.spec.cameras[camera].topic, None)

    return {"inject": put, "clear": take}


def _blind(make: Callable[[], Fault]) -> dict[str, Any]:
    return {**_camera(make), "told": ("no_observation", "canvas_incomplete", "canvas_stale")}


def _joints(make: Callable[[], Fault]) -> dict[str, Any]:
    return {
        "inject": lambda stage: stage.spoil(stage.spec.joint_state_topic, make()),
        "clear": lambda stage: stage.spoil(stage.spec.joint_state_topic, None),
    }


def _edit(kind: Any, change: Callable[[Any], None]) -> Callable[[], Fault]:
    def fault(data: bytes) -> list[bytes]:
        message = deserialize_message(data, kind)
        change(message)
        return [serialize_message(message)]

    return lambda: fault


def _frozen() -> Fault:
    kept: list[bytes] = []

    def fault(data: bytes) -> list[bytes]:
        kept.append(data)
        return kept[:1]

    return fault


def _reordered() -> Fault:
    kept: list[bytes] = []

    def fault(data: bytes) -> list[bytes]:
        kept.append(data)
        if len(kept) < 2:
            return []
        swapped = kept[::-1]
        kept.clear()
        return swapped

    return fault


def _skew(message: Image) -> None:
    total = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec - SKEW_NS
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(total, 10**9)


def _truncate(message: Image) -> None:
    message.data = message.data[: len(message.data) // 2]


def _shrink(message: Image) -> None:
    message.width, message.height, message.step = 160, 120, 480
    message.data = message.data[: 160 * 120 * 3]


def _nan(message: JointState) -> None:
    message.position = [float("nan")] * len(message.position)


def _jump(message: JointState) -> None:
    message.position = [value + 1.0 for value in message.position]


def _never_at_rest(message: JointTrajectory) -> None:
    message.points[-1].velocities = [0.5] * len(message.points[-1].velocities)


def _commands(make: Callable[[], Fault] | None) -> Callable[[Stage], None]:
    def put(stage: Stage) -> None:
        for arm in stage.spec.arms:
            stage.spoil(arm.command_topic, make() if make is not None else None)

    return put


def _refuses_at_times() -> Fault:
    """Every message of 0.3 s in 0.7 s is one that a controller refuses."""
    refused, begin_s = _edit(JointTrajectory, _never_at_rest)(), time.monotonic()

    def fault(data: bytes) -> list[bytes]:
        return refused(data) if (time.monotonic() - begin_s) % 0.7 < 0.3 else [data]

    return fault


def _stutter(stage: Stage) -> None:
    """The driver refuses commands for a moment, takes them again, and so on."""
    _commands(_refuses_at_times)(stage)
    stage.during(2.5, lambda: None, 0.1)
    _commands(None)(stage)


def _chunks(change: Callable[[ActionChunk], None]) -> Callable[[Stage], None]:
    def inject(stage: Stage) -> None:
        def once() -> None:
            chunk = stage.chunk()
            change(chunk)
            stage.offer(chunk)

        stage.during(2.0, once, 0.05)

    return inject


def _late(chunk: ActionChunk) -> None:
    chunk.header.stamp.sec -= 5
    chunk.start.sec -= 5
    chunk.chunk_id += 1000


def _foreign(chunk: ActionChunk) -> None:
    chunk.contract_hash = "0123456789abcdef"
    chunk.positions = [0.0] * len(chunk.positions)


def _not_finite(chunk: ActionChunk) -> None:
    chunk.chunk_id += 1000
    chunk.positions = [float("nan")] * len(chunk.positions)


def _old_epoch(chunk: ActionChunk) -> None:
    chunk.epoch = max(0, chunk.epoch - 1)
    chunk.positions = [0.0] * len(chunk.positions)


def _signal(node: str, number: signal.Signals) -> Callable[[Stage], None]:
    return lambda stage: stage.send(node, number)


def _restart(node: str) -> Callable[[Stage], None]:
    return lambda stage: stage.start(node)


def _slow_planner(stage: Stage) -> None:
    """Frozen for a random part of every 0.2 s."""
    rng = random.Random(0)

    def once() -> None:
        stage.send("world_action", signal.SIGSTOP)
        time.sleep(rng.uniform(0.02, 0.12))
        stage.send("world_action", signal.SIGCONT)

    stage.during(3.0, once, 0.2)


def _silent_for_two_seconds(stage: Stage) -> None:
    """To the executor, whose process stands still, the clock jumps."""
    stage.send("action_executor", signal.SIGSTOP)
    time.sleep(2.0)
    stage.send("action_executor", signal.SIGCONT)


SCENARIOS: dict[str, Scenario] = {
    "camera_frozen": Scenario(RESTS, **_blind(_frozen)),
    "camera_dropped": Scenario(RESTS, **_blind(lambda: lambda _: [])),
    "camera_reordered": Scenario(GOES_ON, **_camera(_reordered)),
    "camera_skewed": Scenario(RESTS, **_blind(_edit(Image, _skew))),
    "camera_corrupt": Scenario(RESTS, **_blind(_edit(Image, _truncate))),
    "camera_wrong_size": Scenario(RESTS, **_blind(_edit(Image, _shrink))),
    "joints_stale": Scenario(RESTS, within_s=REST_AFTER_FAULT_S, told=("joint_state_stale",),
                             latched=True, **_joints(lambda: lambda _: [])),
    "joints_nan": Scenario(RESTS, within_s=REST_AFTER_FAULT_S,
                           told=("joint_state_invalid",), latched=True, **_joints(_edit(JointState, _nan))),
    "joints_jump": Scenario(RESTS, within_s=REST_AFTER_FAULT_S, told=("tracking_error",),
                            latched=True, **_joints(_edit(JointState, _jump))),
    "chunks_late": Scenario(GOES_ON, _chunks(_late)),
    "chunks_duplicate": Scenario(GOES_ON, _chunks(lambda _: None), told=("duplicate",)),
    "chunks_old_epoch": Scenario(GOES_ON, _chunks(_old_epoch), told=("stale_epoch",)),
    "chunks_foreign": Scenario(GOES_ON, _chunks(_foreign), told=("foreign_contract",)),
    "chunks_nan": Scenario(GOES_ON, _chunks(_not_finite), told=("not_finite",)),
    "planner_slow": Scenario(GOES_ON, _slow_planner),
    "planner_hung": Scenario(RESTS, _signal("world_action", signal.SIGSTOP), _signal("world_action", signal.SIGCONT),
                             told=("planner_lost",)),
    "planner_killed": Scenario(RESTS, _signal("world_action", signal.SIGKILL), _restart("world_action"),
                               told=("planner_lost",), latched=True),
    "packer_killed": Scenario(RESTS, _signal("canvas_packer", signal.SIGKILL), _restart("canvas_packer"),
                              told=("planner_lost",), latched=True),
    "executor_killed": Scenario(RESTS, _signal("action_executor", signal.SIGKILL),
                                _restart("action_executor"), REST_AFTER_KILL_S, latched=True),
    "visualiser_killed": Scenario(GOES_ON,
                                  _signal("value_map_visualizer", signal.SIGKILL), _restart("value_map_visualizer")),
    "driver_rejects": Scenario(RESTS, _commands(_edit(JointTrajectory, _never_at_rest)), _commands(None),
                               REST_AFTER_FAULT_S, latched=True, told=("tracking_error",)),
    "driver_stutters": Scenario(GOES_ON, _stutter, commands_lost=True),
    "clock_jump": Scenario(RESTS, _silent_for_two_seconds, within_s=3.0, latched=True,
                           told=("clock_jump", "joint_state_stale")),
    "dds_flood": Scenario(GOES_ON, lambda stage: stage.flood(2.0), commands_lost=True),
    "disk_full": Scenario(GOES_ON, lambda stage: stage.fill_disk()),
    "estop": Scenario(RESTS, lambda stage: stage.estop(True),
                      lambda stage: stage.estop(False), REST_AFTER_FAULT_S, told=("estop_pressed",), latched=True),
}
