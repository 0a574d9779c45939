"""Recordings on disk: foreign tools read them, a killed writer loses only what came after the last sync."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap.stream_reader import StreamReader
from mcap.writer import IndexType, Writer

from starry_ros.errors import DataError
from starry_ros.paths import model_dir
from starry_ros.recording.lost import tally
from starry_ros.recording.reader import Recording
from starry_ros.recording.recover import _Copy, recover
from starry_ros.recording.ring import Ring
from starry_ros.recording.session_file import METADATA, Channel, Record, SessionFile, describe, model_hashes

STRING = Channel("/note", "std_msgs/msg/String", "string data")
S = 1_000_000_000


def cdr(text: str) -> bytes:
    """A std_msgs/String in little-endian CDR, by hand."""
    data = text.encode() + b"\0"
    return b"\0\1\0\0" + struct.pack("<I", len(data)) + data


def note(index: int) -> Record:
    at_ns = S + index * S // 100
    return Record("/note", cdr(f"note {index} " + "x" * (index * 37 % 500)), at_ns, at_ns - 7)


def write(path: Path, count: int) -> SessionFile:
    file = SessionFile(path, {"robot": "bimanual_sim"}, {"robot.yaml": b"name: x\n"})
    for index in range(count):
        file.write(STRING, note(index))
    return file


def test_mcap_s_own_reader_and_rosbags_read_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    write(path, 300).close()
    with path.open("rb") as stream:
        reader = make_reader(stream)
        heard = [(m.data, m.log_time, m.publish_time) for _, _, m in reader.iter_messages()]
        assert reader.get_header().profile == "ros2"
        assert next(reader.iter_metadata()).metadata == {"robot": "bimanual_sim"}
        assert next(reader.iter_metadata()).name == METADATA
        assert next(reader.iter_attachments()).data == b"name: x\n"
    assert heard == [(r.data, r.received_ns, r.published_ns) for r in map(note, range(300))]
    rosbag2 = pytest.importorskip("rosbags.rosbag2", reason="rosbags is a foreign reader for this test")
    with rosbag2.Reader(path) as bag:
        assert [(c.topic, t, bytes(d)) for c, t, d in bag.messages()] == [
            (r.topic, r.received_ns, r.data) for r in map(note, range(300))
        ]


def test_a_file_cut_anywhere_gives_back_everything_before_the_last_sync(tmp_path: Path) -> None:
    path, rng = tmp_path / "a.mcap", np.random.default_rng(0)
    file, marks = write(path, 0), []
    for index in range(200):
        file.write(STRING, note(index))
        if index % 20 == 19:
            file.sync()
            marks.append((path.stat().st_size, index + 1))
    file.close()
    whole = path.read_bytes()
    for cut in [*(size for size, _ in marks), *rng.integers(marks[0][0], len(whole), 12).tolist()]:
        damaged = tmp_path / "cut.mcap"
        damaged.write_bytes(whole[:cut])
        done = recover(damaged)
        kept = max(count for size, count in marks if size <= cut)
        with done.path.open("rb") as stream:
            reader = make_reader(stream)
            heard = [m.data for _, _, m in reader.iter_messages()]
            assert next(reader.iter_attachments()).name == "robot.yaml"
        assert len(heard) >= kept
        assert heard == [note(index).data for index in range(len(heard))]
        assert done.messages == len(heard)
        assert not done.whole
    done = recover(path)
    assert done.whole
    assert (done.path, done.messages) == (path, 200)
    assert not path.with_name("a.recovered.mcap").exists(), "a second copy would be imported beside the first"


def without_contents(source: Path, target: Path) -> Path:
    """A copy of a file whose writer made no table of contents, as the format allows."""
    nothing = dict.fromkeys(("repeat_channels", "repeat_schemas", "use_statistics", "use_summary_offsets"), False)
    with source.open("rb") as file, target.open("wb") as output:
        writer, copy = Writer(output, index_types=IndexType.NONE, **nothing), _Copy()
        writer.start(profile="ros2")
        for record in StreamReader(file).records:
            copy.take(writer, record)
        writer.finish()
    return target


def test_a_file_without_a_table_of_contents_is_given_one(tmp_path: Path) -> None:
    write(tmp_path / "a.mcap", 50).close()
    bare = without_contents(tmp_path / "a.mcap", tmp_path / "b.mcap")
    with pytest.raises(DataError, match="has no index"):
        Recording(bare)
    done = recover(bare)
    assert (done.whole, done.path.name, done.messages) == (False, "b.recovered.mcap", 50)
    assert Recording(done.path).counts == {"/note": 50}


def test_a_damaged_middle_gives_back_what_came_before_it(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    file = write(path, 50)
    file.sync()
    size = path.stat().st_size
    for index in range(50, 90):
        file.write(STRING, note(index))
    file.close()
    data = bytearray(path.read_bytes())
    data[size + 1 : size + 9] = b"\xff" * 8  # the length of the next record
    path.write_bytes(data)
    assert recover(path).messages == 50


@pytest.mark.parametrize("content", [b"", b"not a recording at all", b"\x89MCAP0\r\n"])
def test_what_is_no_recording_is_refused_and_leaves_nothing_behind(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mcap"
    path.write_bytes(content)
    with pytest.raises(DataError, match="holds no message"):
        recover(path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.mcap"]


def test_a_full_disk_is_an_os_error_and_the_file_lets_go(tmp_path: Path) -> None:
    file = write(tmp_path / "a.mcap", 0)
    full = open("/dev/full", "wb")  # noqa: SIM115
    file._file, file._writer._Writer__stream = full, full
    file.write(STRING, note(1))
    with pytest.raises(OSError, match="No space left"):
        file.sync()
    file.abandon()
    assert full.closed


def test_the_ring_keeps_the_last_seconds_within_its_room_and_what_is_latched() -> None:
    ring, rng, all_records = Ring(5 * S, 20_000), np.random.default_rng(3), []
    for index in range(2000):
        topic = "/latched" if index == 3 else "/note"
        record = Record(topic, bytes(int(rng.integers(1, 90))), index * S // 50, 0)
        all_records.append(record)
        ring.add(record, latched=topic == "/latched")
        assert ring.bytes <= 20_000
    held = ring.drain()
    assert held[0] is all_records[3], "the latched message is older than the ring"
    assert held[1:] == all_records[-(len(held) - 1):]
    assert held[-1].received_ns - held[1].received_ns > 4.9 * S
    assert len(ring) == ring.bytes == 0
    assert not ring.cramped
    big = Ring(5 * S, 100)
    for record in all_records[-20:]:
        big.add(record, latched=False)
    assert big.cramped
    assert big.span_s < 0.1, "of twenty messages in 0.4 s two or three have room"
    assert sum(len(record.data) for record in big.drain()) <= 100
    assert big.span_s == 0.0


def test_a_session_knows_its_contract_its_model_and_its_versions() -> None:
    metadata, attachments = describe("bimanual_sim", "tiny")
    assert b"name: bimanual_sim" in attachments["robot.yaml"]
    assert {"robot", "model", "contract_hash", "conditions", "sha256.model.safetensors"} <= set(metadata)
    assert metadata["sha256.config.json"] == model_hashes(model_dir("tiny"))["config.json"]
    assert "incomplete" in describe("bimanual_sim", "no_such_model")[0]


def test_gaps_in_a_publishers_count_are_lost_messages_and_several_publishers_are_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    file = write(path, 0)
    counts = {"/one": [5, 6, 7, 9, 13], "/restarted": [7, 8, 1, 2], "/unknown": [0, 0], "/whole": [1, 2, 3]}
    for topic, numbers in counts.items():
        channel = Channel(topic, STRING.kind, STRING.definition)
        for index, number in enumerate(numbers):
            file.write(channel, Record(topic, cdr("x"), S + index, S, number))
    file.close()
    found = {one.topic: (one.messages, one.lost) for one in tally(Recording(path))}
    assert found == {"/one": (5, 4), "/restarted": (4, None), "/unknown": (2, None), "/whole": (3, 0)}
    path.write_bytes(path.read_bytes()[:-1])
    recovered = Recording(recover(path).path)
    assert {one.topic: (one.messages, one.lost) for one in tally(recovered)} == found
