"""The closed loop without ROS: timing, success and failure, forced cases."""

from dataclasses import replace

import numpy as np
import pytest

from starry_ros.errors import ConfigError, InputError
from starry_ros.paths import robot_file
from starry_ros.robot_spec import load_robot_spec
from starry_ros.sim.cases import Case
from starry_ros.sim.cell import Cell
from starry_ros.sim.choices import COLOURS, KINDS, TASKS, LoopConfig
from starry_ros.sim.driver import Scene
from starry_ros.sim.expert_policy import ExpertPolicy, chunk_at
from starry_ros.sim.loop import run_episode
from starry_ros.sim.tasks import task_of
from starry_ros.timing import NS_PER_S, nanoseconds
from starry_ros.types import Plan, ValueMap

SPEC = load_robot_spec(robot_file("bimanual_sim"))
MS = 1_000_000


@pytest.fixture(scope="module")
def cell():
    cell = Cell(SPEC)
    yield cell
    cell.close()


@pytest.fixture
def blind(cell, monkeypatch):
    """The cell without its cameras, which the expert does not need."""
    monkeypatch.setattr(cell, "render", lambda camera: np.zeros((240, 320, 3), dtype=np.uint8))
    return cell


class Scripted:
    """Plans `positions(k)` for its k-th plan and notes what it saw."""

    def __init__(self, positions) -> None:
        self.positions, self.canvases, self.states, self.texts = positions, [], [], []

    def reset(self, instruction: str) -> int:
        self.texts.append(instruction)
        return 1

    def set_instruction(self, text: str) -> int:
        self.texts.append(text)
        return len(self.texts)

    def plan(self, canvas, state) -> Plan:
        self.canvases.append(canvas)
        self.states.append(state)
        count = len(self.canvases)
        values = np.zeros((2, 48, 40), dtype=np.float32)
        chunk = chunk_at(SPEC, canvas.stamp_ns, self.positions(count), count, 1, len(self.texts))
        return Plan(chunk, ValueMap(canvas.stamp_ns, canvas.layout_hash, 4, values, ()), None)


def standing(_count: int) -> np.ndarray:
    return np.tile(SPEC.limit("home"), (16, 1))


def test_the_expert_succeeds_through_the_executor_and_goes_on_for_as_long_as_it_is_told(blind):
    result = run_episode(ExpertPolicy(blind), blind, Case(1))
    assert result.success
    assert result.failure == ""
    assert 2.0 < result.duration_s < 8.0
    assert result.stall_share == 0.0
    assert not result.refused
    longer = run_episode(ExpertPolicy(blind), blind, Case(1), LoopConfig(after_s=1.5))
    assert longer.success
    assert longer.duration_s == pytest.approx(result.duration_s + 1.5, abs=0.03)


class LetsGo:
    """The expert until it holds something; from then on its hands stand open where they were."""

    def __init__(self, cell: Cell, task: str) -> None:
        self._cell, self._expert, self._open_J = cell, ExpertPolicy(cell, task), None
        self.reset = self._expert.reset

    def plan(self, canvas, state) -> Plan:
        plan = self._expert.plan(canvas, state)
        if self._open_J is None and self._cell.held("right"):
            self._open_J = state.position_J.copy()
            self._open_J[list(SPEC.gripper_indices)] = SPEC.limit("upper")[list(SPEC.gripper_indices)]
        if self._open_J is None:
            return plan
        return replace(plan, chunk=replace(plan.chunk, positions_KJ=np.tile(self._open_J, (16, 1))))


@pytest.mark.parametrize("task", ["place_block_pad", "stack_blocks_two", "place_dual_blocks"])
def test_what_was_held_and_lies_at_the_end_was_dropped_whatever_the_task_calls_it(blind, task):
    result = run_episode(LetsGo(blind, task), blind, Case(0, task=task), LoopConfig(limit_s=5.0))
    assert result.failure == "dropped"


def test_a_sentence_that_is_swapped_has_the_words_of_its_setting(blind):
    for setting, words in (("easy", task_of("place_block_pad").templates), (
            "hard", task_of("place_block_pad").hard_templates)):
        scene = Scene(blind)
        scene.reset("place_block_pad", setting, 3)
        assert scene.ask_for("blue") in {template.format("blue") for template in words}


def test_the_same_case_gives_the_same_episode_whatever_came_before(blind):
    def end(case: Case) -> tuple:
        result = run_episode(ExpertPolicy(blind), blind, case, LoopConfig(limit_s=1.5))
        return result.delay_s, len(result.plan_s), blind.state(0).position_J.tolist()

    first = end(Case(6))
    assert end(Case(7)) != first
    assert end(Case(6)) == first


@pytest.mark.parametrize(("latency_s", "period_s"), [(0.15, 0.4), (0.6, 0.6)])
def test_observations_come_at_the_replan_interval_but_never_while_a_plan_is_under_way(blind, latency_s, period_s):
    policy = Scripted(standing)
    run_episode(policy, blind, Case(0), LoopConfig(latency_s=latency_s, limit_s=3.0))
    stamps = [canvas.stamp_ns for canvas in policy.canvases]
    assert stamps[0] == NS_PER_S
    assert set(np.diff(stamps)) == {nanoseconds(period_s)}
    assert [state.stamp_ns for state in policy.states] == stamps


def test_the_arm_moves_only_after_the_latency(blind):
    moved_ns = []

    class Watch:
        def looked(self, cell):
            if abs(cell.command_J[7] - SPEC.limit("home")[7]) > 1e-6:
                moved_ns.append(cell.sim_time_s)

        def planned(self, cell, canvas, plan, colour):
            pass

    goal = SPEC.limit("home")
    goal[7] += 0.3
    config = LoopConfig(latency_s=0.5, limit_s=1.0)
    run_episode(Scripted(lambda _: np.tile(goal, (16, 1))), blind, Case(0), config, Watch())
    assert 0.5 <= moved_ns[0] <= 0.565


