"""The one description of the graph: nodes, parameters, names, environment, and which are restarted, and when.

Imports neither launch nor rclpy. `launch/bimanual.launch.py` turns it into launch actions, `ros/up.py` into processes.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from starry_ros.errors import ConfigError
from starry_ros.paths import holds_model, robot_file, share_dir
from starry_ros.ros.transport import dds_environment
from starry_ros.wam.choices import RUNTIMES

PACKAGE = "starry_ros"
EXIT_USER_ERROR = 2
"""Exit code of a node whose parameters or files are wrong: starting it again would not help."""
LOG_LEVELS = ("debug", "info", "warn", "error")
BOOLEANS = ("true", "false")
NEEDS = ("auto", "required", "off")
_NAMESPACE = re.compile(r"^$|^/?[A-Za-z]\w*(/[A-Za-z]\w*)*$")


@dataclass(frozen=True)
class Argument:
    """One argument of the launch file and of `starry up`. Empty `choices` allow any text."""

    name: str
    default: str
    description: str
    choices: tuple[str, ...] = ()


ARGUMENTS = (
    Argument("robot", "bimanual_sim", "Robot contract: a name in config/robots, or the path of a YAML file."),
    Argument("model", "tiny", "Model: the name of a folder in models, or the path of a model folder."),
    Argument("runtime", "auto", "What evaluates the model; auto takes the fastest one installed.", RUNTIMES),
    Argument("sim", "true", "Start the simulated robot; false for a real one, whose drivers you start.", BOOLEANS),
    Argument("estop", "auto", "required: a silent estop topic counts as pressed; auto: with a real robot.", NEEDS),
    Argument("heartbeat", "auto", "required: a silent heartbeat topic stops the arms; auto: with a real robot.", NEEDS),
    Argument("rviz", "false", "Start RViz with the camera views and value maps; needs a ROS 2 distribution.", BOOLEANS),
    Argument("record", "false", "Record every topic into one MCAP file a session, in ./recordings.", BOOLEANS),
    Argument("namespace", "", "Namespace of every node and topic, such as cell_1; empty for none."),
    Argument("params", "", "A YAML file of node parameters that override config/nodes, under /**/NODE."),
    Argument("log_level", "info", "Least severe messages to print.", LOG_LEVELS),
)


@dataclass(frozen=True)
class NodeSpec:
    """One process. `parameters` override `parameter_files`.

    It is started again `respawn_s` seconds after it has ended, or never.
    """

    name: str
    package: str = PACKAGE
    parameters: Mapping[str, Any] = field(default_factory=dict)
    parameter_files: tuple[Path, ...] = ()
    remappings: tuple[tuple[str, str], ...] = ()
    arguments: tuple[str, ...] = ()
    respawn_s: float | None = None


@dataclass(frozen=True)
class Graph:
    """Everything that is started. `env` holds defaults: what the user has set already stays."""

    nodes: tuple[NodeSpec, ...]
    namespace: str
    log_level: str
    env: Mapping[str, str]

    def node(self, name: str) -> NodeSpec:
        """The node of that name; KeyError when the graph has none."""
        return {node.name: node for node in self.nodes}[name]

    def changed(self, parameters: Mapping[str, Mapping[str, object]]) -> Graph:
        """The same graph with other parameters of the nodes named."""
        nodes = (replace(node, parameters={**node.parameters, **parameters.get(node.name, {})}) for node in self.nodes)
        return replace(self, nodes=tuple(nodes))

    def command(self, node: NodeSpec) -> list[str]:
        """Command line of one node of this package as a child of this Python."""
        ros = ["-r", f"__node:={node.name}", "--log-level", self.log_level]
        if self.namespace:
            ros += ["-r", f"__ns:=/{self.namespace}"]
        for file in node.parameter_files:
            ros += ["--params-file", str(file)]
        for name, value in node.parameters.items():
            ros += ["-p", f"{name}:={json.dumps(value)}"]
        for old, new in node.remappings:
            ros += ["-r", f"{old}:={new}"]
        return [*_program(node), *node.arguments, "--ros-args", *ros]

    def environment(self) -> dict[str, str]:
        """Environment of every child: this process's, completed by the defaults."""
        return {**self.env, **os.environ}


