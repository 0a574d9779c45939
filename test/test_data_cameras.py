"""Calibration and depth of recordings: any image size of the contract's aspect gives the same labels."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_data_import_again import write_lerobot
from test_data_store import jaw_story
from test_data_wire import HEADER, LAYOUT, SPEC, Wire, sent

from starry_ros.cli import main
from starry_ros.data.contacts import ContactEvent, annotate, dropped, grasps, label_frames, surface
from starry_ros.data.depth import millimetres
from starry_ros.data.lerobot_read import LeRobotReader
from starry_ros.data.mcap_read import read_mcap
from starry_ros.data.mcap_tape import read_tape
from starry_ros.data.recording import Recording, resampled, to_episode
from starry_ros.data.store import read_episode
from starry_ros.kinematics.robot import RobotKinematics
from starry_ros.types import CameraModel

VGA_K = [500.0, 0, 310.0, 0, 480.0, 250.0, 0, 0, 1]
"""fx, skew, cx, 0, fy, cy, ... of the head camera at 640x480."""
OPTICAL_DOWN = np.diag([1.0, -1.0, -1.0])


def info(width: int, height: int, k: list[float]) -> dict[str, Any]:
    return {"height": height, "width": width, "k": k}


def depth_image(depth_m: np.ndarray, encoding: str, padding: int = 0) -> dict[str, Any]:
    """A depth image as drivers send it, each row `padding` bytes longer than it needs."""
    values = np.round(1000 * depth_m).astype("<u2") if encoding == "16UC1" else depth_m.astype("<f4")
    rows = [row.tobytes() + b"\xff" * padding for row in values]
    return {"header": HEADER, "height": len(rows), "width": depth_m.shape[1], "encoding": encoding,
            "is_bigendian": 0, "step": len(rows[0]), "data": b"".join(rows)}


def record(path: Path, head_info: dict[str, Any] | None, depth: dict[str, Any] | None = None) -> np.ndarray:
    """The story of a jaw that grasps and lets go, with what the head camera says of itself; returns the joints."""
    position, command = jaw_story()
    names = [joint.name for joint in SPEC.arms[1].joints]
    with Wire(path) as wire:
        wire.epoch(0.0, 1)
        if head_info is not None:
            wire.send("/head/camera_info", "CameraInfo", 0.0, head_info)
        for frame, (row, told) in enumerate(zip(position, command, strict=True)):
            wire.joints(0.1 * frame, row)
            wire.images(0.1 * frame)
            if depth is not None:
                wire.send("/head/depth/image_raw", "Image", 0.1 * frame, depth)
            point = {"positions": told[7:].tolist(), "velocities": [], "accelerations": [], "effort": [],
                     "time_from_start": {"sec": 0, "nanosec": 0}}
            wire.send("/right_arm_controller/joint_trajectory", "JointTrajectory", 0.1 * frame,
                      {"header": HEADER, "joint_names": names, "points": [point]})
    return position


def bring(path: Path, out: Path, *options: str) -> int:
    return main(["data", "import", str(path), "--out", str(out), *options])


def labels(out: Path) -> np.ndarray:
    return read_episode(out / "episodes" / "000000.npz")["events_TEVF"]


def head_view(position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the right hand is in the frame of the head camera [3], and the camera's pose [4, 4]."""
    robot = RobotKinematics(SPEC)
    robot.place(position.astype(np.float64))
    pose = robot.camera_pose("head")
    assert pose is not None
    return pose[:3, :3].T @ (robot.hand("right") - pose[:3, 3]), pose


def test_labels_of_a_camera_twice_the_contracts_size_lie_where_its_picture_shows_the_contact(tmp_path):
    position = record(tmp_path / "a.mcap", info(640, 480, VGA_K))
    assert bring(tmp_path / "a.mcap", tmp_path / "out") == 0
    (x, y, z), _ = head_view(position[0])
    u, v = VGA_K[0] * x / z + VGA_K[2], VGA_K[4] * y / z + VGA_K[5]
    assert 0 < u < 640
    assert 0 < v < 480
    content = LAYOUT.tile("head").content
    wanted = (content.x_px + (u + 0.5) / 640 * content.width_px - 0.5,
              content.y_px + (v + 0.5) / 480 * content.height_px - 0.5)
    pick = labels(tmp_path / "out")[0, 0, 0]
    assert np.allclose(pick[:2], wanted, atol=1e-3)
    assert pick[3:].tolist() == [1, 1]
    assert pick[2] == pytest.approx(np.clip(VGA_K[0] * 0.02 / z * content.width_px / 640, 2, 10), rel=1e-4)


