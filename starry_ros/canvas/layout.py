"""T-pose canvas: where each camera's view lies, and the exact way back.

    +-----------------+   head tile: full width, two thirds of the height
    |      head       |
    +--------+--------+   wrist tiles: half the head tile's size, side by side
    |  left  | right  |
    +--------+--------+

Each view keeps its aspect and is centred in its tile (its `content`); the rest of the tile is the fill colour.
All rectangles are integers in canvas pixels. Pixel centres are integers, so along each axis

    u_canvas = x0 + (u_camera + 0.5) * scale - 0.5        scale = content size / camera size.

Shapes: N points; `uv_N2` holds columns u (right) and v (down) in pixels. Leading axes may be any.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from starry_ros.errors import ContractError, InputError
from starry_ros.robot_spec import CameraSpec, CanvasSpec, RobotSpec
from starry_ros.types import F64

LAYOUTS = ("t_pose",)


@dataclass(frozen=True)
class Rect:
    """Integer rectangle: left column, top row, width, height in pixels."""

    x_px: int
    y_px: int
    width_px: int
    height_px: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index (rows, columns) of this rectangle in an image."""
        return slice(self.y_px, self.y_px + self.height_px), slice(self.x_px, self.x_px + self.width_px)


@dataclass(frozen=True)
class Tile:
    """One camera on the canvas: its tile, the part of it that the view covers, and the camera's own size."""

    camera: str
    role: str
    rect: Rect
    content: Rect
    camera_width_px: int
    camera_height_px: int

    @property
    def scale_xy(self) -> F64:
        """Canvas pixels per camera pixel along u and v; equal up to the rounding of `content` to whole pixels."""
        return np.array(
            [self.content.width_px / self.camera_width_px, self.content.height_px / self.camera_height_px]
        )

    @property
    def origin_xy(self) -> F64:
        """Upper left corner of `content` in canvas pixels."""
        return np.array([self.content.x_px, self.content.y_px], dtype=np.float64)


@dataclass(frozen=True)
class CanvasLayout:
    """Geometry of a canvas. Built by `t_pose_layout`."""

    name: str
    height_px: int
    width_px: int
    tiles: tuple[Tile, ...]

    @cached_property
    def layout_hash(self) -> str:
        """First 16 hex digits of SHA-256 over the canonical JSON of the geometry."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def cameras(self) -> tuple[str, ...]:
        """Camera names in tile order."""
        return tuple(tile.camera for tile in self.tiles)

    def tile(self, camera: str) -> Tile:
        """The tile of one camera; InputError if the canvas has no such camera."""
        for tile in self.tiles:
            if tile.camera == camera:
                return tile
        raise InputError("canvas", f"no camera named {camera!r}", expected=list(self.cameras))

    def camera_to_canvas(self, camera: str, uv_N2: ArrayLike) -> F64:
        """Camera pixels to canvas pixels."""
        tile = self.tile(camera)
        return tile.origin_xy + (_points(uv_N2) + 0.5) * tile.scale_xy - 0.5

    def canvas_to_camera(self, camera: str, uv_N2: ArrayLike) -> F64:
        """Canvas pixels to camera pixels: the exact inverse. Points outside the tile land outside the image."""
        tile = self.tile(camera)
        return (_points(uv_N2) + 0.5 - tile.origin_xy) / tile.scale_xy - 0.5


def t_pose_layout(spec: RobotSpec) -> CanvasLayout:
    """Layout of the robot's canvas.

    Raises ContractError if a role lacks its camera or a tile border does not fall on a token border.
    """
    where = f"{spec.name}: canvas"
    if spec.canvas.layout not in LAYOUTS:
        raise ContractError(f"{where}.layout", "is unknown", got=repr(spec.canvas.layout), expected=list(LAYOUTS))
    _check_size(spec.canvas, where)
    head_height, wrist_width = spec.canvas.height_px * 2 // 3, spec.canvas.width_px // 2
    wrist_height = spec.canvas.height_px - head_height
    rects = {
        "head": Rect(0, 0, spec.canvas.width_px, head_height),
        "left_wrist": Rect(0, head_height, wrist_width, wrist_height),
        "right_wrist": Rect(wrist_width, head_height, wrist_width, wrist_height),
    }
    tiles = tuple(_tile(_camera_of(role, spec.cameras, where), rect) for role, rect in rects.items())
    return CanvasLayout(spec.canvas.layout, spec.canvas.height_px, spec.canvas.width_px, tiles)


def _check_size(canvas: CanvasSpec, where: str) -> None:
    """The wrists are half the head's size and every tile border falls on a token border."""
    token = canvas.token_px
    if token < 1:
        raise ContractError(f"{where}.token_px", "is not positive", got=token, expected="> 0")
    for name, size, parts in (("height_px", canvas.height_px, 3), ("width_px", canvas.width_px, 2)):
        step = parts * token
        if size < step or size % step:
            below = max(size // step, 1) * step
            raise ContractError(
                f"{where}.{name}", f"puts a tile border inside a token of {token} px",
                got=size, expected=f"a multiple of {step}", fix=f"use {below} or {below + step}, or a smaller token_px",
            )


def _camera_of(role: str, cameras: Sequence[CameraSpec], where: str) -> CameraSpec:
    for camera in cameras:
        if camera.role == role:
            return camera
    raise ContractError(
        where, f"no camera has the role {role}", got=[f"{c.name}: {c.role}" for c in cameras],
        fix=f"add a camera with role: {role} to the robot contract",
    )


def _tile(camera: CameraSpec, rect: Rect) -> Tile:
    """Fit the camera's image into `rect`, aspect kept, sizes rounded to whole pixels, centred."""
    cam_w, cam_h = camera.width_px, camera.height_px
    if rect.width_px * cam_h <= rect.height_px * cam_w:
        width, height = rect.width_px, _round_ratio(rect.width_px * cam_h, cam_w)
    else:
        width, height = _round_ratio(rect.height_px * cam_w, cam_h), rect.height_px
    content = Rect(
        rect.x_px + (rect.width_px - width) // 2, rect.y_px + (rect.height_px - height) // 2, width, height
    )
    return Tile(camera.name, camera.role, rect, content, cam_w, cam_h)


def _round_ratio(numerator: int, denominator: int) -> int:
    """Nearest integer to numerator / denominator (halves up), at least 1."""
    return max(1, (2 * numerator + denominator) // (2 * denominator))


def _points(uv_N2: ArrayLike) -> F64:
    points = np.asarray(uv_N2, dtype=np.float64)
    if points.ndim == 0 or points.shape[-1] != 2:
        raise InputError("canvas", "points are not pairs", got=f"shape {points.shape}", expected="[..., 2]")
    return points
