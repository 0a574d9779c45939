"""The last seconds in memory: what a recording around a fault begins with."""

from __future__ import annotations

from collections import deque

from starry_ros.recording.session_file import Record


class Ring:
    """Messages of the last `length_ns`, at most `room_bytes`. The last message of each latched topic never leaves.

    `bytes` and `span_s` say how much it holds, `cramped` whether messages had to leave for want of room; any thread may
    read them.
    """

    def __init__(self, length_ns: int, room_bytes: int) -> None:
        self._length_ns, self._room_bytes = length_ns, room_bytes
        self._records: deque[Record] = deque()
        self._latched: dict[str, Record] = {}
        self.bytes, self.span_s, self.cramped = 0, 0.0, False

    def __len__(self) -> int:
        return len(self._records)

    def add(self, record: Record, *, latched: bool) -> None:
        """Append a message and forget what is too old, or does not fit."""
        if latched:
            self._latched[record.topic] = record
        self._records.append(record)
        self.bytes += len(record.data)
        while self._records and record.received_ns - self._records[0].received_ns > self._length_ns:
            self._leave()
        while self.bytes > self._room_bytes:
            self.cramped = True
            self._leave()
        self.span_s = (record.received_ns - self._records[0].received_ns) * 1e-9 if self._records else 0.0

    def drain(self) -> list[Record]:
        """Everything held, in order, the latched messages first; the ring is empty afterwards."""
        held = set(map(id, self._records))
        before = [record for record in self._latched.values() if id(record) not in held]
        records = [*sorted(before, key=lambda record: record.received_ns), *self._records]
        self._records.clear()
        self.bytes, self.span_s = 0, 0.0
        return records

    def _leave(self) -> None:
        self.bytes -= len(self._records.popleft().data)
