"""Node `recorder`: every topic of the graph, raw, into one MCAP file a session, or only the seconds around a fault.

Messages stay serialised and go to the writing thread through a queue that is bounded in bytes; what does not fit is
dropped and counted, so a slow disk never grows the process or blocks the graph. A full disk ends the recording with an
error in the diagnostics; the node stays, and takes no message any more.
"""

from __future__ import annotations

import queue
import re
import shutil
import time
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from std_srvs.srv import Trigger

from starry_ros.errors import ConfigError, RuntimeUnavailable
from starry_ros.msg import ExecutorStatus
from starry_ros.recording.ring import Ring
from starry_ros.recording.session_file import Channel, Record, SessionFile, describe
from starry_ros.ros.definitions import full_definition, message_class
from starry_ros.ros.diagnostics import ERROR, OK, WARN, Diagnostics, Health
from starry_ros.ros.node_parameters import ParameterCollector
from starry_ros.ros.params import ROBOT, Parameter, declare
from starry_ros.ros.run import StarryNode, run
from starry_ros.ros.worker import Calls, Worker
from starry_ros.timing import nanoseconds

PARAMETERS = (
    ROBOT,
    Parameter("model", "tiny", "Model that the graph runs; its hashes are noted in the file."),
    Parameter("output", "recordings", "Folder of the recording; the file is named after the time of the start."),
    Parameter("buffer_mib", 64, "Memory for messages that wait for the disk, in MiB.", 1, 4096),
    Parameter("ring_mib", 512, "Memory for the last seconds, in MiB; less is kept where they need more.", 1, 2**16),
    Parameter("exclude", "/value_map/|/plan/markers$|/imagined/", "Regular expression of topics to leave out; empty "
              "records everything. What the visualiser paints on demand can be painted again from the rest."),
    Parameter("min_free_mib", 256, "Recording ends when the disk has less than this left, in MiB.", 0, 2**20),
    Parameter("ring_s", 0.0, "Keep only the last seconds in memory and write them when a fault comes; 0 writes all.",
              0.0, 600.0),
    Parameter("after_s", 3.0, "How long to go on writing after a fault, in seconds.", 0.0, 60.0),
)
DISCOVERY_PERIOD_S = 0.5
SYNC_S = 0.4
PICTURES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
DEPTH, DEPTH_OF_PICTURES = 1000, 100
"""Messages of a topic that may wait for this process, as on a busy machine: some seconds of /clock, or of a camera."""
MIB = 2**20
SEQUENCES = 2**32


