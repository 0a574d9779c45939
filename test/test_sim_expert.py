"""The scripted expert of place_block_pad: success, recovery, and plans that match what it does."""

import numpy as np
import pytest

from starry_ros.paths import robot_file
from starry_ros.robot_spec import load_robot_spec
from starry_ros.sim.cases import Case, closed_jaw_start
from starry_ros.sim.cell import Cell
from starry_ros.sim.expert_place import PlaceExpert
from starry_ros.sim.motion import TICK_S, VELOCITY_RAD_S, Ramp
from starry_ros.sim.tasks import PlaceCheck, evaluation_case

SPEC = load_robot_spec(robot_file("bimanual_sim"))
RIGHT = SPEC.arm_slice("right")


@pytest.fixture(scope="module")
def cell():
    return Cell(SPEC)


def command(expert, cell: Cell, colour: str, ramp: Ramp) -> np.ndarray:
    """Position targets for the next 20 ms, as data are recorded."""
    wish = expert.follow(cell.command_J, expert.motion(expert.look(cell), colour))
    return ramp.toward(cell.command_J, wish)


def succeeds(cell: Cell, colour: str, disturb=lambda cell, tick: None, limit_s: float = 12.0) -> bool:
    expert, check, ramp, tick = PlaceExpert(cell), PlaceCheck(colour), Ramp(SPEC), 0
    while cell.sim_time_s < limit_s:
        target = command(expert, cell, colour, ramp)
        changed = disturb(cell, tick)
        cell.apply(target if changed is None else changed(target))
        cell.advance(TICK_S)
        tick += 1
        if check.update(cell):
            return True
    return False


@pytest.mark.parametrize("seed", range(3))
def test_the_expert_puts_the_named_block_on_the_pad(cell, seed):
    layout, colour, _ = evaluation_case(seed)
    cell.reset(layout)
    assert succeeds(cell, colour)


@pytest.mark.parametrize("seed", [3, 4])
def test_the_expert_recovers_from_a_closed_empty_jaw(cell, seed):
    layout, colour, _ = evaluation_case(seed)
    cell.reset(layout, closed_jaw_start(cell, layout, colour, Case(seed, "closed_jaw").rng()))
    assert succeeds(cell, colour)


def test_the_expert_picks_up_a_block_that_it_was_made_to_drop(cell):
    layout, colour, _ = evaluation_case(5)
    cell.reset(layout)
    dropped = []

    def let_go(cell, tick):
        if cell.held("right") == colour and cell.block_position(colour)[2] > 0.06 and not dropped:
            dropped.extend(range(tick, tick + 8))
        if tick in dropped:
            return lambda command: np.concatenate([command[:-1], [0.04]])
        return None

    assert succeeds(cell, colour, let_go)
    assert dropped


def test_the_expert_follows_a_block_that_is_pushed_away(cell):
    layout, colour, _ = evaluation_case(6)
    cell.reset(layout)
    assert succeeds(cell, colour, lambda cell, tick: cell.push_block(colour, 0.4, 0.2) if tick == 20 else None)


def test_a_plan_is_what_the_expert_then_does(cell):
    layout, colour, _ = evaluation_case(0)
    cell.reset(layout)
    expert, ramp, errors = PlaceExpert(cell), Ramp(SPEC), []
    for _ in range(7):
        plan = expert.plan(cell, colour)
        for step in range(4):
            for _ in range(5):
                cell.apply(command(expert, cell, colour, ramp))
                cell.advance(TICK_S)
            errors.append(np.abs(cell.command_J - plan[step])[RIGHT][:-1].max())
    assert np.median(errors) < 0.01
    assert max(errors) < VELOCITY_RAD_S * 0.1  # a tick or two of difference in the moment the jaw closes


def test_plans_keep_to_speed_and_limits_and_leave_the_left_arm_at_home(cell):
    layout, colour, _ = evaluation_case(1)
    cell.reset(layout)
    plan = PlaceExpert(cell).plan(cell, colour)
    steps = np.diff(np.vstack([SPEC.limit("home"), plan]), axis=0)
    assert plan.shape == (16, 14)
    assert np.abs(steps[:, RIGHT][:, :-1]).max() <= VELOCITY_RAD_S * 0.1 + 1e-9
    assert np.array_equal(plan[:, SPEC.arm_slice("left")], np.tile(SPEC.limit("home")[:7], (16, 1)))
    assert (plan >= SPEC.limit("lower")).all()
    assert (plan <= SPEC.limit("upper")).all()
