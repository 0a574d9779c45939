"""Value maps and landing points from the canvas back to each camera's own pixel grid.

Shapes: E events, H x W the value grid on the canvas (one cell per `stride_px` square), h x w a camera's pixels.
Cell i covers canvas pixels [i * stride, (i + 1) * stride); its centre lies at (i + 0.5) * stride - 0.5. Only cells of
the camera's own tile are used, so neighbouring views never bleed into each other; at the border values are repeated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starry_ros.canvas.layout import CanvasLayout, Rect, Tile
from starry_ros.errors import InputError
from starry_ros.types import F32, F64, LandingPoint, ValueMap

KERNEL_CELLS = 2


@dataclass(frozen=True)
class Region:
    """Part of a camera's image: `values_hw` belongs to the pixels of `rect`, everything around it is dark."""

    rect: Rect
    values_hw: F32


class ValueProjector:
    """Interpolates value maps of one layout and stride onto camera pixels (separable cubic convolution, Keys 1981)."""

    def __init__(self, layout: CanvasLayout, stride_px: int) -> None:
        """Raises InputError if a tile border does not fall on a cell border."""
        self.layout = layout
        self.stride_px = stride_px
        self._grids = {tile.camera: _Grid(tile, stride_px) for tile in layout.tiles}

    def project(self, value_map: ValueMap, camera: str, event: int, out: F32 | None = None) -> F32:
        """Values [h, w] of one event on all pixels of a camera, within 0..1."""
        grid, cells_HW = self._cells(value_map, camera, event)
        return _clip(np.matmul(grid.rows @ cells_HW, grid.columns.T, out=out))

    def region(self, value_map: ValueMap, camera: str, event: int, floor: float) -> Region | None:
        """`project` within the rectangle of all pixels that a cell above `floor` reaches; None if there is none."""
        grid, cells_HW = self._cells(value_map, camera, event)
        above_HW = cells_HW > floor
        if not above_HW.any():
            return None
        top, bottom = _reach(np.any(above_HW, axis=1), grid.rows)
        left, right = _reach(np.any(above_HW, axis=0), grid.columns)
        values_hw = _clip(np.matmul(grid.rows[top:bottom] @ cells_HW, grid.columns[left:right].T))
        return Region(Rect(left, top, right - left, bottom - top), values_hw)

    def _cells(self, value_map: ValueMap, camera: str, event: int) -> tuple[_Grid, F32]:
        """The camera's grid and its tile of the map; refuses a map that is not of this layout, or not finite."""
        tile = self.layout.tile(camera)
        self._check(value_map)
        events = len(value_map.values_EHW)
        if not 0 <= event < events:
            raise InputError("value map", "has no such event", got=event, expected=f"0 to {events - 1}")
        grid = self._grids[tile.camera]
        cells_HW = value_map.values_EHW[event][grid.tile_slices]
        if not np.isfinite(cells_HW).all():
            raise InputError("value map", "has non-finite values", got=f"event {event}, camera {camera}")
        return grid, cells_HW.astype(np.float32, copy=False)

    def _check(self, value_map: ValueMap) -> None:
        if value_map.layout_hash != self.layout.layout_hash:
            raise InputError(
                "value map", "belongs to another canvas layout", got=value_map.layout_hash,
                expected=self.layout.layout_hash, fix="start all nodes with the same robot contract",
            )
        size = (self.layout.height_px // self.stride_px, self.layout.width_px // self.stride_px)
        if value_map.stride_px != self.stride_px or value_map.values_EHW.shape[1:] != size:
            raise InputError(
                "value map", "has another resolution",
                got=f"stride {value_map.stride_px} px, shape {value_map.values_EHW.shape}",
                expected=f"stride {self.stride_px} px, shape [E, {size[0]}, {size[1]}]",
            )


def landing_in_camera(layout: CanvasLayout, landing: LandingPoint) -> F64:
    """(u, v) of a landing point in its camera's own pixels."""
    return layout.canvas_to_camera(landing.camera, (landing.u_px, landing.v_px))


class _Grid:
    """Where one tile lies on the value grid, and the weights from its cells to the camera's rows and columns."""

    def __init__(self, tile: Tile, stride_px: int) -> None:
        rect, content = tile.rect, tile.content
        edges = (rect.x_px, rect.y_px, rect.width_px, rect.height_px)
        if stride_px < 1 or any(edge % stride_px for edge in edges):
            got = f"stride {stride_px} px, tile {rect}"
            raise InputError(f"camera {tile.camera}", "tile border cuts a cell of the value map", got=got)
        x, y, cells_w, cells_h = (edge // stride_px for edge in edges)
        self.tile_slices = (slice(y, y + cells_h), slice(x, x + cells_w))
        scale_x, scale_y = tile.scale_xy / stride_px
        offset_x, offset_y = (content.x_px - rect.x_px) / stride_px, (content.y_px - rect.y_px) / stride_px
        self.rows = _weights(tile.camera_height_px, scale_y, offset_y, cells_h)
        self.columns = _weights(tile.camera_width_px, scale_x, offset_x, cells_w)


def _weights(pixels: int, scale: float, offset: float, cells: int) -> F32:
    """[pixels, cells]: cubic convolution at the cell coordinate of every pixel centre; each row sums to 1."""
    at = (np.arange(pixels) + 0.5) * scale + offset - 0.5
    first = np.floor(at).astype(int)
    weights = np.zeros((pixels, cells))
    for step in range(1 - KERNEL_CELLS, KERNEL_CELLS + 1):
        cell = first + step
        np.add.at(weights, (np.arange(pixels), np.clip(cell, 0, cells - 1)), _cubic(at - cell))
    return weights.astype(np.float32)


def _clip(values_hw: F32) -> F32:
    """The kernel overshoots next to steps; bring the values back into 0..1, in place."""
    np.maximum(values_hw, 0.0, out=values_hw)
    return np.minimum(values_hw, 1.0, out=values_hw)


def _cubic(distance: F64) -> F64:
    """Keys' cubic convolution kernel with a = -1/2: interpolates, exact for quadratics."""
    d = np.abs(distance)
    near = (1.5 * d - 2.5) * d * d + 1.0
    far = ((-0.5 * d + 2.5) * d - 4.0) * d + 2.0
    return np.where(d <= 1.0, near, np.where(d < KERNEL_CELLS, far, 0.0))


def _reach(active: NDArray[np.bool_], weights: F32) -> tuple[int, int]:
    """First and one past the last pixel that an active cell has weight on."""
    touched = np.flatnonzero((weights[:, active] != 0.0).any(axis=1))
    return int(touched[0]), int(touched[-1]) + 1
