"""Who shares memory with whom: a frozen planner must not hold up the executor at a lock."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from starry_ros.paths import share_dir
from starry_ros.ros.transport import APART, DDS_PROFILE_VARIABLES, dds_environment, keep_apart

OURS, UDP = (str(share_dir() / "config" / name) for name in ("fastdds.xml", "fastdds_udp.xml"))
NODE = """
import sys, time
from pathlib import Path
from starry_ros.ros.transport import keep_apart
keep_apart(sys.argv[1])
import rclpy
rclpy.init()
node = rclpy.create_node("one")
print(any("/dev/shm/fast" in line for line in Path("/proc/self/maps").read_text().splitlines()))
rclpy.shutdown()
"""


@pytest.mark.parametrize(("node", "shares"), [(APART[0], False), (APART[1], False), ("canvas_packer", True)])
def test_executor_and_planner_map_no_memory_of_the_middleware(node: str, shares: bool) -> None:
    environment = {**os.environ, **dict.fromkeys(DDS_PROFILE_VARIABLES, OURS), "ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}
    done = subprocess.run([sys.executable, "-c", NODE, node], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == str(shares), done.stderr


def test_a_profile_of_the_user_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in DDS_PROFILE_VARIABLES:
        monkeypatch.setenv(name, "/mine.xml")
    keep_apart(APART[0])
    assert set(dds_environment().values()) == {"/mine.xml"}


def test_without_a_profile_there_is_none_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in DDS_PROFILE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    keep_apart(APART[0])
    assert not any(name in os.environ for name in DDS_PROFILE_VARIABLES)
    assert set(dds_environment().values()) == {OURS}


def test_the_profile_without_shared_memory_has_one_transport() -> None:
    kinds = [element.text for element in ElementTree.parse(Path(UDP)).iter() if element.tag.endswith("}type")]
    assert kinds == ["UDPv4"]
