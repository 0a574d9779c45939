"""What node world_action says of itself over real DDS: frames between plans, surprise, the rung of the ladder."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starry_ros.msg import WorldActionStatus
from starry_ros.srv import SetInstruction
from world_action_kit import Rig

REPLAN_S = 1.2
NODE = ("-m", "starry_ros.ros.start", "world_action")
SLOW = str(Path(__file__).with_name("slow_world_action.py"))
LEFT_PX, RIGHT_PX = 40, 110


def block_at(rig: Rig, column_px: int) -> np.ndarray:
    """A table with a red block, as the head camera might see it."""
    image_HWC = np.full_like(rig.picture, (120, 110, 100))
    image_HWC[50:66, column_px : column_px + 16] = (200, 30, 30)
    return image_HWC


@pytest.fixture(scope="module")
def rig(shared_world: Any, spec: Any) -> Rig:
    """The shipped model and its calibration. The budget is one that any machine keeps, so that all plans are whole."""
    made = Rig(shared_world, spec, NODE, model="tiny", runtime="torch", replan_s=REPLAN_S, budget_s=60.0)
    made.picture = block_at(made, LEFT_PX)
    return made


def test_between_plans_frames_of_the_history_are_taken_in(rig: Rig) -> None:
    """Of three frames 0.4 s apart one is planned on: only that one is on the critical path."""
    rig.send_until(lambda: rig.statuses[-1].state == "planning")
    first = rig.statuses[-1]

    def grown(name: str) -> int:
        return int(getattr(rig.statuses[-1], name) - getattr(first, name))

    rig.send_until(lambda: grown("plans") >= 2 and grown("observations") >= 2 * grown("plans"))
    assert (rig.statuses[-1].state, rig.statuses[-1].rung) == ("planning", "full"), "no plan was left out"


def test_surprise_is_small_while_nothing_moves_and_tells_of_a_block_that_was_moved(rig: Rig) -> None:
    def surprises(since: int = 0) -> list[float]:
        return [float(value) for status in rig.statuses[since:] for value in status.surprise]

    def plan_times(count: int) -> None:
        end = rig.statuses[-1].plans + count
        rig.send_until(lambda: rig.statuses[-1].plans >= end)

    plan_times(max(1, 3 - rig.statuses[-1].plans))
    calm, start = surprises(), len(rig.statuses)
    assert calm
    assert all(math.isfinite(value) and 0 <= value < 2 for value in calm), "2 stops the arms"

    for column_px in (RIGHT_PX, LEFT_PX, RIGHT_PX, LEFT_PX):  # only the first plan that sees it is surprised
        rig.picture = block_at(rig, column_px)
        plan_times(2)
        if max(surprises(start)) > 1:
            break
    assert all(math.isfinite(value) and value >= 0 for value in surprises(start))
    assert max(surprises(start)) > max(1.0, *calm), "1 slows the arms"


def test_a_new_session_is_not_surprised_before_it_has_planned(rig: Rig) -> None:
    rig.send_until(lambda: len(rig.statuses[-1].surprise) == 1)
    epoch = rig.reset().epoch

    def of_the_new_session() -> list[WorldActionStatus]:
        return [status for status in rig.statuses if status.epoch == epoch]

    rig.world.until(of_the_new_session)
    assert not of_the_new_session()[-1].surprise


def test_a_planner_that_becomes_too_slow_for_its_budget_says_how_it_plans_now(world: Any, spec: Any) -> None:
    """Where imagining anew takes too long, what was imagined serves again; where acting does, nothing is planned."""
    rig = Rig(world, spec, (SLOW,), budget_s=0.5)

    def says(*words: str) -> Callable[[], bool]:
        return lambda: (rig.statuses[-1].rung, rig.statuses[-1].state, rig.statuses[-1].reason) == words

    rig.send_until(says("full", "planning", ""))
    assert rig.world.call(SetInstruction, "set_instruction", text="imagine slowly").accepted
    rig.send_until(says("reuse_latents", "planning", ""))
    assert rig.world.call(SetInstruction, "set_instruction", text="imagine and act slowly").accepted
    rig.send_until(says("hold", "refused", "no_time"))
