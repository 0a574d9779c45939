"""Layouts, sentences, splits and the success test of place_block_pad."""

import math

import numpy as np
import pytest

from starry_ros.errors import ConfigError
from starry_ros.paths import robot_file
from starry_ros.robot_spec import load_robot_spec
from starry_ros.sim.cases import Case, closed_jaw_start, other_colour, push_velocity
from starry_ros.sim.cell import BlockPose, Cell, Layout
from starry_ros.sim.choices import COLOURS, KINDS
from starry_ros.sim.tasks import (
    BLOCK_GAP_M,
    PAD_GAP_M,
    REGION_X_M,
    REGION_Y_M,
    TEMPLATES,
    YAW_RAD,
    PlaceCheck,
    draw_layout,
    episode_rng,
    evaluation_case,
    named_colour,
    sentence,
)

SPEC = load_robot_spec(robot_file("bimanual_sim"))
PAD = (0.12, 0.0)


@pytest.fixture(scope="module")
def cell():
    return Cell(SPEC)


def points(layout: Layout) -> np.ndarray:
    return np.array([*((b.x_m, b.y_m) for b in layout.blocks.values()), (layout.pad_x_m, layout.pad_y_m)])


def test_training_and_evaluation_layouts_are_disjoint():
    seen = {tuple(points(draw_layout(episode_rng("train", 2026, i, a))).ravel()) for i in range(200) for a in range(2)}
    seen |= {tuple(points(draw_layout(episode_rng("train", seed))).ravel()) for seed in range(200)}
    held_out = {tuple(points(evaluation_case(seed)[0]).ravel()) for seed in range(200)}
    assert len(held_out) == 200
    assert not seen & held_out


def test_layouts_keep_their_distances_and_the_region():
    for seed in range(200):
        layout = draw_layout(episode_rng("train", seed))
        where = points(layout)
        assert (where[:, 0] >= REGION_X_M[0]).all()
        assert (where[:, 0] <= REGION_X_M[1]).all()
        assert (where[:, 1] >= REGION_Y_M[0]).all()
        assert (where[:, 1] <= REGION_Y_M[1]).all()
        for i in range(3):
            assert math.dist(where[i], where[3]) >= PAD_GAP_M
            assert all(math.dist(where[i], where[j]) >= BLOCK_GAP_M for j in range(i))
        assert all(abs(block.yaw_rad) <= YAW_RAD for block in layout.blocks.values())


def test_evaluation_colours_and_sentences_take_turns():
    colours = [evaluation_case(seed)[1] for seed in range(30)]
    assert all(colours.count(colour) == 10 for colour in COLOURS)
    texts = {evaluation_case(seed)[2] for seed in range(18)}
    assert len(texts) == len(TEMPLATES) * len(COLOURS)


@pytest.mark.parametrize("colour", COLOURS)
def test_every_sentence_names_its_colour(colour):
    assert all(named_colour(sentence(colour, i)) == colour for i in range(len(TEMPLATES)))


@pytest.mark.parametrize("text", ["put it on the pad", "put the red block on the blue block", "", "the reddish one"])
def test_sentences_without_one_clear_colour_name_none(text):
    assert named_colour(text) is None


def test_an_unknown_colour_is_refused():
    with pytest.raises(ConfigError, match="unknown colour"):
        sentence("mauve")


def lay(cell: Cell, x_m: float, y_m: float, start=None) -> PlaceCheck:
    blocks = {"red": BlockPose(x_m, y_m, 0.0), "green": BlockPose(0.25, 0.12, 0.0), "blue": BlockPose(0.25, -0.15, 0.0)}
    cell.reset(Layout(blocks, *PAD), start)
    return PlaceCheck("red")


def watch(cell: Cell, check: PlaceCheck, duration_s: float) -> list[bool]:
    seen = []
    while cell.sim_time_s < duration_s:
        cell.advance(0.02)
        seen.append(check.update(cell))
    return seen


def test_a_block_on_the_pad_counts_after_half_a_second(cell):
    seen = watch(cell, lay(cell, *PAD), 0.8)
    assert seen[-1]
    assert 0.5 <= 0.02 * seen.index(True) <= 0.56


@pytest.mark.parametrize("offset", [(0.06, 0.0), (0.0, -0.06)])
def test_a_block_whose_centre_is_beside_the_pad_does_not_count(cell, offset):
    assert not any(watch(cell, lay(cell, PAD[0] + offset[0], PAD[1] + offset[1]), 0.8))


def test_a_block_above_the_pad_does_not_count_until_it_lies(cell):
    check = lay(cell, *PAD)
    cell.data.joint("red").qpos[2] = 0.3
    seen = watch(cell, check, 1.2)
    assert 0.02 * seen.index(True) > 0.5 + math.sqrt(2 * 0.28 / 9.81) - 0.03


def test_a_touched_block_does_not_count(cell):
    from starry_ros.sim.kinematics import ArmKinematics

    start, part = SPEC.limit("home"), SPEC.arm_slice("right")
    start[part][:-1] = ArmKinematics.from_model(cell.model, "right").solve_down(*PAD, 0.021, 0.0)
    check = lay(cell, *PAD, start)
    start[part][-1] = 0.0
    cell.apply(start)
    cell.advance(0.3)
    assert cell.touched("red")
    assert not any(watch(cell, check, 1.2))


def test_forced_cases_are_functions_of_their_seed():
    assert Case(3, "push").rng().random() == Case(3, "push").rng().random()
    assert len({Case(3, kind).rng().random() for kind in KINDS}) == len(KINDS)
    rng = np.random.default_rng(0)
    assert all(other_colour("red", rng) in ("green", "blue") for _ in range(20))
    assert all(0.3 < math.hypot(*push_velocity(rng)) < 0.75 for _ in range(20))


def test_a_closed_jaw_starts_empty_and_clear_of_all_blocks(cell):
    for seed in range(20):
        case = Case(seed, "closed_jaw")
        layout, colour, _ = evaluation_case(seed)
        cell.reset(layout, closed_jaw_start(cell, layout, colour, case.rng()))
        assert cell.state(0).position_J[SPEC.arm_slice("right")][-1] == 0.0
        assert cell.pinch_position("right")[2] > 0.025
        assert not any(cell.touched(name) for name in COLOURS)
