"""Everything of one MCAP file that an import uses, by topic and in order of time.

Topics are those of the robot contract, under any namespace; `mcap_read` makes episodes of them.

Shapes: N messages of a topic, J joints, P points of a trajectory, H x W depth image at the contract's size.
"""

from __future__ import annotations

import bisect
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from starry_ros.canvas.pack import decode_compressed, decode_image
from starry_ros.data.depth import Millimetres, millimetres
from starry_ros.data.mcap_file import McapFile
from starry_ros.data.mcap_write import EPISODE, INSTRUCTION, LABELS
from starry_ros.data.recording import Shrinker
from starry_ros.errors import DataError, InputError, StarryError
from starry_ros.robot_spec import RobotSpec
from starry_ros.types import F32, F64, U8, CameraModel

STATUS = "world_action_status"
COMPRESSED = "/compressed"
CLOCKS_APART_S = 1.0
"""Times of recording that differ by more than this from stamps, on the median, are of another clock."""
NEXT_TO = 2
"""Joint states on each side that say how far apart two clocks are at an instant."""
DEPTH_EVERY_STEPS = 0.45
"""Depth images follow one another by at least this many steps of the model; those between are not kept."""
TYPES = {
    "image": ("sensor_msgs/Image",), "compressed": ("sensor_msgs/CompressedImage",),
    "info": ("sensor_msgs/CameraInfo",), "depth": ("sensor_msgs/Image",), "joints": ("sensor_msgs/JointState",),
    "command": ("trajectory_msgs/JointTrajectory", "std_msgs/Float64MultiArray"), "text": ("std_msgs/String",),
    "status": ("starry_ros/WorldActionStatus",), "whole": ("std_msgs/String",),
    "label": ("std_msgs/Float64MultiArray",),
}
"""Message types of what a topic may carry."""
DEPTH_UNITS = {"16UC1": ("u2", 1000), "mono16": ("u2", 1000), "32FC1": ("f4", 1)}
"""Encodings of depth images: type of a pixel, units a metre."""


@dataclass
class Tape:
    """Everything of one file, by topic, as (time, value); times in s. `faults` say what could not be used.

    Images are in order of arrival, all else in order of time; of joint states of one time the first is kept.
    """

    images: dict[str, list[tuple[float, U8]]] = field(default_factory=dict)
    depths: dict[str, list[tuple[float, Millimetres]]] = field(default_factory=dict)
    joints: list[tuple[float, F64, F64]] = field(default_factory=list)
    commands: dict[str, list[tuple[float, F64, F64]]] = field(default_factory=dict)
    texts: list[tuple[float, int, str]] = field(default_factory=list)
    calibration: dict[str, CameraModel] = field(default_factory=dict)
    labels: dict[str, list[F64]] = field(default_factory=dict)
    whole: dict[str, Any] = field(default_factory=dict)
    faults: list[tuple[float, str]] = field(default_factory=list)


def read_tape(path: Path, spec: RobotSpec) -> Tape:
    """The whole file; DataError if it is broken or another kind of file."""
    return _Loader(path, spec).load()


class _Clocks:
    """From times of recording to stamps.

    A message without a stamp is of the time of its recording: that is when it came into force. A recorder may be on
    another clock than the stamps, as on the computer's beside a simulator. It is, where joint states were recorded on
    the median more than CLOCKS_APART_S after or before their stamps. A time of recording is then moved by the median
    difference of the joint states recorded next to it, for simulated time need not pass at the computer's pace.
    """

    def __init__(self) -> None:
        self._logged_s: list[float] = []
        self._ahead_s: list[float] = []

    def add(self, logged_s: float, stamp_s: float) -> None:
        """A joint state was recorded; in order of recording."""
        self._logged_s.append(logged_s)
        self._ahead_s.append(logged_s - stamp_s)

    def apart(self) -> bool:
        """Whether the two clocks differ."""
        return bool(self._ahead_s) and abs(float(np.median(self._ahead_s))) > CLOCKS_APART_S

    def moved(self, entries: list[Any]) -> list[Any]:
        """(time of recording, ...) as (stamp, ...)."""
        if not self.apart():
            return entries
        return [(self._stamp(entry[0]), *entry[1:]) for entry in entries]

    def _stamp(self, logged_s: float) -> float:
        near = bisect.bisect_left(self._logged_s, logged_s)
        return logged_s - float(np.median(self._ahead_s[max(0, near - NEXT_TO) : near + NEXT_TO]))


