"""Which nodes share memory with others, and which do not.

Fast DDS guards the shared memory that each process reads from with locks that every writer to it takes. A process that
is frozen at a lock, by a debugger, a container's freezer or a full disk of swap, holds up whoever else writes there: a
robot's driver was seen to stand for 1 s for a planner that was frozen again and again. So the executor and the planner
use UDP alone, and so does the simulated robot, whose cameras have a process of their own (`sim_cameras.py`). Shared
memory is for what is large: pictures, between cameras, packer, overlays and recorder.
"""

from __future__ import annotations

import os
from pathlib import Path

from starry_ros.paths import share_dir

DDS_PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
"""That of Fast DDS 3 (Kilted) and that of 2 (Jazzy)."""
RANGE_VARIABLE, LOCAL_VARIABLE = "ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOCALHOST_ONLY"
PEERS_VARIABLE = "ROS_STATIC_PEERS"
APART = ("action_executor", "world_action", "sim_robot")
_shared: dict[str, str] = {}
"""What was said of the middleware before this process was told to use UDP alone."""


def dds_environment() -> dict[str, str]:
    """Our DDS profile, or the user's own, by both variables."""
    given = [os.environ[name] for name in DDS_PROFILE_VARIABLES if os.environ.get(name)]
    return dict.fromkeys(DDS_PROFILE_VARIABLES, given[0] if given else _profile("fastdds.xml"))


def keep_apart(node: str) -> None:
    """Before DDS is loaded: let this process use UDP alone if it is a node to keep apart and the profile is ours.

    A node that was started by hand, without a profile, gets ours.
    """
    os.environ |= dds_environment()
    if node in APART:
        share_no_memory()


def share_no_memory() -> None:
    """Before DDS is loaded: let this process, and those that it starts from now on, use UDP alone; not where the
    profile is the user's own. For the range LOCALHOST, ROS 2 adds shared memory by itself: there the profile says what
    that range says, but nothing of other machines (`ROS_STATIC_PEERS`): where some are named, all stays as it is.
    """
    given, local = Path(os.environ[DDS_PROFILE_VARIABLES[1]]), _stays_on_this_machine()
    if given.resolve() != Path(_profile("fastdds.xml")).resolve() or (local and os.environ.get(PEERS_VARIABLE)):
        return
    said = (*DDS_PROFILE_VARIABLES, RANGE_VARIABLE, LOCAL_VARIABLE)
    _shared.update({name: os.environ[name] for name in said if name in os.environ})
    os.environ |= dict.fromkeys(DDS_PROFILE_VARIABLES, _profile(f"fastdds_udp{'_localhost' if local else ''}.xml"))
    if local:
        os.environ[RANGE_VARIABLE] = "SYSTEM_DEFAULT"
        os.environ.pop(LOCAL_VARIABLE, None)


def _stays_on_this_machine() -> bool:
    """ROS 2 takes a range that it does not know for LOCALHOST, and the older variable for the last word."""
    reaches = os.environ.get(RANGE_VARIABLE, "") in ("", "SUBNET", "OFF", "SYSTEM_DEFAULT")
    return os.environ.get(LOCAL_VARIABLE) == "1" or not reaches


def sharing_environment() -> dict[str, str]:
    """Environment of a child that shares memory also where this process does not."""
    return {**os.environ, **_shared}


def _profile(name: str) -> str:
    return str(share_dir() / "config" / name)
