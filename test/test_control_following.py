"""Drives that refuse commands for a while and take them again: the arms never jump, and go on from where they are.

The drive is the simulated robot's trajectory controller behind a first-order lag; what it asks of the joints is sampled
at 500 Hz and compared with the limits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from control_kit import JOINTS, PERIOD_NS, SPEC, START_NS, make_chunk, smooth_plan

from starry_ros.bench.fuzz import worst_use
from starry_ros.control.executor import Executor
from starry_ros.control.safety import Event, Mode, Reply
from starry_ros.control.status import LookAhead
from starry_ros.sim.trajectory_controller import Trajectory, TrajectoryController, TrajectoryPoint
from starry_ros.timing import nanoseconds
from starry_ros.types import RobotState

DRIVE_HZ = 500
PUBLISH_EVERY, PLAN_EVERY = 2, 40
ARM_JOINTS = ~np.isin(np.arange(JOINTS), SPEC.gripper_indices)


def message(ahead: LookAhead) -> Trajectory:
    rows = zip(ahead.time_s_N, ahead.position_NJ, ahead.velocity_NJ, ahead.acceleration_NJ, strict=True)
    points = tuple(TrajectoryPoint(nanoseconds(t), tuple(q), tuple(v), tuple(a)) for t, q, v, a in rows)
    return Trajectory(SPEC.joint_names, ahead.start_ns, points)


def plan(t_s: np.ndarray | float) -> np.ndarray:
    return smooth_plan(t_s, 0.3, 3.0)


class Rig:
    """An executor, a drive that may refuse, and arms that lag behind it. Plans lead along `smooth_plan`."""

    def __init__(self, *, plans: bool = True, lag_s: float = 0.02) -> None:
        self.executor, self.now_ns, self.plans, self.lag_s = Executor(SPEC), START_NS, plans, lag_s
        self.jaw_stop_m = 0.0
        self.held_J, self.give_J = np.zeros(JOINTS), np.ones(JOINTS)
        self.measured_J, self.velocity_J = plan(0.0), np.zeros(JOINTS)
        self.controller = TrajectoryController(SPEC.joint_names, self.measured_J, self.now_ns)
        self.asked: list[np.ndarray] = []
        self.told: set[Event] = set()
        self._ticks = 0
        self.executor.step(self.now_ns, self.state)
        assert self.executor.arm(self.now_ns).ok

    @property
    def state(self) -> RobotState:
        return RobotState(self.now_ns, self.measured_J, self.velocity_J)

    @property
    def mode(self) -> Mode:
        return self.executor.status(self.now_ns).mode

    def run(self, duration_s: float, *, refuses: bool = False) -> None:
        for _ in range(round(duration_s * 1e9 / PERIOD_NS)):
            if self.plans and self._ticks % PLAN_EVERY == 0:
                seconds = (self.now_ns - START_NS) / 1e9 + 0.1 * np.arange(1, 17)
                chunk = make_chunk(plan(seconds), self.now_ns, self._ticks)
                self.executor.submit(chunk, self.now_ns)
            self.now_ns += PERIOD_NS
            self.executor.step(self.now_ns, self.state)
            ahead = self.executor.look_ahead(self.now_ns) if self._ticks % PUBLISH_EVERY == 0 else None
            if ahead is not None and not refuses:
                assert self.controller.accept(message(ahead), self.now_ns) is None
            self._ticks += 1
            self._drive()
            self.told |= set(self.executor.status(self.now_ns).conditions)

    def _drive(self) -> None:
        for step in range(round(DRIVE_HZ * PERIOD_NS / 1e9)):
            asked_J = self.controller.sample(self.now_ns + step * nanoseconds(1 / DRIVE_HZ)).position_J
            before_J = self.measured_J
            towards_J = self.held_J + self.give_J * (asked_J - self.held_J)
            self.measured_J = before_J + (towards_J - before_J) / self.lag_s / DRIVE_HZ
            self.measured_J[~ARM_JOINTS] = np.maximum(self.measured_J[~ARM_JOINTS], self.jaw_stop_m)
            self.velocity_J = (self.measured_J - before_J) * DRIVE_HZ
            self.asked.append(asked_J)

    @property
    def lead(self) -> float:
        """How far the last command is ahead of the arms."""
        return float(np.abs(self.executor._motion_3J[0] - self.measured_J)[ARM_JOINTS].max())

    def use(self, before: int = 0) -> dict[str, float]:
        """Greatest share of every limit that the drive asked of the joints since so many samples."""
        return worst_use(np.array(self.asked[before:]), SPEC, DRIVE_HZ)

    def largest_step(self, before: int) -> float:
        """Farthest that the drive asked a joint to go within one period of control."""
        samples = np.array(self.asked[before:])[:, ARM_JOINTS]
        return float(np.abs(samples[5:] - samples[:-5]).max())


@pytest.mark.parametrize(("refused_s", "found", "lead", "step"), [
    (0.1, False, 0.04, 0.02),
    (0.26, True, 0.08, 0.04),
    (0.28, True, 0.01, 0.02),
    (0.9, True, 0.01, 0.02),
], ids=["short", "just before it is found out", "found out", "long"])
def test_a_drive_that_takes_commands_again_has_little_to_catch_up_with(
    refused_s: float, found: bool, lead: float, step: float
) -> None:
    """Once it was found out, no joint is asked for more than its velocity limit allows: 0.02 rad in a period."""
    rig = Rig()
    rig.run(0.8)
    rig.run(refused_s, refuses=True)
    assert rig.lead < lead, "0.4 rad if the commands went on"
    before = len(rig.asked)
    rig.run(0.6)
    assert rig.mode in (Mode.RUN, Mode.SLOW)
    assert (Event.NOT_FOLLOWING in rig.told) == found
    assert rig.largest_step(before) < step
    assert np.abs(rig.asked[-1] - rig.asked[-50])[ARM_JOINTS].max() > 0.01, "the arms move on"


def test_a_drive_that_goes_on_refusing_is_a_fault_and_nothing_moves_when_it_takes_commands_again() -> None:
    rig = Rig()
    rig.run(0.8)
    rig.run(2.2, refuses=True)
    status = rig.executor.status(rig.now_ns)
    assert (status.mode, status.reason) == (Mode.FAULT, Event.TRACKING_ERROR)
    assert Event.NOT_FOLLOWING in rig.told
    assert rig.executor.look_ahead(rig.now_ns) is None
    stood_J, before = rig.measured_J, len(rig.asked)
    rig.run(1.0)
    assert np.abs(rig.measured_J - stood_J)[ARM_JOINTS].max() < 1e-3
    assert not rig.executor.arm(rig.now_ns).ok
    assert rig.executor.reset_fault(rig.now_ns).ok
    assert rig.executor.arm(rig.now_ns).ok
    rig.run(1.0)
    assert rig.mode is Mode.RUN
    assert np.abs(rig.measured_J - stood_J)[ARM_JOINTS].max() > 0.05, "the arms move again"
    assert max(rig.use(before)[name] for name in ("velocity", "acceleration")) < 1.05


def test_a_refusing_drive_behind_standing_arms_is_not_held_against_them() -> None:
    rig = Rig(plans=False)
    rig.run(1.5, refuses=True)
    assert not rig.told


@pytest.mark.parametrize("leave", [Executor.hold, Executor.stop])
def test_arms_that_were_moved_while_stopped_are_armed_where_they_are(leave: Callable[[Executor, int], Reply]) -> None:
    rig = Rig()
    rig.run(0.9)
    leave(rig.executor, rig.now_ns)
    rig.plans = False
    rig.run(0.5)
    moved_J = rig.measured_J + np.where(ARM_JOINTS, 0.05, 0.0)
    rig.controller.reset(moved_J, rig.now_ns)
    rig.measured_J = moved_J
    rig.run(0.1, refuses=True)
    assert rig.executor.arm(rig.now_ns).ok
    rig.run(0.5)
    assert np.abs(rig.measured_J - moved_J)[ARM_JOINTS].max() < 1e-3
    assert rig.mode is Mode.RUN


def test_jaws_on_an_object_and_slow_drives_are_not_astray() -> None:
    rig = Rig(lag_s=0.05)
    rig.jaw_stop_m = 0.019
    rig.run(1.5)
    assert not rig.told
    assert rig.mode is Mode.RUN


@pytest.mark.parametrize("seed", range(12))
def test_arms_that_something_holds_back_are_not_taken_for_arms_that_follow_an_old_look_ahead(seed: int) -> None:
    """What they touch gives way by a share of what is asked, nearly the same for all joints."""
    rng, rig = np.random.default_rng(seed), Rig()
    rig.run(0.6 + rng.uniform(0.0, 0.6))
    rig.held_J = rig.measured_J
    rig.give_J = np.where(ARM_JOINTS, np.clip(rng.uniform() + rng.normal(0.0, 0.05, JOINTS), 0.0, 1.0), 1.0)
    before = len(rig.asked)
    rig.run(1.0)
    assert Event.NOT_FOLLOWING not in rig.told
    assert rig.use(before)["velocity"] < 1.05
