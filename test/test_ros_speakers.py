"""Two planners on one graph are told by what only grows where there is one; one that was started anew is one."""

from __future__ import annotations

from starry_ros.ros.speakers import Planners
from starry_ros.ros.stop_causes import PRESSED, TWO_DRIVERS, StopCauses
from starry_ros.timing import NS_PER_S


def told(epochs: list[int], every_s: float = 0.2) -> tuple[Planners, int]:
    planners, now_ns = Planners(), NS_PER_S
    for epoch in epochs:
        planners.hear_epoch(epoch, None, now_ns)
        now_ns += round(every_s * NS_PER_S)
        planners.look(now_ns)
    return planners, now_ns


def test_one_planner_may_begin_new_sessions_and_be_started_anew() -> None:
    assert not told([1, 1, 2, 2, 3, 1, 1, 2])[0].two
    assert not told([1, 0, 1, 1], every_s=0.1)[0].two, "one that was killed in epoch 1 loads, and is told its sentence"


def test_statuses_that_take_turns_are_two_planners_until_one_is_silent() -> None:
    planners, now_ns = told([3, 1, 3, 1])
    assert planners.two
    for epoch in (1, 3, 1, 3):
        planners.hear_epoch(epoch, None, now_ns)
        now_ns += NS_PER_S // 5
    for _ in range(20):
        planners.hear_epoch(3, None, now_ns)
        now_ns += NS_PER_S // 5
        planners.look(now_ns)
    assert not planners.two


def test_a_session_that_comes_back_after_a_while_is_no_second_planner() -> None:
    assert not told([1, 2, 1, 2], every_s=1.5)[0].two


def counted(sequences: list[int | None], every_s: float = 0.1) -> bool:
    """Whether statuses of one epoch with these counts of their publishers are of two planners."""
    planners, now_ns = Planners(), NS_PER_S
    for sequence in sequences:
        planners.hear_epoch(1, sequence, now_ns)
        now_ns += round(every_s * NS_PER_S)
    return planners.two


def test_two_planners_of_one_epoch_are_told_by_what_each_has_published() -> None:
    assert counted([70, 12, 71, 13])
    assert counted([5, 5, 6, 6]), "started at once"


def test_one_planner_may_lose_messages_and_be_started_anew() -> None:
    assert not counted([1, 2, 5, 6, 1, 2, 3])
    assert not counted([5, 1, 2, 1, 2], every_s=2.0)
    assert not counted([0, 0, None, None]), "a middleware that counts nothing"


def test_a_fault_is_told_by_what_brought_it_about_also_when_that_is_over() -> None:
    causes = StopCauses()
    causes.put(TWO_DRIVERS, True)
    assert causes.why("start", latched=False) == "two_drivers", "arms that are not armed are told what is in the way"
    assert causes.why("estop_pressed", latched=True) == "two_drivers"
    causes.put(TWO_DRIVERS, False)
    assert causes.why("estop_pressed", latched=True) == "two_drivers", "nobody has pressed anything"
    assert causes.why("reset_fault", latched=False) == "reset_fault"
    causes.put(PRESSED, True)
    assert causes.why("estop_pressed", latched=True) == "estop_pressed"
    causes.put(TWO_DRIVERS, True)
    assert causes.why("estop_pressed", latched=True) == "estop_pressed"
    assert causes.why("tracking_error", latched=True) == "tracking_error", "what came later did not stop the arms"
