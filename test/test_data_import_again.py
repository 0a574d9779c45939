"""A second import into the same folder: other options are refused, what was bad is tried again, names stay."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_data_transfer import NAMES, painted
from test_data_wire import HOME, SPEC, Wire, stand

from starry_ros.cli import main
from starry_ros.data.journal import Journal, work_through
from starry_ros.data.mcap_write import export_mcap
from starry_ros.data.store import episode_files, read_episode
from starry_ros.errors import DataError

RANGE = ["--gripper-range", "0", "1"]


def write_lerobot(
    root: Path, jaws: list[float], first: int = 0, hz: int = 10, frames: list[int] | None = None
) -> None:
    """A LeRobotDataset v2.1 of one episode for each value of its jaws, numbered from `first` on; 12 frames each."""
    lengths = frames or [12] * len(jaws)
    cameras = [f"observation.images.{camera.name}" for camera in SPEC.cameras]
    features = {"observation.state": {"dtype": "float32", "shape": [14], "names": NAMES}}
    features |= {camera: {"dtype": "image", "shape": [24, 32, 3], "names": None} for camera in cameras}
    info = {"codebase_version": "v2.1", "fps": hz, "chunks_size": 1000, "features": features,
            "data_path": "data/episode_{episode_index:06d}.parquet", "video_path": "none"}
    (root / "meta").mkdir(parents=True, exist_ok=True)
    (root / "data").mkdir(exist_ok=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": "put the red block on the pad"}\n')
    numbers = range(first, first + len(jaws))
    lines = [json.dumps({"episode_index": i, "length": n}) for i, n in zip(numbers, lengths, strict=True)]
    (root / "meta/episodes.jsonl").write_text("\n".join(lines) + "\n")
    png = {"bytes": cv2.imencode(".png", np.zeros((24, 32, 3), np.uint8))[1].tobytes(), "path": None}
    for number, jaw, length in zip(numbers, jaws, lengths, strict=True):
        state = np.tile(HOME, (length, 1))
        state[:, [6, 13]] = jaw
        pq.write_table(pa.table({
            "observation.state": state.astype(np.float32).tolist(), **{camera: [png] * length for camera in cameras},
            "timestamp": (np.arange(length) / hz).astype(np.float32), "episode_index": [number] * length,
            "task_index": [0] * length,
        }), root / f"data/episode_{number:06d}.parquet")


def bring(source: Path | list[Path], out: Path, *options: str) -> int:
    sources = source if isinstance(source, list) else [source]
    return main(["data", "import", *map(str, sources), "--out", str(out), *options])


def names(out: Path) -> list[str]:
    return [path.stem for path in episode_files(out)]


def jaw_of(out: Path, name: str) -> float:
    return float(read_episode(out / "episodes" / f"{name}.npz")["position_TJ"][0, 6])


def test_episodes_of_other_units_do_not_come_into_the_same_folder(tmp_path, capsys):
    write_lerobot(tmp_path / "in", [0.03, 1.0])
    assert bring(tmp_path / "in", tmp_path / "out") == 2
    assert names(tmp_path / "out") == ["000000"]
    assert bring(tmp_path / "in", tmp_path / "out", *RANGE) == 2
    said = capsys.readouterr().err
    assert "another import" in said
    assert "'gripper_range': [0.0, 1.0]" in said
    assert "choose another folder, or delete" in said
    assert names(tmp_path / "out") == ["000000"]
    assert bring(tmp_path / "in", tmp_path / "other", *RANGE) == 0
    assert jaw_of(tmp_path / "other", "000001") == pytest.approx(0.04)


@pytest.mark.parametrize("option", [["--degrees"], ["--by-position"], ["--camera", "head=observation.images.head"]])
def test_every_option_of_the_mapping_tells_imports_apart(tmp_path, capsys, option):
    write_lerobot(tmp_path / "in", [0.03])
    assert bring(tmp_path / "in", tmp_path / "out") == 0
    assert bring(tmp_path / "in", tmp_path / "out", *option) == 2
    assert "another import" in capsys.readouterr().err
    assert bring(tmp_path / "in", tmp_path / "out") == 0


@pytest.mark.parametrize("skip", [[], ["--skip-bad"]])
def test_an_import_that_stored_nothing_does_not_bind_its_folder(tmp_path, skip):
    write_lerobot(tmp_path / "in", [1.0, 0.5])
    assert bring(tmp_path / "in", tmp_path / "out", *skip) == 2
    assert bring(tmp_path / "in", tmp_path / "out", *skip, *RANGE) == 0
    assert names(tmp_path / "out") == ["000000", "000001"]
    assert jaw_of(tmp_path / "out", "000001") == pytest.approx(0.02)


def test_another_sentence_for_files_that_name_none_is_another_import(tmp_path, capsys):
    with Wire(tmp_path / "a.mcap") as wire:
        stand(wire)
    assert bring(tmp_path / "a.mcap", tmp_path / "out", "--instruction", "put the red block on the pad") == 0
    assert bring(tmp_path / "a.mcap", tmp_path / "out", "--instruction", "put the blue block on the pad") == 2
    assert "put the blue block on the pad" in capsys.readouterr().err


def test_a_bad_episode_is_tried_again_and_a_good_one_is_not(tmp_path, capsys):
    write_lerobot(tmp_path / "in", [0.01, 0.02, 0.03])
    broken = tmp_path / "in/data/episode_000001.parquet"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:200])
    assert bring(tmp_path / "in", tmp_path / "out", "--skip-bad") == 1
    before = {path: path.stat().st_mtime_ns for path in episode_files(tmp_path / "out")}
    assert bring(tmp_path / "in", tmp_path / "out", "--skip-bad") == 1
    assert capsys.readouterr().err.count("skipped: ") == 2
    broken.write_bytes(whole)
    assert bring(tmp_path / "in", tmp_path / "out") == 0
    assert names(tmp_path / "out") == ["000000", "000001", "000002"]
    assert jaw_of(tmp_path / "out", "000001") == pytest.approx(0.02)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_an_episode_is_named_after_its_number_in_the_data_set(tmp_path):
    write_lerobot(tmp_path / "in", [0.01, 0.02], first=3)
    assert bring(tmp_path / "in", tmp_path / "out") == 0
    write_lerobot(tmp_path / "in", [0.0, 0.01, 0.02], first=2)
    assert bring(tmp_path / "in", tmp_path / "out") == 0
    assert [jaw_of(tmp_path / "out", f"{number:06d}") for number in (2, 3, 4)] == pytest.approx([0.0, 0.01, 0.02])


def test_episodes_that_a_data_set_no_longer_holds_are_removed(tmp_path, capsys):
    write_lerobot(tmp_path / "in", [0.01, 0.02, 0.03, 1.0])
    assert bring(tmp_path / "in", tmp_path / "out", "--skip-bad") == 1
    assert names(tmp_path / "out") == ["000000", "000001", "000002"]
    write_lerobot(tmp_path / "in", [0.01, 0.02])
    capsys.readouterr()
    assert bring(tmp_path / "in", tmp_path / "out", "--skip-bad") == 0
    assert names(tmp_path / "out") == ["000000", "000001"]
    assert "skipped" not in capsys.readouterr().err
    assert set(json.loads((tmp_path / "out/import.json").read_text())["done"]) == {"episode 0", "episode 1"}
    (tmp_path / "in/meta/episodes.jsonl").write_text("")
    assert bring(tmp_path / "in", tmp_path / "out") == 2
    assert "lists no episodes" in capsys.readouterr().err
    assert names(tmp_path / "out") == ["000000", "000001"]


def test_a_file_that_is_copied_again_is_brought_in(tmp_path):
    good, broken = tmp_path / "in" / "a.mcap", tmp_path / "in" / "b.mcap"
    export_mcap(good, painted(0), SPEC)
    broken.write_bytes(good.read_bytes()[:5000])
    assert bring(tmp_path / "in", tmp_path / "out", "--skip-bad") == 1
    export_mcap(broken, painted(1), SPEC)
    assert bring(tmp_path / "in", tmp_path / "out", "--skip-bad") == 0
    assert names(tmp_path / "out") == ["000000", "001000"]
    made = read_episode(tmp_path / "out/episodes/001000.npz")
    assert np.array_equal(made["canvas_THWC"], painted(1)["canvas_THWC"])


def test_a_file_that_comes_between_others_takes_no_ones_name(tmp_path):
    for seed, name in ((1, "rec_1"), (2, "rec_2")):
        export_mcap(tmp_path / "in" / f"{name}.mcap", painted(seed), SPEC)
    assert bring(tmp_path / "in", tmp_path / "out") == 0
    for seed, name in ((10, "rec_10"), (0, "rec_0")):
        export_mcap(tmp_path / "in" / f"{name}.mcap", painted(seed), SPEC)
    assert bring(tmp_path / "in", tmp_path / "out") == 0
    stored = {path.stem: read_episode(path)["canvas_THWC"] for path in episode_files(tmp_path / "out")}
    seeds = {"000000": 1, "001000": 2, "002000": 0, "003000": 10}
    assert sorted(stored) == sorted(seeds)
    for name, seed in seeds.items():
        assert np.array_equal(stored[name], painted(seed)["canvas_THWC"]), name


def write_session(path: Path, epochs: int = 3, blind: int | None = None, short: int | None = None) -> None:
    """Epochs of 2 s; in one the cameras fail for most of it, in another a joint state lacks a joint."""
    with Wire(path) as wire:
        for epoch in range(epochs):
            begin_s = 3.0 * epoch
            wire.epoch(begin_s, epoch + 1)
            for frame in range(20):
                wire.joints(begin_s + 0.1 * frame, HOME, leave_out=int(epoch == short and frame == 7))
                if epoch != blind or frame in (0, 19):
                    wire.images(begin_s + 0.1 * frame, 10 * epoch)


def shade_of(path: Path) -> int:
    return int(read_episode(path)["canvas_THWC"].max())


@pytest.mark.parametrize(("fault", "says"), [
    ({"blind": 1}, "episode 1: lost images"),
    ({"short": 1}, "episode 1: /joint_states at 1003.70 s: joint state: missing joints ['right_gripper']"),
])
def test_a_bad_episode_of_a_session_does_not_take_the_good_ones_with_it(tmp_path, capsys, fault, says):
    path, out = tmp_path / "a.mcap", tmp_path / "out"
    write_session(path, **fault)
    assert bring(path, tmp_path / "strict") == 2
    assert f"{path}, {says}" in capsys.readouterr().err
    assert bring(path, out, "--skip-bad") == 1
    said = capsys.readouterr().err
    assert f"skipped: {path}, {says}" in said
    assert said.count("skipped") == 1
    assert names(out) == ["000000", "000002"]
    assert [shade_of(file) for file in episode_files(out)] == [0, 20]
    assert bring(path, out, "--skip-bad") == 1
    assert "episode 1" in capsys.readouterr().err
    write_session(path)
    assert bring(path, out) == 0
    assert [shade_of(file) for file in episode_files(out)] == [0, 10, 20]


def test_what_a_file_no_longer_holds_when_it_is_brought_in_again_is_removed(tmp_path):
    path, out = tmp_path / "a.mcap", tmp_path / "out"
    write_session(path, blind=1)
    export_mcap(tmp_path / "b.mcap", painted(1), SPEC)
    assert bring([path, tmp_path / "b.mcap"], out, "--skip-bad") == 1
    assert names(out) == ["000000", "000002", "001000"]
    write_session(path, epochs=2)
    assert bring([path, tmp_path / "b.mcap"], out, "--skip-bad") == 0
    assert names(out) == ["000000", "000001", "001000"]


def test_images_that_nothing_can_be_made_of_are_the_reason_why_a_file_holds_none(tmp_path, capsys):
    with Wire(tmp_path / "a.mcap") as wire:
        for frame in range(15):
            wire.joints(0.1 * frame, HOME)
            wire.send("/head/image_raw/compressed", "CompressedImage", 0.1 * frame, {"format": "png", "data": b"no"})
    assert bring(tmp_path / "a.mcap", tmp_path / "out", "--instruction", "x") == 2
    said = capsys.readouterr().err
    assert "holds no images of head" in said
    assert "/head/image_raw/compressed at 1000.00 s" in said


def test_a_journal_of_before_notes_were_lists_goes_on(tmp_path):
    (tmp_path / "episodes").mkdir()
    (tmp_path / "episodes" / "000000.npz").touch()
    old = {"from": {"keep": 1}, "done": {"a": "", "b": "was bad", "gone": "was bad too"}}
    (tmp_path / "trim.json").write_text(json.dumps(old))
    done: list[int] = []
    journal = Journal(tmp_path, "trim", {"keep": 1})
    assert work_through(["a", "b", "c"], done.append, False, journal) == ["was bad too"]
    assert done == [1, 2]
    with pytest.raises(DataError, match=r"got \{'keep': 1\}; expected \{'keep': 2\}"):
        Journal(tmp_path, "trim", {"keep": 2})
