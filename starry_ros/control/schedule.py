"""Which plans are accepted, and what is known of the future: knots keyed by absolute time.

A chunk replaces everything known from its own start on; what the previous one says about earlier moments stays. A chunk
that arrives late loses only its past. Nothing is keyed by arrival.

Shapes: K steps or knots, J joints.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

import numpy as np

from starry_ros.robot_spec import RobotSpec
from starry_ros.timing import nanoseconds, seconds
from starry_ros.types import F64, ActionChunk


class Refusal(StrEnum):
    """Why a chunk was refused."""

    NOT_RUNNING = "not_running"
    STALE_EPOCH = "stale_epoch"
    FOREIGN_CONTRACT = "foreign_contract"
    WRONG_JOINTS = "wrong_joints"
    WRONG_SHAPE = "wrong_shape"
    BAD_TIMES = "bad_times"
    NOT_FINITE = "not_finite"
    OUT_OF_LIMITS = "out_of_limits"
    DUPLICATE = "duplicate"
    OUT_OF_ORDER = "out_of_order"
    OLD_INSTRUCTION = "old_instruction"
    OLD_OBSERVATION = "old_observation"
    BEFORE_ARM = "before_arm"
    PAST = "past"
    TOO_FAR_AHEAD = "too_far_ahead"
    UNREACHABLE = "unreachable"
    TOO_FAST = "too_fast"
    OUTSIDE_WORKSPACE = "outside_workspace"
    ARMS_TOO_CLOSE = "arms_too_close"


BORDERS = (Refusal.OUTSIDE_WORKSPACE, Refusal.ARMS_TOO_CLOSE)
"""What a plan may run into in space."""


@dataclass(frozen=True)
class Merge:
    """Answer to a chunk. `dropped_steps` of an accepted one lay in the past.

    `border` says that the plan would leave the space of the arms, and is followed only up to a stop before that.
    """

    accepted: bool
    reason: Refusal | None = None
    dropped_steps: int = 0
    border: Refusal | None = None


@dataclass(frozen=True)
class ScheduleConfig:
    """Tolerances of the merge, in seconds; `outside_share` is a share of a joint's range."""

    max_ahead_s: float = 1.0
    max_observation_age_s: float = 3.0
    max_clock_skew_s: float = 0.05
    handover_s: float = 1.0
    outside_share: float = 0.1
    max_steps_factor: int = 4
    context_steps: float = 5.5


@dataclass(frozen=True)
class Knots:
    """Known positions [K, J] in contract order at ascending absolute times."""

    time_ns: tuple[int, ...]
    position_KJ: F64

    def relative_s(self, now_ns: int) -> F64:
        """Times in seconds after `now_ns`."""
        return np.array([seconds(t - now_ns) for t in self.time_ns])


_REMEMBERED_IDS = 256


