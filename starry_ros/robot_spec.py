"""The robot contract: the one YAML file that differs between robots, loaded, validated and hashed.

`RobotSpec.content_hash` covers the meaning of the file (not its comments or layout). Every checkpoint and every
message that carries a plan names the hash, so a model never drives a robot that it was not trained for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from starry_ros.errors import ContractError, InputError
from starry_ros.types import F64

try:
    from yaml import CSafeLoader as SafeLoader  # ten times as fast
except ImportError:
    from yaml import SafeLoader  # type: ignore[assignment]

CONTRACT_VERSION = 1
CAMERA_ROLES = ("head", "left_wrist", "right_wrist")
UNITS = ("rad", "m")
COMMAND_INTERFACES = ("joint_trajectory", "position_forward")
NO_KINEMATICS = "none"
PACKAGE_PREFIX = "package:"
KINEMATICS_FORMATS = ("mjcf", "urdf", NO_KINEMATICS)
AXES = ("x", "y", "z")
_NAME = re.compile(r"[A-Za-z]\w*\Z", re.ASCII)
_TOPIC = re.compile(r"[~/]?/?[A-Za-z]\w*(/[A-Za-z_]\w*)*\Z", re.ASCII)


@dataclass(frozen=True)
class JointSpec:
    """One joint. `unit` is rad or m; limits are in that unit, per second, second squared and cubed."""

    name: str
    unit: str
    sign: int
    home: float
    lower: float
    upper: float
    velocity: float
    acceleration: float
    jerk: float


@dataclass(frozen=True)
class ArmSpec:
    """One arm: its joints in order, the gripper last, and the topic its controller listens on."""

    name: str
    command_topic: str
    end_effector_frame: str
    joints: tuple[JointSpec, ...]


@dataclass(frozen=True)
class CameraSpec:
    """One camera as its driver publishes it."""

    name: str
    role: str
    topic: str
    info_topic: str
    width_px: int
    height_px: int
    calibration: str
    frame_id: str


@dataclass(frozen=True)
class CanvasSpec:
    """Size of the canvas and of one token on it."""

    layout: str
    height_px: int
    width_px: int
    token_px: int


@dataclass(frozen=True)
class RatesSpec:
    """Rates in hertz."""

    control_hz: float
    observation_hz: float
    camera_hz: float


@dataclass(frozen=True)
class ActionSpec:
    """What a chunk is: `chunk_steps` absolute joint positions, `step_s` seconds apart."""

    space: str
    chunk_steps: int
    step_s: float


@dataclass(frozen=True)
class KinematicsSpec:
    """Where forward kinematics comes from: `mjcf` or `urdf`, and a path or `package:<path in starry_ros>`.

    In the file, a relative path begins at the file's own folder.

    `none` switches off what needs it: the checks of the workspace and of the distance between the arms, and labels.
    """

    format: str
    source: str


@dataclass(frozen=True)
class RobotSpec:
    """A validated robot contract."""

    contract_version: int
    name: str
    description: str
    rates: RatesSpec
    cameras: tuple[CameraSpec, ...]
    canvas: CanvasSpec
    arms: tuple[ArmSpec, ...]
    joint_state_topic: str
    command_interface: str
    kinematics: KinematicsSpec
    workspace_m: Mapping[str, tuple[float, float]]
    arm_distance_m: float
    action: ActionSpec

    @property
    def joints(self) -> tuple[JointSpec, ...]:
        """All joints in contract order: arm after arm."""
        return tuple(joint for arm in self.arms for joint in arm.joints)

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Names in contract order."""
        return tuple(joint.name for joint in self.joints)

    @property
    def gripper_indices(self) -> tuple[int, ...]:
        """Position of each arm's gripper in contract order."""
        ends = np.cumsum([len(arm.joints) for arm in self.arms])
        return tuple(int(end) - 1 for end in ends)

    @cached_property
    def content_hash(self) -> str:
        """First 16 hex digits of SHA-256 over the canonical JSON of every field except the description; kept, for
        messages carry it. Of a kinematics file elsewhere the bytes count, not the path.
        """
        fields = dataclasses.asdict(self)
        del fields["description"]
        file = Path(self.kinematics.source)
        if file.is_absolute() and file.is_file():
            fields["kinematics"]["source"] = hashlib.sha256(file.read_bytes()).hexdigest()
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def limit(self, name: str) -> F64:
        """One field of every joint (`home`, `lower`, `upper`, `velocity`, `acceleration`, `jerk`) as float64 [J]."""
        return np.array([getattr(joint, name) for joint in self.joints], dtype=np.float64)

    def arm_slice(self, arm: str) -> slice:
        """Slice of contract order that belongs to `arm`."""
        start = 0
        for spec in self.arms:
            if spec.name == arm:
                return slice(start, start + len(spec.joints))
            start += len(spec.joints)
        raise ContractError(self.name, f"no arm named {arm!r}", expected=[spec.name for spec in self.arms])

    def camera(self, name: str) -> CameraSpec:
        """The camera of that name."""
        for spec in self.cameras:
            if spec.name == name:
                return spec
        raise ContractError(self.name, f"no camera named {name!r}", expected=[spec.name for spec in self.cameras])

    def order_joints(self, names: Sequence[str], values: Sequence[float] | F64) -> F64:
        """Bring values given by name, in any order, into contract order.

        Raises InputError on a missing, extra or duplicate name, a wrong length or a non-finite value.
        """
        return order_by_name("joint state", self.joint_names, names, values)

    def joint_state(
        self, names: Sequence[str], positions: Sequence[float], velocities: Sequence[float]
    ) -> tuple[F64, F64]:
        """Positions and velocities [J] of a driver's joint state, in contract order and sign.

        A broadcaster sends every joint that a robot has: those that are not the contract's are left out. A velocity
        that is not reported, by an empty list or NaN, is NaN. Raises InputError on anything else that does not fit.
        """
        known = set(self.joint_names)
        kept = [i for i, name in enumerate(names) if name in known]
        if len(positions) != len(names) or len(velocities) not in (0, len(names)):
            got, where = (len(positions), len(velocities)), "joint state"
            raise InputError(where, "names and values differ in length", got=got, expected=len(names))
        chosen = [names[i] for i in kept]
        position_J = self.order_joints(chosen, [positions[i] for i in kept])
        given = [velocities[i] if len(velocities) else math.nan for i in kept]
        unknown = np.array([math.isnan(given[chosen.index(name)]) for name in self.joint_names])
        velocity_J = self.order_joints(chosen, [0.0 if math.isnan(value) else value for value in given])
        sign_J = self.limit("sign")
        return sign_J * position_J, np.where(unknown, np.nan, sign_J * velocity_J)


