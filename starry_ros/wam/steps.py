"""The steps of a planner by name, as a recording holds them. Needs no model: a replay of sensors reads it, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OPEN, RESET, SENTENCE, OBSERVE, PLAN = "open", "reset", "sentence", "observe", "plan"


@dataclass(frozen=True)
class Step:
    """One step. `times_ns` are local times by name, `values` whatever else it takes to do it again."""

    do: str
    values: Mapping[str, Any]
    times_ns: Mapping[str, int]