class _Loader:
    """Reads one file: messages with a stamp to one tape, those without to another, then both to one clock."""

    def __init__(self, path: Path, spec: RobotSpec) -> None:
        self._path, self._spec, self._shrinker = path, spec, Shrinker(spec)
        self._stamped, self._logged, self._clocks = Tape(), Tape(), _Clocks()
        self._ends: dict[str, tuple[str, str]] = {}
        self._roles: dict[str, tuple[str, str]] = {}
        for camera in spec.cameras:
            self._ends |= {
                camera.topic: ("image", camera.name), camera.topic + COMPRESSED: ("compressed", camera.name),
                camera.info_topic: ("info", camera.name), f"{camera.name}/depth/image_raw": ("depth", camera.name),
            }
        self._ends |= {arm.command_topic: ("command", arm.name) for arm in spec.arms}
        self._ends |= {spec.joint_state_topic: ("joints", ""), STATUS: ("status", ""), INSTRUCTION: ("text", ""),
                       EPISODE: ("whole", "")}

    def load(self) -> Tape:
        """Everything that is of use."""
        with McapFile(self._path) as file:
            self._roles = self._one_source_each(file.topics())
            for topic, logged_s, message in file.messages(list(self._roles)):
                self._try(topic, logged_s, message)
        return self._joined()

    def _joined(self) -> Tape:
        """Both tapes as one, on the clock of the stamps."""
        tape, logged, moved = self._stamped, self._logged, self._clocks.moved
        kinds: list[tuple[dict[str, list[Any]], dict[str, list[Any]]]] = [
            (tape.images, logged.images), (tape.depths, logged.depths), (tape.commands, logged.commands),
        ]
        for ours, theirs in kinds:
            for name, entries in theirs.items():
                ours[name] = moved(entries) + ours.get(name, [])
        tape.texts += moved(logged.texts)
        tape.joints += moved(logged.joints)
        tape.faults += moved(logged.faults)
        in_time: list[list[Any]] = [tape.texts, tape.joints, tape.faults]
        for entries in [*in_time, *tape.depths.values(), *tape.commands.values()]:
            entries.sort(key=lambda entry: entry[0])
        tape.joints = list({entry[0]: entry for entry in reversed(tape.joints)}.values())[::-1]
        tape.calibration = {**logged.calibration, **tape.calibration}
        tape.labels, tape.whole = logged.labels, logged.whole
        return tape

    def _role(self, topic: str) -> tuple[str, str] | None:
        """What a topic carries, whatever its namespace."""
        for end, role in self._ends.items():
            if topic == end or topic.endswith(f"/{end}"):
                return role
        _, found, name = topic.rpartition("/" + LABELS)
        return ("label", name) if found else None

    def _one_source_each(self, topics: dict[str, str]) -> dict[str, tuple[str, str]]:
        """What each useful topic carries. The contract's own name wins, and raw images win over the same compressed.

        DataError on two sources of the same: two robots must not become one; and on one of another message type.
        """
        sources: dict[tuple[str, str], dict[str, tuple[str, str]]] = {}
        for topic in topics:
            role = self._role(topic)
            if role is None or (role[0] == "label" and topics[topic] not in TYPES["label"]):
                continue
            compressed = role[0] == "compressed"
            if not compressed or topic.removesuffix(COMPRESSED) not in topics:
                sources.setdefault(("image", role[1]) if compressed else role, {})[topic] = role
        roles = {}
        for what, found in sources.items():
            named = " ".join(what).strip()
            own = [topic for topic in found if {topic, topic.lstrip("/")} & set(self._ends)]
            chosen = own[:1] or [topic for topic in found if topics[topic] in TYPES[found[topic][0]]] or list(found)
            if len(chosen) > 1:
                raise DataError(str(self._path), f"holds two sources of {named}", got=chosen,
                                expected="one robot a file", fix="record each robot in a ROS_DOMAIN_ID of its own")
            role = roles[chosen[0]] = found[chosen[0]]
            if topics[chosen[0]] not in TYPES[role[0]]:
                raise DataError(str(self._path), f"{chosen[0]} should carry {named}, but is of another type",
                                got=topics[chosen[0]], expected=" or ".join(TYPES[role[0]]),
                                fix="record it under another name")
        return roles

    def _try(self, topic: str, logged_s: float, message: Any) -> None:
        """Take a message, or note what is wrong with it: it spoils the episode that it lies in, not the whole file.

        A type's definition in the file may be any, and image codecs have errors of their own.
        """
        at, tape = logged_s, self._logged
        try:
            stamp_s = _stamp(message)
            if stamp_s is not None:
                at, tape = stamp_s, self._stamped
                if self._roles[topic][0] == "joints":
                    self._clocks.add(logged_s, stamp_s)
            self._take(tape, topic, at, message)
        except Exception as error:
            said = error if isinstance(error, StarryError) else f"{type(error).__name__}: {error}"
            tape.faults.append((at, f"{topic} at {at:.2f} s: {said}"))

    def _take(self, tape: Tape, topic: str, at: float, message: Any) -> None:
        kind, name = self._roles[topic]
        if kind in ("image", "compressed"):
            image = _decoded(name, message) if kind == "image" else decode_compressed(name, message.data)
            tape.images.setdefault(name, []).append((at, self._shrinker.shrink(name, name, image)))
        elif kind == "depth":
            self._depth(tape, at, name, message)
        elif kind == "joints":
            tape.joints.append((at, *self._spec.joint_state(message.name, message.position, message.velocity)))
        elif kind == "command":
            self._command(tape, at, name, message)
        elif kind == "status":
            if message.instruction and message.epoch:
                tape.texts.append((at, int(message.epoch), str(message.instruction)))
        elif kind == "text":
            tape.texts.append((at, 0, str(message.data)))
        elif kind == "whole":
            tape.whole = dict(json.loads(message.data))
        elif kind == "label":
            tape.labels.setdefault(name, []).append(np.array(message.data))
        elif kind == "info" and name not in tape.calibration and message.k[0]:  # 0: not calibrated
            tape.calibration[name] = _calibration(name, message)

    def _depth(self, tape: Tape, at: float, name: str, message: Any) -> None:
        """Keep what episodes at the model's rate can use: at a camera's rate, depth would fill the memory."""
        kept = tape.depths.get(name)
        if not kept or abs(at - kept[-1][0]) >= DEPTH_EVERY_STEPS * self._spec.action.step_s:
            depth = millimetres(self._shrinker.sample(name, name, _depth(name, message)))
            tape.depths.setdefault(name, []).append((at, depth))

    def _command(self, tape: Tape, at: float, arm: str, message: Any) -> None:
        """A trajectory, or a set-point of a forward position controller, which has no names."""
        wanted = [joint.name for spec in self._spec.arms if spec.name == arm for joint in spec.joints]
        sign = self._spec.limit("sign")[self._spec.arm_slice(arm)]
        if not hasattr(message, "points"):
            if len(message.data) != len(wanted):
                raise DataError(arm, "set-point has another length", got=len(message.data), expected=len(wanted))
            tape.commands.setdefault(arm, []).append((at, np.zeros(1), sign * np.array([message.data])))
            return
        if not message.points:
            return
        names = list(message.joint_names)
        if sorted(names) != sorted(wanted):
            raise DataError(arm, "trajectory names other joints", got=names, expected=wanted)
        order = [names.index(name) for name in wanted]
        offset_s_P = np.array([_seconds(point.time_from_start) for point in message.points])
        point_PJ = np.array([[point.positions[i] for i in order] for point in message.points])
        tape.commands.setdefault(arm, []).append((at, offset_s_P, sign * point_PJ))


