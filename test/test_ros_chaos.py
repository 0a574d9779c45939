"""The judge and the faults of `starry chaos`, without a graph."""

from __future__ import annotations

import contextlib
import pickle
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from control_kit import FULL_SPEC

pytest.importorskip("rclpy", reason="the ROS 2 wheels are not installed: make setup")

from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image, JointState
from starry_ros.msg import ActionChunk
from trajectory_msgs.msg import JointTrajectory

from starry_ros.ros import arguments, chaos
from starry_ros.ros import chaos_messages as change_messages
from starry_ros.ros.chaos_faults import FAULT, GOES_ON, GONE, LOOK_AHEAD_END, PLAN_END, RESTS, SCENARIOS, Scenario
from starry_ros.ros.chaos_judge import Failed, Witness, stood_still, within_limits
from starry_ros.ros.graph import build_graph
from starry_ros.ros.relay import PLAN_TOPIC, Passed, remappings

HOME = FULL_SPEC.limit("home")
LIMIT = FULL_SPEC.limit("velocity")


TIMES = np.arange(0.0, 5.0, 0.02)
HERE = Passed(0.0, 1.0, HOME[None])


def motions(speed_of_t: Any, position_J: np.ndarray = HOME) -> Any:
    """All joints at these shares of their speed limits."""
    position_NJ = np.broadcast_to(position_J, (len(TIMES), len(HOME))).copy()
    return TIMES, position_NJ, np.array([speed_of_t(t) for t in TIMES])[:, None] * LIMIT


def swings(joint: str, from_s: float = 0.0, until_s: float = 9.0) -> np.ndarray:
    """One joint moves for a while, and all others stand at home."""
    position_NJ = np.tile(HOME, (len(TIMES), 1))
    phase_N = np.clip(TIMES, from_s, until_s) - from_s
    position_NJ[:, FULL_SPEC.joint_names.index(joint)] -= 0.02 * np.abs(np.sin(3.0 * phase_N))
    return position_NJ


GOING_ON = swings("right_elbow")
OFF = 0.003
"""Joints are so far from their commands that they do not count as in place when they move."""


def asked(speed_of_t: Any) -> Any:
    """Controllers that asked for it."""
    speeds = motions(speed_of_t)[2]
    return TIMES, HOME - OFF + np.cumsum(speeds * 0.02, axis=0), speeds


class Watched:
    """A theatre whose simulated robot did what a test says."""

    def __init__(
        self, speed_of_t: Any = lambda _: 0.0, mode: str = "RUN", position_J: np.ndarray = HOME,
        told_of_t: Any = lambda _: 0.0, reason: str = "", **more: Any,
    ) -> None:
        self.spec, self.mode, self.reason, self.since_s = FULL_SPEC, mode, reason, 0.0
        self.looked_away_s = 0.0
        self.known = {"plans": [HERE], "look_aheads": [], **more}
        self.seen, self.told = motions(speed_of_t, position_J), asked(told_of_t)
        self.pushed = TIMES, np.zeros((len(TIMES), len(HOME))), np.zeros((len(TIMES), len(HOME)))
        executor = SimpleNamespace(accepted=5)
        self.operator = SimpleNamespace(heard=SimpleNamespace(executor=executor, session=SimpleNamespace(reason="")))
        self.reasons, self.refusals = {"x", "joint_state_stale"}, {"not_finite": 3, "duplicate": 2}
        self.refused_before, self.accepted_before, self.offered, self.followed_ours = {"duplicate": 2}, 2, 0, False

    def wait(self, duration_s: float) -> None:
        pass

    def refused(self) -> dict[str, int]:
        return self.refusals

    def witness(self) -> Witness:
        return Witness(self.spec, 0.0, self.seen, self.told, self.pushed, **self.known)

    def diagnosed(self, node: str) -> str:
        return f"{node} is full"


def judge(watched: Watched, outcome: str = RESTS, **more: Any) -> Any:
    return chaos._judge(watched, Scenario(outcome, lambda _: None, **{"within_s": 1.0, **more}))


def test_arms_that_come_to_rest_in_time_pass_and_the_time_is_told() -> None:
    row = judge(Watched(lambda t: max(0.0, 0.5 - t)))
    assert row["rest_s"] == pytest.approx(0.5, abs=0.03)
    assert row["due_s"] == 1.0


