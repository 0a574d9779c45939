"""The description of the graph: what runs, with what, and that nothing which moves an arm comes back by itself."""

from __future__ import annotations

import dataclasses
import importlib
import os
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from starry_ros.errors import ConfigError
from starry_ros.paths import robot_file, share_dir
from starry_ros.ros.graph import ARGUMENTS, NodeSpec, build_graph
from starry_ros.ros.transport import DDS_PROFILE_VARIABLES

LARGEST_IMAGE_BYTES = 640 * 480 * 3
CORE = {"canvas_packer", "world_action", "value_map_visualizer", "action_executor"}


def names(**values: str) -> set[str]:
    return {node.name for node in build_graph(values).nodes}


def test_arguments_choose_the_nodes() -> None:
    assert names() == CORE | {"sim_robot"}
    assert names(sim="false") == CORE
    assert names(record="true") == CORE | {"sim_robot", "recorder"}
    assert names(rviz="true") == CORE | {"sim_robot", "rviz2"}


@pytest.mark.parametrize(("values", "estop", "heartbeat"), [
    ({}, None, None),
    ({"sim": "false"}, True, True),
    ({"estop": "required"}, True, None),
    ({"sim": "false", "estop": "off", "heartbeat": "off"}, False, False),
])
def test_a_real_robot_needs_an_estop_and_a_heartbeat_unless_told_otherwise(
    values: dict[str, str], estop: bool | None, heartbeat: bool | None
) -> None:
    parameters = build_graph(values).node("action_executor").parameters
    assert (parameters.get("require_estop"), parameters.get("require_heartbeat")) == (estop, heartbeat)
    assert not {"estop_timeout_s", "heartbeat_timeout_s"} & set(parameters), "a file of the user's says after how long"


def test_a_file_of_parameters_is_read_by_every_node_after_its_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("/**/action_executor:\n  ros__parameters: {patience_s: 5.0}\n")
    for node in build_graph({"params": str(file)}).nodes:
        assert node.parameter_files[-1] == file
        assert build_graph().node(node.name).parameter_files == node.parameter_files[:-1]
    with pytest.raises(ConfigError, match="is no file"):
        build_graph({"params": str(tmp_path / "nothing.yaml")})


def test_only_nodes_that_move_nothing_are_restarted() -> None:
    graph = build_graph({"record": "true", "rviz": "true"})
    assert {node.name for node in graph.nodes if node.respawn_s is not None} == {
        "canvas_packer", "value_map_visualizer", "recorder", "world_action",
    }


def test_every_node_of_the_package_has_its_module() -> None:
    for node in build_graph({"record": "true"}).nodes:
        assert (share_dir() / "starry_ros" / "ros" / f"{node.name}_node.py").is_file(), node.name


def test_every_argument_is_described_and_its_default_is_a_choice() -> None:
    for argument in ARGUMENTS:
        assert argument.description.endswith(".")
        assert not argument.choices or argument.default in argument.choices


