"""The ring against a plain list of slots."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from starry_ros.errors import InputError
from starry_ros.wam.kv_cache import Ring
from starry_ros.wam.layers import rope_table, rotate

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


def evict(model: list[Slot], slots: int, sinks: int) -> list[Slot]:
    """The first `sinks` and the newest of the rest."""
    if len(model) <= slots:
        return model
    return model[:sinks] + model[sinks + len(model) - slots :]


@pytest.mark.parametrize("seed", range(30))
def test_a_ring_shows_what_a_list_of_sinks_and_the_newest_slots_holds_through_branches(seed: int) -> None:
    rng = np.random.default_rng(seed)
    slots, tokens = int(rng.integers(1, 5)), int(rng.integers(1, 6))
    sinks = int(rng.integers(0, slots))
    ring = Ring(LAYERS, HEADS, DIM, slots, tokens, sinks=sinks)
    model: list[Slot] = []
    saved = (ring.snapshot(), list(model))
    branches: list[list[Slot]] = []
    buffers = (ring.keys, ring.values, ring.valid)
    for _ in range(40):
        action = rng.choice(["write", "partial", "reset", "save", "restore", "branch", "drop", "accept"],
                            p=[0.4, 0.1, 0.04, 0.08, 0.08, 0.12, 0.1, 0.08])
        if action in ("write", "partial"):
            shape = (LAYERS, 1, HEADS, tokens, DIM)
            keys, values = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
            valid = np.float32(rng.random(tokens) < (0.5 if action == "partial" else 2.0))
            try:
                ring.write(keys, values, valid if action == "partial" else None)
            except InputError:
                assert len(model) == ring.slots
                assert ring.speculative >= min(2, slots - sinks)
                continue
            model = evict([*model, (keys, values, valid)], slots, sinks)
        elif action == "reset":
            ring.reset()
            model, branches = [], []
        elif action == "branch":
            ring.branch()
            branches.append(list(model))
        elif action in ("drop", "accept"):
            if not branches:
                with pytest.raises(InputError, match="no open branch"):
                    getattr(ring, action)()
                continue
            getattr(ring, action)()
            before = branches.pop()
            model = before if action == "drop" else model
        elif action == "save":
            saved = (ring.snapshot(), list(model))
        else:
            ring.restore(saved[0])
            model, branches = list(saved[1]), []
        assert visible(ring) == naive(model)
        assert ring.branches == len(branches)
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


def slot_of(number: float) -> tuple[np.ndarray, np.ndarray]:
    return np.full((1, 1, 1, 2, 1), number, np.float32), np.full((1, 1, 1, 2, 1), -number, np.float32)


def test_a_branch_keeps_aside_only_what_it_overwrites_and_dropping_it_restores_every_bit() -> None:
    ring = Ring(1, 1, 1, slots=4, tokens=2, sinks=1)
    for i in range(6):
        ring.write(*slot_of(i + 1), step=10 * i)
    before, size = ring.snapshot(), ring.bytes
    ring.branch()
    ring.write(*slot_of(70), np.float32([1, 0]), step=60)
    ring.branch()
    ring.write(*slot_of(80), step=70)
    assert (ring.speculative, ring.branches) == (2, 2)
    with pytest.raises(InputError, match="no room for another speculative slot"):
        ring.write(*slot_of(90))
    ring.accept()
    ring.drop()
    after = ring.snapshot()
    for name in ("keys", "values", "valid", "sinks", "steps", "written"):
        assert np.array_equal(getattr(before, name), getattr(after, name)), name
    assert (ring.speculative, ring.bytes) == (0, size)


def test_the_first_slots_stay_and_can_be_shown_younger_without_losing_where_they_were() -> None:
    rng = np.random.default_rng(0)
    period, dim, tokens = 4096, 12, 3
    plain = torch.from_numpy(rng.standard_normal((1, 1, 1, 2 * tokens, dim)).astype(np.float32))
    nowhere = torch.zeros(2 * tokens)

    def at(steps: list[int]) -> np.ndarray:
        """Keys rotated to a time for each slot, by the model's own rotation."""
        times = torch.tensor(steps).repeat_interleave(tokens)
        return np.asarray(rotate(plain, rope_table(times, nowhere, nowhere, dim, period)))

    ring = Ring(1, 1, dim, slots=4, tokens=tokens, sinks=2)
    first = at([5, 9])
    for i in range(2):
        ring.write(*(first[:, :, :, i * tokens : (i + 1) * tokens],) * 2, step=(5, 9)[i])
    for i in range(9):
        ring.write(*(np.float32(rng.standard_normal((1, 1, 1, tokens, dim))),) * 2, step=100 + i)
    assert ring.steps[:2] == [5, 9]
    for turns in ([700, 300], [123_456_789, 1], [0, 0]):
        table = rope_table(torch.tensor(turns).repeat_interleave(tokens), nowhere, nowhere, dim, period)
        ring.turn_sinks(table.numpy())
        np.testing.assert_allclose(ring.keys[:, :, :, : 2 * tokens], at([5 + turns[0], 9 + turns[1]]), atol=2e-6)
        np.testing.assert_array_equal(ring.values[:, :, :, : 2 * tokens], first)


def test_bytes_are_those_of_two_buffers_a_mask_and_the_slots_kept_aside() -> None:
    assert Ring(4, 4, 48, slots=4, tokens=30, speculative=0).bytes == 4 * (2 * 4 * 4 * 120 * 48 + 120)
    assert Ring(4, 4, 48, slots=4, tokens=30).bytes == 4 * (2 * 4 * 4 * 180 * 48 + 180)
