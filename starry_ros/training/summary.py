"""What a data folder says of itself in `meta.json`: what its episodes are, counted and hashed, and of which robot."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.errors import DataError
from starry_ros.robot_spec import RobotSpec
from starry_ros.types import Record

FORMAT_VERSION = 2
"""In 1 the labels of five tasks stood where the task's script would touch, not where the contact came."""


def summary(files: Sequence[Path], spec: RobotSpec) -> Record:
    """Counts over the episodes, the hash of all their bytes, and the robot and canvas that they belong to."""
    kinds = Counter[str]()
    frames = empty = failed = 0
    for path in files:
        with np.load(path, allow_pickle=False) as data:
            frames += len(data["time_s_T"])
            empty += int(data["empty_closed_T"].sum())
            failed += int(data["failed"]) if "failed" in data else 0
            kinds[str(data["kind"]) if "kind" in data else "unknown"] += 1
    return {
        "format_version": FORMAT_VERSION, "episodes": len(files), "frames": frames, "frame_hz": 1 / spec.action.step_s,
        "empty_closed_frames": empty, "failed_attempts": failed, "kinds": dict(kinds), "robot": spec.name,
        "contract_hash": spec.content_hash, "joint_names": list(spec.joint_names),
        "layout_hash": t_pose_layout(spec).layout_hash, "data_hash": content_hash(files),
    }


def content_hash(files: Sequence[Path]) -> str:
    """The hash of all bytes of the episodes, in order."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def read_meta(folder: Path) -> Record:
    """The meta.json of a data folder; an empty record where there is none. Raises DataError if it is not JSON."""
    path = folder / "meta.json"
    try:
        found: Record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise DataError(str(path), f"is not JSON: {error}", fix="copy it again, or delete it") from error
    return found


def data_hash(folder: Path) -> str:
    """The hash of a data folder's episodes, as its meta.json has it; empty where nobody noted one."""
    return str(read_meta(folder).get("data_hash", ""))


def check_contract(folder: Path, spec: RobotSpec) -> None:
    """Raises DataError where meta.json names another robot, canvas or frame rate; what it does not name is not checked.

    Weights carry the contract of the robot that they were trained for, so data of another one must not get that far.
    """
    found = read_meta(folder)
    wanted = {"contract_hash": spec.content_hash, "layout_hash": t_pose_layout(spec).layout_hash,
              "frame_hz": 1 / spec.action.step_s}
    differ = [name for name, value in wanted.items() if found.get(name, value) != value]
    if differ:
        got, expected = (", ".join(f"{name} {values[name]}" for name in differ) for values in (found, wanted))
        robot = found.get("robot", "unknown")
        raise DataError(
            str(folder), f"holds data of another robot than {spec.name}", got=f"{got} (robot {robot})",
            expected=expected, fix="give the --robot of these data, or make them again for this one",
        )
