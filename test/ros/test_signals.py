"""Ctrl-C at the worst moment: between two calls of rclpy, when the next one finds its context gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BEGIN = """
import os, signal, time
import rclpy
from rclpy.node import Node
from std_msgs.msg import String
from starry_ros.ros.run import ros_session
from starry_ros.ros.up import stop_signals
"""
CONTEXT_GOES = BEGIN + """
try:
    with ros_session():
        node = Node("interrupted")
        os.kill(os.getpid(), signal.SIGINT)
        while rclpy.ok():
            time.sleep(0.01)
        Node("too_late")
except KeyboardInterrupt:
    print("stopped")
"""
CONTEXT_STAYS = BEGIN + """
with stop_signals() as stopped, ros_session(signals=False):
    node = Node("minds_signals_itself")
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.5)
    Node("still_works").create_publisher(String, "words", 1).publish(String(data="bye"))
    print("stopped" if stopped() and rclpy.ok() else "lost")
"""
THE_SIGNAL_IS_FASTER = BEGIN + """
def try_shutdown():
    rclpy.shutdown()
    raise RuntimeError("rcl_shutdown already called on the given context")

rclpy.try_shutdown = try_shutdown
with ros_session():
    pass
print("ended")
"""
A_BUG = BEGIN + """
with ros_session():
    raise ValueError("a bug")
"""


def output(program: str, domain: int) -> tuple[str, str]:
    environment = {**os.environ, "ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True,
                          timeout=60, check=False)
    return done.stdout, done.stderr


def test_a_call_that_finds_its_context_gone_is_an_interrupt() -> None:
    assert output(CONTEXT_GOES, 97) == ("stopped\n", "")


def test_who_minds_signals_himself_keeps_his_context() -> None:
    assert output(CONTEXT_STAYS, 96) == ("stopped\n", "")


def test_two_that_shut_down_at_once_end_quietly() -> None:
    assert output(THE_SIGNAL_IS_FASTER, 94) == ("ended\n", "")


def test_a_bug_without_a_signal_stays_a_bug() -> None:
    assert "ValueError: a bug" in output(A_BUG, 95)[1]
