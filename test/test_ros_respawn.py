"""When nodes that ended are started again: what gives the arms their plans, not before they wait for `arm`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from control_kit import FULL_SPEC, SPEC, Follower, make_chunk, smooth_plan

from starry_ros.control.executor import Executor
from starry_ros.control.safety import Event, Mode
from starry_ros.control.status import ExecutorConfig
from starry_ros.errors import ConfigError
from starry_ros.paths import robot_file, share_dir
from starry_ros.ros import respawn
from starry_ros.ros.graph import build_graph
from starry_ros.timing import nanoseconds

CONFIG = ExecutorConfig()
PLANNING = ("canvas_packer", "world_action")
OWN = share_dir() / "config" / "nodes" / "action_executor.yaml"
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(text: str) -> Path:
        file = tmp_path / "mine.yaml"
        file.write_text(text)
        return file

    return written


def test_the_numbers_are_those_of_the_executor_and_of_its_file() -> None:
    assert CONFIG.patience_s == respawn.PATIENCE_S
    assert CONFIG.slow_factor == respawn.SLOW_FACTOR
    assert CONFIG.max_delay_s == respawn.LONGEST_DELAY_S
    assert CONFIG.schedule.max_observation_age_s == respawn.OLDEST_S
    shipped = yaml.safe_load(OWN.read_text(encoding="utf-8"))["/**/action_executor"]["ros__parameters"]
    assert shipped["patience_s"] == respawn.PATIENCE_S


def test_what_plans_comes_back_late_and_what_only_shows_or_records_soon() -> None:
    graph = build_graph({"record": "true"})
    late_s = respawn.without_plans_s(FULL_SPEC, [OWN])
    assert late_s == pytest.approx(3.0 + 2.0 * (1.7 + 3.0) + 2.0 + 2.0)
    assert {node.name: node.respawn_s for node in graph.nodes} == {
        "sim_robot": None, "action_executor": None, "canvas_packer": late_s, "world_action": late_s,
        "value_map_visualizer": respawn.SOON_S, "recorder": respawn.SOON_S,
    }


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("age_s", [0.3, 1.5, respawn.OLDEST_S])
def test_whatever_the_last_plan_is_arms_wait_for_arm_before_a_planner_is_back(slow: bool, age_s: float) -> None:
    """The packer dies, and the planner hands over what it saw last as late as it may."""
    robot = Follower(Executor(SPEC))
    robot.arm()
    robot.follow(1.0)
    seen_ns = robot.now_ns
    robot.executor.set_condition(Event.PLANNER_DEGRADED, slow, robot.now_ns)
    robot.run(age_s - 0.1)
    times_K = 1.0 + age_s + SPEC.action.step_s * np.arange(SPEC.action.chunk_steps)
    chunk = make_chunk(smooth_plan(times_K), seen_ns, 99, start_ns=robot.now_ns + nanoseconds(SPEC.action.step_s))
    assert robot.executor.submit(chunk, robot.now_ns).accepted
    due_s = respawn.without_plans_s(SPEC, [])
    assert due_s is not None
    robot.run(due_s - (age_s - 0.1))
    assert robot.executor.status(robot.now_ns).mode is Mode.STOP
    assert robot.executor.status(robot.now_ns).reason == "planner_lost"


def test_longer_plans_and_longer_patience_make_it_later(write: Write) -> None:
    usual_s = respawn.without_plans_s(FULL_SPEC, [OWN])
    assert usual_s is not None
    longer = replace(FULL_SPEC, action=replace(FULL_SPEC.action, chunk_steps=32))
    assert respawn.without_plans_s(longer, [OWN]) == pytest.approx(usual_s + respawn.SLOW_FACTOR * 1.6)
    patient = write("/**/action_executor:\n  ros__parameters: {patience_s: 5.0}\n")
    graph = build_graph({"params": str(patient)})
    assert [graph.node(name).respawn_s for name in PLANNING] == [pytest.approx(usual_s + 3.0)] * 2


@pytest.mark.parametrize("text", [
    "action_executor: {ros__parameters: {patience_s: 7}}",
    "/cell_1: {action_executor: {ros__parameters: {patience_s: 7.0}}}",
    "/**: {ros__parameters: {patience_s: 7.0}}\nother: {ros__parameters: {patience_s: 6.0}}",
])
def test_a_patience_is_found_however_its_node_is_named(text: str, write: Write) -> None:
    assert respawn.longest_patience_s([OWN, write(text)]) == 7.0


@pytest.mark.parametrize("text", ["", "# nothing", "/**/action_executor: {ros__parameters: {patience_s: 0.5}}",
                                  "/**/action_executor: {ros__parameters: {patience_s: soon}}"])
def test_no_file_makes_it_sooner(text: str, write: Write) -> None:
    assert respawn.longest_patience_s([OWN, write(text)]) == CONFIG.patience_s


def test_where_arms_never_wait_for_arm_what_plans_is_never_started_again(write: Write) -> None:
    endless = write("/**/action_executor:\n  ros__parameters: {patience_s: 0.0}\n")
    graph = build_graph({"params": str(endless)})
    assert [graph.node(name).respawn_s for name in PLANNING] == [None, None]
    assert graph.node("value_map_visualizer").respawn_s == respawn.SOON_S


def test_a_file_of_parameters_that_cannot_be_read_is_named(write: Write) -> None:
    with pytest.raises(ConfigError, match=r"mine\.yaml: is no file of parameters"):
        build_graph({"params": str(write("a: [1,"))})


def test_a_robot_of_ones_own_counts(tmp_path: Path) -> None:
    text = robot_file("bimanual_sim").read_text(encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(text.replace("chunk_steps: 16", "chunk_steps: 26"))
    mine, usual = (build_graph({"robot": robot}).node("world_action").respawn_s
                   for robot in (str(tmp_path / "mine.yaml"), "bimanual_sim"))
    assert mine == pytest.approx((usual or 0.0) + 2.0)
