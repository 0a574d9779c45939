"""The look-ahead at the other side: a trajectory controller that gets it over a jittery transport, and is left alone.

The controller is the simulated robot's; its output is sampled at 500 Hz and differentiated.
"""

from __future__ import annotations

import numpy as np
import pytest
from control_kit import JOINTS, LOWER_J, PERIOD_NS, SPEC, UPPER_J, Follower, make_chunk, smooth_plan

from starry_ros.bench.fuzz import worst_use
from starry_ros.control.executor import Executor
from starry_ros.control.limits import JerkLimiter, Limits
from starry_ros.control.status import LookAhead
from starry_ros.control.stop import StopPlanner, stop_time_s
from starry_ros.control.trajectory import through_knots
from starry_ros.sim.trajectory_controller import Trajectory, TrajectoryController, TrajectoryPoint
from starry_ros.timing import nanoseconds, seconds

DRIVE_HZ = 500
PUBLISH_EVERY = 4
"""Control periods between two look-aheads: 25 Hz."""


def message(ahead: LookAhead) -> Trajectory:
    rows = zip(ahead.time_s_N, ahead.position_NJ, ahead.velocity_NJ, ahead.acceleration_NJ, strict=True)
    points = tuple(TrajectoryPoint(nanoseconds(t), tuple(q), tuple(v), tuple(a)) for t, q, v, a in rows)
    return Trajectory(SPEC.joint_names, ahead.start_ns, points)


