"""A rig around node world_action: canvases and joint states of one instant, ten times a second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import Image, JointState
from starry_ros.msg import ActionChunk, CanvasInfo, WorldActionStatus
from starry_ros.srv import ResetSession

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.ros.convert import EdgeClock, canvas_messages, state_message
from starry_ros.ros.qos import PLAN, SENSOR, STATE
from starry_ros.types import Canvas, RobotState, TileStatus

PERIOD_S, AGE_S, PAIR_S, LOADING_S = 0.1, 1.0, 0.4, 90.0
RED = "put the red block on the pad"
Observation = tuple[Image, CanvasInfo, JointState]
Change = Callable[[Image, CanvasInfo, JointState], None]


class Rig:
    """Sends `picture` [H, W, 3] and arms that stand at home; `change` may spoil them.

    `program` is what runs as the node; without one, it is the fake session.
    """

    def __init__(self, world: Any, spec: Any, program: Sequence[str] = (), **parameters: Any) -> None:
        self.world, self.spec, self.layout = world, spec, t_pose_layout(spec)
        self.clock = EdgeClock(world.node.get_clock())
        pixels = np.arange(self.layout.height_px * self.layout.width_px * 3, dtype=np.uint32).astype(np.uint8)
        self.picture = pixels.reshape(self.layout.height_px, self.layout.width_px, 3)
        self.chunks = world.listen(ActionChunk, "action_chunk", PLAN)
        self.statuses = world.listen(WorldActionStatus, "world_action_status", STATE)
        parameters = {"max_age_s": AGE_S, "max_pair_s": PAIR_S, "replan_s": 0.1} | parameters
        if program:
            world.start_as("world_action", list(program), **parameters)
        else:
            world.start("world_action", **parameters)
        topics = ((Image, "canvas", SENSOR), (CanvasInfo, "canvas_info", SENSOR), (JointState, "joint_states", STATE))
        self.publishers = [world.publisher(*topic) for topic in topics]
        world.until(lambda: self.statuses and self.statuses[-1].reason != "loading", LOADING_S, "a model")
        assert self.reset().accepted

    def reset(self) -> Any:
        return self.world.call(ResetSession, "reset_session", text=RED)

    def observation(self) -> Observation:
        now_ns = self.clock.now_ns()
        tiles = tuple(TileStatus(camera, now_ns, 0, True) for camera in self.layout.cameras)
        canvas = Canvas(now_ns, self.layout.layout_hash, self.picture, tiles)
        image, info = canvas_messages(canvas, self.layout, self.spec.content_hash, self.clock)
        home = self.spec.limit("home")
        return image, info, state_message(self.spec, RobotState(now_ns, home, np.zeros_like(home)), self.clock)

    def send(self, change: Change = lambda *_: None) -> None:
        observation = self.observation()
        change(*observation)
        for publisher, message in zip(self.publishers, observation, strict=True):
            publisher.publish(message)
        self.world.spin(PERIOD_S)

    def send_until(self, ready: Callable[[], bool], change: Change = lambda *_: None) -> None:
        for _ in range(300):
            self.send(change)
            if ready():
                return
        pytest.fail(f"{self.statuses[-1]}\n{self.world.health}")

    def works(self) -> None:
        """Good observations become plans."""
        count = len(self.chunks)
        self.send_until(lambda: len(self.chunks) > count + 1 and self.statuses[-1].state == "planning")
