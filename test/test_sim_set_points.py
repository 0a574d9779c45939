"""The simulated robot behind forward position controllers, and the loop in sync mode."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from control_kit import FULL_SPEC

from starry_ros.sim.cell import Cell
from starry_ros.sim.driver import SimulatedDriver
from starry_ros.timing import NS_PER_S

RIGHT = FULL_SPEC.arm_slice("right")


@pytest.fixture(scope="module")
def driver() -> SimulatedDriver:
    return SimulatedDriver(FULL_SPEC, Cell(FULL_SPEC), NS_PER_S)


def test_a_set_point_is_the_target_of_the_next_tick_of_its_arm_alone(driver: SimulatedDriver) -> None:
    before = driver.desired()
    wanted = FULL_SPEC.limit("home")[RIGHT] + 0.01
    assert driver.set_point("right", wanted)
    driver.tick()
    assert np.allclose(driver.desired()[RIGHT], wanted)
    left = FULL_SPEC.arm_slice("left")
    assert np.array_equal(driver.desired()[left], before[left])


@pytest.mark.parametrize("bad", [np.zeros(3), np.full(7, np.nan), np.zeros((7, 1))])
def test_an_unusable_set_point_is_counted_and_changes_nothing(driver: SimulatedDriver, bad: np.ndarray) -> None:
    before, count = driver.desired(), driver.rejected["right.bad_set_point"]
    assert not driver.set_point("right", bad)
    assert driver.rejected["right.bad_set_point"] == count + 1
    assert np.array_equal(driver.desired(), before)


def test_set_points_on_the_wire_carry_the_joints_signs() -> None:
    convert = pytest.importorskip("starry_ros.ros.convert", reason="the ROS 2 wheels are not installed: make setup")
    arm = FULL_SPEC.arms[1]
    signs = np.where(np.arange(len(FULL_SPEC.joints)) % 2, -1.0, 1.0)
    spec = SimpleNamespace(arm_slice=FULL_SPEC.arm_slice, limit=lambda name: signs if name == "sign" else None)
    position = np.arange(1.0, 15.0)
    message = convert.set_point_message(spec, arm, position)
    assert list(message.data) == (position * signs)[RIGHT].tolist()
