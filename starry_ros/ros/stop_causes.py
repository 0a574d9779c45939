"""What stops the arms beside the control itself: the emergency stop, and second speakers where there must be one."""

from __future__ import annotations

from starry_ros.control.safety import Event

ESTOP_PRESSED = Event.ESTOP_PRESSED.value
TWO_PLANNERS, SECOND_OWNER, TWO_DRIVERS = "two_planners", "second_owner", "two_drivers"
TWO_ESTOPS, TWO_HEARTBEATS = "two_estops", "two_heartbeats"
PRESSED, SILENT = "pressed", "silent"
WORDS = {
    TWO_PLANNERS: "two planners speak in turns",
    SECOND_OWNER: "another node publishes commands for the arms",
    TWO_DRIVERS: "two nodes publish the joint states in turns",
    TWO_ESTOPS: "two nodes publish estop, and one that says false would hide the other's true",
    TWO_HEARTBEATS: "two nodes publish heartbeat, and one would hide the silence of the other",
    PRESSED: "", SILENT: "",
}
"""What to tell of each, the most telling first. Why the emergency stop itself stands is told by whoever knows it."""


class StopCauses:
    """Which of them hold at present, and which stopped the arms last."""

    def __init__(self) -> None:
        self._holds = dict.fromkeys(WORDS, False)
        self._began = ""

    def put(self, cause: str, holds: bool) -> None:
        """From now on a cause holds, or does not."""
        stopped = self.any
        self._holds[cause] = holds
        if self.any and not stopped:
            self._began = self.reason

    def holds(self, cause: str) -> bool:
        """Whether a cause holds."""
        return self._holds[cause]

    @property
    def any(self) -> bool:
        """Whether the arms must stop."""
        return any(self._holds.values())

    @property
    def reason(self) -> str:
        """Reason code of the first second speaker, empty without one."""
        return next((cause for cause, holds in self._holds.items() if holds and WORDS[cause]), "")

    def why(self, reason: str, *, latched: bool) -> str:
        """The reason code to show for a mode's own: of a latched stop what began it, also when that is over."""
        if latched:
            return (self._began if reason == ESTOP_PRESSED else "") or reason
        return self.reason or reason

    @property
    def words(self) -> str:
        """The second speakers in words, to be added to a sentence."""
        return "".join(f"; {WORDS[cause]}: stop one of them" for cause, holds in self._holds.items()
                       if holds and WORDS[cause])
