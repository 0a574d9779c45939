"""What a recording says in numbers: latencies, slack, stalls, splices, jerk, refusals, frames, and its worst moments.

Times are seconds since the first message unless a name ends in _ns (ROS clock). Shapes: J joints in contract order,
N samples, K steps of a chunk.
"""

from __future__ import annotations

import contextlib
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from starry_ros.canvas.layout import CanvasLayout, t_pose_layout
from starry_ros.errors import InputError
from starry_ros.recording.lost import tally
from starry_ros.recording.reader import Recording, chunk_of, image_of, stamp_ns
from starry_ros.robot_spec import RobotSpec
from starry_ros.types import F64, ActionChunk
from starry_ros.value.imagined import ImaginedPairs, whole

NS = 1e9
PERCENTS = (50, 95, 99)
IMAGINED_AHEAD_NS, IMAGINED_TOLERANCE_NS = 800_000_000, 50_000_000
APART_S = 1.0
MOST_MOMENTS = 6
LEAD_S = 0.5
NOT_RUNNING = ("not_running", "before_arm")
"""Why the executor refuses plans while it was told to rest."""
ASKED = ("stop", "hold", "start")
"""Reasons of modes that somebody asked for."""


@dataclass
class Series:
    """Samples over time."""

    at_s: list[float] = field(default_factory=list)
    value: list[float] = field(default_factory=list)

    def add(self, at_s: float, value: float) -> None:
        """Append one sample."""
        self.at_s.append(at_s)
        self.value.append(value)

    def percentiles(self) -> dict[str, float | None]:
        """p50, p95, p99 and the largest."""
        if not self.value:
            return {**{f"p{p}": None for p in PERCENTS}, "max": None}
        found = np.percentile(self.value, PERCENTS)
        return {**{f"p{p}": float(v) for p, v in zip(PERCENTS, found, strict=True)}, "max": float(np.max(self.value))}


@dataclass(frozen=True)
class Moment:
    """An instant worth looking at, and why. `severity` orders moments of different kinds: 1 is a limit reached."""

    at_s: float
    why: str
    severity: float


@dataclass
class Figures:
    """All that is counted and measured."""

    seconds: float = 0.0
    chunks: list[ActionChunk] = field(default_factory=list)
    arrival_s: list[float] = field(default_factory=list)
    latency: Series = field(default_factory=Series)
    interval: Series = field(default_factory=Series)
    splice: Series = field(default_factory=Series)
    slack: Series = field(default_factory=Series)
    chunk_age: Series = field(default_factory=Series)
    stall: Series = field(default_factory=Series)
    jitter: Series = field(default_factory=Series)
    jerk_share: Series = field(default_factory=Series)
    imagined_apart: Series = field(default_factory=Series)
    surprise: Series = field(default_factory=Series)
    modes: list[tuple[float, str, str]] = field(default_factory=list)
    sentences: list[tuple[float, str]] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    refusals: list[tuple[float, str]] = field(default_factory=list)
    limit_share: dict[str, float] = field(default_factory=dict)
    jerk_joint: dict[str, float] = field(default_factory=dict)
    frames: dict[str, int] = field(default_factory=dict)
    frames_missing: dict[str, float] = field(default_factory=dict)
    lost: int | None = None
    counted: int = 0
    skew_ms: dict[str, list[float]] = field(default_factory=dict)
    diagnosed: Counter[str] = field(default_factory=Counter)
    gate_interventions: int = 0
    missed_ticks: int = 0
    ticks: int = 0

    @property
    def begin_s(self) -> float:
        """When it begins to be of interest: shortly before the first plan, or before the arms are armed."""
        armed = [at_s for at_s, mode, _ in self.modes if mode in ("RUN", "SLOW")]
        return max(0.0, min([*self.arrival_s[:1], *armed[:1]], default=0.0) - LEAD_S)

    @property
    def refused_running(self) -> int:
        """Plans refused for another reason than that the arms were not to move."""
        return sum(count for reason, count in self.refused.items() if reason not in NOT_RUNNING)

    def mode_seconds(self) -> dict[str, float]:
        """Seconds spent in each mode."""
        spent: dict[str, float] = {}
        for (at_s, mode, _), end_s in zip(self.modes, ends_of(self.modes, self.seconds), strict=True):
            spent[mode] = spent.get(mode, 0.0) + end_s - at_s
        return spent


