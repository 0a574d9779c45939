"""Real DDS for tests: nodes as child processes on a domain of their own, and a client in this process."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="the ROS 2 wheels are not installed: make setup")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from std_srvs.srv import Trigger

from starry_ros.paths import robot_file
from starry_ros.robot_spec import load_robot_spec
from starry_ros.ros.qos import STATE
from starry_ros.ros.transport import dds_environment

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "test"))
FAKE_WORLD_ACTION = Path(__file__).with_name("fake_world_action.py")
START_TIMEOUT_S, REPLY_TIMEOUT_S = 60.0, 20.0
_domains = itertools.count(30 + os.getpid() % 40)


class Child:
    """A node in a process of its own."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                command, env=environment, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self, number: int = signal.SIGINT, timeout_s: float = 15.0) -> int:
        """Signal the process and wait; its exit code. Killed if it does not end."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return -signal.SIGKILL


class World:
    """One domain: children by name, and a client node that listens and calls."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.domain = folder, 30 + next(_domains) % 70
        self.children: dict[str, Child] = {}
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        os.environ.update(dds_environment())
        self._context = Context()
        rclpy.init(context=self._context, domain_id=self.domain)
        self.node = rclpy.create_node("test_client", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.health: dict[str, Any] = {}
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, STATE)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.health[status.name] = (status.message, {pair.key: pair.value for pair in status.values})

    def start(self, name: str, **parameters: object) -> Child:
        """Start a node of the package, or the fake session under the name world_action."""
        program = [str(FAKE_WORLD_ACTION)] if name == "world_action" else ["-m", "starry_ros.ros.start", name]
        return self.start_as(name, program, **parameters)

    def start_as(self, label: str, program: list[str], **parameters: object) -> Child:
        options = [part for key, value in parameters.items() for part in ("-p", f"{key}:={value}")]
        environment = {**os.environ, "ROS_DOMAIN_ID": str(self.domain), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, *program, *(["--ros-args", *options] if options else [])]
        self.children[label] = Child(command, environment, self.folder / f"{label}.log")
        return self.children[label]

    def listen(self, kind: Any, topic: str, qos: Any) -> list[Any]:
        """A list that grows with every message of a topic."""
        heard: list[Any] = []
        self.node.create_subscription(kind, topic, heard.append, qos)
        return heard

    def publisher(self, kind: Any, topic: str, qos: Any) -> Any:
        """A publisher that somebody listens to."""
        publisher = self.node.create_publisher(kind, topic, qos)
        self.until(lambda: publisher.get_subscription_count() > 0, START_TIMEOUT_S, f"a subscriber of {topic}")
        return publisher

    def now(self) -> Any:
        """ROS time as a stamp."""
        return self.node.get_clock().now().to_msg()

    def spin(self, duration_s: float) -> None:
        end_s = time.monotonic() + duration_s
        while time.monotonic() < end_s:
            self._executor.spin_once(timeout_sec=max(0.0, min(0.05, end_s - time.monotonic())))

    def until(self, ready: Callable[[], object], timeout_s: float = REPLY_TIMEOUT_S, what: str = "") -> None:
        """Handle messages until something is true; fails with every child's last words."""
        end_s = time.monotonic() + timeout_s
        while not ready():
            self._executor.spin_once(timeout_sec=0.05)
            if time.monotonic() > end_s:
                words = "\n".join(f"{name}: {child.text()[-800:]}" for name, child in self.children.items())
                pytest.fail(f"waited {timeout_s} s for {what or ready}\n{words}\n{self.health}")

    def call(self, kind: Any, name: str, **fields: object) -> Any:
        """Call a service."""
        client = self.node.create_client(kind, name)
        self.until(client.service_is_ready, START_TIMEOUT_S, f"service {name}")
        future = client.call_async(kind.Request(**fields))
        self.until(future.done, REPLY_TIMEOUT_S, f"reply of {name}")
        self.node.destroy_client(client)
        return future.result()

    def trigger(self, name: str) -> Any:
        return self.call(Trigger, name)

    def values(self, node: str) -> dict[str, str]:
        """Values of a node's newest diagnostics."""
        return dict(self.health.get(node, ("", {}))[1])

    def message(self, node: str) -> str:
        """Message of a node's newest diagnostics."""
        return str(self.health.get(node, ("", {}))[0])

    def close(self) -> None:
        for child in self.children.values():
            if child.process.poll() is None:
                child.process.send_signal(signal.SIGINT)
        for child in self.children.values():
            child.stop()
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A domain of this test alone."""
    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A domain for all tests of a module."""
    made = World(tmp_path_factory.mktemp("ros"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def spec() -> Any:
    return load_robot_spec(robot_file("bimanual_sim"))