def test_a_calibration_of_another_aspect_is_refused_by_file_and_camera(tmp_path, capsys):
    record(tmp_path / "a.mcap", info(640, 360, VGA_K))
    record(tmp_path / "b.mcap", info(640, 480, VGA_K))
    assert bring(tmp_path / "a.mcap", tmp_path / "strict") == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'a.mcap'}, episode 0" in said
    assert "calibration of camera head is of another aspect than the robot contract; got 640x360" in said
    assert bring(tmp_path, tmp_path / "out", "--skip-bad") == 1
    assert [path.stem for path in (tmp_path / "out/episodes").iterdir()] == ["001000"]


def test_a_camera_info_of_zeros_says_that_the_camera_was_not_calibrated(tmp_path):
    record(tmp_path / "zeros.mcap", info(640, 480, [0.0] * 9))
    record(tmp_path / "none.mcap", None)
    for name in ("zeros", "none"):
        assert bring(tmp_path / f"{name}.mcap", tmp_path / name) == 0
    assert np.array_equal(labels(tmp_path / "zeros"), labels(tmp_path / "none"))


def plane_depth(pose: np.ndarray, k: list[float], size: tuple[int, int], height_m: float) -> np.ndarray:
    """Depth image of a table at a height in the world: where each pixel's ray meets it."""
    width, height = size
    u, v = np.meshgrid(np.arange(width), np.arange(height))
    rays = np.stack([(u - k[2]) / k[0], (v - k[5]) / k[4], np.ones_like(u, dtype=float)], axis=-1) @ pose[:3, :3].T
    depth = (height_m - pose[2, 3]) / rays[..., 2]
    return np.where((depth > 0) & (depth < 10), depth, 0.0)


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
def test_depth_of_a_larger_picture_puts_a_let_go_onto_the_table_and_hides_what_lies_behind_it(tmp_path, encoding):
    position, _ = jaw_story()
    _, pose = head_view(position[0])
    robot = RobotKinematics(SPEC)
    robot.place(position[0].astype(np.float64))
    hand = robot.hand("right")
    low, high = hand[2] - 0.1, hand[2] + 0.1
    for name, height_m in (("low", low), ("high", high)):
        image = depth_image(plane_depth(pose, VGA_K, (640, 480), height_m), encoding, padding=12)
        record(tmp_path / f"{name}.mcap", info(640, 480, VGA_K), image)
        assert bring(tmp_path / f"{name}.mcap", tmp_path / name) == 0
    x, y, z = pose[:3, :3].T @ (np.array([hand[0], hand[1], low]) - pose[:3, 3])
    content = LAYOUT.tile("head").content
    wanted = [((VGA_K[0] * x / z + VGA_K[2]) + 0.5) / 640 * content.width_px - 0.5 + content.x_px,
              ((VGA_K[4] * y / z + VGA_K[5]) + 0.5) / 480 * content.height_px - 0.5 + content.y_px]
    place, pick = labels(tmp_path / "low")[0, 1, 0], labels(tmp_path / "low")[0, 0, 0]
    assert np.allclose(place[:2], wanted, atol=0.1)
    assert pick[3:].tolist() == [1, 1]
    assert labels(tmp_path / "high")[0, 0, 0, 3:].tolist() == [1, 0]


