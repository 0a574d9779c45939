"""What an import is given: every source is brought in or refused by name, and so is every option and broken file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_data_import_again import bring, names, write_lerobot
from test_data_transfer import painted
from test_data_wire import HOME, SPEC, Wire, image_of, stand
from test_recording_file import without_contents

from starry_ros.cli import main
from starry_ros.data.lerobot_read import LeRobotReader
from starry_ros.data.mcap_write import export_mcap
from starry_ros.data.store import write_episode
from starry_ros.errors import DataError
from starry_ros.recording.recover import recover


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A folder with one recording."""
    export_mcap(tmp_path / "bags" / "a.mcap", painted(0), SPEC)
    return tmp_path / "bags"


def test_a_source_without_anything_to_import_is_named_beside_others_and_alone(recording, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "b.db3").touch()
    for sources in ([recording, tmp_path / "empty"], [tmp_path / "empty"], [tmp_path / "b.db3", recording]):
        assert bring(sources, tmp_path / "out") == 2
        missing = next(source for source in sources if source != recording)
        said = capsys.readouterr().err
        assert f"{missing}: holds nothing to import; expected *.mcap, or meta/info.json of a LeRobot data set" in said
    assert not (tmp_path / "out").exists()


def test_a_lerobot_data_set_beside_recordings_is_not_dropped_without_a_word(recording, tmp_path, capsys):
    write_lerobot(tmp_path / "set", [0.01])
    assert bring([recording, tmp_path / "set"], tmp_path / "out") == 2
    assert f"{tmp_path / 'set'}: is a LeRobot data set beside other sources" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert bring(tmp_path / "set", tmp_path / "out") == 0


@pytest.mark.parametrize("option", [
    ["--camera", "head=observation.images.top"], ["--by-position"], ["--degrees"], ["--gripper-range", "0", "1"],
])
def test_options_that_act_on_lerobot_alone_are_refused_for_recordings(recording, tmp_path, capsys, option):
    assert bring(recording, tmp_path / "out", *option) == 2
    assert f"{option[0]}: acts on LeRobot data sets alone" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_errors_of_recordings_advise_no_option_that_does_not_act_on_them(tmp_path, capsys):
    with Wire(tmp_path / "a.mcap") as wire:
        for frame in range(15):
            wire.joints(0.1 * frame, HOME)
            for camera in SPEC.cameras[:2]:
                wire.send(f"/{camera.topic}", "Image", 0.1 * frame, image_of(camera.name, 0))
    assert bring(tmp_path / "a.mcap", tmp_path / "out", "--instruction", "x") == 2
    said = capsys.readouterr().err
    assert "lacks cameras ['right_wrist']" in said
    assert "--camera" not in said
    with Wire(tmp_path / "b.mcap") as wire:
        stand(wire, position=HOME + 9)
    assert bring(tmp_path / "b.mcap", tmp_path / "out", "--instruction", "x") == 2
    assert "for LeRobot data --degrees and --gripper-range" in capsys.readouterr().err


def test_a_recording_whose_writer_was_killed_is_to_be_recovered(recording, tmp_path, capsys):
    path = recording / "a.mcap"
    path.write_bytes(path.read_bytes()[:-2000])
    assert bring(path, tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "a.mcap: cannot be read: " in said
    assert f"Fix: `starry record --recover {path}`, copy it again, or --skip-bad" in said
    path.write_bytes(b"noise" * 1000)
    assert bring(path, tmp_path / "out") == 2
    assert "Fix: copy it again, or --skip-bad" in capsys.readouterr().err


def test_a_recording_without_a_table_of_contents_is_not_said_to_be_empty(recording, tmp_path, capsys):
    bare = without_contents(recording / "a.mcap", tmp_path / "bare.mcap")
    assert bring(bare, tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert f"{bare}: has no table of contents. Fix: `starry record --recover {bare}`" in said
    assert bring(recover(bare).path, tmp_path / "out") == 0
    assert names(tmp_path / "out") == ["000000"]


def write_images(root: Path, item: dict[str, Any] | None) -> None:
    """A data set whose head camera has this in frame 5."""
    write_lerobot(root, [0.01])
    path = root / "data/episode_000000.parquet"
    table, name = pq.read_table(path), "observation.images.head"
    images = table[name].to_pylist()
    images[5] = item
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(table.drop_columns([name]).append_column(name, pa.array(images, kind)), path)


@pytest.mark.parametrize("item", [
    {"bytes": b"", "path": None}, {"bytes": None, "path": "empty.png"}, {"bytes": b"no", "path": None}, None,
])
def test_an_image_of_no_bytes_or_of_none_that_can_be_read_is_named_by_frame(tmp_path, capsys, item):
    write_images(tmp_path / "set", item)
    (tmp_path / "set/empty.png").touch()
    assert bring(tmp_path / "set", tmp_path / "out") == 2
    assert f"{tmp_path / 'set'}, episode 0: observation.images.head: frame 5 is not an image" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["fps", "features", "data_path"])
def test_a_data_set_whose_description_lacks_what_is_needed_is_refused_with_the_file(tmp_path, name):
    write_lerobot(tmp_path, [0.01])
    path = tmp_path / "meta/info.json"
    info = json.loads(path.read_text())
    del info[name]
    path.write_text(json.dumps(info))
    with pytest.raises(DataError, match=rf"meta/info\.json: lacks \['{name}'\]"):
        LeRobotReader(tmp_path, SPEC)


@pytest.mark.parametrize(("columns", "lacks"), [(["task_index", "sentence"], "task"), (["id", "task"], "task_index")])
def test_sentences_under_another_name_are_refused_with_the_file(tmp_path, columns, lacks):
    write_episode(tmp_path / "made/episodes/000000.npz", painted(0, 4))
    assert main(["data", "export", str(tmp_path / "made"), str(tmp_path / "set")]) == 0
    path = tmp_path / "set/meta/tasks.parquet"
    pq.write_table(pa.table([[0], ["x"]], names=columns), path)
    with pytest.raises(DataError, match=rf"meta/tasks\.parquet: lacks \['{lacks}'\]"):
        LeRobotReader(tmp_path / "set", SPEC)
