"""Gives a recording whose writer was killed its index back: every message that reached the disk, in a new file."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcap.exceptions import McapError
from mcap.records import Attachment, Channel, Message, Metadata, Schema, Statistics
from mcap.stream_reader import StreamReader
from mcap.writer import CompressionType, Writer

from starry_ros.errors import DataError
from starry_ros.recording.session_file import LIBRARY, PROFILE

LARGEST_RECORD_BYTES = 2**30


@dataclass(frozen=True)
class Recovered:
    """What came of it. `whole` says that the file needed no copy: `path` is the file itself."""

    path: Path
    messages: int
    span_s: float
    whole: bool


def recover(path: Path) -> Recovered:
    """Write `<name>.recovered.mcap` beside the file, unless it is whole. Raises DataError on what is no MCAP file."""
    target = path.with_name(f"{path.stem}.recovered.mcap")
    state = _Copy()
    try:
        with path.open("rb") as source, target.open("wb") as output:
            writer: Any = Writer(output, compression=CompressionType.LZ4)
            writer.start(profile=PROFILE, library=LIBRARY)
            for record in _until_the_break(source, state):
                state.take(writer, record)
            writer.finish()
    except OSError as error:
        raise DataError(str(path), "cannot be recovered", got=error.strerror) from error
    span_s = (state.last_ns - state.first_ns) / 1e9
    if state.whole:
        target.unlink()
        return Recovered(path, state.messages, span_s, whole=True)
    if not state.messages:
        target.unlink()
        raise DataError(str(path), "holds no message that can be read", fix="nothing can be recovered")
    return Recovered(target, state.messages, span_s, whole=False)


class _Copy:
    """Copies records into a writer, under the new ids it gives."""

    def __init__(self) -> None:
        self.messages = self.first_ns = self.last_ns = 0
        self.ended = self.indexed = False
        self._schemas: dict[int, int] = {0: 0}
        self._channels: dict[int, int] = {}

    @property
    def whole(self) -> bool:
        """Whether the file has its end, and the table of contents that readers need."""
        return self.ended and self.indexed

    def take(self, writer: Any, record: object) -> None:
        """Write one record; what the writer makes by itself is left out."""
        if isinstance(record, Schema) and record.id not in self._schemas:
            self._schemas[record.id] = writer.register_schema(record.name, record.encoding, record.data)
        elif isinstance(record, Channel) and record.id not in self._channels:
            self._channels[record.id] = writer.register_channel(
                record.topic, record.message_encoding, self._schemas[record.schema_id], record.metadata
            )
        elif isinstance(record, Message):
            writer.add_message(self._channels[record.channel_id], record.log_time, record.data, record.publish_time,
                               record.sequence)
            self.first_ns = self.first_ns or record.log_time
            self.last_ns = max(self.last_ns, record.log_time)
            self.messages += 1
        elif isinstance(record, Attachment):
            writer.add_attachment(record.create_time, record.log_time, record.name, record.media_type, record.data)
        elif isinstance(record, Metadata):
            writer.add_metadata(record.name, record.metadata)
        elif isinstance(record, Statistics):
            self.indexed = True


def _until_the_break(source: Any, state: _Copy) -> Iterator[object]:
    """Records up to the first one that is cut off or damaged."""
    try:
        yield from StreamReader(source, record_size_limit=LARGEST_RECORD_BYTES).records
        state.ended = True
    except (McapError, struct.error, EOFError, ValueError, RuntimeError, MemoryError):
        return
