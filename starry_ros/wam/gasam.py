"""Geometry-aware attention of the actions (STARRY's GASAM): look more where a hand is, or soon will be.

    depth, cameras -> points in the world -> distance d to each hand -> weight w = rho(d) -> token grid -> bias

Source: Attn(a <- v) = softmax(Q K^T / sqrt(d) + lambda log(w + eps)) V, on action queries and video keys alone. Where
the paper is silent we chose: rho(d) = exp(-d^2 / 2 r^2) with r = 0.1 m; the nearest of both hands counts; a token has
the largest weight of its cells; w = 1 where no depth is known (no view, depth half of an RGB-D canvas, no echo); every
layer; lambda = 1, eps = 0.01; value-map keys are biased like the frame they belong to. The bias is
lambda log((w + eps) / (1 + eps)): the same softmax over the biased keys, and exactly 0 at w = 1.

  measured   depth and hands of now   -> keys of the current frame and of the value map
  predicted  depth and hands to come  -> keys of the imagined frame (seen in joint coupling) and of the value map;
             the observed frame is the condition and keeps w = 1. A wrist camera is taken to move with its hand and to
             keep its direction.

Shapes: B batch, V views, A hands, Y x X cells of `cell_px` over the whole canvas, N tokens. Metres, world frame;
cameras as in `types.CameraModel`, intrinsics in CANVAS pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from starry_ros.canvas.layout import CanvasLayout
from starry_ros.errors import ConfigError
from starry_ros.types import F32, CameraModel
from starry_ros.wam.config import WamConfig
from starry_ros.wam.layers import Keys
from starry_ros.wam.options import GeometryConfig

_ARRAYS = ("depth", "intrinsics", "poses", "hands")


@dataclass
class Scene:
    """What the geometry knows of an instant: z-depth of cells (0 where unknown), cameras and hands."""

    depth_BYX: Tensor
    intrinsics_BV4: Tensor
    pose_BV44: Tensor
    hands_BA3: Tensor


def canvas_intrinsics(camera: CameraModel, layout: CanvasLayout) -> tuple[float, float, float, float]:
    """(fx, fy, cx, cy) of a camera whose image is scaled into its tile."""
    scale_u, scale_v = layout.tile(camera.camera).scale_xy
    (cx, cy), = layout.camera_to_canvas(camera.camera, [[camera.cx_px, camera.cy_px]])
    return camera.fx_px * float(scale_u), camera.fy_px * float(scale_v), float(cx), float(cy)


def scene_of(depth_YX: F32, cameras: Sequence[CameraModel], hands_A3: F32, layout: CanvasLayout) -> Scene:
    """One instant's scene, from depth cells, the cameras in tile order, and the hands' positions."""
    intrinsics = np.array([canvas_intrinsics(camera, layout) for camera in cameras], np.float32)
    poses = np.stack([camera.T_world_cam for camera in cameras]).astype(np.float32)
    arrays = (np.asarray(depth_YX, np.float32), intrinsics, poses, np.asarray(hands_A3, np.float32))
    return Scene(*(torch.from_numpy(array)[None] for array in arrays))


def geometry_of(config: WamConfig) -> GeometryConfig:
    """The geometry part of a configuration. Raises ConfigError if it has none."""
    if config.geometry is None:
        raise ConfigError("model config", "has no geometry part", fix="train with --geometry measured or predicted")
    return config.geometry


class CellGrid(nn.Module):
    """The cells of a canvas: their centres in pixels, the view each lies in, and the tokens they make up."""

    u_YX: Tensor
    v_YX: Tensor
    view_VYX: Tensor

    def __init__(self, config: WamConfig) -> None:
        super().__init__()
        size = geometry_of(config).cell_px
        if config.token_px % size:
            raise ConfigError("geometry", "cells do not fill a token", got=config.token_px, expected=f"n * {size}")
        self.per_token = config.token_px // size
        v, u = np.mgrid[: config.canvas_height_px // size, : config.canvas_width_px // size]
        u_px, v_px = (np.float32((index + 0.5) * size - 0.5) for index in (u, v))
        inside = [(u_px > w.x_px - 0.5) & (u_px < w.x_px + w.width_px - 0.5) & (v_px > w.y_px - 0.5)
                  & (v_px < w.y_px + w.height_px - 0.5) for w in config.views]
        self.register_buffer("u_YX", torch.from_numpy(u_px), persistent=False)
        self.register_buffer("v_YX", torch.from_numpy(v_px), persistent=False)
        self.register_buffer("view_VYX", torch.from_numpy(np.array(inside, np.float32)), persistent=False)

    def tokens(self, cells_BYX: Tensor) -> Tensor:
        """The largest of each token's cells [B, N], row by row."""
        return F.max_pool2d(cells_BYX[:, None], self.per_token).flatten(1)