class RecorderNode(StarryNode):
    """Subscribes to every topic it discovers and writes what comes."""

    def __init__(self) -> None:
        super().__init__("recorder")
        self._values = declare(self, *PARAMETERS)
        values = self._values
        self._folder = Path(values["output"]).expanduser()
        self._exclude = _expression(values["exclude"]) if values["exclude"] else None
        self._queue: queue.SimpleQueue[Record] = queue.SimpleQueue()
        self._waiting_bytes = self._written = self._dropped = self._lost = self._files = 0
        self._channels: dict[str, Channel] = {}
        self._latched: set[str] = set()
        self._unknown: set[str] = set()
        self._about = describe(values["robot"], values["model"])
        self._collector = ParameterCollector(self)
        self._ring = Ring(nanoseconds(values["ring_s"]), values["ring_mib"] * MIB) if values["ring_s"] else None
        self._attached: set[str] = set()
        self._file: SessionFile | None = None
        self._problem, self._mode = "", ""
        self._diagnostics: Diagnostics | None = None
        self._trigger: tuple[str, int] | None = None
        self._until_ns, self._synced_s = 0, 0.0
        if self._ring is None:
            self._guarded(self._open_file)
        self._calls = Calls(self)
        self._worker = Worker("recorder", self._work, self.fail)
        self._worker.start()
        self.create_timer(DISCOVERY_PERIOD_S, self._discover, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.create_service(Trigger, "~/save", self._on_save)
        self._diagnostics = Diagnostics(self, self._health)

    def close(self) -> None:
        """Write what waits and finish the file."""
        self._worker.close()
        while not self._queue.empty():
            self._take()
        self._guarded(self._close_file)

    # In the executor's thread

    def _discover(self) -> None:
        """Types are looked up before the first subscription: importing takes long, and nobody takes messages then."""
        found = []
        for topic, types in self.get_topic_names_and_types():
            known = topic in self._channels or topic in self._unknown
            if known or (self._exclude and self._exclude.search(topic)) or not self.count_publishers(topic):
                continue
            try:
                found.append((topic, types[0], message_class(types[0]), full_definition(types[0])))
            except (ImportError, AttributeError, ValueError, RuntimeUnavailable):  # ValueError: no ROS name or text
                self._unknown.add(topic)
                self.get_logger().warning(f"{topic} is not recorded: {types[0]} is not installed")
        for topic, name, kind, definition in found:
            self._subscribe(topic, name, kind, definition)
        self._collector.look()

    def _subscribe(self, topic: str, name: str, kind: Any, definition: str) -> None:
        qos = self._matching_qos(topic, DEPTH_OF_PICTURES if name in PICTURES else DEPTH)
        self._channels[topic] = Channel(topic, name, definition, _qos_yaml(qos))
        if qos.durability == DurabilityPolicy.TRANSIENT_LOCAL:
            self._latched.add(topic)
        self.create_subscription(kind, topic, self._listener(topic, name), qos, raw=True,
                                 event_callbacks=SubscriptionEventCallbacks(message_lost=self._on_lost))

    def _matching_qos(self, topic: str, depth: int) -> QoSProfile:
        """As strong as every publisher offers, so that all of them match."""
        offers = [info.qos_profile for info in self.get_publishers_info_by_topic(topic)]
        reliable = bool(offers) and all(offer.reliability == ReliabilityPolicy.RELIABLE for offer in offers)
        latched = bool(offers) and all(offer.durability == DurabilityPolicy.TRANSIENT_LOCAL for offer in offers)
        return QoSProfile(
            history=HistoryPolicy.KEEP_LAST, depth=depth,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )

    def _listener(self, topic: str, kind: str) -> Any:
        watched = self._ring is not None and kind == "starry_ros/msg/ExecutorStatus"

        def on_message(data: bytes, info: Any) -> None:
            now_ns = time.time_ns()
            if watched:
                self._watch(data)
            if self._waiting_bytes + len(data) > self._values["buffer_mib"] * MIB or self._stopped:
                self._dropped += 1
                return
            self._waiting_bytes += len(data)
            published_ns, sequence = info["source_timestamp"] or now_ns, info["publication_sequence_number"] or 0
            self._queue.put(Record(topic, data, now_ns, published_ns, sequence % SEQUENCES))

        return on_message

    def _on_lost(self, status: Any) -> None:
        self._lost += status.total_count_change

    @property
    def _stopped(self) -> bool:
        return bool(self._problem) and self._ring is None

    def _watch(self, data: bytes) -> None:
        mode = deserialize_message(data, ExecutorStatus).mode_name
        if mode == "FAULT" and self._mode != mode:
            self._trigger = ("fault", time.time_ns())
        self._mode = mode

    async def _on_save(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._ring is None:
            response.message = "everything is being recorded already"
            return response
        response.message = await self._calls.run(partial(self._save, time.time_ns()))
        response.success = not self._problem
        return response

    # In the writing thread

    def _work(self) -> None:
        self._calls.serve()
        self._take()
        if self._trigger is not None:
            trigger, self._trigger = self._trigger, None
            self._guarded(partial(self._begin_around_fault, *trigger))
        now_s = time.monotonic()
        if now_s - self._synced_s >= SYNC_S:
            self._synced_s = now_s
            self._guarded(self._sync)
        if self._ring is not None and self._queue.empty() and time.time_ns() > self._until_ns:
            self._guarded(self._close_file)

    def _take(self) -> None:
        """Write one waiting message, or keep it in the ring."""
        try:
            record = self._queue.get(timeout=0.1)
        except queue.Empty:
            return
        self._waiting_bytes -= len(record.data)
        if self._ring is not None and self._file is not None and record.received_ns > self._until_ns:
            self._guarded(self._close_file)
        if self._file is not None:
            self._guarded(partial(self._write, self._file, record))
        elif self._ring is not None:
            self._ring.add(record, latched=record.topic in self._latched)

    def _write(self, file: SessionFile, record: Record) -> None:
        file.write(self._channels[record.topic], record)
        self._written += 1

    def _open_file(self, suffix: str = "") -> None:
        self._check_disk()
        name = f"{datetime.now():%Y%m%d_%H%M%S}{suffix}"
        path = self._folder / f"{name}.mcap"
        while path.exists():
            path = path.with_name(f"{path.stem}_.mcap")
        self._file, self._attached = SessionFile(path, *self._about), set()
        self._files += 1
        self.get_logger().info(f"recording to {path}")

    def _begin_around_fault(self, why: str, at_ns: int) -> None:
        """What the ring holds becomes the beginning of a file that goes on until `after_s` after the fault."""
        self._until_ns = at_ns + nanoseconds(self._values["after_s"])
        if self._ring is not None and self._file is None:
            self._problem = ""
            self._open_file(f"_{why}")
            for record in self._ring.drain():
                if self._file is not None:
                    self._write(self._file, record)

    def _save(self, at_ns: int) -> str:
        """Write what the ring holds; says where, or why not."""
        held_s = self._ring.span_s if self._ring is not None else 0.0
        self._guarded(partial(self._begin_around_fault, "saved", at_ns))
        if self._problem or self._file is None:
            return self._problem
        return f"the last {held_s:.1f} s, and {self._values['after_s']:g} s more, go to {self._file.path}"

    def _sync(self) -> None:
        if self._file is not None:
            self._check_disk()
            self._attach_parameters(self._file)
            self._file.sync()

    def _attach_parameters(self, file: SessionFile) -> None:
        """Those of nodes that were not attached to this file yet."""
        for name, data in self._collector.found.items():
            if name not in self._attached:
                self._attached.add(name)
                file.attach(name, data)

    def _close_file(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            self._attach_parameters(file)
            file.close()

    def _check_disk(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        free_mib = shutil.disk_usage(self._folder).free // MIB
        if free_mib < self._values["min_free_mib"]:
            self._guarded(self._close_file)
            raise OSError(f"{free_mib} MiB left, at least {self._values['min_free_mib']} MiB kept free")

    def _guarded(self, action: Any) -> None:
        """Do it; a disk that refuses ends this file, not the node, and is said at once."""
        try:
            action()
        except OSError as error:
            self._problem = f"disk: {error.strerror or error}; free space in {self._folder} and start again"
            self.get_logger().error(self._problem)
            if self._file is not None:
                file, self._file = self._file, None
                file.abandon()
            if self._diagnostics is not None:
                self._diagnostics.publish()

    def _health(self) -> Health:
        """ERROR: the disk refused, nothing is recorded. WARN: messages dropped for lack of memory or lost on their way,
        types of topics not installed, or a ring too small for its seconds.
        """
        file = self._file
        values = {
            "file": file.path if file else "", "files": self._files, "written": self._written, "dropped": self._dropped,
            "lost": self._lost, "topics": len(self._channels), "not_installed": len(self._unknown),
            "waiting_bytes": self._waiting_bytes, "ring_bytes": self._ring.bytes if self._ring else 0,
            "ring_s": self._ring.span_s if self._ring else 0.0,
        }
        if self._problem:
            return Health(ERROR, self._problem, values)
        if self._dropped or self._lost or self._unknown:
            text = f"{self._dropped} messages dropped, {self._lost} lost, {len(self._unknown)} topics not installed"
            return Health(WARN, text, values)
        if self._ring is not None and self._ring.cramped and file is None:
            text = (f"the ring holds {self._ring.span_s:.1f} of {self._values['ring_s']:g} s: "
                    f"give it more memory than ring_mib {self._values['ring_mib']}")
            return Health(WARN, text, values)
        return Health(OK, "recording" if file else "waiting for a fault", values)


def _expression(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise ConfigError("recorder: parameter exclude", f"is no regular expression: {error}", got=text) from error


def _qos_yaml(qos: QoSProfile) -> str:
    """As rosbag2 notes it, so that it plays latched topics latched."""
    profile = {
        "history": 1, "depth": qos.depth, "reliability": int(qos.reliability), "durability": int(qos.durability),
        "deadline": {"sec": 9223372036, "nsec": 854775807}, "lifespan": {"sec": 9223372036, "nsec": 854775807},
        "liveliness": 1, "liveliness_lease_duration": {"sec": 9223372036, "nsec": 854775807},
        "avoid_ros_namespace_conventions": False,
    }
    return str(yaml.safe_dump([profile], sort_keys=False))


def main() -> None:
    """Entry point."""
    raise SystemExit(run(RecorderNode))


if __name__ == "__main__":
    main()
