"""History of keys and values: a ring of fixed shape, aligned to observations.

A slot holds what one past observation and the actions executed after it look like to the model. Keys are stored after
rotation by absolute time, so the order of slots means nothing and a slot is overwritten in place, never moved. A
validity mask hides empty slots. Since a slot was encoded without seeing any other (see `masks`), evicting one changes
no other.

Shapes: L layers, H heads, P head_dim, R slots, N tokens a slot.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from starry_ros.types import F32


@dataclass(frozen=True)
class RingSnapshot:
    """A copy of a ring's state, for what-if rollouts."""

    keys: F32
    values: F32
    valid: F32
    written: int


class Ring:
    """Preallocated keys and values [L, 1, H, R N, P] with a validity mask [1, R N]."""

    def __init__(self, layers: int, heads: int, head_dim: int, slots: int, tokens: int) -> None:
        shape = (layers, 1, heads, slots * tokens, head_dim)
        self.keys = np.zeros(shape, np.float32)
        self.values = np.zeros(shape, np.float32)
        self.valid = np.zeros((1, slots * tokens), np.float32)
        self.slots, self.tokens, self.written = slots, tokens, 0

    @property
    def bytes(self) -> int:
        """Memory the ring holds."""
        return self.keys.nbytes + self.values.nbytes + self.valid.nbytes

    def write(self, keys: F32, values: F32, valid_N: F32 | None = None) -> None:
        """Put one slot [L, 1, H, N, P] over the oldest. `valid_N` marks tokens that exist; all by default."""
        start = (self.written % self.slots) * self.tokens
        region = slice(start, start + self.tokens)
        self.keys[:, :, :, region] = keys
        self.values[:, :, :, region] = values
        self.valid[0, region] = 1.0 if valid_N is None else valid_N
        self.written += 1

    def reset(self) -> None:
        """Forget everything."""
        self.valid[:] = 0.0
        self.written = 0

    def snapshot(self) -> RingSnapshot:
        """Copy the state."""
        return RingSnapshot(self.keys.copy(), self.values.copy(), self.valid.copy(), self.written)

    def restore(self, snapshot: RingSnapshot) -> None:
        """Return to a state that `snapshot` gave."""
        self.keys[:], self.values[:], self.valid[:] = snapshot.keys, snapshot.values, snapshot.valid
        self.written = snapshot.written
