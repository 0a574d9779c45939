"""Numbers on the command line that lie in a range: argparse names the option, says what is wrong, and ends with 2."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TypeVar

Number = TypeVar("Number", int, float)


def within(
    kind: Callable[[str], Number], low: float, high: float = math.inf, *, above: bool = False
) -> Callable[[str], Number]:
    """An argparse `type`: a number from `low` (or `above` it) to `high`, never NaN or infinite."""
    names = "whole number" if kind is int else "number"
    bounds = f"above {low:g}" if above else f"of {low:g} or more"
    bounds += "" if high == math.inf else f", {high:g} at most"

    def parse(text: str) -> Number:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no {names}") from None
        if not (math.isfinite(value) and low <= value <= high and (value > low or not above)):
            raise argparse.ArgumentTypeError(f"{text} is out of range: expected {names} {bounds}")
        return value

    return parse


COUNT = within(int, 1)
WHOLE = within(int, 0)
"""Seeds, and counts of which there may be none."""
POSITIVE = within(float, 0.0, above=True)
NOT_NEGATIVE = within(float, 0.0)
SHARE = within(float, 0.0, 1.0)
PORT = within(int, 1, 65_535)
