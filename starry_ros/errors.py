"""Errors that a user can fix. Each says where, what, got, expected and how to fix.

A fault while the robot runs is a state with a reason code (`control/safety.py`), never one of these.
"""

from __future__ import annotations

from typing import Any


class StarryError(Exception):
    """Base of every error whose cause lies outside this package's code."""

    def __init__(
        self, where: str, what: str, *, got: object = None, expected: object = None, fix: str = ""
    ) -> None:
        self.where, self.what, self.got, self.expected, self.fix = where, what, got, expected, fix
        parts = [f"{where}: {what}"]
        if got is not None:
            parts.append(f"got {got}")
        if expected is not None:
            parts.append(f"expected {expected}")
        text = "; ".join(parts)
        super().__init__(f"{text}. Fix: {fix}" if fix else text)

    def __reduce__(self) -> tuple[Any, ...]:
        """How a worker process hands its error to the one that waits for it."""
        got, expected = (None if value is None else str(value) for value in (self.got, self.expected))
        return _again, (type(self), self.where, self.what, got, expected, self.fix)


def _again(kind: type[StarryError], where: str, what: str, got: object, expected: object, fix: str) -> StarryError:
    return kind(where, what, got=got, expected=expected, fix=fix)


class ConfigError(StarryError):
    """A parameter, command-line argument or configuration file is wrong."""


class ContractError(StarryError):
    """A robot contract is invalid, or does not match what a message, robot or checkpoint carries."""


class CheckpointError(StarryError):
    """A model folder is missing, truncated, of another version or of another robot."""


class DataError(StarryError):
    """A dataset or recording cannot be read."""


class TrainingError(StarryError):
    """A training has come apart: its loss or gradient is no number."""


class InputError(StarryError):
    """An image, joint state or sentence from outside cannot be used."""


class RuntimeUnavailable(StarryError):
    """A library or device that was asked for is not on this machine."""