@pytest.mark.parametrize(("watched", "outcome", "words"), [
    (Watched(lambda t: 0.5 * (t < 2.0)), RESTS, "still moving"),
    (Watched(lambda t: 1.2 * (t < 0.5), told_of_t=lambda t: -1.2 * (t < 0.1)), RESTS, "is asked to move at"),
    (Watched(lambda t: 0.5 * (t < 0.5), told_of_t=lambda t: 1.2 * (0.2 < t < 0.23)), RESTS, "is asked to move at"),
    (Watched(lambda t: 0.5 * (t < 0.5), told_of_t=lambda t: 0.5 * (t < 0.5)), RESTS, "is asked to stand off"),
    (Watched(lambda t: 2.6 * (t < 0.02)), RESTS, "outside the limits.* moves at"),
    (Watched(lambda t: 1.2 * (t < 0.2)), RESTS, "outside the limits.* moves above its limit for"),
    (Watched(lambda t: 0.0, position_J=FULL_SPEC.limit("upper") + 0.1), RESTS, "outside the limits"),
    (Watched(lambda t: 0.5, mode="FAULT"), GOES_ON, "did not go on"),
])
def test_the_judge_goes_by_what_the_arms_did(watched: Watched, outcome: str, words: str) -> None:
    with pytest.raises(Failed, match=words):
        judge(watched, outcome)


def test_speed_may_not_be_gained_faster_than_twice_the_limit() -> None:
    sudden = Watched(told_of_t=lambda t: -0.8 * (0.01 < t < 0.03))
    with pytest.raises(Failed, match="is asked to gain speed at"):
        judge(sudden)
    assert judge(sudden, commands_lost=True)["worst_acceleration"] > 2


def test_a_kick_by_what_is_touched_passes() -> None:
    judge(Watched(lambda t: 2.4 * (t < 0.06)))
    slipped, jaw = Watched(), FULL_SPEC.joint_names.index("left_gripper")
    slipped.seen[2][(TIMES > 0.5) & (TIMES < 0.55), jaw] = 6.0 * LIMIT[jaw]
    with pytest.raises(Failed, match=r"left_gripper moves at 1\.200 0\.52 s after"):
        judge(slipped)
    slipped.pushed[1][(TIMES > 0.3) & (TIMES < 0.5), :] = 0.02
    judge(slipped)
    slipped.seen[2][(TIMES > 0.5) & (TIMES < 0.55), 0] = 2.6 * LIMIT[0]
    with pytest.raises(Failed, match="left_waist moves at"):
        judge(slipped)
    slipped.seen[2][(TIMES > 0.5) & (TIMES < 0.55), 0] = 0.0
    slipped.seen[2][(TIMES > 0.5) & (TIMES < 0.55), jaw] = 8.1 * LIMIT[jaw]
    with pytest.raises(Failed, match="left_gripper moves at"):
        judge(slipped, commands_lost=True)
    slipped.seen[2][(TIMES > 0.5) & (TIMES < 0.65), jaw] = 6.0 * LIMIT[jaw]
    with pytest.raises(Failed, match="left_gripper moves above its limit for"):
        judge(slipped)


def test_what_was_heard_in_a_play_that_failed_is_kept(tmp_path: Path) -> None:
    watched = moved(0.03)
    chaos.keep(watched.witness(), tmp_path / "failed.npz")
    kept = np.load(tmp_path / "failed.npz")
    assert tuple(kept["joint_names"]) == FULL_SPEC.joint_names
    for what, motions_ in (("seen", watched.seen), ("asked", watched.told), ("pushed", watched.pushed)):
        for part, values in zip(("s", "position", "velocity"), motions_, strict=True):
            np.testing.assert_array_equal(kept[f"{what}_{part}"], values)


def test_arms_that_run_out_of_plans_have_until_their_end_and_a_little_more() -> None:
    late = Watched(lambda t: 0.3 * (t < 1.5), plans=[Passed(-0.5, 1.1, HOME[None]), Passed(0.1, 1.3, HOME[None])])
    assert judge(late, within_s=4.0, counts_from=PLAN_END)["due_s"] == pytest.approx(1.6)
    late.known["plans"] = late.known["plans"][:1]
    with pytest.raises(Failed, match=r"still moving 1.48 s after the fault, due after 1.40 s"):
        judge(late, within_s=4.0, counts_from=PLAN_END)
    late.known["delay_s"] = 0.2
    assert judge(late, within_s=4.0, counts_from=PLAN_END)["due_s"] == pytest.approx(1.6)


@pytest.mark.parametrize(("off", "told_of_t", "rests"), [
    (0.0015, lambda _: 0.0, True), (0.0025, lambda _: 0.0, False), (0.0, lambda t: 0.05 * (1.45 < t < 1.6), False),
])
def test_a_joint_that_is_jolted_in_its_place_rests(off: float, told_of_t: Any, rests: bool) -> None:
    watched, joint = Watched(told_of_t=told_of_t), FULL_SPEC.joint_names.index("right_waist")
    watched.seen[2][(TIMES > 1.5) & (TIMES < 1.6), joint] = 0.05
    watched.seen[1][:] = watched.told[1]
    watched.seen[1][:, joint] += off
    if rests:
        assert judge(watched)["rest_s"] == 0.0
        return
    with pytest.raises(Failed, match="right_waist still moving"):
        judge(watched)