def test_depth_of_another_aspect_or_an_unknown_kind_is_refused(tmp_path, capsys):
    record(tmp_path / "a.mcap", None, depth_image(np.ones((9, 16)), "32FC1"))
    assert bring(tmp_path / "a.mcap", tmp_path / "a") == 2
    assert "depth of camera head is of another aspect than the robot contract; got 16x9" in capsys.readouterr().err
    record(tmp_path / "b.mcap", None, {**depth_image(np.ones((12, 16)), "32FC1"), "encoding": "rgb8"})
    assert bring(tmp_path / "b.mcap", tmp_path / "b") == 2
    said = capsys.readouterr().err
    assert "/head/depth/image_raw" in said
    assert "got rgb8; expected" in said


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
def test_depth_comes_in_as_metres_of_the_nearest_pixel_never_as_a_mean(tmp_path, encoding):
    depth = np.round(np.random.default_rng(0).uniform(0.3, 2.0, (240, 320)), 3)
    record(tmp_path / "a.mcap", None, depth_image(depth, encoding, padding=4))
    [made] = read_mcap(tmp_path / "a.mcap", SPEC)
    assert np.allclose(depths_of(made), depth, atol=1e-6)
    twice = np.repeat(np.repeat(depth, 3, axis=0), 3, axis=1)
    record(tmp_path / "b.mcap", None, depth_image(twice, encoding))
    [made] = read_mcap(tmp_path / "b.mcap", SPEC)
    assert np.allclose(depths_of(made), depth, atol=1e-6)


def depths_of(made: Recording) -> list[np.ndarray | None]:
    """The head camera's depth of every frame."""
    return [made.depths["head"].at(frame) for frame in range(len(made.time_s_T))]


def drive(path: Path, depth_s: list[float], frames: int = 20) -> None:
    """A robot that stands at 10 frames a second; depth images come at times of their own, the first of 1 mm, and so on.

    Depth carries stamps, and is recorded in the order in which it is given.
    """
    with Wire(path) as wire:
        wire.epoch(0.0, 1)
        for frame in range(frames):
            wire.joints(0.1 * frame, SPEC.limit("home"))
            wire.images(0.1 * frame)
        for number, at_s in enumerate(depth_s):
            image = depth_image(np.full((24, 32), (number + 1) / 1000), "16UC1")
            stamp = {"sec": 1000 + int(at_s), "nanosec": round(at_s % 1 * 1e9)}
            wire.send("/head/depth/image_raw", "Image", 0.001 * number,
                      {**image, "header": {"stamp": stamp, "frame_id": ""}})


def test_a_frame_has_no_depth_where_no_depth_image_is_near_enough(tmp_path):
    drive(tmp_path / "a.mcap", [0.0, 0.1, 0.2, 1.5])
    [made] = read_mcap(tmp_path / "a.mcap", SPEC)
    seen = depths_of(made)
    with_depth = [frame for frame, depth in enumerate(seen) if depth is not None]
    assert set(with_depth) - {3, 14, 16} == {0, 1, 2, 15}, "at 0.1 s either way it may be"
    assert [round(1000 * float(seen[frame].max())) for frame in (0, 1, 2, 15)] == [1, 2, 3, 4]
    assert len(to_episode(made, SPEC)["events_TEVF"]) == 20
    slow = resampled(made, 0.5)
    assert [depth is None for depth in depths_of(slow)] == [False, True, True, False]


def test_of_depth_at_a_cameras_rate_is_kept_what_the_models_rate_needs(tmp_path):
    times = [0.02 * i for i in range(96)]
    drive(tmp_path / "a.mcap", times)
    kept = read_tape(tmp_path / "a.mcap", SPEC).depths["head"]
    assert np.allclose([at - 1000 for at, _ in kept], times[::3])
    assert {image.dtype for _, image in kept} == {np.dtype(np.uint16)}
    [made] = read_mcap(tmp_path / "a.mcap", SPEC)
    nearest = [times.index(min(times[::3], key=lambda at, frame=frame: abs(at - 0.1 * frame))) for frame in range(20)]
    assert [round(1000 * float(depth.max())) - 1 for depth in depths_of(made)] == nearest


def test_a_depth_image_stamped_in_the_future_keeps_none_away(tmp_path):
    drive(tmp_path / "a.mcap", [0.0, 500.0, *(0.1 * i for i in range(1, 20))])
    [made] = read_mcap(tmp_path / "a.mcap", SPEC)
    assert [round(1000 * float(depth.max())) for depth in depths_of(made)] == [1, *range(3, 22)]


def test_depth_is_kept_in_whole_millimetres_and_no_depth_as_none():
    depth = np.array([[0.3004, 65.0, 100.0], [np.nan, np.inf, -1.0]], np.float32)
    assert millimetres(depth).tolist() == [[300, 65000, 65535], [0, 0, 0]]


