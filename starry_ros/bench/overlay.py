"""Cost of an overlay on three camera images, against blending whole images in floating point, interleaved in one run.

The baseline enlarges each view's part of the map with `cv2.resize` and mixes all pixels in float32, without marks or
caption. `ratio` is baseline / value.
"""

from __future__ import annotations

import cv2
import numpy as np

from starry_ros.bench.canvas import MS_PER_S, SIZES, camera_image, interleaved, one_thread, with_camera_size
from starry_ros.canvas.layout import CanvasLayout, t_pose_layout
from starry_ros.report import bench_row
from starry_ros.robot_spec import RobotSpec
from starry_ros.types import F32, U8, LandingPoint, Record, ValueMap
from starry_ros.value.colour import colourise
from starry_ros.value.overlay import Caption, OverlayPainter

STRIDE_PX = 4
CAMERA_HZ = 15.0


def run(robot: RobotSpec, seconds: float = 4.0) -> list[Record]:
    """Rows `overlay/three_<w>x<h>`: milliseconds for three views with two events, marks and caption, and the share of
    a core that they take at camera rate, without the receiving and sending of images.

    The canvas is the robot's, its cameras get each size in turn. `seconds` is the length of the whole run.
    """
    with one_thread():
        return [row for size in SIZES for row in _measure(robot, size, seconds / len(SIZES))]


def _measure(robot: RobotSpec, size: tuple[int, int], seconds: float) -> list[Record]:
    layout = t_pose_layout(with_camera_size(robot, *size))
    painter, value_map = OverlayPainter(layout, STRIDE_PX), blob_map(layout)
    image, out = camera_image(*size, seed=0), np.empty((size[1], size[0], 3), dtype=np.uint8)
    caption = Caption("put the red block on the pad", "RUN")

    def painted() -> None:
        for camera in layout.cameras:
            painter.paint(camera, image, value_map, caption, out)

    def plain() -> None:
        for camera in layout.cameras:
            _plain(layout, camera, image, value_map)

    ours_s, theirs_s = interleaved(painted, plain, seconds)
    name = f"overlay/three_{size[0]}x{size[1]}"
    return [
        {"name": name, "value": ours_s * MS_PER_S, "unit": "ms", "baseline": theirs_s * MS_PER_S,
         "ratio": theirs_s / ours_s},
        bench_row(f"{name}_core_share", ours_s * CAMERA_HZ, "of a core at 15 Hz", theirs_s * CAMERA_HZ),
    ]


def _plain(layout: CanvasLayout, camera: str, image_HWC: U8, value_map: ValueMap) -> U8:
    content = layout.tile(camera).content
    rows = slice(content.y_px // STRIDE_PX, (content.y_px + content.height_px) // STRIDE_PX)
    columns = slice(content.x_px // STRIDE_PX, (content.x_px + content.width_px) // STRIDE_PX)
    mixed = image_HWC.astype(np.float32)
    for values_HW, name in zip(value_map.values_EHW, ("ember", "tide"), strict=True):
        large = np.asarray(cv2.resize(values_HW[rows, columns], image_HWC.shape[1::-1]), dtype=np.float32)
        weight = 0.8 * large[..., None]
        mixed = (1 - weight) * mixed + weight * colourise(large, name)
    return np.clip(mixed, 0, 255).astype(np.uint8)


def blob_map(layout: CanvasLayout) -> ValueMap:
    """Two events in every view: blobs a third and two thirds of the way across."""
    v, u = np.mgrid[: layout.height_px // STRIDE_PX, : layout.width_px // STRIDE_PX]
    values: F32 = np.zeros((2, *v.shape), dtype=np.float32)
    landing = []
    for tile in layout.tiles:
        for event, share in enumerate((1 / 3, 2 / 3)):
            at = (share * tile.camera_width_px, 0.6 * tile.camera_height_px)
            u_px, v_px = (float(x) for x in layout.camera_to_canvas(tile.camera, at))
            half = STRIDE_PX / 2 - 0.5
            squared = (STRIDE_PX * u + half - u_px) ** 2 + (STRIDE_PX * v + half - v_px) ** 2
            values[event] = np.maximum(values[event], np.exp(-squared / (2 * 5.0**2)))
            landing.append(LandingPoint(tile.camera, event, u_px, v_px, 0.9))
    return ValueMap(0, layout.layout_hash, STRIDE_PX, values, tuple(landing))
