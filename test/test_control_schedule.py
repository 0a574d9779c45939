"""Every reason to refuse a chunk, and what is kept of an accepted one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from control_kit import HASH, JOINTS, SPEC, STEP_NS, make_chunk, smooth_plan

from starry_ros.control.schedule import Refusal, Schedule, ScheduleConfig
from starry_ros.types import ActionChunk

NOW_NS = 50_000_000_000
POSITIONS = smooth_plan(0.1 * np.arange(16))
GOOD = make_chunk(POSITIONS, NOW_NS - STEP_NS, 7)


def schedule(epoch: int | None = None, since_ns: int | None = None) -> Schedule:
    made = Schedule(SPEC, ScheduleConfig())
    made.reset(epoch, since_ns)
    return made


def accept(made: Schedule, chunk: ActionChunk, now_ns: int = NOW_NS) -> None:
    assert made.judge(chunk, now_ns) is None
    assert made.commit(chunk, made.merged(chunk, now_ns), now_ns).accepted


def with_value(value: float, joint: int = 0) -> np.ndarray:
    changed = POSITIONS.copy()
    changed[3, joint] = value
    return changed


MALFORMED = [
    (Refusal.FOREIGN_CONTRACT, {"contract_hash": HASH[::-1]}),
    (Refusal.WRONG_JOINTS, {"joint_names": SPEC.joint_names[:-1]}),
    (Refusal.WRONG_JOINTS, {"joint_names": ("x", *SPEC.joint_names[1:])}),
    (Refusal.WRONG_JOINTS, {"joint_names": (SPEC.joint_names[1], *SPEC.joint_names[1:])}),
    (Refusal.WRONG_SHAPE, {"positions_KJ": POSITIONS[:, :-1]}),
    (Refusal.WRONG_SHAPE, {"positions_KJ": POSITIONS[0]}),
    (Refusal.WRONG_SHAPE, {"positions_KJ": np.zeros((0, JOINTS))}),
    (Refusal.WRONG_SHAPE, {"positions_KJ": np.zeros((500, JOINTS))}),
    (Refusal.WRONG_SHAPE, {"positions_KJ": np.full((16, JOINTS), "0")}),
    (Refusal.NOT_FINITE, {"positions_KJ": with_value(np.nan)}),
    (Refusal.NOT_FINITE, {"positions_KJ": with_value(-np.inf)}),
    (Refusal.OUT_OF_LIMITS, {"positions_KJ": with_value(4.0)}),
    (Refusal.OUT_OF_LIMITS, {"positions_KJ": with_value(0.05, joint=6)}),
    (Refusal.OUT_OF_LIMITS, {"positions_KJ": with_value(1e308)}),
    (Refusal.BAD_TIMES, {"step_ns": -STEP_NS}),
    (Refusal.BAD_TIMES, {"step_ns": 0}),
    (Refusal.BAD_TIMES, {"observation_ns": NOW_NS + 10**9}),
    (Refusal.BAD_TIMES, {"start_ns": NOW_NS - 10**9}),
    (Refusal.TOO_FAR_AHEAD, {"start_ns": NOW_NS + 2 * 10**9}),
    (Refusal.TOO_FAR_AHEAD, {"start_ns": 10**40}),
    (Refusal.PAST, {"observation_ns": NOW_NS - 2 * 10**9, "start_ns": NOW_NS - 2 * 10**9 + STEP_NS}),
    (Refusal.OLD_OBSERVATION, {"observation_ns": NOW_NS - 4 * 10**9}),
]


@pytest.mark.parametrize(("reason", "change"), MALFORMED)
def test_a_malformed_chunk_is_refused_with_its_reason(reason: Refusal, change: dict[str, object]) -> None:
    assert schedule().judge(GOOD, NOW_NS) is None
    assert schedule().judge(replace(GOOD, **change), NOW_NS) is reason


def test_a_chunk_of_an_older_epoch_is_refused_and_a_newer_one_taken() -> None:
    made = schedule(epoch=3)
    assert made.judge(replace(GOOD, epoch=2), NOW_NS) is Refusal.STALE_EPOCH
    accept(made, replace(GOOD, epoch=4))
    assert made.judge(replace(GOOD, epoch=3), NOW_NS) is Refusal.STALE_EPOCH


def test_a_chunk_that_comes_twice_or_out_of_order_is_refused() -> None:
    made = schedule()
    accept(made, GOOD)
    assert made.judge(GOOD, NOW_NS) is Refusal.DUPLICATE
    older = replace(GOOD, chunk_id=8, observation_ns=GOOD.observation_ns - 1)
    assert made.judge(older, NOW_NS) is Refusal.OUT_OF_ORDER
    assert made.judge(replace(GOOD, chunk_id=8), NOW_NS) is None


def test_chunks_of_the_old_instruction_pass_until_a_new_one_came_or_the_hand_over_ends() -> None:
    made = schedule()
    made.set_instruction(1, NOW_NS)
    accept(made, GOOD)
    made.set_instruction(2, NOW_NS)
    late_ns = NOW_NS + 10**9
    assert made.judge(replace(GOOD, chunk_id=8), NOW_NS + 5 * 10**8) is None
    assert made.judge(replace(GOOD, chunk_id=8), late_ns) is Refusal.OLD_INSTRUCTION
    accept(made, replace(GOOD, chunk_id=9, instruction_id=2))
    assert made.judge(replace(GOOD, chunk_id=10), NOW_NS) is Refusal.OLD_INSTRUCTION


def test_an_observation_from_before_the_arming_is_refused() -> None:
    assert schedule(since_ns=GOOD.observation_ns + 1).judge(GOOD, NOW_NS) is Refusal.BEFORE_ARM
    assert schedule(since_ns=GOOD.observation_ns).judge(GOOD, NOW_NS) is None


def test_refusals_are_counted_by_reason() -> None:
    made = schedule()
    for reason in (Refusal.PAST, Refusal.PAST, Refusal.DUPLICATE):
        merge = made.refuse(reason)
        assert not merge.accepted
        assert merge.reason is reason
    assert {reason: count for reason, count in made.refused.items() if count} == {Refusal.PAST: 2, Refusal.DUPLICATE: 1}


def test_joints_are_matched_by_name() -> None:
    order = np.random.default_rng(1).permutation(JOINTS)
    jumbled = replace(
        GOOD, joint_names=tuple(SPEC.joint_names[j] for j in order), positions_KJ=POSITIONS[:, order]
    )
    made = schedule()
    assert made.judge(jumbled, NOW_NS) is None
    assert np.array_equal(made.merged(jumbled, NOW_NS).position_KJ, made.merged(GOOD, NOW_NS).position_KJ)


@pytest.mark.parametrize("late_steps", [0, 1, 4, 14])
def test_a_late_chunk_loses_only_its_past(late_steps: int) -> None:
    made, now_ns = schedule(), GOOD.start_ns + late_steps * STEP_NS + 1
    knots = made.merged(GOOD, now_ns)
    merge = made.commit(GOOD, knots, now_ns)
    assert merge.dropped_steps == late_steps + 1
    ahead = [time for time in knots.time_ns if time > now_ns]
    assert ahead == [GOOD.start_ns + k * STEP_NS for k in range(late_steps + 1, 16)]
    assert np.array_equal(knots.position_KJ[-len(ahead):], POSITIONS[late_steps + 1:])


def test_a_new_chunk_replaces_the_old_one_from_its_own_start_on() -> None:
    """Position-coded chunks: the integer part says which chunk, the fraction which step."""
    made = schedule()
    old = replace(GOOD, positions_KJ=np.repeat((0.001 * np.arange(16))[:, None], JOINTS, axis=1))
    accept(made, old)
    new = replace(
        old, chunk_id=8, observation_ns=old.observation_ns + 400_000_000, start_ns=old.start_ns + 430_000_000,
        positions_KJ=0.02 + old.positions_KJ,
    )
    now_ns = NOW_NS + 300_000_000
    knots = made.merged(new, now_ns)
    assert (np.diff(knots.time_ns) > 0).all()
    for time_ns, position in zip(knots.time_ns, knots.position_KJ[:, 0], strict=True):
        chunk = new if time_ns >= new.start_ns else old
        step = (time_ns - chunk.start_ns) / STEP_NS
        assert position == pytest.approx(0.001 * step + (0.02 if chunk is new else 0.0))
    assert knots.time_ns[0] >= now_ns - 3 * STEP_NS
    before = [time for time in knots.time_ns if time < new.start_ns]
    assert new.start_ns - before[-1] >= 0.6 * STEP_NS, "no two knots closer than the spline can bear"


def test_nothing_is_known_after_the_end_and_after_a_reset() -> None:
    made = schedule()
    accept(made, GOOD)
    assert made.ahead(NOW_NS) is not None
    assert made.slack_s(NOW_NS) == pytest.approx((GOOD.end_ns - NOW_NS) / 1e9)
    assert made.ahead(GOOD.end_ns) is None
    assert made.slack_s(GOOD.end_ns + 10**9) == pytest.approx(-1.0)
    made.reset(None)
    assert made.ahead(NOW_NS) is None
    assert made.chunk is None
