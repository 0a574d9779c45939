"""What a data folder holds, counted and hashed: the part of `meta.json` that episodes say of themselves."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.robot_spec import RobotSpec
from starry_ros.types import Record

FORMAT_VERSION = 1


def summary(files: Sequence[Path], spec: RobotSpec) -> Record:
    """Counts over the episodes, the hash of all their bytes, and the robot and canvas that they belong to."""
    digest, kinds = hashlib.sha256(), Counter[str]()
    frames = empty = failed = 0
    for path in files:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
        with np.load(path, allow_pickle=False) as data:
            frames += len(data["time_s_T"])
            empty += int(data["empty_closed_T"].sum())
            failed += int(data["failed"]) if "failed" in data else 0
            kinds[str(data["kind"]) if "kind" in data else "unknown"] += 1
    return {
        "format_version": FORMAT_VERSION, "episodes": len(files), "frames": frames, "frame_hz": 1 / spec.action.step_s,
        "empty_closed_frames": empty, "failed_attempts": failed, "kinds": dict(kinds), "robot": spec.name,
        "contract_hash": spec.content_hash, "joint_names": list(spec.joint_names),
        "layout_hash": t_pose_layout(spec).layout_hash, "data_hash": digest.hexdigest()[:16],
    }
