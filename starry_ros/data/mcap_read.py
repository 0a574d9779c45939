"""Import of MCAP recordings of ROS 2 topics: of this project's recorder, of rosbag2, or of `mcap_write`.

Topics are those of the robot contract, under any namespace: `<camera>/image_raw` or `.../compressed`, optional
`<camera>/camera_info` and `<camera>/depth/image_raw`, the joint states, the trajectories or set-points sent to the
arms, and the sentence from `world_action_status` or `instruction`. Frames come at the head camera's stamps. A new
session epoch starts a new episode.

Shapes: N messages of a topic, T frames, J joints.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from starry_ros.canvas.pack import decode_compressed, decode_image
from starry_ros.data.mcap_file import McapFile
from starry_ros.data.mcap_write import EPISODE, INSTRUCTION, LABELS
from starry_ros.data.recording import Recording, Shrinker
from starry_ros.data.store import Arrays
from starry_ros.errors import DataError, InputError, StarryError
from starry_ros.robot_spec import RobotSpec
from starry_ros.types import F32, F64, U8, CameraModel

STATUS = "world_action_status"
COMPRESSED = "/compressed"
SKEW_S = 0.1
"""Another camera's image must be this near the head camera's, else the frame is left out."""
LONGEST_GAP_S = 1.0
"""Longer without a complete frame, and the episode is refused; shorter gaps hold the last image."""
SHORTEST_S = 1.0
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
class _Tape:
    """Everything of one file, by topic, as (time, value); times in s. `faults` say what could not be used."""

    images: dict[str, list[tuple[float, U8]]] = field(default_factory=dict)
    depths: dict[str, list[tuple[float, F32]]] = field(default_factory=dict)
    joints: list[tuple[float, F64, F64]] = field(default_factory=list)
    commands: dict[str, list[tuple[float, F64, F64]]] = field(default_factory=dict)
    texts: list[tuple[float, int, str]] = field(default_factory=list)
    calibration: dict[str, CameraModel] = field(default_factory=dict)
    labels: dict[str, list[F64]] = field(default_factory=dict)
    whole: dict[str, Any] = field(default_factory=dict)
    faults: list[tuple[float, str]] = field(default_factory=list)


def read_mcap(path: Path, spec: RobotSpec, instruction: str = "") -> list[Recording]:
    """The episodes of one file. `instruction` is the sentence where the file names none. DataError names the file."""
    recordings = [read() for read in mcap_episodes(path, spec, instruction)]
    return [recording for recording in recordings if recording is not None]


def mcap_episodes(path: Path, spec: RobotSpec, instruction: str = "") -> list[Callable[[], Recording | None]]:
    """One function for each episode of a file, which gives it, or None where it is too short to be one.

    `instruction` is the sentence where the file names none. DataError names the file; that of a function, its episode.
    """
    tape = _Loader(path, spec).load()
    head = next(camera.name for camera in spec.cameras if camera.role == "head")
    for what, found in (("images of " + head, tape.images.get(head)), ("joint states", tape.joints)):
        if not found:
            raise DataError(str(path), f"holds no {what}", got=tape.faults[0][1] if tape.faults else None,
                            fix="record the topics of the robot contract")
    texts = [entry for entry in tape.texts if entry[2]]
    if not texts:
        if not instruction:
            raise DataError(str(path), "names no sentence", fix="give one with --instruction")
        texts = [(-np.inf, 0, instruction)]
    spans = list(_episodes(texts, tape.images[head][-1][0]))
    faults: dict[int, str] = {}
    for at, fault in tape.faults:
        faults.setdefault(max(0, bisect.bisect_right([begin_s for begin_s, _ in spans], at) - 1), fault)

    def read(number: int) -> Recording | None:
        where = f"{path}, episode {number}"
        if number in faults:
            raise DataError(where, faults[number])
        return _recording(where, tape, spec, head, texts, *spans[number])

    return [partial(read, number) for number in range(len(spans))]


def _episodes(texts: list[tuple[float, int, str]], last_s: float) -> Iterator[tuple[float, float]]:
    """(begin, end) of each session epoch. A change of sentence within an epoch stays in the episode."""
    begins = [texts[0][0]] + [now[0] for before, now in pairwise(texts) if now[1] != before[1]]
    yield from zip(begins, [*begins[1:], last_s + 1.0], strict=True)


def _recording(
    where: str, tape: _Tape, spec: RobotSpec, head: str, texts: list[tuple[float, int, str]], begin_s: float,
    end_s: float,
) -> Recording | None:
    """One episode, or None if it is too short to be one."""
    joint_s = np.array([entry[0] for entry in tape.joints])
    frames = [(at, image) for at, image in tape.images[head]
              if begin_s <= at < end_s and joint_s[0] <= at <= joint_s[-1]]
    if len(frames) < 2 or (not tape.whole and frames[-1][0] - frames[0][0] < SHORTEST_S):
        return None
    times = _complete(where, tape, np.array([at for at, _ in frames]))
    position, velocity = (_at(joint_s, np.array([entry[i] for entry in tape.joints]), times) for i in (1, 2))
    text_s = [entry[0] for entry in texts]
    labels = {name: np.array(rows) for name, rows in tape.labels.items() if len(rows) == len(frames)}
    return Recording(
        where=where, time_s_T=times, position_TJ=position,
        velocity_TJ=velocity if np.isfinite(velocity).all() else None,
        views={camera: _nearest(found, times) for camera, found in tape.images.items()},
        texts=[texts[max(0, bisect.bisect_right(text_s, at) - 1)][2] for at in times],
        command_TJ=_commands(tape, spec, times, position), calibration=tape.calibration,
        depths={camera: _nearest(found, times) for camera, found in tape.depths.items()},
        known=_known(tape, labels, spec),
    )


def _at(time_s_N: F64, rows_NJ: F64, times_T: F64) -> F32:
    """Rows interpolated at other times."""
    return np.column_stack([np.interp(times_T, time_s_N, column) for column in rows_NJ.T]).astype(np.float32)


def _complete(where: str, tape: _Tape, times_T: F64) -> F64:
    """The times at which every camera has an image near enough. DataError where too long a gap is left."""
    skews = {camera: np.abs(_near(found, times_T)[1]) for camera, found in tape.images.items()}
    kept: F64 = times_T[np.max(list(skews.values()), axis=0) <= SKEW_S]
    gaps = np.diff(np.concatenate([times_T[:1], kept, times_T[-1:]]))
    if len(kept) < 2 or gaps.max() > LONGEST_GAP_S:
        worst = max(skews, key=lambda camera: float(skews[camera].max()))
        raise DataError(where, f"lost images, most of all camera {worst}", got=f"a gap of {gaps.max():.2f} s",
                        expected=f"<= {LONGEST_GAP_S} s", fix="record again with a faster disk or fewer topics")
    return kept


def _near(found: list[tuple[float, Any]], times_T: F64) -> tuple[Any, F64]:
    """For each time the index of the image that is nearest to it, and how far off that is."""
    stamps = np.array([at for at, _ in found])
    after = np.clip(np.searchsorted(stamps, times_T), 0, len(stamps) - 1)
    before = np.maximum(after - 1, 0)
    nearest = np.where(np.abs(stamps[before] - times_T) <= np.abs(stamps[after] - times_T), before, after)
    return nearest, stamps[nearest] - times_T


def _nearest(found: list[tuple[float, Any]], times_T: F64) -> Any:
    """For each time the image that is nearest to it."""
    return np.stack([found[int(i)][1] for i in _near(found, times_T)[0]])


def _commands(tape: _Tape, spec: RobotSpec, times_T: F64, position_TJ: F32) -> F32 | None:
    """The trajectory in force at each time, evaluated there; None if no arm was sent any. A silent arm stays put."""
    if not tape.commands:
        return None
    command = position_TJ.copy()
    for arm, sent in tape.commands.items():
        begins, part = [entry[0] for entry in sent], spec.arm_slice(arm)
        for row, at in zip(command, times_T, strict=True):
            index = bisect.bisect_right(begins, at) - 1
            if index >= 0:
                begin, offsets, points = sent[index]
                row[part] = [np.interp(at - begin, offsets, column) for column in points.T]
    return command


def _known(tape: _Tape, labels: dict[str, F64], spec: RobotSpec) -> Arrays:
    """Arrays that `mcap_write` stored, if it wrote them for this robot."""
    if tape.whole.get("contract_hash") != spec.content_hash:
        return {}
    forms = tape.whole["labels"]
    found: Arrays = {
        name: labels[name].reshape(-1, *shape).astype(dtype) for name, (dtype, shape) in forms.items() if name in labels
    }
    return {**found, **{name: np.array(value) for name, value in tape.whole["episode"].items()}}


class _Loader:
    """Reads one file into a `_Tape`."""

    def __init__(self, path: Path, spec: RobotSpec) -> None:
        self._path, self._spec, self._tape, self._shrinker = path, spec, _Tape(), Shrinker(spec)
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

    def load(self) -> _Tape:
        """The whole file; DataError if it is broken or another kind of file."""
        with McapFile(self._path) as file:
            self._roles = self._one_source_each(file.topics())
            for topic, logged_s, message in file.messages(list(self._roles)):
                self._try(topic, logged_s, message)
        return self._tape

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
        at = logged_s
        try:
            at = _stamp(message, logged_s)
            self._take(topic, at, logged_s, message)
        except Exception as error:
            said = error if isinstance(error, StarryError) else f"{type(error).__name__}: {error}"
            self._tape.faults.append((at, f"{topic} at {at:.2f} s: {said}"))

    def _take(self, topic: str, at: float, logged_s: float, message: Any) -> None:
        (kind, name), tape = self._roles[topic], self._tape
        if kind in ("image", "compressed"):
            image = _decoded(name, message) if kind == "image" else decode_compressed(name, message.data)
            tape.images.setdefault(name, []).append((at, self._shrinker.shrink(name, name, image)))
        elif kind == "depth":
            depth = self._shrinker.sample(name, name, _depth(name, message))
            tape.depths.setdefault(name, []).append((at, depth))
        elif kind == "joints":
            self._joints(at, message)
        elif kind == "command":
            self._command(at, name, message)
        elif kind == "status":
            if message.instruction and message.epoch:
                tape.texts.append((at, int(message.epoch), str(message.instruction)))
        elif kind == "text":
            tape.texts.append((logged_s, 0, str(message.data)))
        elif kind == "whole":
            tape.whole = dict(json.loads(message.data))
        elif kind == "label":
            tape.labels.setdefault(name, []).append(np.array(message.data))
        elif kind == "info" and name not in tape.calibration and message.k[0]:  # 0: not calibrated
            tape.calibration[name] = _calibration(name, message)

    def _joints(self, at: float, message: Any) -> None:
        position, velocity = self._spec.joint_state(message.name, message.position, message.velocity)
        if not self._tape.joints or at > self._tape.joints[-1][0]:
            self._tape.joints.append((at, position, velocity))

    def _command(self, at: float, arm: str, message: Any) -> None:
        """A trajectory, or a set-point of a forward position controller, which has no names."""
        wanted = [joint.name for spec in self._spec.arms if spec.name == arm for joint in spec.joints]
        sign = self._spec.limit("sign")[self._spec.arm_slice(arm)]
        if not hasattr(message, "points"):
            if len(message.data) != len(wanted):
                raise DataError(arm, "set-point has another length", got=len(message.data), expected=len(wanted))
            self._tape.commands.setdefault(arm, []).append((at, np.zeros(1), sign * np.array([message.data])))
            return
        if not message.points:
            return
        names = list(message.joint_names)
        if sorted(names) != sorted(wanted):
            raise DataError(arm, "trajectory names other joints", got=names, expected=wanted)
        order = [names.index(name) for name in wanted]
        offsets = np.array([p.time_from_start.sec + p.time_from_start.nanosec / 1e9 for p in message.points])
        points = np.array([[p.positions[i] for i in order] for p in message.points])
        self._tape.commands.setdefault(arm, []).append((at, offsets, sign * points))


def _stamp(message: Any, logged_s: float) -> float:
    """The message's own time, or the time of its recording if it has none."""
    header = getattr(message, "header", None)
    stamp = 0.0 if header is None else header.stamp.sec + header.stamp.nanosec / 1e9
    return stamp if stamp > 0 else logged_s


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
