"""How nodes start and end: wrong parameters are one line and exit code 2, and Ctrl-C is quiet at any time."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

NODES = ("sim_robot", "canvas_packer", "action_executor", "value_map_visualizer")


@pytest.mark.parametrize(
    ("node", "parameters", "words"),
    [
        ("canvas_packer", {"robot": "unicorn"}, "robot: is unknown"),
        ("canvas_packer", {"robot": "/nowhere/robot.yaml"}, "cannot be read"),
        ("canvas_packer", {"image_transport": "pigeon"}, "image_transport"),
        ("action_executor", {"command_hz": 5000.0}, "command_hz"),
        ("action_executor", {"command_hz": "fast"}, "command_hz"),
        ("action_executor", {"estop_timout_s": 0.5}, "estop_timeout_s"),
        ("recorder", {"exclude": "("}, "no regular expression"),
        ("sim_robot", {"task": "juggle"}, "task"),
    ],
)
def test_a_wrong_parameter_ends_a_node_with_one_line(world: Any, node: str, parameters: dict, words: str) -> None:
    child = world.start(node, **parameters)
    assert child.process.wait(60) == 2
    lines = [line for line in child.text().splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert words in lines[0]
    assert "Traceback" not in child.text()


@pytest.mark.parametrize("after_s", [0.3, 0.8, 1.5])
def test_ctrl_c_while_starting_is_quiet(world: Any, after_s: float) -> None:
    children = [world.start(node) for node in NODES]
    world.spin(after_s)
    for child in children:
        code = child.stop(signal.SIGINT)
        assert code in (0, -signal.SIGINT, 130), child.text()
        assert "Traceback" not in child.text()


def test_no_node_leaves_files_behind(world: Any, tmp_path: Path) -> None:
    world.start("canvas_packer")
    world.until(lambda: "canvas_packer" in world.health, 40, "canvas_packer")
    assert {path.name for path in tmp_path.iterdir()} == {"canvas_packer.log"}
