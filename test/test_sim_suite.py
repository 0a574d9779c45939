"""Every task of the suite: sentences, layouts, looks, experts, plans, and success on physics state."""

from __future__ import annotations

import math

import numpy as np
import pytest

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.paths import robot_file
from starry_ros.robot_spec import load_robot_spec
from starry_ros.sim.cell import BLOCK_HALF_M, Cell
from starry_ros.sim.choices import COLOURS
from starry_ros.sim.experts import make_expert
from starry_ros.sim.motion import TICK_S, Ramp
from starry_ros.sim.tasks import (
    TASKS,
    draw_layout,
    episode_rng,
    evaluation_case,
    make_check,
    named_target,
    same_meaning,
    sentence,
    task_of,
)
from starry_ros.training.annotate import ContactLog, label, snapshot

SPEC = load_robot_spec(robot_file("bimanual_sim"))
NEW = ("stack_blocks_two", "place_dual_blocks", "lift_tray", "press_button", "put_block_drawer")


@pytest.fixture(scope="module")
def cell():
    cell = Cell(SPEC)
    yield cell
    cell.close()


def ticks(cell: Cell, task: str, seed: int, setting: str = "easy"):
    """The expert alone, without the closed loop; yields what there is to look at before every tick, to the limit."""
    layout, target, _ = evaluation_case(seed, task, setting)
    expert, ramp = make_expert(task, cell), Ramp(SPEC)
    cell.reset(layout)
    while cell.sim_time_s < task_of(task).time_limit_s:
        scene = expert.look(cell)
        yield expert, scene, target
        cell.apply(ramp.toward(cell.command_J, expert.follow(cell.command_J, expert.motion(scene, target))))
        cell.advance(TICK_S)


def play(cell: Cell, task: str, seed: int, setting: str) -> tuple[bool, float, list[float]]:
    """Success, when the expert was done, and when it would be as it said every second."""
    check, done_s, expected_s = make_check(task, evaluation_case(seed, task, setting)[1]), math.inf, []
    for expert, scene, target in ticks(cell, task, seed, setting):
        if cell.sim_time_s < done_s and cell.sim_time_s >= len(expected_s):
            expected_s.append(cell.sim_time_s + expert.to_go_s(cell, target, 20.0))
        if expert.stage(scene, target) == "done":
            done_s = min(done_s, cell.sim_time_s)
        if check.update(cell):
            return True, done_s, expected_s
    return False, done_s, expected_s


LONGEST_WORDS = 22
"""The text encoder takes 24 tokens, two of them its own; words of these sentences are one each."""


@pytest.mark.parametrize("task", TASKS)
def test_every_sentence_names_its_target_and_hard_ones_are_never_trained_on(task):
    spec = task_of(task)
    trained = {sentence(target, i, task) for target in spec.targets for i in range(len(spec.templates))}
    unseen = {sentence(t, i, task, unseen=True) for t in spec.targets for i in range(len(spec.hard_templates))}
    assert spec.hard_templates
    assert not trained & unseen
    for target in spec.targets:
        same = same_meaning(sentence(target, 0, task))
        assert len(set(same)) == len(spec.templates) + len(spec.wordings) > len(spec.templates)
        assert not set(same) & unseen
        assert all(named_target(text, task) == target for text in same)
        assert all(same_meaning(text) == same for text in same)
        assert max(len(text.replace(",", " ,").replace(":", " :").split()) for text in same) <= LONGEST_WORDS
        for i in range(12):
            assert named_target(sentence(target, i, task), task) == target
            assert named_target(sentence(target, i, task, unseen=True), task) == target


@pytest.mark.parametrize(("setting", "seed"), [("easy", 1), ("hard", 7)])
@pytest.mark.parametrize("task", TASKS)
def test_the_expert_does_the_task_in_the_time_that_it_said_it_would_take(cell, task, setting, seed):
    success, done_s, expected_s = play(cell, task, seed, setting)
    assert success
    assert len(expected_s) > 1
    assert expected_s == pytest.approx([done_s] * len(expected_s), abs=0.2 + 0.1 * done_s)


def test_a_block_that_is_thrown_off_costs_the_time_to_fetch_it(cell):
    for expert, _, target in ticks(cell, "place_block_pad", 1):
        if expert.stage(expert.look(cell), target) == "place" and cell.block_position(target)[2] > 0.06:
            break
    before_s = expert.to_go_s(cell, target, 20.0)
    address = int(cell.model.joint(target).qposadr[0])
    cell.data.qpos[address:address + 3] = [0.05, -0.05, BLOCK_HALF_M]
    cell.advance(0.002)
    assert expert.to_go_s(cell, target, 20.0) > before_s + 1.0
    assert expert.to_go_s(cell, target, 1.0) == 1.0, "at most so much"


