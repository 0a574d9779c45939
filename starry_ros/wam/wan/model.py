"""Weights of the world-action model around a Wan video stream: its streams, and the ports by which tokens enter."""

from __future__ import annotations

from torch import nn

from starry_ros.wam.wan.config import WanConfig
from starry_ros.wam.wan.streams import Port, Stream


class WanModel(nn.Module):
    """Weights: a video stream, and a value and an action stream of their own or the video stream's blocks."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.config = config
        c = config
        shared = {"layers": c.layers, "heads": c.heads, "head_dim": c.head_dim, "floor": c.norm_floor}
        self.video = Stream(width=c.width, feed_forward=c.feed_forward, text_width=c.text_width, **shared)  # type: ignore[arg-type]
        self.video_port = Port(c.token_width, c.width, c.time_features)
        for name, given, token in (("value", c.value, c.token_width), ("action", c.action, c.joints)):
            self.add_module(name, None if given is None else Stream(
                width=given.width, feed_forward=given.feed_forward, **shared))  # type: ignore[arg-type]
            needed = given is not None or name == "action"
            width = given.width if given else c.width
            self.add_module(f"{name}_port", Port(token, width, c.time_features) if needed else None)

    def stream_of(self, name: str) -> Stream:
        """The stream that carries video, value or action tokens."""
        stream = self.video if name == "video" or getattr(self, name) is None else getattr(self, name)
        assert isinstance(stream, Stream)
        return stream

    def port_of(self, name: str) -> Port:
        """How tokens of that name enter."""
        port = getattr(self, f"{name}_port")
        assert isinstance(port, Port)
        return port
