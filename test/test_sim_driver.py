"""The simulated robot as its driver: follows trajectories in simulated time, catches up, and drops what is too late."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="the simulated robot needs mujoco")

from starry_ros.errors import ConfigError
from starry_ros.paths import robot_file
from starry_ros.robot_spec import RobotSpec, load_robot_spec
from starry_ros.sim.cell import Cell
from starry_ros.sim.driver import Scene, SimulatedDriver
from starry_ros.sim.trajectory_controller import Trajectory, TrajectoryPoint

MS = 1_000_000
START = 5_000 * MS


@pytest.fixture(scope="module")
def spec() -> RobotSpec:
    return load_robot_spec(robot_file("bimanual_sim"))


@pytest.fixture(scope="module")
def cell(spec: RobotSpec) -> Cell:
    return Cell(spec)


@pytest.fixture
def driver(spec: RobotSpec, cell: Cell) -> SimulatedDriver:
    Scene(cell).reset("place_block_pad", "easy", 1)
    return SimulatedDriver(spec, cell, START)


def turn(spec: RobotSpec, by_rad: float, start_ns: int | None = None) -> Trajectory:
    arm = spec.arms[1]
    home = [joint.home for joint in arm.joints]
    goal = (home[0] + by_rad, *home[1:])
    point = TrajectoryPoint(500 * MS, goal, (0.0,) * 7, (0.0,) * 7)
    return Trajectory(tuple(joint.name for joint in arm.joints), start_ns, (point,))


def run_until(driver: SimulatedDriver, now_ns: int) -> int:
    ticks = 0
    while driver.behind(now_ns):
        driver.tick()
        ticks += 1
    return ticks


def test_an_accepted_trajectory_moves_its_arm_and_not_the_other(driver: SimulatedDriver, spec: RobotSpec) -> None:
    assert driver.accept("right", turn(spec, 0.4)) is None
    for now_ms in range(10, 1500, 37):
        run_until(driver, START + now_ms * MS)
    moved = driver.state().position_J - spec.limit("home")
    index = spec.joint_names.index("right_waist")
    assert moved[index] == pytest.approx(0.4, abs=0.01)
    assert np.abs(np.delete(moved, index)).max() < 0.02


def test_the_reference_is_what_the_controllers_ask_for_and_how_fast_it_goes(
    driver: SimulatedDriver, spec: RobotSpec
) -> None:
    driver.accept("right", turn(spec, 0.4))
    positions, velocities = [], []
    for now_ms in range(10, 600, 10):
        run_until(driver, START + now_ms * MS)
        positions.append(driver.reference().position_J)
        velocities.append(driver.reference().velocity_J)
        assert np.array_equal(positions[-1], driver.desired())
    index = spec.joint_names.index("right_waist")
    np.testing.assert_allclose(np.gradient(positions, 0.01, axis=0)[1:-1], velocities[1:-1], atol=0.02)
    fastest = 1.875 * 0.4 / 0.5  # of a quintic from rest to rest
    assert np.max(velocities, axis=0)[index] == pytest.approx(fastest, rel=0.01)


def test_a_jump_that_a_controller_asks_for_reaches_the_drives_at_their_velocity_limits(
    driver: SimulatedDriver, spec: RobotSpec
) -> None:
    index, limit_J = spec.joint_names.index("right_waist"), spec.limit("velocity")
    jump = spec.limit("home")[spec.arm_slice("right")]
    jump[0] += 0.4
    driver.set_point("right", jump)
    told = [driver.cell.command_J]
    for now_ms in range(10, 310, 10):
        run_until(driver, START + now_ms * MS)
        told.append(driver.cell.command_J)
    steps = np.diff(told, axis=0)
    assert (np.abs(steps) <= limit_J * 0.01 + 1e-9).all()
    takes = round(0.4 / (limit_J[index] * 0.01))  # ticks of 10 ms
    np.testing.assert_allclose(steps[:takes, index], limit_J[index] * 0.01)
    np.testing.assert_allclose(told[-1], driver.desired())
    assert driver.limited_ticks == takes - 1  # the last step of the way is as long as the limit allows


def test_motion_within_the_limits_reaches_the_drives_as_it_was_asked_for(
    driver: SimulatedDriver, spec: RobotSpec
) -> None:
    driver.accept("right", turn(spec, 0.4))
    for now_ms in range(10, 600, 10):
        run_until(driver, START + now_ms * MS)
        assert np.array_equal(driver.cell.command_J, driver.desired())
    assert driver.limited_ticks == 0


def test_missed_ticks_are_run_at_once_and_stamped_with_the_physics_instant(driver: SimulatedDriver) -> None:
    assert run_until(driver, START + 205 * MS) == 20
    assert driver.state().stamp_ns == driver.time_ns == START + 200 * MS
    assert driver.wait_s(START + 205 * MS) == pytest.approx(0.005)
    assert driver.lost_ns == 0


def test_a_gap_that_is_too_long_is_dropped_and_the_arms_hold(driver: SimulatedDriver, spec: RobotSpec) -> None:
    driver.accept("right", turn(spec, 0.4))
    run_until(driver, START + 200 * MS)
    desired = driver.desired()
    assert run_until(driver, START + 9_000 * MS) == 0
    assert driver.lost_ns == 8_800 * MS
    run_until(driver, START + 9_500 * MS)
    np.testing.assert_allclose(driver.desired(), desired)


def test_refused_trajectories_are_counted_by_arm_and_reason(driver: SimulatedDriver, spec: RobotSpec) -> None:
    driver.accept("left", turn(spec, 0.4))
    driver.accept("right", turn(spec, 0.4, start_ns=START - 9_000 * MS))
    assert dict(driver.rejected) == {"left.unknown_joints": 1, "right.in_the_past": 1}


def test_a_scene_of_one_seed_is_always_the_same(cell: Cell) -> None:
    scene = Scene(cell)
    first = scene.reset("place_block_pad", "easy", 4), cell.block_position("red").tolist()
    scene.reset("place_block_pad", "easy", 5)
    assert (scene.reset("place_block_pad", "easy", 4), cell.block_position("red").tolist()) == first
    assert scene.colour in scene.instruction


def test_a_block_put_on_the_pad_counts_after_half_a_second(cell: Cell) -> None:
    scene = Scene(cell)
    scene.reset("place_block_pad", "easy", 4)
    address = cell.model.joint(scene.colour).qposadr[0]
    cell.data.qpos[address : address + 3] = cell.pad_position + np.array([0.0, 0.0, 0.0205])
    for _ in range(10):
        cell.advance(0.04)
        scene.update()
    assert scene.placed == ()
    for _ in range(10):
        cell.advance(0.04)
        scene.update()
    assert scene.placed == (scene.colour,)
    assert scene.success


@pytest.mark.parametrize(("task", "setting"), [("juggle", "easy"), ("place_block_pad", "absurd")])
def test_an_unknown_task_or_setting_is_refused(cell: Cell, task: str, setting: str) -> None:
    with pytest.raises(ConfigError, match="is unknown"):
        Scene(cell).reset(task, setting, 0)


def test_what_holds_an_arm_off_its_target_is_told_in_full_and_nothing_of_a_free_one(
    driver: SimulatedDriver, spec: RobotSpec
) -> None:
    """A servo at rest is off its target by what pushes it over its stiffness: the hand is pressed on the table."""
    driver.cell.apply(spec.limit("home"))
    driver.cell.advance(0.5)
    free_J = driver.pushed().position_J
    shoulder, arms = spec.joint_names.index("right_shoulder"), np.delete(np.arange(14), spec.gripper_indices)
    assert np.abs(free_J[arms]).max() < 1e-3
    target_J = spec.limit("home")
    while np.abs(driver.pushed().position_J[shoulder]) < 0.03:
        target_J[shoulder] += 0.01
        driver.cell.apply(target_J)
        driver.cell.advance(0.1)
        assert target_J[shoulder] < spec.limit("upper")[shoulder], "the hand never met the table"
    driver.cell.advance(2.0)
    pushed_J, off_J = driver.pushed().position_J, driver.state().position_J - target_J
    assert np.abs(off_J[shoulder]) > 0.02
    assert np.abs(pushed_J[arms] - off_J[arms]).max() < 2e-3
