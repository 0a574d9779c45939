"""Files that a disk or a stranger has spoiled: named, never read as something else, and skipped only when told to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcap.writer import CompressionType
from mcap_ros2 import writer as ros2
from test_data_import_again import bring, write_lerobot
from test_data_transfer import painted
from test_data_wire import HEADER, HOME, SPEC, Wire, stand

from starry_ros.data.mcap_read import read_mcap
from starry_ros.data.mcap_write import export_mcap
from starry_ros.data.recording import Recording
from starry_ros.data.store import episode_files
from starry_ros.errors import DataError

COMPRESSIONS = list(CompressionType)
PLACES = 120
"""Bytes that are flipped, spread evenly over a file."""


def write(path: Path, monkeypatch: pytest.MonkeyPatch, compression: CompressionType) -> bytes:
    """A file as this project exports it, but with another compression."""
    plain = ros2.Writer
    monkeypatch.setattr(ros2, "Writer", lambda file: plain(file, compression=compression, chunk_size=300_000))
    export_mcap(path, painted(0, 20), SPEC)
    monkeypatch.undo()
    return path.read_bytes()


def equal(ours: Recording, theirs: Recording) -> bool:
    return all(np.array_equal(ours.views[name], theirs.views[name]) for name in ours.views) and all(
        np.array_equal(ours.known[name], theirs.known[name]) for name in ours.known
    ) and np.array_equal(ours.position_TJ, theirs.position_TJ) and list(ours.texts) == list(theirs.texts)


def what_comes_of(path: Path) -> tuple[str, Recording | None]:
    """What an import says of a file, or what it makes of it."""
    try:
        [read] = read_mcap(path, SPEC)
    except DataError as error:
        return str(error), None
    return "", read


@pytest.mark.parametrize("compression", COMPRESSIONS, ids=lambda kind: kind.name)
def test_a_flipped_byte_anywhere_is_reported_by_file_or_does_not_matter(tmp_path, monkeypatch, compression):
    whole = write(tmp_path / "a.mcap", monkeypatch, compression)
    [sound] = read_mcap(tmp_path / "a.mcap", SPEC)
    found, table = 0, len(whole) - 6000
    for place in [*np.linspace(0, len(whole) - 1, PLACES).astype(int), *range(table, len(whole), 61)]:
        flipped = bytearray(whole)
        flipped[place] ^= 0xFF
        (tmp_path / "b.mcap").write_bytes(flipped)
        said, read = what_comes_of(tmp_path / "b.mcap")
        assert "b.mcap" in said or (read is not None and equal(sound, read)), place
        found += read is None
    assert found > 0.8 * PLACES


@pytest.mark.parametrize("compression", COMPRESSIONS, ids=lambda kind: kind.name)
def test_a_file_with_a_flipped_byte_is_skipped_only_when_told_to(tmp_path, capsys, monkeypatch, compression):
    source = tmp_path / "in"
    source.mkdir()
    whole = write(source / "a.mcap", monkeypatch, compression)
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 0xFF
    (source / "b.mcap").write_bytes(flipped)
    assert bring(source, tmp_path / "strict") == 2
    assert f"{source / 'b.mcap'}: cannot be read" in capsys.readouterr().err
    assert bring(source, tmp_path / "out", "--skip-bad") == 1
    assert f"skipped: {source / 'b.mcap'}: cannot be read" in capsys.readouterr().err
    assert [path.stem for path in episode_files(tmp_path / "out")] == ["000000"]


def test_a_file_of_noise_an_empty_one_and_half_of_one_are_named(tmp_path, monkeypatch):
    whole = write(tmp_path / "a.mcap", monkeypatch, CompressionType.ZSTD)
    for content in (b"", b"no", bytes(1000), whole[:8], whole[: len(whole) // 2], whole[:-1], whole[8:]):
        (tmp_path / "b.mcap").write_bytes(content)
        with pytest.raises(DataError, match=r"b\.mcap: cannot be read"):
            read_mcap(tmp_path / "b.mcap", SPEC)


FOREIGN: dict[str, tuple[str, dict[str, Any]]] = {
    "/instruction": ("Float64MultiArray", {"layout": {"dim": [], "data_offset": 0}, "data": [1.0]}),
    "/world_action_status": ("String", {"data": "x"}),
    "/joint_states": ("String", {"data": "x"}),
    "/head/camera_info": ("String", {"data": "x"}),
    "/head/depth/image_raw": ("CompressedImage", {"format": "png", "data": b""}),
    "/head/image_raw": ("CompressedImage", {"format": "png", "data": b""}),
    "/left_arm_controller/joint_trajectory": ("JointState", {
        "header": HEADER, "name": [], "position": [], "velocity": [], "effort": []}),
}


@pytest.mark.parametrize("topic", FOREIGN)
def test_a_topic_of_another_type_is_named_with_the_type_that_it_should_have(tmp_path, capsys, topic):
    source = tmp_path / "in"
    source.mkdir()
    with Wire(source / "a.mcap") as wire:
        wire.send(topic, FOREIGN[topic][0], 0.0, FOREIGN[topic][1])
    with Wire(source / "b.mcap") as wire:
        stand(wire)
    assert bring(source, tmp_path / "strict", "--instruction", "x") == 2
    said = capsys.readouterr().err
    assert f"{source / 'a.mcap'}: {topic} should carry" in said
    assert f"/{FOREIGN[topic][0]}; expected " in said
    assert bring(source, tmp_path / "out", "--instruction", "x", "--skip-bad") == 1
    assert [path.stem for path in episode_files(tmp_path / "out")] == ["001000"]


def test_a_strangers_topic_of_the_same_ending_and_another_type_stands_in_nobodys_way(tmp_path):
    with Wire(tmp_path / "a.mcap") as wire:
        for topic in ("/chat/joint_states", "/detector/labels/boxes"):
            wire.send(topic, "String", 0.0, {"data": "x"})
        for frame in range(15):
            wire.joints(0.1 * frame, HOME, "/robot_a/joint_states")
            wire.images(0.1 * frame)
    [made] = read_mcap(tmp_path / "a.mcap", SPEC, "x")
    assert np.allclose(made.position_TJ, HOME)


def test_a_type_that_lacks_what_its_name_promises_spoils_its_episode_by_topic(tmp_path, capsys):
    with Wire(tmp_path / "a.mcap", {"starry_ros/msg/WorldActionStatus": "string other\n"}) as wire:
        stand(wire)
        wire.send("/world_action_status", "WorldActionStatus", 0.5, {"other": "x"})
    assert bring(tmp_path / "a.mcap", tmp_path / "out", "--instruction", "x") == 2
    assert "a.mcap, episode 0: /world_action_status at 1000.50 s: AttributeError" in capsys.readouterr().err


@pytest.mark.parametrize("frames", [2, 3])
def test_a_lerobot_episode_too_short_for_the_models_rate_is_named_and_skipped_when_told_to(tmp_path, capsys, frames):
    write_lerobot(tmp_path / "in", [0.01, 0.02], hz=30, frames=[12, frames])
    assert bring(tmp_path / "in", tmp_path / "strict") == 2
    assert f"{tmp_path / 'in'}, episode 1: is shorter than two frames at the model's rate" in capsys.readouterr().err
    assert bring(tmp_path / "in", tmp_path / "out", "--skip-bad") == 1
    assert [path.stem for path in episode_files(tmp_path / "out")] == ["000000"]
