"""Nodes that move no arm wait for those that do."""

import subprocess
import sys

import pytest

PROGRAM = """
import os, sys, pathlib
from starry_ros.ros.priority import yield_cores
before = os.getpriority(os.PRIO_PROCESS, 0)
yield_cores(sys.argv[1])
group = pathlib.Path("/proc/self/autogroup")
said = group.read_text().split() if group.exists() else []  # nothing: this process is in no session's group
print(os.getpriority(os.PRIO_PROCESS, 0) - before, said[-1] if said else "none")
"""


def started(node: str, own_session: bool) -> list[str]:
    command = [sys.executable, "-c", PROGRAM, node]
    return subprocess.run(command, capture_output=True, text=True, check=True,
                          start_new_session=own_session).stdout.split()


@pytest.mark.parametrize(("node", "steps"), [
    ("action_executor", "0"), ("sim_robot", "0"), ("canvas_packer", "0"), ("world_action", "5"),
    ("value_map_visualizer", "10"), ("recorder", "5"),
])
def test_what_moves_the_arms_keeps_its_priority_and_the_rest_yields(node, steps):
    assert started(node, own_session=False)[0] == steps


def test_a_node_in_a_session_of_its_own_lowers_the_session_too():
    nice, group = started("world_action", own_session=True)
    assert (nice, group) in (("5", "5"), ("5", "none"))


def test_a_node_that_shares_its_session_leaves_the_session_alone():
    assert started("world_action", own_session=False)[1] == started("action_executor", own_session=False)[1]
