"""The parameters of every node of the graph, asked for once a node: a recording notes what it was a recording of."""

from __future__ import annotations

from functools import partial
from typing import Any

import yaml
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python
from rclpy.parameter_client import AsyncParameterClient

UNSET = "unknown_because_one_of_them_is_unset"
"""A node answers for all of its parameters or for none; for none as soon as one has no value."""


class ParameterCollector:
    """`look` often, from the executor's thread; `found` is what has come so far, for any thread."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._asked: set[str] = set()
        self._waiting: dict[str, AsyncParameterClient] = {}
        self.found: dict[str, bytes] = {}
        """YAML by the name of its file."""

    def look(self) -> None:
        """Ask nodes that have appeared and whose services are there."""
        for name, namespace in self._node.get_node_names_and_namespaces():
            full = f"{namespace.rstrip('/')}/{name}"
            if full not in self._asked and not name.startswith("_"):
                self._asked.add(full)
                self._waiting[full] = AsyncParameterClient(self._node, full)
        for full, client in list(self._waiting.items()):
            if client.services_are_ready():
                del self._waiting[full]
                client.list_parameters(callback=partial(self._on_names, full, client))

    def _on_names(self, full: str, client: AsyncParameterClient, future: Any) -> None:
        answer = future.result()
        if answer is not None:
            names = list(answer.result.names)
            client.get_parameters(names, callback=partial(self._on_values, full, names))

    def _on_values(self, full: str, names: list[str], future: Any) -> None:
        answer = future.result()
        if answer is None:
            return
        values = [_plain(parameter_value_to_python(value)) for value in answer.values]
        known = dict(zip(names, values, strict=True)) if len(values) == len(names) else {UNSET: sorted(names)}
        text = str(yaml.safe_dump({full: {"ros__parameters": known}}, sort_keys=True))
        self.found = {**self.found, f"parameters{full}.yaml": text.encode()}


def _plain(value: Any) -> Any:
    return list(value) if hasattr(value, "tolist") or isinstance(value, (tuple, bytes)) else value
