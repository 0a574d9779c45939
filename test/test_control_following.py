"""Drives that refuse commands for a while and take them again: the arms never jump, and go on from where they are.

Each arm's drive is the simulated robot's trajectory controller behind a first-order lag; what it asks of the joints is
sampled at 500 Hz and compared with the limits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from control_kit import JOINTS, PERIOD_NS, SPEC, START_NS, make_chunk, smooth_plan

from starry_ros.bench.fuzz import worst_use
from starry_ros.control.executor import Executor
from starry_ros.control.safety import Event, Mode, Reply
from starry_ros.control.schedule import Refusal
from starry_ros.control.slices import Slices
from starry_ros.control.splice import Splice
from starry_ros.control.status import LookAhead
from starry_ros.sim.trajectory_controller import Trajectory, TrajectoryController, TrajectoryPoint
from starry_ros.timing import nanoseconds
from starry_ros.types import RobotState

DRIVE_HZ = 500
PUBLISH_EVERY, PLAN_EVERY = 2, 40
ARM_JOINTS = ~np.isin(np.arange(JOINTS), SPEC.gripper_indices)
LEFT_JAW, RIGHT_JAW = SPEC.gripper_indices
ARMS = {arm.name: SPEC.arm_slice(arm.name) for arm in SPEC.arms}
NOBODY, BOTH = (), tuple(ARMS)


def message(ahead: LookAhead, joints: slice) -> Trajectory:
    arrays = [array[:, joints] for array in (ahead.position_NJ, ahead.velocity_NJ, ahead.acceleration_NJ)]
    rows = zip(ahead.time_s_N, *arrays, strict=True)
    points = tuple(TrajectoryPoint(nanoseconds(t), tuple(q), tuple(v), tuple(a)) for t, q, v, a in rows)
    return Trajectory(SPEC.joint_names[joints], ahead.start_ns, points)


def plan(t_s: np.ndarray | float) -> np.ndarray:
    return smooth_plan(t_s, 0.3, 3.0)


class Rig:
    """An executor, drives that may refuse, and arms that lag behind them. Plans lead along `path`."""

    def __init__(
        self, *, plans: bool = True, lag_s: float = 0.02, path: Callable[[np.ndarray | float], np.ndarray] = plan
    ) -> None:
        self.executor, self.now_ns, self.plans, self.lag_s = Executor(SPEC), START_NS, plans, lag_s
        self.path, self.publishes = path, True
        self.stop_J, self.towards_J = np.zeros(JOINTS), np.zeros(JOINTS)
        self.jaw_stop_m = 0.0
        self.held_J, self.give_J = np.zeros(JOINTS), np.ones(JOINTS)
        self.measured_J, self.velocity_J = path(0.0), np.zeros(JOINTS)
        self.controllers = {
            name: TrajectoryController(SPEC.joint_names[joints], self.measured_J[joints], self.now_ns)
            for name, joints in ARMS.items()
        }
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

    def run(self, duration_s: float, *, refuses: tuple[str, ...] = NOBODY, tick: int = 1) -> None:
        """`tick`: the executor is called every so many periods."""
        for _ in range(round(duration_s * 1e9 / PERIOD_NS / tick)):
            if self.plans and self._ticks % (PLAN_EVERY // tick * tick) == 0:
                seconds = (self.now_ns - START_NS) / 1e9 + 0.1 * np.arange(1, 17)
                chunk = make_chunk(self.path(seconds), self.now_ns, self._ticks)
                self.executor.submit(chunk, self.now_ns)
            self.wait(tick - 1)
            self.now_ns += PERIOD_NS
            self.executor.step(self.now_ns, self.state)
            if tick > 1 or self._ticks % PUBLISH_EVERY == 0:
                self.publish(refuses)
            self._ticks += tick
            self._drive()
            self.told |= set(self.executor.status(self.now_ns).conditions)

    def wait(self, periods: int) -> None:
        """The arms go on; the executor is not called."""
        for _ in range(periods):
            self.now_ns += PERIOD_NS
            self._drive()

    def publish(self, refuses: tuple[str, ...] = NOBODY) -> None:
        ahead = self.executor.look_ahead(self.now_ns) if self.publishes else None
        for name, controller in self.controllers.items():
            if ahead is not None and name not in refuses:
                assert controller.accept(message(ahead, ARMS[name]), self.now_ns) is None

    def _drive(self) -> None:
        for step in range(round(DRIVE_HZ * PERIOD_NS / 1e9)):
            at_ns = self.now_ns + step * nanoseconds(1 / DRIVE_HZ)
            asked_J = np.concatenate([controller.sample(at_ns).position_J for controller in self.controllers.values()])
            before_J = self.measured_J
            towards_J = self.held_J + self.give_J * (asked_J - self.held_J)
            self.measured_J = before_J + (towards_J - before_J) / self.lag_s / DRIVE_HZ
            beyond_J = (self.measured_J - self.stop_J) * self.towards_J > 0
            self.measured_J = np.where(beyond_J, self.stop_J, self.measured_J)
            self.measured_J[~ARM_JOINTS] = np.maximum(self.measured_J[~ARM_JOINTS], self.jaw_stop_m)
            self.velocity_J = (self.measured_J - before_J) * DRIVE_HZ
            self.asked.append(asked_J)

    @property
    def lead(self) -> float:
        """How far the last command is ahead of the arms."""
        return float(np.abs(self.executor._track.motion_3J[0] - self.measured_J)[ARM_JOINTS].max())

    def use(self, before: int = 0) -> dict[str, float]:
        """Greatest share of every limit that the drive asked of the joints since so many samples."""
        return worst_use(np.array(self.asked[before:]), SPEC, DRIVE_HZ)

    def largest_step(self, before: int) -> float:
        """Farthest that the drive asked a joint to go within one period of control."""
        samples = np.array(self.asked[before:])[:, ARM_JOINTS]
        return float(np.abs(samples[5:] - samples[:-5]).max())

    def jaw_speed(self, joint: int, before: int = 0) -> float:
        """Greatest speed that a jaw was asked for, as a share of its limit."""
        steps = np.diff(np.array(self.asked[before:])[:, joint]) * DRIVE_HZ
        return float(np.abs(steps).max() / SPEC.limit("velocity")[joint])

    def reset(self, position_J: np.ndarray) -> None:
        """Somebody else moves the arms."""
        self.measured_J = position_J
        for name, controller in self.controllers.items():
            controller.reset(position_J[ARMS[name]], self.now_ns)


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
    rig.run(refused_s, refuses=BOTH)
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
    rig.run(2.2, refuses=BOTH)
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
    rig.run(1.5, refuses=BOTH)
    assert not rig.told


@pytest.mark.parametrize("leave", [Executor.hold, Executor.stop])
def test_arms_that_were_moved_while_stopped_are_armed_where_they_are(leave: Callable[[Executor, int], Reply]) -> None:
    rig = Rig()
    rig.run(0.9)
    leave(rig.executor, rig.now_ns)
    rig.plans = False
    rig.run(0.5)
    moved_J = rig.measured_J + np.where(ARM_JOINTS, 0.05, 0.0)
    rig.reset(moved_J)
    rig.run(0.2, refuses=BOTH)
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


@pytest.mark.parametrize("refused_s", [0.3, 0.5])
@pytest.mark.parametrize("arm", ARMS)
def test_one_arm_that_refuses_is_found_out_alone(arm: str, refused_s: float) -> None:
    rig = Rig()
    rig.run(0.8)
    rig.run(refused_s, refuses=(arm,))
    assert Event.NOT_FOLLOWING in rig.told
    assert rig.lead < 0.05, "0.22 rad if the commands went on"
    before = len(rig.asked)
    rig.run(0.3)
    assert rig.largest_step(before) < 0.02


def test_the_jaw_of_an_arm_that_follows_is_not_drawn_back_with_one_that_refuses() -> None:
    """The right arm stands, and closes its jaw while the left one moves and refuses."""
    def path(t_s: np.ndarray | float) -> np.ndarray:
        position, t_s = plan(t_s), np.asarray(t_s)
        position[..., ARMS["right"]] = plan(0.0)[ARMS["right"]]
        share = np.clip((t_s - 0.8) / 0.5, 0.0, 1.0)
        position[..., RIGHT_JAW] = 0.04 * (1 - share * share * (3 - 2 * share))
        return position

    rig = Rig(path=path)
    rig.run(0.8)
    before = len(rig.asked)
    rig.run(0.5, refuses=("left",))
    assert Event.NOT_FOLLOWING in rig.told
    assert np.diff(np.array(rig.asked[before:])[:, RIGHT_JAW]).max() < 1e-6, "it only closes"
    assert rig.jaw_speed(RIGHT_JAW, before) < 1.0


@pytest.mark.parametrize("late_periods", [9, 12, 20])
def test_a_late_call_forgets_nothing_of_what_a_refusing_drive_carries_out(late_periods: int) -> None:
    rig = Rig()
    rig.run(0.8)
    rig.run(0.2, refuses=BOTH)
    rig.wait(late_periods)
    rig.run(0.6, refuses=BOTH)
    assert rig.lead < 0.05, "0.39 rad if it did"
    before = len(rig.asked)
    rig.run(0.3)
    assert rig.largest_step(before) < 0.02


@pytest.mark.parametrize("tick", [2, 3, 4, 6])
def test_a_slow_machine_finds_a_refusing_drive_out_too(tick: int) -> None:
    rig = Rig()
    rig.run(0.8)
    rig.run(0.12, tick=tick)
    rig.run(0.6, refuses=BOTH, tick=tick)
    assert Event.NOT_FOLLOWING in rig.told
    before = len(rig.asked)
    rig.run(0.3)
    assert rig.largest_step(before) < 0.03, "0.17 rad if it did not"


@pytest.mark.parametrize("refused_s", [0.1, 0.2, 0.28])
def test_a_stop_begins_where_the_arms_are_and_not_where_commands_have_run_to(refused_s: float) -> None:
    rig = Rig()
    rig.run(0.9)
    rig.run(0.25, refuses=BOTH)
    assert rig.executor.hold(rig.now_ns).ok
    rig.plans = False
    rig.run(refused_s, refuses=BOTH)
    before = len(rig.asked)
    rig.run(0.4)
    assert rig.largest_step(before) < 0.02
    assert rig.mode is Mode.HOLD


@pytest.mark.parametrize("late_periods", [4, 8, 12, 16, 20])
def test_a_stop_that_comes_before_a_late_tick_knows_that_the_arms_went_on(late_periods: int) -> None:
    rig = Rig(path=lambda t_s: smooth_plan(t_s, 0.06, 3.0))
    rig.run(1.0)
    rig.wait(late_periods)
    before = len(rig.asked)
    rig.now_ns += PERIOD_NS
    assert rig.executor.stop(rig.now_ns).ok
    rig.plans = False
    rig.run(0.4)
    assert max(rig.use(before)[name] for name in ("velocity", "acceleration")) < 1.05


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.2])
@pytest.mark.parametrize("short", [0.02, 0.025, 0.03, 0.05])
def test_a_jaw_that_opens_while_something_stops_the_arm_short_is_not_shut_again(short: float, noise: float) -> None:
    """Arms that press, and lie where an old look-ahead would have stopped."""
    way_J = np.zeros(JOINTS)
    way_J[[1, 2, 4]] = 0.25, -0.35, 0.15

    def path(t_s: np.ndarray | float) -> np.ndarray:
        t_s = np.asarray(t_s)[..., None]
        share = np.clip(t_s / 1.2, 0.0, 1.0)
        position = plan(0.0) + share**3 * (10 - 15 * share + 6 * share**2) * way_J
        opened = np.clip((t_s[..., 0] - 1.3) / 0.4, 0.0, 1.0)
        position[..., LEFT_JAW] = 0.005 + 0.03 * opened**2 * (3 - 2 * opened)
        return position

    rig = Rig(path=path)
    missing_J = short / 0.35 * (1 + noise * np.random.default_rng(1).standard_normal(JOINTS))
    rig.stop_J, rig.towards_J = plan(0.0) + way_J * (1 - missing_J), np.sign(way_J)
    rig.run(2.0)
    assert rig.jaw_speed(LEFT_JAW) < 1.05
    assert rig.largest_step(0) < 0.02
    assert np.array(rig.asked)[-1, LEFT_JAW] > 0.02


@pytest.mark.parametrize("moved_rad", [0.0, 0.2])
@pytest.mark.parametrize("when_s", [0.9, 1.2])
def test_arms_that_another_has_let_go_stay_where_they_are_until_they_are_armed(when_s: float, moved_rad: float) -> None:
    rig = Rig()
    rig.run(when_s)
    rig.executor.set_estop(True, rig.now_ns)
    rig.executor.let_go()
    rig.publishes = rig.plans = False
    rig.run(0.6)
    moved_J = rig.measured_J.copy()
    moved_J[0] += moved_rad
    rig.reset(moved_J)
    rig.run(0.1)
    rig.executor.set_estop(False, rig.now_ns)
    rig.publishes = True
    rig.run(0.5)
    assert np.array_equal(rig.asked[-1], moved_J), "nothing was sent"
    assert rig.executor.reset_fault(rig.now_ns).ok
    before = len(rig.asked)
    assert rig.executor.arm(rig.now_ns).ok
    rig.plans = True
    rig.run(1.0)
    assert np.abs(rig.measured_J - moved_J)[ARM_JOINTS].max() > 0.02, "the arms move again"
    assert max(rig.use(before)[name] for name in ("velocity", "acceleration")) < 1.05


def test_what_was_not_sent_is_not_taken_for_something_that_the_arms_know() -> None:
    rig = Rig()
    rig.run(0.8)
    sent = rig.executor._outlook.last
    rig.executor.look_ahead(rig.now_ns)
    assert rig.executor._outlook.last is not sent
    rig.executor.take_back(BOTH)
    assert rig.executor._outlook.last is sent


@pytest.mark.parametrize("held_up_s", [0.1, 0.3, 0.8])
def test_a_hold_up_between_the_messages_to_two_arms_pulls_neither_of_them_along(held_up_s: float) -> None:
    rig = Rig()
    rig.run(0.8)
    rig.publish(refuses=("right",))
    rig.executor.take_back(("right",))
    rig.wait(round(held_up_s * 1e9 / PERIOD_NS))
    before = len(rig.asked)
    rig.run(0.5)
    assert max(rig.use(before)[name] for name in ("velocity", "acceleration")) < 1.05


def test_after_a_freeze_nothing_is_sent_until_arm_for_nobody_knows_what_was_in_time() -> None:
    """The last message to one arm came too late, and its controller refused it."""
    rig = Rig()
    rig.run(0.8)
    rig.publish(refuses=("right",))
    rig.wait(round(2.0 * 1e9 / PERIOD_NS))
    stood_J, before = rig.asked[-1], len(rig.asked)
    rig.plans = False
    rig.run(0.5)
    assert rig.mode is Mode.STOP
    assert np.array_equal(rig.asked[before:], np.broadcast_to(stood_J, (len(rig.asked) - before, JOINTS)))
    assert rig.executor.arm(rig.now_ns).ok
    rig.plans = True
    rig.run(1.0)
    assert np.abs(rig.measured_J - stood_J)[ARM_JOINTS].max() > 0.02, "the arms move again"
    assert max(rig.use(before)[name] for name in ("velocity", "acceleration")) < 1.05


@pytest.mark.parametrize("late_periods", [5, 20, 50, 90])
@pytest.mark.parametrize("stops", [False, True])
@pytest.mark.parametrize("stood_s", [PERIOD_NS / 1e9, 0.5], ids=["just armed", "stood for a while"])
def test_a_plan_that_no_arm_was_told_of_is_not_run_to_meet_a_late_call(
    late_periods: int, stops: bool, stood_s: float
) -> None:
    """The arms stand, a plan is taken, and the process is held up before its first trajectory."""
    rig = Rig(plans=False)
    rig.publishes = stood_s > PERIOD_NS / 1e9
    rig.run(stood_s)
    rig.publishes = True
    ramp_KJ = np.tile(plan(0.0), (16, 1))
    ramp_KJ[:, 0] += 0.1 * np.arange(1, 17)
    assert rig.executor.submit(make_chunk(ramp_KJ, rig.now_ns, 1), rig.now_ns).accepted
    rig.wait(late_periods)
    if stops:
        rig.executor.set_estop(True, rig.now_ns)
    before = len(rig.asked)
    rig.run(0.5)
    assert max(rig.use(before)[name] for name in ("velocity", "acceleration")) < 1.05
    assert (np.abs(rig.measured_J - plan(0.0)).max() < 1e-3) == stops


def test_the_first_arm_leaves_jaws_where_they_are_also_where_the_estop_was_heard_before() -> None:
    executor, open_J = Executor(SPEC), plan(0.0)
    open_J[[LEFT_JAW, RIGHT_JAW]] = 0.03
    state = RobotState(START_NS, open_J, np.zeros(JOINTS))
    executor.step(START_NS, state)
    executor.set_estop(False, START_NS)
    assert executor.arm(START_NS).ok
    command = executor.step(START_NS + PERIOD_NS, state)
    assert command is not None
    assert np.allclose(command.position_J, open_J)


@pytest.mark.parametrize("calls", [1, 2])
def test_a_jaw_goes_on_holding_however_often_the_fault_is_reset_and_however_late_the_stop_was(calls: int) -> None:
    """The hold-up is inside another callback, so that the emergency stop comes before the tick."""
    def path(t_s: np.ndarray | float) -> np.ndarray:
        position = plan(t_s)
        position[..., ~ARM_JOINTS] = 0.03 - 0.02 * np.clip(np.asarray(t_s)[..., None] / 0.6, 0.0, 1.0)
        return position

    rig = Rig(path=path)
    rig.jaw_stop_m = 0.019
    rig.run(0.9)
    rig.wait(20)
    rig.executor.set_estop(True, rig.now_ns)
    rig.plans = False
    held_m = float(rig.executor._track.motion_3J[0, LEFT_JAW])
    assert held_m < 0.018, "it presses"
    rig.run(0.5)
    assert rig.executor._schedule.chunk is None
    pressed_m = float(rig.executor._track.motion_3J[0, LEFT_JAW])
    rig.executor.set_estop(False, rig.now_ns)
    for _ in range(calls):
        rig.executor.reset_fault(rig.now_ns)
    assert rig.executor.arm(rig.now_ns).ok
    assert float(rig.executor._track.motion_3J[0, LEFT_JAW]) == pytest.approx(pressed_m)


def test_refusals_of_long_ago_do_not_add_up() -> None:
    rig = Rig()
    rig.run(0.8)
    rig.run(0.35, refuses=BOTH)
    assert Event.NOT_FOLLOWING in rig.told
    assert rig.executor.hold(rig.now_ns).ok
    rig.plans = False
    rig.run(2.0)
    assert rig.executor.arm(rig.now_ns).ok
    rig.told.clear()
    rig.run(0.1)
    assert rig.mode is Mode.RUN
    assert Event.NOT_FOLLOWING not in rig.told
    rig.plans = True
    rig.run(0.8)
    rig.run(0.3, refuses=BOTH)
    assert rig.mode is not Mode.FAULT


def test_after_a_tracking_error_nothing_is_counted_or_told_any_more() -> None:
    rig = Rig()
    rig.run(0.8)
    rig.run(2.2, refuses=BOTH)
    assert rig.mode is Mode.FAULT
    rig.executor.new_course()
    missed = rig.executor.status(rig.now_ns).missed_ticks
    for _ in range(30):
        rig.wait(2)
        rig.run(0.01)
        assert rig.executor.new_course() is None
    assert rig.executor.status(rig.now_ns).missed_ticks == missed


def closed() -> Slices[Splice | Refusal]:
    yield
    return Refusal.ARMS_TOO_CLOSE


@pytest.mark.parametrize("arm", ARMS)
def test_where_the_way_on_is_closed_the_other_arm_stops_too(arm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    rig.executor.set_condition(Event.PLANNER_DEGRADED, True, rig.now_ns)
    rig.run(0.9)
    assert rig.mode is Mode.SLOW
    monkeypatch.setattr(rig.executor._joiner, "work", lambda *_: closed())
    rig.run(0.5, refuses=(arm,))
    rig.run(0.5)
    assert Event.NOT_FOLLOWING in rig.told
    assert np.abs(rig.velocity_J[ARM_JOINTS]).max() < 1e-3
