"""The simulated cell: geometry, cameras, gripper readings, determinism."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest

from starry_ros.errors import ContractError, InputError
from starry_ros.kinematics.backend import mujoco
from starry_ros.paths import robot_file
from starry_ros.robot_spec import load_robot_spec
from starry_ros.sim.cell import BLOCK_HALF_M, BlockPose, Cell, Layout
from starry_ros.sim.choices import COLOURS
from starry_ros.sim.kinematics import ArmKinematics
from starry_ros.sim.scenes import ASSET_DIR
from starry_ros.sim.tasks import draw_layout, episode_rng

SPEC = load_robot_spec(robot_file("bimanual_sim"))
LAYOUT = Layout(
    {"red": BlockPose(0.09, -0.12, 0.3), "green": BlockPose(0.09, 0.12, -0.3), "blue": BlockPose(0.24, 0.0, 0.0)},
    pad_x_m=0.14, pad_y_m=0.0,
)
IN_VIEW = {"head": COLOURS, "left_wrist": ("green",), "right_wrist": ("red",)}
MIRROR = np.array([-1, 1, 1, -1, 1, -1, 1.0])
"""What a mirror does to the joints of an arm: turns about x and z change sign."""


@pytest.fixture(scope="module")
def cell():
    cell = Cell(SPEC)
    cell.reset(LAYOUT)
    yield cell
    cell.close()


def corners(cell: Cell, colour: str) -> np.ndarray:
    signs = np.array(list(itertools.product((-1, 1), repeat=3)))
    return cell.block_position(colour) + BLOCK_HALF_M * signs @ cell.block_rotation(colour).T


def projected(model, points: np.ndarray) -> np.ndarray:
    """OpenCV's convention, written out anew."""
    in_camera = np.linalg.inv(model.T_world_cam) @ np.column_stack([points, np.ones(len(points))]).T
    x, y, z = in_camera[:3]
    return np.column_stack([model.fx_px * x / z + model.cx_px, model.fy_px * y / z + model.cy_px])


def test_extent_and_near_plane_are_pinned(cell):
    assert cell.model.stat.extent == 1.0
    assert cell.model.vis.map.znear * cell.model.stat.extent <= 0.011


def test_a_cell_without_a_pinned_extent_is_refused(tmp_path):
    for name in ("arm.xml", "cell.xml"):
        text = (ASSET_DIR / name).read_text().replace('<statistic extent="1" center="0.1 0 0.2"/>', "")
        (tmp_path / name).write_text(text)
    with pytest.raises(ContractError, match="extent"):
        Cell(SPEC, tmp_path / "cell.xml")


def test_the_arms_are_mirror_images(cell):
    rng = np.random.default_rng(5)
    mirror_y = np.array([1, -1, 1.0])
    for _ in range(20):
        right = rng.uniform(-0.6, 0.6, 7)
        right[-1] = rng.uniform(0.0, 0.04)
        cell.reset(LAYOUT, np.concatenate([MIRROR * right, right]))
        assert np.allclose(cell.pinch_position("left"), mirror_y * cell.pinch_position("right"), atol=1e-9)
        left, other = (cell.camera_model(f"{arm}_wrist").T_world_cam[:3, 3] for arm in ("left", "right"))
        assert np.allclose(left, mirror_y * other, atol=1e-9)
    cell.reset(LAYOUT)


@pytest.mark.parametrize("arm", ["left", "right"])
def test_forward_kinematics_agree_with_mujoco_and_invert(cell, arm):
    kinematics, part = ArmKinematics.from_model(cell.model, arm), SPEC.arm_slice(arm)
    rng = np.random.default_rng(6)
    for _ in range(20):
        start = SPEC.limit("home")
        goal = rng.uniform(0.05, 0.25), rng.uniform(-0.15, 0.15), rng.uniform(0.03, 0.2)
        start[part][:-1] = kinematics.solve_down(*goal, rng.uniform(-0.4, 0.4))
        cell.reset(LAYOUT, start)
        assert np.allclose(cell.pinch_position(arm), goal, atol=1e-6)
        assert np.allclose(kinematics.pinch(start[part][:-1]), goal, atol=1e-6)
    cell.reset(LAYOUT)


