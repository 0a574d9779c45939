"""Canvas geometry: tiles, letterboxing, the exact inverse, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from starry_ros.canvas.layout import CanvasLayout, Rect, t_pose_layout
from starry_ros.errors import ContractError, InputError
from starry_ros.robot_spec import RobotSpec, load_robot_spec
from starry_ros.types import F64, CameraModel

SPEC = load_robot_spec(Path(__file__).parents[1] / "config" / "robots" / "bimanual_sim.yaml")
SIZES = ((320, 240), (640, 480), (641, 479), (480, 640), (1280, 720), (1920, 1080), (97, 31), (31, 97), (160, 128))


def spec_with(
    canvas_hw: tuple[int, int] = (192, 160), camera_wh: tuple[int, int] = (320, 240), token: int = 16
) -> RobotSpec:
    """The shipped contract with another canvas or camera size."""
    spec = SPEC
    canvas = dataclasses.replace(spec.canvas, height_px=canvas_hw[0], width_px=canvas_hw[1], token_px=token)
    cameras = tuple(dataclasses.replace(c, width_px=camera_wh[0], height_px=camera_wh[1]) for c in spec.cameras)
    return dataclasses.replace(spec, canvas=canvas, cameras=cameras)


def rects(layout: CanvasLayout) -> dict[str, Rect]:
    return {tile.camera: tile.rect for tile in layout.tiles}


def test_the_shipped_canvas_has_the_head_above_two_wrists_of_half_its_size() -> None:
    layout = t_pose_layout(SPEC)
    assert rects(layout) == {
        "head": Rect(0, 0, 160, 128), "left_wrist": Rect(0, 128, 80, 64), "right_wrist": Rect(80, 128, 80, 64),
    }
    assert [tile.content for tile in layout.tiles] == [
        Rect(0, 4, 160, 120), Rect(0, 130, 80, 60), Rect(80, 130, 80, 60),
    ]


def test_a_canvas_of_384_by_320_has_tiles_of_256_by_320_and_128_by_160() -> None:
    layout = t_pose_layout(spec_with((384, 320), (640, 480), token=32))
    assert rects(layout) == {
        "head": Rect(0, 0, 320, 256), "left_wrist": Rect(0, 256, 160, 128), "right_wrist": Rect(160, 256, 160, 128),
    }


def test_tiles_cover_every_canvas_pixel_once_and_contain_their_views() -> None:
    for camera_wh in SIZES:
        layout = t_pose_layout(spec_with(camera_wh=camera_wh))
        count = np.zeros((layout.height_px, layout.width_px), int)
        for tile in layout.tiles:
            count[tile.rect.slices] += 1
            r, c = tile.rect, tile.content
            assert r.x_px <= c.x_px
            assert c.x_px + c.width_px <= r.x_px + r.width_px
            assert c.width_px >= 1
            assert r.y_px <= c.y_px
            assert c.y_px + c.height_px <= r.y_px + r.height_px
            assert c.height_px >= 1
            assert c.width_px == r.width_px or c.height_px == r.height_px, "the view fills its tile along one axis"
            left, right = c.x_px - r.x_px, r.x_px + r.width_px - c.x_px - c.width_px
            top, bottom = c.y_px - r.y_px, r.y_px + r.height_px - c.y_px - c.height_px
            assert {right - left, bottom - top} <= {0, 1}, "the view is centred"
            ideal = min(r.width_px / camera_wh[0], r.height_px / camera_wh[1])
            assert abs(c.width_px - max(1, ideal * camera_wh[0])) <= 0.5
            assert abs(c.height_px - max(1, ideal * camera_wh[1])) <= 0.5
        assert (count == 1).all()


def test_the_inverse_is_exact_and_corners_meet_corners() -> None:
    rng = np.random.default_rng(0)
    for camera_wh in SIZES:
        layout = t_pose_layout(spec_with(camera_wh=camera_wh))
        for tile in layout.tiles:
            uv_N2 = rng.uniform(-50, 700, (500, 2))
            there = layout.camera_to_canvas(tile.camera, uv_N2)
            assert np.abs(layout.canvas_to_camera(tile.camera, there) - uv_N2).max() < 1e-9
            ends = np.array([[-0.5, -0.5], [camera_wh[0] - 0.5, camera_wh[1] - 0.5]])
            c = tile.content
            expected = [[c.x_px - 0.5, c.y_px - 0.5], [c.x_px + c.width_px - 0.5, c.y_px + c.height_px - 0.5]]
            np.testing.assert_allclose(layout.camera_to_canvas(tile.camera, ends), expected, atol=1e-12)


def look_at(position: F64, target: F64, width: int, height: int, name: str) -> CameraModel:
    """A pinhole camera at `position` whose optical axis passes through `target`."""
    z = (target - position) / np.linalg.norm(target - position)
    x = np.cross(z, [0.3, 0.1, 1.0])
    x /= np.linalg.norm(x)
    pose = np.eye(4)
    pose[:3, :4] = np.column_stack([x, np.cross(z, x), z, position])
    focal, centre_u, centre_v = 0.9 * width, (width - 1) / 2 + 3.3, (height - 1) / 2 - 2.1
    return CameraModel(name, width, height, focal, focal, centre_u, centre_v, pose)


def project(camera: CameraModel, point: F64) -> F64:
    """Textbook pinhole projection."""
    x, y, z, _ = np.linalg.inv(camera.T_world_cam) @ [*point, 1.0]
    return np.array([camera.fx_px * x / z + camera.cx_px, camera.fy_px * y / z + camera.cy_px])


def test_a_projected_point_lands_on_the_canvas_and_back_within_a_billionth_of_a_pixel() -> None:
    rng = np.random.default_rng(1)
    for camera_wh in SIZES:
        layout = t_pose_layout(spec_with(camera_wh=camera_wh))
        for tile in layout.tiles:
            for _ in range(20):
                target = rng.uniform(-0.3, 0.3, 3)
                camera = look_at(rng.uniform(1, 2, 3), target, *camera_wh, tile.camera)
                uv = project(camera, target + rng.uniform(-0.02, 0.02, 3))
                on_canvas = layout.camera_to_canvas(tile.camera, uv)
                s = tile.content.width_px / camera_wh[0], tile.content.height_px / camera_wh[1]
                naive = tile.content.x_px + (uv[0] + 0.5) * s[0] - 0.5, tile.content.y_px + (uv[1] + 0.5) * s[1] - 0.5
                np.testing.assert_allclose(on_canvas, naive, atol=1e-9)
                assert np.abs(layout.canvas_to_camera(tile.camera, on_canvas) - uv).max() < 1e-9


def test_the_hash_follows_the_geometry_and_nothing_else() -> None:
    spec = spec_with()
    layout = t_pose_layout(spec)
    other_joint = dataclasses.replace(spec, description="x", name="other", arm_distance_m=0.1)
    assert t_pose_layout(other_joint).layout_hash == layout.layout_hash
    shuffled = dataclasses.replace(spec, cameras=spec.cameras[::-1])
    assert t_pose_layout(shuffled).layout_hash == layout.layout_hash, "cameras are matched by role"
    others = [spec_with((384, 320)), spec_with(camera_wh=(640, 480)), spec_with(camera_wh=(641, 480))]
    hashes = {t_pose_layout(s).layout_hash for s in others} | {layout.layout_hash}
    assert len(hashes) == 4
    assert all(len(h) == 16 and json.loads(f'"{h}"') for h in hashes)


@pytest.mark.parametrize(
    ("canvas_hw", "token", "field"),
    [
        ((192, 160), 32, "width_px"), ((200, 160), 16, "height_px"),
        ((192, 150), 16, "width_px"), ((0, 160), 16, "height_px"),
    ],
)
def test_a_size_whose_tile_borders_cut_a_token_is_refused(canvas_hw: tuple[int, int], token: int, field: str) -> None:
    with pytest.raises(ContractError, match=rf"bimanual_sim: canvas\.{field}: puts a tile border.*Fix: use"):
        t_pose_layout(spec_with(canvas_hw, token=token))


def test_the_size_that_the_message_proposes_is_accepted() -> None:
    rng = np.random.default_rng(2)
    for _ in range(200):
        hw, token = (int(rng.integers(1, 500)), int(rng.integers(1, 500))), int(rng.integers(1, 40))
        step_h, step_w = 3 * token, 2 * token
        fine = hw[0] % step_h == 0 and hw[1] % step_w == 0
        try:
            layout = t_pose_layout(spec_with(hw, token=token))
        except ContractError as error:
            assert not fine
            below, above = (int(word) for word in error.fix.split(",")[0].removeprefix("use ").split(" or "))
            step = step_h if "height_px" in error.where else step_w
            assert below % step == 0
            assert above % step == 0
            assert below >= step
        else:
            assert fine
            for tile in layout.tiles:
                edges = (tile.rect.x_px, tile.rect.y_px, tile.rect.width_px, tile.rect.height_px)
                assert all(edge % token == 0 for edge in edges)


def test_a_missing_role_an_unknown_layout_and_an_unknown_camera_are_refused() -> None:
    spec = spec_with()
    with pytest.raises(ContractError, match="no camera has the role left_wrist"):
        t_pose_layout(dataclasses.replace(spec, cameras=(spec.cameras[0], spec.cameras[2])))
    with pytest.raises(ContractError, match=r"canvas\.layout: is unknown"):
        t_pose_layout(dataclasses.replace(spec, canvas=dataclasses.replace(spec.canvas, layout="row")))
    with pytest.raises(ContractError, match="token_px"):
        t_pose_layout(spec_with(token=0))
    layout = t_pose_layout(spec)
    with pytest.raises(InputError, match="no camera named 'rear'"):
        layout.tile("rear")
    with pytest.raises(InputError, match="not pairs"):
        layout.camera_to_canvas("head", [1.0, 2.0, 3.0])


def test_points_may_have_any_leading_axes() -> None:
    layout = t_pose_layout(spec_with())
    assert layout.camera_to_canvas("head", (1.0, 2.0)).shape == (2,)
    assert layout.camera_to_canvas("head", np.zeros((4, 5, 2))).shape == (4, 5, 2)