def back_project(scene: Scene, grid: CellGrid) -> tuple[Tensor, Tensor]:
    """World points of all cells [B, Y, X, 3], and whether each has a depth [B, Y, X]."""
    view = grid.view_VYX
    fx, fy, cx, cy = torch.einsum("vyx,bvi->biyx", view, scene.intrinsics_BV4).unbind(1)
    z = scene.depth_BYX
    valid = (z > 0) & (view.sum(0) > 0)
    ray = torch.stack([(grid.u_YX - cx) / fx.clamp_min(1e-6), (grid.v_YX - cy) / fy.clamp_min(1e-6),
                       torch.ones_like(z)], dim=-1)
    pose = torch.einsum("vyx,bvij->byxij", view, scene.pose_BV44[:, :, :3])
    points = (pose[..., :3] @ (ray * z[..., None])[..., None])[..., 0] + pose[..., 3]
    return points, valid


def distances(points_BYX3: Tensor, hands_BA3: Tensor) -> Tensor:
    """Distance of every cell to every hand [B, A, Y, X] in m."""
    gap = points_BYX3[:, None] - hands_BA3[:, :, None, None]
    return gap.square().sum(-1).sqrt()


def cell_weights(scene: Scene, grid: CellGrid, geometry: GeometryConfig) -> Tensor:
    """w of every cell [B, Y, X] in (0, 1]."""
    points, valid = back_project(scene, grid)
    nearest = distances(points, scene.hands_BA3).amin(1)
    weight = torch.exp(-nearest.square() / (2 * geometry.radius_m**2))
    return torch.where(valid, weight, torch.ones_like(weight))


def token_weights(scene: Scene, grid: CellGrid, geometry: GeometryConfig) -> Tensor:
    """w of every token [B, N]."""
    return grid.tokens(cell_weights(scene, grid, geometry))


def log_bias(weights_BN: Tensor, geometry: GeometryConfig) -> Tensor:
    """Additive bias of keys [B, 1, 1, N]: 0 at w = 1, lambda log(eps / (1 + eps)) far away."""
    share = (weights_BN + geometry.floor) / (1 + geometry.floor)
    return (geometry.strength * share.log())[:, None, None, :]


def biased(keys: Keys, bias_B11N: Tensor) -> Keys:
    """The same keys, seen through a bias. Keys beyond the grid (a learned noise token) keep theirs."""
    extra = keys.layers[0][0].shape[2] - bias_B11N.shape[3]
    bias = F.pad(bias_B11N, (0, extra)) if extra else bias_B11N
    return Keys(keys.layers, bias if keys.bias is None else keys.bias + bias)


def moved(scene: Scene, depth_BYX: Tensor, hands_BA3: Tensor, carriers: Sequence[int]) -> Scene:
    """The scene to come: predicted depth and hands, and cameras carried along by their hands.

    `carriers` names each view's hand, -1 for a camera that stands.
    """
    shift = hands_BA3 - scene.hands_BA3
    steps = torch.stack([shift[:, hand] if hand >= 0 else torch.zeros_like(shift[:, 0]) for hand in carriers], dim=1)
    pose = torch.cat([scene.pose_BV44[..., :3], scene.pose_BV44[..., 3:] + F.pad(steps, (0, 1))[..., None]], dim=-1)
    return Scene(depth_BYX, scene.intrinsics_BV4, pose, hands_BA3)


def scene_arrays(scene: Scene) -> dict[str, F32]:
    """A scene as the arrays that runtimes take."""
    tensors = (scene.depth_BYX, scene.intrinsics_BV4, scene.pose_BV44, scene.hands_BA3)
    return {name: tensor.numpy() for name, tensor in zip(_ARRAYS, tensors, strict=True)}


def example_scene(config: WamConfig) -> dict[str, F32]:
    """A scene to try a model with: something half a metre before every camera, hands near it."""
    geometry = geometry_of(config)
    rows, columns = config.canvas_height_px // geometry.cell_px, config.canvas_width_px // geometry.cell_px
    views = len(config.views)
    arrays = (np.full((1, rows, columns), 0.5), np.tile([100.0, 100.0, 60.0, 60.0], (1, views, 1)),
              np.tile(np.eye(4), (1, views, 1, 1)), np.full((1, geometry.hands, 3), 0.4))
    return {name: array.astype(np.float32) for name, array in zip(_ARRAYS, arrays, strict=True)}


def measured_biases(config: WamConfig, grid: CellGrid, scene: dict[str, F32]) -> dict[str, F32]:
    """Inputs of the action stream for the scene of now; the imagined frame is not biased."""
    geometry = geometry_of(config)
    now = Scene(*(torch.from_numpy(np.ascontiguousarray(scene[name])) for name in _ARRAYS))
    bias = _flat_bias(token_weights(now, grid, geometry), geometry)
    return {"current_bias": bias, "value_bias": bias, "future_bias": np.zeros_like(bias)}


def predicted_biases(config: WamConfig, foreseen: dict[str, F32]) -> dict[str, F32]:
    """Inputs of the action stream for the scene to come; the observed frame is the condition and keeps w = 1."""
    bias = _flat_bias(torch.from_numpy(foreseen["future_weights"]), geometry_of(config))
    return {"current_bias": np.zeros_like(bias), "value_bias": bias, "future_bias": bias}


def _flat_bias(weights_BN: Tensor, geometry: GeometryConfig) -> F32:
    bias: F32 = log_bias(weights_BN, geometry)[:, 0, 0].numpy()
    return bias
