"""`/diagnostics` at 1 Hz from a function that reports a node's health."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from starry_ros.ros.qos import STATE

PERIOD_S = 1.0
OK, WARN, ERROR, STALE = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR, DiagnosticStatus.STALE


@dataclass(frozen=True)
class Health:
    """Level, one line for people, and values by name."""

    level: bytes = OK
    message: str = "ok"
    values: Mapping[str, object] = field(default_factory=dict)


class Diagnostics:
    """Publishes `report()` once a second on steady time, so that a stopped simulation still reports."""

    def __init__(self, node: Node, report: Callable[[], Health], hardware_id: str = "") -> None:
        self._node, self._report, self._hardware_id = node, report, hardware_id
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", STATE)
        node.create_timer(PERIOD_S, self.publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def publish(self) -> None:
        """Publish now."""
        health = self._report()
        status = DiagnosticStatus(
            level=health.level,
            name=self._node.get_fully_qualified_name().lstrip("/"),
            message=health.message,
            hardware_id=self._hardware_id,
            values=[KeyValue(key=key, value=_text(value)) for key, value in health.values.items()],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
