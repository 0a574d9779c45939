"""History of keys and values: a ring of fixed shape, aligned to observations.

A slot holds what one past observation and the actions executed after it look like to the model. Keys are stored after
rotation by absolute time, so the order of slots means nothing and a slot is overwritten in place, never moved. A
validity mask hides empty slots. Since a slot was encoded without seeing any other (see `masks`), evicting one changes
no other: a whole slot goes at a time, the oldest first.

    sinks       the first slots of an episode, never evicted
    committed   the others: what really happened
    speculative written after `branch()`: what is imagined or not certain yet

`drop()` returns to the moment of `branch()`, `accept()` makes what came since part of the committed history; branches
nest. No history is copied for either: a speculative write keeps aside the one slot that it overwrites. All buffers are
made at the start and stay where they are, so engines may bind their addresses.

Shapes: L layers, H heads, P head_dim, R slots, N tokens a slot, S sinks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from starry_ros.errors import InputError

Buffer = Any
"""A numpy array or a torch tensor: the ring only slices, assigns, adds and multiplies."""
Zeros = Callable[[tuple[int, ...]], Buffer]
SPECULATIVE_SLOTS = 2


def numpy_zeros(shape: tuple[int, ...]) -> Buffer:
    """float32 in main memory."""
    return np.zeros(shape, np.float32)


@dataclass(frozen=True)
class RingSnapshot:
    """A copy of a ring's committed and speculative state, to carry it elsewhere. A branch costs less."""

    keys: Buffer
    values: Buffer
    valid: Buffer
    sinks: Buffer
    steps: tuple[int, ...]
    written: int


@dataclass(frozen=True)
class _Overwritten:
    """A slot as it was before a speculative write; `aside` is its place in the spare buffers, None for an empty one."""

    slot: int
    aside: int | None
    step: int