def test_joints_whose_commands_are_not_heard_are_not_taken_for_standing_in_their_place() -> None:
    watched = Watched()
    watched.seen[2][TIMES > 1.5] = 0.05
    watched.seen[1][:] = watched.told[1]
    watched.told = tuple(part[TIMES < 1.2] for part in watched.told)
    with pytest.raises(Failed, match="what is asked of the joints was not heard"):
        judge(watched)


@pytest.mark.parametrize("joint", ["right_gripper", "right_waist"])
def test_the_joint_that_moves_too_long_is_named_a_jaw_as_well(joint: str) -> None:
    watched = Watched()
    watched.seen[2][(TIMES > 1.5) & (TIMES < 1.6), FULL_SPEC.joint_names.index(joint)] = -0.5
    with pytest.raises(Failed, match=rf"{joint} still moving 1\.58 s after the fault, due after 1\.00 s"):
        judge(watched)


def moved(
    pushed_rad: float, speed_of_t: Any = lambda _: 0.0, span_s: tuple[float, float] = (1.0, 2.0),
    joint: str = "right_waist",
) -> Watched:
    """A joint that is seen to move from 1.5 to 1.6 s after the fault, and contacts that push on one for a while."""
    watched, names = Watched(told_of_t=speed_of_t), FULL_SPEC.joint_names
    watched.seen[2][(TIMES > 1.5) & (TIMES < 1.6), names.index("right_waist")] = 0.1
    watched.pushed[1][(span_s[0] <= TIMES) & (span_s[1] > TIMES), names.index(joint)] = pushed_rad
    return watched


def test_a_joint_that_is_told_to_stand_may_be_moved_by_what_it_touches_and_is_named() -> None:
    freed = moved(0.03, span_s=(0.5, 1.35))
    for watched in (moved(0.005), moved(-0.005), freed):
        row = judge(watched)
        assert (row["pressed"], row["rest_s"]) == ("right_waist", 0.0)
    assert judge(Watched(lambda t: max(0.0, 0.5 - t)))["pressed"] == ""


def held_off(
    off_rad: float, pushed_rad: float, joint: str = "right_waist", span_s: tuple[float, float] = (0.5, 1.0),
    reason: str = "tracking_error",
) -> Watched:
    """Stopped arms; a joint was off what was asked of it for a while, and contacts held it off."""
    watched, j = Watched(mode="FAULT", reason=reason), FULL_SPEC.joint_names.index(joint)
    during = (span_s[0] <= TIMES) & (span_s[1] > TIMES)
    watched.seen[1][during, j] += off_rad
    watched.pushed[1][during, j] = pushed_rad
    return watched


NOT_BY_TOUCH = {
    "nothing touched": (0.03, 0.0), "pushed the other way": (0.03, -0.05), "hardly off": (0.01, 0.05),
    "hardly pushed": (0.03, 0.01), "a jaw that holds": (-0.005, -0.005, "right_gripper"),
    "for a moment": (0.03, 0.05, "right_waist", (0.5, 0.57)),
}


def test_arms_that_rest_held_off_by_what_they_touch_may_be_stopped_for_that() -> None:
    def rests(watched: Watched, counts_from: str = PLAN_END) -> Any:
        return judge(watched, stopped_by=("planner_lost",), counts_from=counts_from)

    assert rests(held_off(0.03, 0.05))["pressed"] == "right_waist"
    assert rests(held_off(-0.03, -0.05))["pressed"] == "right_waist"
    others = [(held_off(*wrong), PLAN_END) for wrong in NOT_BY_TOUCH.values()]
    for watched, counts_from in [(held_off(0.03, 0.05), FAULT), *others]:
        with pytest.raises(Failed, match="not stopped by planner_lost, but FAULT tracking_error"):
            rests(watched, counts_from)


def test_arms_that_no_plan_led_to_what_they_rest_on_have_no_excuse() -> None:
    led = held_off(0.03, 0.05)
    led.seen[1][TIMES > 1.0, 0] += 0.2
    with pytest.raises(Failed, match="left_waist is away from every plan"):
        judge(led, stopped_by=("planner_lost",), counts_from=PLAN_END)


def guarded(watched: Watched, outcome: str = GOES_ON) -> bool:
    with pytest.raises(Failed, match="the arms did not go on: FAULT") as found:
        judge(watched, outcome)
    return isinstance(found.value, chaos.GuardedError)


