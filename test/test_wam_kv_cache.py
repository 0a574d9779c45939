"""The ring against a plain list of slots."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from starry_ros.wam.kv_cache import Ring

LAYERS, HEADS, DIM = 2, 3, 4
Slot = tuple[np.ndarray, np.ndarray, np.ndarray]


def visible(ring: Ring) -> set[tuple[float, ...]]:
    """Every valid token as the numbers of its key and value in all layers and heads; order means nothing."""
    tokens = np.flatnonzero(ring.valid[0])
    return {tuple(np.concatenate([ring.keys[:, 0, :, t].ravel(), ring.values[:, 0, :, t].ravel()])) for t in tokens}


def naive(slots: list[Slot]) -> set[tuple[float, ...]]:
    found = set()
    for keys, values, valid in slots:
        for token in range(len(valid)):
            if valid[token]:
                numbers = [keys[layer, 0, head, token, i] for layer in range(LAYERS) for head in range(HEADS)
                           for i in range(DIM)]
                numbers += [values[layer, 0, head, token, i] for layer in range(LAYERS) for head in range(HEADS)
                            for i in range(DIM)]
                found.add(tuple(numbers))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_a_ring_shows_what_a_list_of_the_newest_slots_holds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    slots, tokens = int(rng.integers(1, 5)), int(rng.integers(1, 6))
    ring = Ring(LAYERS, HEADS, DIM, slots, tokens)
    model: list[Slot] = []
    saved = (ring.snapshot(), list(model))
    buffers = (ring.keys, ring.values, ring.valid)
    for _ in range(40):
        action = rng.choice(["write", "write", "write", "partial", "reset", "save", "restore"])
        if action in ("write", "partial"):
            shape = (LAYERS, 1, HEADS, tokens, DIM)
            keys, values = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
            valid = np.float32(rng.random(tokens) < (0.5 if action == "partial" else 2.0))
            ring.write(keys, values, valid if action == "partial" else None)
            model = [*model, (keys, values, valid)][-slots:]
        elif action == "reset":
            ring.reset()
            model = []
        elif action == "save":
            saved = (ring.snapshot(), list(model))
        else:
            ring.restore(saved[0])
            model = list(saved[1])
        assert visible(ring) == naive(model)
    assert all(a is b for a, b in zip(buffers, (ring.keys, ring.values, ring.valid), strict=True))


def test_a_slot_is_written_in_place_over_the_oldest_and_moves_no_other() -> None:
    ring = Ring(1, 1, 1, slots=3, tokens=2)
    for i in range(7):
        before = ring.keys.copy()
        ring.write(np.full((1, 1, 1, 2, 1), i + 1, np.float32), np.zeros((1, 1, 1, 2, 1), np.float32))
        changed = np.flatnonzero((ring.keys != before).ravel())
        assert changed.tolist() == [2 * (i % 3), 2 * (i % 3) + 1]
    assert ring.written == 7


def test_a_snapshot_does_not_follow_the_ring() -> None:
    ring = Ring(1, 1, 2, slots=2, tokens=1)
    ring.write(np.ones((1, 1, 1, 1, 2), np.float32), np.ones((1, 1, 1, 1, 2), np.float32))
    snapshot = ring.snapshot()
    kept = copy.deepcopy(snapshot)
    for _ in range(3):
        ring.write(np.full((1, 1, 1, 1, 2), 9, np.float32), np.full((1, 1, 1, 1, 2), 9, np.float32))
    for name in ("keys", "values", "valid"):
        assert np.array_equal(getattr(snapshot, name), getattr(kept, name))


def test_bytes_are_those_of_two_buffers_and_a_mask() -> None:
    assert Ring(4, 4, 48, slots=4, tokens=30).bytes == 4 * (2 * 4 * 4 * 120 * 48 + 120)