def ends_of(events: Sequence[tuple[Any, ...]], end_s: float) -> list[float]:
    """When each of these events, which begin with their time, gives way to the next one."""
    return [event[0] for event in events[1:]] + [end_s] * bool(events)


def measure(recording: Recording, spec: RobotSpec) -> Figures:
    """Read a recording once for its numbers, and once for its pictures' stamps."""
    figures = Figures(seconds=recording.seconds)
    commands = {arm.command_topic: arm.name for arm in spec.arms}
    watch = _Watch(figures, spec, recording.start_ns)
    handlers = {
        "action_chunk": watch.chunk, "executor_status": watch.executor, "world_action_status": watch.session,
        "canvas_info": watch.canvas, "/diagnostics": watch.diagnostics,
    }
    wanted = [topic for topic in (*handlers, *commands) if recording.has(topic)]
    for heard in recording.messages(*wanted):
        with contextlib.suppress(InputError):  # what the nodes refused then is no figure now
            if heard.topic in commands:
                watch.command(commands[heard.topic], heard.received_ns, heard.message)
            else:
                handlers[heard.topic](heard.received_ns, heard.published_ns, heard.message)
    _count_frames(figures, recording, spec)
    known = [topic for topic in tally(recording) if topic.lost is not None]
    if known:
        figures.lost, figures.counted = sum(t.lost or 0 for t in known), sum(t.messages for t in known)
    _compare_imagined(figures, recording, t_pose_layout(spec))
    return figures


class _Watch:
    """Takes messages in order of arrival into figures."""

    def __init__(self, figures: Figures, spec: RobotSpec, start_ns: int) -> None:
        self._figures, self._spec, self._start_ns = figures, spec, start_ns
        self._jerk_limit = {arm.name: spec.limit("jerk")[spec.arm_slice(arm.name)] for arm in spec.arms}
        self._last_points: dict[str, tuple[int, F64]] = {}

    def _at_s(self, time_ns: int) -> float:
        return (time_ns - self._start_ns) / NS

    def chunk(self, received_ns: int, published_ns: int, message: Any) -> None:
        """A plan arrived."""
        figures, chunk, at_s = self._figures, chunk_of(message), self._at_s(published_ns)
        figures.latency.add(at_s, (published_ns - chunk.observation_ns) / NS)
        if figures.chunks and figures.chunks[-1].epoch == chunk.epoch:
            figures.interval.add(at_s, at_s - figures.arrival_s[-1])
            apart = disagreement(figures.chunks[-1], chunk, published_ns)
            if apart is not None:
                figures.splice.add(at_s, apart)
        figures.chunks.append(chunk)
        figures.arrival_s.append(at_s)

    def executor(self, received_ns: int, published_ns: int, message: Any) -> None:
        """A look at the executor."""
        figures, at_s = self._figures, self._at_s(received_ns)
        if not figures.modes or figures.modes[-1][1] != message.mode_name:
            figures.modes.append((at_s, message.mode_name, message.reason))
        if message.mode_name in ("RUN", "SLOW") and message.chunk_id:
            figures.slack.add(at_s, message.slack_s)
            figures.chunk_age.add(at_s, message.chunk_age_s)
            figures.stall.add(at_s, message.stall_share)
        figures.jitter.add(at_s, message.tick_jitter_p99_s)
        counts = dict(zip(message.refused_reasons, message.refused_counts, strict=True))
        more = [reason for reason, count in counts.items() if count > figures.refused.get(reason, 0)]
        figures.refusals += [(at_s, reason) for reason in more]
        figures.refused = counts
        for name, share in zip(message.joint_names, message.limit_share, strict=True):
            figures.limit_share[name] = max(share, figures.limit_share.get(name, 0.0))
        figures.gate_interventions, figures.ticks = message.gate_interventions, message.ticks
        figures.missed_ticks = message.missed_ticks

    def session(self, received_ns: int, published_ns: int, message: Any) -> None:
        """A look at the model's session."""
        figures, at_s = self._figures, self._at_s(received_ns)
        if message.instruction and (not figures.sentences or figures.sentences[-1][1] != message.instruction):
            figures.sentences.append((at_s, message.instruction))
        for value in message.surprise:
            figures.surprise.add(at_s, value)

    def canvas(self, received_ns: int, published_ns: int, message: Any) -> None:
        """Which views were on a canvas, and how far apart."""
        for tile in message.tiles:
            if tile.valid:
                self._figures.skew_ms.setdefault(tile.camera, []).append(1000 * tile.skew_s)

    def diagnostics(self, received_ns: int, published_ns: int, message: Any) -> None:
        """Warnings and errors by node and text."""
        for status in message.status:
            level = status.level if isinstance(status.level, int) else status.level[0]
            if level:
                self._figures.diagnosed[f"{status.name}: {status.message}"] += 1

    def command(self, arm: str, received_ns: int, message: Any) -> None:
        """Jerk of the commanded curve: change of acceleration between points, as a share of each joint's limit.

        A trajectory that lacks a joint, or a point's accelerations, as one that was refused, says nothing of jerk.
        """
        if self._spec.command_interface != "joint_trajectory":
            return  # set-points one by one tell no acceleration
        begin_ns = stamp_ns(message.header.stamp) or received_ns  # 0: from its arrival on
        names, given = [joint.name for joint in self._spec.joints[self._spec.arm_slice(arm)]], list(message.joint_names)
        told = all(len(point.accelerations) == len(given) for point in message.points)
        if len(message.points) < 2 or not told or not set(names) <= set(given):
            return
        order = [given.index(name) for name in names]
        times = np.array([begin_ns + stamp_ns(point.time_from_start) for point in message.points]) / NS
        accelerations = np.array([point.accelerations for point in message.points])[:, order]
        share_NJ = np.abs(np.diff(accelerations, axis=0)) / np.diff(times)[:, None] / self._jerk_limit[arm]
        for name, share in zip(names, share_NJ.max(axis=0), strict=True):
            self._figures.jerk_joint[name] = max(float(share), self._figures.jerk_joint.get(name, 0.0))
        self._figures.jerk_share.add(self._at_s(begin_ns), float(share_NJ.max()))