def test_arms_that_stop_by_a_guard_of_their_own_are_watched_again_and_by_no_other() -> None:
    assert guarded(held_off(0.03, 0.05))
    assert guarded(held_off(0.0, 0.0, reason="surprise_high"))
    for wrong in NOT_BY_TOUCH.values():
        assert not guarded(held_off(*wrong)), wrong
    assert not guarded(held_off(0.03, 0.05, reason="joint_state_stale"))


def test_arms_that_were_led_against_something_by_a_plan_that_was_not_the_planners_have_no_excuse() -> None:
    led, ours = held_off(0.03, 0.05), held_off(0.03, 0.05)
    led.seen[1][TIMES > 1.0, 0] += 0.2
    ours.followed_ours = True
    for watched, words in ((led, "left_waist is away from every plan"), (ours, "none of the planner's")):
        with pytest.raises(Failed, match=words) as found:
            judge(watched, GOES_ON)
        assert not isinstance(found.value, chaos.GuardedError)


def test_what_a_joint_touches_does_not_explain_that_it_goes_far() -> None:
    watched = moved(0.03)
    watched.seen[1][TIMES > 1.55, FULL_SPEC.joint_names.index("right_waist")] += 0.2
    with pytest.raises(Failed, match="right_waist still moving"):
        judge(watched)


def test_what_is_not_heard_of_the_commands_excuses_nothing() -> None:
    watched = moved(0.03)
    watched.told = tuple(part[:60] for part in watched.told)
    with pytest.raises(Failed, match="what is asked of the joints was not heard"):
        judge(watched)


@pytest.mark.parametrize("watched", [
    moved(0.0),
    moved(0.002),
    moved(0.03, joint="right_shoulder"),
    moved(0.03, span_s=(0.5, 1.25)),
    moved(0.03, span_s=(1.8, 2.5)),
    moved(0.03, speed_of_t=lambda t: -0.1 * (t < 0.9)),
    moved(0.03, speed_of_t=lambda t: -0.1 * (1.2 < t < 1.3)),
], ids=["free", "hardly pushed", "another one is pushed", "pushed before", "pushed later",
        "told to move until shortly before", "told to move after that"])
def test_no_other_joint_may_move_after_it_is_due(watched: Watched) -> None:
    with pytest.raises(Failed, match=r"right_waist still moving 1\.58 s"):
        judge(watched)


@pytest.mark.parametrize("change", [lambda t: 0.01 * (t > 1.45), lambda t: 0.02 * np.maximum(t - 1.0, 0.0)],
                         ids=["a step between two words", "a creep"])
def test_commands_that_move_without_saying_so_excuse_nothing(change: Any) -> None:
    watched = moved(0.03)
    judge(watched)
    watched.told[1][:, FULL_SPEC.joint_names.index("right_shoulder")] += change(TIMES)
    with pytest.raises(Failed, match="right_waist still moving"):
        judge(watched)


def test_what_is_asked_of_the_joints_may_be_heard_late() -> None:
    late, heard = Watched(), []
    late.told, whole = tuple(part[:0] for part in late.told), late.told

    def wait(duration_s: float) -> None:
        heard.append(duration_s)
        late.told = whole if len(heard) > 5 else late.told

    late.wait = wait  # type: ignore[method-assign]
    assert judge(late)["rest_s"] == 0.0
    assert len(heard) == 6


def test_arms_that_run_out_of_commands_have_until_the_end_of_those_that_were_sent_before() -> None:
    before = [Passed(-0.02, 0.2), Passed(0.0, 0.25), Passed(0.0, 0.2)]
    killed = Watched(lambda t: 0.3 * (t < 0.5), look_aheads=before)
    assert judge(killed, within_s=4.0, counts_from=LOOK_AHEAD_END)["due_s"] == pytest.approx(0.55)
    killed = Watched(lambda t: 0.3 * (t < 0.7), look_aheads=[*before, Passed(2.0, 2.3)])
    with pytest.raises(Failed, match=r"due after 0\.55 s"):
        judge(killed, within_s=4.0, counts_from=LOOK_AHEAD_END)


def test_a_robot_that_is_gone_must_not_be_sent_on_its_way_again() -> None:
    gone = Watched(mode="FAULT", reason="joint_state_stale", look_aheads=[Passed(0.3, 0.6)])
    with pytest.raises(Failed, match="alive"):
        judge(gone, GONE)
    gone.seen = tuple(part[:1] for part in gone.seen)
    assert judge(gone, GONE, stopped_by=("joint_state_stale",))["rest_s"] == pytest.approx(0.6)
    gone.known["look_aheads"].append(Passed(1.2, 1.5))
    with pytest.raises(Failed, match=r"until 1\.50 s"):
        judge(gone, GONE)


