"""The active curve, and the last command on it. Shapes: J joints, a motion is [3, J]."""

from __future__ import annotations

from starry_ros.control.trajectory import Curve
from starry_ros.types import F64


class Track:
    """Advances along a curve one control period at a time; `motion_3J` is the last command."""

    def __init__(self, period_s: float, position_J: F64) -> None:
        self._period_s = period_s
        self.stand(position_J)

    def stand(self, position_J: F64) -> None:
        """Rest at a position, from nowhere."""
        self.take_over(Curve.hold(position_J))

    def take_over(self, curve: Curve) -> None:
        """Go on from the beginning of a curve, wherever the last command was."""
        self.follow(curve)
        self.motion_3J = curve.at(0.0)

    def follow(self, curve: Curve) -> None:
        """Follow a curve that begins with the last command."""
        self.curve, self._ticks, self.turned = curve, 0, True

    @property
    def s(self) -> float:
        """Where on the curve the last command was, in seconds."""
        return self._ticks * self._period_s

    @property
    def at_rest(self) -> bool:
        """Whether the curve has come to its end."""
        return self.s >= self.curve.duration_s

    def ahead(self) -> Curve:
        """What is left of the curve."""
        return self.curve.cut(self.s)

    def next(self) -> F64:
        """The motion one period on."""
        return self.after(1)

    def after(self, periods: int) -> F64:
        """The motion so many periods on, bit for bit what it will be then."""
        if not periods:
            return self.motion_3J
        return self.curve.at((self._ticks + periods - 1) * self._period_s + self._period_s)

    def advance(self, motion_3J: F64) -> None:
        """One period has passed, and this is the command."""
        self.motion_3J = motion_3J
        self._ticks += 1
