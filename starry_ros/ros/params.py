"""Parameters: declared once, from one table a node, with description, range and choices.

All are read-only: a value is checked at start, where a wrong one ends the node with a message, and stays in force.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node

from starry_ros.errors import ConfigError


@dataclass(frozen=True)
class Parameter:
    """One row of a node's table. `low` and `high` bound a number; `choices` a text."""

    name: str
    default: Any
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()


ROBOT = Parameter("robot", "bimanual_sim", "Robot contract: a name in config/robots or the path of a YAML file.")


def declare(node: Node, *table: Parameter) -> Mapping[str, Any]:
    """Declare the parameters of a table and return the values in force; ConfigError on one that is not allowed."""
    return {row.name: _declare(node, row) for row in table}


def _declare(node: Node, row: Parameter) -> Any:
    where = f"{node.get_name()}: parameter {row.name}"
    try:
        value = node.declare_parameter(row.name, row.default, _descriptor(row)).value
    except (InvalidParameterValueException, InvalidParameterTypeException) as error:
        raise ConfigError(
            where, "has a value that is not allowed", got=str(error), expected=_expected(row), fix=row.description
        ) from error
    if row.choices and value not in row.choices:
        raise ConfigError(where, "is no choice", got=repr(value), expected=_expected(row), fix=row.description)
    return value


def _expected(row: Parameter) -> str:
    if row.choices:
        return ", ".join(row.choices)
    kind = type(row.default).__name__
    return kind if row.low is None else f"{kind} from {row.low} to {row.high}"


def _descriptor(row: Parameter) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(name=row.name, description=row.description, read_only=True)
    if row.choices:
        descriptor.additional_constraints = f"one of: {', '.join(row.choices)}"
    if row.low is None or row.high is None:
        return descriptor
    if isinstance(row.default, float):
        descriptor.floating_point_range = [FloatingPointRange(from_value=float(row.low), to_value=float(row.high))]
    else:
        descriptor.integer_range = [IntegerRange(from_value=int(row.low), to_value=int(row.high), step=1)]
    return descriptor