def test_a_robot_that_ends_for_want_of_cameras_may_take_a_moment_and_no_longer() -> None:
    ending = Watched(mode="FAULT", reason="joint_state_stale", look_aheads=[Passed(0.3, 0.6)])
    every = ending.seen
    for until_s, ends_s, alive in ((0.05, 0.0, False), (0.3, 0.0, True), (0.3, 0.4, False), (0.6, 0.4, True)):
        ending.seen = tuple(part[every[0] <= until_s] for part in every)
        with pytest.raises(Failed, match="alive") if alive else contextlib.nullcontext():
            judge(ending, GONE, stopped_by=("joint_state_stale",), ends_s=ends_s)


def test_arms_that_go_on_follow_the_planner_and_nobody_else() -> None:
    judge(Watched(position_J=GOING_ON), GOES_ON)
    elsewhere = HOME.copy()
    elsewhere[0] += 0.2
    with pytest.raises(Failed, match="left_waist is away from every plan"):
        judge(Watched(position_J=np.linspace(HOME, elsewhere, len(TIMES))), GOES_ON)
    ours, idle, accepted = (Watched(position_J=GOING_ON) for _ in range(3))
    ours.followed_ours, idle.accepted_before, accepted.offered = True, 5, 7
    for watched, words in ((ours, "none of the planner's"), (idle, "no plan was followed"), (accepted, "3 were refu")):
        with pytest.raises(Failed, match=words):
            judge(watched, GOES_ON)


def heard_until(watched: Watched, *ends_s: float) -> list[float]:
    """Joint states come as one waits: until which time at first, and after each wait. Returns how long was waited."""
    waits, whole, ends = [], watched.seen, iter(ends_s[1:])

    def hear(end_s: float) -> None:
        watched.seen = tuple(part[whole[0] <= end_s] for part in whole)

    def wait(duration_s: float) -> None:
        waits.append(duration_s)
        hear(next(ends, ends_s[-1]))

    hear(ends_s[0])
    watched.wait = wait  # type: ignore[method-assign]
    return waits


def test_how_far_arms_that_go_on_travelled_is_told() -> None:
    going = Watched(position_J=GOING_ON)
    waits = heard_until(going, 0.0, 3.1)
    assert judge(going, GOES_ON)["travelled_rad"] == pytest.approx(0.038, abs=0.002)
    assert waits == [3.0]  # a fault that was put in place at once
    assert judge(Watched(position_J=GOING_ON), GOES_ON)["travelled_rad"] > 0.1  # one that lasted as long as was heard


@pytest.mark.parametrize("position_J", [
    HOME, swings("right_elbow", until_s=2.0), swings("right_gripper"), swings("right_elbow", from_s=3.2),
], ids=["stand", "finish the last plan", "move a jaw only", "go on once the fault has gone"])
def test_arms_that_stand_while_a_fault_is_on_do_not_go_on(position_J: np.ndarray) -> None:
    standing = Watched(position_J=position_J)
    heard_until(standing, 3.1, 4.1)
    with pytest.raises(Failed, match=r"the arms stood still: their joints travelled 0\.0000 rad in all"):
        judge(standing, GOES_ON)


def test_where_the_planner_may_get_no_turn_arms_may_go_on_afterwards() -> None:
    resting = Watched(position_J=swings("right_elbow", from_s=3.2))
    heard_until(resting, 3.1, 3.3, 4.3)
    assert judge(resting, GOES_ON, starves=True)["travelled_rad"] > 0.02
    standing = Watched()
    heard_until(standing, 3.1, 4.1)
    with pytest.raises(Failed, match="the arms stood still"):
        judge(standing, GOES_ON, starves=True)


class Waiting(Watched):
    """Arms that wait for `arm`, and for which the planner plans again once they have it."""

    def __init__(self, position_J: np.ndarray, **more: Any) -> None:
        super().__init__(mode="STOP", reason="planner_lost", position_J=position_J, **more)
        self.relays, self.notes = SimpleNamespace(newest_s=1.8), list[str]()

    def witness_since(self, since_s: float) -> Witness:
        known = [tuple(part[motions[0] > since_s] for part in motions) for motions in (self.seen, self.told)]
        return Witness(self.spec, since_s, *known, self.pushed, [HERE], [])  # type: ignore[arg-type]

    def note(self, text: str) -> None:
        self.notes.append(text)

    def arm(self) -> None:
        self.mode, self.relays.newest_s = "RUN", 1.9

    def until(self, ready: Any, _timeout_s: float, what: str) -> None:
        if not ready():
            raise Failed(what)


