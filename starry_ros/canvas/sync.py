"""Which frames belong together: a synchroniser with a bound on the spread of stamps and on age.

The set handed out is the one whose oldest stamp is newest; among those, the tightest. Each camera keeps its newest few
frames, so cameras with different delays still meet. A camera without a frame younger than `max_age_s` is left out of
the set (its tile becomes invalid); it does not hold the others up. The same holds for one whose pictures repeat under
new stamps while what they must show moves.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from starry_ros.canvas.repeats import JointGroups, Postures, Repeats
from starry_ros.errors import ConfigError, InputError
from starry_ros.timing import nanoseconds
from starry_ros.types import F64, CameraFrame, FrameSet


class Drop(StrEnum):
    """Why a frame was not taken."""

    DUPLICATE = "duplicate"
    OUT_OF_ORDER = "out_of_order"
    FUTURE = "future"
    STALE = "stale"
    REPEATED = "repeated"


class CameraState(StrEnum):
    """What a camera is doing.

    SAME_IMAGE is a suspicion: stamps advance, pixels do not. Frames arrive but cannot be used when stamps stand still
    (FROZEN), are too old (LATE) or lie in the future (AHEAD), or when pixels do not change although joints moved that
    they must show (REPEATS); SILENT: nothing arrives any more.
    """

    OK = "ok"
    SAME_IMAGE = "same_image"
    NEVER_SEEN = "never_seen"
    SILENT = "silent"
    FROZEN = "frozen"
    LATE = "late"
    AHEAD = "ahead"
    REPEATS = "repeats"


class Outcome(StrEnum):
    """What the last `newest` found."""

    NEW = "new"
    SAME = "same"
    NO_CAMERA = "no_camera"
    SKEW = "skew"


@dataclass(frozen=True)
class CameraCounters:
    """Frames by fate since construction."""

    accepted: int
    duplicate: int
    out_of_order: int
    future: int
    stale: int
    repeated: int

    @property
    def dropped(self) -> int:
        """Frames that were not taken, for any reason."""
        return self.duplicate + self.out_of_order + self.future + self.stale + self.repeated


@dataclass(frozen=True)
class CameraHealth:
    """One camera now: `age_ns` of its newest stamp, `quiet_ns` since anything arrived; None before the first frame."""

    camera: str
    state: CameraState
    age_ns: int | None
    quiet_ns: int | None
    identical_in_a_row: int
    counters: CameraCounters


@dataclass(frozen=True)
class SyncStatus:
    """All cameras, sets handed out, backward clock jumps survived, and what the last look found."""

    cameras: tuple[CameraHealth, ...]
    sets: int
    resets: int
    outcome: Outcome


class FrameSync:
    """Collects frames, hands out sets. Not thread safe; a push and a look each cost O(cameras).

    `max_skew_s` bounds the spread of stamps in a set, `max_age_s` the age of its frames, `max_future_s` how far a stamp
    may run ahead of the local clock. `depth` frames are kept a camera. A camera is suspected after `suspect_after`
    byte-identical images in a row, and left out once they are outdated: `shows` names the joints whose motion each
    camera must show.
    """

    def __init__(
        self, cameras: Sequence[str], max_skew_s: float, max_age_s: float, *, max_future_s: float = 0.02,
        depth: int = 8, suspect_after: int = 30, shows: Mapping[str, JointGroups] | None = None,
    ) -> None:
        _check(cameras, {"max_skew_s": max_skew_s, "max_age_s": max_age_s, "max_future_s": max_future_s}, depth)
        self._max_skew_ns, self._max_age_ns = nanoseconds(max_skew_s), nanoseconds(max_age_s)
        self._max_future_ns = nanoseconds(max_future_s)
        self._suspect_after = suspect_after
        shown, self._postures = shows or {}, Postures()
        self._tracks = {camera: _Track(depth, Repeats(shown.get(camera, ()), self._max_age_ns)) for camera in cameras}
        self._now_ns: int | None = None
        self._last: FrameSet | None = None
        self._sets = self._resets = 0
        self._outcome = Outcome.NO_CAMERA

    def hear(self, stamp_ns: int, position_J: F64) -> None:
        """Take what was measured of the joints in contract order; without it pictures that repeat are but suspect."""
        if self._postures.add(stamp_ns, position_J):
            for track in self._tracks.values():
                track.repeats.forget()

    def push(self, frame: CameraFrame) -> Drop | None:
        """Take a frame; its `received_ns` is now. Returns why it was dropped, None if taken.

        Raises InputError if the camera is not one of this synchroniser's.
        """
        track = self._tracks.get(frame.camera)
        if track is None:
            raise InputError("sync", f"unknown camera {frame.camera!r}", expected=list(self._tracks))
        self._move_to(frame.received_ns)
        track.received_ns = frame.received_ns
        drop = self._refuse(track, frame) or track.take(frame, self._postures)
        if drop is not None:
            track.drops[drop] += 1
        track.last_drop = drop
        return drop

    def newest(self, now_ns: int) -> FrameSet | None:
        """The newest set, or None if there is none or it was handed out before."""
        self._move_to(now_ns)
        found = self._find(now_ns)
        if found is not None:
            self._last, self._outcome = found, Outcome.NEW
            self._sets += 1
        return found

    def status(self, now_ns: int) -> SyncStatus:
        """Health and counters of every camera."""
        cameras = tuple(self._health(camera, track, now_ns) for camera, track in self._tracks.items())
        return SyncStatus(cameras, self._sets, self._resets, self._outcome)

    def reset(self) -> None:
        """Forget all frames; counters stay."""
        for track in self._tracks.values():
            track.forget()
        self._postures.forget()
        self._last = None

    def _move_to(self, now_ns: int) -> None:
        """Notice a clock that jumped backward: every stored stamp would lie in the future."""
        if self._now_ns is not None and now_ns < self._now_ns - self._max_future_ns:
            self.reset()
            self._resets += 1
            self._now_ns = now_ns
        self._now_ns = now_ns if self._now_ns is None else max(self._now_ns, now_ns)

    def _refuse(self, track: _Track, frame: CameraFrame) -> Drop | None:
        age_ns = frame.received_ns - frame.stamp_ns
        if age_ns < -self._max_future_ns:
            return Drop.FUTURE
        if frame.stamp_ns == track.newest_ns:
            return Drop.DUPLICATE
        if age_ns > self._max_age_ns:
            return Drop.STALE
        if track.newest_ns is not None and frame.stamp_ns < track.newest_ns:
            return Drop.OUT_OF_ORDER
        return None

    def _find(self, now_ns: int) -> FrameSet | None:
        """A set that is newer than the last one handed out; otherwise None and the reason in `_outcome`."""
        oldest_ns = now_ns - self._max_age_ns
        live = {camera: track.frames for camera, track in self._tracks.items() if track.newer_than(oldest_ns)}
        if not live:
            self._outcome = Outcome.NO_CAMERA
            return None
        stamp_ns = self._newest_start(list(live.values()), oldest_ns)
        if stamp_ns is None:
            self._outcome = Outcome.SKEW
            return None
        frames = {camera: next(f for f in kept if f.stamp_ns >= stamp_ns) for camera, kept in live.items()}
        if self._last is not None and (stamp_ns < self._last.stamp_ns or _same(frames, self._last)):
            self._outcome = Outcome.SAME
            return None
        return FrameSet(stamp_ns, max(f.stamp_ns for f in frames.values()) - stamp_ns, frames)

    def _newest_start(self, kept: list[deque[CameraFrame]], oldest_ns: int) -> int | None:
        """Largest t such that every camera has a stamp in [t, t + skew]; None if that lies before `oldest_ns`.

        A camera whose newest stamp <= t + skew lies before t has nothing in the window, so t can only be lower: at most
        that stamp. Each correction steps one camera back, so the loop ends after cameras x depth corrections.
        """
        start_ns = min(frames[-1].stamp_ns for frames in kept)
        settled = False
        while not settled:
            settled = True
            for frames in kept:
                limit_ns = start_ns + self._max_skew_ns
                stamp_ns = next((f.stamp_ns for f in reversed(frames) if f.stamp_ns <= limit_ns), None)
                if stamp_ns is None or stamp_ns < oldest_ns:
                    return None
                if stamp_ns < start_ns:
                    start_ns, settled = stamp_ns, False
        return start_ns

    def _health(self, camera: str, track: _Track, now_ns: int) -> CameraHealth:
        age_ns = None if track.newest_ns is None else now_ns - track.newest_ns
        quiet_ns = None if track.received_ns is None else now_ns - track.received_ns
        state = self._state(track, age_ns, quiet_ns)
        return CameraHealth(camera, state, age_ns, quiet_ns, track.repeats.in_a_row, track.counters())

    def _state(self, track: _Track, age_ns: int | None, quiet_ns: int | None) -> CameraState:
        if quiet_ns is None:
            return CameraState.NEVER_SEEN
        if quiet_ns > self._max_age_ns:
            return CameraState.SILENT
        if age_ns is None or age_ns > self._max_age_ns:
            causes = {Drop.DUPLICATE: CameraState.FROZEN, Drop.FUTURE: CameraState.AHEAD}
            return causes.get(track.last_drop, CameraState.LATE) if track.last_drop else CameraState.LATE
        if track.repeats.outdated:
            return CameraState.REPEATS
        return CameraState.SAME_IMAGE if track.repeats.in_a_row >= self._suspect_after else CameraState.OK


class _Track:
    """One camera's newest frames (oldest first), the newest stamp of all, and what became of the others."""

    def __init__(self, depth: int, repeats: Repeats) -> None:
        self.frames: deque[CameraFrame] = deque(maxlen=depth)
        self.newest_ns: int | None = None
        self.received_ns: int | None = None
        self.repeats = repeats
        self.last_drop: Drop | None = None
        self.drops = dict.fromkeys(Drop, 0)
        self.accepted = 0

    def newer_than(self, oldest_ns: int) -> bool:
        """Whether the newest frame is at least as new as `oldest_ns`."""
        return bool(self.frames) and self.frames[-1].stamp_ns >= oldest_ns

    def take(self, frame: CameraFrame, postures: Postures) -> Drop | None:
        """Keep a frame, the oldest falls out when full; or none at all of a picture that is outdated."""
        self.newest_ns = frame.stamp_ns
        self.repeats.look(frame, postures)
        if self.repeats.outdated:
            self.frames.clear()
            return Drop.REPEATED
        self.frames.append(frame)
        self.accepted += 1
        return None

    def forget(self) -> None:
        """Drop all frames; counters stay."""
        self.frames.clear()
        self.newest_ns = self.received_ns = None
        self.repeats.forget()

    def counters(self) -> CameraCounters:
        """Frames by fate."""
        return CameraCounters(self.accepted, **{drop.value: count for drop, count in self.drops.items()})


def _same(frames: Mapping[str, CameraFrame], last: FrameSet) -> bool:
    return frames.keys() == last.frames.keys() and all(frames[c].stamp_ns == last.frames[c].stamp_ns for c in frames)


def _check(cameras: Sequence[str], durations_s: Mapping[str, float], depth: int) -> None:
    if not cameras or len(set(cameras)) != len(cameras):
        raise ConfigError("sync", "cameras are empty or not unique", got=list(cameras))
    for name, value in durations_s.items():
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"sync: {name}", "is not a duration", got=value, expected="seconds, >= 0")
    if depth < 1:
        raise ConfigError("sync: depth", "is too small", got=depth, expected=">= 1")
