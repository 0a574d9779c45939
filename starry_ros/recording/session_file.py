"""One session as one MCAP file that MCAP tools and rosbag2 open.

What is written reaches the operating system at every `sync`, in whole MCAP chunks: after a kill, everything up to the
last sync is there (`recover.py` gives such a file its index back).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcap.writer import CompressionType, Writer

from starry_ros.errors import StarryError
from starry_ros.paths import model_dir, robot_file
from starry_ros.report import conditions
from starry_ros.robot_spec import load_robot_spec

METADATA = "starry_ros"
ROBOT_ATTACHMENT = "robot.yaml"
PROFILE, LIBRARY = "ros2", "starry_ros"


@dataclass(frozen=True)
class Record:
    """One message as it was on the wire (CDR), with the ROS times at which it was received and published.

    `sequence` is its publisher's count, 0 when unknown: a gap in the file is a message that was lost.
    """

    topic: str
    data: bytes
    received_ns: int
    published_ns: int
    sequence: int = 0


@dataclass(frozen=True)
class Channel:
    """A topic: its message type, the definition of that type, and the quality of service offered, as YAML."""

    topic: str
    kind: str
    definition: str
    qos: str = ""


def describe(robot: str, model: str) -> tuple[dict[str, str], dict[str, bytes]]:
    """What a session is a session of: metadata, and files to attach. An unknown model is noted, not refused."""
    metadata = {"robot": robot, "model": model, "conditions": json.dumps(conditions(), default=str)}
    attachments: dict[str, bytes] = {}
    try:
        path = robot_file(robot)
        attachments[ROBOT_ATTACHMENT] = path.read_bytes()
        metadata["contract_hash"] = load_robot_spec(path).content_hash
        metadata |= {f"sha256.{name}": digest for name, digest in model_hashes(model_dir(model)).items()}
    except (StarryError, OSError) as error:
        metadata["incomplete"] = str(error)
    return metadata, attachments


def model_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of the files that decide what a model plans, by name."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".onnx", ".data"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class SessionFile:
    """A recording that is being written. Not thread-safe. Raises OSError when the disk does not take it."""

    def __init__(self, path: Path, metadata: Mapping[str, str], attachments: Mapping[str, bytes]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("wb")
        self._writer: Any = Writer(self._file, compression=CompressionType.LZ4)
        self._channels: dict[str, int] = {}
        self._attached: dict[str, bytes] = {}
        self.written = 0
        self._writer.start(profile=PROFILE, library=LIBRARY)
        self._writer.add_metadata(METADATA, dict(metadata))
        for name, data in attachments.items():
            self.attach(name, data)
        self.sync()

    @property
    def topics(self) -> int:
        """How many topics have messages in the file."""
        return len(self._channels)

    def attach(self, name: str, data: bytes) -> None:
        """Attach a small file; one that is there already with the same content is not written again."""
        if self._attached.get(name) != data:
            self._attached[name] = data
            self._writer.add_attachment(0, 0, name, "text/yaml", data)

    def write(self, channel: Channel, record: Record) -> None:
        """Append a message; its channel and schema come first."""
        if record.topic not in self._channels:
            self._channels[record.topic] = self._open(channel)
        self._writer.add_message(
            self._channels[record.topic], log_time=record.received_ns, data=record.data,
            publish_time=record.published_ns, sequence=record.sequence,
        )
        self.written += 1

    def sync(self) -> None:
        """Hand everything so far to the operating system. The writer has no public way to end a chunk early."""
        self._writer._Writer__finalize_chunk()
        self._file.flush()

    def close(self) -> None:
        """Write the index and finish the file."""
        self._writer.finish()
        self._file.close()

    def abandon(self) -> None:
        """Let go of a file that can no longer be written, as on a full disk."""
        try:
            self._file.close()
        except OSError:
            self._file.raw.close()

    def _open(self, channel: Channel) -> int:
        schema = self._writer.register_schema(channel.kind, "ros2msg", channel.definition.encode())
        metadata = {"offered_qos_profiles": channel.qos} if channel.qos else {}
        return int(self._writer.register_channel(channel.topic, "cdr", schema, metadata))