def test_arms_whose_plans_come_too_late_wait_for_arm_and_go_on_after_it() -> None:
    waiting = Waiting(GOING_ON)
    assert judge(waiting, GOES_ON, waits=True)["travelled_rad"] > 0.0
    assert waiting.notes == ["waited for arm"]
    with pytest.raises(Failed, match="motion after arm"):
        judge(Waiting(HOME), GOES_ON, waits=True)
    with pytest.raises(Failed, match="did not go on: STOP planner_lost"):
        judge(Waiting(GOING_ON), GOES_ON)
    restless = Waiting(GOING_ON, speed_of_t=lambda t: 0.1 * (1.5 < t < 1.6))
    with pytest.raises(Failed, match="moved before they were armed"):
        judge(restless, GOES_ON, waits=True)


def slowed(run: int, monkeypatch: pytest.MonkeyPatch) -> tuple[list[float], list[float]]:
    """The factors that a play tells, and those by which it slows the planner in fact, one a spell."""
    sent, slept, notes, shares = [], list[float](), list[str](), list[float]()
    monkeypatch.setattr("starry_ros.ros.chaos_faults.time.sleep", slept.append)

    def during(_duration_s: float, act: Any, every_s: float) -> None:
        act()
        shares.append((slept[-1] + every_s) / every_s)

    stage: Any = SimpleNamespace(run=run, note=notes.append, during=during, send=lambda *what: sent.append(what))
    SCENARIOS["planner_slow"].inject(stage)
    assert sent == [("world_action", signal.SIGSTOP), ("world_action", signal.SIGCONT)] * len(notes)
    return [float(note) for note in notes], shares


