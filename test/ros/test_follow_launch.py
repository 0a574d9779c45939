"""Nodes of a `ros2 launch` that was killed: the executor ends by itself, and with it its commands."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

from starry_ros.ros.parent import VARIABLE


def test_the_executor_ends_with_the_process_that_launched_it(world: Any, monkeypatch: Any) -> None:
    launch = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    monkeypatch.setenv(VARIABLE, str(launch.pid))
    child = world.start("action_executor")
    world.until(lambda: "action_executor" in world.health, 40, "action_executor")
    assert child.process.poll() is None
    launch.kill()
    launch.wait()
    begin_s = time.monotonic()
    assert child.process.wait(10) == 0, child.text()
    assert "Traceback" not in child.text()
    assert time.monotonic() - begin_s < 5.0


def test_a_node_whose_launch_is_gone_already_does_not_start(world: Any, monkeypatch: Any) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    monkeypatch.setenv(VARIABLE, str(gone.pid))
    child = world.start("action_executor")
    assert child.process.wait(40) == 0, child.text()
    assert "Traceback" not in child.text()
