"""The robot contract: each rule of validation with the message that a user sees, names, order and hash."""

from __future__ import annotations

import copy
import dataclasses
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from starry_ros.errors import ContractError, InputError
from starry_ros.paths import robot_file, share_dir
from starry_ros.robot_spec import NO_KINEMATICS, load_robot_spec

FILE = robot_file("bimanual_sim")
RAW = yaml.safe_load(FILE.read_text(encoding="utf-8"))
Change = Callable[[dict[str, Any]], None]


def write(folder: Path, change: Change) -> Path:
    """The shipped contract with one change."""
    raw = copy.deepcopy(RAW)
    change(raw)
    path = folder / "robot.yaml"
    path.write_text(yaml.dump(raw, Dumper=yaml.CSafeDumper), encoding="utf-8")
    return path


def put(*keys: Any, value: Any) -> Change:
    def change(raw: dict[str, Any]) -> None:
        for key in keys[:-1]:
            raw = raw[key]
        raw[keys[-1]] = value
    return change


def drop(*keys: Any) -> Change:
    def change(raw: dict[str, Any]) -> None:
        for key in keys[:-1]:
            raw = raw[key]
        del raw[keys[-1]]
    return change


JOINT = ("arms", 0, "joints", 2)
CAMERA = ("cameras", 1)
BROKEN: dict[str, tuple[Change, str]] = {
    "missing field": (drop("rates"), "missing fields ['rates']"),
    "unknown field": (put("colour", value="red"), "unknown fields ['colour']"),
    "missing joint field": (drop(*JOINT, "jerk"), "joints[2]: missing fields ['jerk']"),
    "section is no mapping": (put("rates", value=5), "rates: is not a mapping; got int"),
    "list is empty": (put("cameras", value=[]), "cameras: is not a non-empty list"),
    "list is a word": (put("arms", value="two"), "arms: is not a non-empty list; got str"),
    "number is a word": (put("rates", "control_hz", value="fast"), "control_hz: has the wrong type; got 'fast' (str)"),
    "number is a truth value": (put("arm_distance_m", value=True), "arm_distance_m: has the wrong type; got True"),
    "whole number has a fraction": (put("action", "chunk_steps", value=16.5), "chunk_steps: has the wrong type"),
    "not finite": (put(*JOINT, "velocity", value=float("nan")), "velocity: is not finite"),
    "infinite": (put("arm_distance_m", value=float("inf")), "arm_distance_m: is not finite"),
    "interval of three": (put("workspace_m", "x", value=[0, 1, 2]), "workspace_m.x: is not an interval"),
    "interval of words": (put("workspace_m", "x", value=["a", "b"]), "workspace_m.x: has the wrong type; got 'a'"),
    "workspace is no mapping": (put("workspace_m", value=[1]), "workspace_m: is not a mapping"),
    "other version": (put("contract_version", value=99), "has another contract version; got 99; expected 1"),
    "unknown interface": (put("command_interface", value="torque"), "command_interface: is unknown; got 'torque'"),
    "duplicate arm": (put("arms", 1, "name", value="left"), "arms: has duplicate names; got ['left']"),
    "duplicate joint": (put(*JOINT, "name", value="left_waist"), "joints: has duplicate names; got ['left_waist']"),
    "duplicate camera": (put(*CAMERA, "name", value="head"), "cameras: has duplicate names; got ['head']"),
    "duplicate role": (put(*CAMERA, "role", value="head"), "camera roles: has duplicate names; got ['head']"),
    "unknown role": (put(*CAMERA, "role", value="tail"), "camera left_wrist: role: is unknown; got 'tail'"),
    "flat image": (put(*CAMERA, "width_px", value=0), "camera left_wrist: width_px: is not positive; got 0"),
    "negative image": (put(*CAMERA, "height_px", value=-1), "camera left_wrist: height_px: is not positive; got -1"),
    "unknown unit": (put(*JOINT, "unit", value="deg"), "joint left_elbow: unit: is unknown; got 'deg'"),
    "wrong sign": (put(*JOINT, "sign", value=0), "joint left_elbow: sign: is wrong; got 0; expected 1 or -1"),
    "empty limits": (put(*JOINT, "lower", value=9.0), "joint left_elbow: limits are empty; got [9.0, 1.75]"),
    "home outside": (put(*JOINT, "home", value=1.8), "joint left_elbow: home: lies outside the limits; got 1.8"),
    "no velocity": (put(*JOINT, "velocity", value=0), "joint left_elbow: velocity: is not positive"),
    "no acceleration": (put(*JOINT, "acceleration", value=-1), "joint left_elbow: acceleration: is not positive"),
    "no jerk": (put(*JOINT, "jerk", value=0), "joint left_elbow: jerk: is not positive"),
    "no camera rate": (put("rates", "camera_hz", value=0), "rates.camera_hz: is not positive"),
    "no observation rate": (put("rates", "observation_hz", value=0), "rates.observation_hz: is not positive"),
    "slow control": (put("rates", "control_hz", value=20), "rates.control_hz: is out of range; got 20.0"),
    "fast control": (put("rates", "control_hz", value=2000), "rates.control_hz: is out of range; got 2000.0"),
    "no steps": (put("action", "chunk_steps", value=0), "action.chunk_steps: is not positive"),
    "no step": (put("action", "step_s", value=0), "action.step_s: is not positive"),
    "unknown space": (put("action", "space", value="torque"), "action.space: is unknown; got 'torque'"),
    "workspace without an axis": (drop("workspace_m", "z"), "workspace_m.z: is empty"),
    "endless workspace": (put("workspace_m", "x", value=[0, float("inf")]), "workspace_m.x: is not finite"),
    "unknown axis": (put("workspace_m", "w", value=[0, 1]), "workspace_m: is unknown; got 'w'"),
    "negative distance": (put("arm_distance_m", value=-0.1), "arm_distance_m: is negative; got -0.1"),
    "unknown kinematics": (put("kinematics", "format", value="dh"), "kinematics.format: is unknown; got 'dh'"),
    "two arms on one topic": (
        put("arms", 1, "command_topic", value="left_arm_controller/joint_trajectory"),
        "topics: has duplicate names; got ['left_arm_controller/joint_trajectory']",
    ),
    "two cameras on one topic": (
        put(*CAMERA, "topic", value="head/image_raw"), "topics: has duplicate names; got ['head/image_raw']"
    ),
    "empty name": (put(*CAMERA, "name", value=""), "camera: is not a name; got ''"),
    "name with a blank": (put(*JOINT, "name", value="left elbow"), "joint: is not a name; got 'left elbow'"),
    "topic with a blank": (put("joint_state_topic", value="joint states"), "topic: is not a ROS name"),
    "empty topic": (put(*CAMERA, "info_topic", value=""), "topic: is not a ROS name; got ''"),
    "empty workspace": (put("workspace_m", "y", value=[1, 0]), "workspace_m.y: is empty; got [1.0, 0.0]"),
}


