"""A known point of the world, through label, canvas and value map, lies where the camera sees it; and back in space."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mujoco
import numpy as np
import pytest
import torch

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.robot_spec import load_robot_spec
from starry_ros.sim.cell import Cell
from starry_ros.training.annotate import project
from starry_ros.training.losses import value_target
from starry_ros.types import F64, LandingPoint, ValueMap
from starry_ros.value.imagined import ImaginedPairs, beside, compare, whole
from starry_ros.value.landing import Ray, locate, ray_of
from starry_ros.value.overlay import OverlayPainter, Style
from starry_ros.value.project import ValueProjector

SPEC = load_robot_spec(Path(__file__).parents[1] / "config" / "robots" / "bimanual_sim.yaml")
STRIDE = 4
SIZES = {"plain": (640, 480), "letterboxed": (640, 360), "pillarboxed": (480, 640), "odd": (641, 479)}


def seen_directly(cell: Cell, camera: str, point: F64, size: tuple[int, int]) -> F64:
    """Projection from MuJoCo's own camera pose and field of view: x right, y up, looking along -z."""
    index = cell.model.camera(camera).id
    right, up, back = cell.data.cam_xmat[index].reshape(3, 3).T @ (point - cell.data.cam_xpos[index])
    half_height = math.tan(math.radians(cell.model.cam_fovy[index]) / 2) * -back
    v = (0.5 - 0.5 * up / half_height) * size[1] - 0.5
    return np.array([0.5 * size[0] + 0.5 * right / half_height * size[1] - 0.5, v])


@pytest.mark.parametrize("kind", SIZES)
def test_a_known_point_lands_where_the_camera_sees_it(kind: str) -> None:
    size, rng, worst = SIZES[kind], np.random.default_rng(5), 0.0
    cameras = tuple(dataclasses.replace(c, width_px=size[0], height_px=size[1]) for c in SPEC.cameras)
    spec = dataclasses.replace(SPEC, cameras=cameras)
    cell, layout = Cell(spec), t_pose_layout(spec)
    cell.data.qpos[cell._qpos_J] = spec.limit("home")
    mujoco.mj_forward(cell.model, cell.data)
    config: Any = SimpleNamespace(
        value_stride_px=STRIDE, canvas_height_px=layout.height_px, canvas_width_px=layout.width_px,
        views=[tile.rect for tile in layout.tiles],
    )
    painter = OverlayPainter(layout, STRIDE, style=Style(alpha=1.0))
    grey = np.full((size[1], size[0], 3), 90, np.uint8)
    rows, columns = np.mgrid[: size[1], : size[0]]
    seen = dict.fromkeys(layout.cameras, 0)
    for _ in range(60):
        point = np.array([rng.uniform(-0.1, 0.32), rng.uniform(-0.25, 0.25), rng.uniform(0.0, 0.1)])
        for camera in layout.cameras:
            direct = seen_directly(cell, camera, point, size)
            label = project(point, cell.camera_model(camera), layout, visible=True)
            view = layout.tile(camera).content
            left, top = (float(x) for x in layout.camera_to_canvas(camera, direct)) if label[3] else (0.0, 0.0)
            room = min(left - view.x_px, view.x_px + view.width_px - left, top - view.y_px,
                       view.y_px + view.height_px - top)
            if not label[3] or room < 3.5 * label[2] or seen[camera] >= 3:  # the whole blob is in view
                continue
            seen[camera] += 1
            events = torch.zeros(1, 1, len(layout.tiles), 4)
            events[0, 0, layout.cameras.index(camera)] = torch.from_numpy(label[:4])
            values = value_target(events, config).map[0].numpy()
            value_map = ValueMap(0, layout.layout_hash, STRIDE, values,
                                 (LandingPoint(camera, 0, float(label[0]), float(label[1]), 0.9),))
            raw = ValueProjector(layout, STRIDE).project(value_map, camera, 0).astype(float)
            centre = np.array([(raw * columns).sum(), (raw * rows).sum()]) / raw.sum()
            dark = dataclasses.replace(value_map, values_EHW=np.zeros_like(values))
            weight = np.abs(painter.paint(camera, grey, dark).astype(int) - 90).sum(axis=-1)
            mark = np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()
            worst = max(worst, *(float(np.hypot(*(found - direct))) for found in (centre, mark)))
    assert min(seen.values()) >= 1, seen
    assert worst <= 1.5, worst


