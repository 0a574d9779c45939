"""`starry top`: what the screen says of a graph."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: make setup")

from starry_ros.ros.top import Heard, screen


def heard() -> Heard:
    found = Heard()
    for index in range(31):
        found.arrived("canvas_info", 100 + index / 10)
        found.arrived("joint_states", 100 + index / 50)
    pair = SimpleNamespace(key="head.dropped", value="4")
    calm = SimpleNamespace(key="refused.stale", value="0")
    for name, level, text, at_s in (("canvas_packer", b"\2", "head: silent", 103.0), ("recorder", b"\0", "ok", 90.0)):
        found.diagnosed(SimpleNamespace(status=[
            SimpleNamespace(name=name, level=level, message=text, values=[pair, calm])]), at_s)
    found.executor = SimpleNamespace(
        mode_name="RUN", reason="armed", conditions=["slow_requested"], chunk_id=7, slack_s=0.5, chunk_age_s=0.25,
        stall_share=0.0, splice_position=0.01, splice_velocity=0.25, refused_counts=[1, 2], missed_ticks=0,
    )
    found.arrived("executor_status", 103.0)
    return found


def test_it_shows_rates_ages_mode_and_health() -> None:
    lines = screen(heard(), {"canvas_info": 15.0, "joint_states": 50.0, "value_map": 0.0}, 103.0, 200, colour=False)
    text = "\n".join(lines)
    for words in ("mode      RUN (armed)  [slow_requested]", "lasts 0.50 s more", "refused 3",
                  "nothing heard of the planner"):
        assert words in text
    rows = {line.split()[1]: line.split()[1:] for line in lines if len(line.split()) > 1}
    assert rows["canvas_info"][1:5] == ["10.0", "Hz", "15", "Hz"]
    assert rows["joint_states"][-2:] == ["2.40", "s"]
    assert rows["value_map"][-1] == "never"
    assert rows["canvas_packer"][1:4] == ["error", "head:", "silent"]
    assert rows["recorder"][1] == "stale", "its last word is 13 s old"
    assert any(line.strip() == "head.dropped 4" for line in lines)


def test_what_a_node_said_last_is_not_shown_as_how_it_is_once_it_is_silent() -> None:
    graph = heard()
    graph.session = SimpleNamespace(instruction="x", model="tiny", runtime="torch", state="planning", reason="",
                                    latency_p50_s=0.1, latency_p95_s=0.2, observation_age_s=0.1, plans=3, surprise=[])
    for topic in ("executor_status", "world_action_status"):
        graph.arrived(topic, 103.0)
    said = {now_s: [line for line in screen(graph, {}, now_s, 200, colour=False) if re.search("(mode|model)  ", line)]
            for now_s in (104.0, 110.0)}
    assert [line[0] for line in said[104.0]] == ["●", "●"]
    assert [line[0] for line in said[110.0]] == ["◌", "◌"]
    assert [line.endswith("; silent for 7 s") for line in said[110.0]] == [True, True]
    assert "silent" not in "".join(said[104.0])


@pytest.mark.parametrize("colour", [False, True])
def test_no_line_is_longer_than_the_terminal(colour: bool) -> None:
    for line in screen(heard(), {"canvas_info": 15.0}, 103.0, 40, colour=colour):
        shown = re.sub(r"\x1b\[[0-9;]*m", "", line)
        assert len(shown) <= 40
        assert (shown != line) <= colour
        assert line.count("\x1b[") in (0, 2)
