"""What a cell looks like, shown by another one: by OpenGL, and by rays where there is none."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="the simulated robot needs mujoco")

from starry_ros.paths import robot_file
from starry_ros.robot_spec import RobotSpec, load_robot_spec
from starry_ros.sim.cell import Cell
from starry_ros.sim.driver import CameraRig
from starry_ros.sim.raycast import RayCaster
from starry_ros.sim.tasks import evaluation_case

EPISODES = ((1, "place_block_pad", "hard"), (2, "place_block_pad", "hard"), (3, "press_button", "hard"),
            (4, "place_block_pad", "easy"))
"""Other colours in the same scene, another scene, and back to the look of the file."""


@pytest.fixture(scope="module")
def spec() -> RobotSpec:
    return load_robot_spec(robot_file("bimanual_sim"))


@pytest.fixture(scope="module")
def rig(spec: RobotSpec) -> Iterator[CameraRig]:
    rig = CameraRig(spec)
    yield rig
    rig.close()


def moved(spec: RobotSpec, episode: tuple[int, str, str]) -> Cell:
    """A cell of its own in which an episode has begun and the arms have moved."""
    cell, (seed, task, setting) = Cell(spec), episode
    cell.reset(evaluation_case(seed, task, setting)[0])
    cell.apply(spec.limit("home") + 0.1)
    cell.advance(0.3)
    return cell


@pytest.mark.parametrize("episode", EPISODES)
def test_a_sight_shows_what_the_cell_itself_would(
    spec: RobotSpec, rig: CameraRig, episode: tuple[int, str, str]
) -> None:
    cell = moved(spec, episode)
    sight = pickle.loads(pickle.dumps(cell.sight()))
    pictures = {camera: (image.copy(), model) for camera, image, model in rig.pictures(sight)}
    assert set(pictures) == {camera.name for camera in spec.cameras}
    for camera, (image, model) in pictures.items():
        np.testing.assert_array_equal(image, cell.render(camera))
        np.testing.assert_allclose(model.T_world_cam, cell.camera_model(camera).T_world_cam, atol=1e-12)
    cell.close()


def test_what_happens_after_a_sight_was_taken_is_not_shown(spec: RobotSpec, rig: CameraRig) -> None:
    cell = moved(spec, EPISODES[0])
    sight, then = cell.sight(), cell.render("head").copy()
    cell.reset(evaluation_case(9, "place_block_pad", "hard")[0])
    np.testing.assert_array_equal(next(image for _, image, _ in rig.pictures(sight)), then)
    assert np.abs(then.astype(int) - cell.render("head")).mean() > 2
    cell.close()


def test_rays_show_the_colours_of_this_episode_and_a_lit_button(spec: RobotSpec) -> None:
    cell, (other, _, _) = Cell(spec), evaluation_case(2, "press_button", "hard")
    cell.reset(evaluation_case(1, "press_button", "hard")[0])
    caster = RayCaster(cell.model, 60, 80)

    def seen(by: RayCaster) -> np.ndarray:
        by.update_scene(cell.data, "head")
        return np.array(by.render(), dtype=np.int64)

    first = seen(caster)
    cell.reset(other)
    second = seen(caster)
    assert np.abs(first - second).mean() > 2
    np.testing.assert_array_equal(second, seen(RayCaster(cell.model, 60, 80)))
    cell.model.mat("red_button").emission[:] = 1.0
    brighter = (seen(caster) - second).max(axis=2)
    assert 0 < (brighter > 40).sum() < 0.02 * brighter.size
    cell.close()
