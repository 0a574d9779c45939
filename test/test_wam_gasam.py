"""Geometry-aware attention: closed forms, naive loops, and w = 1 is exactly the plain model."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from test_wam_visibility import CONFIG, make
from wam_kit import LAYOUT

from starry_ros.errors import ConfigError, InputError
from starry_ros.types import CameraModel
from starry_ros.wam.autoencoder import Autoencoder, AutoencoderConfig
from starry_ros.wam.config import WamConfig
from starry_ros.wam.gasam import (
    CellGrid,
    Scene,
    back_project,
    biased,
    canvas_intrinsics,
    cell_weights,
    distances,
    log_bias,
    moved,
    scene_arrays,
    scene_of,
    token_weights,
)
from starry_ros.wam.geometry import GeometryExpert, geometry_losses
from starry_ros.wam.layers import Keys
from starry_ros.wam.model import Ropes, WorldActionModel
from starry_ros.wam.options import GeometryConfig
from starry_ros.wam.runtimes.base import Noise
from starry_ros.wam.runtimes.runner import GraphRunner
from starry_ros.wam.runtimes.torch_runtime import torch_runtime

GEOMETRY = GeometryConfig(mode="measured", cell_px=8, width=16, feed_forward=16)
SHAPE = dataclasses.replace(CONFIG, layers=2, geometry=GEOMETRY)
GRID = CellGrid(SHAPE)


def make_scene(seed: int = 0, batch: int = 2, empty: float = 0.2) -> Scene:
    rng = np.random.default_rng(seed)
    depth = rng.uniform(0.1, 1.0, (batch, 12, 8)) * (rng.random((batch, 12, 8)) > empty)
    intrinsics = np.stack([rng.uniform(40, 60, (batch, 3)), rng.uniform(40, 60, (batch, 3)),
                           rng.uniform(10, 50, (batch, 3)), rng.uniform(10, 80, (batch, 3))], axis=-1)
    poses = np.tile(np.eye(4), (batch, 3, 1, 1))
    for b, v in np.ndindex(batch, 3):
        q, _ = np.linalg.qr(rng.standard_normal((3, 3)))
        poses[b, v, :3, :3], poses[b, v, :3, 3] = q * np.sign(np.linalg.det(q)), rng.uniform(-0.5, 0.5, 3)
    hands = rng.uniform(-0.5, 0.5, (batch, 2, 3))
    return Scene(*(torch.from_numpy(np.float32(array)) for array in (depth, intrinsics, poses, hands)))


def view_at(row: int, column: int) -> int:
    """Index of the view whose tile holds the centre of a cell."""
    u, v = 8 * column + 3.5, 8 * row + 3.5
    (found,) = [i for i, w in enumerate(SHAPE.views)
                if w.x_px <= u < w.x_px + w.width_px and w.y_px <= v < w.y_px + w.height_px]
    return found


def test_points_distances_weights_and_bias_are_what_a_naive_loop_gives() -> None:
    scene = make_scene()
    points, valid = back_project(scene, GRID)
    gaps = distances(points, scene.hands_BA3)
    weights, tokens = cell_weights(scene, GRID, GEOMETRY), token_weights(scene, GRID, GEOMETRY)
    bias = log_bias(tokens, GEOMETRY)
    for b in range(2):
        wanted = np.ones((12, 8))
        for row, column in np.ndindex(12, 8):
            view, z = view_at(row, column), float(scene.depth_BYX[b, row, column])
            fx, fy, cx, cy = (float(number) for number in scene.intrinsics_BV4[b, view])
            pose = scene.pose_BV44[b, view].double().numpy()
            ray = np.array([(8 * column + 3.5 - cx) / fx * z, (8 * row + 3.5 - cy) / fy * z, z, 1.0])
            point = (pose @ ray)[:3]
            assert bool(valid[b, row, column]) == (z > 0)
            np.testing.assert_allclose(points[b, row, column], point, atol=1e-5)
            far = [math.dist(point, hand) for hand in scene.hands_BA3[b].tolist()]
            np.testing.assert_allclose(gaps[b, :, row, column], far, atol=1e-5)
            if z > 0:
                wanted[row, column] = math.exp(-min(far) ** 2 / (2 * 0.1**2))
        np.testing.assert_allclose(weights[b], wanted, atol=1e-5)
        for token in range(6):
            row, column = divmod(token, 2)
            best = wanted[4 * row : 4 * row + 4, 4 * column : 4 * column + 4].max()
            assert float(tokens[b, token]) == pytest.approx(best, abs=1e-5)
            assert float(bias[b, 0, 0, token]) == pytest.approx(math.log((best + 0.01) / 1.01), abs=1e-4)


def test_a_camera_that_looks_straight_down_sees_a_table_in_closed_form() -> None:
    """Camera 1 m above the origin, x to the right, y towards the viewer: u and v are metres on the table, scaled."""
    pose = np.diag([1.0, -1.0, -1.0, 1.0])
    pose[2, 3] = 1.0
    scene = Scene(torch.ones(1, 12, 8), torch.tensor([50.0, 50.0, 31.5, 31.5]).expand(1, 3, 4),
                  torch.from_numpy(np.float32(pose)).expand(1, 3, 4, 4), torch.tensor([[[0.0, 0, 0.3], [9, 9, 9]]]))
    points, valid = back_project(scene, GRID)
    assert valid.all()
    torch.testing.assert_close(points[..., 2], torch.zeros(1, 12, 8), atol=1e-6, rtol=0)
    torch.testing.assert_close(points[0, 0, :, 0], (torch.arange(8) * 8 + 3.5 - 31.5) / 50)
    torch.testing.assert_close(points[0, :, 0, 1], -(torch.arange(12) * 8 + 3.5 - 31.5) / 50)
    near = distances(points, scene.hands_BA3)[0, 0]
    torch.testing.assert_close(near, (points[0, ..., 0] ** 2 + points[0, ..., 1] ** 2 + 0.09).sqrt())


def test_intrinsics_on_the_canvas_project_where_the_layout_says() -> None:
    rng = np.random.default_rng(3)
    for tile in LAYOUT.tiles:
        camera = CameraModel(tile.camera, 320, 240, 210.0, 205.0, 155.5, 121.5, np.eye(4))
        fx, fy, cx, cy = canvas_intrinsics(camera, LAYOUT)
        for x, y, z in rng.uniform([-0.2, -0.2, 0.3], [0.2, 0.2, 1.0], (5, 3)):
            uv = [[210 * x / z + 155.5, 205 * y / z + 121.5]]
            np.testing.assert_allclose([[fx * x / z + cx, fy * y / z + cy]],
                                       LAYOUT.camera_to_canvas(tile.camera, uv), atol=1e-9)
    cameras = [CameraModel(tile.camera, 320, 240, 210.0, 205.0, 155.5, 121.5, np.eye(4)) for tile in LAYOUT.tiles]
    scene = scene_of(np.ones((24, 20), np.float32), cameras, np.zeros((2, 3), np.float32), LAYOUT)
    assert {name: array.shape for name, array in scene_arrays(scene).items()} == {
        "depth": (1, 24, 20), "intrinsics": (1, 3, 4), "poses": (1, 3, 4, 4), "hands": (1, 2, 3)}


def test_a_carried_camera_moves_with_its_hand_and_a_standing_one_does_not() -> None:
    scene = make_scene()
    hands = scene.hands_BA3 + torch.tensor([[0.1, 0, 0], [0, 0, -0.2]])
    then = moved(scene, scene.depth_BYX, hands, (-1, 0, 1))
    for view, step in enumerate(([0.0, 0, 0], [0.1, 0, 0], [0, 0, -0.2])):
        wanted = scene.pose_BV44[:, view].clone()
        wanted[:, :3, 3] += torch.tensor(step)
        torch.testing.assert_close(then.pose_BV44[:, view], wanted)


def runner(config: WamConfig, model: WorldActionModel) -> GraphRunner:
    torch.manual_seed(1)
    made = torch_runtime(model, Autoencoder(AutoencoderConfig(96, 64, 4, (8, 8, 8))).eval())
    rng = np.random.default_rng(2)
    made.set_text(rng.standard_normal((6, 10), dtype=np.float32), np.ones(6, np.float32))
    made.observe(rng.integers(0, 256, (96, 64, 3), dtype=np.uint8), 0)
    made.commit(rng.standard_normal((4, 3), dtype=np.float32), np.ones(4, np.float32))
    made.observe(rng.integers(0, 256, (96, 64, 3), dtype=np.uint8), 4)
    return made


def noise(config: WamConfig) -> Noise:
    rng = np.random.default_rng(5)
    return Noise(*(rng.standard_normal((1, *shape), dtype=np.float32) for shape in (
        (config.frame_tokens, config.latent_token_width), (config.frame_tokens, config.value_token_width), (5, 3))))


@pytest.mark.parametrize("mode", ["measured", "predicted"])
@pytest.mark.parametrize("coupling", ["intent_causal", "joint"])
def test_with_all_weights_one_it_is_the_plain_model_and_else_only_the_actions_change(mode: str, coupling: str) -> None:
    config = dataclasses.replace(SHAPE, coupling=coupling, geometry=dataclasses.replace(GEOMETRY, mode=mode))
    model = make(config)
    plain_config = dataclasses.replace(config, geometry=None)
    plain = WorldActionModel(plain_config).eval()
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if "geometry" not in name})
    state = np.zeros(3, np.float32)
    wanted = runner(plain_config, plain).predict(noise(config), state)
    ours = runner(config, model)
    with pytest.raises(InputError, match="scene is unknown"):
        ours.predict(noise(config), state)
    nothing_known = make_scene(batch=1, empty=1.1)
    ours.look(scene_arrays(nothing_known))
    same = ours.predict(noise(config), state)
    np.testing.assert_allclose(same.actions_KJ, wanted.actions_KJ, atol=2e-6)
    np.testing.assert_array_equal(same.map_EYX if coupling == "intent_causal" else 0,
                                  wanted.map_EYX if coupling == "intent_causal" else 0)
    ours.look(scene_arrays(make_scene(batch=1, empty=0.0)))
    other = ours.predict(noise(config), state)
    assert np.abs(other.actions_KJ - wanted.actions_KJ).max() > 1e-4
    if coupling == "intent_causal":
        np.testing.assert_array_equal(other.map_EYX, wanted.map_EYX)
        np.testing.assert_array_equal(other.latents, wanted.latents)


def test_no_bias_is_exactly_zero_at_weight_one_and_keys_beyond_the_grid_keep_theirs() -> None:
    assert not log_bias(torch.ones(2, 6), GEOMETRY).any()
    k = torch.randn(1, 2, 7, 12)
    keys = biased(Keys([(k, k)]), torch.full((1, 1, 1, 6), -2.0))
    assert keys.bias is not None
    assert keys.bias.flatten().tolist() == [-2.0] * 6 + [0.0]
    assert biased(keys, torch.full((1, 1, 1, 7), -1.0)).bias.flatten().tolist() == [-3.0] * 6 + [-1.0]  # type: ignore[union-attr]


def test_the_expert_starts_from_what_is_measured_reads_both_times_and_learns() -> None:
    torch.manual_seed(0)
    expert = GeometryExpert(SHAPE)
    scene, rope = make_scene(), Ropes(SHAPE).future(4)
    half = torch.full((2,), 0.5)
    with torch.no_grad():
        seen = expert(scene, half, half, rope, {})
    torch.testing.assert_close(seen.hands_BA3, scene.hands_BA3)
    known = scene.depth_BYX > 0
    torch.testing.assert_close(seen.depth_BYX[known], scene.depth_BYX[known], atol=1e-5, rtol=1e-5)
    target = make_scene(seed=1)
    terms = geometry_losses(expert, scene, seen, target)
    weights = [token_weights(s, GRID, GEOMETRY) for s in (moved(scene, scene.depth_BYX, scene.hands_BA3, (-1, 0, 1)),
                                                          target)]
    assert float(terms["weight"]) == pytest.approx(float((weights[0] - weights[1]).square().mean()), rel=1e-4)
    pose = (scene.hands_BA3 - target.hands_BA3).numpy() / 0.1
    assert float(terms["pose"]) == pytest.approx(float((pose**2).mean()), rel=1e-4)
    both = (known & (target.depth_BYX > 0)).numpy()
    ratio = np.log(target.depth_BYX.numpy()[both] / scene.depth_BYX.numpy()[both])
    blind = (~known & (target.depth_BYX > 0)).numpy()
    total = np.abs(ratio).sum() + np.abs(np.log(target.depth_BYX.numpy()[blind] / 0.5)).sum()
    assert float(terms["depth"]) == pytest.approx(total / (both.sum() + blind.sum()), rel=1e-4)
    optimiser = torch.optim.Adam(expert.parameters(), 1e-2)
    first = None
    for _ in range(12):
        loss = sum(geometry_losses(expert, scene, expert(scene, half, half, rope, {}), target).values())
        first = float(loss.detach()) if first is None else first
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < first
    with torch.no_grad():
        for s_v, s_a in ((0.1, 0.5), (0.5, 0.1)):
            other = expert(scene, torch.full((2,), s_v), torch.full((2,), s_a), rope, {})
            assert (other.hands_BA3 - expert(scene, half, half, rope, {}).hands_BA3).abs().max() > 1e-7


def test_a_geometry_config_survives_json_and_bad_ones_are_refused() -> None:
    config = dataclasses.replace(SHAPE, geometry=dataclasses.replace(GEOMETRY, carriers=(0, -1, 1)), coupling="joint")
    assert WamConfig.from_json_dict(json.loads(json.dumps(config.to_json_dict()))) == config
    assert "geometry" not in CONFIG.to_json_dict()
    with pytest.raises(ConfigError, match="geometry mode"):
        GeometryConfig(mode="guessed")
    with pytest.raises(ConfigError, match="must be positive"):
        GeometryConfig(radius_m=0.0)
    with pytest.raises(ConfigError, match="coupling"):
        dataclasses.replace(CONFIG, coupling="loose")
    with pytest.raises(ConfigError, match="no geometry part"):
        CellGrid(CONFIG)
