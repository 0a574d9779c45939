"""Courses, what they change in plans and in the history, and plans that are made again with them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from test_wam_planner import NO_DEADLINE, SENTENCE, make_planner, make_runtime, observe_and_plan
from wam_kit import JOINTS, LAYOUT, SPEC, STEP_NS, LetterEncoder, make_canvas, make_checkpoint, make_state

from starry_ros.timing import NS_PER_S, FakeClock
from starry_ros.types import ActionChunk
from starry_ros.wam.choices import PlanMode, SpliceMethod
from starry_ros.wam.course import Courses
from starry_ros.wam.planner import PlannerConfig
from starry_ros.wam.session import Session
from starry_ros.wam.steps import Step
from starry_ros.wam.trace import RetracingPlanner, TracingPlanner


def course(start_ns: int, *levels: float) -> ActionChunk:
    """Joint j is at level + j / 1000 in each step of 0.05 s."""
    rows = np.array(levels)[:, None] + np.arange(JOINTS) / 1000
    return ActionChunk(0, 1, 1, 0, start_ns, STEP_NS // 2, SPEC.joint_names, rows, SPEC.content_hash)


def test_between_steps_a_course_is_straight_and_after_its_end_it_rests() -> None:
    courses = Courses()
    courses.add(course(1000, 0.0, 0.2, 0.3))
    assert courses.at(999) is None
    for time_ns, level in ((1000, 0.0), (1000 + STEP_NS // 8, 0.05), (1000 + 3 * STEP_NS // 4, 0.25), (10**12, 0.3)):
        told_J = courses.at(time_ns)
        assert told_J is not None
        assert np.allclose(told_J, level + np.arange(JOINTS) / 1000, atol=1e-12)


def test_a_course_holds_until_the_next_one_starts() -> None:
    courses = Courses()
    courses.add(course(0, 0.1))
    courses.add(course(5000, 0.2))
    courses.add(course(4000, 0.9))  # late
    levels = [float(row[0]) for row in (courses.at(t) for t in (0, 4999, 5000, 9000)) if row is not None]
    assert levels == [0.1, 0.1, 0.2, 0.2]
    courses.forget()
    assert courses.at(9000) is None


def test_what_the_executor_told_is_committed_and_not_what_was_asked_of_it() -> None:
    planner = make_planner(PlanMode.ASYNC_GROUNDED, SpliceMethod.HARD_SWITCH, latency_s=0.2)
    before = observe_and_plan(planner, 0).chunk
    behind = replace(before, start_ns=before.start_ns + STEP_NS // 2)  # the arms are 0.05 s late
    planner.told(replace(behind, start_ns=0, positions_KJ=np.repeat(before.positions_KJ[:1], 2, axis=0)))
    planner.told(behind)
    after = observe_and_plan(planner, 4 * STEP_NS).chunk
    middle = (before.positions_KJ[3:6] + before.positions_KJ[4:7]) / 2
    assert np.allclose(after.positions_KJ[:3], middle, atol=1e-12)


def test_the_history_holds_what_was_commanded(monkeypatch: pytest.MonkeyPatch) -> None:
    planner = make_planner(PlanMode.ASYNC_NAIVE)
    session, seen = planner.session, []
    monkeypatch.setattr(session.runtime, "commit", lambda actions, valid: seen.append((actions, valid)))
    observe_and_plan(planner, 0)
    planner.told(course(0, *np.linspace(0.0, 1.6, 33)))
    planner.observe(make_canvas(4 * STEP_NS), make_state(4 * STEP_NS))
    wanted_UJ = 0.1 * np.arange(1, 5)[:, None] + np.arange(JOINTS) / 1000
    assert session.executed_UJ is not None
    assert np.allclose(session.executed_UJ, wanted_UJ, atol=1e-12)
    (actions, valid), = seen
    assert np.allclose(actions[:4], make_checkpoint().stats.state_to_model(wanted_UJ), atol=1e-5)
    assert valid.tolist() == [1.0] * 4 + [0.0] * (len(valid) - 4)
    planner.reset(SENTENCE)
    assert session.courses.at(10**12) is None


@pytest.mark.parametrize("splice", [SpliceMethod.TRAINED_PREFIX, SpliceMethod.LINEAR_BLEND, SpliceMethod.GUIDED])
def test_a_session_that_heard_courses_is_made_again_bit_for_bit(splice: SpliceMethod) -> None:
    steps: list[Step] = []

    def session() -> Session:
        return Session(make_runtime(8), make_checkpoint().stats, LetterEncoder(), SPEC, LAYOUT.layout_hash)

    config = PlannerConfig(PlanMode.ASYNC_GROUNDED, splice, latency_s=0.25, ladder=NO_DEADLINE)
    planner = TracingPlanner(session(), config, clock=FakeClock(NS_PER_S), tell=steps.append)
    planner.reset(SENTENCE)
    plans = []
    for index in range(4):
        stamp_ns = 4 * index * STEP_NS + 123 * index
        plans.append(observe_and_plan(planner, stamp_ns).chunk)
        planner.told(replace(plans[-1], start_ns=plans[-1].start_ns + 31_415_926 * (index + 1)))
    again = RetracingPlanner(session(), "async_grounded", splice.value, 0.8)
    again.reset(SENTENCE)
    found = []
    for step in steps:
        values = json.loads(json.dumps(step.values))
        if step.do == "observe":
            stamp_ns, executed = step.times_ns["canvas"], values["executed"]
            state = make_state(stamp_ns, offset=stamp_ns * 1e-11)
            again.observe(make_canvas(stamp_ns), state, None if executed is None else np.array(executed))
        elif step.do == "plan":
            found.append(again.plan_as(values["rung"], values["committed"], values["known"]))
    assert len(found) == len(plans)
    for then, now in zip(plans, found, strict=True):
        assert now is not None
        assert np.array_equal(then.positions_KJ, now.chunk.positions_KJ)
