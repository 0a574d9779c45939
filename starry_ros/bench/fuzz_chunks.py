"""Random chunks for the executor, of every kind. Shapes: K steps of a chunk, J joints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from starry_ros.robot_spec import RobotSpec
from starry_ros.timing import NS_PER_S, nanoseconds
from starry_ros.types import F64, ActionChunk


class ChunkMaker:
    """Chunks of every kind, good and bad, near the arms and anywhere; of the session and the sentence in force."""

    def __init__(self, spec: RobotSpec, rng: np.random.Generator) -> None:
        self._spec, self._rng = spec, rng
        self.epoch = self.sentence = 1
        self._lower_J, self._upper_J = spec.limit("lower"), spec.limit("upper")
        self._range_J = self._upper_J - self._lower_J
        self._hash, self._step_ns = spec.content_hash, nanoseconds(spec.action.step_s)
        self._kinds: list[Callable[[ActionChunk, int], ActionChunk]] = [
            self._near, self._near, self._near, self._calm, self._calm, self._calm, self._jump, self._wild, self._edges,
            self._jaws, self._late, self._reversed, self._strange_times, self._not_finite, self._wrong_shape,
            self._wrong_names, self._foreign, self._old_epoch, self._replayed, self._outside, self._shuffled,
            self._early, self._new_epoch, self._other_sentence, self._out_of_order, self._beyond,
        ]

    def make(self, position_J: F64, now_ns: int, chunk_id: int) -> ActionChunk:
        """One random chunk, observed up to 0.3 s ago."""
        observation_ns = now_ns - int(self._rng.uniform(0, 0.3) * NS_PER_S)
        still = np.repeat(position_J[None], self._spec.action.chunk_steps, axis=0)
        chunk = ActionChunk(
            chunk_id=chunk_id, epoch=self.epoch, instruction_id=self.sentence, observation_ns=observation_ns,
            start_ns=observation_ns + self._step_ns, step_ns=self._step_ns, joint_names=self._spec.joint_names,
            positions_KJ=still, contract_hash=self._hash,
        )
        return self._kinds[int(self._rng.integers(len(self._kinds)))](chunk, now_ns)

    def _walk(self, chunk: ActionChunk, share: float) -> ActionChunk:
        steps = self._rng.standard_normal(chunk.positions_KJ.shape) * share * self._range_J
        walk = chunk.positions_KJ + np.cumsum(steps, axis=0)
        return replace(chunk, positions_KJ=np.clip(walk, self._lower_J, self._upper_J))

    def _calm(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        return self._walk(chunk, self._rng.uniform(0, 0.002))

    def _near(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        return self._walk(chunk, self._rng.uniform(0, 0.02))

    def _jump(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        there = np.repeat(self._rng.uniform(self._lower_J, self._upper_J)[None], len(chunk.positions_KJ), axis=0)
        return self._walk(replace(chunk, positions_KJ=there), 0.005)

    def _wild(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        anywhere = self._rng.uniform(self._lower_J, self._upper_J, chunk.positions_KJ.shape)
        return replace(chunk, positions_KJ=anywhere)

    def _edges(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        low = self._rng.random(chunk.positions_KJ.shape) < 0.5
        return replace(chunk, positions_KJ=np.where(low, self._lower_J, self._upper_J))

    def _jaws(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        positions = np.array(chunk.positions_KJ)
        turn = int(self._rng.integers(len(positions)))
        for j in self._spec.gripper_indices:
            positions[:turn, j], positions[turn:, j] = self._upper_J[j], self._lower_J[j]
        return replace(chunk, positions_KJ=positions)

    def _late(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        seen_ns = now_ns - int(self._rng.uniform(0, 4) * NS_PER_S)
        return self._walk(replace(chunk, observation_ns=seen_ns, start_ns=seen_ns + self._step_ns), 0.005)

    def _reversed(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        return replace(chunk, step_ns=-chunk.step_ns, start_ns=chunk.start_ns + NS_PER_S)

    def _strange_times(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        start_ns = [0, -5, 2**63, 10**40, now_ns + 10**12, now_ns - 10**12, now_ns + int(self._rng.uniform(0, 2e9))]
        step_ns = [self._step_ns, self._step_ns, 0, 1, 10**15]
        return replace(chunk, start_ns=self._pick(start_ns), step_ns=self._pick(step_ns))

    def _not_finite(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        positions = np.array(chunk.positions_KJ)
        k, j = (int(self._rng.integers(size)) for size in positions.shape)
        positions[k, j] = self._rng.choice([np.nan, np.inf, -np.inf])
        return replace(chunk, positions_KJ=positions)

    def _outside(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        return replace(chunk, positions_KJ=chunk.positions_KJ + self._rng.choice([1e308, -1e308, 7.0, -7.0]))

    def _wrong_shape(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        rows, columns = (int(size) for size in self._rng.integers(0, 20, 2))
        shapes: list[F64] = [np.float64(3.0) + np.zeros(()), np.zeros((rows, columns)), np.zeros((2, 3, 4))]
        return replace(chunk, positions_KJ=shapes[int(self._rng.integers(3))])

    def _wrong_names(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        names = list(chunk.joint_names)
        wrong = [(), tuple(names[:-1]), (*names, "extra"), ("x", *names[1:]), (names[0], names[0], *names[2:])]
        return replace(chunk, joint_names=wrong[int(self._rng.integers(len(wrong)))])

    def _foreign(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        return replace(chunk, contract_hash=self._hash[::-1])

    def _old_epoch(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        return replace(chunk, epoch=self._pick([chunk.epoch - 1, 0, -1, -(2**70)]))

    def _new_epoch(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        return self._calm(replace(chunk, epoch=chunk.epoch + 1), now_ns)

    def _other_sentence(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        return self._calm(replace(chunk, instruction_id=chunk.instruction_id + self._pick([-1, -1, 1])), now_ns)

    def _out_of_order(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        return self._calm(self._moved(chunk, -int(self._rng.uniform(0.1, 1.0) * NS_PER_S)), now_ns)

    def _early(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        """Seen in the future, by little or by much."""
        ahead_ns = now_ns - chunk.observation_ns + int(self._rng.uniform(0, 0.3) * NS_PER_S)
        return self._calm(self._moved(chunk, ahead_ns), now_ns)

    def _moved(self, chunk: ActionChunk, by_ns: int) -> ActionChunk:
        return replace(chunk, observation_ns=chunk.observation_ns + by_ns, start_ns=chunk.start_ns + by_ns)

    def _beyond(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        """One number about as far outside as is still clipped."""
        positions = np.array(chunk.positions_KJ)
        k, j = (int(self._rng.integers(size)) for size in positions.shape)
        positions[k, j] = self._upper_J[j] + self._rng.uniform(0.08, 0.12) * self._range_J[j]
        return replace(chunk, positions_KJ=positions)

    def _shuffled(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        """The same plan with its joints in another order."""
        chunk, order = self._calm(chunk, now_ns), self._rng.permutation(len(chunk.joint_names))
        names = tuple(chunk.joint_names[i] for i in order.tolist())
        return replace(chunk, joint_names=names, positions_KJ=np.asarray(chunk.positions_KJ)[:, order])

    def _replayed(self, chunk: ActionChunk, now_ns: int) -> ActionChunk:
        return replace(chunk, chunk_id=int(self._rng.integers(0, chunk.chunk_id + 1)))

    def _pick(self, values: list[int]) -> int:
        return values[int(self._rng.integers(len(values)))]