def order_by_name(where: str, wanted: Sequence[str], names: Sequence[str], values: Sequence[float] | F64) -> F64:
    """Values of `names`, in the order of `wanted`; a jumbled order is accepted, any other difference refused."""
    if len(values) != len(names):
        raise InputError(where, "names and values differ in length", got=len(values), expected=len(names))
    index = {name: i for i, name in enumerate(names)}
    if len(index) != len(names):
        twice = sorted({name for name in names if list(names).count(name) > 1})
        raise InputError(where, "duplicate joint names", got=twice, fix="let one driver publish each joint")
    missing, extra = sorted(set(wanted) - set(index)), sorted(set(index) - set(wanted))
    if missing or extra:
        raise InputError(
            where, f"missing joints {missing}, unknown joints {extra}",
            got=list(names), expected=list(wanted), fix="match the driver's joint names with the robot contract",
        )
    ordered = np.array([values[index[name]] for name in wanted], dtype=np.float64)
    if not np.isfinite(ordered).all():
        bad = [name for name, value in zip(wanted, ordered, strict=True) if not math.isfinite(value)]
        raise InputError(where, "non-finite values", got=bad, fix="check the driver of these joints")
    return ordered


def load_robot_spec(path: str | Path) -> RobotSpec:
    """Read and validate a robot contract.

    Raises ContractError that names the file, the field, what was found and what was expected.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ContractError(str(path), "cannot be read", got=error.strerror, fix="check the path") from error
    except UnicodeDecodeError as error:
        raise ContractError(str(path), "is not UTF-8 text", got=f"a bad byte at {error.start}") from error
    try:
        raw = yaml.load(text, _UniqueKeys)
    except yaml.YAMLError as error:
        raise ContractError(str(path), f"is not valid YAML: {error}") from error
    spec: RobotSpec = _build(RobotSpec, raw, str(path))
    _validate(spec, str(path))
    kinematics = spec.kinematics
    if kinematics.format == NO_KINEMATICS or kinematics.source.startswith(PACKAGE_PREFIX):
        return spec
    source = path.resolve().parent / Path(kinematics.source).expanduser()
    return dataclasses.replace(spec, kinematics=dataclasses.replace(kinematics, source=str(source)))


class _UniqueKeys(SafeLoader):
    """Refuses a key that comes twice: PyYAML would silently keep the last, be it a limit of a joint."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"duplicate keys {twice}", node.start_mark)
        return super().construct_mapping(node, deep)