def test_a_robot_may_do_without_kinematics(tmp_path: Path) -> None:
    path = write(tmp_path, put("kinematics", value={"format": NO_KINEMATICS, "source": ""}))
    assert load_robot_spec(path).kinematics.format == NO_KINEMATICS


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_contract_is_refused_with_file_field_and_value(name: str, tmp_path: Path) -> None:
    change, message = BROKEN[name]
    path = write(tmp_path, change)
    with pytest.raises(ContractError) as caught:
        load_robot_spec(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ContractError, match=r"/nowhere\.yaml: cannot be read; got No such file.*check the path"):
        load_robot_spec("/nowhere.yaml")


def test_a_file_that_is_not_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "robot.yaml").write_text("a: [1,\n", encoding="utf-8")
    with pytest.raises(ContractError, match="is not valid YAML"):
        load_robot_spec(tmp_path / "robot.yaml")


def test_a_key_that_comes_twice_is_refused_and_named(tmp_path: Path) -> None:
    text = FILE.read_text(encoding="utf-8")
    (tmp_path / "robot.yaml").write_text(text.replace("velocity: 2.0,", "velocity: 2.0, velocity: 9.0,", 1))
    with pytest.raises(ContractError, match=r"duplicate keys \['velocity'\]"):
        load_robot_spec(tmp_path / "robot.yaml")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "robot.yaml").write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(ContractError, match="is not UTF-8 text; got a bad byte at 6"):
        load_robot_spec(tmp_path / "robot.yaml")


def test_a_file_that_is_a_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "robot.yaml").write_text("- 1\n", encoding="utf-8")
    with pytest.raises(ContractError, match="is not a mapping; got list"):
        load_robot_spec(tmp_path / "robot.yaml")


def test_the_shipped_contract_has_two_arms_of_seven_joints() -> None:
    spec = load_robot_spec(FILE)
    assert spec.joint_names[:2] == ("left_waist", "left_shoulder")
    assert [spec.joint_names[i] for i in spec.gripper_indices] == ["left_gripper", "right_gripper"]
    assert spec.arm_slice("left") == slice(0, 7)
    assert spec.arm_slice("right") == slice(7, 14)
    assert spec.limit("lower").shape == (14,)
    assert spec.camera("head").role == "head"


def test_an_unknown_arm_or_camera_is_refused_with_those_that_exist() -> None:
    spec = load_robot_spec(FILE)
    with pytest.raises(ContractError, match=r"no arm named 'middle'.*'left', 'right'"):
        spec.arm_slice("middle")
    with pytest.raises(ContractError, match=r"no camera named 'tail'.*'head'"):
        spec.camera("tail")


def test_the_hash_follows_the_meaning_and_not_the_text(tmp_path: Path) -> None:
    spec = load_robot_spec(FILE)
    assert load_robot_spec(write(tmp_path, lambda raw: None)).content_hash == spec.content_hash
    assert load_robot_spec(write(tmp_path, put("description", value="other"))).content_hash == spec.content_hash