def test_one_ray_meets_the_surface_and_two_triangulate() -> None:
    down = Ray(np.array([0.1, 0.2, 1.0]), np.array([0.0, 0.0, -1.0]), 0.8)
    np.testing.assert_allclose(locate([down], 0.03), [0.1, 0.2, 0.03], atol=1e-9)
    slope = np.array([0.6, 0.0, -0.8])
    np.testing.assert_allclose(locate([Ray(np.array([0, 0, 0.8]), slope, 1.0)], 0.0), [0.6, 0.0, 0.0], atol=1e-9)
    point = np.array([0.2, -0.1, 0.25])  # high above the surface: both views see it there
    origins = (np.array([0.0, 0.0, 0.8]), np.array([0.6, -0.5, 0.3]), np.array([-0.4, 0.3, 0.5]))
    rays = [Ray(o, (point - o) / np.linalg.norm(point - o), 1.0) for o in origins]
    np.testing.assert_allclose(locate(rays, 0.25), point, atol=1e-9)
    assert np.linalg.norm(locate(rays, 0.0) - point) < 0.03


def test_no_ray_and_a_ray_along_the_surface_give_no_point() -> None:
    assert locate([], 0.0) is None
    assert locate([Ray(np.array([0.0, 0.0, 0.5]), np.array([1.0, 0.0, 0.0]), 1.0)], 0.0) is None


def test_a_pixel_s_ray_passes_through_the_point_that_it_shows() -> None:
    cell, rng = Cell(SPEC), np.random.default_rng(2)
    mujoco.mj_forward(cell.model, cell.data)
    for camera in ("head", "left_wrist"):
        model = cell.camera_model(camera)
        for _ in range(5):
            point = model.T_world_cam[:3, :3] @ np.array([*rng.uniform(-0.1, 0.1, 2), 0.4]) + model.T_world_cam[:3, 3]
            u_px, v_px = seen_directly(cell, camera, point, (model.width_px, model.height_px))
            ray = ray_of(model, u_px, v_px, 1.0)
            to_point = point - ray.origin_m
            assert np.linalg.norm(np.cross(ray.direction, to_point)) < 1e-9
            assert ray.direction @ to_point > 0


def test_the_imagined_waits_for_its_time_and_is_compared_once() -> None:
    pairs = ImaginedPairs(800, 30)
    black = np.zeros((4, 6, 3), np.uint8)
    for made in (0, 100, 400):
        pairs.imagined(made, black + made // 4)
    assert pairs.real(700) is None
    assert pairs.real(790).made_ns == 0
    assert pairs.real(800) is None, "once"
    assert pairs.real(1215).made_ns == 400, "what was imagined for 900 found no picture"
    picture, apart = compare(black, black + 30)
    assert apart == 30.0
    assert picture.shape == (26 + 8, 3 * 12 + 2 * 6, 3)
    assert (picture[26:, :12] == 0).all()
    assert (picture[26:, 18:30] == 30).all()
    assert beside([("one", black)]).shape == (34, 12, 3)


def test_a_canvas_with_a_black_tile_is_not_whole() -> None:
    layout = t_pose_layout(SPEC)
    canvas = np.random.default_rng(0).integers(0, 256, (layout.height_px, layout.width_px, 3), dtype=np.uint8)
    assert whole(layout, canvas)
    for tile in layout.tiles:
        late = canvas.copy()
        late[tile.rect.slices] = 0
        assert not whole(layout, late)
