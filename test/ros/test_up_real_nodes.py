"""`starry up` with the real nodes over DDS: Ctrl-C at any time leaves no traceback and no process behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

ROOT = Path(__file__).parents[2]
NODES = ("sim_robot", "canvas_packer", "value_map_visualizer", "action_executor", "recorder")
PROGRAM = f"""
import dataclasses, sys
from starry_ros import cli
from starry_ros.ros import up
build = up.build_graph
def without_model(values):
    graph = build(values)
    return dataclasses.replace(graph, nodes=tuple(node for node in graph.nodes if node.name in {NODES}))
up.build_graph, up.model_dir = without_model, lambda model: None
sys.exit(cli.main(["up", "--record", "true", "--namespace", "cell_1"]))
"""


def start(folder: Path) -> subprocess.Popen[str]:
    own = {"ROS_DOMAIN_ID": "87", "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **own}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def pids_in(text: str) -> list[int]:
    return [int(found) for found in re.findall(r"started, process (\d+)", text)]


@pytest.mark.parametrize("delay_s", [0.3, 2.0, 8.0])
def test_ctrl_c_at_any_time_is_quiet_and_complete(delay_s: float, tmp_path: Path) -> None:
    process = start(tmp_path)
    time.sleep(delay_s)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=40)
    assert "Traceback" not in text
    assert process.returncode == (0 if "started" in text else 130)
    assert not any(alive(pid) for pid in pids_in(text))


def test_a_killed_packer_comes_back_late_and_a_killed_visualiser_soon(tmp_path: Path) -> None:
    process, text = start(tmp_path), ""
    assert process.stdout is not None
    words = {"canvas_packer": "ended (killed by SIGKILL), starts again in 16 s",
             "value_map_visualizer": "ended (killed by SIGKILL), starts again in 1 s"}
    for line in process.stdout:
        text += line
        for name in words:
            if found := re.search(rf"{name} \| started, process (\d+)", line):
                os.kill(int(found[1]), signal.SIGKILL)
        if text.count("value_map_visualizer | started") == 2:
            break
    process.send_signal(signal.SIGINT)
    text += process.communicate(timeout=40)[0]
    for name, told in words.items():
        assert f"{name} | {told}" in text
    assert text.count("canvas_packer | started") == 1


def test_killing_starry_up_itself_ends_every_node(tmp_path: Path) -> None:
    process = start(tmp_path)
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if len(pids_in(text)) == len(NODES):
            break
    time.sleep(3.0)
    process.kill()
    process.wait()
    end_s = time.monotonic() + 20.0
    while any(alive(pid) for pid in pids_in(text)) and time.monotonic() < end_s:
        time.sleep(0.1)
    assert not [pid for pid in pids_in(text) if alive(pid)]