class Schedule:
    """The plan of record. `judge`, then `merged`, then `commit` (or `refuse`)."""

    def __init__(self, spec: RobotSpec, config: ScheduleConfig) -> None:
        self._config = config
        self._names = spec.joint_names
        self._hash = spec.content_hash
        self._step_ns = nanoseconds(spec.action.step_s)
        self._max_steps = spec.action.chunk_steps * config.max_steps_factor
        lower_J, upper_J = spec.limit("lower"), spec.limit("upper")
        outside_J = config.outside_share * (upper_J - lower_J)
        self._lowest_J, self._highest_J = lower_J - outside_J, upper_J + outside_J
        self._refused: dict[Refusal, int] = dict.fromkeys(Refusal, 0)
        self._instruction: int | None = None
        self._handover_end_ns = 0
        self.reset(None)

    def reset(self, epoch: int | None, since_ns: int | None = None) -> None:
        """Forget every plan. Without an epoch the next accepted chunk brings its own; `since_ns` refuses older ones."""
        self.epoch = epoch
        self.knots: Knots | None = None
        self.chunk: ActionChunk | None = None
        self._since_ns, self._handover_end_ns = since_ns, 0
        self._ids: deque[int] = deque(maxlen=_REMEMBERED_IDS)

    def set_epoch(self, epoch: int) -> None:
        """Forget every plan but not since when plans count: a new session does not make an old look a new one."""
        self.reset(epoch, self._since_ns)

    def set_instruction(self, instruction_id: int, now_ns: int) -> None:
        """A new instruction is in force; the old one's chunks pass until a new one came or the hand-over ended."""
        if instruction_id != self._instruction:
            self._instruction = instruction_id
            self._handover_end_ns = now_ns + nanoseconds(self._config.handover_s)

    @property
    def refused(self) -> Mapping[Refusal, int]:
        """How many chunks were refused, by reason."""
        return MappingProxyType(dict(self._refused))

    def refuse(self, reason: Refusal) -> Merge:
        """Count a refusal."""
        self._refused[reason] += 1
        return Merge(False, reason)

    def judge(self, chunk: ActionChunk, now_ns: int) -> Refusal | None:
        """The first reason to refuse a chunk, or None. Changes nothing."""
        if chunk.contract_hash != self._hash:
            return Refusal.FOREIGN_CONTRACT
        if len(chunk.joint_names) != len(self._names) or set(chunk.joint_names) != set(self._names):
            return Refusal.WRONG_JOINTS
        return self._judge_identity(chunk, now_ns) or self._judge_times(chunk, now_ns) or self._judge_values(chunk)

    def _judge_identity(self, chunk: ActionChunk, now_ns: int) -> Refusal | None:
        if self.epoch is not None and chunk.epoch < self.epoch:
            return Refusal.STALE_EPOCH
        if self._since_ns is not None and chunk.observation_ns < self._since_ns:
            return Refusal.BEFORE_ARM
        old = self._instruction is not None and chunk.instruction_id < self._instruction
        if old and now_ns >= self._handover_end_ns:
            return Refusal.OLD_INSTRUCTION
        if self.chunk is None or chunk.epoch != self.epoch:
            return None
        if chunk.instruction_id < self.chunk.instruction_id:
            return Refusal.OLD_INSTRUCTION
        if chunk.chunk_id in self._ids:
            return Refusal.DUPLICATE
        return Refusal.OUT_OF_ORDER if chunk.observation_ns < self.chunk.observation_ns else None

    def _judge_times(self, chunk: ActionChunk, now_ns: int) -> Refusal | None:
        config, latest_ns = self._config, now_ns + nanoseconds(self._config.max_clock_skew_s)
        if chunk.step_ns != self._step_ns or chunk.observation_ns > min(latest_ns, chunk.start_ns):
            return Refusal.BAD_TIMES
        if np.ndim(chunk.positions_KJ) != 2 or not 1 <= len(chunk.positions_KJ) <= self._max_steps:
            return Refusal.WRONG_SHAPE
        if chunk.observation_ns < now_ns - nanoseconds(config.max_observation_age_s):
            return Refusal.OLD_OBSERVATION
        if chunk.end_ns <= now_ns:
            return Refusal.PAST
        return Refusal.TOO_FAR_AHEAD if chunk.start_ns > now_ns + nanoseconds(config.max_ahead_s) else None

    def _judge_values(self, chunk: ActionChunk) -> Refusal | None:
        positions = np.asarray(chunk.positions_KJ)
        if positions.shape[1] != len(self._names) or positions.dtype.kind not in "fiu":
            return Refusal.WRONG_SHAPE
        if not np.isfinite(positions).all():
            return Refusal.NOT_FINITE
        ordered = self._ordered(chunk)
        inside = (ordered >= self._lowest_J) & (ordered <= self._highest_J)
        return None if inside.all() else Refusal.OUT_OF_LIMITS

    def _ordered(self, chunk: ActionChunk) -> F64:
        order = [chunk.joint_names.index(name) for name in self._names]
        return np.asarray(chunk.positions_KJ, dtype=np.float64)[:, order]

    def merged(self, chunk: ActionChunk, now_ns: int, *, standing: bool = False) -> Knots:
        """The knots that would be known with this chunk: a little of the past as context, and all of the future.

        For arms that stand still, what an older plan said of the past is no context.
        """
        times = [chunk.start_ns + step * chunk.step_ns for step in range(len(chunk.positions_KJ))]
        positions = self._ordered(chunk)
        if self.knots is not None and not standing:
            before_ns = chunk.start_ns - 6 * self._step_ns // 10
            keep = [i for i, time_ns in enumerate(self.knots.time_ns) if time_ns <= before_ns]
            times = [self.knots.time_ns[i] for i in keep] + times
            positions = np.concatenate((self.knots.position_KJ[keep], positions))
        return self._recent(Knots(tuple(times), positions), now_ns)

    def _recent(self, knots: Knots, now_ns: int) -> Knots:
        oldest_ns = now_ns - round(self._config.context_steps * self._step_ns)
        first = sum(time_ns < oldest_ns for time_ns in knots.time_ns)
        return Knots(knots.time_ns[first:], knots.position_KJ[first:])

    def commit(self, chunk: ActionChunk, knots: Knots, now_ns: int, border: Refusal | None = None) -> Merge:
        """Make `knots` the plan of record."""
        if chunk.epoch != self.epoch:
            self._ids.clear()
        self.epoch, self.chunk, self.knots = chunk.epoch, chunk, knots
        self._ids.append(chunk.chunk_id)
        past = sum(chunk.start_ns + step * chunk.step_ns <= now_ns for step in range(len(chunk.positions_KJ)))
        return Merge(True, None, past, border)

    def ahead(self, now_ns: int) -> Knots | None:
        """What is known now, or None when nothing lies ahead."""
        if self.knots is None or self.knots.time_ns[-1] <= now_ns:
            return None
        return self._recent(self.knots, now_ns)

    def slack_s(self, now_ns: int) -> float:
        """How long the known plan still lasts; negative while nothing is known; 0 before the first plan."""
        return seconds(self.knots.time_ns[-1] - now_ns) if self.knots is not None else 0.0
