"""Who shares memory with whom: a frozen planner must not hold up the executor at a lock."""

from __future__ import annotations

import os
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from starry_ros.paths import share_dir
from starry_ros.ros.transport import (
    APART,
    DDS_PROFILE_VARIABLES,
    LOCAL_VARIABLE,
    PEERS_VARIABLE,
    RANGE_VARIABLE,
    dds_environment,
    keep_apart,
    sharing_environment,
)

OURS = str(share_dir() / "config" / "fastdds.xml")
NODE = """
import sys, time
from pathlib import Path
from starry_ros.ros.transport import keep_apart
keep_apart(sys.argv[1])
import rclpy
from rclpy.qos import QoSProfile
from std_msgs.msg import String
rclpy.init()
node, heard, end_s = rclpy.create_node(sys.argv[1]), set(), time.monotonic() + 20
node.create_subscription(String, "names", lambda message: heard.add(message.data), QoSProfile(depth=10))
names = node.create_publisher(String, "names", QoSProfile(depth=10))
while time.monotonic() < end_s:
    names.publish(String(data=sys.argv[1]))
    rclpy.spin_once(node, timeout_sec=0.05)
    if len(heard) == int(sys.argv[2]):  # and let the others hear this one
        end_s = min(end_s, time.monotonic() + 2)
print(len(heard), any("/dev/shm/fast" in line for line in Path("/proc/self/maps").read_text().splitlines()))
rclpy.shutdown()
"""
NAMES = (*APART, "canvas_packer", "recorder")


@pytest.mark.parametrize("discovery", ["LOCALHOST", "SUBNET"])
def test_executor_and_planner_hear_all_and_map_no_memory_of_the_middleware(discovery: str) -> None:
    environment = {**os.environ, **dict.fromkeys(DDS_PROFILE_VARIABLES, OURS), RANGE_VARIABLE: discovery,
                   "ROS_DOMAIN_ID": str(1 + os.getpid() % 50)}
    nodes = [subprocess.Popen([sys.executable, "-c", NODE, name, str(len(NAMES))], env=environment, text=True,
                              stdout=subprocess.PIPE) for name in NAMES]
    said = [node.communicate(timeout=60)[0].split() for node in nodes]
    assert said == [[str(len(NAMES)), str(name not in APART)] for name in NAMES]


def test_a_profile_of_the_user_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in DDS_PROFILE_VARIABLES:
        monkeypatch.setenv(name, "/mine.xml")
    keep_apart(APART[0])
    assert set(dds_environment().values()) == {"/mine.xml"}


@pytest.mark.parametrize(("node", "profile"), [(APART[0], "fastdds_udp.xml"), ("canvas_packer", "fastdds.xml")])
def test_a_node_that_is_started_by_hand_gets_our_profile(
    node: str, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RANGE_VARIABLE, "SUBNET")
    for name in DDS_PROFILE_VARIABLES:
        monkeypatch.setenv(name, "")
    keep_apart(node)
    assert {os.environ[name] for name in DDS_PROFILE_VARIABLES} == {str(share_dir() / "config" / profile)}


def test_our_profile_is_known_by_another_spelling_of_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RANGE_VARIABLE, "SUBNET")
    for name in DDS_PROFILE_VARIABLES:
        monkeypatch.setenv(name, str(share_dir() / "config" / ".." / "config" / "fastdds.xml"))
    keep_apart(APART[0])
    assert {os.environ[name] for name in DDS_PROFILE_VARIABLES} == {str(share_dir() / "config" / "fastdds_udp.xml")}


@pytest.mark.parametrize(("said", "udp_alone"), [
    ({RANGE_VARIABLE: "localhost"}, True), ({LOCAL_VARIABLE: "1", RANGE_VARIABLE: "SUBNET"}, True),
    ({RANGE_VARIABLE: "LOCALHOST", PEERS_VARIABLE: "192.168.1.7"}, False),
], ids=["a range in other letters", "the older variable", "peers elsewhere"])
def test_whatever_keeps_ros_on_this_machine_is_understood_and_peers_elsewhere_are_not_lost(
    said: dict[str, str], udp_alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*DDS_PROFILE_VARIABLES, RANGE_VARIABLE, LOCAL_VARIABLE, PEERS_VARIABLE):
        monkeypatch.setenv(name, said.get(name, ""))
    keep_apart(APART[0])
    profile = "fastdds_udp_localhost.xml" if udp_alone else "fastdds.xml"
    assert {os.environ[name] for name in DDS_PROFILE_VARIABLES} == {str(share_dir() / "config" / profile)}
    if udp_alone:
        assert (os.environ[RANGE_VARIABLE], os.environ.get(LOCAL_VARIABLE)) == ("SYSTEM_DEFAULT", None)
        assert sharing_environment()[DDS_PROFILE_VARIABLES[0]] == str(share_dir() / "config" / "fastdds.xml")


@pytest.mark.parametrize("name", ["fastdds_udp.xml", "fastdds_udp_localhost.xml"])
def test_the_profiles_without_shared_memory_have_one_transport(name: str) -> None:
    tree = ElementTree.parse(share_dir() / "config" / name)
    assert [element.text for element in tree.iter() if element.tag.endswith("}type")] == ["UDPv4"]
