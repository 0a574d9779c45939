"""How thoroughly to plan, given how long plans take: the ladder of degraded planning.

| rung | what is computed anew |
|---|---|
| full | imagined frame, value map, actions |
| fewer_video_steps | the imagined frame with half of its denoising steps (where the model takes more than one) |
| reuse_latents | value map and actions; the last imagined frame serves again |
| action_only | actions; the last imagined frame and map serve again |
| hold | nothing: the arms run to the end of the known plan and stand |
| stop | nothing, for so long that an operator has to look |

The highest rung is taken whose plan is expected while the known one lasts and within the budget; where none is, the
quickest that the budget holds, for to wait until the arms stand would make them stand longer. Where only what could be
reused is missing, it is imagined anew. What is expected is the sum of a percentile of the durations of its stages
within a window of time; a machine that becomes slow or fast is followed. On a lower rung, the next higher one is tried
every `probe_s`, for its stages are measured on no other way.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from starry_ros.timing import nanoseconds, seconds
from starry_ros.wam.runtimes.base import Effort


class Rung(StrEnum):
    """How thoroughly a plan is made."""

    FULL = "full"
    FEWER_VIDEO_STEPS = "fewer_video_steps"
    REUSE_LATENTS = "reuse_latents"
    ACTION_ONLY = "action_only"
    HOLD = "hold"
    STOP = "stop"


RUNGS = tuple(Rung)
PLANNING = RUNGS[:4]
"""Rungs that make a plan."""
STAGES = ("video", "value", "action", "rest")
"""Stages of a plan; `rest` is everything besides the denoising of the three streams."""
_SKIPPED = {Rung.REUSE_LATENTS: {"video"}, Rung.ACTION_ONLY: {"video", "value"}}


@dataclass(frozen=True)
class LadderConfig:
    """Times in seconds. A plan has to be there `budget_s` after it was asked for; the first `warm_up` do not count.

    From a rung that plans, a higher one is taken again when it fits `climb_share` of the budget. After `stop_after_s`
    on hold, in which no plan was made within the budget, comes stop. What is reused is at most `dream_age_s` old.
    """

    budget_s: float = 1.0
    percentile: float = 90.0
    window_s: float = 10.0
    warm_up: int = 2
    climb_share: float = 0.8
    probe_s: float = 2.0
    dream_age_s: float = 1.5
    stop_after_s: float = 5.0


class Ladder:
    """Chooses a rung. All times are given; it reads no clock."""

    def __init__(
        self, config: LadderConfig | None = None, video_steps: int = 1, rungs: tuple[Rung, ...] = PLANNING
    ) -> None:
        """`rungs` are those, of the ones that make a plan, which the model has."""
        self.config, self._video_steps, self._rungs = config or LadderConfig(), video_steps, rungs
        self.rung = Rung.FULL
        self.plans = dict.fromkeys(RUNGS, 0)
        self._samples: dict[str, deque[tuple[int, float]]] = {stage: deque(maxlen=256) for stage in STAGES}
        self._to_skip = self.config.warm_up
        self._probed_ns = self._held_since_ns = None  # type: int | None
        self._probing = False
        self._dreamed_ns: int | None = None

    def effort(self, rung: Rung) -> Effort:
        """What a rung asks of the runtime."""
        skipped = _SKIPPED.get(rung, set())
        steps = max(1, self._video_steps // 2) if rung is Rung.FEWER_VIDEO_STEPS else None
        return Effort(video_steps=steps, video="video" not in skipped, value="value" not in skipped)

    def choose(self, now_ns: int, known_s: float = math.inf) -> Rung:
        """The rung for a plan that is asked for now. `known_s` is how long the known plan still lasts."""
        usable = [rung for rung in self._rungs if self._usable(rung, now_ns)]
        chosen = self._chosen(usable, now_ns, known_s)
        higher = [rung for rung in usable if RUNGS.index(rung) < RUNGS.index(chosen)]
        self.rung = self._patience(chosen, now_ns)
        if not higher:
            self._probed_ns = None
        elif self._probe_due(now_ns):
            self.rung, self._probing = higher[-1], True
        self.plans[self.rung] += 1
        return self.rung

    def forget_dream(self) -> None:
        """What was imagined serves no more: a new sentence, or a new episode."""
        self._dreamed_ns = None

    def add(self, rung: Rung, stages_s: Mapping[str, float], total_s: float, now_ns: int) -> None:
        """Record how long a plan on this rung took: stages of the runtime, and all from asking to having it."""
        if rung in (Rung.FULL, Rung.FEWER_VIDEO_STEPS):
            self._dreamed_ns = now_ns
        if total_s <= self.config.budget_s:
            self._held_since_ns = None
        if self._probing:  # counted from its end, or slow probes would follow each other
            self._probing, self._probed_ns = False, now_ns + nanoseconds(total_s)
        if self._to_skip > 0:
            self._to_skip -= 1
            return
        skipped = _SKIPPED.get(rung, set())
        measured = {stage: stages_s.get(stage, 0.0) for stage in STAGES[:3]}
        measured["rest"] = max(0.0, total_s - sum(measured.values()))
        if rung is Rung.FEWER_VIDEO_STEPS:
            measured["video"] *= self._video_steps / max(1, self._video_steps // 2)
        for stage, duration_s in measured.items():
            if stage not in skipped:
                self._samples[stage].append((now_ns, duration_s))

    def expected_s(self, rung: Rung, now_ns: int) -> float | None:
        """How long a plan on this rung takes, at the percentile; None while a stage of it was not measured lately."""
        total_s = 0.0
        for stage in STAGES:
            share = 0.0 if stage in _SKIPPED.get(rung, set()) else 1.0
            if stage == "video" and rung is Rung.FEWER_VIDEO_STEPS:
                share = max(1, self._video_steps // 2) / self._video_steps
            if share:
                stage_s = self._percentile_s(stage, now_ns)
                if stage_s is None:
                    return None
                total_s += share * stage_s
        return total_s

    def _chosen(self, usable: list[Rung], now_ns: int, known_s: float) -> Rung:
        """The highest rung that comes in time, or else the quickest that the budget holds, or else hold."""
        budget_s = self.config.budget_s
        in_time_s = min(budget_s, max(known_s, 0.25 * budget_s))
        if in_time := [rung for rung in usable if self._fits(rung, now_ns, in_time_s)]:
            return in_time[0]
        if late := [rung for rung in usable if self._fits(rung, now_ns, budget_s)]:
            return late[-1]
        lack_a_dream = [rung for rung in self._rungs if rung in _SKIPPED and rung not in usable]
        dreaming_s = self.expected_s(usable[-1], now_ns)
        in_vain = dreaming_s is None or dreaming_s >= self.config.dream_age_s  # it would be too old at once
        return usable[-1] if not in_vain and any(self._fits(r, now_ns, budget_s) for r in lack_a_dream) else Rung.HOLD

    def _usable(self, rung: Rung, now_ns: int) -> bool:
        """Whether the model has this rung, and what it would reuse is young enough."""
        if rung is Rung.FEWER_VIDEO_STEPS:
            return self._video_steps > 1
        if rung in _SKIPPED:
            dreamed_ns, limit_ns = self._dreamed_ns, nanoseconds(self.config.dream_age_s)
            return dreamed_ns is not None and now_ns - dreamed_ns <= limit_ns
        return True

    def _fits(self, rung: Rung, now_ns: int, budget_s: float) -> bool:
        expected_s = self.expected_s(rung, now_ns)
        if expected_s is None:  # nothing was measured at all, or only lower rungs lately
            return not any(self._samples.values()) or (rung is self.rung and rung is not Rung.HOLD)
        climbing = self.rung in PLANNING and RUNGS.index(rung) < RUNGS.index(self.rung)
        return expected_s <= budget_s * (self.config.climb_share if climbing else 1.0)

    def _probe_due(self, now_ns: int) -> bool:
        if self._probed_ns is None:
            self._probed_ns = now_ns
        if now_ns - self._probed_ns < nanoseconds(self.config.probe_s):
            return False
        self._probed_ns = now_ns
        return True

    def _patience(self, rung: Rung, now_ns: int) -> Rung:
        """Stop instead of hold when no plan has fitted for too long."""
        if rung is not Rung.HOLD:
            self._held_since_ns = None
        elif self._held_since_ns is None:
            self._held_since_ns = now_ns
        elif seconds(now_ns - self._held_since_ns) >= self.config.stop_after_s:
            return Rung.STOP
        return rung

    def _percentile_s(self, stage: str, now_ns: int) -> float | None:
        oldest_ns = now_ns - nanoseconds(self.config.window_s)
        young = sorted(duration_s for at_ns, duration_s in self._samples[stage] if at_ns >= oldest_ns)
        if not young:
            return None
        return young[min(len(young) - 1, math.ceil(self.config.percentile / 100 * len(young)) - 1)]
