"""Frames to video and back, without loss: H.264 in RGB at quantiser 0, in an MP4 that LeRobot's readers open.

Shapes: T frames, H W image.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from starry_ros.data import INSTALL
from starry_ros.errors import DataError, RuntimeUnavailable
from starry_ros.types import U8

KEY_FRAME_EVERY = 2
CODEC, PIXEL_FORMAT = "h264", "gbrp"


class VideoWriter:
    """Appends frames to one file."""

    def __init__(self, path: Path, hz: float, height_px: int, width_px: int) -> None:
        try:
            import av
        except ImportError as error:
            raise RuntimeUnavailable("video", "PyAV is missing", fix=INSTALL) from error
        self._av, self.frames = av, 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = av.open(str(path), "w")
        rate = Fraction(hz).limit_denominator(1000)
        self._stream = self._file.add_stream("libx264rgb", rate=rate, options={"qp": "0", "preset": "veryfast"})
        self._stream.width, self._stream.height, self._stream.pix_fmt = width_px, height_px, "rgb24"
        self._stream.codec_context.gop_size = KEY_FRAME_EVERY
        self._stream.codec_context.max_b_frames = 0
        self._stream.codec_context.thread_count = 1

    def add(self, images_THWC: U8) -> None:
        """Append frames."""
        for image in images_THWC:
            frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts = self.frames
            self._file.mux(self._stream.encode(frame))
            self.frames += 1

    def close(self) -> None:
        """Write what waits and finish the file."""
        self._file.mux(self._stream.encode())
        self._file.close()


def read_video(path: Path, start_s: float, count: int, hz: float) -> Iterator[U8]:
    """`count` frames [H, W, 3] from `start_s` on. DataError names the file when it ends early or is not a video."""
    try:
        import av
    except ImportError as error:
        raise RuntimeUnavailable("video", "PyAV is missing", fix=INSTALL) from error
    given = 0
    try:
        with av.open(str(path)) as file:
            stream = file.streams.video[0]
            stream.codec_context.thread_count = 1
            file.seek(int(max(0.0, start_s - 0.5 / hz) / stream.time_base), stream=stream, backward=True)
            for frame in file.decode(stream):
                if frame.time is None or frame.time < start_s - 0.5 / hz:
                    continue
                yield frame.to_ndarray(format="rgb24")
                given += 1
                if given == count:
                    return
    except (av.FFmpegError, OSError, IndexError) as error:
        raise DataError(str(path), f"is not a video that can be read: {error}") from error
    raise DataError(str(path), "ends early", got=f"{given} frames from {start_s:.2f} s", expected=count)
