"""What all tests share: children hear Ctrl-C, also where the tests themselves were started in the background."""

import signal

import numpy as np
import pytest

# A shell's background jobs ignore SIGINT and hand that on; a handler here is reset to the default in every child.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def blind():
    """A cell without its cameras, which the expert does not need."""
    from starry_ros.paths import robot_file
    from starry_ros.robot_spec import load_robot_spec
    from starry_ros.sim.cell import Cell

    cell = Cell(load_robot_spec(robot_file("bimanual_sim")))
    cell.render = lambda camera: np.zeros((240, 320, 3), dtype=np.uint8)
    yield cell
    cell.close()
