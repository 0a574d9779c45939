"""Where the hands have been, drawn into the views: STARRY's projected end-effector paths.

A path is the hand's positions up to now, all seen by the camera of NOW: u = Proj(K_t, T_t, e_tau), tau <= t. Older
parts are darker. Points behind a camera break the line; nothing is drawn outside a view's own tile.

Shapes: T positions (the last is now), A hands.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from starry_ros.canvas.layout import CanvasLayout
from starry_ros.types import F64, U8, CameraModel

COLOURS_RGB = ((0, 255, 255), (255, 0, 255), (255, 255, 0))
"""Left hand, right hand, further hands: colours that no object of the simulator has."""
LENGTH = 16
"""Positions that a path holds at most."""
NEAREST_M = 0.01


def draw_paths(canvas_HWC: U8, layout: CanvasLayout, cameras: Sequence[CameraModel], hands_TA3: F64) -> U8:
    """A copy of the canvas with the last LENGTH positions of every hand as lines."""
    drawn = canvas_HWC.copy()
    for camera in cameras:
        tile = layout.tile(camera.camera)
        view = np.ascontiguousarray(drawn[tile.content.slices])
        for hand in range(hands_TA3.shape[1]):
            _draw(view, _on_tile(hands_TA3[-LENGTH:, hand], layout, camera), COLOURS_RGB[hand % len(COLOURS_RGB)])
        drawn[tile.content.slices] = view
    return drawn


def _on_tile(points_T3: F64, layout: CanvasLayout, camera: CameraModel) -> list[tuple[int, int] | None]:
    """Pixels within the tile's content; None behind the camera."""
    local = (points_T3 - camera.T_world_cam[:3, 3]) @ camera.T_world_cam[:3, :3]
    content = layout.tile(camera.camera).content
    pixels: list[tuple[int, int] | None] = []
    for x, y, z in local:
        if z < NEAREST_M:
            pixels.append(None)
            continue
        seen = [[camera.fx_px * x / z + camera.cx_px, camera.fy_px * y / z + camera.cy_px]]
        u, v = np.clip(layout.camera_to_canvas(camera.camera, seen)[0], -1e4, 1e4)
        pixels.append((round(float(u)) - content.x_px, round(float(v)) - content.y_px))
    return pixels


def _draw(view_HWC: U8, pixels: list[tuple[int, int] | None], rgb: tuple[int, int, int]) -> None:
    steps = len(pixels) - 1
    for i in range(steps):
        start, end = pixels[i], pixels[i + 1]
        if start is not None and end is not None:
            share = (i + 1) / steps
            cv2.line(view_HWC, start, end, tuple(int(share * level) for level in rgb), 1, cv2.LINE_8)
