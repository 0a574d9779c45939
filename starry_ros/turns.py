"""Turns on a processor for a process that has little to do and must not wait: short ones, and real-time ones.

Linux gives whoever wakes the processor at once if what it asks for is due before the turn of who runs is over; those
who ask for short turns are due soon. From 6.12 on every process may choose its own (`sched_setattr`, its runtime); it
costs no privilege and takes nobody's share. Beside a renderer and a planner on two cores, nine of ten ticks of a loop
at 100 Hz came at most 0.1 ms late that way, and 2.5 ms without. Who has just used more than its share, as the executor
has when it joined a plan, waits all the same. A real-time priority goes before every share; systems grant it to some.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from starry_ros.timing import nanoseconds

TURN_S = 1e-4
"""The shortest that Linux grants."""
PRIORITY = 40
"""Below the 50 of ros2_control's controller manager, and of interrupts where Linux runs them as threads."""
_SETATTR = {"x86_64": 314, "aarch64": 274}
"""Numbers of the system call, which Python does not wrap."""


class _Attributes(ctypes.Structure):
    """`struct sched_attr` of Linux, version 0."""

    _fields_ = [
        ("size", ctypes.c_uint32), ("policy", ctypes.c_uint32), ("flags", ctypes.c_uint64), ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32), ("runtime", ctypes.c_uint64), ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    ]


def ask_for_short_turns(turn_s: float = TURN_S) -> bool:
    """For this thread and those that it starts; whether Linux took it, which older ones do without acting on it.

    A process that was given another policy, such as a real-time one, keeps it.
    """
    number = _SETATTR.get(platform.machine())
    if number is None or not _is_ordinary():
        return False
    asked = _Attributes(ctypes.sizeof(_Attributes), os.SCHED_OTHER, 0, os.getpriority(os.PRIO_PROCESS, 0), 0,
                        nanoseconds(turn_s), 0, 0)
    refused: int = ctypes.CDLL(None).syscall(number, 0, ctypes.byref(asked), 0)
    return not refused


def ask_for_real_time(priority: int = PRIORITY, thread: int = 0) -> bool:
    """First in, first out, for this thread (or another, by its number in the system) alone and not for those that it
    starts; whether the system granted it.

    A thread that was given another policy keeps it.
    """
    if not _is_ordinary(thread):
        return False
    try:
        os.sched_setscheduler(thread, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
    except OSError:  # no privilege, or a container whose group has no real time
        return False
    return True


@contextmanager
def real_time(priority: int = PRIORITY) -> Iterator[bool]:
    """Real-time turns for this thread until the end of the block, if the system grants them: whether it does.

    Turns are ordinary ones afterwards.
    """
    granted = ask_for_real_time(priority)
    try:
        yield granted
    finally:
        if granted:
            os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))


def _is_ordinary(thread: int = 0) -> bool:
    """What is reset on a fork stays so: taking that back needs more than being allowed a priority."""
    if not sys.platform.startswith("linux"):
        return False
    return os.sched_getscheduler(thread) & ~os.SCHED_RESET_ON_FORK == os.SCHED_OTHER
