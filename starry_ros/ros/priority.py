"""Who waits when the cores are busy: pictures for the model, and both for what moves the arms.

Raising one's own niceness needs no privilege, nor do short turns. The executor and the robot's driver keep the niceness
they were given; both ask for a real-time priority for what they do themselves, once they spin, and let the middleware's
threads that receive for them go before others (`hear_first`): a flood fills a busy machine's receive buffers, and joint
states wait in them, or are thrown away. Nicer turns and no real-time ones, so that no flood starves others either.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from starry_ros.turns import ask_for_short_turns

NICENESS = {"world_action": 5, "recorder": 5, "value_map_visualizer": 10}
"""Added to the niceness of these nodes; each step is about a tenth of a share of a busy core."""
QUICK = ("action_executor",)
"""What has little to do and must not wait."""
HEARING, RECEIVER = -10, "dds.udp"
"""Niceness of threads that receive, some nine times an ordinary share; how Fast DDS names them."""
THREADS = Path("/proc/self/task")
AUTOGROUP = Path("/proc/self/autogroup")


def yield_cores(node: str) -> None:
    """Let nodes that move the arms go before this one, and before every thread and library that it starts."""
    if node in QUICK:
        ask_for_short_turns()
    niceness = NICENESS.get(node, 0)
    if not niceness:
        return
    os.nice(niceness)
    _raise_group(niceness)


def hear_first() -> int:
    """Let the threads of this process that receive go before others, if the system grants it: how many now do."""
    heard = 0
    for thread in THREADS.iterdir() if THREADS.exists() else ():
        with contextlib.suppress(OSError):  # it has ended, or there is no privilege
            if (thread / "comm").read_text().startswith(RECEIVER):
                os.setpriority(os.PRIO_PROCESS, int(thread.name), HEARING)
                heard += 1
    if heard:
        _raise_group(HEARING)
    return heard


def _raise_group(niceness: int) -> None:
    """Linux groups tasks by session: alone in a group, a thread's niceness tells it from its own process only."""
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):  # there are no groups, or there is no privilege
            AUTOGROUP.write_text(str(niceness))
