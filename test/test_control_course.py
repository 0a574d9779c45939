"""What the executor says that it will command is what it commands."""

from __future__ import annotations

import numpy as np
import pytest
from control_kit import HASH, PERIOD_NS, SPEC, STEP_NS, Follower, make_chunk, smooth_plan

from starry_ros.control.executor import Executor


def follower_at_rest() -> Follower:
    follower = Follower(position_J=smooth_plan(0.0))
    follower.arm()
    return follower


def offer(follower: Follower, chunk_id: int, ahead_s: float = 0.0, **changes: object) -> None:
    begin_s = ahead_s + 0.1 * np.arange(1, 17)
    chunk = make_chunk(smooth_plan(begin_s), follower.now_ns, chunk_id, **changes)
    assert follower.executor.submit(chunk, follower.now_ns).accepted


def commanded_later(follower: Follower, ticks: int) -> list[tuple[int, np.ndarray]]:
    """Times and positions of the next commands."""
    commands = [follower.tick() for _ in range(ticks)]
    return [(command.time_ns, command.position_J) for command in commands if command is not None]


def test_before_the_first_command_there_is_no_course() -> None:
    assert Executor(SPEC).new_course() is None


@pytest.mark.parametrize("into", [0, 7, 31])
def test_what_is_commanded_later_lies_on_the_course(into: int) -> None:
    """From the first command after a plan, from the middle of it, and in its end."""
    follower = follower_at_rest()
    offer(follower, 3)
    for _ in range(1 + into):
        follower.tick()
    course = follower.executor.new_course()
    assert course is not None
    assert course.step_ns == STEP_NS // 2
    for time_ns, position_J in commanded_later(follower, 110):
        steps = (time_ns - course.start_ns) / course.step_ns
        index = np.arange(len(course.positions_KJ))
        told_J = np.array([np.interp(steps, index, column) for column in course.positions_KJ.T])
        assert np.abs(position_J - told_J).max() < 4e-3, "straight lines between 0.05 s"
        if steps == round(steps) and steps < len(index):
            assert np.abs(position_J - course.positions_KJ[round(steps)]).max() < 1e-9


def test_a_course_carries_the_ids_of_the_plan_behind_it() -> None:
    follower = follower_at_rest()
    follower.tick()
    idle = follower.executor.new_course()
    assert idle is not None
    assert (idle.chunk_id, idle.epoch, len(idle.positions_KJ)) == (0, 0, 1)
    offer(follower, 5, epoch=2, instruction_id=4)
    follower.tick()
    course = follower.executor.new_course()
    assert course is not None
    assert (course.chunk_id, course.epoch, course.instruction_id) == (5, 2, 4)
    assert (course.joint_names, course.contract_hash) == (SPEC.joint_names, HASH)


def test_a_course_is_told_once_after_every_change_and_after_nothing_else() -> None:
    follower = follower_at_rest()
    offer(follower, 1)
    follower.tick()
    assert follower.executor.new_course() is not None
    for _ in range(20):
        follower.tick()
        assert follower.executor.new_course() is None
    offer(follower, 2, ahead_s=21 * PERIOD_NS / 1e9)
    assert follower.executor.new_course() is not None
    assert follower.executor.new_course() is None
    follower.executor.stop(follower.now_ns)
    course = follower.executor.new_course()
    assert course is not None
    assert len(course.positions_KJ) * course.step_ns < 6e8, "a stop is short"


def test_after_arming_the_course_begins_where_the_arms_are_and_nothing_of_before_is_left() -> None:
    follower = follower_at_rest()
    offer(follower, 1)
    follower.run(0.5)
    follower.executor.stop(follower.now_ns)
    follower.run(1.0)
    assert follower.executor.arm(follower.now_ns).ok
    follower.tick()
    course = follower.executor.new_course()
    assert course is not None
    assert np.allclose(course.positions_KJ, follower.position_J, atol=1e-9)
