"""One look at the executor, from its parts."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from starry_ros.control.figures import RunFigures
from starry_ros.control.safety import Event, SafetyMachine
from starry_ros.control.schedule import Schedule
from starry_ros.control.status import ExecutorStatus
from starry_ros.control.watch import StateWatch
from starry_ros.timing import seconds


@dataclass
class Totals:
    """Counts since the start of the executor."""

    ticks: int = 0
    missed_ticks: int = 0
    gate_interventions: int = 0


def status_of(
    now_ns: int, safety: SafetyMachine, schedule: Schedule, run: RunFigures, watch: StateWatch, totals: Totals
) -> ExecutorStatus:
    """Everything worth publishing about this moment."""
    chunk = schedule.chunk
    waiting = safety.moving_allowed and run.waiting
    return ExecutorStatus(
        mode=safety.mode,
        reason=Event.NO_CHUNK.value if waiting else safety.reason,
        conditions=tuple(sorted(safety.conditions)),
        epoch=schedule.epoch, chunk_id=chunk.chunk_id if chunk is not None else None,
        instruction_id=chunk.instruction_id if chunk is not None else None,
        chunk_age_s=seconds(now_ns - chunk.observation_ns) if chunk is not None else None,
        slack_s=schedule.slack_s(now_ns), delay_s=run.delay_s, stall_share=run.stall_share,
        splices=MappingProxyType(dict(run.splices)), borders=MappingProxyType(dict(run.borders)),
        splice_jump=run.jump, splice_jump_worst=run.jump_worst,
        velocity_jump_worst=run.velocity_jump_worst, refused=schedule.refused,
        limit_activity_J=run.limit_activity(), tracking_error_J=watch.error_J.copy(),
        gate_interventions=totals.gate_interventions, ticks=totals.ticks, missed_ticks=totals.missed_ticks,
    )
