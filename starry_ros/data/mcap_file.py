"""Messages of an MCAP file with ROS 2 types; every checksum that the file carries is checked."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from starry_ros.data import INSTALL
from starry_ros.errors import DataError, RuntimeUnavailable

FOOTER = struct.Struct("<BQQQI")
"""Opcode, length, where the summary starts, where its offsets start, its checksum; the file's last but for MAGIC."""
MAGIC = b"\x89MCAP0\r\n"
"""A file begins and ends with it; the end is missing where the writer was killed."""
CHECKSUM_BYTES = 4


class McapFile:
    """One file. Topics and messages come from the same open file; a context manager."""

    def __init__(self, path: Path) -> None:
        """DataError if it is no MCAP file, or its table of contents is broken or missing."""
        try:
            from mcap.reader import make_reader
            from mcap_ros2.decoder import DecoderFactory
        except ImportError as error:
            raise RuntimeUnavailable("MCAP", "mcap-ros2-support is missing", fix=INSTALL) from error
        self._path, self._fix = path, "copy it again, or --skip-bad"
        with self._named():
            self._file = path.open("rb")
        try:
            with self._named():
                if _cut_off(self._file):
                    self._fix = f"{_repair(path)}, copy it again, or --skip-bad"
                _check_summary(self._file)
                self._reader = make_reader(self._file, validate_crcs=True, decoder_factories=[DecoderFactory()])
                self._summary: Any = self._reader.get_summary()
            if not _names_topics(self._summary):
                raise DataError(str(path), "has no table of contents", fix=_repair(path))
        except DataError:
            self._file.close()
            raise

    def __enter__(self) -> McapFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def topics(self) -> dict[str, str]:
        """Message type of every topic, such as `sensor_msgs/Image`."""
        schemas = self._summary.schemas
        return {
            channel.topic: schemas[channel.schema_id].name.replace("/msg/", "/") if channel.schema_id in schemas else ""
            for channel in self._summary.channels.values()
        }

    def messages(self, topics: list[str]) -> Iterator[tuple[str, float, Any]]:
        """(topic, time of recording in s, message) in order of time. DataError where the file is broken."""
        with self._named():
            for _schema, channel, message, decoded in self._reader.iter_decoded_messages(topics=topics):
                yield channel.topic, message.log_time / 1e9, decoded

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Whatever goes wrong inside is the file's fault: each decompressor and decoder has errors of its own."""
        try:
            yield
        except Exception as error:
            what = f"cannot be read: {error or type(error).__name__}"
            raise DataError(str(self._path), what, fix=self._fix) from error


def _repair(path: Path) -> str:
    return f"`starry record --recover {path}`"


def _cut_off(file: IO[bytes]) -> bool:
    """Whether this is the beginning of an MCAP file whose end is missing."""
    begins = file.read(len(MAGIC)) == MAGIC
    file.seek(-min(len(MAGIC), file.seek(0, 2)), 2)
    ends = file.read() == MAGIC
    file.seek(0)
    return begins and not ends


def _names_topics(summary: Any) -> bool:
    """Whether a table of contents names the topics, or says that there are no messages."""
    if summary is None:
        return False
    return bool(summary.channels) or (summary.statistics is not None and summary.statistics.message_count == 0)


def _check_summary(file: IO[bytes]) -> None:
    """ValueError if the table of contents is not what was written; the library does not look at its checksum."""
    tail = file.seek(-FOOTER.size - len(MAGIC), 2)
    _, _, start, _, expected = FOOTER.unpack(file.read(FOOTER.size))
    if not 0 < start <= tail or not expected:
        return
    file.seek(start)
    found = zlib.crc32(file.read(tail + FOOTER.size - CHECKSUM_BYTES - start))
    file.seek(0)
    if found != expected:
        raise ValueError("its table of contents is broken")
