"""Live curves: the event file of a training, read back by protobuf's own reader and, if installed, TensorBoard's."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from test_training_same_run import begin
from test_training_units import narrow_presets, prepare, write_data
from wam_kit import make_checkpoint

from starry_ros.training import train
from starry_ros.training.curves import Curves
from starry_ros.training.early import Early
from starry_ros.wam.checkpoint import save_checkpoint

SEVENTH = {"step": 25, "seconds": 3.5, "rate": 1e-3, "action": 0.5, "video": 0.25}
PLAYED = {"step": 50, "success": 0.5, "episodes": 8, "by_task": {"lift_tray": 1, "press_button": 3}}


def event_type() -> Any:
    """The fields of TensorFlow's `Event` that are used here, from its published definition (event.proto)."""
    file = descriptor_pb2.FileDescriptorProto(name="event.proto", package="t", syntax="proto3")

    def message(name: str, *fields: tuple[str, int, str, str]) -> None:
        made = file.message_type.add(name=name)
        for field, number, kind, label in fields:
            plain = hasattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{kind.upper()}")
            made.field.add(
                name=field, number=number, label=getattr(descriptor_pb2.FieldDescriptorProto, f"LABEL_{label}"),
                type=getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{kind.upper() if plain else 'MESSAGE'}"),
                type_name=None if plain else f".t.{kind}")

    message("Value", ("tag", 1, "string", "OPTIONAL"), ("simple_value", 2, "float", "OPTIONAL"))
    message("Summary", ("value", 1, "Value", "REPEATED"))
    message("SessionLog", ("status", 1, "int32", "OPTIONAL"))
    message("Event", ("wall_time", 1, "double", "OPTIONAL"), ("step", 2, "int64", "OPTIONAL"),
            ("file_version", 3, "string", "OPTIONAL"), ("summary", 5, "Summary", "OPTIONAL"),
            ("session_log", 7, "SessionLog", "OPTIONAL"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Event"))


def crc32c(data: bytes) -> int:
    """Castagnoli's check sum as a division of polynomials, bit by bit."""
    remainder = 0xFFFFFFFF
    for bit in (byte >> i & 1 for byte in data for i in range(8)):
        remainder = remainder >> 1 ^ (0x82F63B78 if (remainder ^ bit) & 1 else 0)
    return remainder ^ 0xFFFFFFFF


def events(run: Path) -> list[Any]:
    """All events of the one file of a run, with their check sums tested."""
    (path,) = (run / "curves").iterdir()
    assert "tfevents" in path.name, "by which TensorBoard knows it"
    data, kind, found = path.read_bytes(), event_type(), []

    def require(content: bytes, check: bytes) -> bytes:
        crc = crc32c(content)
        assert struct.unpack("<I", check) == (((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32,)
        return content

    while data:
        (length,) = struct.unpack("<Q", require(data[:8], data[8:12]))
        found.append(kind.FromString(require(data[12 : 12 + length], data[12 + length : 16 + length])))
        data = data[16 + length :]
    return found


def points(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and numbers of every curve."""
    found: dict[str, list[tuple[int, float]]] = {}
    for event in events(run):
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, pytest.approx(value.simple_value)))
    return found


def test_the_check_sum_of_this_test_is_the_published_one() -> None:
    assert crc32c(b"123456789") == 0xE3069283


def test_losses_rate_and_success_of_every_task_are_curves(tmp_path: Path) -> None:
    curves = Curves(tmp_path, [])
    assert not (tmp_path / "curves").exists(), "before there is anything to show"
    curves.add(SEVENTH)
    assert points(tmp_path) == {"rate": [(25, 1e-3)], "loss/action": [(25, 0.5)], "loss/video": [(25, 0.25)]}
    curves.add(PLAYED)
    curves.add({**SEVENTH, "step": 10**6})
    found = points(tmp_path)
    assert (found["success/all"], found["success/lift_tray"]) == ([(50, 0.5)], [(50, 0.25)])
    assert found["success/press_button"] == [(50, 0.75)]
    assert found["rate"] == [(25, 1e-3), (10**6, 1e-3)]
    first, second, *_ = events(tmp_path)
    assert first.file_version == "brain.Event:2"
    assert second.session_log.status == 1


def test_a_file_that_is_gone_on_with_holds_what_was_kept_and_no_step_twice(tmp_path: Path) -> None:
    for before in ([], [SEVENTH]):
        curves = Curves(tmp_path, before)
        curves.add({**SEVENTH, "step": 50})
    assert [step for step, _ in points(tmp_path)["rate"]] == [25, 50]


def test_a_training_writes_its_curves_as_it_goes_and_once_where_it_was_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow_presets(monkeypatch)
    save_checkpoint(tmp_path / "model", make_checkpoint())
    data, run = write_data(tmp_path / "data"), tmp_path / "run"
    begin(data, run, tmp_path / "model")

    def go(steps: int) -> None:
        trainer = prepare(data, run, tmp_path / "model", "--steps", str(steps))

        def count() -> dict[str, float]:
            trainer.progress.step += 1
            return {"action": 1 / trainer.progress.step}

        trainer.step = count  # type: ignore[method-assign]
        train.run(trainer, save_every=40, until_s=None, early=Played())  # type: ignore[arg-type]

    class Played:
        """In place of a closed-loop evaluation every 50 steps; the process is cut off in that at step 150."""

        cut_off = True

        def due(self, step: int) -> bool:
            return step % 50 == 0

        def run(self, checkpoint: object, step: int, rank: int, world: int) -> Early:
            if step == 150 and Played.cut_off:
                raise KeyboardInterrupt
            return Early(step, 3, 4, {"lift_tray": 3})

    with pytest.raises(KeyboardInterrupt):
        go(200)
    assert [step for step, _ in points(run)["loss/action"]] == [25, 50, 75, 100, 125, 150]
    Played.cut_off = False
    go(200)  # from step 120, the last that was saved
    found = points(run)
    assert [step for step, _ in found["loss/action"]] == list(range(25, 201, 25))
    assert [step for step, _ in found["rate"]] == list(range(25, 201, 25))
    assert found["success/lift_tray"] == [(50, 0.75), (100, 0.75), (150, 0.75), (200, 0.75)]
    noted = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert found["loss/action"] == [(row["step"], row["action"]) for row in noted if "action" in row]


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator",
                                 reason="TensorBoard is not installed: its own reader was NOT tried")
    curves = Curves(tmp_path, [SEVENTH])
    curves.add(PLAYED)
    read = reader.EventAccumulator(str(tmp_path / "curves")).Reload()
    assert set(read.Tags()["scalars"]) == set(points(tmp_path))
    for tag, wanted in points(tmp_path).items():
        assert [(event.step, event.value) for event in read.Scalars(tag)] == wanted