@pytest.mark.parametrize(("values", "message"), [
    ({"runtime": "magic"}, "runtime: is not a choice; got 'magic'"),
    ({"sim": "yes"}, "sim: is not a choice; got 'yes'"),
    ({"colour": "red"}, r"graph: unknown arguments; got \['colour'\]"),
    ({"namespace": "9lives"}, "namespace: is not a ROS name"),
    ({"namespace": "a//b"}, "namespace: is not a ROS name"),
    ({"robot": "nobody"}, r"robot: is unknown; got nobody; expected \['bimanual_sim'"),
])
def test_a_wrong_argument_is_named(values: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_graph(values)


def test_the_command_line_carries_parameters_names_and_namespace() -> None:
    graph = build_graph({"namespace": "/cell_1", "runtime": "torch", "log_level": "warn"})
    command = graph.command(graph.node("world_action"))
    assert command[1:5] == ["-m", "starry_ros.ros.start", "world_action", "--ros-args"]
    for pair in ("__node:=world_action", "__ns:=/cell_1", 'runtime:="torch"', 'robot:="bimanual_sim"', "warn"):
        assert pair in command


def test_parameters_survive_the_command_line_with_their_types() -> None:
    values = {"text": "true", "number": "12", "on": True, "size": 3, "rate": 2.5, "odd": 'a "b": c'}
    graph = build_graph()
    node = dataclasses.replace(graph.node("sim_robot"), parameters=values)
    pairs = [word.split(":=", 1) for word in graph.command(node) if ":=" in word and not word.startswith("__")]
    assert {name: yaml.safe_load(text) for name, text in pairs} == values


def test_paths_do_not_depend_on_the_folder_of_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(robot_file("bimanual_sim"), tmp_path / "robot.yaml")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    node = build_graph({"robot": "robot.yaml", "model": "mine"}).node("world_action")
    assert node.parameters["robot"] == str(tmp_path / "robot.yaml")
    assert node.parameters["model"] == str(tmp_path / "mine")


def test_a_name_stays_a_name_where_a_folder_is_called_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tiny", "bimanual_sim"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    node = build_graph({"robot": "bimanual_sim", "model": "tiny"}).node("world_action")
    assert (node.parameters["robot"], node.parameters["model"]) == ("bimanual_sim", "tiny")


def test_a_namespace_moves_the_topics_of_rviz() -> None:
    graph = build_graph({"rviz": "true", "namespace": "cell_1"})
    assert graph.node("rviz2").remappings
    for old, new in graph.node("rviz2").remappings:
        assert new == f"/cell_1{old}"
    assert build_graph({"rviz": "true"}).node("rviz2").remappings == ()


def test_the_dds_profile_holds_images_and_is_named_for_both_generations(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in DDS_PROFILE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    environment = build_graph().environment()
    profile = {environment[name] for name in DDS_PROFILE_VARIABLES}
    assert profile == {str(share_dir() / "config" / "fastdds.xml")}
    tree = ElementTree.parse(profile.pop())
    sizes = [int(element.text or 0) for element in tree.iter() if element.tag.endswith("segment_size")]
    assert min(sizes) >= 4 * 3 * LARGEST_IMAGE_BYTES


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DDS_PROFILE_VARIABLES[0], raising=False)
    monkeypatch.setenv(DDS_PROFILE_VARIABLES[1], "/mine.xml")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    environment = build_graph().environment()
    assert [environment[name] for name in DDS_PROFILE_VARIABLES] == ["/mine.xml"] * 2
    assert environment["OMP_WAIT_POLICY"] == "ACTIVE"
    assert environment["PATH"] == os.environ["PATH"]


def test_parameter_files_work_in_any_namespace_and_name_their_node() -> None:
    for path in sorted((share_dir() / "config" / "nodes").glob("*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert list(content) == [f"/**/{path.stem}"], path.name
        assert list(content[f"/**/{path.stem}"]) == ["ros__parameters"]


@pytest.mark.parametrize("name", sorted(node.name for node in build_graph({"record": "true"}).nodes))
def test_parameter_files_hold_declared_parameters_at_their_defaults(name: str) -> None:
    pytest.importorskip("rclpy", reason="nodes need ROS 2")
    table = importlib.import_module(f"starry_ros.ros.{name}_node").PARAMETERS
    defaults = {row.name: row.default for row in table}
    content = yaml.safe_load((share_dir() / "config" / "nodes" / f"{name}.yaml").read_text(encoding="utf-8"))
    values = content[f"/**/{name}"]["ros__parameters"]
    assert {key: (value, type(value)) for key, value in values.items()} == {
        key: (defaults[key], type(defaults[key])) for key in values
    }


def test_values_of_the_graph_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        NodeSpec("x").respawn_s = 1.0  # type: ignore[misc]


def test_rviz_that_is_not_installed_is_said_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rclpy", reason="starry up needs ROS 2")
    from starry_ros.cli import main

    monkeypatch.setenv("PATH", "/nonexistent")
    assert main(["up", "--rviz", "true"]) == 2
    assert "rviz2 is not installed. Fix: use a ROS 2 distribution, or --rviz false" in capsys.readouterr().err
