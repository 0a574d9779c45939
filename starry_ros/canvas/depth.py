"""Depth on the canvas: packed like colour, and drawn beside it (the RGB-D layout).

    +-----------------+-----------------+
    |   RGB canvas    |  depth as grey  |   each camera's depth in the tile of its colour, one width to the right
    +-----------------+-----------------+

Depth is sampled, never averaged: a mean across an edge is a distance at which nothing is. Grey is logarithmic, 255 at
NEAR_M and 1 at FAR_M or beyond; 0 says that nothing is known.

Shapes: H x W canvas pixels. Metres along the optical axis, 0 where unknown.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from starry_ros.canvas.layout import CanvasLayout
from starry_ros.errors import InputError
from starry_ros.types import F32, U8

NEAR_M, FAR_M = 0.05, 2.0


def pack_depth(layout: CanvasLayout, depths: Mapping[str, F32]) -> F32:
    """Depth canvas [H, W] of depth images by camera; a missing camera's tile is unknown.

    Raises InputError on a depth image of another size than the camera's.
    """
    packed = np.zeros((layout.height_px, layout.width_px), np.float32)
    for tile in layout.tiles:
        if tile.camera not in depths:
            continue
        image = depths[tile.camera]
        if image.shape != (tile.camera_height_px, tile.camera_width_px):
            raise InputError(f"camera {tile.camera}", "depth has the wrong size", got=image.shape,
                             expected=(tile.camera_height_px, tile.camera_width_px))
        rows, columns = tile.content.slices
        v, u = np.mgrid[rows, columns]
        at = layout.canvas_to_camera(tile.camera, np.stack([u, v], axis=-1))
        x = np.clip(np.floor(at[..., 0] + 0.5).astype(int), 0, tile.camera_width_px - 1)
        y = np.clip(np.floor(at[..., 1] + 0.5).astype(int), 0, tile.camera_height_px - 1)
        packed[rows, columns] = image[y, x]
    return np.where(np.isfinite(packed) & (packed > 0), packed, np.float32(0.0))


def depth_cells(depth_HW: F32, cell_px: int) -> F32:
    """The depth at the middle of every cell [..., H / cell_px, W / cell_px]."""
    middle = cell_px // 2
    return depth_HW[..., middle::cell_px, middle::cell_px]


def depth_as_grey(depth_HW: F32) -> U8:
    """Depth [..., H, W] as grey levels."""
    share = np.log(np.clip(depth_HW, NEAR_M, FAR_M) / NEAR_M) / np.log(FAR_M / NEAR_M)
    grey: U8 = np.where(depth_HW > 0, np.round(255 - 254 * share), 0).astype(np.uint8)
    return grey


def rgbd_canvas(canvas_HWC: U8, depth_HW: F32) -> U8:
    """Colour beside depth [..., H, 2 W, 3]."""
    grey = np.repeat(depth_as_grey(depth_HW)[..., None], 3, axis=-1)
    wide: U8 = np.concatenate([canvas_HWC, grey], axis=-2)
    return wide


def rgbd_layout(layout: CanvasLayout) -> CanvasLayout:
    """The layout of an RGB-D canvas: the colour tiles where they are, twice the width, and a hash of its own."""
    return dataclasses.replace(layout, name=f"{layout.name}_rgbd", width_px=2 * layout.width_px)