def build_graph(values: Mapping[str, str] | None = None) -> Graph:
    """The graph for these arguments, defaults for the rest. ConfigError on a name or value that is not allowed."""
    from starry_ros.robot_spec import load_robot_spec  # these load NumPy, which `--help` does not wait for
    from starry_ros.ros.respawn import SOON_S, without_plans_s

    chosen = _check(values or {})
    spec = load_robot_spec(robot_file(chosen["robot"]))
    robot, model = _absolute(chosen["robot"]), _absolute(chosen["model"])
    on = {name: chosen[name] == "true" for name in ("sim", "rviz", "record")}
    params = (Path(chosen["params"]).expanduser().resolve(),) if chosen["params"] else ()
    late_s = without_plans_s(spec, (*_own_file("action_executor"), *params))
    nodes = [
        _node("canvas_packer", {"robot": robot}, late_s),
        _node("world_action", {"robot": robot, "model": model, "runtime": chosen["runtime"]}, late_s),
        _node("value_map_visualizer", {"robot": robot}, SOON_S),
        _node("action_executor", {"robot": robot, **_guards(chosen)}),
    ]
    if on["sim"]:
        nodes.insert(0, _node("sim_robot", {"robot": robot}))
    if on["record"]:
        nodes.append(_node("recorder", {"robot": robot, "model": model}, SOON_S))
    if on["rviz"]:
        nodes.append(_rviz(chosen["namespace"].strip("/")))
    nodes = [replace(node, parameter_files=(*node.parameter_files, *params)) for node in nodes]
    return Graph(tuple(nodes), chosen["namespace"].strip("/"), chosen["log_level"], _environment())


def _guards(chosen: Mapping[str, str]) -> dict[str, bool]:
    """Which of the executor's inputs are required: silent, they keep the arms from moving. Files say after how long."""
    real = chosen["sim"] == "false"
    asked = [name for name in ("estop", "heartbeat") if chosen[name] != "auto" or real]
    return {f"require_{name}": chosen[name] != "off" for name in asked}


def _check(values: Mapping[str, str]) -> dict[str, str]:
    table = {argument.name: argument for argument in ARGUMENTS}
    unknown = sorted(set(values) - set(table))
    if unknown:
        raise ConfigError("graph", "unknown arguments", got=unknown, expected=sorted(table))
    chosen = {name: values.get(name, argument.default) for name, argument in table.items()}
    for name, argument in table.items():
        if argument.choices and chosen[name] not in argument.choices:
            raise ConfigError(name, "is not a choice", got=repr(chosen[name]), expected=list(argument.choices))
    if chosen["params"] and not Path(chosen["params"]).expanduser().is_file():
        raise ConfigError("params", "is no file", got=chosen["params"], expected="a YAML file of node parameters")
    if not _NAMESPACE.match(chosen["namespace"]):
        raise ConfigError("namespace", "is not a ROS name", got=repr(chosen["namespace"]), expected="such as cell_1")
    return chosen


def _absolute(given: str) -> str:
    """A name stays a name, whatever lies here; a path is made independent of the folder that a child starts in."""
    path = Path(given).expanduser()
    is_path = len(path.parts) > 1 or path.suffix in (".yaml", ".yml") or holds_model(path)
    return str(path.resolve()) if is_path else given


def _node(name: str, parameters: Mapping[str, Any], respawn_s: float | None = None) -> NodeSpec:
    return NodeSpec(name, parameters=parameters, parameter_files=_own_file(name), respawn_s=respawn_s)


def _own_file(name: str) -> tuple[Path, ...]:
    """The file of parameters that ships with a node, if one does."""
    file = share_dir() / "config" / "nodes" / f"{name}.yaml"
    return (file,) if file.is_file() else ()


def _rviz(namespace: str) -> NodeSpec:
    config = share_dir() / "config" / "bimanual.rviz"
    topics = re.findall(r"^\s*Value: (/\S+)$", config.read_text(encoding="utf-8"), re.MULTILINE) if namespace else []
    topics += [f"{topic.rpartition('/')[0]}/camera_info" for topic in topics if topic.endswith("/image_raw")]
    remappings = tuple((topic, f"/{namespace}{topic}") for topic in sorted(set(topics)))
    return NodeSpec("rviz2", package="rviz2", arguments=("-d", str(config)), remappings=remappings)


def _environment() -> dict[str, str]:
    return {
        **dds_environment(),
        "OMP_WAIT_POLICY": "PASSIVE",  # waiting threads sleep: the executor shares the cores with the model
        "PYTHONUNBUFFERED": "1",
    }


def _program(node: NodeSpec) -> list[str]:
    return [sys.executable, "-m", "starry_ros.ros.start", node.name] if node.package == PACKAGE else [node.name]
