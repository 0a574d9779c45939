"""Forced drops, missed grasps and pushes: they come about once, on the simulator's side, and say whether they did."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from starry_ros.paths import robot_file
from starry_ros.robot_spec import load_robot_spec
from starry_ros.sim.cases import Case
from starry_ros.sim.cell import BLOCK_HALF_M, Cell
from starry_ros.sim.choices import LoopConfig
from starry_ros.sim.driver import SimulatedDriver
from starry_ros.sim.expert_policy import ExpertPolicy
from starry_ros.sim.loop import USUAL, EpisodeResult, run_episode
from starry_ros.sim.tasks import evaluation_case
from starry_ros.timing import NS_PER_S

SPEC = load_robot_spec(robot_file("bimanual_sim"))
RIGHT_JAW = 13
LOOK_S = 0.02
"""Between two looks."""


class Film:
    """At every look: where a block is, whether a hand presses on it with both fingers, and its speed."""

    def __init__(self, colour: str) -> None:
        self.colour, self.where, self.held, self.speeds = colour, [], [], []

    def looked(self, cell: Cell) -> None:
        self.where.append(cell.block_position(self.colour))
        self.held.append(self.colour in (cell.held("right"), cell.held("left")))
        self.speeds.append(cell.block_speed(self.colour))

    def planned(self, *_: object) -> None:
        pass


def played(cell: Cell, case: Case, colour: str, config: LoopConfig = USUAL) -> tuple[EpisodeResult, Film]:
    film = Film(colour)
    return run_episode(ExpertPolicy(cell, case.task), cell, case, config, film), film


def grasps(film: Film) -> int:
    """How often a hand took the block: runs of looks in which it was held, breaks of one look left out."""
    held = np.array(film.held)
    held[1:-1] |= held[:-2] & held[2:]
    return int((held[1:] & ~held[:-1]).sum())


def taken(film: Film) -> int:
    """The look from which a hand holds the block for 0.3 s on end; less is a block that slips through."""
    looks = round(0.3 / LOOK_S)
    return next(i for i in range(len(film.held)) if film.held[i : i + looks] == [True] * looks)


@functools.cache
def usually(cell: Cell, case: Case, colour: str) -> tuple[EpisodeResult, Film]:
    """The same, played once for all tests: the same case gives the same episode."""
    return played(cell, case, colour)


BLOCKS = [("place_block_pad", 1, "green"), ("stack_blocks_two", 0, "red"), ("place_dual_blocks", 3, "blue")]
"""The block that is taken, as the sentences of these seeds say."""


@pytest.mark.parametrize(("task", "seed", "colour"), BLOCKS)
def test_a_dropped_block_falls_out_of_the_air_and_is_taken_again(blind, task, seed, colour):
    usual, whole = usually(blind, Case(seed, task=task), colour)
    result, film = usually(blind, Case(seed, "dropped", task), colour)
    assert usual.forced
    assert result.forced
    assert grasps(whole) == 1
    assert grasps(film) > 1
    released = next(i for i in range(1, len(film.held)) if film.held[i - 1] and not film.held[i])
    heights = np.array(film.where)[:, 2]
    assert heights[released] > BLOCK_HALF_M + 0.01
    assert min(heights[released : released + round(0.4 / LOOK_S)]) < BLOCK_HALF_M + 0.004
    assert result.success


@pytest.mark.parametrize(("task", "seed", "colour"), BLOCKS)
def test_a_missed_block_shoots_out_of_the_closing_jaw_and_is_taken_later(blind, task, seed, colour):
    _, whole = usually(blind, Case(seed, task=task), colour)
    result, film = usually(blind, Case(seed, "missed", task), colour)
    assert result.forced
    first, later = taken(whole), taken(film)
    knocked = int(np.argmax(film.speeds[:later]))
    assert film.speeds[knocked] > 0.4
    assert knocked <= first + 2
    moved_m = np.linalg.norm(film.where[later] - film.where[0])
    assert 0.03 < moved_m < 0.12
    assert (later - first) * LOOK_S > 0.5
    assert result.success


def test_time_counts_anew_from_a_drop(blind):
    case = Case(1, "dropped")
    result, film = usually(blind, case, "green")
    whole_s = LOOK_S * len(film.where)
    assert result.duration_s < whole_s - 1.0
    assert played(blind, case, "green", LoopConfig(limit_s=result.duration_s + 0.1))[0].success
    assert not played(blind, case, "green", LoopConfig(limit_s=result.duration_s - 0.2))[0].success


@pytest.mark.parametrize("kind", ["dropped", "missed", "swap"])
def test_what_never_came_about_is_said(blind, kind):
    result, _ = played(blind, Case(1, kind), "green", LoopConfig(limit_s=0.3))
    assert not result.forced


def test_the_same_case_has_the_same_mishap(blind):
    first, (_, again) = usually(blind, Case(1, "missed"), "green")[1], played(blind, Case(1, "missed"), "green")
    other = played(blind, Case(4, "missed"), "green")[1]
    assert np.array_equal(first.where, again.where)
    assert max(first.speeds) != max(other.speeds)


def test_a_jaw_that_is_forced_open_opens_whatever_is_asked_and_obeys_again_after(blind):
    blind.reset(evaluation_case(0)[0])
    driver = SimulatedDriver(SPEC, blind, NS_PER_S)
    driver.restart()
    shut = SPEC.limit("home")
    shut[RIGHT_JAW] = 0.0
    for arm in SPEC.arms:
        assert driver.set_point(arm.name, shut[SPEC.arm_slice(arm.name)])
    widths = {}
    for tick in range(200):
        if tick == 100:
            driver.force_open("right", 0.3)
        driver.tick()
        widths[driver.time_ns - NS_PER_S] = driver.state().position_J[RIGHT_JAW]
    at = np.array([*widths]) / NS_PER_S
    width = np.array([*widths.values()])
    forced_s = at[99]
    assert width[99] == pytest.approx(0.0, abs=1e-3)
    assert width[np.searchsorted(at, forced_s + 0.29)] == pytest.approx(0.04, abs=2e-3)
    assert width[np.searchsorted(at, forced_s + 0.29 + 0.3)] == pytest.approx(0.0, abs=2e-3)
    assert driver.state().position_J[6] == pytest.approx(0.04, abs=1e-3), "the other jaw"


