"""What a fuzzed run showed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class FuzzReport:
    """What a fuzzed run showed. `problems` is empty when every command and every look-ahead was in order.

    `events`: chunks, services, sessions, sentences, the emergency stop, heartbeats, conditions, reports, other owners,
    refusals by the driver, look-aheads that were not sent, and `odd_ticks`: control ticks at an odd time, after a jump
    of the clock or without a usable state; ticks in good order do not count.
    """

    seed: int
    chunks: int = 0
    events: int = 0
    odd_ticks: int = 0
    commands: int = 0
    accepted: int = 0
    gate_interventions: int = 0
    recalls: int = 0
    worst_use: dict[str, float] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def other_events(self) -> int:
        """Events that are neither chunks nor odd ticks."""
        return self.events - self.chunks - self.odd_ticks