@pytest.mark.parametrize("camera", list(IN_VIEW))
def test_projected_block_outlines_agree_with_rendered_segmentation(cell, camera):
    cell.reset(LAYOUT)
    renderer = mujoco.Renderer(cell.model, 240, 320)
    renderer.enable_segmentation_rendering()
    renderer.update_scene(cell.data, camera=camera)
    ids = renderer.render()[..., 0]
    renderer.close()
    for colour in IN_VIEW[camera]:
        rows, columns = np.nonzero(ids == cell.model.geom(colour).id)
        assert len(rows) > 30
        outline = projected(cell.camera_model(camera), corners(cell, colour))
        seen = np.array([columns.min() - 0.5, rows.min() - 0.5, columns.max() + 0.5, rows.max() + 0.5])
        assert np.abs(seen - np.concatenate([outline.min(0), outline.max(0)])).max() < 1.5


def test_every_named_block_shows_in_its_colour_at_its_projected_place(cell):
    cell.reset(LAYOUT)
    image, model = cell.render("head"), cell.camera_model("head")
    for channel, colour in enumerate(COLOURS):
        u, v = projected(model, cell.block_position(colour)[None])[0].round().astype(int)
        assert int(image[v, u].argmax()) == channel


def closed_jaw_reading(cell: Cell, layout: Layout) -> float:
    start, part = SPEC.limit("home"), SPEC.arm_slice("right")
    start[part][:-1] = ArmKinematics.from_model(cell.model, "right").solve_down(0.09, -0.12, 0.021, 0.3)
    cell.reset(layout, start)
    start[part][-1] = 0.0
    cell.apply(start)
    cell.advance(0.6)
    return float(cell.state(0).position_J[part][-1])


def test_the_gripper_reading_reveals_an_empty_jaw(cell):
    on_block = closed_jaw_reading(cell, LAYOUT)
    assert cell.held("right") == "red"
    far = Layout({**LAYOUT.blocks, "red": BlockPose(0.24, -0.14, 0.0)}, 0.14, 0.0)
    empty = closed_jaw_reading(cell, far)
    assert cell.held("right") is None
    assert on_block == pytest.approx(BLOCK_HALF_M, abs=0.002)
    assert empty < 0.002


def run(cell: Cell, seed: int) -> np.ndarray:
    cell.reset(draw_layout(episode_rng("eval", seed)))
    rng, states = np.random.default_rng(seed), []
    for _ in range(20):
        cell.apply(cell.command_J + rng.normal(0.0, 0.02, 14))
        cell.advance(0.02)
        states.append(np.concatenate([cell.state(0).position_J, *(cell.block_position(c) for c in COLOURS)]))
    return np.array(states)


def test_the_same_seed_gives_the_same_motion_in_a_used_and_a_new_cell(cell):
    first = run(cell, 3)
    run(cell, 4)
    assert np.array_equal(first, run(cell, 3))
    assert np.array_equal(first, run(Cell(SPEC), 3))


def test_targets_outside_the_limits_are_held_to_them(cell):
    cell.reset(LAYOUT)
    cell.apply(np.full(14, 9.0))
    assert np.array_equal(cell.command_J, SPEC.limit("upper"))


@pytest.mark.parametrize("bad", [np.zeros(13), np.full(14, math.nan), np.full(14, math.inf)])
def test_wrong_or_non_finite_targets_are_refused_and_change_nothing(cell, bad):
    cell.reset(LAYOUT)
    before = cell.command_J
    with pytest.raises(InputError, match="14 finite numbers"):
        cell.apply(bad)
    assert np.array_equal(cell.command_J, before)


def test_one_finger_touches_and_two_grip():
    """Contacts are given: (pad, handle), (pad, table) and (handle, mirrored pad) in both orders."""
    pad, mirror, handle, table = 1, 2, 7, 9

    def cell_with(*pairs):
        contact = SimpleNamespace(geom=np.array([*pairs, (5, 6)]))
        model = SimpleNamespace(geom=lambda name: SimpleNamespace(id={"handle_left": handle}[name]))
        cell = object.__new__(Cell)
        cell.model, cell.data = model, SimpleNamespace(contact=contact, ncon=len(pairs))
        cell._finger_pads = {"left": (pad, mirror)}
        return cell

    for pairs, touches, grips in (
        ((), False, False), (((pad, table),), False, False), (((pad, handle),), True, False),
        (((handle, mirror), (pad, table)), True, False), (((handle, mirror), (pad, handle)), True, True),
    ):
        cell = cell_with(*pairs)
        assert (cell.touches("left", "handle_left"), cell.grips("left", "handle_left")) == (touches, grips)