def _stamp(message: Any) -> float | None:
    """The message's own time in s; None if it has none, as a trajectory that begins at once."""
    header = getattr(message, "header", None)
    stamp_s = 0.0 if header is None else _seconds(header.stamp)
    return stamp_s if stamp_s > 0 else None


def _seconds(time: Any) -> float:
    """A stamp or duration in s, rounded once, as times of recording are: equal instants stay equal."""
    return float((time.sec * 10**9 + time.nanosec) / 1e9)


def _decoded(camera: str, message: Any) -> U8:
    return np.ascontiguousarray(
        decode_image(camera, message.encoding, message.height, message.width, message.step, message.data)
    )


def _depth(camera: str, message: Any) -> F32:
    """Depth image in m: 16UC1 is in millimetres, 32FC1 in metres. InputError on another encoding."""
    if message.encoding not in DEPTH_UNITS:
        raise InputError(f"depth of camera {camera}", "unknown image encoding", got=message.encoding,
                         expected=list(DEPTH_UNITS))
    kind, units_per_m = DEPTH_UNITS[message.encoding]
    dtype = np.dtype(kind).newbyteorder(">" if message.is_bigendian else "<")
    rows = np.frombuffer(bytes(message.data), np.uint8).reshape(message.height, message.step)
    metres: F32 = rows[:, : message.width * dtype.itemsize].copy().view(dtype).astype(np.float32)
    return metres / np.float32(units_per_m)


def _calibration(camera: str, message: Any) -> CameraModel:
    k = [float(value) for value in message.k]
    return CameraModel(camera, message.width, message.height, k[0], k[4], k[2], k[5], np.eye(4))
