"""LeRobot and MCAP, out and in again: nothing is lost; what comes from elsewhere is brought to the contract."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_data_store import episode

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.canvas.pack import CanvasPacker
from starry_ros.cli import main
from starry_ros.data.lerobot_format import arrow
from starry_ros.data.lerobot_read import LeRobotReader, Mapping
from starry_ros.data.mcap_read import _complete, read_mcap
from starry_ros.data.mcap_tape import Tape
from starry_ros.data.mcap_write import export_mcap
from starry_ros.data.recording import Recording, resampled, to_episode
from starry_ros.data.store import episode_files, read_episode, whole_arrays, whole_values, write_episode
from starry_ros.data.video import VideoWriter, read_video
from starry_ros.errors import DataError, RuntimeUnavailable
from starry_ros.paths import robot_file
from starry_ros.robot_spec import load_robot_spec
from starry_ros.training.form import progress_of
from starry_ros.training.scenes import NAMES as NAMES_OF_SCENE
from starry_ros.training.scenes import load_scenes

SPEC = load_robot_spec(robot_file("bimanual_sim"))
LAYOUT = t_pose_layout(SPEC)
NAMES = list(SPEC.joint_names)


def painted(seed: int, frames: int = 12) -> dict[str, np.ndarray]:
    """An episode whose canvas is smooth in the views (cheap to code) and black outside, as a packed one is."""
    arrays = episode(frames, seed, slice(2, 8))
    coarse = arrays["canvas_THWC"][:, ::32, ::32]
    arrays["canvas_THWC"] = np.stack([cv2.resize(image, (160, 192)) for image in coarse])
    inside = np.zeros((192, 160, 1), np.uint8)
    for tile in LAYOUT.tiles:
        inside[tile.content.slices] = 1
    return {**arrays, "canvas_THWC": arrays["canvas_THWC"] * inside}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(3):
        write_episode(tmp_path / "made" / "episodes" / f"{i:06d}.npz", painted(i, 4 + i))
    return tmp_path / "made"


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """Episodes as `starry data generate --depth` makes them."""
    rng = np.random.default_rng(0)
    for i, frames in enumerate((5, 3)):
        arms, views = len(SPEC.arms), len(SPEC.cameras)
        scene = {
            "depth_THW": rng.integers(0, 3000, (frames, 192, 160)).astype(np.uint16),
            "pose_TV44": rng.normal(size=(frames, views, 4, 4)).astype(np.float32),
            "camera_V4": rng.uniform(50, 90, (views, 4)).astype(np.float32),
            "hands_TA3": rng.normal(size=(frames, arms, 3)).astype(np.float32),
        }
        assert set(scene) == set(NAMES_OF_SCENE)
        write_episode(tmp_path / "deep" / "episodes" / f"{i:06d}.npz", {**painted(i, frames), **scene})
    return tmp_path / "deep"


def same(first: Path, second: Path) -> None:
    ours, theirs = read_episode(first), read_episode(second)
    assert set(ours) <= set(theirs)
    for name, array in ours.items():
        assert np.array_equal(theirs[name], array), name
        assert theirs[name].dtype == array.dtype, name


def test_a_video_gives_back_every_pixel_from_any_frame_on(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (9, 30, 40, 3), dtype=np.uint8)
    writer = VideoWriter(tmp_path / "a.mp4", 10, 30, 40)
    writer.add(images)
    writer.close()
    for first in range(9):
        assert np.array_equal(np.stack(list(read_video(tmp_path / "a.mp4", first / 10, 9 - first, 10))), images[first:])
    with pytest.raises(DataError, match="ends early"):
        list(read_video(tmp_path / "a.mp4", 0.5, 9, 10))
    (tmp_path / "b.mp4").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"b\.mp4"):
        list(read_video(tmp_path / "b.mp4", 0.0, 1, 10))


@pytest.mark.parametrize("kind", ["lerobot", "mcap"])
@pytest.mark.parametrize("source", ["folder", "deep"])
def test_a_round_trip_loses_nothing(source, kind, request, tmp_path):
    made = request.getfixturevalue(source)
    assert main(["data", "export", str(made), str(tmp_path / kind), "--format", kind]) == 0
    assert main(["data", "import", str(tmp_path / kind), "--out", str(tmp_path / "back")]) == 0
    for first, second in zip(episode_files(made), episode_files(tmp_path / "back"), strict=True):
        same(first, second)


def test_what_was_exported_without_types_is_read_and_trained_on_in_single_precision(deep, tmp_path):
    path = episode_files(deep)[0]
    arrays = read_episode(path)
    values, _ = whole_values(arrays)
    again = {**arrays, **whole_arrays(values, {})}
    assert again["camera_V4"].dtype == np.float64
    write_episode(path, again)
    with pytest.raises(DataError, match="elsewhere: holds no episodes"):
        load_scenes(tmp_path / "elsewhere", 16, 10)
    scenes = load_scenes(deep, 16, 10)
    assert {array.dtype.name for array in (scenes.intrinsics_FV4, scenes.pose_FV44, scenes.hands_FA3)} == {"float32"}


def test_the_lerobot_folder_follows_the_documented_format(folder, tmp_path):
    main(["data", "export", str(folder), str(tmp_path)])
    info = json.loads((tmp_path / "meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["total_episodes"], info["total_frames"]) == ("v3.0", 10, 3, 15)
    data = pq.read_table(tmp_path / info["data_path"].format(chunk_index=0, file_index=0))
    for name, feature in info["features"].items():
        if feature["dtype"] == "video":
            assert (tmp_path / info["video_path"].format(video_key=name, chunk_index=0, file_index=0)).exists()
            continue
        wide = pa.types.is_fixed_size_list(data.schema.field(name).type)
        assert feature["shape"] == [data.schema.field(name).type.list_size if wide else 1], name
    assert data["index"].to_pylist() == list(range(15))
    assert np.allclose(data["timestamp"].to_pylist()[4:7], [0.0, 0.1, 0.2])
    tasks = pq.read_table(tmp_path / "meta/tasks.parquet")
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["__index_level_0__"]
    rows = pq.read_table(tmp_path / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    key = "videos/observation.images.head/"
    assert [(row[key + "from_timestamp"], row["dataset_from_index"], row["length"]) for row in rows] == [
        (0.0, 0, 4), (pytest.approx(0.4), 4, 5), (pytest.approx(0.9), 9, 6)]
    stats = json.loads((tmp_path / "meta/stats.json").read_text())
    state = np.array(data["observation.state"].to_pylist())
    assert np.allclose(stats["observation.state"]["mean"], state.mean(0), atol=1e-6)
    assert np.allclose(stats["observation.state"]["std"], state.std(0), atol=1e-6)
    assert np.shape(stats["observation.images.head"]["mean"]) == (3, 1, 1)
    command = np.array(data["observation.command"].to_pylist())
    assert np.allclose(np.array(data["action"].to_pylist())[:3], command[1:4])


def test_an_export_is_continued_and_another_data_set_is_refused(folder, tmp_path, capsys):
    out = tmp_path / "lerobot"
    main(["data", "export", str(folder), str(out)])
    video = out / "videos/observation.images.head/chunk-000/file-000.mp4"
    before = video.stat().st_mtime_ns
    (out / "meta/info.json").unlink()
    assert main(["data", "export", str(folder), str(out)]) == 0
    assert video.stat().st_mtime_ns == before
    assert json.loads((out / "meta/info.json").read_text())["total_frames"] == 15
    write_episode(folder / "episodes" / "000009.npz", painted(9))
    assert main(["data", "export", str(folder), str(out)]) == 2
    assert "another data set" in capsys.readouterr().err


def test_unlike_episodes_are_refused_by_name_before_anything_is_written(folder, tmp_path, capsys):
    out = tmp_path / "lerobot"
    for number in range(3, 30):
        write_episode(folder / "episodes" / f"{number:06d}.npz", painted(number, 3))
    odd = painted(0, 4)
    write_episode(folder / "episodes" / "000025.npz", {**odd, "wish_T": np.ones(4)})
    write_episode(folder / "episodes" / "000027.npz", {name: odd[name] for name in odd if name != "velocity_TJ"})
    write_episode(folder / "episodes" / "000028.npz", {**odd, "plan_TKJ": odd["plan_TKJ"][:, :8]})
    assert main(["data", "export", str(folder), str(out)]) == 2
    said = capsys.readouterr().err
    assert "000025 adds wish_T; 000027 lacks velocity_TJ; 000028 has plan_TKJ of another form" in said
    assert not out.exists()


def test_episodes_with_and_without_progress_are_one_data_set_where_all_have_it(folder, tmp_path):
    told = np.linspace(0, 1, 4).astype(np.float32)
    write_episode(folder / "episodes" / "000001.npz", {**painted(1, 4), "progress_T": told})
    assert main(["data", "export", str(folder), str(tmp_path / "lerobot")]) == 0
    assert main(["data", "import", str(tmp_path / "lerobot"), "--out", str(tmp_path / "back")]) == 0
    made = [read_episode(path) for path in episode_files(tmp_path / "back")]
    assert np.array_equal(made[1]["progress_T"], told)
    for arrays in (made[0], made[2]):
        assert np.array_equal(arrays["progress_T"], progress_of(arrays["stage_T"]))


def test_an_export_of_nothing_but_bad_episodes_says_so(tmp_path, capsys):
    (tmp_path / "in" / "episodes").mkdir(parents=True)
    (tmp_path / "in" / "episodes" / "000000.npz").write_bytes(b"no")
    assert main(["data", "export", str(tmp_path / "in"), str(tmp_path / "out"), "--skip-bad"]) == 2
    assert "holds no sound episode" in capsys.readouterr().err


def write_v21(root: Path, frames: int = 40, hz: int = 20) -> dict[str, np.ndarray]:
    """A LeRobotDataset v2.1 as others write it: cameras of 64x48, joints in reverse order and degrees, jaws 0 to 1."""
    rng = np.random.default_rng(5)
    time_s = np.arange(frames) / hz
    joints = SPEC.limit("home") + 0.2 * np.sin(time_s)[:, None] * (1 - np.isin(np.arange(14), SPEC.gripper_indices))
    stored = np.degrees(joints)
    stored[:, list(SPEC.gripper_indices)] = 1.0
    action = np.concatenate([stored[1:], stored[-1:]])
    images = rng.integers(0, 256, (3, frames, 48, 64, 3), dtype=np.uint8)
    names = {"motors": [f"{name}.pos" for name in NAMES[::-1]]}
    features = {
        "observation.state": {"dtype": "float32", "shape": [14], "names": names},
        "action": {"dtype": "float32", "shape": [14], "names": names},
        "observation.images.top": {"dtype": "video", "shape": [48, 64, 3], "names": None},
        "observation.images.left_wrist": {"dtype": "video", "shape": [48, 64, 3], "names": None},
        "observation.images.right_wrist": {"dtype": "image", "shape": [48, 64, 3], "names": None},
    }
    info = {
        "codebase_version": "v2.1", "fps": hz, "chunks_size": 1000, "features": features,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    (root / "meta").mkdir(parents=True)
    (root / "data/chunk-000").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "meta/tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": "put the red block on the pad"}) + "\n")
    (root / "meta/episodes.jsonl").write_text(json.dumps({"episode_index": 0, "tasks": ["x"], "length": frames}) + "\n")
    for key, view in zip(("top", "left_wrist"), images, strict=False):
        writer = VideoWriter(root / f"videos/chunk-000/observation.images.{key}/episode_000000.mp4", hz, 48, 64)
        writer.add(view)
        writer.close()
    pngs = [{"bytes": cv2.imencode(".png", image[..., ::-1])[1].tobytes(), "path": None} for image in images[2]]
    table = pa.table({
        "observation.state": stored[:, ::-1].astype(np.float32).tolist(), "action": action[:, ::-1].tolist(),
        "observation.images.right_wrist": pngs, "timestamp": time_s.astype(np.float32),
        "frame_index": range(frames), "episode_index": [0] * frames, "index": range(frames), "task_index": [0] * frames,
    })
    pq.write_table(table, root / "data/chunk-000/episode_000000.parquet")
    return {"images": images, "joints": joints}


FOREIGN = Mapping({"head": "observation.images.top"}, degrees=True, gripper_range=(0.0, 1.0))


def test_a_foreign_v21_data_set_comes_in_at_the_models_rate_and_order(tmp_path):
    truth = write_v21(tmp_path)
    made = to_episode(LeRobotReader(tmp_path, SPEC, FOREIGN).recording(0), SPEC)
    assert len(made["time_s_T"]) == 20
    assert np.allclose(made["position_TJ"], truth["joints"][::2], atol=1e-5)
    assert np.allclose(made["plan_TKJ"][0, 4], truth["joints"][10], atol=1e-5)
    cameras = tuple(dataclasses.replace(camera, width_px=64, height_px=48) for camera in SPEC.cameras)
    packer = CanvasPacker(t_pose_layout(dataclasses.replace(SPEC, cameras=cameras)))
    views = dict(zip(("head", "left_wrist", "right_wrist"), truth["images"][:, 6], strict=True))
    assert np.array_equal(made["canvas_THWC"][3], packer.pack_images(views))
    assert list(made["texts"]) == ["put the red block on the pad"]


def test_a_task_without_words_is_refused_or_named_by_an_option(tmp_path):
    write_v21(tmp_path)
    (tmp_path / "meta/tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": ""}) + "\n")
    with pytest.raises(DataError, match=r"episode 0: names no sentence.*--instruction"):
        LeRobotReader(tmp_path, SPEC, FOREIGN).recording(0)
    named = dataclasses.replace(FOREIGN, instruction="put the blue block on the pad")
    assert set(LeRobotReader(tmp_path, SPEC, named).recording(0).texts) == {"put the blue block on the pad"}


def test_what_cannot_be_matched_is_refused_by_name(tmp_path):
    write_v21(tmp_path)
    with pytest.raises(DataError, match=r"--camera head=FEATURE"):
        LeRobotReader(tmp_path, SPEC)
    right_unit = LeRobotReader(tmp_path, SPEC, dataclasses.replace(FOREIGN, gripper_range=None)).recording(0)
    with pytest.raises(DataError, match="left_gripper leaves the contract's limits"):
        to_episode(right_unit, SPEC)
    info = json.loads((tmp_path / "meta/info.json").read_text())
    info["features"]["observation.state"]["names"] = [f"motor_{i}" for i in range(14)]
    (tmp_path / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match=r"episode 0.*--by-position"):
        LeRobotReader(tmp_path, SPEC, FOREIGN).recording(0)
    (tmp_path / "meta/info.json").write_text(json.dumps({**info, "codebase_version": "v1.6"}))
    with pytest.raises(DataError, match="another version"):
        LeRobotReader(tmp_path, SPEC, FOREIGN)


def test_a_broken_file_is_named_and_skipped_only_when_told_to(tmp_path, capsys):
    good, broken = tmp_path / "in" / "a.mcap", tmp_path / "in" / "b.mcap"
    export_mcap(good, painted(0), SPEC)
    broken.write_bytes(good.read_bytes()[:5000])
    arguments = ["data", "import", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "b.mcap" in capsys.readouterr().err
    assert main([*arguments, "--skip-bad"]) == 1
    assert "skipped" in capsys.readouterr().err
    assert [path.stem for path in episode_files(tmp_path / "out")] == ["000000"]


def test_an_mcap_of_another_robot_is_labelled_anew(tmp_path):
    arrays = painted(0, 20)
    export_mcap(tmp_path / "a.mcap", arrays, SPEC)
    renamed = dataclasses.replace(SPEC, name="twin")
    [recording] = read_mcap(tmp_path / "a.mcap", renamed)
    assert not recording.known
    made = to_episode(recording, renamed)
    assert np.array_equal(made["position_TJ"], arrays["position_TJ"])
    assert np.array_equal(made["command_TJ"], arrays["command_TJ"])
    assert np.array_equal(made["canvas_THWC"], arrays["canvas_THWC"])
    assert np.array_equal(made["plan_TKJ"][0], arrays["command_TJ"][1:17])


def test_resampling_takes_the_latest_image_and_interpolates_joints():
    time_s = np.array([0.0, 0.04, 0.11, 0.15, 0.21, 0.3])
    position = np.column_stack([time_s] * 14).astype(np.float32)
    views = {"head": np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)}
    made = resampled(Recording("here", 5 + time_s, views, position, ["a"] * 3 + ["b"] * 3), 0.1)
    assert np.allclose(made.time_s_T, [0, 0.1, 0.2, 0.3])
    assert np.allclose(made.position_TJ[:, 0], [0, 0.1, 0.2, 0.3], atol=1e-6)
    assert made.views["head"][:, 0, 0, 0].tolist() == [0, 1, 3, 5]
    assert list(made.texts) == ["a", "a", "b", "b"]


@pytest.mark.parametrize("frames", range(2, 120, 9))
def test_times_in_single_precision_lose_no_frame(frames):
    time_s = (np.arange(frames) / 10).astype(np.float32).astype(np.float64)
    position = np.random.default_rng(frames).random((frames, 14)).astype(np.float32)
    recording = Recording("here", time_s, {}, position, ["a"] * frames)
    assert resampled(recording, 0.1) is recording


def test_frames_without_all_images_are_left_out_and_a_long_gap_is_refused():
    tape, times = Tape(), 0.08 * np.arange(30)
    image = np.zeros((2, 2, 3), np.uint8)
    tape.images = {"head": [(at, image) for at in times], "left_wrist": [(at + 0.02, image) for at in times]}
    tape.images["right_wrist"] = [(at, image) for i, at in enumerate(times) if not 10 < i < 15]
    assert np.allclose(_complete("here", tape, times), np.delete(times, [12, 13]))
    tape.images["right_wrist"] = [(at, image) for i, at in enumerate(times) if not 10 < i < 25]
    with pytest.raises(DataError, match="here: lost images, most of all camera right_wrist"):
        _complete("here", tape, times)


ARMS = ~np.isin(np.arange(14), SPEC.gripper_indices)
HOME = SPEC.limit("home")


def reaching(command: Callable[[np.ndarray, np.ndarray], np.ndarray], home: np.ndarray = HOME) -> Recording:
    """A recording of 4 s at 10 Hz whose arms swing about `home`; `command` makes its actions of positions and times."""
    time_s = np.arange(40) / 10
    position = home + 0.2 * np.sin(1.5 * time_s)[:, None] * ARMS
    views = {
        tile.camera: np.zeros((40, tile.content.height_px, tile.content.width_px, 3), np.uint8) for tile in LAYOUT.tiles
    }
    sent = command(position, time_s)
    return Recording("here", time_s, views, position.astype(np.float32), ["a"] * 40, sent.astype(np.float32))


def differences(position: np.ndarray, time_s: np.ndarray) -> np.ndarray:
    return np.diff(position, axis=0, append=position[-1:])


def velocities(position: np.ndarray, time_s: np.ndarray) -> np.ndarray:
    return 0.3 * np.cos(1.5 * time_s)[:, None] * ARMS


def test_actions_that_are_no_positions_are_told_by_what_they_look_like():
    with pytest.raises(DataError, match=r"here: its actions look like differences.*expected absolute joint positions"):
        to_episode(reaching(differences), SPEC)
    with pytest.raises(DataError, match="here: its actions look like velocities"):
        to_episode(reaching(velocities), SPEC)


@pytest.mark.parametrize("lag", [0, 1, 3])
def test_targets_that_lead_the_joints_are_positions_even_about_zero(lag):
    for home in (HOME, np.where(ARMS, 0.0, 0.02)):
        made = to_episode(reaching(lambda position, _: np.roll(position, -lag, axis=0), home), SPEC)
        assert len(made["time_s_T"]) == 40


def test_a_jaw_may_be_told_to_press_but_no_joint_to_go_anywhere():
    def pressed(depth_m: float) -> Recording:
        return reaching(lambda position, _: np.where(ARMS, position, -depth_m))

    assert to_episode(pressed(0.008), SPEC)["command_TJ"][5, 6] == np.float32(-0.008)
    with pytest.raises(DataError, match="here: the command for joint left_gripper leaves the contract's limits"):
        to_episode(pressed(0.02), SPEC)
    with pytest.raises(DataError, match=r"the command for joint left_shoulder.*to 3\.\d+; expected -1.85 to 1.25"):
        to_episode(reaching(lambda position, time_s: np.where(time_s[:, None] > 3.5, position + 3.5, position)), SPEC)


def test_a_jaw_may_be_forced_open_by_what_it_holds_but_is_no_share_of_its_range():
    def held(width_m: float) -> Recording:
        recording = reaching(lambda position, _: position)
        recording.position_TJ[:, list(SPEC.gripper_indices)] = width_m
        return recording

    assert to_episode(held(0.048), SPEC)["position_TJ"][5, 6] == np.float32(0.048)
    with pytest.raises(DataError, match="here: joint left_gripper leaves the contract's limits"):
        to_episode(held(1.0), SPEC)


@pytest.mark.parametrize("kind", ["lerobot", "mcap"])
def test_what_this_project_wrote_comes_back_wherever_its_joints_were(kind, tmp_path):
    path, beyond = tmp_path / "made" / "episodes" / "000000.npz", painted(0)
    beyond["position_TJ"] = beyond["position_TJ"] + np.float32(9.0)
    write_episode(path, beyond)
    assert main(["data", "export", str(tmp_path / "made"), str(tmp_path / kind), "--format", kind]) == 0
    assert main(["data", "import", str(tmp_path / kind), "--out", str(tmp_path / "back")]) == 0
    same(path, tmp_path / "back" / "episodes" / "000000.npz")


NEEDS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "arrow": ("pyarrow", lambda path: arrow()),
    "a video to write": ("av", lambda path: VideoWriter(path, 10, 30, 40)),
    "a video to read": ("av", lambda path: next(read_video(path, 0.0, 1, 10))),
    "MCAP to write": ("mcap_ros2.writer", lambda path: export_mcap(path, painted(0), SPEC)),
    "MCAP to read": ("mcap_ros2.decoder", lambda path: read_mcap(path, SPEC)),
}


@pytest.mark.parametrize("need", NEEDS)
def test_a_missing_library_is_installed_from_the_checkout(monkeypatch, tmp_path, need):
    library, use = NEEDS[need]
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(RuntimeUnavailable) as error:
        use(tmp_path / "a")
    assert error.value.fix == "pip install '.[data]' in the checkout"
