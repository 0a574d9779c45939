"""Parameters: declared once, from one table a node, with description, range and choices.

A value is checked at start, where a wrong one ends the node with a message. Only those marked `live` can be changed
later, by `ros2 param set`; a change that is not allowed is refused with the reason, and everything stays as it was.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
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
    live: bool = False


LOOKS_LIKE = 0.8
"""Likeness (of `difflib`) from which on an unknown name is taken for a misspelled one."""
ROBOT = Parameter("robot", "bimanual_sim", "Robot contract: a name in config/robots or the path of a YAML file.")


Check = Callable[[Mapping[str, Any]], str]
"""Says what is wrong with values that each are allowed but do not go together; empty when nothing is."""


def declare(node: Node, *table: Parameter, check: Check = lambda _: "") -> Mapping[str, Any]:
    """Declare the parameters of a table and return the values in force; ConfigError on one that is not allowed.

    The mapping returned follows live parameters.
    """
    _refuse_misspelled(node, [row.name for row in table])
    values = {row.name: _declare(node, row) for row in table}
    if wrong := check(values):
        raise ConfigError(f"{node.get_name()}: parameters", wrong, fix="change the parameter file or the command line")
    live = {row.name: row for row in table if row.live}

    def on_set(changes: Sequence[Any]) -> SetParametersResult:
        wanted = {change.name: change.value for change in changes if change.name in live}
        wrong = [f"{name} is one of {', '.join(live[name].choices)}" for name, value in wanted.items()
                 if live[name].choices and value not in live[name].choices]
        reason = "; ".join(filter(None, [*wrong, check({**values, **wanted})]))
        if not reason:
            values.update(wanted)
        return SetParametersResult(successful=not reason, reason=reason)

    if live:
        node.add_on_set_parameters_callback(on_set)
    return values


def _refuse_misspelled(node: Node, names: Sequence[str]) -> None:
    """A parameter that was given and is unknown would be ignored in silence, a safety time-out too.

    One that looks like a known one ends the node; others are only told, for files may be shared by several nodes.
    """
    given = [name for name in node._parameter_overrides if name not in (*names, "use_sim_time")]  # nothing public
    for name in (name for name in given if not name.startswith("qos_overrides.")):
        meant = difflib.get_close_matches(name, names, 1, LOOKS_LIKE)
        if meant:
            raise ConfigError(f"{node.get_name()}: parameter {name}", "is unknown", expected=meant[0], fix="correct it")
        node.get_logger().warning(f"parameter {name} is unknown and has no effect")


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
    descriptor = ParameterDescriptor(name=row.name, description=row.description, read_only=not row.live)
    if row.choices:
        descriptor.additional_constraints = f"one of: {', '.join(row.choices)}"
    if row.low is None or row.high is None:
        return descriptor
    if isinstance(row.default, float):
        descriptor.floating_point_range = [FloatingPointRange(from_value=float(row.low), to_value=float(row.high))]
    else:
        descriptor.integer_range = [IntegerRange(from_value=int(row.low), to_value=int(row.high), step=1)]
    return descriptor