def _build(kind: Any, raw: Any, where: str) -> Any:
    """Build the frozen dataclass `kind` from a mapping, refusing missing and unknown keys."""
    if not isinstance(raw, dict):
        raise ContractError(where, "is not a mapping", got=type(raw).__name__, expected="key: value lines")
    fields = {field.name: field.type for field in dataclasses.fields(kind)}
    missing, unknown = sorted(set(fields) - set(raw)), sorted(set(raw) - set(fields))
    if missing or unknown:
        raise ContractError(where, f"missing fields {missing}, unknown fields {unknown}", expected=sorted(fields))
    return kind(**{name: _convert(str(fields[name]), raw[name], f"{where}: {name}") for name in fields})


_NESTED = {
    "RatesSpec": RatesSpec, "CanvasSpec": CanvasSpec, "ActionSpec": ActionSpec, "KinematicsSpec": KinematicsSpec,
}
_LISTS = {
    "tuple[CameraSpec, ...]": CameraSpec, "tuple[ArmSpec, ...]": ArmSpec, "tuple[JointSpec, ...]": JointSpec,
}


def _convert(kind: str, value: Any, where: str) -> Any:
    if kind in _NESTED:
        return _build(_NESTED[kind], value, where)
    if kind in _LISTS:
        if not isinstance(value, list) or not value:
            raise ContractError(where, "is not a non-empty list", got=type(value).__name__)
        return tuple(_build(_LISTS[kind], item, f"{where}[{i}]") for i, item in enumerate(value))
    if kind.startswith("Mapping"):
        if not isinstance(value, dict):
            raise ContractError(where, "is not a mapping", got=type(value).__name__)
        return {str(key): _interval(item, f"{where}.{key}") for key, item in value.items()}
    wanted = {"str": str, "int": int, "float": (int, float)}[kind]
    if isinstance(value, bool) or not isinstance(value, wanted):  # type: ignore[arg-type]
        raise ContractError(where, "has the wrong type", got=f"{value!r} ({type(value).__name__})", expected=kind)
    if kind == "float":
        if not math.isfinite(value):
            raise ContractError(where, "is not finite", got=value)
        return float(value)
    return value


def _interval(value: Any, where: str) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise ContractError(where, "is not an interval", got=value, expected="[lower, upper]")
    return _convert("float", value[0], where), _convert("float", value[1], where)


