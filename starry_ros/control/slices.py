"""Work that is done a slice at a time, so that who has to be on time can leave it and come back to it.

A slice takes a millisecond or two where the whole may take longer than a control period.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")
Slices = Generator[None, None, T]
"""Yields after each slice but the last, and returns what the work came to."""


def at_once(work: Slices[T]) -> T:
    """All of it."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result
