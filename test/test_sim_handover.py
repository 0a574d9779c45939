"""handover_block: layouts, the two-arm expert, the success test, and its labels."""

import numpy as np
import pytest

from starry_ros.paths import robot_file
from starry_ros.robot_spec import load_robot_spec
from starry_ros.sim.cell import Cell
from starry_ros.sim.expert_place import PlaceExpert
from starry_ros.sim.motion import TICK_S, VELOCITY_RAD_S, Ramp
from starry_ros.sim.task_handover import MEET_M, HandoverExpert
from starry_ros.sim.tasks import HANDOVER, HandoverCheck, evaluation_case, named_colour, sentence
from starry_ros.training.annotate import ContactLog

SPEC = load_robot_spec(robot_file("bimanual_sim"))
TASK = "handover_block"


@pytest.fixture(scope="module")
def cell():
    return Cell(SPEC)


def command(expert, cell: Cell, colour: str, ramp: Ramp) -> np.ndarray:
    """Position targets for the next 20 ms, as data are recorded."""
    wish = expert.follow(cell.command_J, expert.motion(expert.look(cell), colour))
    return ramp.toward(cell.command_J, wish)


def run(cell: Cell, expert, colour: str, limit_s: float = 16.0, disturb=lambda cell, tick: None):
    """Success, who held the block in which order, and the contact log."""
    check, log, holders, tick = HandoverCheck(colour), ContactLog(), [], 0
    ramp = Ramp(SPEC)
    while cell.sim_time_s < limit_s:
        disturb(cell, tick)
        cell.apply(command(expert, cell, colour, ramp))
        cell.advance(TICK_S)
        log.update(cell)
        tick += 1
        held = tuple(arm for arm in ("right", "left") if cell.held(arm) == colour)
        if not holders or holders[-1] != held:
            holders.append(held)
        if check.update(cell):
            return True, holders, log
    return False, holders, log


@pytest.mark.parametrize("seed", range(3))
def test_the_block_goes_from_hand_to_hand_in_the_air_and_onto_the_pad(cell, seed):
    layout, colour, _ = evaluation_case(seed, TASK)
    cell.reset(layout)
    success, holders, log = run(cell, HandoverExpert(cell), colour)
    assert success
    assert holders == [(), ("right",), ("right", "left"), ("left",), ()]
    assert [len(log.picks), len(log.takes), len(log.places)] == [1, 1, 1]
    assert np.linalg.norm(log.takes[0].point - MEET_M) < 0.03


def test_a_block_pushed_away_before_the_grasp_is_followed(cell):
    layout, colour, _ = evaluation_case(4, TASK)
    cell.reset(layout)

    def push(cell, tick):
        if tick == 20:
            cell.push_block(colour, -0.3, 0.2)

    assert run(cell, HandoverExpert(cell), colour, disturb=push)[0]


def test_a_block_placed_without_a_handover_does_not_count(cell):
    layout, colour, _ = evaluation_case(0, TASK)
    cell.reset(layout)
    assert not run(cell, PlaceExpert(cell, "right"), colour, limit_s=6.0)[0]


def test_blocks_lie_on_the_right_and_the_pad_on_the_left():
    for seed in range(50):
        layout, colour, text = evaluation_case(seed, TASK)
        assert max(block.y_m for block in layout.blocks.values()) < 0 < layout.pad_y_m
        assert named_colour(text) == colour
    assert len({sentence("red", i, TASK) for i in range(10)}) == len(HANDOVER.templates)


def test_a_plan_moves_both_arms_within_speed_and_limits(cell):
    layout, colour, _ = evaluation_case(0, TASK)
    cell.reset(layout)
    expert, ramp = HandoverExpert(cell), Ramp(SPEC)
    for _ in range(60):
        cell.apply(command(expert, cell, colour, ramp))
        cell.advance(TICK_S)
    plan = expert.plan(cell, colour)
    steps = np.abs(np.diff(np.vstack([cell.command_J, plan]), axis=0))
    for arm in ("left", "right"):
        part = SPEC.arm_slice(arm)
        assert steps[:, part][:, :-1].sum(axis=0).max() > 0.05
        assert steps[:, part][:, :-1].max() <= VELOCITY_RAD_S * 0.1 + 1e-9
    assert (plan >= SPEC.limit("lower")).all()
    assert (plan <= SPEC.limit("upper")).all()


@pytest.mark.parametrize("pitch", [0.0, 0.7, 1.2])
def test_a_tilted_hand_reaches_its_point(cell, pitch):
    layout, _, _ = evaluation_case(0, TASK)
    start, part = SPEC.limit("home"), SPEC.arm_slice("left")
    kinematics = HandoverExpert(cell).arms["left"].kinematics
    start[part][:-1] = kinematics.solve(0.1, 0.02, 0.2, pitch, 1.0)
    cell.reset(layout, start)
    assert np.allclose(cell.pinch_position("left"), (0.1, 0.02, 0.2), atol=1e-6)
    rotation = np.array(cell.data.body("left_hand").xmat).reshape(3, 3)
    assert rotation[2, 0] == pytest.approx(-np.sin(pitch), abs=1e-6)
