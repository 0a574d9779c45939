"""Episodes on disk and the tools that change them: trim, resample, annotate, check."""

from __future__ import annotations

import json
from argparse import Namespace

import numpy as np
import pytest

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.cli import main
from starry_ros.data import tools
from starry_ros.data.contacts import contact_events, future_plan, grasps, stages
from starry_ros.data.store import episode_files, read_episode, sentences, take_frames, write_episode
from starry_ros.data.tools import respaced, trimmed
from starry_ros.errors import DataError
from starry_ros.kinematics.backend import mujoco
from starry_ros.kinematics.robot import RobotKinematics
from starry_ros.paths import robot_file
from starry_ros.robot_spec import load_robot_spec
from starry_ros.sim.cell import Cell
from starry_ros.sim.choices import STAGES
from starry_ros.training.correct import KIND
from starry_ros.training.disturb import HANDOVER_KINDS, KINDS
from starry_ros.training.form import progress_of

SPEC = load_robot_spec(robot_file("bimanual_sim"))
RED, BLUE = "put the red block on the pad", "put the blue block on the pad"
JOINTS, STEPS = len(SPEC.joints), SPEC.action.chunk_steps


def episode(frames: int = 30, seed: int = 0, moving: slice = slice(5, 20)) -> dict[str, np.ndarray]:
    """Random pictures and labels; joints that stand, move evenly, stand again."""
    rng = np.random.default_rng(seed)
    rate = np.zeros((frames, JOINTS), np.float32)
    rate[moving, 0] = 0.1
    position = SPEC.limit("home").astype(np.float32) + np.cumsum(rate, axis=0)
    return {
        "canvas_THWC": rng.integers(0, 256, (frames, 192, 160, 3), dtype=np.uint8), "position_TJ": position,
        "velocity_TJ": rng.normal(size=(frames, JOINTS)).astype(np.float32), "command_TJ": position + 0.01 * rate,
        "plan_TKJ": rng.normal(size=(frames, STEPS, JOINTS)).astype(np.float32),
        "events_TEVF": rng.uniform(0, 100, (frames, 2, 3, 5)).astype(np.float32),
        "stage_T": np.minimum(np.arange(frames) // max(1, frames // 3), 2).astype(np.int8),
        "empty_closed_T": rng.random(frames) < 0.3,
        "text_T": (np.arange(frames) > min(10, frames // 2)).astype(np.int32),
        "texts": np.array([RED, BLUE]),
        "time_s_T": (0.1 * np.arange(frames)).astype(np.float32), "kind": np.array("clean"), "failed": np.array(2),
    }


def smooth(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """With a canvas that is one grey a frame where the views are, and black outside, as a packed one is."""
    canvas = np.zeros_like(arrays["canvas_THWC"])
    for tile in t_pose_layout(SPEC).tiles:
        canvas[(slice(None), *tile.content.slices)] = np.arange(len(canvas), dtype=np.uint8)[:, None, None, None]
    return {**arrays, "canvas_THWC": canvas}


def test_an_episode_is_read_as_it_was_written(tmp_path):
    path, written = tmp_path / "episodes" / "000000.npz", episode()
    write_episode(path, written)
    read = read_episode(path)
    assert set(read) == set(written)
    for name, array in written.items():
        assert np.array_equal(read[name], array), name
    assert sentences(read)[10:12] == [RED, BLUE]
    assert [p.name for p in path.parent.iterdir()] == ["000000.npz"]


@pytest.mark.parametrize(("break_it", "says"), [
    (lambda a: a["position_TJ"].__setitem__((3, 2), np.nan), "non-finite values in position_TJ, first in frame 3"),
    (lambda a: a["time_s_T"].__setitem__(7, 0.1), "first after frame 6"),
    (lambda a: a.__setitem__("stage_T", a["stage_T"][:-1]), "different length"),
    (lambda a: a.pop("plan_TKJ"), "plan_TKJ"),
    (lambda a: a["text_T"].__setitem__(0, 9), "sentence index out of range in frame 0: 9, expected 0 to 1"),
    (lambda a: a["stage_T"].__setitem__(4, 4), "stage out of range in frame 4: 4, expected 0 to 3"),
    (lambda a: a["stage_T"].__setitem__(4, -1), "stage out of range in frame 4: -1"),
    (lambda a: a["velocity_TJ"].__setitem__((8, 0), np.inf), "non-finite values in velocity_TJ, first in frame 8"),
    (lambda a: a.__setitem__("progress_T", np.full(30, np.nan)), "non-finite values in progress_T, first in frame 0"),
    (lambda a: a.__setitem__("camera_V4", np.full((3, 4), np.nan)), "non-finite values in camera_V4"),
    (lambda a: a.__setitem__("events_TEVF", a["events_TEVF"][..., :4]),
     r"events_TEVF of shape \[30, 2, 3, 4\], expected \[T, 2, any, 5\]"),
    (lambda a: a.__setitem__("position_TJ", a["position_TJ"][:, :13]), "numbers of joints: position_TJ 13, velocity"),
    (lambda a: a.__setitem__("command_TJ", a["command_TJ"][:, 0]), r"command_TJ of shape \[30\], expected \[T, any\]"),
    (lambda a: a.__setitem__("canvas_THWC", a["canvas_THWC"][..., 0]), "canvas_THWC of shape"),
    (lambda a: a.__setitem__("canvas_THWC", a["canvas_THWC"] / 255), "canvas_THWC of type float64, expected uint8"),
    (lambda a: a.__setitem__("time_s_T", a["time_s_T"][:, None]), "time_s_T of shape"),
    (lambda a: a.__setitem__("command_TJ", np.full((30, JOINTS), "x")), "command_TJ of type <U1"),
    (lambda a: a.__setitem__("texts", np.array(RED)), "texts that are not a list"),
    (lambda a: a.pop("texts"), "lacks .'texts'"),
])
def test_a_bad_episode_is_refused_with_its_file_and_frame(tmp_path, break_it, says):
    arrays = episode()
    break_it(arrays)
    path = tmp_path / "000000.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=says) as error:
        read_episode(path)
    assert str(path) in str(error.value)
    with pytest.raises(DataError, match=says):
        write_episode(tmp_path / "other.npz", arrays)


def test_check_names_every_bad_episode_and_skips_none(tmp_path, capsys):
    for i in range(4):
        write_episode(tmp_path / "episodes" / f"{i:06d}.npz", episode(seed=i))
    for i in (1, 3):
        (tmp_path / "episodes" / f"{i:06d}.npz").write_bytes(b"PK\x03\x04 truncated")
    assert main(["data", "check", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "2 sound episodes, 60 frames, 2 bad" in said
    assert "000001.npz" in said
    assert "000003.npz" in said


def test_check_names_episodes_that_training_could_not_use_although_each_could_be_drawn(tmp_path, capsys):
    for i in range(5):
        write_episode(tmp_path / "episodes" / f"{i:06d}.npz", episode(seed=i))

    def spoil(number: int, **more: np.ndarray) -> None:
        np.savez(tmp_path / "episodes" / f"{number:06d}.npz", **{**episode(seed=number), **more})

    stage = episode()["stage_T"]
    stage[3] = 7
    spoil(1, stage_T=stage)
    spoil(2, events_TEVF=episode()["events_TEVF"][..., :4])
    spoil(4, canvas_THWC=np.zeros((30, 96, 80, 3), np.uint8))
    assert main(["data", "check", str(tmp_path)]) == 1
    said, bar = capsys.readouterr()
    assert "2 sound episodes, 60 frames, 3 bad" in said
    assert "000001.npz: has a stage out of range in frame 3" in said
    assert "000002.npz: has events_TEVF of shape" in said
    assert "000004.npz: has canvas_THWC [T, 96, 80, 3], the folder's first episode [T, 192, 160, 3]" in said
    assert "5/5 episodes" in bar
    assert main(["data", "show", str(tmp_path), "--episode", "1"]) == 2
    assert "000001.npz: has a stage out of range" in capsys.readouterr().err


def test_bad_episodes_stop_a_tool_unless_it_is_told_to_skip_them(tmp_path, capsys):
    source, out = tmp_path / "in", tmp_path / "out"
    for i in range(3):
        write_episode(source / "episodes" / f"{i:06d}.npz", episode(seed=i))
    (source / "episodes" / "000001.npz").write_bytes(b"no")
    assert main(["data", "trim", str(source), "--out", str(out)]) == 2
    assert "000001.npz" in capsys.readouterr().err
    assert main(["data", "trim", str(source), "--out", str(out), "--skip-bad"]) == 1
    assert "skipped" in capsys.readouterr().err
    assert [path.stem for path in episode_files(out)] == ["000000", "000002"]
    done = {path: path.stat().st_mtime_ns for path in episode_files(out)}
    assert main(["data", "trim", str(source), "--out", str(out), "--skip-bad"]) == 1
    assert {path: path.stat().st_mtime_ns for path in episode_files(out)} == done
    assert main(["data", "trim", str(source), "--out", str(out), "--keep", "0.5", "--skip-bad"]) == 2


def test_what_was_merged_stays_told_apart_unless_an_episode_is_left_out(tmp_path):
    source = tmp_path / "data"
    for i in range(2):
        write_episode(source / "episodes" / f"{i:06d}.npz", episode(seed=i))
    parts = [{"tasks": ["a"], "episodes": 1}, {"tasks": ["b"], "episodes": 1}]
    (source / "meta.json").write_text(json.dumps({"tasks": ["a", "b"], "merged_from": parts}))
    assert main(["data", "trim", str(source), "--out", str(tmp_path / "whole")]) == 0
    assert json.loads((tmp_path / "whole" / "meta.json").read_text())["merged_from"] == parts
    (source / "episodes" / "000001.npz").write_bytes(b"no")
    assert main(["data", "trim", str(source), "--out", str(tmp_path / "less"), "--skip-bad"]) == 1
    assert "merged_from" not in json.loads((tmp_path / "less" / "meta.json").read_text())


def test_trim_keeps_the_motion_and_the_rest_asked_for():
    arrays = episode()
    cut = trimmed(arrays, SPEC, keep_s=0.2)
    assert np.array_equal(cut["canvas_THWC"], arrays["canvas_THWC"][2:22])
    assert cut["time_s_T"][0] == 0
    assert np.array_equal(trimmed(arrays, SPEC, 9.0, start_s=1.0, end_s=2.0)["stage_T"], arrays["stage_T"][10:21])
    with pytest.raises(DataError, match="fewer than two"):
        trimmed(arrays, SPEC, 0.2, start_s=2.85)


def test_a_sentence_that_was_cut_off_is_gone_and_the_rest_survive_a_round_trip(tmp_path):
    source, cut = tmp_path / "in", tmp_path / "cut"
    write_episode(source / "episodes" / "000000.npz", smooth(episode(20)))
    assert sentences(read_episode(source / "episodes" / "000000.npz"))[10:12] == [RED, BLUE]
    assert main(["data", "trim", str(source), "--out", str(cut), "--start", "1.1", "--keep", "9"]) == 0
    made = read_episode(cut / "episodes" / "000000.npz")
    assert (made["texts"].tolist(), set(made["text_T"].tolist())) == ([BLUE], {0})
    for kind in ("lerobot", "mcap"):
        out, back = tmp_path / kind, tmp_path / f"{kind}_back"
        assert main(["data", "export", str(cut), str(out), "--format", kind]) == 0
        assert main(["data", "import", str(out), "--out", str(back)]) == 0
        again = read_episode(back / "episodes" / "000000.npz")
        for name, array in made.items():
            assert np.array_equal(again[name], array), name


def test_twice_the_speed_takes_every_second_frame_and_doubles_the_velocity():
    arrays = episode()
    fast = respaced(arrays, SPEC, 2.0)
    assert len(fast["time_s_T"]) == 15
    assert np.array_equal(fast["canvas_THWC"], arrays["canvas_THWC"][::2])
    assert np.allclose(fast["position_TJ"], arrays["position_TJ"][::2], atol=1e-6)
    assert np.allclose(fast["velocity_TJ"], 2 * arrays["velocity_TJ"][::2], atol=1e-5)
    assert np.allclose(fast["plan_TKJ"][0, 2], fast["command_TJ"][3])


UNLIKE = sorted({KIND, *KINDS, *HANDOVER_KINDS} - {"clean"})
"""Kinds of episodes in which the expert's plans stand beside other commands."""


@pytest.mark.parametrize("kind", UNLIKE)
def test_episodes_whose_plans_are_the_experts_and_not_what_was_done_are_not_resampled(tmp_path, capsys, kind):
    source, out = tmp_path / "in", tmp_path / "out"
    for i, one in enumerate(("clean", kind, "recorded")):
        write_episode(source / "episodes" / f"{i:06d}.npz", {**episode(seed=i), "kind": np.array(one)})
    for speed in ("1.0", "2.0"):
        assert main(["data", "resample", str(source), "--out", str(tmp_path / speed), "--speed", speed]) == 2
        said = capsys.readouterr().err
        assert "000001.npz: resample: would make the plans of what was done" in said
        assert f"an episode of kind {kind}" in said
    assert main(["data", "resample", str(source), "--out", str(out), "--skip-bad"]) == 1
    assert [path.stem for path in episode_files(out)] == ["000000", "000002"]


def test_an_episode_that_does_not_say_how_it_was_made_is_not_resampled():
    with pytest.raises(DataError, match="of unknown kind"):
        respaced({name: array for name, array in episode().items() if name != "kind"}, SPEC, 1.0)


def test_too_fast_for_two_frames_is_refused():
    assert len(respaced(episode(4, moving=slice(1, 3)), SPEC, 3.0)["time_s_T"]) == 2
    with pytest.raises(DataError, match="fewer than two frames"):
        respaced(episode(4, moving=slice(1, 3)), SPEC, 3.5)


def test_a_gap_in_the_times_is_filled_by_interpolation():
    arrays = episode()
    kept = np.delete(np.arange(30), [8, 9, 10])
    holes = take_frames(arrays, kept)
    whole = respaced(holes, SPEC, 1.0)
    assert len(whole["time_s_T"]) == 30
    assert np.allclose(whole["position_TJ"], arrays["position_TJ"], atol=1e-6)


def test_plans_are_the_commands_to_come_and_the_last_is_held():
    command = np.arange(5, dtype=np.float32)[:, None] * np.ones((1, JOINTS), np.float32)
    plan = future_plan(command, command, 3)
    assert plan[:, :, 0].tolist() == [[1, 2, 3], [2, 3, 4], [3, 4, 4], [4, 4, 4], [4, 4, 4]]


def put(cell: Cell, joints: np.ndarray) -> None:
    """The simulator's robot in a posture."""
    for name, value in zip(SPEC.joint_names, joints, strict=True):
        cell.data.qpos[cell.model.joint(name).qposadr[0]] = value
    mujoco.mj_forward(cell.model, cell.data)


def jaw_story() -> tuple[np.ndarray, np.ndarray]:
    """The right jaw closes on a 4 cm block at 1 s, holds it for 1.5 s, opens; then closes on nothing and opens."""
    jaw = np.concatenate([
        np.full(10, 0.04), np.linspace(0.036, 0.02, 3), np.full(15, 0.02), np.linspace(0.025, 0.04, 4),
        np.full(5, 0.04),
        np.linspace(0.03, 0.0, 4), np.full(8, 0.0), np.linspace(0.01, 0.04, 4),
    ])
    told = np.where(np.arange(len(jaw)) < 10, 0.04, np.where(np.arange(len(jaw)) < 28, 0.0, jaw))
    position = np.tile(SPEC.limit("home").astype(np.float32), (len(jaw), 1))
    command = position.copy()
    position[:, 13], command[:, 13] = jaw, told
    return position, command


def test_a_jaw_that_stands_still_on_something_has_grasped_it_and_one_that_shuts_has_not():
    position, command = jaw_story()
    [held] = grasps(SPEC, position, command, 0.1)
    assert held.arm == "right"
    assert abs(held.start - 13) <= 1
    assert abs(held.end - 28) <= 1
    assert grasps(SPEC, position, None, 0.1) == [held]


def test_an_arm_that_was_sent_no_commands_grasps_by_its_jaw_alone():
    position, command = jaw_story()
    position[:, 6] = command[:, 6] = position[:, 13]
    left, right = sorted(grasps(SPEC, position, command, 0.1), key=lambda grasp: grasp.arm)
    assert (left.arm, right.arm) == ("left", "right")
    assert (left.start, left.end) == (right.start, right.end)
    command[5, 0] += 0.01
    assert [grasp.arm for grasp in grasps(SPEC, position, command, 0.1)] == ["right"], "told, and not to press"


def test_contacts_lie_between_the_finger_pads():
    position, command = jaw_story()
    robot, cell = RobotKinematics(SPEC), Cell(SPEC)
    events = contact_events(robot, position, grasps(SPEC, position, command, 0.1))
    put(cell, position[14])
    assert [event.kind for event in events] == ["pick", "place"]
    for event in events:
        assert np.linalg.norm(event.point - cell.pinch_position("right")) < 1e-6


def test_cameras_by_kinematics_are_those_of_the_simulator():
    robot, cell = RobotKinematics(SPEC), Cell(SPEC)
    rng = np.random.default_rng(3)
    for _ in range(5):
        joints = np.clip(SPEC.limit("home") + rng.normal(0, 0.3, JOINTS), SPEC.limit("lower"), SPEC.limit("upper"))
        robot.place(joints)
        put(cell, joints)
        for camera in ("head", "left_wrist", "right_wrist"):
            ours, theirs = robot.camera(camera), cell.camera_model(camera)
            assert np.allclose(ours.T_world_cam, theirs.T_world_cam, atol=1e-9)
            assert ours.fx_px == theirs.fx_px


def test_stages_and_progress_follow_the_contacts():
    position, command = jaw_story()
    events = contact_events(RobotKinematics(SPEC), position, grasps(SPEC, position, command, 0.1))
    stage, progress = stages(len(position), events)
    names = [STAGES[i] for i in stage]
    assert [names[0], names[15], names[-1]] == ["pick", "place", "done"]
    assert progress[0] == 0
    assert progress[-1] == 1
    assert (np.diff(progress) >= 0).all()
    assert np.allclose(progress_of(stage), progress)


def test_labelling_that_was_cut_off_tells_its_difference_over_all_episodes(tmp_path, capsys, monkeypatch):
    position, command = jaw_story()
    for i in range(2):
        joints = {"position_TJ": position, "command_TJ": command}
        write_episode(tmp_path / "in" / "episodes" / f"{i:06d}.npz", {**episode(len(position), seed=i), **joints})
    words = ["data", "annotate", str(tmp_path / "in"), "--from-joints", "--out"]
    assert main([*words, str(tmp_path / "whole")]) == 0
    told = capsys.readouterr().out.splitlines()[0]
    assert told.startswith("against the labels before, in 2 episodes: median ")
    relabelled, calls = tools.relabelled, []

    def cut_off(*given):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return relabelled(*given)

    monkeypatch.setattr(tools, "relabelled", cut_off)
    with pytest.raises(KeyboardInterrupt):
        tools.annotate_command(Namespace(folder=tmp_path / "in", out=tmp_path / "out", robot="bimanual_sim",
                                         from_joints=True, skip_bad=False))
    assert main([*words, str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.splitlines()[0] == told
    assert len(calls) == 3
