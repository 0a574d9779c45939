"""Reads recordings: decoded messages by topic, and the package's own values out of them. Any MCAP file of ROS 2 topics.

Times are integer nanoseconds on the ROS clock of the recording. Messages are decoded from their own definitions, so no
ROS installation is needed. Shapes: J joints in contract order, K steps, E events, H rows, W columns.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mcap.exceptions import McapError
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory

from starry_ros.canvas.pack import decode_compressed, decode_image
from starry_ros.errors import DataError, InputError
from starry_ros.recording.session_file import METADATA, ROBOT_ATTACHMENT
from starry_ros.robot_spec import CameraSpec, RobotSpec, load_robot_spec
from starry_ros.timing import NS_PER_S, nanoseconds
from starry_ros.types import U8, ActionChunk, LandingPoint, RobotState, ValueMap


@dataclass(frozen=True)
class Heard:
    """One message: the topic relative to the recording's namespace, when it came and was published, its content."""

    topic: str
    received_ns: int
    published_ns: int
    message: Any


class Recording:
    """One file. Raises DataError when it is none, or was cut off."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._decoders = DecoderFactory()
        repair = f"starry record --recover {path}"
        try:
            with path.open("rb") as stream:
                reader = make_reader(stream)
                summary = reader.get_summary()
                notes = {note.name: note.metadata for note in reader.iter_metadata()}
                self.attachments = {a.name: a.data for a in reader.iter_attachments()}
        except OSError as error:
            raise DataError(str(path), "cannot be read", got=error.strerror) from error
        except McapError as error:
            why = str(error) or "it ends too early"
            raise DataError(str(path), f"is damaged or no MCAP file: {why}", fix=repair) from error
        if summary is None or summary.statistics is None:
            raise DataError(str(path), "has no index: its writer was killed", fix=repair)
        self.metadata: dict[str, str] = notes.get(METADATA, {})
        counts = summary.statistics.channel_message_counts
        self.counts = {channel.topic: counts.get(key, 0) for key, channel in summary.channels.items()}
        self.start_ns, self.end_ns = summary.statistics.message_start_time, summary.statistics.message_end_time
        self.namespace = self._namespace()

    @property
    def seconds(self) -> float:
        """From the first message to the last."""
        return float(self.end_ns - self.start_ns) / NS_PER_S

    def _namespace(self) -> str:
        """What stands before the topics of the graph, with its slashes: "/" or such as "/cell_1/"."""
        ends = [topic for topic in self.counts if topic.endswith("/executor_status") or topic.endswith("/action_chunk")]
        return ends[0].rpartition("/")[0] + "/" if ends else "/"

    def has(self, topic: str) -> bool:
        """Whether there is any message of a topic, given relative to the namespace."""
        return bool(self.counts.get(self._full(topic), 0))

    def _full(self, topic: str) -> str:
        return topic if topic.startswith("/") else self.namespace + topic

    def messages(self, *topics: str, start_ns: int | None = None, end_ns: int | None = None) -> Iterator[Heard]:
        """Decoded messages of these topics in the order in which they were received."""
        full = {self._full(topic): topic for topic in topics}
        with self.path.open("rb") as stream:
            reader = make_reader(stream, decoder_factories=[self._decoders])
            found = reader.iter_decoded_messages(list(full), start_time=start_ns, end_time=end_ns)
            for _, channel, message, decoded in found:
                yield Heard(full[channel.topic], message.log_time, message.publish_time, decoded)

    def raw(self, topics: Sequence[str] | None = None) -> Iterator[tuple[str, str, int, bytes]]:
        """(full topic, type, time received, CDR bytes) of every message, or of those topics (full names)."""
        with self.path.open("rb") as stream:
            for schema, channel, message in make_reader(stream).iter_messages(topics):
                yield channel.topic, schema.name if schema else "", message.log_time, message.data

    def spec(self) -> RobotSpec:
        """The robot contract that was in force. DataError when the recording holds none."""
        if ROBOT_ATTACHMENT not in self.attachments:
            raise DataError(str(self.path), "holds no robot contract", fix="give one with --robot")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / ROBOT_ATTACHMENT
            path.write_bytes(self.attachments[ROBOT_ATTACHMENT])
            return load_robot_spec(path)


# Messages to values


def stamp_ns(stamp: Any) -> int:
    """Nanoseconds of a stamp or duration."""
    return int(stamp.sec) * NS_PER_S + int(stamp.nanosec)


def chunk_of(message: Any) -> ActionChunk:
    """A plan, in ROS time. InputError when its positions are not rows of its joints."""
    joints = len(message.joint_names)
    if joints == 0 or len(message.positions) % joints:
        raise InputError("action_chunk", "positions are not rows of joints", got=len(message.positions),
                         expected=f"rows of {joints}")
    return ActionChunk(
        chunk_id=message.chunk_id, epoch=message.epoch, instruction_id=message.instruction_id,
        observation_ns=stamp_ns(message.header.stamp), start_ns=stamp_ns(message.start),
        step_ns=nanoseconds(message.step_s), joint_names=tuple(message.joint_names),
        positions_KJ=np.asarray(message.positions, dtype=np.float64).reshape(-1, joints),
        contract_hash=message.contract_hash,
    )


def value_map_of(message: Any) -> ValueMap:
    """A value map, in ROS time. InputError when its values do not fill its shape."""
    wanted = message.events * message.rows * message.cols
    if len(message.values) != wanted:
        raise InputError("value_map", "values do not fill the map", got=len(message.values), expected=wanted)
    values = np.asarray(message.values, dtype=np.float32).reshape(message.events, message.rows, message.cols)
    landing = tuple(LandingPoint(p.camera, p.event, p.u_px, p.v_px, p.confidence) for p in message.landing)
    return ValueMap(stamp_ns(message.header.stamp), message.layout_hash, message.stride_px, values, landing)


def state_of(spec: RobotSpec, message: Any) -> RobotState:
    """Joints in contract order and sign."""
    position_J, velocity_J = spec.joint_state(message.name, message.position, message.velocity)
    return RobotState(stamp_ns(message.header.stamp), position_J, np.nan_to_num(velocity_J, nan=0.0))


def commanded(spec: RobotSpec, arm: str, message: Any) -> np.ndarray:
    """What a command asks of one arm first, in contract order and sign: a set-point, or the head of a trajectory.

    Nothing where it holds nothing. DataError on a set-point of another number of joints.
    """
    if spec.command_interface == "joint_trajectory":
        points = message.points[:1]
        return np.concatenate([arm_positions(spec, arm, message.joint_names, point.positions) for point in points]
                              or [np.zeros(0)])
    part = spec.arm_slice(arm)
    if len(message.data) != part.stop - part.start:
        raise DataError(f"command of arm {arm}", "is not a set-point a joint", got=len(message.data),
                        expected=part.stop - part.start)
    return np.asarray(message.data, dtype=np.float64) * spec.limit("sign")[part]


def picture_topics(spec: RobotSpec, has: Callable[[str], bool]) -> dict[str, CameraSpec]:
    """Cameras by the topic of their pictures: raw, or compressed where only that is there."""
    return {f"{camera.topic}/compressed" if has(f"{camera.topic}/compressed") and not has(camera.topic)
            else camera.topic: camera for camera in spec.cameras}


def image_of(name: str, message: Any) -> U8:
    """RGB pixels of an Image or CompressedImage."""
    if hasattr(message, "format"):
        return decode_compressed(name, message.data)
    return decode_image(name, message.encoding, message.height, message.width, message.step, message.data)


def arm_positions(spec: RobotSpec, arm: str, names: Sequence[str], positions: Sequence[float]) -> np.ndarray:
    """One arm's positions in contract order and sign, from a trajectory point."""
    part = spec.arm_slice(arm)
    order = [list(names).index(joint.name) for joint in spec.joints[part]]
    return np.asarray(positions, dtype=np.float64)[order] * spec.limit("sign")[part]
