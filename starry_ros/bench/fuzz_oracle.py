"""Which plans an executor may never accept, by the merge rules of the contract of plans: a second opinion.

Written from the rules and not from `control.schedule`, of which it takes the tolerances alone. It may let a plan pass
that the executor refuses, never the other way round: physics and the last tick of a deadline are the executor's.
"""

from __future__ import annotations

import numpy as np

from starry_ros.control.schedule import ScheduleConfig
from starry_ros.robot_spec import RobotSpec
from starry_ros.timing import nanoseconds
from starry_ros.types import ActionChunk


class MergeOracle:
    """Hears what the executor hears. `early_ns`, `late_ns`: how far its idea of now may lie from the clock."""

    def __init__(self, spec: RobotSpec, config: ScheduleConfig, early_ns: int, late_ns: int) -> None:
        self._spec, self._config, self._early_ns, self._late_ns = spec, config, early_ns, late_ns
        range_J = spec.limit("upper") - spec.limit("lower")
        self._low_J = spec.limit("lower") - config.outside_share * range_J
        self._high_J = spec.limit("upper") + config.outside_share * range_J
        self._armed_ns = self._handover_end_ns = 0
        self._sentence: int | None = None
        self.session(None)

    def armed(self, now_ns: int) -> None:
        """The arms were armed: any session may begin, with what is seen from now on."""
        self._armed_ns = now_ns
        self.session(None)

    def session(self, epoch: int | None) -> None:
        """A session is in force; None: that of the next plan."""
        self._epoch, self._ids = epoch, set[int]()
        self._newest_ns = self._newest_sentence = -(2**80)

    def sentence(self, instruction_id: int, now_ns: int) -> None:
        """A sentence is in force."""
        if instruction_id != self._sentence:
            self._sentence = instruction_id
            self._handover_end_ns = now_ns + nanoseconds(self._config.handover_s)

    def accepted(self, chunk: ActionChunk) -> None:
        """The executor took a plan."""
        if chunk.epoch != self._epoch:
            self.session(chunk.epoch)
        self._ids.add(chunk.chunk_id)
        self._newest_ns, self._newest_sentence = chunk.observation_ns, chunk.instruction_id

    def faults(self, chunk: ActionChunk, now_ns: int) -> list[str]:
        """Every reason for which a plan must not be accepted now."""
        return [*self._identity(chunk, now_ns), *self._times(chunk, now_ns), *self._values(chunk)]

    def _identity(self, chunk: ActionChunk, now_ns: int) -> list[str]:
        same = chunk.epoch == self._epoch
        handed_over = now_ns - self._early_ns >= self._handover_end_ns
        found = {
            "a foreign contract": chunk.contract_hash != self._spec.content_hash,
            "wrong joints": sorted(chunk.joint_names) != sorted(self._spec.joint_names),
            "a stale epoch": self._epoch is not None and chunk.epoch < self._epoch,
            "seen before arm": chunk.observation_ns < self._armed_ns,
            "a duplicate": same and chunk.chunk_id in self._ids,
            "out of order": same and chunk.observation_ns < self._newest_ns,
            "an older sentence than the last plan's": same and chunk.instruction_id < self._newest_sentence,
            "an old sentence": self._sentence is not None and chunk.instruction_id < self._sentence and handed_over,
        }
        return [name for name, true in found.items() if true]

    def _times(self, chunk: ActionChunk, now_ns: int) -> list[str]:
        config, earliest_ns, latest_ns = self._config, now_ns - self._early_ns, now_ns + self._late_ns
        steps = len(chunk.positions_KJ) if np.ndim(chunk.positions_KJ) else 0
        last_ns = chunk.start_ns + (steps - 1) * chunk.step_ns
        found = {
            "another step": chunk.step_ns != nanoseconds(self._spec.action.step_s),
            "starts before it was seen": chunk.start_ns < chunk.observation_ns,
            "seen in the future": chunk.observation_ns > latest_ns + nanoseconds(config.max_clock_skew_s),
            "too old": chunk.observation_ns < earliest_ns - nanoseconds(config.max_observation_age_s),
            "over": last_ns <= earliest_ns,
            "too far ahead": chunk.start_ns > latest_ns + nanoseconds(config.max_ahead_s),
        }
        return [name for name, true in found.items() if true]

    def _values(self, chunk: ActionChunk) -> list[str]:
        positions, joints = np.asarray(chunk.positions_KJ), len(self._spec.joint_names)
        most = self._spec.action.chunk_steps * self._config.max_steps_factor
        if positions.ndim != 2 or positions.shape[1] != joints or not 1 <= len(positions) <= most:
            return ["a wrong shape"]
        if not np.isfinite(positions).all():
            return ["not finite"]
        if sorted(chunk.joint_names) != sorted(self._spec.joint_names):
            return []
        ordered = positions[:, [chunk.joint_names.index(name) for name in self._spec.joint_names]]
        return [] if ((ordered >= self._low_J) & (ordered <= self._high_J)).all() else ["out of limits"]
