"""Start the whole graph: ros2 launch starry_ros bimanual.launch.py. Arguments: --show-args. Contents: ros/graph.py."""

import os

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable, Shutdown
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from starry_ros.ros import parent
from starry_ros.ros.graph import ARGUMENTS, EXIT_USER_ERROR, Graph, NodeSpec, build_graph


def generate_launch_description() -> LaunchDescription:
    """Called by ros2 launch."""
    return LaunchDescription([
        *(DeclareLaunchArgument(
            argument.name, default_value=argument.default, description=argument.description,
            choices=list(argument.choices) or None,
        ) for argument in ARGUMENTS),
        OpaqueFunction(function=_start),
    ])


def _start(context: LaunchContext) -> list[SetEnvironmentVariable | Node]:
    graph = build_graph({argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS})
    environment = [SetEnvironmentVariable(name, os.environ.get(name, value)) for name, value in graph.env.items()]
    environment.append(SetEnvironmentVariable(parent.VARIABLE, str(os.getpid())))
    return environment + [_node(graph, node) for node in graph.nodes]


def _node(graph: Graph, node: NodeSpec) -> Node:
    return Node(
        package=node.package, executable=node.name, name=node.name, namespace=graph.namespace,
        parameters=[*map(str, node.parameter_files), dict(node.parameters)] if node.parameters else [],
        remappings=list(node.remappings), arguments=list(node.arguments), output="screen",
        ros_arguments=["--log-level", graph.log_level], on_exit=_on_exit,
        respawn=node.respawn_s is not None, respawn_delay=node.respawn_s or 0.0,
    )


def _on_exit(event: ProcessExited, _context: LaunchContext) -> list[Shutdown] | None:
    """A node that was started wrongly would fail again and again: end the graph."""
    if event.returncode != EXIT_USER_ERROR:
        return None
    return [Shutdown(reason=f"{event.process_name} was started wrongly; its own line says how to fix it")]
