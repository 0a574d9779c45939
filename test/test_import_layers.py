"""Which room may import which: by reading the sources, and by importing everything but ros/ where rclpy is blocked."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "starry_ros"
BASE = {"errors", "timing", "types", "robot_spec", "paths", "report", "ranges", "turns", "files"}
ALLOWED = {
    **dict.fromkeys(BASE, BASE),
    "canvas": BASE,
    "wam": BASE | {"canvas"},
    "kinematics": BASE,
    "control": BASE | {"kinematics"},
    "value": BASE | {"canvas"},
    "recording": BASE | {"canvas", "wam", "value", "control", "kinematics", "sim"},
    "sim": BASE | {"kinematics", "control", "canvas"},
    "training": BASE | {"wam", "canvas", "kinematics", "sim", "control"},
    "data": BASE | {"canvas", "kinematics", "sim", "training"},
    "bench": BASE | {"canvas", "kinematics", "wam", "control", "value", "sim", "training"},
}
UNBOUND = {"ros", "cli", "checks"}
ROS_LIBRARIES = {"rclpy", "launch", "launch_ros", "rcl_interfaces", "builtin_interfaces", "ament_index_python"}
BASE_LIBRARIES = {"numpy", "yaml"}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    """First part of the module path below the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def imports_of(path: Path) -> list[tuple[int, str]]:
    """Line and dotted name of every import in a file, wherever it stands."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names = [node.module or ""]
            if node.module == "starry_ros":
                names = [f"starry_ros.{alias.name}" for alias in node.names if not alias.name.startswith("__")]
            found += [(node.lineno, name) for name in names]
    return found


def test_every_room_is_in_the_table() -> None:
    rooms = {room_of(path) for path in FILES} - {"__init__"}
    assert rooms - set(ALLOWED) - UNBOUND == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_what_its_room_may(path: Path) -> None:
    room = room_of(path)
    if room in UNBOUND or room == "__init__":
        return
    for line, name in imports_of(path):
        parts = name.split(".")
        if parts[0] == "starry_ros":
            assert parts[1] == room or parts[1] in ALLOWED[room], f"{path.name}:{line}: {room} may not import {name}"
        else:
            ros = parts[0] in ROS_LIBRARIES or parts[0].endswith("_msgs")
            assert not ros, f"{path.name}:{line}: {name} in {room}"
        if room in BASE and parts[0] not in sys.stdlib_module_names:
            assert parts[0] in BASE_LIBRARIES | {"starry_ros"}, f"{path.name}:{line}: {name} in {room}"


def test_nothing_outside_launch_files_imports_launch() -> None:
    for path in FILES:
        for line, name in imports_of(path):
            assert name.split(".")[0] not in ("launch", "launch_ros"), f"{path}:{line}"


def test_the_graph_needs_neither_launch_nor_rclpy() -> None:
    names = {name.split(".")[0] for _, name in imports_of(PACKAGE / "ros" / "graph.py")}
    names |= {name.split(".")[0] for _, name in imports_of(PACKAGE / "ros" / "up.py")}
    assert names <= set(sys.stdlib_module_names) | {"starry_ros"}


def test_everything_but_ros_imports_without_rclpy() -> None:
    modules = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in FILES if room_of(path) != "ros"
    ]
    optional = ("tensorrt", "rerun")
    program = f"""
import importlib, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {sorted(ROS_LIBRARIES)} or name.split(".")[0].endswith("_msgs"):
            raise ImportError(f"{{name}} is blocked")
sys.meta_path.insert(0, Block())
for name in {modules}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in {optional}:
            raise
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
