"""Node world_action over real DDS: no plan is made from an observation that is unfit, and the reason is published."""

from __future__ import annotations

import json
from array import array
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import Image, JointState
from starry_ros.msg import ActionChunk, CanvasInfo
from std_msgs.msg import String
from world_action_kit import AGE_S, Change, Rig

from starry_ros.ros.convert import stamp_ns, to_stamp
from starry_ros.ros.qos import LATCHED, STATE


@pytest.fixture(scope="module")
def rig(shared_world: Any, spec: Any) -> Rig:
    return Rig(shared_world, spec)


def one_camera_missing(_image: Image, info: CanvasInfo, _state: JointState) -> None:
    info.tiles[1].valid = False


def no_tiles(_image: Image, info: CanvasInfo, _state: JointState) -> None:
    info.tiles = []


def other_layout(_image: Image, info: CanvasInfo, _state: JointState) -> None:
    info.layout_hash = "0" * 16


def shifted(ages: float) -> Change:
    def change(image: Image, info: CanvasInfo, _state: JointState) -> None:
        for header in (image.header, info.header, *info.tiles):
            header.stamp = to_stamp(stamp_ns(header.stamp) + round(ages * AGE_S * 1e9))

    return change


def cut_off(image: Image, _info: CanvasInfo, _state: JointState) -> None:
    image.data = array("B", image.data[:1000])


def unknown_encoding(image: Image, _info: CanvasInfo, _state: JointState) -> None:
    image.encoding = "yuv422_weird"


@pytest.mark.parametrize(("change", "reason"), [
    (one_camera_missing, "canvas_incomplete"), (no_tiles, "canvas_incomplete"), (other_layout, "layout_mismatch"),
    (shifted(-3.0), "canvas_stale"), (shifted(3.0), "canvas_from_future"),
    (cut_off, "image data have the wrong length"), (unknown_encoding, "unknown image encoding"),
])
def test_an_unfit_canvas_is_refused_with_its_reason(rig: Rig, change: Change, reason: str) -> None:
    rig.works()
    rig.send_until(lambda: rig.statuses[-1].reason == reason, change)
    count = len(rig.chunks)
    for _ in range(3):
        rig.send(change)
    assert len(rig.chunks) == count
    assert rig.statuses[-1].state == "refused"
    rig.works()


def not_a_number(_image: Image, _info: CanvasInfo, state: JointState) -> None:
    state.position[3] = float("nan")


def too_short(_image: Image, _info: CanvasInfo, state: JointState) -> None:
    state.position = state.position[:-1]


def unknown_joint(_image: Image, _info: CanvasInfo, state: JointState) -> None:
    state.name = [*state.name[:-1], "tail"]


@pytest.mark.parametrize("change", [not_a_number, too_short, unknown_joint])
def test_no_plan_is_made_from_a_joint_state_that_is_unfit(rig: Rig, change: Change) -> None:
    rig.works()
    before = int(rig.world.values("world_action").get("refused.joint_state_invalid", 0))
    rig.send_until(lambda: rig.statuses[-1].reason == "joint_state_stale", change)
    count = len(rig.chunks)

    def counted() -> bool:
        return int(rig.world.values("world_action").get("refused.joint_state_invalid", 0)) > before

    rig.send_until(counted, change)
    assert len(rig.chunks) == count
    rig.works()


def test_before_an_executor_has_told_its_first_course_plans_commit_to_nothing(rig: Rig) -> None:
    """The arms were never armed: what is planned is a preview."""
    log = rig.world.listen(String, "planning_log", STATE)
    rig.world.publisher(ActionChunk, "executor_course", LATCHED)
    assert rig.reset().accepted

    def committed() -> list[int]:
        steps = [json.loads(message.data) for message in log]
        return [step["committed"] for step in steps if step["do"] == "plan"]

    rig.send_until(lambda: len(committed()) > 3)
    assert set(committed()) == {0}


def test_what_the_executor_commands_becomes_history_and_a_course_that_cannot_be_does_not(rig: Rig) -> None:
    rig.works()
    log = rig.world.listen(String, "planning_log", STATE)
    courses = rig.world.publisher(ActionChunk, "executor_course", LATCHED)
    spec, before = rig.spec, int(rig.world.values("world_action").get("refused.course_invalid", 0))
    told_J = spec.limit("home") + 0.001 * np.arange(len(spec.joint_names))

    def publish(
        names: list[str], position_J: np.ndarray, late_s: float = 0.0, contract: str = spec.content_hash
    ) -> None:
        now = to_stamp(stamp_ns(rig.world.now()) + round(late_s * 1e9))
        courses.publish(ActionChunk(
            start=now, step_s=0.05, joint_names=names, positions=array("d", position_J), contract_hash=contract,
        ))
        rig.world.spin(0.2)

    publish(list(spec.joint_names), np.full(len(told_J), np.nan))
    publish([*spec.joint_names[:-1], "tail"], told_J)
    publish(list(spec.joint_names), told_J + 1.0, late_s=5.0)
    publish(list(spec.joint_names), told_J + 1.0, contract="0123456789abcdef")
    publish(list(spec.joint_names), told_J)

    def history() -> list[list[float]]:
        steps = [json.loads(message.data) for message in log]
        return [rows[-1] for rows in (step.get("executed") for step in steps) if rows]

    rig.send_until(lambda: bool(history()) and np.array_equal(history()[-1], told_J))
    rig.send_until(lambda: int(rig.world.values("world_action").get("refused.course_invalid", 0)) == before + 4)


@pytest.mark.parametrize("seconds", [3.0, 0.0])
def test_the_first_plan_after_a_reset_goes_on_from_the_course_of_arms_that_move(rig: Rig, seconds: float) -> None:
    """Arms that stand have nothing to go on from."""
    rig.works()
    log = rig.world.listen(String, "planning_log", STATE)
    courses = rig.world.publisher(ActionChunk, "executor_course", LATCHED)
    moves = 0.001 * np.arange(round(seconds / 0.05) + 1)[:, None] * np.ones(len(rig.spec.joint_names))
    courses.publish(ActionChunk(
        start=to_stamp(stamp_ns(rig.world.now())), step_s=0.05, joint_names=list(rig.spec.joint_names),
        positions=array("d", (rig.spec.limit("home") + moves).ravel()), contract_hash=rig.spec.content_hash,
    ))
    rig.world.spin(0.2)
    log.clear()
    assert rig.reset().accepted

    def plans() -> list[dict[str, Any]]:
        steps = [json.loads(message.data) for message in log]
        done = [step["do"] for step in steps]
        return [step for step in steps[done.index("reset"):] if step["do"] == "plan"] if "reset" in done else []

    rig.send_until(lambda: bool(plans()))
    assert (plans()[0]["committed"] > 0) == (seconds > 0)
    rig.send_until(lambda: len(plans()) > 2)
    if not seconds:
        assert not any(plan["committed"] for plan in plans()), "they go on standing, whatever is planned"
