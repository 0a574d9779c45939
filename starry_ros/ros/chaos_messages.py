"""What the faults of `starry chaos` do to messages that pass a relay: from a message's bytes to those sent instead."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory

from starry_ros.msg import ActionChunk
from starry_ros.ros.convert import stamp_ns, to_stamp
from starry_ros.ros.relay import Fault
from starry_ros.timing import nanoseconds

SKEW_S = 0.5
LATE_S, LONGER = 5.0, 4
"""A late plan is made so many times longer that it still leads somewhere."""
NOT_OURS = 1_000_000
"""Plans of no planner are numbered from here on: whether the executor ever follows one is seen by its status."""
LEADS_ELSEWHERE_RAD = 0.3
"""How far from the real plan the first joint is led by one that must not be followed."""


def edited(kind: Any, change: Callable[[Any], None]) -> Callable[[], Fault]:
    """Makes faults that change every message of a type. `change` must be one that another process can be given."""
    return partial(partial, _edit, kind, change)


def _edit(kind: Any, change: Callable[[Any], None], data: bytes) -> list[bytes]:
    message = deserialize_message(data, kind)
    change(message)
    return [serialize_message(message)]


def dropped() -> Fault:
    """Nothing passes."""
    return lambda _: []


def frozen() -> Fault:
    """The first message again and again."""
    kept: list[bytes] = []

    def fault(data: bytes) -> list[bytes]:
        kept.append(data)
        return kept[:1]

    return fault


def repeated() -> Fault:
    """The first picture again and again, under the stamps of those that came."""
    kept: list[Image] = []

    def fault(data: bytes) -> list[bytes]:
        message = deserialize_message(data, Image)
        kept.append(message)
        del kept[1:]
        kept[0].header.stamp = message.header.stamp
        return [serialize_message(kept[0])]

    return fault


def reordered() -> Fault:
    """Every second message before the one that it followed."""
    kept: list[bytes] = []

    def fault(data: bytes) -> list[bytes]:
        kept.append(data)
        if len(kept) < 2:
            return []
        swapped = kept[::-1]
        kept.clear()
        return swapped

    return fault


def shifted(kind: Any, by_s: float) -> Callable[[], Fault]:
    """Makes faults that shift the stamps of a type, as the clock of a machine that jumped does."""
    return edited(kind, partial(shift, by_s=by_s))


def shift(message: Any, by_s: float) -> None:
    """Shift a message's stamp; one that says `now` goes on saying it."""
    if stamp_ns(message.header.stamp):
        message.header.stamp = later(message.header.stamp, by_s)


def later(stamp: Time, by_s: float) -> Time:
    """A stamp some seconds later."""
    return to_stamp(stamp_ns(stamp) + nanoseconds(by_s))


def skew(message: Image) -> None:
    """A picture's stamp is old."""
    shift(message, -SKEW_S)


def truncate(message: Image) -> None:
    """A picture loses its second half."""
    message.data = message.data[: len(message.data) // 2]


def shrink(message: Image) -> None:
    """A picture of another size."""
    message.width, message.height, message.step = 160, 120, 480
    message.data = message.data[: 160 * 120 * 3]


def not_a_number(message: JointState) -> None:
    """Joints stand nowhere."""
    message.position = [float("nan")] * len(message.position)


def jump(message: JointState) -> None:
    """Joints stand 1 rad off."""
    message.position = [value + 1.0 for value in message.position]


def never_at_rest(message: JointTrajectory) -> None:
    """A trajectory that a controller refuses."""
    message.points[-1].velocities = [0.5] * len(message.points[-1].velocities)


def refused_at_times() -> Fault:
    """Every message of 0.3 s in 0.7 s is one that a controller refuses."""
    refused, begin_s = edited(JointTrajectory, never_at_rest)(), time.monotonic()

    def fault(data: bytes) -> list[bytes]:
        return refused(data) if (time.monotonic() - begin_s) % 0.7 < 0.3 else [data]

    return fault


def _stranger(chunk: ActionChunk) -> None:
    """A plan by nobody, to somewhere else."""
    chunk.chunk_id += NOT_OURS
    joints = len(chunk.joint_names)
    chunk.positions = [
        value + (LEADS_ELSEWHERE_RAD if i % joints == 0 else 0.0) for i, value in enumerate(chunk.positions)
    ]


def late(chunk: ActionChunk) -> None:
    """A long plan of 5 s ago that still lasts: only its age speaks against it."""
    _stranger(chunk)
    chunk.header.stamp, chunk.start = later(chunk.header.stamp, -LATE_S), later(chunk.start, -LATE_S)
    chunk.positions = list(chunk.positions) * LONGER


def foreign(chunk: ActionChunk) -> None:
    """A plan for another robot."""
    _stranger(chunk)
    chunk.contract_hash = "0123456789abcdef"


def not_finite(chunk: ActionChunk) -> None:
    """A plan to nowhere."""
    _stranger(chunk)
    chunk.positions = [float("nan")] * len(chunk.positions)


def old_epoch(chunk: ActionChunk) -> None:
    """A plan of a session that has ended."""
    _stranger(chunk)
    chunk.epoch = max(0, chunk.epoch - 1)