class Drive:
    """An executor, its transport and the controller of a drive."""

    def __init__(self, jitter_s: float, seed: int = 0) -> None:
        self.follower = Follower(position_J=smooth_plan(0.0))
        self.follower.arm()
        self.begin_ns = self.follower.now_ns
        self.controller = TrajectoryController(SPEC.joint_names, smooth_plan(0.0), self.begin_ns)
        self._rng, self._jitter_s = np.random.default_rng(seed), jitter_s
        self._on_the_way: list[tuple[int, Trajectory]] = []
        self.positions: list[np.ndarray] = []
        self._ticks = 0

    def run(self, duration_s: float, *, alive: bool = True, planning: bool = True) -> None:
        follower = self.follower
        for _ in range(round(duration_s * SPEC.rates.control_hz)):
            if alive:
                if planning and self._ticks % 50 == 0:
                    steps = smooth_plan((follower.now_ns - self.begin_ns) / 1e9 + 0.1 * np.arange(1, 17))
                    chunk = make_chunk(steps, follower.now_ns, self._ticks)
                    assert follower.executor.submit(chunk, follower.now_ns).accepted
                follower.tick()
                if self._ticks % PUBLISH_EVERY == 0:
                    self._send()
            else:
                follower.now_ns += PERIOD_NS
            self._ticks += 1
            self._drive()

    def _send(self) -> None:
        ahead = self.follower.executor.look_ahead(self.follower.now_ns)
        assert ahead is not None
        delay_s = 0.002 + self._rng.uniform(0, self._jitter_s)
        self._on_the_way.append((self.follower.now_ns + nanoseconds(delay_s), message(ahead)))

    def _drive(self) -> None:
        for step in range(DRIVE_HZ // round(SPEC.rates.control_hz)):
            now_ns = self.follower.now_ns + step * nanoseconds(1 / DRIVE_HZ)
            while self._on_the_way and self._on_the_way[0][0] <= now_ns:
                assert self.controller.accept(self._on_the_way.pop(0)[1], now_ns) is None
            self.positions.append(self.controller.sample(now_ns).position_J)

    def use(self) -> dict[str, float]:
        return worst_use(np.array(self.positions), SPEC, DRIVE_HZ)


@pytest.mark.parametrize("jitter_s", [0.0, 0.005, 0.015])
def test_the_controller_follows_the_plan_inside_the_limits_whatever_the_transports_jitter(jitter_s: float) -> None:
    drive = Drive(jitter_s)
    drive.run(5.0)
    assert max(drive.use().values()) <= 1
    plan = smooth_plan(np.arange(len(drive.positions)) / DRIVE_HZ + PERIOD_NS / 1e9)
    assert np.abs(np.array(drive.positions) - plan)[1000:].max() < 2e-3


@pytest.mark.parametrize("after_s", [1.0, 2.31, 3.07])
def test_arms_whose_executor_was_killed_decelerate_inside_the_limits_and_hold(after_s: float) -> None:
    drive = Drive(0.005)
    drive.run(after_s)
    moving = np.abs(np.diff(np.array(drive.positions)[-5:], axis=0)).max() * DRIVE_HZ
    assert moving > 0.1
    drive.run(1.0, alive=False)
    positions = np.array(drive.positions)
    assert max(drive.use().values()) <= 1
    assert np.ptp(positions[-round(0.7 * DRIVE_HZ):], axis=0).max() == 0, "at rest within 0.3 s"


def test_after_a_long_silence_the_executor_goes_on_from_where_the_last_look_ahead_ended() -> None:
    drive = Drive(0.005)
    drive.run(2.3)
    drive.run(0.8, alive=False)
    drive.run(2.0)
    assert max(drive.use().values()) <= 1
    plan = smooth_plan(np.arange(len(drive.positions)) / DRIVE_HZ + PERIOD_NS / 1e9)
    assert np.abs(np.array(drive.positions) - plan)[-250:].max() < 2e-3


def test_a_stop_reaches_the_arms_inside_the_limits() -> None:
    drive = Drive(0.005)
    drive.run(2.3)
    assert drive.follower.executor.stop(drive.follower.now_ns).ok
    drive.run(1.0, planning=False)
    assert max(drive.use().values()) <= 1
    assert np.ptp(np.array(drive.positions)[-250:], axis=0).max() < 1e-9


def test_a_look_ahead_starts_one_step_on_follows_the_commands_to_come_and_ends_at_rest() -> None:
    follower = Follower(position_J=smooth_plan(0.0))
    follower.arm()
    follower.follow(2.3)
    ahead = follower.executor.look_ahead(follower.now_ns)
    assert ahead is not None
    assert ahead.start_ns == follower.commands[-5].time_ns
    assert ahead.time_s_N[0] == pytest.approx(0.02)
    assert (np.diff(ahead.time_s_N) > 0).all()
    assert not ahead.velocity_NJ[-1].any()
    assert ahead.position_NJ.shape == (len(ahead.time_s_N), JOINTS)
    assert seconds(ahead.start_ns - follower.now_ns) + ahead.time_s_N[-1] <= 0.3 + 0.02, "at rest in time"
    follower.run(0.06)
    assert np.array_equal(ahead.position_NJ[:2], follower.positions[-9:-5:2])
    assert np.allclose(ahead.position_NJ[2:5], follower.positions[-5::2], atol=1e-9)


def test_the_time_that_a_stop_takes_is_ruckigs() -> None:
    limits, rng = Limits.of(SPEC).for_planning(), np.random.default_rng(5)
    limiter = JerkLimiter(limits)
    for _ in range(200):
        motion = np.zeros((3, JOINTS))
        motion[2] = rng.uniform(-1, 1, JOINTS) * limits.acceleration_J
        room = limits.velocity_J - motion[2] ** 2 / (2 * limits.jerk_J)
        motion[1] = rng.uniform(-1, 1, JOINTS) * room
        stop = limiter.stop(motion)
        assert stop is not None
        assert stop_time_s(motion, limits).max() == pytest.approx(stop.duration_s, abs=1e-6)


def test_arms_are_at_rest_in_time_or_as_soon_as_braking_allows() -> None:
    """Against brute force: every moment to turn on a grid, each with its stop planned by Ruckig."""
    planner, limits = StopPlanner(Limits.of(SPEC).for_planning()), Limits.of(SPEC).for_planning()
    limiter, late = JerkLimiter(limits), 0
    knots = np.arange(40) * 0.1
    curve = through_knots(knots, smooth_plan(knots, 0.55, 2.5), LOWER_J, UPPER_J)
    for from_s in np.arange(0.0, 3.9, 0.13):
        follow_s = planner.turn_s(curve, from_s, 0.03, 0.25)
        ends = {}
        for turn_s in (*np.arange(0.03, 0.26, 0.01), follow_s):
            stop = limiter.stop(curve.at(from_s + min(turn_s, 9.0)))
            assert stop is not None
            ends[turn_s] = curve.duration_s - from_s if turn_s == np.inf else turn_s + stop.duration_s
        assert ends[follow_s] <= 0.25 + 1e-9 or ends[follow_s] == pytest.approx(min(ends.values()), abs=1e-6)
        late += ends[follow_s] > 0.25
    assert late > 0, "some of it is too fast to stop in time"


def test_while_standing_the_look_ahead_holds_and_disarmed_there_is_none() -> None:
    assert Executor(SPEC).look_ahead(0) is None
    follower = Follower(position_J=smooth_plan(0.0))
    follower.arm()
    for _ in range(2):
        ahead = follower.executor.look_ahead(follower.now_ns)
        assert ahead is not None
        assert (ahead.position_NJ == smooth_plan(0.0)).all()
        assert not ahead.velocity_NJ.any()
        follower.tick()


def test_looking_ahead_changes_no_command() -> None:
    runs = []
    for looks in (False, True):
        follower = Follower(position_J=smooth_plan(0.0))
        follower.arm()
        chunk = make_chunk(smooth_plan(0.1 * np.arange(16)), follower.now_ns)
        assert follower.executor.submit(chunk, follower.now_ns).accepted
        for _ in range(200):
            follower.tick()
            if looks:
                follower.executor.look_ahead(follower.now_ns)
        runs.append(follower.positions)
    assert np.array_equal(runs[0], runs[1])
