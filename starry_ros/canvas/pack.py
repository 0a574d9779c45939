"""Pixels: decode camera images without copying, and pack the views into one canvas.

Shapes: H rows, W columns, C = 3 channels. Images and canvases are uint8 RGB.

`decode_image` returns views: a bgr8 image comes back with its channel axis reversed, a mono8 image with its one
channel repeated. `CanvasPacker` sees that by the strides and reorders channels after the view has shrunk, so no
full-size image is ever converted or copied.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import TypeAlias, cast

import cv2
import numpy as np

from starry_ros.canvas.layout import CanvasLayout, Tile
from starry_ros.errors import InputError
from starry_ros.types import U8, Canvas, FrameSet, TileStatus

Buffer: TypeAlias = "bytes | bytearray | memoryview | array[int] | U8"
CHANNELS = {"rgb8": 3, "bgr8": 3, "mono8": 1, "rgba8": 4, "bgra8": 4}
BLACK_RGB = (0, 0, 0)


def decode_image(camera: str, encoding: str, height: int, width: int, step: int, data: Buffer) -> U8:
    """View raw image bytes as RGB [H, W, 3]; `step` is bytes a row, padding included. Only alpha channels cost a copy.

    Raises InputError on an unknown encoding, a step shorter than a row, or data that are not `height * step` bytes.
    """
    channels = CHANNELS.get(encoding)
    if channels is None:
        raise InputError(
            f"camera {camera}", "unknown image encoding", got=repr(encoding), expected=sorted(CHANNELS),
            fix="set the camera driver's output to rgb8 or bgr8",
        )
    flat = np.frombuffer(data, dtype=np.uint8)
    row = width * channels
    if height < 1 or width < 1:
        raise InputError(f"camera {camera}", "image is empty", got=f"{width} x {height}")
    if step < row:
        raise InputError(f"camera {camera}", "step is shorter than a row", got=step, expected=f">= {row}")
    if flat.size != height * step:
        raise InputError(
            f"camera {camera}", "image data have the wrong length", got=f"{flat.size} bytes",
            expected=f"{height * step} ({height} rows of {step})",
        )
    pixels = flat.reshape(height, step)[:, :row].reshape(height, width, channels)
    return _as_rgb(pixels, encoding)


def _as_rgb(pixels_HWC: U8, encoding: str) -> U8:
    if encoding == "bgr8":
        return pixels_HWC[..., ::-1]
    if encoding == "mono8":
        return np.broadcast_to(pixels_HWC, (*pixels_HWC.shape[:2], 3))
    if encoding == "rgba8":
        return cast(U8, cv2.cvtColor(pixels_HWC, cv2.COLOR_RGBA2RGB))
    if encoding == "bgra8":
        return cast(U8, cv2.cvtColor(pixels_HWC, cv2.COLOR_BGRA2RGB))
    return pixels_HWC


def decode_compressed(camera: str, data: Buffer) -> U8:
    """Decode a JPEG or PNG to RGB [H, W, 3]. Raises InputError if the data are empty, truncated or not an image."""
    flat = np.frombuffer(data, dtype=np.uint8)
    _refuse_truncated(camera, flat)
    try:
        image = cv2.imdecode(flat, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:  # a header that promises a picture of gigabytes
        image = None
    if image is None:
        raise InputError(f"camera {camera}", "compressed image cannot be decoded", got=f"{flat.size} bytes")
    return cast(U8, image)[..., ::-1]


def _refuse_truncated(camera: str, flat: U8) -> None:
    """Decoders fill the missing part of a truncated file with grey; look for the end mark ourselves."""
    head, tail = flat[:8].tobytes(), flat[-16:].tobytes()
    if head.startswith(b"\xff\xd8\xff"):
        complete, kind = b"\xff\xd9" in tail, "JPEG"
    elif head == b"\x89PNG\r\n\x1a\n":
        complete, kind = b"IEND\xaeB\x60\x82" in tail, "PNG"
    else:
        raise InputError(
            f"camera {camera}", "compressed image is of an unknown kind", got=f"{flat.size} bytes, starts {head!r}",
            expected="JPEG or PNG",
        )
    if not complete:
        raise InputError(f"camera {camera}", f"compressed image is a truncated {kind}", got=f"{flat.size} bytes")


class CanvasPacker:
    """Packs views into canvases of one layout. One instance a thread: it reuses its work buffers.

    A returned canvas is the caller's own: it is never written again.
    """

    def __init__(self, layout: CanvasLayout, fill_rgb: tuple[int, int, int] = BLACK_RGB) -> None:
        self.layout = layout
        self.fill_rgb = fill_rgb
        self._work: U8 = np.empty((layout.height_px, layout.width_px, 3), dtype=np.uint8)
        self._work[:] = fill_rgb
        self._slots = {tile.camera: _Slot(tile, self._work) for tile in layout.tiles}

    def pack_images(self, images: Mapping[str, U8]) -> U8:
        """Canvas [H, W, 3] of RGB images by camera; a missing camera's view is the fill colour.

        Raises InputError on an unknown camera, or an image that is not uint8 [H, W, 3] of the camera's size.
        """
        unknown = sorted(set(images) - set(self._slots))
        if unknown:
            raise InputError("canvas", f"unknown cameras {unknown}", expected=list(self.layout.cameras))
        for camera, slot in self._slots.items():
            image = images.get(camera)
            if image is None:
                slot.target_HWC[:] = self.fill_rgb
            else:
                slot.draw(image)
        return self._work.copy()

    def pack(self, frame_set: FrameSet, now_ns: int) -> Canvas:
        """Canvas of frames that belong together. A missing camera is marked invalid and carries the set's stamp."""
        image = self.pack_images({camera: frame.image_HWC for camera, frame in frame_set.frames.items()})
        tiles = tuple(self._status(camera, frame_set, now_ns) for camera in self._slots)
        return Canvas(frame_set.stamp_ns, self.layout.layout_hash, image, tiles)

    @staticmethod
    def _status(camera: str, frame_set: FrameSet, now_ns: int) -> TileStatus:
        frame = frame_set.frames.get(camera)
        stamp_ns = frame_set.stamp_ns if frame is None else frame.stamp_ns
        return TileStatus(camera, stamp_ns, now_ns - stamp_ns, frame is not None)


