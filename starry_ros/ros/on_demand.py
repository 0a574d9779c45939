"""Work that exists only while somebody watches: what is unobserved costs nothing, its inputs are not even received."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rclpy.node import Node


class OnDemand:
    """A group of subscriptions and timers that lives while any of its publishers has a subscriber."""

    def __init__(self, node: Node, publishers: Sequence[Any], begin: Callable[[], Sequence[Any]]) -> None:
        """`begin` makes and returns the subscriptions."""
        self._node, self._publishers, self._begin = node, publishers, begin
        self._parts: list[Any] = []

    @property
    def watched(self) -> bool:
        """Whether the group is alive."""
        return bool(self._parts)

    def look(self) -> None:
        """Begin or end, as somebody watches or not."""
        wanted = any(publisher.get_subscription_count() > 0 for publisher in self._publishers)
        if wanted and not self._parts:
            self._parts = list(self._begin())
        elif not wanted and self._parts:
            for part in self._parts:
                self._node.destroy_subscription(part)
            self._parts = []
