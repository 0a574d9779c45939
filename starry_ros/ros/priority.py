"""Who waits when the cores are busy: pictures for the model, and both for what moves the arms.

Raising one's own niceness needs no privilege, nor do short turns. The executor and the robot's driver keep the niceness
they were given; `action_executor` asks for a real-time priority for its ticks itself, once it spins.
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
AUTOGROUP = Path("/proc/self/autogroup")


def yield_cores(node: str) -> None:
    """Let nodes that move the arms go before this one, and before every thread and library that it starts."""
    if node in QUICK:
        ask_for_short_turns()
    niceness = NICENESS.get(node, 0)
    if not niceness:
        return
    os.nice(niceness)
    if os.getsid(0) == os.getpid():  # Linux groups tasks by session: inside a group of its own, nice alone is idle
        with contextlib.suppress(OSError):
            AUTOGROUP.write_text(str(niceness))
