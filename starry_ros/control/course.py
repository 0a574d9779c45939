"""Where the arms are going to be commanded, for whoever plans ahead. Shapes: K steps, J joints."""

from __future__ import annotations

import numpy as np

from starry_ros.control.trajectory import Curve
from starry_ros.robot_spec import RobotSpec
from starry_ros.timing import nanoseconds
from starry_ros.types import F64, ActionChunk

STEP_S = 0.05
"""Straight lines between such steps stay within 4 mrad of the curve at 12 rad/s^2."""
LONGEST_S = 3.0


def course_of(spec: RobotSpec, chunk: ActionChunk | None, command_ns: int, ahead: Curve) -> ActionChunk:
    """A curve that begins with the command at `command_ns`, sampled to its end; under the ids of the plan behind it."""
    steps = int(np.ceil(min(ahead.duration_s, LONGEST_S) / STEP_S - 1e-9)) + 1
    times_s: F64 = STEP_S * np.arange(steps, dtype=np.float64)
    positions_KJ = np.clip(ahead.sample(times_s)[:, 0], spec.limit("lower"), spec.limit("upper"))
    ids = (chunk.chunk_id, chunk.epoch, chunk.instruction_id) if chunk is not None else (0, 0, 0)
    observed_ns = chunk.observation_ns if chunk is not None else command_ns
    return ActionChunk(*ids, observed_ns, command_ns, nanoseconds(STEP_S), spec.joint_names, positions_KJ,
                       spec.content_hash)