@pytest.mark.parametrize("task", NEW)
def test_nothing_done_is_no_success_and_the_hard_setting_is_the_same_task(cell, task):
    layout, target, text = evaluation_case(2, task, "hard")
    assert named_target(text, task) == target
    cell.reset(layout)
    assert cell.scene.endswith("+clutter")
    check = make_check(task, target)
    for _ in range(40):
        cell.advance(TICK_S)
        assert not check.update(cell)
    objects = [cell.block_position(colour) for colour in COLOURS]
    assert all(position[2] > BLOCK_HALF_M - 0.005 for position in objects)


def test_layouts_of_training_and_evaluation_differ_and_repeat():
    for task in TASKS:
        target = task_of(task).targets[0]
        first, again = (draw_layout(episode_rng("eval", 5), task, target) for _ in range(2))
        assert first == again
        assert first != draw_layout(episode_rng("train", 5), task, target)


def test_the_hard_look_changes_pictures_and_goes_away_again(cell):
    easy, _, _ = evaluation_case(0)
    hard, _, _ = evaluation_case(0, setting="hard")
    cell.reset(easy)
    before, rgba = cell.render("head"), cell.model.mat_rgba.copy()
    cell.reset(hard)
    assert np.abs(cell.render("head").astype(int) - before).mean() > 3
    other = Cell(SPEC)
    other.match(cell)
    assert np.array_equal(other.render("head"), cell.render("head"))
    other.close()
    cell.reset(easy)
    assert np.array_equal(cell.model.mat_rgba, rgba)
    assert np.array_equal(cell.render("head"), before)


def test_colours_keep_their_names_in_the_hard_setting(cell):
    for seed in range(20):
        cell.reset(evaluation_case(seed, setting="hard")[0])
        for channel, colour in enumerate(COLOURS):
            assert int(np.argmax(cell.model.mat(colour).rgba[:3])) == channel


def test_a_button_lights_up_once_pressed_and_stays_lit(cell):
    cell.reset(evaluation_case(0, "press_button")[0])
    cell.data.joint("green_button").qpos[0] = -0.010
    cell.advance(0.004)
    assert cell.lit == ("green",)
    cell.advance(0.5)
    assert abs(cell.slide("green_button")) < 0.002
    assert cell.lit == ("green",)
    assert cell.model.mat("green_button").emission[0] == 1.0
    cell.reset(evaluation_case(1, "press_button")[0])
    assert cell.lit == ()


def test_a_drawer_stays_where_it_was_pulled_to(cell):
    cell.reset(evaluation_case(0, "put_block_drawer")[0])
    cell.data.joint("drawer").qpos[0] = 0.06
    cell.advance(1.0)
    assert abs(cell.slide("drawer") - 0.06) < 0.002


def test_stacking_the_wrong_way_round_is_no_success(cell):
    layout, target, _ = evaluation_case(0, "stack_blocks_two")
    top, bottom = target.split(" on ")
    cell.reset(layout)
    check, other = make_check("stack_blocks_two", target), make_check("stack_blocks_two", f"{bottom} on {top}")
    address = int(cell.model.joint(bottom).qposadr[0])
    cell.data.qpos[address : address + 3] = cell.block_position(top) + np.array([0, 0, 2 * BLOCK_HALF_M + 0.001])
    for _ in range(40):
        cell.advance(TICK_S)
        done = check.update(cell), other.update(cell)
    assert done == (False, True)


@pytest.mark.parametrize("task", NEW)
def test_plans_stay_inside_the_limits_and_contacts_that_never_come_are_labelled_by_the_script(cell, task):
    layout, target, _ = evaluation_case(3, task)
    cell.reset(layout)
    cell.advance(0.02)
    expert, canvas = make_expert(task, cell), t_pose_layout(SPEC)
    plan = expert.plan(cell, target)
    assert plan.shape == (16, 14)
    assert (plan >= SPEC.limit("lower") - 1e-9).all()
    assert (plan <= SPEC.limit("upper") + 1e-9).all()
    scene = expert.look(cell)
    contacts = expert.contacts(scene, target)
    log = ContactLog()
    shot = snapshot(cell, canvas.cameras, target, expert.stage(scene, target), log.name(cell, contacts))
    labels = label([shot], log, canvas, task)
    for event, (geom, point, _) in enumerate(contacts[:2]):
        camera = cell.camera_model("head")
        x, y, z = camera.T_world_cam[:3, :3].T @ (point - camera.T_world_cam[:3, 3])
        u_px, v_px = camera.fx_px * x / z + camera.cx_px, camera.fy_px * y / z + camera.cy_px
        assert np.allclose(labels[0, event, 0, :2], canvas.camera_to_canvas("head", [u_px, v_px]), atol=1e-4)
        assert labels[0, event, 0, 3] == 1
        assert np.linalg.norm(cell.geom_position(geom) - point) < 0.06
