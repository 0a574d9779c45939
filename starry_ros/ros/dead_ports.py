"""A process that is started anew keeps off the shared-memory ports that killed ones have left.

Fast DDS names the memory that a process reads from after a number, the lowest that is free. Whoever is started after a
kill gets the number of the dead. If it finds that one's port unsound, it makes a new one under the same name; who wrote
to the old one goes on doing so, and does not notice: the new process hears nothing that comes through shared memory
(seen once in 30 kills of the packer). A port is guarded by a lock on a file, held by its reader: who holds that of a
dead one makes Fast DDS take the next number.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterable
from pathlib import Path

MEMORY, PROCESSES = Path("/dev/shm"), Path("/proc")
LOCK, PORT = "_el", re.compile(r"/(fastrtps_port\d+)\b")

_held: list[int] = []
"""Open files: a lock is held as long as its file is open."""


def keep_off_dead_ports() -> list[str]:
    """Until this process ends, hold the locks of ports that have no reader and that a living process has in use.

    Call it before a DDS participant is made. Ports that nobody has in use may be taken again. Returns the ports' names:
    none where nobody was killed, or without Fast DDS.
    """
    locks = {path.name.removesuffix(LOCK): path for path in MEMORY.glob(f"fastrtps_port*{LOCK}")}
    used = _in_use(locks) if locks else set()
    return sorted(name for name in used if _hold(locks[name]))


def _in_use(names: Iterable[str]) -> set[str]:
    """Which ports a process that we may look at has mapped, be it under a name that has been deleted since."""
    wanted, found = set(names), set[str]()
    for process in PROCESSES.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            mapped = (process / "maps").read_text(errors="replace")
            found |= set(PORT.findall(mapped)) & wanted
    return found


def _hold(lock: Path) -> bool:
    """Take the lock of a port; False where its reader has it."""
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return False
    _held.append(descriptor)
    return True