def disagreement(before: ActionChunk, after: ActionChunk, at_ns: int) -> float | None:
    """Largest distance between two plans at an instant, in rad (grippers m); None where they do not overlap."""
    positions = []
    for chunk in (before, after):
        step = (at_ns - chunk.start_ns) / chunk.step_ns
        if not 0 <= step <= len(chunk.positions_KJ) - 1:
            step = min(max(step, 0.0), len(chunk.positions_KJ) - 1) if chunk is after else step
        if not 0 <= step <= len(chunk.positions_KJ) - 1:
            return None
        low = int(min(step, len(chunk.positions_KJ) - 2))
        share = step - low
        positions.append((1 - share) * chunk.positions_KJ[low] + share * chunk.positions_KJ[low + 1])
    return float(np.abs(positions[0] - positions[1]).max())


def cdr_stamp_ns(data: bytes) -> int:
    """Stamp of a serialised message that begins with a header, without decoding the rest."""
    sec, nanosec = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return int(sec) * 1_000_000_000 + int(nanosec)


def lost_share(stamps_ns: Sequence[int], rate_hz: float) -> float:
    """Share of the frames missing between the first and the last, from the gaps between stamps.

    The period is the median gap, so a camera at another rate than the contract's loses nothing by that.
    """
    if len(stamps_ns) < 3:
        return 0.0
    first_ns = min(stamps_ns)
    gaps = np.diff([(stamp - first_ns) / NS for stamp in sorted(set(stamps_ns))])
    period = float(np.median(gaps)) or 1.0 / rate_hz
    missing = int(np.maximum(np.round(gaps / period) - 1, 0).sum())
    return missing / (missing + len(gaps) + 1)


def _count_frames(figures: Figures, recording: Recording, spec: RobotSpec) -> None:
    stamps: dict[str, list[int]] = {camera.name: [] for camera in spec.cameras}
    topics = {recording.namespace + camera.topic: camera.name for camera in spec.cameras}
    topics |= {f"{topic}/compressed": name for topic, name in list(topics.items())}
    for topic, _, _, data in recording.raw(topics=list(topics)):
        stamps[topics[topic]].append(cdr_stamp_ns(data))
    figures.frames = {name: len(found) for name, found in stamps.items()}
    figures.frames_missing = {name: lost_share(found, spec.rates.camera_hz) for name, found in stamps.items()}


