"""The cameras of the simulated robot are a process of their own, with real DDS."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import World
from sensor_msgs.msg import Image, JointState

from starry_ros.paths import robot_file
from starry_ros.ros.priority import HEARING
from starry_ros.ros.qos import SENSOR, STATE
from starry_ros.ros.sim_cameras import Instant
from starry_ros.sim.cell import Sight
from starry_ros.turns import real_time


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().split(") ")[1][0] != "Z"


def command_of(spec: Any) -> list[str]:
    names = [name for camera in spec.cameras for name in (camera.name, camera.topic, camera.info_topic)]
    return [sys.executable, "-m", "starry_ros.ros.sim_camera_process", str(robot_file("bimanual_sim")), "/", *names]


def cameras_of(robot: int) -> int:
    """The one child of the simulated robot."""
    children = [task / "children" for task in Path(f"/proc/{robot}/task").iterdir()]
    (found,) = [int(pid) for file in children for pid in file.read_text().split()]
    return found


def test_joint_states_go_on_while_the_cameras_stand_and_neither_outlives_the_robot(world: World, spec: Any) -> None:
    robot = world.start("sim_robot").process.pid
    pictures = world.listen(Image, spec.cameras[0].topic, SENSOR)
    states = world.listen(JointState, spec.joint_state_topic, STATE)
    world.until(lambda: pictures and states, 60.0, "pictures and joint states")
    cameras = cameras_of(robot)

    os.kill(cameras, signal.SIGSTOP)
    world.spin(0.3)
    pictures.clear()
    states.clear()
    world.spin(2.0)
    assert not pictures
    assert len(states) > 40, "50 a second"
    os.kill(cameras, signal.SIGCONT)
    world.until(lambda: pictures, what="pictures again")
    world.until(lambda: float(world.values("sim_robot").get("instants_without_pictures", 0)) > 0,
                what="a word on what was left out")

    os.kill(robot, signal.SIGKILL)
    end_s = time.monotonic() + 10.0
    while alive(cameras) and time.monotonic() < end_s:
        time.sleep(0.05)
    assert not alive(cameras)


def test_a_robot_without_its_cameras_ends_and_says_so(world: World, spec: Any) -> None:
    robot = world.start("sim_robot")
    pictures = world.listen(Image, spec.cameras[0].topic, SENSOR)
    world.until(lambda: pictures, 60.0, "pictures")
    os.kill(cameras_of(robot.process.pid), signal.SIGKILL)
    assert robot.process.wait(20.0) == 1
    assert "the cameras has ended by itself, with exit code -9" in robot.text()


@pytest.mark.parametrize("said", [b"", pickle.dumps(["a word"] * 9)[:-9]])
def test_cameras_end_with_the_robot_even_in_the_middle_of_a_word(spec: Any, said: bytes) -> None:
    ended = subprocess.run(command_of(spec), input=said, capture_output=True, timeout=60.0, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")


def test_cameras_that_fail_while_more_may_come_say_why(spec: Any) -> None:
    nowhere = Instant(0, Sight("cell", np.zeros(1), {}))
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command_of(spec), **pipes) as to:  # type: ignore[call-overload]
        to.stdin.write(pickle.dumps(nowhere))
        to.stdin.flush()
        assert to.wait(60.0) == 1
        said = to.stderr.read().decode()
    assert "KeyError" in said
    assert "Fatal" not in said


def test_a_robot_in_a_namespace_has_its_cameras_there(world: World) -> None:
    program = ["-m", "starry_ros.ros.start", "sim_robot", "--ros-args", "-r", "__ns:=/cell_two"]
    world.start_as("sim_robot", program)
    world.until(lambda: ("sim_cameras", "/cell_two") in world.node.get_node_names_and_namespaces(), 60.0, "its name")


def turns(pid: int) -> list[tuple[str, int, int]]:
    """Name, niceness and real-time priority (0: none) of every thread of a process."""
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            number, name = int(thread.name), (thread / "comm").read_text().strip()
            priority = os.sched_getparam(number).sched_priority
            found.append((name, os.getpriority(os.PRIO_PROCESS, number), priority))
    return found


with real_time() as GRANTED:
    pass


@pytest.mark.skipif(not GRANTED, reason="no privilege: docs/safety.md, when cores are short")
@pytest.mark.parametrize("node", ["sim_robot", "action_executor"])
def test_what_moves_the_arms_hears_before_others_compute_and_cameras_do_not(world: World, spec: Any, node: str) -> None:
    process = world.start(node).process
    threads = 2 if node == "sim_robot" else 1
    world.until(lambda: sum(priority > HEARING for *_, priority in turns(process.pid)) == threads, 60.0, "turns")
    world.until(lambda: {priority for name, *_, priority in turns(process.pid) if name.startswith("dds.udp")}
                == {HEARING}, what="who hears first")
    others = [priority for name, *_, priority in turns(process.pid) if not name.startswith("dds.udp")]
    assert sum(priority > 0 for priority in others) == threads < len(others)
    if node == "sim_robot":
        assert all(niceness >= 0 and not priority for _, niceness, priority in turns(cameras_of(process.pid)))
