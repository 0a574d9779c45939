"""What the arms must have done in a scenario of `starry chaos`, by the simulated robot's own joint states.

Arms rest by a deadline that is no looser than what stops them. From a fault that the executor sees it is a number of
seconds. Where arms run out of plans, it is 0.3 s after the end of the last plan that was heard on its way, and of what
the executor said limits had added to it. Where they run out of commands, it is 0.3 s after the end of the last
look-ahead: these 0.3 s are for the drives, 0.05 s behind their commands, and for what is touched to swing out.

Speeds are judged twice. What controllers ask of the joints has to keep the limits. What joints are seen to do may
exceed them in kicks by what they touch: an object that slips from a jaw frees what the drives were pressing with. A
kick is short, so that a joint that is above its limit for longer fails; great ones are for jaws that touch something.

Shapes: N samples, J joints in contract order, K steps of a plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starry_ros.robot_spec import RobotSpec
from starry_ros.ros.chaos_faults import FAULT, LOOK_AHEAD_END, REST_AFTER_END_S, Scenario
from starry_ros.ros.relay import Passed
from starry_ros.types import F64, Record

RESTING_RAD_S = 0.03
KICK_MARGIN, JAW_MARGIN, SEEN_MARGIN, KICK_S = 2.5, 8.0, 1.15, 0.1
"""Shares of its velocity limit at which a joint may be seen, at which a jaw may be where contacts push on it, and above
which neither may be for longer than `KICK_S`. A slipping finger came to 2.3, a jaw that a block slips from to 5.3."""
ASKED_ACCELERATION = 2.0
"""Share of its acceleration limit at which a joint may be asked to gain speed from one joint state to the next; below
1.0 was seen, and what a controller makes of a look-ahead that a busy machine delivers late needs some room."""
ASKED_MARGIN, ASKED_OUTSIDE, ASKED_OUTSIDE_LOST = 1.15, 1e-3, 3e-3
"""Share of its velocity limit at which a joint may be asked to move, and how far outside its range: splines overshoot a
little between points. Where commands are lost, they close whole gaps: then by `ASKED_OUTSIDE_LOST`."""
OUTSIDE = {"rad": 0.02, "m": 0.012}
"""How far outside its range a joint may be seen, in its own unit: a block that is pressed on opens a jaw 0.0085 m too
far, once in 230 plays."""
UNPLANNED = {"rad": 0.15, "m": 0.02}
"""How far arms that go on may be seen from everything that plans asked for, in the joint's own unit: what splices and
drives swing past it. Plans that must not be followed lead 0.3 rad away."""
OLD_PLANS_S = 2.0
"""So long after a fault arms may still move by plans of 1.6 s from before it, or brake: that is no going on."""
GOING_ON_RAD = 0.02
"""So far in all the arms' joints must travel after that. Arms that stood were seen to travel 0.0; those that follow the
planner without ROS travelled 0.2 or more in each such second of 49 episodes, and 0.06 in any second, also when done."""
IN_FLIGHT_S = 0.1
"""Look-aheads that pass so long after a node was killed were sent before."""
PRESSED, PUSHED = {"rad": 0.015, "m": 0.0015}, {"rad": 0.003, "m": 0.0003}
"""How far from its standing command a joint must be to count as held off by what it touches (free ones are 0.0002 rad
off), and how far contacts would hold it off in the end, to count as pushed by them, in its own unit."""
PUSHED_S, FREED_S = 0.1, 0.25
"""For so long what a joint touches must have held it off, to explain that the arms were stopped for it. Contacts must
push on a joint within `PUSHED_S` from then on, or within `FREED_S` before, to explain that it moves: a drive that has
a time constant of 0.05 s has by then brought back what was let go as far off as `UNPLANNED`."""
KEPT = {"rad": 0.002, "m": 0.0002}
"""So near its standing command a joint stands, however fast a jolt is that what it holds gives it, in its own unit: a
millimetre at the end of an arm."""
STOOD_S, UNHEARD_S = 0.2, 0.1
"""For so long commands must have stood by then: drives, 0.05 s behind, are within a fiftieth of where they were off.
And what commands are must have been heard to within so long of the end."""
Motions = tuple[F64, F64, F64]
"""Times [N], positions [N, J], velocities [N, J]."""


class Failed(Exception):
    """A scenario did not go as it must."""


@dataclass(frozen=True)
class Witness:
    """What is known of one play, from the fault at `since_s` on: the arms' motions, what was asked of them, how far
    contacts held them off that, the plans and look-aheads that passed, and how long limits delayed plans at most, in s.
    """

    spec: RobotSpec
    since_s: float
    seen: Motions
    asked: Motions
    pushed: Motions
    plans: Sequence[Passed]
    look_aheads: Sequence[Passed]
    delay_s: float = 0.0

    def due_s(self, scenario: Scenario) -> float:
        """Seconds after the fault at which the arms must be at rest."""
        within_s = scenario.within_s
        if scenario.counts_from == FAULT:
            return within_s
        if scenario.counts_from == LOOK_AHEAD_END:
            ends = [ahead.end_s for ahead in self.look_aheads if ahead.at_s <= self.since_s + IN_FLIGHT_S]
            end_s = max(ends[-len(self.spec.arms):], default=self.since_s)
        else:
            end_s = max((plan.end_s for plan in self.plans), default=self.since_s) + self.delay_s
        return min(within_s, max(0.0, end_s - self.since_s) + REST_AFTER_END_S)


def rest_in_time(witness: Witness, scenario: Scenario) -> Record:
    """When the arms came to rest after the fault, and when they had to, in s; and which joints were moved after that by
    what they touch. Raises Failed if they were late.
    """
    times_N, _, velocity_NJ = witness.seen
    after_s_N, due_s = times_N - witness.since_s, witness.due_s(scenario)
    moving_NJ = (np.abs(velocity_NJ) > RESTING_RAD_S) & ~_in_place(witness)
    slid_J = (moving_NJ & (after_s_N > due_s)[:, None]).any(axis=0)
    if slid_J.any():
        slid_J &= _gives_way(witness, due_s)
    last = np.flatnonzero(moving_NJ[:, ~slid_J].any(axis=1))[-1:]
    rest_s = float(after_s_N[last[0]]) if len(last) else 0.0
    if rest_s > due_s:
        joint = int(np.where(slid_J, 0, moving_NJ[last[0]]).argmax())
        raise Failed(f"{witness.spec.joint_names[joint]} still moving {rest_s:.2f} s after the fault, due after "
                     f"{due_s:.2f} s, {touched(witness, joint, float(times_N[last[0]]))}")
    slid = [witness.spec.joint_names[joint] for joint in np.flatnonzero(slid_J)]
    return {"rest_s": rest_s, "due_s": due_s, "pressed": " ".join(slid)}


def stood_still(witness: Witness) -> list[str]:
    """Joints that were moved since `since_s` by what they touch. Raises Failed where one moved otherwise."""
    times_N, position_NJ, velocity_NJ = witness.seen
    moving_NJ = (np.abs(velocity_NJ) > RESTING_RAD_S) & ~_in_place(witness)
    slid_J = moving_NJ.any(axis=0)
    if slid_J.any():
        slid_J &= _gives_way(witness, 0.0)
    moving_NJ[:, slid_J] = False
    if not moving_NJ.any():
        return [witness.spec.joint_names[joint] for joint in np.flatnonzero(slid_J)]
    joint = int(np.where(moving_NJ, np.abs(velocity_NJ), 0.0).max(axis=0).argmax())
    fastest = int(np.abs(velocity_NJ[:, joint]).argmax())
    raise Failed(
        f"the arms moved before they were armed: {witness.spec.joint_names[joint]} at "
        f"{abs(velocity_NJ[fastest, joint]):.3f} a second after {times_N[fastest] - times_N[0]:.2f} s, by "
        f"{np.ptp(position_NJ[:, joint]):.4f} in all, {touched(witness, joint, float(times_N[fastest]))}")


def touched(witness: Witness, joint: int, at_s: float) -> str:
    """How a joint stood to what was asked of it, and to what it touched, as far as that was heard."""
    (seen_N, position_NJ, _), (told_N, told_NJ, speed_NJ), (felt_N, pushed_NJ, _) = (
        witness.seen, witness.asked, witness.pushed)
    seen, told, speed, pushed = (
        float(np.interp(at_s, times_N, values_NJ[:, joint])) if len(times_N) else np.nan
        for times_N, values_NJ in ((seen_N, position_NJ), (told_N, told_NJ), (told_N, speed_NJ), (felt_N, pushed_NJ)))
    return f"asked to move at {speed:.3f}, {seen - told:+.4f} off its command, {pushed:+.4f} held off by contacts"


def _in_place(witness: Witness) -> NDArray[np.bool_]:
    """[N, J] When joints stood where they were told to stand."""
    (times_N, position_NJ, _), (told_N, told_NJ, speed_NJ) = witness.seen, witness.asked
    if not len(told_N):
        return np.zeros(position_NJ.shape, dtype=np.bool_)
    told_to_stand_NJ = np.abs(_at(times_N, told_N, speed_NJ)) < RESTING_RAD_S
    kept_NJ = np.abs(position_NJ - _at(times_N, told_N, told_NJ)) <= _by_unit(witness.spec, KEPT)
    heard_N = times_N <= told_N[-1] + UNHEARD_S
    return np.asarray(told_to_stand_NJ & kept_NJ & heard_N[:, None])


def _gives_way(witness: Witness, due_s: float) -> NDArray[np.bool_]:
    """[J] Which joints, whenever they are seen to move after `due_s`, are moved by what they touch: nothing has been
    asked of any joint for a while but to stand, and the simulator's contacts push on this one then or have just let it
    go. By no more than `UNPLANNED`.

    Raises Failed where nothing was heard of the commands for as long.
    """
    (times_N, position_NJ, velocity_NJ), (told_N, told_NJ, speed_NJ) = witness.seen, witness.asked
    if not len(told_N) or told_N[-1] < times_N[-1] - UNHEARD_S:
        lacks_s = times_N[-1] - (told_N[-1] if len(told_N) else witness.since_s)
        raise Failed(f"what is asked of the joints was not heard for the last {lacks_s:.2f} s")
    late_N = times_N - witness.since_s > due_s
    last_N = told_N - witness.since_s > due_s - STOOD_S
    kept = bool((np.ptp(told_NJ[last_N], axis=0) <= _by_unit(witness.spec, KEPT)).all())
    stands = kept and bool((np.abs(speed_NJ[last_N]) < RESTING_RAD_S).all())
    excused_NJ = stands & (_by_touch(witness) | (np.abs(velocity_NJ) <= RESTING_RAD_S))
    near_J = np.ptp(position_NJ[late_N], axis=0) <= _by_unit(witness.spec, UNPLANNED)
    return np.asarray(excused_NJ[late_N].all(axis=0) & near_J)


def _by_touch(witness: Witness) -> NDArray[np.bool_]:
    """[N, J] When contacts pushed on joints, or had just let them go."""
    times_N, (felt_N, pushed_NJ, _) = witness.seen[0], witness.pushed
    felt_NJ = np.abs(pushed_NJ) > _by_unit(witness.spec, PUSHED)
    begin_N, end_N = np.searchsorted(felt_N, times_N - FREED_S), np.searchsorted(felt_N, times_N + PUSHED_S, "right")
    return np.array([felt_NJ[begin:end].any(axis=0) for begin, end in zip(begin_N, end_N, strict=True)])


def pushed_off(witness: Witness) -> list[str]:
    """Joints of the arms that were off what was asked of them because of what they touched: the simulator's contacts
    held them off, the same way and as far as counts, for `PUSHED_S` on end. Jaws are, whenever they hold.
    """
    (times_N, position_NJ, _), (told_N, told_NJ, _), (felt_N, pushed_NJ, _) = (
        witness.seen, witness.asked, witness.pushed)
    if not (len(told_N) and len(felt_N)):
        return []
    off_NJ = position_NJ - _at(times_N, told_N, told_NJ)
    least_NJ = np.minimum(np.abs(off_NJ), _at(times_N, felt_N, pushed_NJ) * np.sign(off_NJ))
    held_NJ = least_NJ > _by_unit(witness.spec, PRESSED)
    return [name for joint, name in enumerate(witness.spec.joint_names)
            if joint not in witness.spec.gripper_indices and _longest_s(times_N, held_NJ[:, joint]) >= PUSHED_S]


def _at(times_N: F64, known_M: F64, values_MJ: F64) -> F64:
    """Values [N, J] at other times than those at which they are known."""
    return np.array([np.interp(times_N, known_M, values_M) for values_M in values_MJ.T]).T


def _longest_s(times_N: F64, so_N: NDArray[np.bool_]) -> float:
    """The longest time for which something was so on end."""
    longest_s, since_s = 0.0, None  # type: float, float | None
    for at_s, so in zip(times_N.tolist(), so_N.tolist(), strict=True):
        since_s = (at_s if since_s is None else since_s) if so else None
        longest_s = max(longest_s, 0.0 if since_s is None else at_s - since_s)
    return longest_s


def within_limits(witness: Witness, *, commands_lost: bool = False) -> Record:
    """Greatest shares of its limits of velocity and acceleration that a joint was asked for, and one of an arm was seen
    at. Raises Failed outside the limits.
    """
    spec, since_s = witness.spec, witness.since_s
    velocity_J = spec.limit("velocity")
    jaw_J = np.isin(np.arange(len(spec.joints)), spec.gripper_indices)
    middle_J, half_J = (spec.limit("upper") + spec.limit("lower")) / 2, (spec.limit("upper") - spec.limit("lower")) / 2
    times_N, position_NJ, asked_NJ = witness.asked
    if len(times_N) < 2:
        raise Failed("the simulated robot does not say what was asked of its joints")
    span_N1 = np.diff(times_N)[:, None]
    step_NJ, change_NJ = np.diff(position_NJ, axis=0) / span_N1, np.diff(asked_NJ, axis=0) / span_N1
    if not commands_lost:
        _hold_to(spec, times_N[1:] - since_s, step_NJ, ASKED_MARGIN * velocity_J, "is asked to move at")
    asked_outside = ASKED_OUTSIDE_LOST if commands_lost else ASKED_OUTSIDE
    _hold_to(spec, times_N - since_s, position_NJ - middle_J, half_J + asked_outside, "is asked to stand off")
    times_N, position_NJ, seen_NJ = witness.seen
    margin_NJ = np.where(_by_touch(witness) & jaw_J, JAW_MARGIN, KICK_MARGIN)
    _hold_to(spec, times_N - since_s, seen_NJ, margin_NJ * velocity_J, "moves at")
    if not commands_lost:
        _only_kicks(spec, times_N - since_s, np.abs(seen_NJ) / velocity_J)
    if not commands_lost:
        limit_J = ASKED_ACCELERATION * spec.limit("acceleration")
        _hold_to(spec, witness.asked[0][1:] - since_s, change_NJ, limit_J, "is asked to gain speed at")
    outside_J = half_J + _by_unit(spec, OUTSIDE)
    _hold_to(spec, times_N - since_s, position_NJ - middle_J, outside_J, "stands off its middle")
    return {
        "worst_asked": float((np.abs(step_NJ) / velocity_J).max()),
        "worst_acceleration": float((np.abs(change_NJ) / spec.limit("acceleration")).max()),
        "worst_velocity": float((np.abs(seen_NJ) / velocity_J)[:, ~jaw_J].max()),
    }


def _only_kicks(spec: RobotSpec, after_s_N: F64, share_NJ: F64) -> None:
    """Raises Failed where a joint is above its limit for longer than a kick."""
    for joint, name in enumerate(spec.joint_names):
        since_s: float | None = None
        for at_s, share in zip(after_s_N.tolist(), share_NJ[:, joint].tolist(), strict=True):
            since_s = (at_s if since_s is None else since_s) if share > SEEN_MARGIN else None
            if since_s is not None and at_s - since_s > KICK_S:
                raise Failed(f"outside the limits: {name} moves above its limit for {at_s - since_s:.2f} s, "
                             f"{at_s:.2f} s after the fault")


def _hold_to(spec: RobotSpec, after_s_N: F64, value_NJ: F64, limit: F64, what: str) -> None:
    """Raises Failed where a value is beyond its limit [J] or [N, J]."""
    share_NJ = np.nan_to_num(np.abs(value_NJ) / limit, nan=np.inf)
    tick, joint = np.unravel_index(int(share_NJ.argmax()), share_NJ.shape)
    if share_NJ[tick, joint] > 1:
        raise Failed(f"outside the limits: {spec.joint_names[joint]} {what} {value_NJ[tick, joint]:.3f} "
                     f"{after_s_N[tick]:.2f} s after the fault")


def _by_unit(spec: RobotSpec, values: Mapping[str, float]) -> F64:
    return np.array([values[joint.unit] for joint in spec.joints])


def travelled(witness: Witness, until_s: float) -> float:
    """Radians that all joints of the arms, jaws aside, travelled in sum from `OLD_PLANS_S` after the fault's begin to
    `until_s`: by plans that came after it.
    """
    times_N, position_NJ, _ = witness.seen
    counts_N = (times_N >= witness.since_s + OLD_PLANS_S) & (times_N <= until_s)
    travel_J = np.abs(np.diff(position_NJ[counts_N], axis=0)).sum(axis=0)
    travel_J[list(witness.spec.gripper_indices)] = 0.0
    return float(travel_J.sum())


def along_plans(witness: Witness) -> None:
    """Raises Failed where arms that went on were away from all that the planner asked for, jaws aside."""
    asked = [plan.position_KJ for plan in witness.plans if plan.position_KJ is not None]
    times_N, position_NJ, _ = witness.seen
    if not asked:
        raise Failed("the planner made no plan")
    wanted_KJ = np.concatenate([*asked, position_NJ[:1]])
    low_J, high_J = wanted_KJ.min(axis=0), wanted_KJ.max(axis=0)
    off_NJ = np.maximum(low_J - position_NJ, position_NJ - high_J)
    off_NJ[:, list(witness.spec.gripper_indices)] = 0.0  # a jaw stands off its command whenever it holds something
    _hold_to(witness.spec, times_N - witness.since_s, np.maximum(off_NJ, 0.0), _by_unit(witness.spec, UNPLANNED),
             "is away from every plan by")