def _compare_imagined(figures: Figures, recording: Recording, layout: CanvasLayout) -> None:
    """Mean difference of the imagined canvas from the one that came with all views, in grey levels."""
    if not recording.has("imagined_canvas"):
        return
    pairs = ImaginedPairs(IMAGINED_AHEAD_NS, IMAGINED_TOLERANCE_NS)
    for heard in recording.messages("imagined_canvas", "canvas"):
        at_ns = stamp_ns(heard.message.header.stamp)
        if heard.topic == "imagined_canvas":
            pairs.imagined(at_ns, image_of("imagined", heard.message))
        else:
            real = image_of("canvas", heard.message)
            imagined = pairs.real(at_ns) if whole(layout, real) else None
            if imagined is not None and real.shape == imagined.image_HWC.shape:
                apart = np.abs(real.astype(np.int16) - imagined.image_HWC.astype(np.int16)).mean()
                figures.imagined_apart.add((at_ns - recording.start_ns) / NS, float(apart))


def worst_moments(figures: Figures) -> list[Moment]:
    """The moments most worth a look, at most a few, at least a second apart, in order of time."""
    found = [
        Moment(at_s, f"{mode}: {reason}", 10.0 if mode == "FAULT" else 4.0) for at_s, mode, reason in figures.modes
        if mode in ("FAULT", "STOP") and reason not in ASKED and at_s > 0.5
    ]
    found += [Moment(at_s, f"plan refused: {reason}", 5.0) for at_s, reason in figures.refusals
              if reason not in NOT_RUNNING]
    found += _peak(figures.slack, "least slack: the plan lasted {:.2f} s more", lambda v: 2.0 if v < 0 else 0.5 - v, -1)
    found += _peak(figures.latency, "slowest plan: {:.2f} s after its observation", lambda v: v / 0.5)
    found += _peak(figures.splice, "largest change of plan: {:.3f} rad at the splice", lambda v: v / 0.3)
    found += _peak(figures.jerk_share, "hardest command: {:.0%} of a jerk limit", lambda v: v / 2)
    found += _peak(figures.imagined_apart, "most surprising: imagined {:.1f} grey levels off", lambda v: v / 40)
    found += _peak(figures.surprise, "most surprising: {:.2f}", lambda v: 0.6)
    chosen: list[Moment] = []
    for moment in sorted(found, key=lambda m: -m.severity):
        if len(chosen) < MOST_MOMENTS and all(abs(moment.at_s - other.at_s) >= APART_S for other in chosen):
            chosen.append(moment)
    return sorted(chosen, key=lambda m: m.at_s)


def _peak(series: Series, text: str, severity: Any, sign: int = 1) -> Iterable[Moment]:
    """The extreme sample of a series as a moment."""
    if series.value:
        index = int(np.argmax(sign * np.array(series.value)))
        value = series.value[index]
        yield Moment(series.at_s[index], text.format(value), float(severity(value)))


def summary(figures: Figures) -> Mapping[str, Any]:
    """The figures as plain values, for JSON."""
    return {
        "seconds": figures.seconds, "plans": len(figures.chunks), "latency_s": figures.latency.percentiles(),
        "replan_s": figures.interval.percentiles(), "slack_s_least": min(figures.slack.value, default=None),
        "chunk_age_s": figures.chunk_age.percentiles(), "stall_share": max(figures.stall.value, default=None),
        "splice": figures.splice.percentiles(), "jerk_share": figures.jerk_share.percentiles(),
        "tick_jitter_p99_s": max(figures.jitter.value, default=None), "modes_s": figures.mode_seconds(),
        "refused": figures.refused,
        "messages_lost": figures.lost, "messages_counted": figures.counted,
        "limit_share": figures.limit_share, "jerk_joint": figures.jerk_joint,
        "gate_interventions": figures.gate_interventions, "missed_ticks": figures.missed_ticks,
        "frames": figures.frames, "frames_missing": figures.frames_missing,
        "skew_ms": {name: Series(value=values).percentiles() for name, values in figures.skew_ms.items()},
        "imagined_apart": figures.imagined_apart.percentiles(), "surprise": figures.surprise.percentiles(),
        "diagnosed": dict(figures.diagnosed), "moments": [vars(moment) for moment in worst_moments(figures)],
    }
