"""config/bimanual.rviz against the nodes: every display exists in RViz and matches what a node publishes.

The topics and profiles of the nodes are read from their sources.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml

from starry_ros.paths import robot_file, share_dir
from starry_ros.robot_spec import load_robot_spec
from starry_ros.ros import overlay_topics
from starry_ros.ros.graph import build_graph

CONFIG = share_dir() / "config" / "bimanual.rviz"
SPEC = load_robot_spec(robot_file("bimanual_sim"))
NODES = share_dir() / "starry_ros" / "ros"
SHOWS = {  # display classes of rviz_default_plugins (Jazzy to rolling) and the message each shows
    "rviz_default_plugins/Grid": None, "rviz_default_plugins/TF": None, "rviz_default_plugins/RobotModel": "String",
    "rviz_default_plugins/Image": "Image", "rviz_default_plugins/Camera": "Image",
    "rviz_default_plugins/MarkerArray": "MarkerArray",
}
FROM_DRIVERS = {"robot_description": ("String", "LATCHED")}
FROM_DRIVERS |= {camera.topic: ("Image", "SENSOR") for camera in SPEC.cameras}
NAMES = {"PLAN_MARKERS": overlay_topics.PLAN_MARKERS, "IMAGINED_BESIDE_REAL": overlay_topics.IMAGINED_BESIDE_REAL}


def displays() -> list[dict[str, Any]]:
    return list(yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["Visualization Manager"]["Displays"])


def topics_of(node: ast.expr) -> list[str]:
    """What a topic argument of create_publisher stands for."""
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.Name):
        return [NAMES[node.id]] if node.id in NAMES else []
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        made = getattr(overlay_topics, node.func.id)
        extra = (0, 1) if node.func.id == "raw_topic" else (None,)
        return [made(c.name) if e is None else made(c.name, e) for c in SPEC.cameras for e in extra]
    if isinstance(node, ast.Attribute) and node.attr in ("topic", "info_topic"):
        return [getattr(camera, node.attr) for camera in SPEC.cameras]
    return []


def published() -> dict[str, tuple[str, str]]:
    """Topic to (message, quality of service) of every node of the graph."""
    found = dict(FROM_DRIVERS)
    for path in NODES.glob("*_node.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_publisher = isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "create_publisher"
            if is_publisher and isinstance(call.args[0], ast.Name) and isinstance(call.args[2], ast.Name):
                for topic in topics_of(call.args[1]):
                    found[topic] = (call.args[0].id, call.args[2].id)
    return found


def test_every_display_is_one_that_rviz_has() -> None:
    assert {display["Class"] for display in displays()} == set(SHOWS)
    assert len({display["Name"] for display in displays()}) == len(displays())


@pytest.mark.parametrize("display", [d for d in displays() if SHOWS[d["Class"]]], ids=lambda d: str(d["Name"]))
def test_a_display_matches_what_a_node_publishes(display: dict[str, Any]) -> None:
    pytest.importorskip("rclpy", reason="quality of service is stated in terms of rclpy")
    from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

    from starry_ros.ros import qos

    topic = display.get("Topic") or display["Description Topic"]
    kind, profile_name = published()[topic["Value"].removeprefix("/")]
    assert kind == SHOWS[display["Class"]]
    offered = getattr(qos, profile_name)
    reliable, latched = topic["Reliability Policy"] == "Reliable", topic["Durability Policy"] == "Transient Local"
    assert topic["Reliability Policy"] in ("Reliable", "Best Effort")
    assert topic["History Policy"] == "Keep Last"
    assert reliable == (offered.reliability == ReliabilityPolicy.RELIABLE)
    assert latched == (offered.durability == DurabilityPolicy.TRANSIENT_LOCAL)


def test_every_camera_and_everything_the_visualiser_draws_has_a_display() -> None:
    shown = {(d.get("Topic") or {}).get("Value", "").removeprefix("/") for d in displays()}
    wanted = {overlay_topics.overlay_topic(camera.name) for camera in SPEC.cameras}
    assert wanted | {overlay_topics.PLAN_MARKERS, overlay_topics.IMAGINED_BESIDE_REAL, "canvas"} <= shown


def test_the_fixed_frame_is_that_of_the_markers() -> None:
    from_markers = (NODES / "markers.py").read_text(encoding="utf-8")
    frame = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["Visualization Manager"]["Global Options"]["Fixed Frame"]
    assert f'WORLD_FRAME = "{frame}"' in from_markers


def test_a_namespace_reaches_every_topic_of_the_file() -> None:
    moved = dict(build_graph({"rviz": "true", "namespace": "cell_1"}).node("rviz2").remappings)
    topics = {(d.get("Topic") or d.get("Description Topic") or {}).get("Value") for d in displays()} - {None}
    assert set(moved) >= topics
    assert all(moved[topic] == f"/cell_1{topic}" for topic in topics)
    for topic in {"/head/image_raw"} & topics:  # a Camera display reads the calibration beside its image
        assert moved[topic.replace("image_raw", "camera_info")] == "/cell_1/head/camera_info"


def test_rviz_config_is_installed_where_the_graph_looks() -> None:
    assert build_graph({"rviz": "true"}).node("rviz2").arguments == ("-d", str(CONFIG))
    assert Path(CONFIG).is_file()
