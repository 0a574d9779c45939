"""Relays between the simulated robot and the rest of the graph, on which faults are injected.

Messages pass as bytes; a fault is a function from a message's bytes to those to send instead, none or several. What the
simulated robot itself says of its joints, and of what its controllers ask of them, is kept: scenarios judge by that. So
is when the plans and look-aheads end that have passed: deadlines count from there. Pictures pass through a process of
their own (`picture_relay.py`).

Shapes: J joints in contract order, K steps of a plan.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from starry_ros.errors import InputError
from starry_ros.msg import ActionChunk
from starry_ros.robot_spec import RobotSpec
from starry_ros.ros.convert import stamp_ns
from starry_ros.ros.priority import hear_first
from starry_ros.ros.qos import COMMAND, PLAN, STATE
from starry_ros.timing import NS_PER_S
from starry_ros.turns import ask_for_real_time
from starry_ros.types import F64

Fault = Callable[[bytes], list[bytes]]
MakeFault = Callable[[], Fault]
"""A function that another process can be given: one of a module, or `functools.partial` of one."""
Motion = tuple[float, F64, F64]
"""Stamp in s, positions [J] and velocities [J]."""
SIM_SIDE, NODE_SIDE = "sim_side", "node_side"
"""Prefixes of the topics that end at a relay: what the simulated robot sends, and what planner and executor send."""
PLAN_TOPIC = "action_chunk"


@dataclass(frozen=True)
class Passed:
    """A plan or a look-ahead that went on to its receiver: when, and when it will be over, in s of ROS time.

    `position_KJ` of a plan: what it asks of the joints.
    """

    at_s: float
    end_s: float
    position_KJ: F64 | None = None


class Relay(Node):
    """Passes topics on, through the fault of each if it has one. Spins in a thread of its own once begun.

    `prompt`: at a real-time priority where the system grants it, so that a busy machine holds up no more than it would
    without a relay.
    """

    def __init__(self, name: str, prompt: bool = False) -> None:
        super().__init__(name)
        self._prompt = prompt
        self._faults: dict[str, Fault] = {}
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)
        self._thread = threading.Thread(target=self._spin, name=name, daemon=True)

    def relay(
        self, kind: Any, topic: str, side: str, qos: Any, watch: Callable[[bytes], None] = lambda _: None
    ) -> None:
        """Pass a topic on. `watch` is shown each message before its fault is."""
        out = self.create_publisher(kind, topic, qos)

        def passed(data: bytes) -> None:
            watch(data)
            fault = self._faults.get(topic)
            for message in [data] if fault is None else fault(data):
                out.publish(message)

        self.create_subscription(kind, f"{side}/{topic}", passed, qos, raw=True)

    def spoil(self, topic: str, make: MakeFault | None) -> None:
        """Put a fault on a topic, or take it away."""
        if make is None:
            self._faults.pop(topic, None)
        else:
            self._faults[topic] = make()

    def begin(self) -> None:
        """Spin until the session ends."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether messages still pass."""
        return self._thread.is_alive()

    def join(self) -> None:
        """Wait for that."""
        self._thread.join()

    def _spin(self) -> None:
        if self._prompt:
            ask_for_real_time()
            hear_first()
        while rclpy.ok():
            try:
                self._executor.spin_once(timeout_sec=0.2)
            except Exception:
                if rclpy.ok():
                    raise
                return  # the session has ended under a call


