"""Times of recordings: two clocks in one file, joint states that stop or come out of order, and exact stamps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_data_transfer import painted
from test_data_wire import HOME, SPEC, Wire, image_of

from starry_ros.data.mcap_read import read_mcap
from starry_ros.data.mcap_write import export_mcap
from starry_ros.errors import DataError

FORWARD = dataclasses.replace(
    SPEC, arms=tuple(dataclasses.replace(arm, command_topic=f"{arm.name}_controller/commands") for arm in SPEC.arms),
    command_interface="position_forward",
)
FIRST, SECOND = "put the red block on the pad", "put the blue block on the pad"
LEFT = [joint.name for joint in SPEC.arms[0].joints]


def header(at_s: float) -> dict[str, Any]:
    return {"stamp": {"sec": int(at_s), "nanosec": round(at_s % 1 * 1e9)}, "frame_id": ""}


def joint_state(at_s: float, position: np.ndarray) -> dict[str, Any]:
    return {"header": header(at_s), "name": list(SPEC.joint_names), "position": position.tolist(), "velocity": [],
            "effort": []}


def trajectory(at_s: float, value: float) -> dict[str, Any]:
    """The left arm to one value; a stamp of 0 says at once."""
    point = {"positions": [value] * 7, "velocities": [], "accelerations": [], "effort": [],
             "time_from_start": {"sec": 0, "nanosec": 0}}
    return {"header": header(at_s), "joint_names": LEFT, "points": [point]}


def simulated(path: Path, pace: float, sent: tuple[str, str, dict[str, Any]]) -> None:
    """2 s of simulated time from 5 s on, recorded from 1000 s on by a clock that goes `pace` times as fast.

    A command, and another sentence, come at 5.55 s of simulated time.
    """
    with Wire(path) as wire:
        wire.send("/instruction", "String", -pace * 0.5, {"data": FIRST})
        for frame in range(20):
            at_s, logged_s = 5 + 0.1 * frame, pace * 0.1 * frame
            wire.send("/joint_states", "JointState", logged_s, joint_state(at_s, HOME))
            for camera in SPEC.cameras:
                image = {**image_of(camera.name, frame), "header": header(at_s)}
                wire.send(f"/{camera.topic}", "Image", logged_s, image)
        wire.send(*sent[:2], pace * 0.55, sent[2])
        wire.send("/instruction", "String", pace * 0.55, {"data": SECOND})


COMMANDS = {
    "trajectory that begins at once": (SPEC, (
        "/left_arm_controller/joint_trajectory", "JointTrajectory", trajectory(0.0, 0.02))),
    "set-point": (FORWARD, (
        "/left_controller/commands", "Float64MultiArray",
        {"layout": {"dim": [], "data_offset": 0}, "data": [0.02] * 7})),
}


@pytest.mark.parametrize("pace", [1.0, 3.0])
@pytest.mark.parametrize("kind", COMMANDS)
def test_what_has_no_stamp_comes_into_force_in_simulated_time_when_it_was_sent(tmp_path, kind, pace):
    spec, sent = COMMANDS[kind]
    simulated(tmp_path / "a.mcap", pace, sent)
    [made] = read_mcap(tmp_path / "a.mcap", spec)
    assert len(made.time_s_T) == 20
    expected = np.tile(HOME, (20, 1))
    expected[6:, :7] = 0.02
    assert np.allclose(made.command_TJ, expected, atol=1e-6)
    assert list(made.texts) == [FIRST] * 6 + [SECOND] * 14


def test_a_recorder_that_hears_of_all_a_little_later_is_on_the_same_clock(tmp_path):
    with Wire(tmp_path / "a.mcap") as wire:
        for frame in range(20):
            wire.send("/joint_states", "JointState", 0.1 * frame + 0.3, joint_state(1000 + 0.1 * frame, HOME))
            for camera in SPEC.cameras:
                image = {**image_of(camera.name, frame), "header": header(1000 + 0.1 * frame)}
                wire.send(f"/{camera.topic}", "Image", 0.1 * frame + 0.3, image)
        wire.send("/left_arm_controller/joint_trajectory", "JointTrajectory", 0.55, trajectory(0.0, 0.02))
    [made] = read_mcap(tmp_path / "a.mcap", SPEC, FIRST)
    assert np.allclose(made.command_TJ[:, 0], [HOME[0]] * 6 + [0.02] * 14)


def test_a_sentence_that_is_named_afterwards_holds_for_what_was_shown_before(tmp_path):
    with Wire(tmp_path / "a.mcap") as wire:
        stand(wire)
        wire.send("/instruction", "String", 1.95, {"data": FIRST})
    [made] = read_mcap(tmp_path / "a.mcap", SPEC)
    assert list(made.texts) == [FIRST] * 20


def stand(wire: Wire, frames: int = 20, joints: list[int] | None = None) -> None:
    """A robot before its cameras whose first joint turns by 0.01 rad a frame; `joints` name the frames with a state."""
    for frame in range(frames):
        wire.images(0.1 * frame, frame)
    for frame in range(frames) if joints is None else joints:
        wire.send("/joint_states", "JointState", 0.1 * frame, joint_state(1000 + 0.1 * frame, turned(frame)))


def turned(frame: int) -> np.ndarray:
    return HOME + 0.01 * frame * (np.arange(14) == 0)


def test_trajectories_are_in_force_by_when_they_begin_not_by_when_they_came(tmp_path):
    with Wire(tmp_path / "a.mcap") as wire:
        stand(wire)
        for logged_s, begin_s, value in ((0.0, 1.05, 0.02), (0.1, 0.55, 0.01)):
            wire.send("/left_arm_controller/joint_trajectory", "JointTrajectory", logged_s,
                      trajectory(1000 + begin_s, value))
    [made] = read_mcap(tmp_path / "a.mcap", SPEC, FIRST)
    assert np.allclose(made.command_TJ[6:, 0], [0.01] * 5 + [0.02] * 9)
    assert np.allclose(made.command_TJ[:6], made.position_TJ[:6])


def test_commands_that_begin_after_all_joint_states_are_refused_by_arm(tmp_path):
    with Wire(tmp_path / "a.mcap") as wire:
        stand(wire)
        wire.send("/left_arm_controller/joint_trajectory", "JointTrajectory", 0.5, trajectory(1_700_000_000.5, 0.02))
    with pytest.raises(DataError, match=r"a\.mcap, episode 0: the commands of the left arm begin after the joint"):
        read_mcap(tmp_path / "a.mcap", SPEC, FIRST)


def test_joints_that_fell_silent_within_an_episode_are_refused_and_before_or_after_it_are_not(tmp_path):
    with Wire(tmp_path / "a.mcap") as wire:
        stand(wire, 40, [*range(11), *range(23, 40)])
    with pytest.raises(DataError, match=r"a\.mcap, episode 0: lost joint states; got a gap of 1\.30 s, 1\.00 s in"):
        read_mcap(tmp_path / "a.mcap", SPEC, FIRST)
    with Wire(tmp_path / "b.mcap") as wire:
        stand(wire, 40, [-50, *range(11), *range(20, 40), 90])
    [made] = read_mcap(tmp_path / "b.mcap", SPEC, FIRST)
    assert len(made.time_s_T) == 40
    assert np.allclose(made.position_TJ[:, 0], HOME[0] + 0.01 * np.arange(40), atol=1e-5)


def test_joint_states_out_of_order_twice_or_from_the_future_spoil_no_others(tmp_path):
    with Wire(tmp_path / "a.mcap") as wire:
        stand(wire, joints=[])
        for arrived, frame in enumerate([0, 1, 2, 9999, 3, 5, 4, *range(6, 20)]):
            state = joint_state(1000 + 0.1 * frame, HOME + 0.1 * np.sin(frame))
            wire.send("/joint_states", "JointState", 0.09 * arrived, state)
        wire.send("/joint_states", "JointState", 1.95, joint_state(1000.7, HOME + 0.5))
    [made] = read_mcap(tmp_path / "a.mcap", SPEC, FIRST)
    assert len(made.time_s_T) == 20
    assert np.allclose(made.position_TJ[:, 0], HOME[0] + 0.1 * np.sin(np.arange(20)), atol=1e-5)


@pytest.mark.parametrize("change", range(1, 12))
def test_a_sentence_that_changes_at_any_frame_changes_there_after_a_round_trip(tmp_path, change):
    arrays = {**painted(0, 12), "text_T": (np.arange(12) >= change).astype(np.int32)}
    export_mcap(tmp_path / "a.mcap", arrays, SPEC)
    [made] = read_mcap(tmp_path / "a.mcap", SPEC)
    texts = arrays["texts"].tolist()
    assert list(made.texts) == [texts[0]] * change + [texts[1]] * (12 - change)
    assert np.array_equal(made.command_TJ, arrays["command_TJ"])
    assert np.array_equal(made.position_TJ, arrays["position_TJ"])
