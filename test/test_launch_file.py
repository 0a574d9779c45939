"""The launch file: its arguments and nodes are those of the graph. Needs `launch`, which only a distribution has."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from starry_ros.ros.graph import ARGUMENTS, build_graph
from starry_ros.ros.transport import DDS_PROFILE_VARIABLES

REASON = "NOT RUN: `launch` and `launch_ros` are not on PyPI; they come with a ROS 2 distribution"
launch = pytest.importorskip("launch", reason=REASON)
pytest.importorskip("launch_ros", reason=REASON)

FILE = Path(__file__).parents[1] / "launch" / "bimanual.launch.py"


@pytest.fixture
def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bimanual_launch", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def started(module: ModuleType, **values: str) -> list[object]:
    """What the launch file starts for these arguments."""
    context = launch.LaunchContext()
    for argument in ARGUMENTS:
        context.launch_configurations[argument.name] = values.get(argument.name, argument.default)
    return list(module._start(context))


def test_it_declares_every_argument_with_description_default_and_choices(module: ModuleType) -> None:
    description = module.generate_launch_description()
    declared = {argument.name: argument for argument in description.get_launch_arguments()}
    assert set(declared) == {argument.name for argument in ARGUMENTS}
    for argument in ARGUMENTS:
        assert declared[argument.name].description.startswith(argument.description)
        assert tuple(declared[argument.name].choices or ()) == argument.choices


@pytest.mark.parametrize("values", [{}, {"sim": "false"}, {"record": "true", "rviz": "true", "namespace": "cell_1"}])
def test_it_starts_the_nodes_of_the_graph(module: ModuleType, values: dict[str, str]) -> None:
    from launch_ros.actions import Node

    nodes = [action for action in started(module, **values) if isinstance(action, Node)]
    names = [action.node_executable for action in nodes]
    assert names == [node.name for node in build_graph(values).nodes]


def test_a_node_that_was_started_wrongly_ends_the_graph(module: ModuleType) -> None:
    from launch.actions import Shutdown
    from launch.events.process import ProcessExited

    def outcome(code: int) -> object:
        event = ProcessExited(action=object(), name="n", cmd=[], cwd=None, env=None, pid=1, returncode=code)
        return module._on_exit(event, launch.LaunchContext())

    assert isinstance(outcome(2)[0], Shutdown)
    assert [outcome(0), outcome(1), outcome(-9)] == [None] * 3


def test_only_nodes_that_may_are_restarted_and_as_late_as_the_graph_says(module: ModuleType) -> None:
    from launch_ros.actions import Node

    nodes = [action for action in started(module, record="true") if isinstance(action, Node)]
    restarted = {action.node_executable: action._ExecuteLocal__respawn_delay for action in nodes
                 if action._ExecuteLocal__respawn}
    assert restarted == {node.name: node.respawn_s for node in build_graph({"record": "true"}).nodes
                         if node.respawn_s is not None}


def test_it_sets_the_dds_profile_before_any_node(module: ModuleType) -> None:
    from launch.actions import SetEnvironmentVariable

    actions = started(module)
    settings = [action for action in actions if isinstance(action, SetEnvironmentVariable)]
    assert set(DDS_PROFILE_VARIABLES) <= {"".join(part.text for part in action.name) for action in settings}
    assert actions[: len(settings)] == settings