class _Slot:
    """One camera's place on the work canvas, and the buffers to shrink its image into it.

    Averaging over areas of even size is done by repeated halving, which OpenCV has vector code for: three to four
    times as fast as one step. Each step rounds, by half a grey level at most.
    """

    def __init__(self, tile: Tile, work_HWC: U8) -> None:
        self._camera = tile.camera
        self._shape = (tile.camera_height_px, tile.camera_width_px, 3)
        self.target_HWC: U8 = work_HWC[tile.content.slices]
        self._sizes = _sizes(tile)
        self._colour: list[U8] = [np.empty((height, width, 3), dtype=np.uint8) for width, height in self._sizes]
        self._grey: list[U8] = [np.empty((height, width), dtype=np.uint8) for width, height in self._sizes]
        shrinks = tile.content.width_px <= tile.camera_width_px and tile.content.height_px <= tile.camera_height_px
        self._filter = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR

    def draw(self, image_HWC: U8) -> None:
        """Area-average an RGB image into the target, whatever its channel stride."""
        if image_HWC.shape != self._shape or image_HWC.dtype != np.uint8:
            raise InputError(
                f"camera {self._camera}", "image has the wrong size or type",
                got=f"{image_HWC.dtype} {image_HWC.shape}", expected=f"uint8 {self._shape}",
                fix="match width_px and height_px of the robot contract with the camera driver",
            )
        channel_stride = image_HWC.strides[2]
        if channel_stride == 0:
            self._shrink(image_HWC[..., 0], self._grey)
            cv2.cvtColor(self._grey[-1], cv2.COLOR_GRAY2RGB, dst=self.target_HWC)
        elif channel_stride < 0:
            self._shrink(image_HWC[..., ::-1], self._colour)
            cv2.cvtColor(self._colour[-1], cv2.COLOR_BGR2RGB, dst=self.target_HWC)
        else:
            self._shrink(image_HWC, [*self._colour[:-1], self.target_HWC])

    def _shrink(self, image: U8, steps: list[U8]) -> None:
        for size, step in zip(self._sizes, steps, strict=True):
            cv2.resize(image, size, dst=step, interpolation=self._filter)
            image = step


def _sizes(tile: Tile) -> list[tuple[int, int]]:
    """(width, height) after each step from the camera's size to the content's; halvings while they are exact."""
    size, last = (tile.camera_width_px, tile.camera_height_px), (tile.content.width_px, tile.content.height_px)
    steps = []
    while all(have % (2 * want) == 0 and have > 2 * want for have, want in zip(size, last, strict=True)):
        size = (size[0] // 2, size[1] // 2)
        steps.append(size)
    return [*steps, last]