class Ring:
    """Preallocated keys and values [L, 1, H, R N, P] with a validity mask [1, R N].

    `steps` holds the time step of every slot. At most `speculative` slots can be overwritten between `branch` and
    `drop` or `accept`, all open branches counted together.
    """

    def __init__(self, layers: int, heads: int, head_dim: int, slots: int, tokens: int, *, sinks: int = 0,
                 speculative: int = SPECULATIVE_SLOTS, zeros: Zeros = numpy_zeros) -> None:
        self.slots, self.tokens, self.sinks = slots, tokens, sinks
        self.keys, self.values = (zeros((layers, 1, heads, slots * tokens, head_dim)) for _ in range(2))
        self.valid = zeros((1, slots * tokens))
        self.steps = [0] * slots
        self.written = 0
        self._sink_keys = zeros((layers, 1, heads, sinks * tokens, head_dim))
        room = (min(speculative, slots - sinks), layers, 1, heads, tokens, head_dim)
        self._aside_keys, self._aside_values = zeros(room), zeros(room)
        self._aside_valid = zeros((room[0], tokens))
        self._saved: list[_Overwritten] = []
        self._branches: list[tuple[int, int]] = []

    @property
    def bytes(self) -> int:
        """Memory the ring holds."""
        buffers = (self.keys, self.values, self.valid, self._sink_keys, self._aside_keys, self._aside_values,
                   self._aside_valid)
        return sum(int(buffer.nbytes) for buffer in buffers)

    @property
    def speculative(self) -> int:
        """Slots written since the first open branch."""
        return self.written - self._branches[0][0] if self._branches else 0

    @property
    def branches(self) -> int:
        """Open branches."""
        return len(self._branches)

    def slot_of(self, count: int) -> int:
        """Slot of the write number `count`: sinks first and once, the others in turn."""
        return count if count < self.sinks else self.sinks + (count - self.sinks) % (self.slots - self.sinks)

    def write(self, keys: Buffer, values: Buffer, valid_N: Buffer | None = None, step: int = 0) -> None:
        """Put one slot [L, 1, H, N, P] over the oldest. `valid_N` marks tokens that exist; all by default.

        Raises InputError, and changes nothing, if a branch has used up its room.
        """
        slot = self.slot_of(self.written)
        if self._branches:
            self._save(slot)
        region = self._region(slot)
        self.keys[:, :, :, region] = keys
        self.values[:, :, :, region] = values
        self.valid[0, region] = 1.0 if valid_N is None else self._like(valid_N)
        self.steps[slot] = step
        if slot < self.sinks:
            self._sink_keys[:, :, :, region] = keys
        self.written += 1

    def turn_sinks(self, rope: Buffer) -> None:
        """Rotate the sinks' keys, as they were written, by a table [2, S N, P/2] of turns in time.

        This lets an old sink look younger than it is, so that its age stays within what training showed.
        """
        half, rope = self._sink_keys.shape[-1] // 2, self._like(rope)
        first, second = self._sink_keys[..., :half], self._sink_keys[..., half:]
        shown = self.keys[:, :, :, : self.sinks * self.tokens]
        shown[..., :half] = first * rope[0] - second * rope[1]
        shown[..., half:] = first * rope[1] + second * rope[0]

    def branch(self) -> None:
        """What is written from now on is speculative."""
        self._branches.append((self.written, len(self._saved)))

    def drop(self) -> None:
        """Return to the state at the last `branch`. Raises InputError if none is open."""
        written, saved = self._close()
        while len(self._saved) > saved:
            self._put_back(self._saved.pop())
        self.written = written

    def accept(self) -> None:
        """Let what was written since the last `branch` stand; it is committed once no branch is open."""
        self._close()
        if not self._branches:
            self._saved = []

    def reset(self) -> None:
        """Forget everything."""
        self.valid[:] = 0.0
        self.written = 0
        self._saved, self._branches = [], []

    def snapshot(self) -> RingSnapshot:
        """Copy the state."""
        keys, values, valid, sinks = (_copy(part) for part in (self.keys, self.values, self.valid, self._sink_keys))
        return RingSnapshot(keys, values, valid, sinks, tuple(self.steps), self.written)

    def restore(self, snapshot: RingSnapshot) -> None:
        """Return to a state that `snapshot` gave, with no branch open."""
        self.keys[:], self.values[:], self.valid[:] = snapshot.keys, snapshot.values, snapshot.valid
        self._sink_keys[:] = snapshot.sinks
        self.steps, self.written = list(snapshot.steps), snapshot.written
        self._saved, self._branches = [], []

    def _like(self, array: Buffer) -> Buffer:
        """The same numbers where the keys are."""
        moved = isinstance(array, np.ndarray) and not isinstance(self.keys, np.ndarray)
        return self.keys.new_tensor(array) if moved else array

    def _region(self, slot: int) -> slice:
        return slice(slot * self.tokens, (slot + 1) * self.tokens)

    def _save(self, slot: int) -> None:
        """Keep a slot aside before a speculative write; an empty one needs no room."""
        if self.written < self.slots:
            self._saved.append(_Overwritten(slot, None, self.steps[slot]))
            return
        aside = sum(entry.aside is not None for entry in self._saved)
        if aside == len(self._aside_keys):
            raise InputError("history", "has no room for another speculative slot", got=aside + 1,
                             expected=f"<= {aside}", fix="drop or accept the branch first")
        region = self._region(slot)
        self._aside_keys[aside] = self.keys[:, :, :, region]
        self._aside_values[aside] = self.values[:, :, :, region]
        self._aside_valid[aside] = self.valid[0, region]
        self._saved.append(_Overwritten(slot, aside, self.steps[slot]))

    def _put_back(self, entry: _Overwritten) -> None:
        region = self._region(entry.slot)
        self.steps[entry.slot] = entry.step
        if entry.aside is None:
            self.valid[0, region] = 0.0
            return
        self.keys[:, :, :, region] = self._aside_keys[entry.aside]
        self.values[:, :, :, region] = self._aside_values[entry.aside]
        self.valid[0, region] = self._aside_valid[entry.aside]

    def _close(self) -> tuple[int, int]:
        if not self._branches:
            raise InputError("history", "has no open branch", fix="call branch first")
        return self._branches.pop()


def _copy(buffer: Buffer) -> Buffer:
    return buffer.copy() if isinstance(buffer, np.ndarray) else buffer.clone()
