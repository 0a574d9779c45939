"""Packing three camera images into a canvas, against the obvious way, interleaved in one run, one thread each.

The obvious way decodes each image with OpenCV, area-averages it with `cv2.resize`, pads it, and concatenates the views
with numpy. Both start from the raw bytes of the messages; median CPU time of many rounds. `ratio` is baseline / value.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import cv2
import numpy as np

from starry_ros.canvas.layout import CanvasLayout, Tile, t_pose_layout
from starry_ros.canvas.pack import CanvasPacker, decode_image
from starry_ros.robot_spec import RobotSpec
from starry_ros.types import U8, Record

SIZES = ((640, 480), (320, 240))
ENCODINGS = ("bgr8", "rgb8")
LEAST_ROUNDS = 10
MS_PER_S = 1e3


def run(robot: RobotSpec, seconds: float = 8.0) -> list[Record]:
    """Rows `canvas/pack_<encoding>_<w>x<h>` in ms with their baseline, and the largest difference in grey levels.

    The canvas is the robot's, its cameras get each size in turn. `seconds` is the length of the whole run.
    """
    cases = [(size, encoding) for size in SIZES for encoding in ENCODINGS]
    with one_thread():
        return [row for size, encoding in cases for row in _measure(robot, size, encoding, seconds / len(cases))]


def _measure(robot: RobotSpec, size: tuple[int, int], encoding: str, seconds: float) -> list[Record]:
    layout = t_pose_layout(with_camera_size(robot, *size))
    messages = {tile.camera: camera_image(*size, seed).tobytes() for seed, tile in enumerate(layout.tiles)}
    packer = CanvasPacker(layout)

    def packed() -> U8:
        width, height = size
        return packer.pack_images({
            camera: decode_image(camera, encoding, height, width, 3 * width, data) for camera, data in messages.items()
        })

    def obvious() -> U8:
        return _obvious(layout, encoding, messages)

    ours_s, theirs_s = interleaved(packed, obvious, seconds)
    worst = int(np.abs(packed().astype(int) - obvious()).max())
    name = f"canvas/pack_{encoding}_{size[0]}x{size[1]}"
    return [
        {"name": name, "value": ours_s * MS_PER_S, "unit": "ms", "baseline": theirs_s * MS_PER_S,
         "ratio": theirs_s / ours_s},
        {"name": f"{name}_difference", "value": worst, "unit": "grey levels", "baseline": None, "ratio": None},
    ]


def _obvious(layout: CanvasLayout, encoding: str, messages: dict[str, bytes]) -> U8:
    head, left, right = (_obvious_view(tile, encoding, messages[tile.camera]) for tile in layout.tiles)
    return np.concatenate([head, np.concatenate([left, right], axis=1)], axis=0)


def _obvious_view(tile: Tile, encoding: str, data: bytes) -> U8:
    """One tile: decode to RGB, shrink, pad."""
    raw = np.frombuffer(data, np.uint8).reshape(tile.camera_height_px, tile.camera_width_px, 3)
    image = cv2.cvtColor(raw, cv2.COLOR_BGR2RGB) if encoding == "bgr8" else raw.copy()
    rect, content = tile.rect, tile.content
    view = cv2.resize(image, (content.width_px, content.height_px), interpolation=cv2.INTER_AREA)
    top, left = content.y_px - rect.y_px, content.x_px - rect.x_px
    below, right = rect.height_px - content.height_px - top, rect.width_px - content.width_px - left
    return np.asarray(cv2.copyMakeBorder(view, top, below, left, right, cv2.BORDER_CONSTANT), dtype=np.uint8)


def with_camera_size(robot: RobotSpec, width_px: int, height_px: int) -> RobotSpec:
    """The contract with every camera of the given size."""
    cameras = tuple(dataclasses.replace(c, width_px=width_px, height_px=height_px) for c in robot.cameras)
    return dataclasses.replace(robot, cameras=cameras)


def camera_image(width_px: int, height_px: int, seed: int) -> U8:
    """A smooth gradient with texture and noise, [h, w, 3]."""
    u, v = np.meshgrid(np.arange(width_px), np.arange(height_px))
    base = np.stack([255 * u / width_px, 255 * v / height_px, 127 + 100 * np.sin(0.3 * u + 0.2 * v)], axis=-1)
    noise = np.random.default_rng(seed).normal(0, 6, base.shape)
    return np.clip(base + noise, 0, 255).astype(np.uint8)


@contextmanager
def one_thread() -> Iterator[None]:
    """OpenCV on the calling thread alone, inside the block."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def interleaved(first: Callable[[], object], second: Callable[[], object], seconds: float) -> tuple[float, float]:
    """Median CPU seconds (this thread) of two calls that take turns for about `seconds`; the order alternates.

    CPU time leaves out what other processes take from the core; with one thread it is wall time on an idle machine.
    """
    calls = (first, second)
    for call in calls:
        call()
    taken_s: tuple[list[float], list[float]] = ([], [])
    end_s, turn = time.perf_counter() + seconds, 0
    while turn < LEAST_ROUNDS or time.perf_counter() < end_s:
        turn += 1
        for which in (0, 1) if turn % 2 == 0 else (1, 0):
            start_s = time.thread_time()
            calls[which]()
            taken_s[which].append(time.thread_time() - start_s)
    return median(taken_s[0]), median(taken_s[1])