class ArmRelays(Relay):
    """Joint states, commands and plans of a robot, and what is known from them."""

    def __init__(self, spec: RobotSpec) -> None:
        super().__init__("arm_relays", prompt=True)
        self._spec = spec
        self.heard: deque[Motion] = deque(maxlen=20_000)
        self.asked: deque[Motion] = deque(maxlen=20_000)
        self.pushed: deque[Motion] = deque(maxlen=20_000)
        self.plan: ActionChunk | None = None
        self.plans: deque[Passed] = deque(maxlen=200)
        self.look_aheads: deque[Passed] = deque(maxlen=2_000)
        self.relay(JointState, spec.joint_state_topic, SIM_SIDE, STATE, partial(self._keep, self.heard))
        for name, motions in (("reference", self.asked), ("pushed", self.pushed)):
            keep = partial(self._keep, motions)
            self.create_subscription(JointState, f"ground_truth/{name}", keep, STATE, raw=True)
        for arm in spec.arms:
            self.relay(JointTrajectory, arm.command_topic, NODE_SIDE, COMMAND, self._on_command)
        self.relay(ActionChunk, PLAN_TOPIC, NODE_SIDE, PLAN, self._on_plan)
        self.begin()

    def _keep(self, motions: deque[Motion], data: bytes) -> None:
        message = deserialize_message(data, JointState)
        try:
            position_J = self._spec.order_joints(message.name, message.position)
            velocity_J = self._spec.order_joints(message.name, message.velocity)
        except InputError:
            return
        motions.append((stamp_ns(message.header.stamp) * 1e-9, position_J, velocity_J))

    def _on_command(self, data: bytes) -> None:
        message = deserialize_message(data, JointTrajectory)
        now_s = self.now_s()
        begin_s = stamp_ns(message.header.stamp) / NS_PER_S or now_s
        lasts = message.points[-1].time_from_start
        self.look_aheads.append(Passed(now_s, begin_s + lasts.sec + lasts.nanosec / NS_PER_S))

    def _on_plan(self, data: bytes) -> None:
        self.plan = plan = deserialize_message(data, ActionChunk)
        order = [plan.joint_names.index(name) for name in self._spec.joint_names]
        position_KJ = np.reshape(plan.positions, (-1, len(order)))[:, order]
        end_s = stamp_ns(plan.start) / NS_PER_S + (len(position_KJ) - 1) * plan.step_s
        self.plans.append(Passed(self.now_s(), end_s, position_KJ))

    def now_s(self) -> float:
        """ROS time."""
        return float(self.get_clock().now().nanoseconds / NS_PER_S)

    def since(self, stamp_s: float) -> tuple[F64, F64, F64]:
        """Times [N] and the simulated robot's positions and velocities [N, J] after a stamp."""
        return self._after(stamp_s, self.heard)

    def asked_since(self, stamp_s: float) -> tuple[F64, F64, F64]:
        """The same of what its controllers asked of the joints."""
        return self._after(stamp_s, self.asked)

    def pushed_since(self, stamp_s: float) -> tuple[F64, F64, F64]:
        """The same of how far contacts held the joints off their targets; no velocities."""
        return self._after(stamp_s, self.pushed)

    def _after(self, stamp_s: float, motions: deque[Motion]) -> tuple[F64, F64, F64]:
        rows = [row for row in list(motions) if row[0] > stamp_s]
        empty = np.zeros((0, len(self._spec.joint_names)))
        if not rows:
            return np.zeros(0), empty, empty
        times, positions, velocities = zip(*rows, strict=True)
        return np.array(times), np.array(positions), np.array(velocities)

    @property
    def newest_s(self) -> float:
        """Stamp of the newest joint state."""
        return self.heard[-1][0] if self.heard else 0.0


def remappings(spec: RobotSpec, node: str) -> tuple[tuple[str, str], ...]:
    """Names by which a node's topics end at the relays."""
    sensors = [name for camera in spec.cameras for name in (camera.topic, camera.info_topic)]
    if node == "sim_robot":
        return tuple((name, f"{SIM_SIDE}/{name}") for name in (*sensors, spec.joint_state_topic))
    if node == "action_executor":
        return tuple((arm.command_topic, f"{NODE_SIDE}/{arm.command_topic}") for arm in spec.arms)
    if node == "world_action":
        return ((PLAN_TOPIC, f"{NODE_SIDE}/{PLAN_TOPIC}"),)
    return ()
