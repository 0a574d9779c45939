"""The planner's word about itself: slow, stop, and never in a circle."""

from __future__ import annotations

from control_kit import Follower

from starry_ros.control.advice import SETTLE_S, Advice
from starry_ros.control.safety import Event, Mode


class Advised(Follower):
    """An armed executor that hears its planner five times a second."""

    def __init__(self) -> None:
        super().__init__()
        self.advice = Advice(self.executor)
        self.arm()

    @property
    def mode(self) -> Mode:
        return self.executor.status(self.now_ns).mode

    def hear(self, duration_s: float, rung: str = "full", surprise: float | None = None) -> None:
        for _ in range(round(duration_s * 5)):
            self.run(0.2)
            self.advice.hear(rung, surprise, self.now_ns)


def test_each_degraded_rung_slows_and_full_ends_it() -> None:
    for rung in ("reuse_latents", "action_only", "hold"):
        follower = Advised()
        follower.hear(0.4, rung)
        assert follower.mode is Mode.SLOW
        assert Event.PLANNER_DEGRADED in follower.executor.status(follower.now_ns).conditions
        follower.hear(0.4)
        assert follower.mode is Mode.RUN
    follower.hear(0.4, "fewer_video_steps")
    assert follower.mode is Mode.RUN


def test_a_planner_that_gave_up_stops_the_arms_until_arm() -> None:
    follower = Advised()
    follower.hear(0.4, "stop")
    assert follower.mode is Mode.STOP
    follower.hear(1.0)
    assert follower.mode is Mode.STOP
    assert follower.executor.arm(follower.now_ns).ok


def test_surprise_slows_for_a_while_and_not_for_ever() -> None:
    """Surprise is calibrated on arms at full speed: in SLOW it says nothing."""
    follower = Advised()
    follower.hear(SETTLE_S + 0.2)
    follower.hear(0.2, surprise=1.3)
    assert follower.mode is Mode.SLOW
    follower.hear(1.2, surprise=1.3)
    assert follower.mode is Mode.RUN
    follower.hear(0.8, surprise=5.0)
    assert follower.mode is Mode.RUN, "not before it has settled"


def test_a_high_surprise_stops_once_the_arms_have_settled_into_the_plan() -> None:
    follower = Advised()
    follower.hear(0.8, surprise=2.5)
    assert follower.mode is Mode.RUN
    follower.hear(1.0, surprise=2.5)
    assert follower.mode is Mode.STOP
    assert follower.executor.status(follower.now_ns).reason == Event.SURPRISE_HIGH
    assert follower.executor.arm(follower.now_ns).ok, "and can be armed again"
    follower.hear(0.8, surprise=2.5)
    assert follower.mode is Mode.RUN
