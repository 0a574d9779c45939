"""Pairs of messages by stamp, the nearest joint state, the gate before planning, rates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from starry_ros.ros.pairing import Film, ObservationGate, Refusal, StampPairs, StateHistory
from starry_ros.ros.rates import Every
from starry_ros.types import Canvas, RobotState, TileStatus

MS = 1_000_000
NOW = 10_000 * MS
GATE = ObservationGate("layout", age_ns=300 * MS, pair_ns=50 * MS)


def state(stamp_ns: int) -> RobotState:
    return RobotState(stamp_ns, np.zeros(2), np.zeros(2))


def canvas(stamp_ns: int = NOW - 100 * MS) -> Canvas:
    tiles = tuple(TileStatus(name, stamp_ns + i * MS, 0, True) for i, name in enumerate(("head", "wrist")))
    return Canvas(stamp_ns, "layout", np.zeros((2, 2, 3), np.uint8), tiles)


def test_a_pair_is_complete_once_whatever_comes_first() -> None:
    pairs: StampPairs[str, str] = StampPairs()
    assert pairs.first(1, "a1") is None
    assert pairs.second(2, "b2") is None
    assert pairs.second(1, "b1") == ("a1", "b1")
    assert pairs.first(2, "a2") == ("a2", "b2")
    assert pairs.second(2, "again") is None


def test_unmatched_messages_do_not_pile_up() -> None:
    pairs: StampPairs[int, int] = StampPairs(keep=3)
    for stamp in range(1000):
        pairs.first(stamp, stamp)
    assert [pairs.second(stamp, 0) for stamp in (996, 997, 998, 999)] == [None, (997, 0), (998, 0), (999, 0)]


def test_the_nearest_state_is_that_of_brute_force() -> None:
    rng = np.random.default_rng(0)
    history, stamps = StateHistory(), np.cumsum(rng.integers(5, 25, 100)) * MS
    assert history.nearest(0) is None
    for stamp in stamps:
        history.add(state(int(stamp)))
    for target in rng.integers(0, stamps[-1] + 50 * MS, 50):
        found = history.nearest(int(target))
        assert found is not None
        assert abs(found.stamp_ns - target) == np.abs(stamps - target).min()


def test_a_clock_that_jumps_back_makes_old_states_unknown() -> None:
    history = StateHistory()
    history.add(state(5_000 * MS))
    history.add(state(1_000 * MS))
    found = history.nearest(5_000 * MS)
    assert found is not None
    assert found.stamp_ns == 1_000 * MS


def test_a_fresh_complete_observation_passes_the_gate() -> None:
    assert GATE.refusal(canvas(), state(NOW - 90 * MS), NOW) is None


@pytest.mark.parametrize(
    ("change", "measured", "reason"),
    [
        ({"layout_hash": "other"}, state(NOW - 100 * MS), Refusal.LAYOUT_MISMATCH),
        (
            {"tiles": (TileStatus("head", NOW, 0, True), TileStatus("wrist", NOW, 0, False))},
            state(NOW - 100 * MS), Refusal.CANVAS_INCOMPLETE,
        ),
        ({"tiles": ()}, state(NOW - 100 * MS), Refusal.CANVAS_INCOMPLETE),
        ({"tiles": canvas(NOW - 301 * MS).tiles}, state(NOW - 100 * MS), Refusal.CANVAS_STALE),
        ({"tiles": canvas(NOW + 51 * MS).tiles}, state(NOW - 100 * MS), Refusal.CANVAS_FROM_FUTURE),
        ({}, None, Refusal.NO_JOINT_STATE),
        ({}, state(NOW - 151 * MS), Refusal.JOINT_STATE_STALE),
        ({}, state(NOW - 49 * MS), Refusal.JOINT_STATE_STALE),
    ],
)
def test_what_is_unfit_is_refused_with_its_reason(change: dict, measured: RobotState | None, reason: Refusal) -> None:
    assert GATE.refusal(replace(canvas(), **change), measured, NOW) is reason


def test_a_rate_is_due_at_most_once_a_period_and_never_drifts() -> None:
    rate, due = Every(15.0), []
    for time_ns in range(0, 4_000 * MS, 10 * MS):
        if rate.due(time_ns):
            due.append(time_ns)
    assert len(due) in (60, 61)
    assert np.diff(due).min() >= 60 * MS
    assert np.diff(due).max() <= 70 * MS


def test_a_film_gives_what_came_before_the_newest_frame_once_and_forgets_the_oldest() -> None:
    film: Film[object] = Film(3)
    frames = [object() for _ in range(6)]
    for frame in frames[:5]:
        film.add(frame)
    assert list(film.before(frames[4])) == frames[2:4]
    film.add(frames[5])
    assert list(film.before(frames[5])) == []
    assert list(film.before(frames[0])) == []
