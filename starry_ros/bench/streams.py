"""Are commands samples of one motion inside the limits? By divided differences, whatever the times between them.

A divided difference of order k, times k factorial, is the k-th derivative somewhere between its samples; so samples of
a motion inside the limits never exceed them, however they are spaced, and a jump between two of them does.
Shapes: N samples, J joints, A joints of one arm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from starry_ros.control.status import LookAhead
from starry_ros.robot_spec import RobotSpec
from starry_ros.timing import nanoseconds, seconds
from starry_ros.types import F64

TOLERANCE = 1e-6
"""Share of a limit that rounding may add to a third difference at the control rate."""
WINDOW = 3
"""Samples that the next one is judged with: as many as the order of the highest derivative."""
KINDS = ("position", "velocity", "acceleration", "jerk")
APART = 9
"""Motions that agree in so many last samples are one: a look-ahead begins up to six samples back, and is judged with
WINDOW of those before."""
KEPT = 15
"""Samples that are remembered: as far back as a look-ahead begins, and more."""
WHOLE = slice(None)


def worst_use(positions_NJ: F64, spec: RobotSpec, rate_hz: float) -> dict[str, float]:
    """Greatest share of every limit that positions at a steady rate use; inf when not finite."""
    return used(np.arange(len(positions_NJ)) / rate_hz, positions_NJ, limits_of(spec, WHOLE))


def limits_of(spec: RobotSpec, joints: slice) -> Mapping[str, F64]:
    """The limits of some joints by their names in the contract."""
    return {name: spec.limit(name)[joints] for name in ("lower", "upper", *KINDS[1:])}


def used(time_s_N: F64, positions_NA: F64, limits_A: Mapping[str, F64]) -> dict[str, float]:
    """Greatest share of every limit that positions of some joints at ascending times use; inf when not finite."""
    if not np.isfinite(positions_NA).all():
        return dict.fromkeys(KINDS, np.inf)
    use = dict.fromkeys(KINDS, 0.0)
    if not len(positions_NA):
        return use
    lower_A, upper_A = limits_A["lower"], limits_A["upper"]
    from_middle = np.abs(positions_NA - (lower_A + upper_A) / 2) / ((upper_A - lower_A) / 2)
    use["position"] = float(from_middle.max())
    derivative_NA = positions_NA
    for order, kind in enumerate(KINDS[1:], start=1):
        if len(positions_NA) <= order:
            break
        span_s = (time_s_N[order:] - time_s_N[:-order])[:, None]
        derivative_NA = order * np.diff(derivative_NA, axis=0) / span_s
        use[kind] = float((np.abs(derivative_NA) / limits_A[kind]).max())
    return use


def carried_out(ahead: LookAhead, now_ns: int) -> F64:
    """Where arms are that carry out a look-ahead."""
    at_s = seconds(now_ns - ahead.start_ns)
    return np.array([np.interp(at_s, ahead.time_s_N, position_N) for position_N in ahead.position_NJ.T])


@dataclass
class Run:
    """The last samples of one motion: times in ns, ascending, and positions [N, A]."""

    time_ns: list[int] = field(default_factory=list)
    positions: list[F64] = field(default_factory=list)

    def then(self, time_ns: int, position_A: F64) -> Run:
        """The same motion with one sample more."""
        return Run([*self.time_ns[-KEPT:], time_ns], [*self.positions[-KEPT:], position_A])

    def used(self, limits_A: Mapping[str, F64], samples: int = 0) -> dict[str, float]:
        """As the function of that name, of so many of the last samples, 0 for all; inf where time does not pass."""
        time_s_N = np.array([seconds(time_ns - self.time_ns[-1]) for time_ns in self.time_ns[-samples:]])
        if (np.diff(time_s_N) <= 0).any():
            return dict.fromkeys(KINDS, np.inf)
        return used(time_s_N, np.array(self.positions[-samples:]), limits_A)


def run_of(ahead: LookAhead, joints: slice, until_ns: int | None = None) -> Run:
    """The points of a look-ahead for some joints, all of them or those up to a time; at rest after its end."""
    times_ns = [ahead.start_ns + nanoseconds(time_s) for time_s in ahead.time_s_N.tolist()]
    count = len(times_ns) if until_ns is None else sum(time_ns <= until_ns for time_ns in times_ns)
    run = Run(times_ns[:count], list(ahead.position_NJ[:count, joints]))
    ended = until_ns is not None and times_ns[-1] < until_ns
    return run.then(until_ns, ahead.position_NJ[-1, joints]) if ended and until_ns is not None else run


class Stream:
    """The commands to one arm, each judged with those before it.

    Where an arm may be on one of several motions, all that the commands so far agree with are kept, until what comes
    tells which one it was, or no longer depends on it.
    """

    def __init__(self, spec: RobotSpec, joints: slice) -> None:
        self.joints, self._limits_A = joints, limits_of(spec, joints)
        self.runs: list[Run] = []
        self.worst: dict[str, float] = {}

    def add(self, time_ns: int, position_J: F64, others: Iterable[Run] = ()) -> str | None:
        """The next command, which goes on from the last one or from another motion; what is wrong with it, or None.

        A command that goes on from nothing begins a motion.
        """
        position_A = position_J[self.joints].copy()
        further = [run.then(time_ns, position_A) for run in (*self.runs, *others) if run.time_ns]
        uses = [run.used(self._limits_A, WINDOW + 1) for run in further]
        fine = {tuple(map(id, run.positions[-APART:])): (run, use)
                for run, use in zip(further, uses, strict=True) if max(use.values()) <= 1 + TOLERANCE}
        self.runs = [run for run, _ in fine.values()] or [Run([time_ns], [position_A])]
        for kind in KINDS:
            share = min((use[kind] for _, use in fine.values()), default=0.0)
            self.worst[kind] = max(self.worst.get(kind, 0.0), share)
        if fine or not further:
            return None
        kind, share = max(uses[0].items(), key=lambda item: item[1])
        return f"{kind} {share:.9f} of its limit"

    def continued(self, ahead: LookAhead, others: Iterable[Run] = ()) -> str | None:
        """What is wrong with a look-ahead as what follows the commands, or another motion, at its start; or None."""
        told, uses = run_of(ahead, self.joints), []
        for run in (*self.runs, *others) or (Run(),):
            led = sum(time_ns <= ahead.start_ns for time_ns in run.time_ns)
            first = max(0, led - WINDOW)
            whole = Run([*run.time_ns[first:led], *told.time_ns], [*run.positions[first:led], *told.positions])
            uses.append(whole.used(self._limits_A))
        kind, share = max(min(uses, key=lambda use: max(use.values())).items(), key=lambda item: item[1])
        return None if share <= 1 + TOLERANCE else f"{kind} {share:.9f} of its limit"

    def forget(self) -> None:
        """The next command begins a motion."""
        self.runs = []