@pytest.mark.parametrize(("kind", "unit_m"), [(pa.uint16(), 0.001), (pa.float32(), 1.0)])
def test_depth_of_a_lerobot_data_set_comes_in_as_metres_and_labels_with_it(tmp_path, kind, unit_m):
    depth_m = np.round(np.random.default_rng(1).uniform(0.3, 2.0, (12, 24, 32)), 3)
    write_lerobot(tmp_path / "in", [0.02])
    add_depth(tmp_path / "in", (depth_m / unit_m).tolist(), kind)
    made = LeRobotReader(tmp_path / "in", SPEC).recording(0)
    assert set(made.depths) == {"head"}
    assert np.allclose(depths_of(made), depth_m.repeat(10, axis=1).repeat(10, axis=2), atol=1e-6)
    assert bring(tmp_path / "in", tmp_path / "out") == 0
    assert "labelled_with_depth" in read_episode(tmp_path / "out/episodes/000000.npz")


@pytest.mark.parametrize(("frame", "says"), [
    ([[1.0] * 32] * 18, "depth of camera head is of another aspect"), ([[1.0] * 32, [1.0]], "is not a depth image"),
    (None, "is not a depth image"),
])
def test_a_lerobot_frame_without_proper_depth_is_named_and_skipped_when_told_to(tmp_path, capsys, frame, says):
    write_lerobot(tmp_path / "in", [0.01, 0.02])
    add_depth(tmp_path / "in", [frame] * 12, pa.float32(), episode=1)
    assert bring(tmp_path / "in", tmp_path / "strict") == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'in'}, episode 1" in said
    assert says in said
    assert bring(tmp_path / "in", tmp_path / "out", "--skip-bad") == 1


def add_depth(root: Path, frames: list[Any], kind: pa.DataType, episode: int = 0) -> None:
    """A column of depth images of the head camera beside the rest of an episode."""
    path = root / f"data/episode_{episode:06d}.parquet"
    column = pa.array([frame and [[round(v) if pa.types.is_integer(kind) else v for v in row] for row in frame]
                       for frame in frames], pa.list_(pa.list_(kind)))
    pq.write_table(pq.read_table(path).append_column("observation.depth.head", column), path)


def overhead(width: int, height: int, focal: float) -> CameraModel:
    """A camera 2 m above the origin that looks straight down."""
    pose = np.eye(4)
    pose[:3, :3], pose[2, 3] = OPTICAL_DOWN, 2.0
    return CameraModel("head", width, height, focal, focal, width / 2 - 0.5, height / 2 - 0.5, pose)


def test_the_surface_in_a_pixel_lies_on_its_ray_at_its_depth():
    camera = overhead(64, 48, 40.0)
    depth = np.full((48, 64), 1.5)
    depth[10, 50] = 1.2
    u, v = 50, 10
    at = np.array([(u - 31.5) / 40 * 1.9, -(v - 23.5) / 40 * 1.9, 0.1])
    assert np.allclose(surface(camera, at, depth), [(u - 31.5) / 40 * 1.2, -(v - 23.5) / 40 * 1.2, 0.8])
    assert np.allclose(surface(camera, np.zeros(3), depth)[2], 0.5)
    for hole in (0.0, np.nan, np.inf):
        depth[10, 50] = hole
        assert surface(camera, at, depth) is None
    assert surface(camera, np.array([5.0, 0, 0]), depth) is None
    assert surface(camera, np.array([0, 0, 3.0]), depth) is None


def test_a_place_goes_straight_down_to_what_was_seen_there_and_stays_where_nothing_was(tmp_path):
    position, command = jaw_story()
    robot = RobotKinematics(SPEC)
    [held] = grasps(SPEC, position, command, 0.1)
    robot.place(position[0].astype(np.float64))
    hand, camera = robot.hand("right"), robot.camera("head")
    k = [camera.fx_px, 0, camera.cx_px, 0, camera.fy_px, camera.cy_px]
    table = plane_depth(camera.T_world_cam, k, (320, 240), hand[2] - 0.08)
    asked: list[int] = []

    def depth_at(frame: int, name: str) -> np.ndarray | None:
        asked.append(frame)
        return table if name == "head" else None

    assert np.allclose(dropped(robot, position, held, hand, depth_at), [*hand[:2], hand[2] - 0.08], atol=2e-3)
    assert set(asked) == {held.start - 1}
    assert np.array_equal(dropped(robot, position, held, hand, lambda *_: np.zeros((240, 320))), hand)
    above = plane_depth(camera.T_world_cam, k, (320, 240), hand[2] + 0.05)
    assert np.array_equal(dropped(robot, position, held, hand, lambda *_: above), hand)


