"""Depth of the simulator against its own rays, by way of the canvas and the back-projection of the attention."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
from wam_kit import CONFIG, LAYOUT, SPEC

from starry_ros.canvas.depth import depth_cells, pack_depth
from starry_ros.sim.cell import BlockPose, Cell, Layout
from starry_ros.sim.raycast import RayCaster
from starry_ros.training.scenes import metres, observe_scene
from starry_ros.wam.gasam import CellGrid, back_project, canvas_intrinsics, scene_of
from starry_ros.wam.options import GeometryConfig

BLOCKS = {"red": BlockPose(0.10, -0.10, 0.3), "green": BlockPose(0.20, 0.05, 0.0), "blue": BlockPose(0.15, -0.02, 1.0)}


@pytest.fixture(scope="module")
def cell() -> Iterator[Cell]:
    made = Cell(SPEC)
    made.reset(Layout(BLOCKS, 0.2, -0.1))
    yield made
    made.close()


def test_every_cell_back_projects_to_where_a_ray_hits(cell: Cell) -> None:
    seen = observe_scene(cell, LAYOUT)
    cameras = [cell.camera_model(camera) for camera in LAYOUT.cameras]
    scene = scene_of(depth_cells(metres(seen["depth_THW"]), 8), cameras, seen["hands_TA3"], LAYOUT)
    grid = CellGrid(dataclasses.replace(CONFIG, geometry=GeometryConfig()))
    points, valid = (tensor[0].numpy() for tensor in back_project(scene, grid))
    errors = []
    for view, camera in enumerate(cameras):
        origin = camera.T_world_cam[:3, 3]
        for row, column in np.argwhere(valid & (grid.view_VYX[view].numpy() > 0))[::7]:
            point = points[row, column].astype(np.float64)
            errors.append(abs(cell.first_hit(origin, point)[1] - np.linalg.norm(point - origin)))
    assert len(errors) > 30
    assert np.median(errors) < 0.004
    assert np.mean(np.array(errors) < 0.02) > 0.85, "edges are half a pixel wide, surfaces are not"
    np.testing.assert_allclose(seen["hands_TA3"][1], cell.pinch_position("right"), atol=1e-6)
    np.testing.assert_allclose(seen["camera_V4"][0], canvas_intrinsics(cameras[0], LAYOUT), rtol=1e-6)


def test_rays_and_renderer_see_the_same_depth(cell: Cell) -> None:
    caster = RayCaster(cell.model, 240, 320)
    caster.update_scene(cell.data, "head")
    caster.enable_depth_rendering()
    rays = np.where(np.isfinite(caster.render()), caster.render(), 0.0)
    drawn = cell.depth("head")
    both = (rays > 0) & (drawn > 0)
    assert both.mean() > 0.5
    assert np.median(np.abs(rays - drawn)[both]) < 0.005
    caster.disable_depth_rendering()
    assert caster.render().dtype == np.uint8
    packed = pack_depth(LAYOUT, {"head": drawn})
    assert packed[LAYOUT.tiles[0].content.slices].max() <= drawn.max()