def _validate(spec: RobotSpec, where: str) -> None:
    """Cross-field rules; the first broken one is reported."""
    if spec.contract_version != CONTRACT_VERSION:
        raise ContractError(where, "has another contract version", got=spec.contract_version, expected=CONTRACT_VERSION)
    _one_of(spec.command_interface, COMMAND_INTERFACES, f"{where}: command_interface")
    if len(spec.arms) != 2:
        raise ContractError(f"{where}: arms", "are not two", got=[arm.name for arm in spec.arms], expected="two arms")
    _unique([arm.name for arm in spec.arms], f"{where}: arms")
    _unique(list(spec.joint_names), f"{where}: joints")
    _unique([camera.name for camera in spec.cameras], f"{where}: cameras")
    _unique([camera.role for camera in spec.cameras], f"{where}: camera roles")
    _validate_names(spec, where)
    for camera in spec.cameras:
        _one_of(camera.role, CAMERA_ROLES, f"{where}: camera {camera.name}: role")
        _positive(camera.width_px, f"{where}: camera {camera.name}: width_px")
        _positive(camera.height_px, f"{where}: camera {camera.name}: height_px")
    for joint in spec.joints:
        _validate_joint(joint, f"{where}: joint {joint.name}")
    for name in ("control_hz", "observation_hz", "camera_hz"):
        _positive(getattr(spec.rates, name), f"{where}: rates.{name}")
    control_hz = spec.rates.control_hz
    if not 50 <= control_hz <= 1000:
        raise ContractError(f"{where}: rates.control_hz", "is out of range", got=control_hz, expected="50 to 1000")
    _positive(spec.action.chunk_steps, f"{where}: action.chunk_steps")
    _positive(spec.action.step_s, f"{where}: action.step_s")
    _one_of(spec.action.space, ("joint_position",), f"{where}: action.space")
    _one_of(spec.kinematics.format, KINEMATICS_FORMATS, f"{where}: kinematics.format")
    if spec.arm_distance_m < 0:
        raise ContractError(f"{where}: arm_distance_m", "is negative", got=spec.arm_distance_m, expected=">= 0")
    for axis in spec.workspace_m:
        _one_of(axis, AXES, f"{where}: workspace_m")
    for axis in AXES:
        lower, upper = spec.workspace_m.get(axis, (0.0, 0.0))
        if not lower < upper:
            place = f"{where}: workspace_m.{axis}"
            raise ContractError(place, "is empty", got=[lower, upper], expected="lower < upper")


def _validate_names(spec: RobotSpec, where: str) -> None:
    """Names become parts of topics; two things on one topic would be taken for each other."""
    named = [("arm", arm.name) for arm in spec.arms] + [("camera", camera.name) for camera in spec.cameras]
    for kind, name in [*named, *(("joint", name) for name in spec.joint_names)]:
        if not _NAME.match(name):
            raise ContractError(f"{where}: {kind}", "is not a name", got=repr(name), expected="such as left_1")
    topics = [spec.joint_state_topic, *(arm.command_topic for arm in spec.arms),
              *(topic for camera in spec.cameras for topic in (camera.topic, camera.info_topic))]
    for topic in topics:
        if not _TOPIC.match(topic):
            raise ContractError(f"{where}: topic", "is not a ROS name", got=repr(topic), expected="like joint_states")
    _unique(topics, f"{where}: topics")


def _validate_joint(joint: JointSpec, where: str) -> None:
    _one_of(joint.unit, UNITS, f"{where}: unit")
    if joint.sign not in (1, -1):
        raise ContractError(f"{where}: sign", "is wrong", got=joint.sign, expected="1 or -1")
    if not joint.lower < joint.upper:
        raise ContractError(where, "limits are empty", got=[joint.lower, joint.upper], expected="lower < upper")
    if not joint.lower <= joint.home <= joint.upper:
        limits = [joint.lower, joint.upper]
        raise ContractError(f"{where}: home", "lies outside the limits", got=joint.home, expected=limits)
    for name in ("velocity", "acceleration", "jerk"):
        _positive(getattr(joint, name), f"{where}: {name}")


def _positive(value: float, where: str) -> None:
    if not value > 0:
        raise ContractError(where, "is not positive", got=value, expected="> 0")


def _one_of(value: str, allowed: Sequence[str], where: str) -> None:
    if value not in allowed:
        raise ContractError(where, "is unknown", got=repr(value), expected=list(allowed))


def _unique(names: list[str], where: str) -> None:
    if len(set(names)) != len(names):
        raise ContractError(where, "has duplicate names", got=sorted({n for n in names if names.count(n) > 1}))
