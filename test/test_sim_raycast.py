"""Ray-cast views against the OpenGL renderer, and alone where there is none."""

import os
import subprocess
import sys

import numpy as np
import pytest

from starry_ros.errors import InputError
from starry_ros.paths import robot_file
from starry_ros.robot_spec import load_robot_spec
from starry_ros.sim.cell import Cell
from starry_ros.sim.raycast import RayCaster
from starry_ros.sim.tasks import evaluation_case

SPEC = load_robot_spec(robot_file("bimanual_sim"))


@pytest.fixture(scope="module")
def cell():
    cell = Cell(SPEC)
    cell.reset(evaluation_case(0)[0])
    yield cell
    cell.close()


@pytest.mark.skipif(os.environ.get("MUJOCO_GL") == "disable", reason="there is no OpenGL to compare with")
@pytest.mark.parametrize("camera", ["head", "left_wrist", "right_wrist"])
def test_views_agree_with_opengl(cell, camera):
    caster = RayCaster(cell.model, 240, 320)
    caster.update_scene(cell.data, camera)
    ours, theirs = caster.render(), cell.render(camera)
    theirs = theirs.reshape(120, 2, 160, 2, 3).mean(axis=(1, 3))
    difference = np.abs(ours[::2, ::2] - theirs)
    assert ours.shape == (240, 320, 3)
    assert difference.mean() < 7  # OpenGL lights corners and interpolates
    assert (difference.max(axis=2) > 40).mean() < 0.03  # edges


def test_a_caster_without_a_scene_is_refused(cell):
    with pytest.raises(InputError, match="no scene"):
        RayCaster(cell.model, 24, 32).render()


def test_sizes_that_are_odd_keep_their_size(cell):
    caster = RayCaster(cell.model, 25, 31)
    caster.update_scene(cell.data, "head")
    assert caster.render().shape == (25, 31, 3)


def test_a_machine_without_opengl_still_sees():
    program = (
        "from starry_ros.paths import robot_file; from starry_ros.robot_spec import load_robot_spec;"
        "from starry_ros.sim.cell import Cell; from starry_ros.sim.tasks import evaluation_case;"
        "cell = Cell(load_robot_spec(robot_file('bimanual_sim'))); cell.reset(evaluation_case(0)[0]);"
        "print(cell.render('head').shape, cell.render('head').std() > 10)"
    )
    environment = {**os.environ, "MUJOCO_GL": "disable"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.split("\n")[0] == "(240, 320, 3) True", done.stderr
