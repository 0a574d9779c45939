"""Parameters of other nodes for a recording: nodes that answer short, or not at all, end nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import yaml
from rcl_interfaces.msg import ParameterType, ParameterValue

from starry_ros.ros.node_parameters import UNSET, ParameterCollector


def answer(**fields: Any) -> Any:
    return SimpleNamespace(result=lambda: SimpleNamespace(**fields))


def collector() -> ParameterCollector:
    return ParameterCollector(SimpleNamespace())  # type: ignore[arg-type]


def test_parameters_are_noted_with_their_values() -> None:
    found = collector()
    value = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=0.5)
    found._on_values("/ns/node", ["a"], answer(values=[value]))
    (name, text), = found.found.items()
    assert name == "parameters/ns/node.yaml"
    assert yaml.safe_load(text) == {"/ns/node": {"ros__parameters": {"a": 0.5}}}


def test_a_node_with_an_unset_parameter_answers_short_and_that_is_noted() -> None:
    found = collector()
    found._on_values("/node", ["b", "a"], answer(values=[]))
    (_, text), = found.found.items()
    assert yaml.safe_load(text)["/node"]["ros__parameters"] == {UNSET: ["a", "b"]}


def test_a_node_that_is_gone_is_left_out() -> None:
    found = collector()
    gone = SimpleNamespace(result=lambda: None)
    found._on_names("/node", SimpleNamespace(), gone)  # type: ignore[arg-type]
    found._on_values("/node", ["a"], gone)
    assert found.found == {}
