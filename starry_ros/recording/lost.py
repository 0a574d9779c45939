"""Which messages of a recording are missing: gaps in what each publisher counted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mcap.reader import make_reader

from starry_ros.recording.reader import Recording


@dataclass
class Tally:
    """One topic: messages in the file and messages missing between them; `lost` is None where nobody can tell."""

    topic: str
    messages: int = 0
    lost: int | None = 0

    def add(self, sequences: Iterable[int]) -> None:
        """Count numbers in order. Numbers that run backwards are several publishers', which cannot be told apart."""
        before: int | None = None
        for sequence in sequences:
            self.messages += 1
            if sequence == 0 or (before is not None and sequence <= before):
                self.lost = None
            elif before is not None and self.lost is not None:
                self.lost += sequence - before - 1
            before = sequence


def tally(recording: Recording) -> list[Tally]:
    """Every topic of a recording, by name."""
    sequences: dict[str, list[int]] = {}
    with recording.path.open("rb") as stream:
        for _, channel, message in make_reader(stream).iter_messages():
            sequences.setdefault(channel.topic, []).append(message.sequence)
    found = []
    for topic, numbers in sorted(sequences.items()):
        found.append(Tally(topic))
        found[-1].add(numbers)
    return found
