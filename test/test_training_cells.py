"""Cells that a process keeps."""

import subprocess
import sys

from starry_ros.paths import robot_file
from starry_ros.robot_spec import load_robot_spec
from starry_ros.training.cells import kept_cell

RENDERS = """
from starry_ros.paths import robot_file
from starry_ros.robot_spec import load_robot_spec
from starry_ros.training.cells import kept_cell
spec = load_robot_spec(robot_file("bimanual_sim"))
kept_cell(spec).render("head")
kept_cell(spec, "looks").render("head")
"""


def test_a_cell_is_built_once_for_a_robot_and_a_use():
    spec = load_robot_spec(robot_file("bimanual_sim"))
    assert kept_cell(spec) is kept_cell(load_robot_spec(robot_file("bimanual_sim")))
    assert kept_cell(spec, "looks") is not kept_cell(spec)


def test_a_process_that_rendered_ends_without_an_exception():
    done = subprocess.run([sys.executable, "-c", RENDERS], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "Exception" not in done.stderr, done.stderr