def test_the_hash_changes_with_every_number_of_a_joint(tmp_path: Path) -> None:
    original = load_robot_spec(FILE)
    hashes = {original.content_hash}
    for name in ("home", "lower", "upper", "velocity", "acceleration", "jerk"):
        raw = getattr(original.joints[2], name)
        hashes.add(load_robot_spec(write(tmp_path, put(*JOINT, name, value=raw + 1e-6))).content_hash)
    assert len(hashes) == 7


def test_a_description_lies_beside_its_contract_and_counts_by_its_content(tmp_path: Path) -> None:
    text, hashes = FILE.read_text(), []
    for place, description in (("here", "<mujoco/>"), ("there", "<mujoco/>"), ("there", "<mujoco model='x'/>")):
        (tmp_path / place / "meshes").mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "meshes" / "arms.xml").write_text(description)
        file = tmp_path / place / "robot.yaml"
        file.write_text(text.replace("package:sim/assets/cell.xml", "meshes/arms.xml"))
        spec = load_robot_spec(file)
        assert Path(spec.kinematics.source) == (tmp_path / place / "meshes" / "arms.xml").resolve()
        hashes.append(load_robot_spec(file).content_hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_joints_in_any_order_come_out_in_contract_order() -> None:
    spec = load_robot_spec(FILE)
    random.seed(3)
    values = {name: float(i) for i, name in enumerate(spec.joint_names)}
    for _ in range(20):
        names = random.sample(spec.joint_names, len(spec.joint_names))
        ordered = spec.order_joints(names, [values[name] for name in names])
        np.testing.assert_array_equal(ordered, np.arange(14.0))


def test_a_joint_state_may_hold_other_joints_and_leave_velocities_out() -> None:
    spec = load_robot_spec(FILE)
    turned = dataclasses.replace(spec.arms[0].joints[0], sign=-1)
    arm = dataclasses.replace(spec.arms[0], joints=(turned, *spec.arms[0].joints[1:]))
    spec = dataclasses.replace(spec, arms=(arm, spec.arms[1]))
    names = ["torso_lift", *reversed(spec.joint_names), "head_pan"]
    values = [9.0, *[0.1 * i for i in range(13, -1, -1)], 9.0]
    velocities = [math.nan, *[float(i) for i in range(13, -1, -1)], math.nan]
    velocities[1] = math.nan  # the right gripper
    position_J, velocity_J = spec.joint_state(names, values, velocities)
    expected = 0.1 * np.arange(14.0)
    expected[0] = -0.0
    np.testing.assert_allclose(position_J, expected)
    np.testing.assert_array_equal(velocity_J, [-0.0, *range(1, 13), math.nan])
    assert np.isnan(spec.joint_state(names, values, [])[1]).all()


@pytest.mark.parametrize(("position", "velocity", "words"), [
    (math.nan, 0.0, "non-finite"), (0.0, math.inf, "non-finite"), (None, 0.0, "differ in length"),
])
def test_a_joint_state_of_the_contracts_own_joints_has_to_be_whole(
    position: float | None, velocity: float, words: str
) -> None:
    spec = load_robot_spec(FILE)
    positions = [0.0] * 13 + ([] if position is None else [position])
    with pytest.raises(InputError, match=words):
        spec.joint_state(spec.joint_names, positions, [0.0] * 13 + [velocity])
    with pytest.raises(InputError, match="missing joints"):
        spec.joint_state(spec.joint_names[1:], [0.0] * 13, [])


def bad_states() -> dict[str, tuple[list[str], list[float], str]]:
    names = list(load_robot_spec(FILE).joint_names)
    zeros = [0.0] * 14
    nan = copy.copy(zeros)
    nan[3] = float("nan")
    return {
        "missing": (names[1:], zeros[1:], "missing joints ['left_waist']"),
        "extra": ([*names, "tail"], [*zeros, 0.0], "unknown joints ['tail']"),
        "duplicate": ([*names, "left_waist"], [*zeros, 0.0], "duplicate joint names; got ['left_waist']"),
        "short": (names, zeros[1:], "names and values differ in length; got 13; expected 14"),
        "not finite": (names, nan, "non-finite values; got ['left_forearm_roll']"),
    }


@pytest.mark.parametrize("name", bad_states())
def test_a_joint_state_that_does_not_fit_is_refused_with_the_names(name: str) -> None:
    names, values, message = bad_states()[name]
    with pytest.raises(InputError) as caught:
        load_robot_spec(FILE).order_joints(names, values)
    assert message in str(caught.value)


def test_the_controllers_to_copy_take_the_joints_and_topics_of_the_contract():
    spec = load_robot_spec(robot_file("bimanual_sim"))
    given = yaml.safe_load((share_dir() / "config" / "controllers.yaml").read_text())
    for arm in spec.arms:
        name = arm.command_topic.removesuffix("/joint_trajectory")
        assert given["controller_manager"]["ros__parameters"][name]["type"].endswith("JointTrajectoryController")
        settings = given[name]["ros__parameters"]
        assert settings["joints"] == [joint.name for joint in arm.joints]
        assert settings["interpolate_from_desired_state"]
        assert not settings["allow_nonzero_velocity_at_trajectory_end"]
