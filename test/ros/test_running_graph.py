"""The whole graph over real DDS, with a session that needs no model: it flows, moves, stops, and survives a kill."""

from __future__ import annotations

import signal
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, Image, JointState
from starry_ros.msg import ActionChunk, ExecutorStatus, ValueMap, WorldActionStatus
from starry_ros.srv import ResetEpisode, ResetSession, SetInstruction

from starry_ros.ros.convert import stamp_ns
from starry_ros.ros.qos import LATCHED, NEWEST, PLAN, STATE

NODES = ("sim_robot", "canvas_packer", "world_action", "value_map_visualizer", "action_executor")
SWINGING = "right_waist"


class Cell:
    """The running graph and what it says."""

    def __init__(self, world: Any, spec: Any) -> None:
        self.world, self.spec = world, spec
        self.joint_states = world.listen(JointState, "joint_states", STATE)
        self.statuses = world.listen(ExecutorStatus, "executor_status", LATCHED)
        self.sessions = world.listen(WorldActionStatus, "world_action_status", STATE)
        for name in NODES:
            self.start(name)
        world.until(lambda: self.sessions and self.sessions[-1].reason != "loading", 60, "the session")
        world.until(lambda: set(NODES) <= set(world.health), 60, "diagnostics of every node")

    def start(self, name: str) -> None:
        # A machine that runs tests may be slow: what is tested here is not its speed.
        options = {"action_executor": {"state_timeout_s": 1.0, "patience_s": 4.0}, "canvas_packer": {"max_age_s": 1.0},
                   "world_action": {"max_age_s": 1.0}}
        self.world.start(name, **options.get(name, {}))

    @property
    def mode(self) -> str:
        return str(self.statuses[-1].mode_name) if self.statuses else ""

    def motion(self, since: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Times in s and velocities of all joints."""
        messages = self.joint_states[since:]
        times = np.array([stamp_ns(message.header.stamp) / 1e9 for message in messages])
        return times, np.array([self.spec.order_joints(message.name, message.velocity) for message in messages])

    def run(self) -> None:
        """Armed and in motion."""
        self.world.until(lambda: self.statuses and self.joint_states, 30, "executor and robot")
        if self.mode == "FAULT":
            assert self.world.trigger("reset_fault").success
        if self.mode not in ("RUN", "SLOW"):
            self.world.call(ResetSession, "reset_session", text="put the red block on the pad")
            replies: list[str] = []

            def armed() -> bool:
                reply = self.world.trigger("arm")
                replies.append(reply.message)
                return bool(reply.success)

            self.world.until(armed, 20, f"arm {replies}")
        self.world.until(self.moving, 20, "motion")

    def moving(self) -> bool:
        return bool(abs(self.motion(-3)[1]).max() > 0.15)


@pytest.fixture(scope="module")
def cell(shared_world: Any, spec: Any) -> Cell:
    return Cell(shared_world, spec)


def test_nothing_moves_before_arm(cell: Cell) -> None:
    reply = cell.world.call(ResetSession, "reset_session", text="put the red block on the pad")
    assert reply.accepted
    since = len(cell.joint_states)
    cell.world.until(lambda: cell.sessions[-1].plans >= 2, 20, "plans")
    assert cell.mode == "DISARMED"
    assert abs(cell.motion(since)[1]).max() < 0.01


def test_plans_value_maps_and_overlays_carry_the_stamps_of_what_they_show(cell: Cell) -> None:
    world = cell.world
    images = world.listen(Image, "head/image_raw", NEWEST)
    overlays = world.listen(Image, "head/value_map/image_raw", NEWEST)
    infos = world.listen(CameraInfo, "head/value_map/camera_info", NEWEST)
    chunks, maps = world.listen(ActionChunk, "action_chunk", PLAN), world.listen(ValueMap, "value_map", PLAN)
    world.until(lambda: len(overlays) >= 5 and len(infos) >= 5 and len(chunks) >= 2 and len(maps) >= 2, 30, "overlays")
    assert {stamp_ns(m.header.stamp) for m in overlays} & {stamp_ns(m.header.stamp) for m in images}
    assert overlays[-1].header.frame_id == "head_optical_frame"
    assert infos[-1].k[0] > 0
    assert {m.chunk_id for m in maps} & {m.chunk_id for m in chunks}
    picture = np.frombuffer(overlays[-1].data, np.uint8).reshape(240, 320, 3)
    assert (picture.max(axis=2).astype(int) - picture.min(axis=2) > 100).any(), "something bright is drawn"


def test_an_overlay_that_nobody_watches_costs_nothing(cell: Cell) -> None:
    topic = "left_wrist/image_raw"
    assert "left_wrist" not in cell.world.values("value_map_visualizer").get("watched", "")
    assert cell.world.node.count_subscribers(topic) == 1, "only the packer"


def test_arm_moves_the_arm_and_hold_brings_it_to_rest(cell: Cell) -> None:
    cell.run()
    assert cell.world.trigger("hold").success
    cell.world.until(lambda: cell.mode == "HOLD" and abs(cell.motion(-3)[1]).max() < 0.02, 5, "rest")
    rejected = [key for key in cell.world.values("sim_robot") if key.startswith("rejected")]
    assert not rejected


@pytest.mark.parametrize("text", ["", "   ", "put " * 2000, "\x07\x1b[2J"])
def test_an_unusable_sentence_is_refused_and_the_old_one_stays(cell: Cell, text: str) -> None:
    before = cell.sessions[-1].instruction
    reply = cell.world.call(SetInstruction, "set_instruction", text=text)
    assert not reply.accepted
    assert reply.message
    cell.world.spin(0.5)
    assert cell.sessions[-1].instruction == before


def test_a_new_sentence_gets_a_new_instruction_id_in_the_same_epoch(cell: Cell) -> None:
    cell.run()
    epoch, instruction = cell.sessions[-1].epoch, cell.sessions[-1].instruction_id
    reply = cell.world.call(SetInstruction, "set_instruction", text="put the blue block on the pad")
    assert reply.accepted
    assert reply.instruction_id > instruction
    cell.world.until(lambda: cell.statuses[-1].instruction_id == reply.instruction_id, 10, "a plan of the new sentence")
    assert cell.sessions[-1].epoch == epoch


def test_an_unknown_task_is_refused_and_changes_nothing(cell: Cell) -> None:
    reply = cell.world.call(ResetEpisode, "reset_episode", task="juggle", setting="easy", seed=0)
    assert not reply.accepted
    assert "place_block_pad" in reply.message


def test_without_cameras_no_plan_is_made_and_the_reason_is_published(cell: Cell) -> None:
    cell.run()
    assert cell.world.children["canvas_packer"].stop(signal.SIGKILL) == -signal.SIGKILL
    cell.world.until(lambda: cell.sessions[-1].state == "refused", 20, "a refusal")
    assert cell.sessions[-1].reason == "no_observation"
    cell.world.until(lambda: abs(cell.motion(-3)[1]).max() < 0.02, 10, "rest at the end of the plan")
    cell.world.until(lambda: cell.mode == "STOP", 20, "the end of the executor's patience")
    assert cell.statuses[-1].reason == "planner_lost"
    cell.start("canvas_packer")
    cell.world.until(lambda: cell.sessions[-1].state == "planning", 40, "plans again")
    assert abs(cell.motion(-3)[1]).max() < 0.02, "motion only after arm"
    assert cell.world.trigger("arm").success
    cell.world.until(cell.moving, 40, "motion again")


def test_killing_the_executor_in_motion_brings_the_arms_to_rest_inside_their_limits(cell: Cell) -> None:
    cell.run()
    since = len(cell.joint_states)
    assert cell.world.children["action_executor"].stop(signal.SIGKILL) == -signal.SIGKILL
    killed_s = stamp_ns(cell.world.now()) / 1e9
    cell.world.spin(2.5)
    times, velocities = cell.motion(since)
    assert (abs(velocities) <= 1.1 * cell.spec.limit("velocity")).all()
    rest = times > killed_s + 0.7  # look-ahead of 0.3 s, then a stop from full speed takes up to 0.4 s
    assert rest.any()
    assert abs(velocities[rest]).max() < 0.03


def test_after_a_kill_the_executor_comes_back_disarmed_and_works_after_arm(cell: Cell) -> None:
    cell.statuses.clear()
    since = len(cell.joint_states)
    cell.start("action_executor")
    cell.world.until(lambda: cell.statuses, 40, "the executor")
    assert cell.mode == "DISARMED"
    cell.world.spin(1.0)
    assert abs(cell.motion(since)[1]).max() < 0.03
    cell.run()


def test_ctrl_c_ends_every_node_without_a_traceback(cell: Cell) -> None:
    for name in NODES:
        child = cell.world.children[name]
        assert child.stop(signal.SIGINT) == 0, name
        assert "Traceback" not in child.text(), name
