"""Pictures of a run: a film and a contact sheet of the camera views side by side. No ROS.

Shapes: H rows, W columns, C = 3 channels, RGB.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from starry_ros.types import U8

BAR_PX = 34
GAP_PX = 4
QUALITY = {".png": [cv2.IMWRITE_PNG_COMPRESSION, 9], ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 70]}
"""Kinds of pictures by the end of their name."""
DARK, LIGHT, GOOD, BAD = (24, 26, 30), (235, 235, 235), (60, 200, 110), (235, 90, 80)
TIME_BASE = Fraction(1, 1000)
CODECS = (("libx264", {"preset": "veryfast", "crf": "21"}), ("mpeg4", {"qscale": "3"}))


def compose(views: Sequence[U8], left: str, right: str) -> U8:
    """Views of one height side by side under a bar with two texts; even sizes, as codecs want."""
    height = views[0].shape[0]
    gap = np.full((height, GAP_PX, 3), DARK, np.uint8)
    row = np.concatenate([part for view in views for part in (view, gap)][:-1], axis=1)
    picture = np.concatenate([np.full((BAR_PX, row.shape[1], 3), DARK, np.uint8), row])
    write(picture, left, (10, 23))
    write(picture, right, (picture.shape[1] - 10 - text_width(right), 23))
    return np.ascontiguousarray(picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2])


def write(picture_HWC: U8, text: str, at_xy: tuple[int, int], rgb: tuple[int, int, int] = LIGHT) -> None:
    """Draw a text with its baseline's left end at `at_xy`."""
    cv2.putText(picture_HWC, text, at_xy, cv2.FONT_HERSHEY_SIMPLEX, 0.55, rgb, 1, cv2.LINE_AA)


def text_width(text: str) -> int:
    """Width of a text of `write` in pixels."""
    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.55, 1)[0][0])


class Film:
    """An mp4 file. Pictures carry their time; the size is that of the first one."""

    def __init__(self, path: Path, rate_hz: int = 15) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(path), "w")
        self._rate_hz = rate_hz
        self._stream: av.VideoStream | None = None
        self._last_ms = -1
        self.pictures = 0

    def add(self, picture_HWC: U8, time_s: float) -> None:
        """Append a picture; one that is not later than the last is left out."""
        stream = self._stream or self._open(picture_HWC)
        time_ms = round(1000 * time_s)
        if time_ms <= self._last_ms:
            return
        self._last_ms = time_ms
        frame = av.VideoFrame.from_ndarray(picture_HWC, format="rgb24")
        frame.pts, frame.time_base = time_ms, TIME_BASE
        self._container.mux(stream.encode(frame))
        self.pictures += 1

    def _open(self, picture_HWC: U8) -> av.VideoStream:
        name, options = next((name, options) for name, options in CODECS if name in av.codecs_available)
        stream = self._container.add_stream(name, rate=self._rate_hz, options=options)
        stream.height, stream.width = picture_HWC.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = TIME_BASE
        self._stream = stream
        return stream

    def close(self) -> None:
        """Finish the file."""
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))
        self._container.close()

    def __enter__(self) -> Film:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class ContactSheet:
    """One row an episode: a few pictures spread over its time, and what came of it."""

    def __init__(self, columns: int = 4, scale: float = 0.5) -> None:
        self._columns, self._scale = columns, scale
        self._rows: list[U8] = []
        self._pictures: list[U8] = []

    def add(self, picture_HWC: U8) -> None:
        """A picture of the running episode; all are kept small until the episode ends."""
        size = (round(picture_HWC.shape[1] * self._scale), round(picture_HWC.shape[0] * self._scale))
        self._pictures.append(np.asarray(cv2.resize(picture_HWC, size, interpolation=cv2.INTER_AREA), np.uint8))

    def end_row(self, caption: str, success: bool) -> None:
        """Choose the pictures of this episode."""
        pictures, self._pictures = self._pictures, []
        if not pictures:
            return
        chosen = [pictures[round(i)] for i in np.linspace(0, len(pictures) - 1, self._columns)]
        row = np.concatenate(chosen, axis=1)
        bar = np.full((BAR_PX, row.shape[1], 3), DARK, np.uint8)
        write(bar, caption, (10, 23), GOOD if success else BAD)
        self._rows.append(np.concatenate([bar, row]))

    def save(self, path: Path) -> None:
        """Write the rows as one PNG or JPEG; nothing when there was no picture."""
        if self._rows:
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.concatenate(self._rows)[..., ::-1], QUALITY[path.suffix])
