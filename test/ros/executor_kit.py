"""A robot around node action_executor: joints that go where they are told, and a sender of plans."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
from sensor_msgs.msg import JointState
from starry_ros.msg import ActionChunk, ExecutorStatus
from std_msgs.msg import Bool
from trajectory_msgs.msg import JointTrajectory

from starry_ros.ros.convert import stamp_ns, to_stamp
from starry_ros.ros.qos import COMMAND, LATCHED, PLAN, SAFETY, STATE


class Robot:
    """Joints that go where they are told at once, and a sender of chunks."""

    def __init__(self, world: Any, spec: Any, **parameters: Any) -> None:
        self.world, self.spec = world, spec
        self.position = dict(zip(spec.joint_names, spec.limit("home").tolist(), strict=True))
        self.statuses = world.listen(ExecutorStatus, "executor_status", LATCHED)
        self.commands: dict[str, list[Any]] = self.hear_commands()
        self.chunk_id = 0
        world.start("action_executor", owner_check_s=1.0, state_timeout_s=0.8, **parameters)
        self.joint_states = world.publisher(JointState, "joint_states", STATE)
        self.chunks = world.publisher(ActionChunk, "action_chunk", PLAN)
        self.estop = world.publisher(Bool, "estop", SAFETY)
        world.until(lambda: self.statuses, 30, "executor_status")
        for _ in range(100):
            self.run(0.1)
            if not self.trigger("hold").message.startswith("hold refused: still looking"):
                break

    def hear_commands(self) -> dict[str, list[Any]]:
        return {arm.name: self.world.listen(JointTrajectory, arm.command_topic, COMMAND) for arm in self.spec.arms}

    def follow(self) -> None:
        """The joints do what the newest commands say."""
        for heard in filter(None, self.commands.values()):
            self.position |= zip(heard[-1].joint_names, heard[-1].points[0].positions, strict=True)

    def now_ns(self) -> int:
        """ROS time of the robot."""
        return stamp_ns(self.world.now())

    def good_state(self) -> JointState:
        names = list(reversed(self.spec.joint_names))
        message = JointState(name=names, position=[self.position[name] for name in names], velocity=[0.0] * len(names))
        message.header.stamp = to_stamp(self.now_ns())
        return message

    def run(self, duration_s: float, change: Callable[[JointState], JointState] = lambda m: m) -> None:
        """Publish joint states at 50 Hz."""
        for _ in range(max(1, round(duration_s / 0.02))):
            self.joint_states.publish(change(self.good_state()))
            self.world.spin(0.02)
            self.follow()

    def trigger(self, name: str) -> Any:
        self.run(0.06)
        return self.world.trigger(name)

    @property
    def mode(self) -> str:
        return str(self.statuses[-1].mode_name)

    @property
    def reason(self) -> str:
        return str(self.statuses[-1].reason)

    def calm(self) -> None:
        """DISARMED, whatever was before."""
        self.run(0.3)
        if self.mode != "DISARMED":
            self.estop.publish(Bool(data=True))
            self.run(0.8)
            self.estop.publish(Bool(data=False))
            self.run(0.2)
            assert self.trigger("reset_fault").success
            self.run(0.2)
        assert self.mode == "DISARMED"

    def armed(self) -> None:
        self.calm()
        reply = self.trigger("arm")
        assert reply.success, reply.message
        self.run(0.2)
        assert self.mode == "RUN"

    def chunk(self, **changes: Any) -> ActionChunk:
        """A chunk that moves one joint of the right arm gently."""
        spec, now_ns = self.spec, self.now_ns()
        self.chunk_id += 1
        positions = np.tile([self.position[name] for name in spec.joint_names], (spec.action.chunk_steps, 1))
        positions[:, spec.joint_names.index("right_waist")] += np.linspace(0.0, 0.2, len(positions))
        message = ActionChunk(
            chunk_id=self.chunk_id, epoch=1, instruction_id=1, contract_hash=spec.content_hash,
            start=to_stamp(now_ns + 100_000_000), step_s=0.1, joint_names=list(spec.joint_names),
            positions=array("d", positions.ravel().tolist()),
        )
        message.header.stamp = to_stamp(now_ns)
        for name, value in changes.items():
            setattr(message, name, value)
        return message

    def refused(self) -> dict[str, int]:
        status = self.statuses[-1]
        return dict(zip(status.refused_reasons, status.refused_counts, strict=True))
