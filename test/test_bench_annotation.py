"""The ball that stands for a contact is seen where the camera projects it, and where its label stands."""

import dataclasses

import numpy as np
import pytest

from starry_ros.bench import annotation
from starry_ros.kinematics.backend import mujoco
from starry_ros.paths import robot_file
from starry_ros.robot_spec import load_robot_spec
from starry_ros.sim.cell import Cell
from starry_ros.sim.tasks import evaluation_case
from starry_ros.training.annotate import ContactLog

SPEC = load_robot_spec(robot_file("bimanual_sim"))
WIDE = dataclasses.replace(
    SPEC, cameras=tuple(dataclasses.replace(camera, width_px=640, height_px=480) for camera in SPEC.cameras))


def test_a_ball_is_seen_alone_where_its_point_projects_and_nowhere_behind_the_camera():
    cell = Cell(WIDE)
    cell.reset(evaluation_case(0)[0])
    renderer = mujoco.Renderer(cell.model, 480, 640)
    renderer.enable_segmentation_rendering()
    camera = cell.camera_model("head")
    inside_the_table = np.array([0.15, -0.05, -0.02])
    x, y, z = camera.T_world_cam[:3, :3].T @ (inside_the_table - camera.T_world_cam[:3, 3])
    wanted = np.array([camera.fx_px * x / z + camera.cx_px, camera.fy_px * y / z + camera.cy_px])
    seen = annotation.ball_middle(renderer, cell.data, "head", inside_the_table)
    behind = camera.T_world_cam[:3, 3] - camera.T_world_cam[:3, 2]
    assert seen == pytest.approx(wanted, abs=0.3)
    assert annotation.ball_middle(renderer, cell.data, "head", behind) is None
    renderer.close()


def test_labels_of_a_hard_episode_lie_on_their_contacts_and_those_that_never_came_are_left_out():
    cell = Cell(WIDE)
    played = annotation.play(cell, "press_button", 1, "hard")
    found = annotation.distances(cell, played, "press_button")
    assert {one.camera for one in found} >= {"head"}
    assert len(found) >= 3
    assert max(one.px for one in found) < 0.5
    assert annotation.distances(cell, dataclasses.replace(played, log=ContactLog()), "press_button") == []


def test_a_label_that_stands_elsewhere_is_as_far_from_its_contact_as_it_stands(monkeypatch):
    """Eight pixels of the camera along a row are so many pixels of the canvas."""
    cell, told = Cell(WIDE), annotation.label
    played = annotation.play(cell, "press_button", 1)
    head = [one.px for one in annotation.distances(cell, played, "press_button") if one.camera == "head"]
    scale = annotation.t_pose_layout(WIDE).tile("head").scale_xy[0]
    monkeypatch.setattr(annotation, "label", lambda *given: told(*given) + np.array([8.0 * scale, 0, 0, 0, 0]))
    aside = [one.px for one in annotation.distances(cell, played, "press_button") if one.camera == "head"]
    assert np.abs(np.array(aside) - 8.0).max() <= max(head) + 1e-3