def test_a_slow_planner_is_slower_by_another_factor_in_every_spell_and_play_and_the_same_play_repeats(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plays = [slowed(run, monkeypatch) for run in range(20)]
    for told, shares in plays:
        assert told == pytest.approx(shares, abs=0.051)
        assert len(set(told)) > 1
    every = [factor for told, _ in plays for factor in told]
    assert len({tuple(told) for told, _ in plays}) == len(plays)
    assert (min(every), max(every)) == (pytest.approx(1.0, abs=0.2), pytest.approx(5.0, abs=0.2))
    assert slowed(7, monkeypatch) == plays[7]


def test_a_stop_must_have_its_reason_and_a_node_must_say_what_it_lacks() -> None:
    stopped = Watched(mode="STOP", reason="planner_lost")
    judge(stopped, stopped_by=("planner_lost",), diagnosed=("disk", "disk is full"))
    with pytest.raises(Failed, match="not stopped by clock_jump, but STOP planner_lost"):
        judge(stopped, stopped_by=("clock_jump",))
    with pytest.raises(Failed, match="recorder does not say"):
        judge(stopped, diagnosed=("recorder", "disk"))


@pytest.mark.parametrize(("joint", "velocity", "off", "words"), [
    ("left_gripper", 2.4, 0.0, ""),
    ("left_gripper", 2.6, 0.0, "left_gripper moves at"),
    ("left_gripper", 0.0, 0.007, ""),
    ("left_gripper", 0.0, 0.013, "left_gripper stands off"),
    ("left_waist", 2.4, 0.01, ""),
    ("left_waist", 2.6, 0.0, "left_waist moves at"),
    ("left_waist", 0.0, 0.03, "left_waist stands off"),
])
def test_joints_are_held_to_their_limits_kicks_aside(joint: str, velocity: float, off: float, words: str) -> None:
    j, times = FULL_SPEC.joint_names.index(joint), np.arange(3.0)
    positions, velocities = np.tile(HOME, (3, 1)), np.zeros((3, len(HOME)))
    velocities[1, j], positions[1, j] = -velocity * LIMIT[j], FULL_SPEC.limit("lower")[j] - off
    witness = Witness(
        FULL_SPEC, 0.0, (times, positions, velocities), (times, np.tile(HOME, (3, 1)), velocities),
        (times, 0 * positions, 0 * velocities), [], [])
    if words:
        with pytest.raises(Failed, match=words + ".* 1.00 s after"):
            within_limits(witness)
    else:
        assert within_limits(witness)["worst_velocity"] == pytest.approx(0.0 if "gripper" in joint else velocity)


def test_a_robot_that_does_not_say_what_is_asked_of_its_joints_fails() -> None:
    still = Watched()
    still.told = tuple(part[:0] for part in still.told)
    with pytest.raises(Failed, match="was asked"):
        judge(still)


def test_where_commands_are_lost_what_the_arms_did_counts() -> None:
    lost = Watched(told_of_t=lambda t: -8.0 * (t == 0.1))
    with pytest.raises(Failed, match="is asked to move at"):
        judge(lost)
    row = judge(Watched(lambda t: 1.2 * (t < 0.5), told_of_t=lambda t: -8.0 * (0.01 < t < 0.03)), commands_lost=True)
    assert row["worst_asked"] == pytest.approx(8.0)
    with pytest.raises(Failed, match="moves at"):
        judge(Watched(lambda t: 2.6 * (t < 0.02)), commands_lost=True)


def before_arm(asked_of_t: Any = lambda _: 0.0, pushed_rad: float = 0.0) -> Watched:
    """A joint that is seen to move while the arms wait to be armed."""
    watched = Watched(told_of_t=asked_of_t)
    watched.seen[2][(TIMES > 4.0) & (TIMES < 4.2), 3] = -0.04
    watched.pushed[1][(TIMES > 3.5) & (TIMES < 4.15), 3] = pushed_rad
    return watched


def test_a_joint_that_moves_before_it_is_armed_is_named_with_what_it_touches() -> None:
    stood_still(Watched().witness())
    words = (r"left_forearm_roll at 0\.040 a second after 4\.02 s, by 0\.0000 in all, "
             r"asked to move at 0\.000, \+0\.0030 off .* \+0\.0000 held")
    with pytest.raises(Failed, match=words):
        stood_still(before_arm().witness())
    nothing = before_arm()
    nothing.seen = tuple(part[:0] for part in nothing.seen)
    stood_still(nothing.witness())


def test_before_it_is_armed_a_joint_may_be_moved_by_what_it_touches_and_by_nothing_else() -> None:
    assert stood_still(Watched().witness()) == []
    assert stood_still(before_arm(pushed_rad=0.01).witness()) == ["left_forearm_roll"]
    for asked_to_move in (lambda t: 0.05 * (4.0 < t < 4.2), lambda t: 0.05 * (0.5 < t < 0.6)):
        with pytest.raises(Failed, match="moved before they were armed: left_forearm_roll"):
            stood_still(before_arm(asked_to_move, pushed_rad=0.01).witness())
    unheard = before_arm(pushed_rad=0.01)
    unheard.told = tuple(part[:0] for part in unheard.told)
    with pytest.raises(Failed, match=r"was not heard for the last 4\.98 s"):
        stood_still(unheard.witness())


def test_a_reason_that_is_not_told_fails() -> None:
    still = Watched()
    judge(still, told=("estop_pressed", "not_finite"))
    judge(still, told=("joint_state_stale",))
    for untold in ("estop_pressed", "duplicate"):  # the second is of an earlier play
        with pytest.raises(Failed, match="was not published"):
            judge(still, told=(untold,))


def image(k: int) -> bytes:
    message = Image(width=320, height=240, step=960, encoding="rgb8", data=bytes(320 * 240 * 3))
    message.header.stamp.sec, message.header.stamp.nanosec = 10, k
    return bytes(serialize_message(message))


def test_faults_do_to_messages_what_their_names_say() -> None:
    def changed(change: Any) -> Image:
        return deserialize_message(change_messages.edited(Image, change)()(image(7))[0], Image)

    def sent(fault: Any, count: int) -> list[list[int]]:
        """Which of the pictures are sent on as each arrives. Bytes are not compared: CDR's padding is arbitrary."""
        passed = [fault(image(k)) for k in range(count)]
        return [[deserialize_message(data, Image).header.stamp.nanosec for data in datas] for datas in passed]

    assert sent(change_messages.frozen(), 3) == [[0], [0], [0]]
    assert sent(change_messages.repeated(), 3) == [[0], [1], [2]]
    assert sent(change_messages.reordered(), 4) == [[], [1, 0], [], [3, 2]]
    assert changed(change_messages.skew).header.stamp.sec == 9
    assert len(changed(change_messages.truncate).data) == 320 * 240 * 3 // 2
    assert changed(change_messages.shrink).width == 160
    states = bytes(serialize_message(JointState(name=["a"], position=[0.5], velocity=[0.0])))
    jumped = deserialize_message(change_messages.edited(JointState, change_messages.jump)()(states)[0], JointState)
    assert jumped.position[0] == 1.5
    assert changed(lambda message: change_messages.shift(message, 5.0)).header.stamp.sec == 15


def test_a_picture_that_repeats_has_new_stamps_and_old_pixels() -> None:
    fault = change_messages.repeated()
    for k in range(3):
        taken = deserialize_message(image(k), Image)
        taken.data = bytes([k]) * (320 * 240 * 3)
        passed = deserialize_message(fault(bytes(serialize_message(taken)))[0], Image)
        assert (passed.header.stamp.nanosec, set(passed.data)) == (k, {0})


def plan() -> ActionChunk:
    made = ActionChunk(chunk_id=7, epoch=3, contract_hash="ours", start=Time(sec=20), step_s=0.1,
                       joint_names=["a", "b"], positions=[0.0, 1.0, 2.0, 3.0])
    made.header.stamp = Time(sec=19)
    return made


def test_plans_that_must_not_be_followed_lead_elsewhere_and_are_told_from_the_planners() -> None:
    for change in (change_messages.late, change_messages.foreign, change_messages.old_epoch):
        made = plan()
        change(made)
        assert made.chunk_id >= change_messages.NOT_OURS
        assert made.positions[:4] == pytest.approx([0.3, 1.0, 2.3, 3.0])
    late = plan()
    change_messages.late(late)
    assert (late.header.stamp.sec, late.start.sec, len(late.positions)) == (14, 15, 16)


def test_trajectories_that_begin_now_go_on_doing_so_when_clocks_jump() -> None:
    message = JointTrajectory()
    change_messages.shift(message, 5.0)
    assert message.header.stamp == Time()


def test_every_relayed_topic_ends_at_the_relays() -> None:
    graph = build_graph({})
    assert {node.name for node in graph.nodes} >= {"sim_robot", "action_executor"}
    sensors, commands = dict(remappings(FULL_SPEC, "sim_robot")), dict(remappings(FULL_SPEC, "action_executor"))
    assert set(commands) == {arm.command_topic for arm in FULL_SPEC.arms}
    assert list(dict(remappings(FULL_SPEC, "world_action"))) == [PLAN_TOPIC]
    assert FULL_SPEC.joint_state_topic in sensors
    assert {camera.topic for camera in FULL_SPEC.cameras} <= set(sensors)


def test_the_faults_of_pictures_can_be_given_to_another_process() -> None:
    given: dict[str, Any] = {}
    stage = SimpleNamespace(spec=FULL_SPEC, run=0, spoil=given.__setitem__, chunk=lambda: leading("left", "right"))
    topics = {camera.topic for camera in FULL_SPEC.cameras}
    for name, scenario in SCENARIOS.items():
        if name.startswith(("camera", "clock")):
            scenario.inject(stage)  # type: ignore[arg-type]
            made = [pickle.loads(pickle.dumps(make)) for topic, make in given.items() if topic in topics]
            assert made, name
            assert all(isinstance(make()(image(7)), list) for make in made), name
            given.clear()


def leading(*arms: str) -> ActionChunk:
    """A plan that moves one joint of some arms by 0.1 rad, and jaws."""
    ends_KJ = np.array([HOME, HOME])
    for arm in FULL_SPEC.arms:
        part = FULL_SPEC.arm_slice(arm.name)
        ends_KJ[1, part.start + 3] += 0.1 * (arm.name in arms)
        ends_KJ[1, part.stop - 1] += 1.0
    return ActionChunk(joint_names=FULL_SPEC.joint_names, positions=ends_KJ.ravel().tolist())


def spoilt_in_turn(name: str, chunk: ActionChunk) -> list[str]:
    """On which topic each of four runs puts its fault; none is left after any of them."""
    put: dict[str, Any] = {}
    turns = []
    stage: Any = SimpleNamespace(spec=FULL_SPEC, spoil=put.__setitem__, chunk=lambda: chunk)
    for stage.run in range(4):
        SCENARIOS[name].inject(stage)
        turns += [topic for topic, make in put.items() if make is not None]
        SCENARIOS[name].clear(stage)
        assert set(put.values()) == {None}
    return turns


def test_every_camera_has_its_turn() -> None:
    topics = [camera.topic for camera in FULL_SPEC.cameras]
    for name in (name for name in SCENARIOS if name.startswith("camera")):
        assert spoilt_in_turn(name, leading("left", "right")) == [*topics, topics[0]], name


def test_only_cameras_that_must_show_the_motion_repeat_their_pictures() -> None:
    head, left, right = (camera.topic for camera in FULL_SPEC.cameras)
    assert spoilt_in_turn("camera_repeats", leading("left")) == [head, left] * 2
    assert spoilt_in_turn("camera_repeats", leading("right")) == [head, right] * 2
    assert spoilt_in_turn("camera_repeats", leading()) == [head, left, right, head], "hardly any motion: any of them"


def test_what_latches_must_rest_and_every_scenario_has_a_summary() -> None:
    assert list(arguments.SCENARIOS) == list(SCENARIOS)
    for scenario in SCENARIOS.values():
        assert scenario.outcome in (RESTS, GOES_ON, GONE)
        assert scenario.latched == (scenario.outcome != GOES_ON)
        assert scenario.outcome == GOES_ON or scenario.stopped_by or scenario.counts_from == LOOK_AHEAD_END