def test_a_contact_is_hidden_in_the_view_whose_depth_shows_something_before_it():
    position, _ = jaw_story()
    robot = RobotKinematics(SPEC)
    robot.place(position[0].astype(np.float64))
    contact = ContactEvent(5, "pick", robot.hand("right"))
    distance = float(head_view(position[0])[0][2])
    for depth_m, visible in ((distance - 0.05, 0), (distance - 0.01, 1), (distance + 0.3, 1)):
        seen = label_frames(robot, LAYOUT, position[:2], [contact],
                            lambda _, name, depth_m=depth_m: np.full((240, 320), depth_m) if name == "head" else None)
        assert seen[:, 0, 0, 4].tolist() == [visible] * 2
        assert np.array_equal(seen[:, 0, 1:, 4], seen[:, 0, 1:, 3])


def test_labels_that_needed_depth_are_not_made_anew_without_it(tmp_path, capsys):
    depth = depth_image(np.full((24, 32), 0.1), "32FC1")
    record(tmp_path / "deep.mcap", None, depth)
    record(tmp_path / "flat.mcap", None)
    for name in ("deep", "flat"):
        assert bring(tmp_path / f"{name}.mcap", tmp_path / name) == 0
    again = ["data", "annotate", str(tmp_path / "deep"), "--out", str(tmp_path / "again")]
    assert main(again) == 0
    assert main([*again[:-1], str(tmp_path / "anew"), "--from-joints"]) == 2
    said = capsys.readouterr().err
    assert "000000.npz: " in said
    assert "labelled with depth" in said
    assert "import" in said
    for kind in ("lerobot", "mcap"):
        assert main(["data", "export", str(tmp_path / "deep"), str(tmp_path / kind), "--format", kind]) == 0
        assert bring(tmp_path / kind, tmp_path / f"{kind}_back") == 0
        assert np.array_equal(labels(tmp_path / f"{kind}_back"), labels(tmp_path / "deep"))
        assert main(["data", "annotate", str(tmp_path / f"{kind}_back"), "--out", str(tmp_path / f"{kind}_anew"),
                     "--from-joints"]) == 2
    flat = ["data", "annotate", str(tmp_path / "flat"), "--out", str(tmp_path / "flat_anew"), "--from-joints"]
    assert main(flat) == 0


def test_an_export_to_mcap_says_with_what_cameras_it_was_recorded(tmp_path):
    record(tmp_path / "a.mcap", info(640, 480, VGA_K))
    assert bring(tmp_path / "a.mcap", tmp_path / "made") == 0
    assert main(["data", "export", str(tmp_path / "made"), str(tmp_path / "out"), "--format", "mcap"]) == 0
    [told] = sent(tmp_path / "out/000000.mcap", "/head/camera_info")
    picture = sent(tmp_path / "out/000000.mcap", "/head/image_raw")[0]
    assert (told.width, told.height) == (picture.width, picture.height)
    scale = picture.width / 640
    assert np.allclose([told.k[0], told.k[2], told.k[4], told.k[5]],
                       [500 * scale, 310.5 * scale - 0.5, 480 * scale, 250.5 * scale - 0.5])
    assert told.p[0] == told.k[0]
    assert sent(tmp_path / "out/000000.mcap", "/left_wrist/camera_info") == []
    made, back = (tmp_path / name / "episodes/000000.npz" for name in ("made", "back"))
    assert bring(tmp_path / "out/000000.mcap", tmp_path / "back") == 0
    assert np.array_equal(read_episode(back)["calibration_VF"], read_episode(made)["calibration_VF"])
    [foreign] = read_mcap(tmp_path / "out/000000.mcap", dataclasses.replace(SPEC, name="twin"))
    robot = RobotKinematics(SPEC, foreign.calibration)
    told_again = annotate(robot, LAYOUT, read_episode(made))["events_TEVF"]
    assert np.allclose(told_again, labels(tmp_path / "made"), atol=1e-3)
