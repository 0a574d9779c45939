"""Live curves of a training: its records as scalars in an event file, which `tensorboard --logdir RUN` shows.

Written here, not by TensorBoard's own writer: scalars are a few bytes, and its package brings a server along. An event
file is a sequence of TensorFlow's records, each (length u64, check of the length u32, event, check of the event u32),
little endian; a check is CRC-32C, rotated by 15 bits and shifted by a constant. An event is a protobuf message `Event`:
wall time 1, step 2, version 3, summary 5 of values 1 (tag 1, number 2), session log 7 (status 1; 1 is a start, upon
which a viewer forgets what it has read).
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from pathlib import Path

from starry_ros.types import Record

FOLDER = "curves"
_PREFIX = "events.out.tfevents."
_VERSION = "brain.Event:2"
_NOT_LOSSES = ("step", "seconds", "rate")


class Curves:
    """The event file of one process's part of a run. The first record begins it anew, with all that were kept.

    So steps that were never saved and are done again stand there once.
    """

    def __init__(self, folder: Path, before: Sequence[Record]) -> None:
        self._folder, self._before, self._path = folder / FOLDER, tuple(before), Path()

    def add(self, record: Record) -> None:
        """Append a record of the metrics."""
        if not self._path.name:
            self._begin()
        with self._path.open("ab") as file:
            file.write(_framed(_scalars_event(record)))

    def _begin(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        old = list(self._folder.glob(f"{_PREFIX}*"))
        self._path = self._folder / f"{_PREFIX}{time.time_ns()}"
        start = _field(7, _number(1, 1))
        events = [_field(3, _VERSION.encode()), start, *map(_scalars_event, self._before)]
        self._path.write_bytes(b"".join(map(_framed, events)))
        for path in old:
            path.unlink()


def scalars(record: Record) -> dict[str, float]:
    """The curves that a record adds to: `loss/*` and `rate`, or `success/all` and `success/<task>` in shares."""
    if "by_task" in record:
        each = record["episodes"] / max(1, len(record["by_task"]))
        tasks = {f"success/{task}": wins / each for task, wins in record["by_task"].items()}
        return {"success/all": record["success"], **tasks}
    found = {f"loss/{name}": value for name, value in record.items() if name not in _NOT_LOSSES}
    return {"rate": record["rate"], **found}


def _scalars_event(record: Record) -> bytes:
    """Step and scalars of a record, in the fields of an Event."""
    values = (_field(1, _field(1, tag.encode()) + b"\x15" + struct.pack("<f", value))
              for tag, value in scalars(record).items())
    return _number(2, record["step"]) + _field(5, b"".join(values))


def _framed(event: bytes) -> bytes:
    """An Event with the time, as a record of the file."""
    data = b"\x09" + struct.pack("<d", time.time()) + event
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", _check(length)) + data + struct.pack("<I", _check(data))


def _field(number: int, content: bytes) -> bytes:
    """A protobuf field of bytes."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    """A protobuf field of a whole number that is not negative."""
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    """Seven bits a byte, lowest first, the eighth where more follow."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _crc_of_byte(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC = tuple(map(_crc_of_byte, range(256)))


def _check(data: bytes) -> int:
    """TensorFlow's check of some bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
