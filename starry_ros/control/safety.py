"""Modes of the executor and the table of (mode, event) that is the whole of its safety logic.

| mode | the arms |
|---|---|
| DISARMED | get no commands |
| RUN | follow accepted plans; without one they stand still |
| SLOW | follow plans at a reduced speed |
| HOLD | stand still; an operator asked for it |
| STOP | decelerate and stand still; something asked for it that an operator has to look at |
| FAULT | decelerate and stand still, latched |

Only the services `arm` (from DISARMED, HOLD, STOP) and `reset_fault` (from FAULT, to DISARMED) lead towards motion.
After a fault the arms may be anywhere, so reset goes to DISARMED and the next `arm` starts from the measured position.
A stop is a planned deceleration and the arms stay powered (stop category 2): a software stop is no substitute for an
emergency stop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Mode(StrEnum):
    """What the executor does."""

    DISARMED = "DISARMED"
    HOLD = "HOLD"
    RUN = "RUN"
    SLOW = "SLOW"
    STOP = "STOP"
    FAULT = "FAULT"


class Event(StrEnum):
    """What can happen to it. The first four are services; the others are observed."""

    ARM = "arm"
    HOLD = "hold"
    STOP = "stop"
    RESET_FAULT = "reset_fault"
    ESTOP_PRESSED = "estop_pressed"
    ESTOP_RELEASED = "estop_released"
    HEARTBEAT_LOST = "heartbeat_lost"
    STATE_STALE = "joint_state_stale"
    STATE_INVALID = "joint_state_invalid"
    TRACKING_ERROR = "tracking_error"
    CLOCK_JUMP = "clock_jump"
    SURPRISE_HIGH = "surprise_high"
    PLANNER_LOST = "planner_lost"
    NOT_FOLLOWING = "not_following"
    NO_CHUNK = "no_chunk"
    CHUNK_AVAILABLE = "chunk_available"
    LIMIT_ACTIVE = "limit_active"
    MODEL_SURPRISE = "model_surprise"
    PLANNER_DEGRADED = "planner_degraded"
    ALL_CLEAR = "all_clear"


SERVICES = (Event.ARM, Event.HOLD, Event.STOP, Event.RESET_FAULT)

SLOWING = frozenset({Event.NOT_FOLLOWING, Event.LIMIT_ACTIVE, Event.MODEL_SURPRISE, Event.PLANNER_DEGRADED})
"""Conditions that slow down while they last; ALL_CLEAR follows the end of the last one."""

BLOCKING = frozenset({Event.ESTOP_PRESSED, Event.HEARTBEAT_LOST, Event.STATE_STALE, Event.STATE_INVALID})
"""Conditions during which `arm` and `reset_fault` are refused."""

CONDITIONS = (BLOCKING | SLOWING) - {Event.NOT_FOLLOWING}
"""Conditions that may be reported from outside; the executor sees the other one itself."""

_D, _H, _R, _L, _T, _F = Mode.DISARMED, Mode.HOLD, Mode.RUN, Mode.SLOW, Mode.STOP, Mode.FAULT

_MATRIX: Mapping[Event, tuple[Mode | None, ...]] = {
    #           in mode:      DISARMED HOLD  RUN  SLOW  STOP FAULT     (None: the service is refused)
    Event.ARM:               (_R,     _R,  None, None, _R,  None),
    Event.HOLD:              (None,   _H,   _H,   _H,  None, None),
    Event.STOP:              (_D,     _T,   _T,   _T,  _T,  _F),
    Event.RESET_FAULT:       (None,  None, None, None, None, _D),
    Event.ESTOP_PRESSED:     (_D,     _F,   _F,   _F,  _F,  _F),
    Event.ESTOP_RELEASED:    (_D,     _H,   _R,   _L,  _T,  _F),
    Event.HEARTBEAT_LOST:    (_D,     _T,   _T,   _T,  _T,  _F),
    Event.STATE_STALE:       (_D,     _F,   _F,   _F,  _F,  _F),
    Event.STATE_INVALID:     (_D,     _F,   _F,   _F,  _F,  _F),
    Event.TRACKING_ERROR:    (_D,     _F,   _F,   _F,  _F,  _F),
    Event.CLOCK_JUMP:        (_D,     _T,   _T,   _T,  _T,  _F),
    Event.SURPRISE_HIGH:     (_D,     _H,   _T,   _T,  _T,  _F),
    Event.PLANNER_LOST:      (_D,     _H,   _T,   _T,  _T,  _F),
    Event.NO_CHUNK:          (_D,     _H,   _R,   _L,  _T,  _F),
    Event.CHUNK_AVAILABLE:   (_D,     _H,   _R,   _L,  _T,  _F),
    Event.NOT_FOLLOWING:     (_D,     _H,   _L,   _L,  _T,  _F),
    Event.LIMIT_ACTIVE:      (_D,     _H,   _L,   _L,  _T,  _F),
    Event.MODEL_SURPRISE:    (_D,     _H,   _L,   _L,  _T,  _F),
    Event.PLANNER_DEGRADED:  (_D,     _H,   _L,   _L,  _T,  _F),
    Event.ALL_CLEAR:         (_D,     _H,   _R,   _R,  _T,  _F),
}

TABLE: Mapping[tuple[Mode, Event], Mode | None] = MappingProxyType(
    {(mode, event): row[i] for event, row in _MATRIX.items() for i, mode in enumerate((_D, _H, _R, _L, _T, _F))}
)
"""Next mode for every mode and event."""


@dataclass(frozen=True)
class Reply:
    """Answer of a service."""

    ok: bool
    message: str


class SafetyMachine:
    """Current mode, the event that led to it, and the conditions that hold at present."""

    def __init__(self) -> None:
        self.mode = Mode.DISARMED
        self.reason: str = "start"
        self._conditions: set[Event] = set()

    @property
    def conditions(self) -> frozenset[Event]:
        """Conditions that hold at present."""
        return frozenset(self._conditions)

    @property
    def moving_allowed(self) -> bool:
        """Whether plans are followed."""
        return self.mode in (Mode.RUN, Mode.SLOW)

    def handle(self, event: Event) -> bool:
        """One step of the table; False where the table refuses."""
        after = TABLE[self.mode, event]
        if after is None:
            return False
        if after is not self.mode:
            self.mode, self.reason = after, event.value
        return True

    def set_condition(self, event: Event, present: bool) -> None:
        """A condition begins, lasts or ends. A blocking one acts as long as it lasts, so nothing outruns it."""
        if present:
            self._conditions.add(event)
            self.handle(event)
        elif event in self._conditions:
            self._conditions.discard(event)
            if event is Event.ESTOP_PRESSED:
                self.handle(Event.ESTOP_RELEASED)
            if event in SLOWING and not self._conditions & SLOWING:
                self.handle(Event.ALL_CLEAR)

    def request(self, service: Event) -> Reply:
        """A service call, refused with a message in a wrong mode or while a blocking condition holds."""
        blocking = sorted(self._conditions & BLOCKING)
        if service in (Event.ARM, Event.RESET_FAULT) and blocking:
            return Reply(False, f"{service} refused: {', '.join(blocking)}; remove the cause first")
        before = self.mode
        if not self.handle(service):
            allowed = [mode.value for mode in Mode if TABLE[mode, service] is not None]
            return Reply(False, f"{service} refused in {before}; it works in {', '.join(allowed)}")
        for event in sorted(self._conditions & SLOWING):
            self.handle(event)
        return Reply(True, f"{before} -> {self.mode}")
