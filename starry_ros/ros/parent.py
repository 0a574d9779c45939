"""A process ends with the one that started it, also when that is killed without a chance to end anything itself.

`ros2 launch` ends its nodes on Ctrl-C and SIGTERM, but not when it is killed. The launch file therefore names its own
process in the environment; a node that finds it there waits for the end of that process in a thread of its own, and
ends like on SIGTERM. `starry up` and `starry view` have the kernel do the same for what they start.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import threading
from collections.abc import Callable

VARIABLE = "STARRY_LAUNCH_PID"
"""Names the process that the nodes live and die with; nodes that are started by hand have none."""
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def end_with_parent() -> Callable[[], None]:
    """A `preexec_fn` for children of the calling thread: the kernel sends them SIGTERM when it ends."""
    parent = os.getpid()

    def follow() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return follow


def follow_launch() -> None:
    """From now on, end this process with the one that VARIABLE names, if any: at once if that is gone already."""
    given = os.environ.get(VARIABLE, "")
    if not given.isdigit():
        return
    try:
        descriptor = os.pidfd_open(int(given))
    except ProcessLookupError:
        _end()
    else:
        threading.Thread(target=_wait, args=(descriptor,), name="follow_launch", daemon=True).start()


def _wait(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll()
    _end()


def _end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
