"""A second run into the same folder: what it holds is of these data, or it is refused with what to do."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from test_data_import_again import write_lerobot
from test_data_transfer import painted
from test_data_wire import SPEC, sent

from starry_ros.cli import main
from starry_ros.data.mcap_write import export_mcap
from starry_ros.data.store import episode_files, read_episode, write_episode, write_meta

TOOLS = ("trim", "resample", "annotate")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(2):
        write(tmp_path / "made", i, i)
    return tmp_path / "made"


def write(folder: Path, number: int, seed: int, progress: float = 0.0) -> None:
    arrays = {**painted(seed), "progress_T": np.full(12, progress)}
    write_episode(folder / "episodes" / f"{number:06d}.npz", arrays)


def change(tool: str, folder: Path, out: Path) -> int:
    return main(["data", tool, str(folder), "--out", str(out)])


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_does_not_go_on_with_another_source_of_the_same_name(folder, tmp_path, capsys, tool):
    out = tmp_path / "out"
    assert change(tool, folder, out) == 0
    before = {path: path.stat().st_mtime_ns for path in episode_files(out)}
    assert change(tool, folder, out) == 0
    write(folder, 1, 7)
    assert change(tool, folder, out) == 2
    said = capsys.readouterr().err
    assert f"holds episodes of another {tool}" in said
    assert f"choose another folder, or delete {out} to make it anew" in said
    assert {path: path.stat().st_mtime_ns for path in episode_files(out)} == before
    assert change(tool, folder, tmp_path / "other") == 0
    made, source = (read_episode(one / "episodes/000001.npz")["canvas_THWC"] for one in (tmp_path / "other", folder))
    assert all(any(np.array_equal(ours, theirs) for theirs in source) for ours in made)


@pytest.mark.parametrize("kind", ["lerobot", "mcap"])
def test_an_export_of_other_labels_does_not_end_in_the_old_ones(folder, tmp_path, capsys, kind):
    out = tmp_path / kind
    export = ["data", "export", str(folder), str(out), "--format", kind]
    assert main(export) == 0
    assert main(export) == 0
    write(folder, 1, 1, progress=0.5)
    assert main(export) == 2
    said = capsys.readouterr().err
    assert f"{out}: holds another data set" in said
    assert f"choose another folder, or delete {out} to make it anew" in said
    fresh = [*export[:3], str(tmp_path / "fresh"), *export[4:]]
    assert main(fresh) == 0
    if kind == "mcap":
        labels = [message.data[0] for message in sent(tmp_path / "fresh/000001.mcap", "/labels/progress_T")]
    else:
        labels = pq.read_table(tmp_path / "fresh/data/chunk-000/file-000.parquet")["starry.progress_T"].to_pylist()[12:]
    assert labels == [0.5] * 12


def test_an_export_to_mcap_that_was_interrupted_is_continued(folder, tmp_path):
    out = tmp_path / "mcap"
    export = ["data", "export", str(folder), str(out), "--format", "mcap"]
    assert main(export) == 0
    kept = (out / "000000.mcap").stat().st_mtime_ns
    (out / "000001.mcap").unlink()
    assert main(export) == 0
    assert (out / "000000.mcap").stat().st_mtime_ns == kept
    assert (out / "000001.mcap").exists()


def test_an_export_to_mcap_leaves_recordings_from_elsewhere_alone(folder, tmp_path, capsys):
    out = tmp_path / "recordings"
    export_mcap(out / "000000.mcap", painted(5), SPEC)
    before = (out / "000000.mcap").read_bytes()
    assert main(["data", "export", str(folder), str(out), "--format", "mcap"]) == 2
    assert "holds a data set from elsewhere" in capsys.readouterr().err
    assert (out / "000000.mcap").read_bytes() == before


def test_what_was_only_touched_up_in_meta_json_is_the_same_source(folder, tmp_path):
    assert change("trim", folder, tmp_path / "out") == 0
    write_meta(folder, SPEC, tasks=["place_block_pad"])
    assert change("trim", folder, tmp_path / "out") == 0


def test_a_recording_that_was_made_anew_under_its_name_is_brought_in_anew(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    for number in range(2):
        export_mcap(source / f"{number}.mcap", painted(number), SPEC)
    bring = ["data", "import", str(source), "--out", str(out)]
    assert main(bring) == 0
    kept = (out / "episodes/000000.npz").stat().st_mtime_ns
    export_mcap(source / "1.mcap", painted(9), SPEC)
    os.utime(source / "0.mcap", ns=(1, (source / "0.mcap").stat().st_mtime_ns))
    assert main(bring) == 0
    assert (out / "episodes/000000.npz").stat().st_mtime_ns == kept
    assert np.array_equal(read_episode(out / "episodes/001000.npz")["canvas_THWC"], painted(9)["canvas_THWC"])


def test_a_lerobot_data_set_that_was_made_anew_is_brought_in_anew(tmp_path):
    out = tmp_path / "out"
    bring = ["data", "import", str(tmp_path / "in"), "--out", str(out)]
    write_lerobot(tmp_path / "in", [0.01, 0.02])
    assert main(bring) == 0
    write_lerobot(tmp_path / "in", [0.01, 0.03])
    assert main(bring) == 0
    assert float(read_episode(out / "episodes/000001.npz")["position_TJ"][0, 6]) == pytest.approx(0.03)
