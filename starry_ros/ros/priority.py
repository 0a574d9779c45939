"""Who waits when the cores are busy: pictures for the model, and both for what moves the arms.

Raising one's own niceness needs no privilege, nor do short turns. The executor and the robot's driver keep the niceness
they were given; both ask for a real-time priority for what they do themselves, once they spin, and for the middleware's
threads that receive for them (`hear_first`): a flood fills a busy machine's receive buffers, and joint states wait in
them, or are thrown away. Those go before all that is ordinary, and after executor and driver, so that no flood holds up
what is done for the arms. Where real time is not granted they get a large share.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from starry_ros.turns import PRIORITY, ask_for_real_time, ask_for_short_turns

NICENESS = {"world_action": 5, "recorder": 5, "value_map_visualizer": 10}
"""Added to the niceness of these nodes; each step is about a tenth of a share of a busy core."""
QUICK = ("action_executor",)
"""What has little to do and must not wait."""
RECEIVER = "dds.udp"
"""How Fast DDS names threads that receive."""
HEARING, HEARING_NICENESS = 5, -10
"""Their real-time priority, or else their niceness, some nine times an ordinary share; that of their session too."""
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
    _set_group(niceness)


def hear_first(below: int = PRIORITY) -> int:
    """Let the threads of this process that receive go before others, if the system grants it: how many now do.

    Never before what has the real-time priority `below`; where that is 0, nobody gets one.
    """
    priority = min(HEARING, below - 1)
    heard = 0
    for thread in THREADS.iterdir() if THREADS.exists() else ():
        with contextlib.suppress(OSError):  # it has ended, or there is no privilege
            if (thread / "comm").read_text().startswith(RECEIVER):
                if priority < 1 or not ask_for_real_time(priority, int(thread.name)):
                    os.setpriority(os.PRIO_PROCESS, int(thread.name), HEARING_NICENESS)
                heard += 1
    if heard:
        _set_group(HEARING_NICENESS)  # for who holds Python's lock meanwhile
    return heard


def _set_group(niceness: int) -> None:
    """Linux groups tasks by session: alone in a group, a thread's niceness tells it from its own process only."""
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):  # there are no groups, or there is no privilege
            AUTOGROUP.write_text(str(niceness))