def test_a_policy_that_stands_still_times_out_in_time(blind):
    result = run_episode(Scripted(standing), blind, Case(0), LoopConfig(limit_s=1.0))
    assert (result.success, result.failure, result.duration_s) == (False, "timeout", 1.0)


def test_an_episode_whose_arms_have_stopped_ends_and_says_why(blind):
    def foreign_after_the_first(count: int) -> np.ndarray:
        return standing(count) if count == 1 else np.full((16, 14), 9.0)

    result = run_episode(Scripted(foreign_after_the_first), blind, Case(0), LoopConfig(limit_s=20.0))
    assert result.failure == "stopped: planner_lost"
    assert result.duration_s == pytest.approx(1.6 + 2.0, abs=0.4), "the end of the plan, and the executor's patience"


@pytest.mark.parametrize("latency_s", [1.2, 2.6])
def test_arms_wait_for_a_planner_that_is_slow_in_every_plan(blind, latency_s):
    config = LoopConfig(mode="sync", latency_s=latency_s, limit_s=9.0)
    result = run_episode(Scripted(standing), blind, Case(0), config)
    assert result.failure == "timeout"
    assert set(result.refused) <= {"past"}


def test_unusable_chunks_are_counted_by_reason_and_move_nothing(blind):
    policy = Scripted(lambda _: np.full((16, 14), np.nan))
    result = run_episode(policy, blind, Case(0), LoopConfig(limit_s=1.0))
    assert result.refused == {"not_finite": len(policy.canvases)}
    assert np.array_equal(blind.command_J, SPEC.limit("home"))


def test_the_wrong_block_on_the_pad_is_named_as_such(blind):
    class Contrary(ExpertPolicy):
        def reset(self, instruction: str) -> int:
            wrong = next(colour for colour in COLOURS if colour not in instruction)
            return super().reset(f"put the {wrong} block on the pad")

    result = run_episode(Contrary(blind), blind, Case(2), LoopConfig(limit_s=8.0))
    assert (result.success, result.failure) == (False, "wrong_block")


def test_a_sentence_that_names_no_block_is_refused(blind):
    with pytest.raises(InputError, match="does not say what to do"):
        ExpertPolicy(blind).reset("put it there")


def test_a_closed_empty_jaw_is_where_that_case_starts(blind):
    policy = Scripted(standing)
    run_episode(policy, blind, Case(2, "closed_jaw"), LoopConfig(limit_s=0.2))
    assert policy.states[0].position_J[13] == pytest.approx(0.0, abs=1e-4)
    assert run_episode(ExpertPolicy(blind), blind, Case(2, "closed_jaw")).success


def test_a_swapped_sentence_is_given_once_on_the_way_and_asks_for_another_block(blind):
    texts = []

    class Noting(ExpertPolicy):
        def set_instruction(self, text: str) -> int:
            texts.append(text)
            return super().set_instruction(text)

    policy = Noting(blind)
    result = run_episode(policy, blind, Case(0, "swap"))
    first, second = texts
    assert first != second
    assert result.colour in second
    assert result.colour not in first
    assert result.success


def test_a_push_moves_the_named_block_and_nothing_else(blind):
    policy = Scripted(standing)
    run_episode(policy, blind, Case(4), LoopConfig(limit_s=1.5))
    still = {colour: blind.block_position(colour) for colour in COLOURS}
    result = run_episode(policy, blind, Case(4, "push"), LoopConfig(limit_s=1.5))
    shifts = {colour: float(np.hypot(*(blind.block_position(colour) - still[colour])[:2])) for colour in COLOURS}
    assert shifts.pop(result.colour) > 0.01
    assert max(shifts.values()) < 0.03


FORCED = [kind for kind in KINDS if kind != "normal"]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", FORCED)
def test_a_forced_case_is_played_or_refused_with_the_tasks_that_have_it_and_never_ends_in_a_traceback(
    blind, task, kind
):
    one_block = ("place_block_pad", "handover_block", "put_block_drawer")
    more = () if kind in ("closed_jaw", "swap") else ("stack_blocks_two", "place_dual_blocks")
    tasks = (*one_block, *more)
    if task in tasks:
        result = run_episode(Scripted(standing), blind, Case(1, kind, task), LoopConfig(limit_s=0.2))
        assert result.colour in task_of(task).targets
        return
    with pytest.raises(ConfigError, match=rf"case {kind}: .*got {task}; expected {', '.join(tasks)}. Fix: "):
        Case(1, kind, task)


@pytest.mark.parametrize("task", ["handover_block", "put_block_drawer"])
def test_a_push_moves_the_block_to_take_in_other_tasks_too(blind, task):
    result = run_episode(Scripted(standing), blind, Case(4, "push", task), LoopConfig(limit_s=1.5))
    where = blind.block_position(result.colour)
    run_episode(Scripted(standing), blind, Case(4, task=task), LoopConfig(limit_s=1.5))
    assert np.hypot(*(blind.block_position(result.colour) - where)[:2]) > 0.01


def test_frames_are_kept_on_request_and_show_the_scene(cell):
    result = run_episode(Scripted(standing), cell, Case(0), LoopConfig(limit_s=0.5, keep_frames=True))
    assert len(result.frames) == len(result.plan_s) == 2
    assert result.frames[0].shape == (192, 160, 3)
    head = result.frames[0][:128].reshape(-1, 3).astype(int)
    for channel in range(3):
        others = np.delete(head, channel, axis=1).max(axis=1)
        assert (head[:, channel] > others + 60).sum() > 10
