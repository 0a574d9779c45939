"""Settings of the executor and what it tells about itself. Shapes: N samples, J joints in contract order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from starry_ros.control.safety import Event, Mode
from starry_ros.control.schedule import Refusal, ScheduleConfig
from starry_ros.control.splice import Method
from starry_ros.types import F64


@dataclass(frozen=True)
class ExecutorConfig:
    """Times in seconds; shares are of a joint's position range or of its greatest speed.

    `lead_s` is how far ahead of the clock commands are made for robots behind a trajectory controller. It covers the
    time between two trajectories plus their transport, so that a new one never contradicts what the controller already
    did.

    Joints that are `tracking_share` off what was commanded for `tracking_time_s`, or `stuck_share` for `stuck_time_s`,
    are a fault. From `astray_share` on, drives that are `drive_lag_s` behind at most are asked which look-ahead they
    carry out; refusing newer ones for `stuck_time_s`, without having been seen to take one, is a fault.

    A look-ahead follows the plan for at least `bridge_s` after the clock, which bridges a late executor, and for longer
    as long as it is at rest `rest_within_s` after the clock: so soon do the arms stand when nobody commands them any
    more, unless braking itself takes longer.

    `arm` starts from where the joints are measured, or from the limit where one stands beyond it by as much as
    `arm_outside_rad` or `arm_outside_m`: noise, for the arms make that step at once.

    Arms that have followed a plan and then stood for `patience_s` without being offered a further one, if only one that
    cannot be followed, move again only after `arm`: nobody expects it of them any more. None: they wait for ever.
    """

    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    state_timeout_s: float = 0.25
    heartbeat_timeout_s: float | None = None
    clock_jump_s: float = 1.0
    tracking_share: float = 0.06
    tracking_window_s: float = 0.3
    tracking_time_s: float = 0.15
    stuck_share: float = 0.01
    stuck_time_s: float = 1.0
    astray_share: float = 0.004
    drive_lag_s: float = 0.05
    arm_outside_rad: float = 0.003
    arm_outside_m: float = 0.001
    arm_speed_share: float = 0.1
    patience_s: float | None = 2.0
    slow_factor: float = 2.0
    max_delay_s: float = 3.0
    gate_slow_s: float = 1.0
    bridge_s: float = 0.08
    rest_within_s: float = 0.3
    look_ahead_step_s: float = 0.02
    lead_s: float = 0.05


@dataclass(frozen=True)
class ExecutorStatus:
    """One look at the executor.

    `reason` is the event that led to the mode, or `no_chunk` while the arms wait for a plan. `slack_s` is how long the
    known plan still lasts, `delay_s` how much later than planned it will end, `stall_share` the share of running ticks
    spent waiting for a plan (not those at a border of the space, where a plan is there but leads on). `splice_jump` is
    the greatest position difference between a new plan and the command at a splice, the last one and the worst since
    `arm` (the command itself never jumps), `velocity_jump_worst` the same of velocities. `borders` counts plans that
    were followed only up to a border of the space. `limit_activity_J` is the share of running ticks in which a joint's
    plan was slowed by its limits; `tracking_error_J` is measured against commanded position.
    """

    mode: Mode
    reason: str
    conditions: tuple[Event, ...]
    epoch: int | None
    chunk_id: int | None
    instruction_id: int | None
    chunk_age_s: float | None
    slack_s: float
    delay_s: float
    stall_share: float
    splices: Mapping[Method, int]
    borders: Mapping[Refusal, int]
    splice_jump: float
    splice_jump_worst: float
    velocity_jump_worst: float
    refused: Mapping[Refusal, int]
    limit_activity_J: F64
    tracking_error_J: F64
    gate_interventions: int
    ticks: int
    missed_ticks: int


@dataclass(frozen=True)
class LookAhead:
    """A short trajectory along the commands, along the plan and into a stop; its start (at `start_ns`) is not included.

    The first points, up to the last command, were commanded before: they tie the trajectory to what the controller
    still executes, so that it never interpolates across a change of plan.

    Stamp the message with `start_ns`: the controller then follows one absolute timeline, whatever the transport's
    jitter (stamp 0, "now", turns 2 ms of jitter into ten times the acceleration limit). It lies a little ahead of the
    clock.

    `time_s_N` is after `start_ns`, strictly increasing from one step on; the last velocity is exactly 0.
    """

    start_ns: int
    time_s_N: F64
    position_NJ: F64
    velocity_NJ: F64
    acceleration_NJ: F64
