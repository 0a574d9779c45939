"""Contacts that came, told from the simulator's contact list."""

from __future__ import annotations

import numpy as np
import pytest

from starry_ros.sim.cases import Case
from starry_ros.sim.cell import BLOCK_HALF_M, Cell
from starry_ros.sim.expert_policy import ExpertPolicy
from starry_ros.sim.loop import run_episode
from starry_ros.sim.task import NextContact
from starry_ros.sim.tasks import evaluation_case
from starry_ros.training.annotate import targets
from starry_ros.training.measure import Meter
from starry_ros.training.touches import Touches


class Watch:
    """Names a contact at the start, and notes where pinch points and a geom were at every look."""

    def __init__(self, geom: str, block: str | None) -> None:
        self.contact, self.touches = NextContact(geom, np.zeros(3), block), Touches()
        self.named, self.pinches, self.when = None, [], []

    def looked(self, cell: Cell) -> None:
        if self.named is None:
            self.named = self.touches.name(cell, self.contact)
        before = len(self.touches.found)
        self.touches.update(cell)
        if len(self.touches.found) > before:
            self.pinches.append([cell.pinch_position(arm.name) for arm in cell.spec.arms])
            self.when.append(cell.sim_time_s)

    def planned(self, *_: object) -> None:
        pass


def watched(
    cell: Cell, task: str, geom: str, block: str | None = None, kind: str = "normal", seed: int = 1
) -> Watch:
    watch = Watch(geom, block)
    assert run_episode(ExpertPolicy(cell, task), cell, Case(seed, kind, task), watcher=watch).success
    return watch


@pytest.mark.parametrize(("task", "geom"), [
    ("stack_blocks_two", "red"), ("place_dual_blocks", "red"), ("lift_tray", "handle_left"),
    ("put_block_drawer", "knob"), ("press_button", "green_button")])
def test_a_grasp_or_press_came_where_the_fingers_of_a_hand_were_on_what_was_named(blind, task, geom):
    watch = watched(blind, task, geom)
    came = watch.touches.came(watch.named)
    blind.reset(evaluation_case(1, task)[0])
    assert np.abs(came - blind.geom_position(geom)).max() < 0.03
    assert min(np.linalg.norm(came - pinch) for pinch in watch.pinches[0]) < 0.018


def test_a_block_came_to_lie_between_the_two_of_a_stack(blind):
    watch = watched(blind, "stack_blocks_two", "blue", "red")
    came = watch.touches.came(watch.named)
    top, bottom = blind.block_position("red"), blind.block_position("blue")
    assert came[2] == pytest.approx((top[2] + bottom[2]) / 2, abs=0.002)
    assert np.abs(came - bottom)[:2].max() < BLOCK_HALF_M + 0.008


def test_a_point_is_carried_back_to_where_the_block_lay_when_it_was_named(blind):
    """A knocked block lies elsewhere and turned: relative to the block the point stays the same."""
    watch = watched(blind, "place_block_pad", "green", kind="push", seed=4)
    came, named = watch.touches.came(watch.named), watch.named
    assert np.linalg.norm(came - named.position) < 0.015
    assert min(np.linalg.norm(came - pinch) for pinch in watch.pinches[0]) > 0.01
    assert np.allclose(named.rotation.T @ (came - named.position), watch.touches.found[0].local)


def test_a_contact_that_never_came_is_none_and_one_that_lasts_still_counts(blind):
    watch = watched(blind, "lift_tray", "handle_left")
    assert Touches().came(watch.named) is None
    held = watch.touches.name(blind, watch.contact)
    assert watch.when[-1] < held.time_s - 0.3
    assert watch.touches.came(held) is not None


def test_the_meter_holds_landing_points_against_the_contact_that_came(blind):
    meter = Meter(blind, "stack_blocks_two", 0.0)
    run_episode(ExpertPolicy(blind, "stack_blocks_two"), blind, Case(1, task="stack_blocks_two"), watcher=meter)
    told = [(targets(shot, meter._log, "stack_blocks_two")[0], shot.named[0]) for shot in meter._shots if shot.named]
    assert all(target.came for target, _ in told)
    assert all(0.0002 < np.linalg.norm(target.point - named.contact.point) < BLOCK_HALF_M for target, named in told)
