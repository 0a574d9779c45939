"""Committed prefixes: how many steps a model is told, what is imagined from them, and what outlives a reset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_wam_planner import SENTENCE, make_planner, observe_and_plan
from wam_kit import JOINTS, MIDDLE_J, SPEC, STEP_NS, make_canvas, make_state

from starry_ros.timing import nanoseconds
from starry_ros.types import F64, ActionChunk
from starry_ros.wam.choices import PlanMode, SpliceMethod
from starry_ros.wam.planner import Planner

GROUNDED = [SpliceMethod.TRAINED_PREFIX, SpliceMethod.PUT_BACK, SpliceMethod.LINEAR_BLEND, SpliceMethod.HARD_SWITCH]

ARMS_J = np.isin(np.arange(JOINTS), SPEC.gripper_indices, invert=True).astype(np.float64)


def told_steps(planner: Planner) -> list[int]:
    """Keeps how many known steps each plan tells the model as clean tokens."""
    told, supposing = list[int](), planner.session.runtime.supposing

    def counted(actions: Any, valid: Any) -> Any:
        told.append(int(np.sum(valid)))
        return supposing(actions, valid)

    planner.session.runtime.supposing = counted  # type: ignore[method-assign]
    return told


def decoded(planner: Planner) -> list[F64]:
    """Keeps what each plan decodes, before the committed steps are written over it."""
    raw, tied = list[F64](), planner._tied
    planner._tied = lambda rows, *rest: raw.append(rows.copy()) or tied(rows, *rest)  # type: ignore[method-assign]
    return raw


@pytest.mark.parametrize(("latency_s", "committed"), [(0.1, 2), (0.25, 3), (0.5, 6), (1.0, 11)])
def test_a_model_is_told_no_more_steps_than_it_was_trained_with_and_the_chunk_begins_with_all_of_them(
    latency_s: float, committed: int
) -> None:
    planner = make_planner(PlanMode.ASYNC_GROUNDED, prefix_steps=3, latency_s=latency_s)
    told, raw = told_steps(planner), decoded(planner)
    before = observe_and_plan(planner, 0).chunk
    after = observe_and_plan(planner, 4 * STEP_NS).chunk
    known = before.positions_KJ[4 : 4 + committed]
    assert told == [min(committed, 3)]
    assert np.allclose(after.positions_KJ[:committed], known, atol=1e-12)
    if committed > 3:
        assert np.allclose(raw[1][:committed], known, atol=1e-5), "what is decoded goes on from the last of them"


@pytest.mark.parametrize("splice", GROUNDED)
def test_what_is_commanded_until_a_slow_plan_comes_heads_the_chunk_however_long_it_is(splice: SpliceMethod) -> None:
    """Longer than a slot of the history: 11 of 16 steps, of which the last chunk still knows 11."""
    planner = make_planner(PlanMode.ASYNC_GROUNDED, splice, prefix_steps=8, latency_s=1.0)
    before = observe_and_plan(planner, 0).chunk
    after = observe_and_plan(planner, 4 * STEP_NS).chunk
    assert np.allclose(after.positions_KJ[:11], before.positions_KJ[4:15], atol=1e-12)


def grounded_on(level: float, splice: SpliceMethod) -> tuple[np.ndarray, np.ndarray]:
    """What a second plan imagines and maps if the arms are commanded to `level` meanwhile; all else is the same."""
    planner = make_planner(PlanMode.ASYNC_GROUNDED, splice, prefix_steps=8, latency_s=0.3)
    observe_and_plan(planner, 0)
    planner.observe(make_canvas(4 * STEP_NS), make_state(4 * STEP_NS))
    rows = np.tile(MIDDLE_J + level, (30, 1))
    planner.told(ActionChunk(0, 1, 1, 0, 4 * STEP_NS, STEP_NS // 2, SPEC.joint_names, rows, SPEC.content_hash))
    plan = planner.plan(4 * STEP_NS)
    assert plan is not None
    assert planner.session.dream is not None
    return planner.session.dream.imagined_ND, plan.value_map.values_EHW


def test_the_future_is_imagined_anew_from_the_committed_steps() -> None:
    """Two plans differ in what is commanded until they are in force: so do the frame and the map that they imagine.

    With a splice that tells the model nothing they are the same, bit for bit: nothing else differed.
    """
    for splice, depends in ((SpliceMethod.TRAINED_PREFIX, True), (SpliceMethod.HARD_SWITCH, False)):
        (frame, value), (other_frame, other_value) = (grounded_on(level, splice) for level in (0.05, -0.25))
        assert np.array_equal(frame, other_frame) != depends
        assert np.array_equal(value, other_value) != depends
        if depends:
            assert np.abs(frame - other_frame).max() > 1e-3


def moving_course(start_ns: int, seconds: float = 1.0) -> ActionChunk:
    """The joints of the arms at an even 0.1 rad/s, in steps of 0.05 s, then at rest."""
    rows = MIDDLE_J + 0.005 * np.arange(round(seconds / 0.05) + 1)[:, None] * ARMS_J
    return ActionChunk(0, 1, 1, 0, start_ns, STEP_NS // 2, SPEC.joint_names, rows, SPEC.content_hash)


@pytest.mark.parametrize("splice", GROUNDED)
def test_the_first_plan_after_a_reset_goes_on_from_the_course_that_the_arms_are_on(splice: SpliceMethod) -> None:
    """At 0.6 s from the picture to the plan, arms at 0.1 rad/s are 0.07 rad further when the plan is in force."""
    planner = make_planner(PlanMode.ASYNC_GROUNDED, splice, prefix_steps=8, latency_s=0.6)
    observe_and_plan(planner, 0)
    planner.told(moving_course(2 * STEP_NS))
    planner.reset(SENTENCE)
    planner.told(moving_course(2 * STEP_NS))
    chunk = observe_and_plan(planner, 4 * STEP_NS).chunk
    assert chunk.epoch == planner.session.epoch
    wanted = MIDDLE_J + 0.1 * (0.3 + 0.1 * np.arange(7))[:, None] * ARMS_J
    assert np.allclose(chunk.positions_KJ[:7], wanted, atol=1e-9)
    assert not np.allclose(chunk.positions_KJ[7], wanted[-1] + 0.01 * ARMS_J, atol=1e-4), "and then a plan of its own"


@pytest.mark.parametrize(("told", "rows"), [
    (lambda: moving_course(2 * STEP_NS, seconds=0.4), 2),  # arms come to rest 0.2 s after the observation
    (lambda: moving_course(4 * STEP_NS - nanoseconds(2.0)), 0),  # have come to rest long ago
    (lambda: replace(moving_course(0), positions_KJ=moving_course(0).positions_KJ[:1]), 0),  # stand
    (lambda: moving_course(6 * STEP_NS), 0),  # begin to move later: where they are until then is not known
])
def test_a_new_episode_of_arms_that_stand_has_nothing_to_go_on_from(told: Callable[[], ActionChunk], rows: int) -> None:
    planner = make_planner(PlanMode.ASYNC_GROUNDED, prefix_steps=8, latency_s=0.6)
    planner.told(told())
    planner.observe(make_canvas(4 * STEP_NS), make_state(4 * STEP_NS))
    assert planner.commitment().steps == rows
