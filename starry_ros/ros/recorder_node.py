"""Node `recorder`: every topic of the graph, raw, into one MCAP file that any MCAP or rosbag2 tool replays.

Messages stay serialised. They pass to the writing thread through a queue that is bounded in bytes; what does not fit is
dropped and counted, so a slow disk never grows the process or blocks the graph.
"""

from __future__ import annotations

import importlib
import queue
import re
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from mcap.writer import CompressionType, Writer
from rclpy.clock import Clock, ClockType
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from starry_ros import __file__ as package_file
from starry_ros.errors import RuntimeUnavailable
from starry_ros.ros.diagnostics import OK, WARN, Diagnostics, Health
from starry_ros.ros.params import Parameter, declare
from starry_ros.ros.run import StarryNode, run
from starry_ros.ros.worker import Worker

DISCOVERY_PERIOD_S = 0.5
PARAMETERS = (
    Parameter("output", "recordings", "Folder of the recording; the file is named after the time of the start."),
    Parameter("buffer_mib", 64, "Memory for messages that wait for the disk, in MiB.", 1, 4096),
    Parameter("exclude", "", "Regular expression of topics to leave out; empty records everything."),
)
_PLAIN = re.compile(r"^(bool|byte|char|w?string|u?int(8|16|32|64)|float(32|64))\b")
_FIELD = re.compile(r"^([A-Za-z][\w/]*)(<=\d+)?(\[[^\]]*\])?\s+\w+")


class RecorderNode(StarryNode):
    """Subscribes to every topic it discovers and writes what comes."""

    def __init__(self) -> None:
        super().__init__("recorder")
        values = declare(self, *PARAMETERS)
        self.path = Path(values["output"]).expanduser() / f"{datetime.now():%Y%m%d_%H%M%S}.mcap"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._exclude = re.compile(values["exclude"]) if values["exclude"] else None
        self._room_bytes = values["buffer_mib"] * 2**20
        self._queue: queue.SimpleQueue[tuple[str, bytes, int]] = queue.SimpleQueue()
        self._waiting_bytes = self._written = self._dropped = 0
        self._types: dict[str, str] = {}
        self._channels: dict[str, int] = {}
        self._file = self.path.open("wb")
        self._writer = Writer(self._file, compression=CompressionType.LZ4)
        self._writer.start(profile="ros2", library="starry_ros")
        self._worker = Worker("recorder", self._write_some, self.fail)
        self._worker.start()
        self.create_timer(DISCOVERY_PERIOD_S, self._discover, clock=Clock(clock_type=ClockType.STEADY_TIME))
        Diagnostics(self, self._health)
        self.get_logger().info(f"recording to {self.path}")

    def close(self) -> None:
        """Write what waits and finish the file."""
        self._worker.close()
        while not self._queue.empty():
            self._write_some()
        self._writer.finish()
        self._file.close()

    def _discover(self) -> None:
        for topic, types in self.get_topic_names_and_types():
            if topic in self._types or (self._exclude and self._exclude.search(topic)):
                continue
            self._types[topic] = types[0]
            try:
                kind = message_class(types[0])
            except (ImportError, AttributeError):
                self.get_logger().warning(f"{topic} is not recorded: {types[0]} is not installed")
                continue
            self.create_subscription(kind, topic, partial(self._on_message, topic), self._matching_qos(topic), raw=True)

    def _matching_qos(self, topic: str) -> QoSProfile:
        """As strong as every publisher offers, so that all of them match."""
        offers = [info.qos_profile for info in self.get_publishers_info_by_topic(topic)]
        reliable = bool(offers) and all(offer.reliability == ReliabilityPolicy.RELIABLE for offer in offers)
        latched = bool(offers) and all(offer.durability == DurabilityPolicy.TRANSIENT_LOCAL for offer in offers)
        return QoSProfile(
            history=HistoryPolicy.KEEP_LAST, depth=50,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )

    def _on_message(self, topic: str, data: bytes) -> None:
        if self._waiting_bytes + len(data) > self._room_bytes:
            self._dropped += 1
            return
        self._waiting_bytes += len(data)
        self._queue.put((topic, data, time.time_ns()))

    def _write_some(self) -> None:
        try:
            topic, data, received_ns = self._queue.get(timeout=0.1)
        except queue.Empty:
            return
        self._waiting_bytes -= len(data)
        if topic not in self._channels:
            self._channels[topic] = self._open_channel(topic)
        self._writer.add_message(self._channels[topic], log_time=received_ns, data=data, publish_time=received_ns)
        self._written += 1

    def _open_channel(self, topic: str) -> int:
        name = self._types[topic]
        schema = self._writer.register_schema(name, "ros2msg", full_definition(name).encode())
        return self._writer.register_channel(topic, "cdr", schema)

    def _health(self) -> Health:
        values = {"file": self.path, "written": self._written, "dropped": self._dropped, "topics": len(self._channels)}
        return Health(WARN if self._dropped else OK, "dropping" if self._dropped else "recording", values)


def message_class(name: str) -> Any:
    """The Python class of `package/msg/Type`."""
    package, folder, kind = name.split("/")
    return getattr(importlib.import_module(f"{package}.{folder}"), kind)


def full_definition(name: str) -> str:
    """Text of a message definition followed by those of every message it contains, as MCAP wants it."""
    texts = {name: _definition(name)}
    pending = [name]
    while pending:
        for used in _used_types(pending[0], texts[pending[0]]):
            if used not in texts:
                texts[used] = _definition(used)
                pending.append(used)
        pending.pop(0)
    parts = [texts.pop(name)]
    parts += [f"MSG: {used.replace('/msg/', '/')}\n{text}" for used, text in texts.items()]
    return ("\n" + "=" * 80 + "\n").join(parts)


def _used_types(owner: str, text: str) -> Iterator[str]:
    for line in text.splitlines():
        field = _FIELD.match(line.split("#")[0].strip())
        if field is None or _PLAIN.match(field[1]):
            continue
        package, _, kind = field[1].rpartition("/")
        yield f"{package.removesuffix('/msg') or owner.split('/')[0]}/msg/{kind}"


def _definition(name: str) -> str:
    for prefix in _prefixes(name.split("/")[0]):
        path = prefix / "share" / f"{name}.msg"
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise RuntimeUnavailable("recorder", f"the definition of {name} is not installed", fix="install its share folder")


def _prefixes(package: str) -> Iterator[Path]:
    """Folders that may hold share/<package>: above its Python module, the interpreter's, above this package."""
    module_file = importlib.import_module(package).__file__ or ""
    yield from Path(module_file).resolve().parents
    yield Path(sys.prefix)
    yield from Path(package_file).resolve().parents


def main() -> None:
    """Entry point."""
    raise SystemExit(run(RecorderNode))


if __name__ == "__main__":
    main()
