"""Plans again, offline, from what a session observed, and says where and by how much the plans differ.

The planning process tells every step it takes (`planning_log`): which canvas and which joint state it took in, which
sentence, epoch, effort and committed steps a plan was made with. Taking the same steps again, from the recorded
canvases and joint states, gives the same bits on the runtime that made them; within its parity bound on another
runtime; something else with other weights.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from starry_ros.errors import DataError, InputError
from starry_ros.recording.reader import Recording, chunk_of, image_of, stamp_ns, state_of, value_map_of
from starry_ros.recording.session_file import model_hashes
from starry_ros.robot_spec import RobotSpec
from starry_ros.types import F64, ActionChunk, Canvas, Plan, Record, RobotState, ValueMap
from starry_ros.wam.steps import OBSERVE, OPEN, PLAN, RESET, SENTENCE, checksum

PARITY_RAD = 2e-3
"""What another runtime may differ, in rad (grippers m): the runtimes' bound of 1e-3 standard deviations, rounded up."""

CANVASES_KEPT = 64


class Replayer(Protocol):
    """What `wam.trace.RetracingPlanner` offers."""

    def reset(self, instruction: str) -> int: ...
    def set_instruction(self, text: str) -> int: ...
    def observe(self, canvas: Canvas, state: RobotState, executed_UJ: F64 | None) -> None: ...
    def plan_as(self, rung: str, committed: int, known: Sequence[Sequence[float]]) -> Plan | None: ...


@dataclass(frozen=True)
class Compared:
    """One plan made again: the largest differences of positions and of value-map heights."""

    chunk_id: int
    epoch: int
    observation_ns: int
    difference: float
    joint: str
    step: int
    value_difference: float
    exact: bool


@dataclass
class Outcome:
    """All plans made again, and why others were not."""

    compared: list[Compared] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)

    def skip(self, reason: str) -> None:
        """Count a plan that cannot be made again."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1

    def first_beyond(self, bound: float) -> Compared | None:
        """The first plan that differs by more than the bound; with bound 0, the first that is not exact."""
        return next((c for c in self.compared if not (c.exact or (bound > 0 and c.difference <= bound))), None)


@dataclass(frozen=True)
class Session:
    """What a recording says about its planning, without the images. Steps are JSON objects in their order."""

    steps: tuple[Mapping[str, Any], ...]
    chunks: Mapping[tuple[int, int], ActionChunk]
    """By life of the planning process and chunk id."""
    maps: Mapping[int, ValueMap]
    states: Mapping[int, RobotState]
    layouts: Mapping[int, str]

    unusable: Mapping[str, int]
    """Messages by topic that say nothing: refused by the nodes then, and left out now."""

    @staticmethod
    def read(recording: Recording, spec: RobotSpec) -> Session:
        """Collect everything but images. DataError when the recording does not say how it was planned."""
        found, unusable = _Found(spec), Counter[str]()
        for heard in recording.messages("planning_log", "action_chunk", "value_map", spec.joint_state_topic,
                                        "canvas_info"):
            try:
                found.take(heard.topic, heard.message)
            except InputError:
                unusable[heard.topic] += 1
        if not any(step["do"] == PLAN for step in found.steps):
            raise DataError(str(recording.path), "holds no plan", fix="record a session in which the model plans")
        if any("known" not in step for step in found.steps if step["do"] == PLAN):
            raise DataError(str(recording.path), "does not say what its plans went on from", got="an old planning log",
                            fix="record again with this version")
        return Session(tuple(found.steps), found.chunks, found.maps, found.states, found.layouts, unusable)

    @property
    def plans(self) -> int:
        """How many plans were made."""
        return sum(step["do"] == PLAN for step in self.steps)


class _Found:
    """What a session is made of, message by message."""

    def __init__(self, spec: RobotSpec) -> None:
        self._spec, self._life, self._last_id = spec, 0, 0
        self.steps: list[Mapping[str, Any]] = []
        self.chunks: dict[tuple[int, int], ActionChunk] = {}
        self.maps: dict[int, ValueMap] = {}
        self.states: dict[int, RobotState] = {}
        self.layouts: dict[int, str] = {}

    def take(self, topic: str, message: Any) -> None:
        """One message. InputError when it is of no use."""
        if topic == "planning_log":
            self.steps.append(json.loads(message.data))
        elif topic == "action_chunk":
            self._chunk(message)
        elif topic == "value_map":
            self.maps[stamp_ns(message.header.stamp)] = value_map_of(message)
        elif topic == "canvas_info":
            self.layouts[stamp_ns(message.header.stamp)] = message.layout_hash
        else:
            state = state_of(self._spec, message)
            self.states[state.stamp_ns] = state

    def _chunk(self, message: Any) -> None:
        """Ids that begin again tell that the planner was started anew."""
        chunk = chunk_of(message)
        if chunk.contract_hash != self._spec.content_hash:
            raise InputError("action_chunk", "is of another robot", got=chunk.contract_hash)
        self._life += chunk.chunk_id <= self._last_id
        self._last_id = chunk.chunk_id
        self.chunks[self._life, chunk.chunk_id] = chunk


def replay(
    recording: Recording, session: Session, make_planner: Callable[[Mapping[str, Any]], Replayer]
) -> Iterator[Outcome]:
    """Take every step again; yields the outcome so far after each plan. `make_planner` opens a planner as described."""
    player = _Player(session, _Canvases(recording, session.layouts), make_planner)
    for step in session.steps:
        player.take(step)
        if step["do"] == PLAN:
            yield player.outcome


class _Canvases:
    """Recorded canvases by stamp. They are asked for in the order of time, so the file is read once."""

    def __init__(self, recording: Recording, layouts: Mapping[int, str]) -> None:
        self._messages, self._layouts = recording.messages("canvas"), layouts
        self._kept: deque[tuple[int, Any]] = deque(maxlen=CANVASES_KEPT)

    def at(self, at_ns: int, crc: int | None) -> Canvas | None:
        """The canvas of that stamp and checksum (the last of that stamp without one); None when it was not recorded."""
        while not self._kept or self._kept[-1][0] <= at_ns:
            heard = next(self._messages, None)
            if heard is None:
                break
            self._kept.append((stamp_ns(heard.message.header.stamp), heard.message))
        for kept_ns, message in reversed(self._kept):
            if kept_ns == at_ns:
                canvas = Canvas(at_ns, self._layouts.get(at_ns, ""), image_of("canvas", message), ())
                if crc is None or checksum(canvas) == crc:
                    return canvas
        return None


class _Player:
    """Takes steps. After one that cannot be taken, plans are skipped up to the next reset, which forgets everything."""

    def __init__(
        self, session: Session, canvases: _Canvases, make_planner: Callable[[Mapping[str, Any]], Replayer]
    ) -> None:
        self._session, self._canvases, self._make_planner = session, canvases, make_planner
        self._planner: Replayer | None = None
        self._opened: Mapping[str, Any] = {"mode": "async_naive", "splice": "auto", "execute_s": 0.8}
        self._life, self._last_id, self._epoch, self._broken = 0, 0, 0, "its epoch began before the recording"
        self.outcome = Outcome()

    def take(self, step: Mapping[str, Any]) -> None:
        """Take one step."""
        if step["do"] == OPEN:
            self._opened, self._planner = step, None
        elif step["do"] == RESET:
            self._reset(step["text"], step["epoch"])
        elif step["do"] == PLAN:
            self._plan(step)
        elif not self._broken and self._planner is not None:
            if step["do"] == SENTENCE:
                self._planner.set_instruction(step["text"])
            elif step["do"] == OBSERVE:
                self._observe(self._planner, step)

    def _reset(self, text: str, epoch: int) -> None:
        """The noise depends on the epoch, so a recording that began late counts up to it."""
        if self._planner is None or epoch <= self._epoch:
            self._planner, self._epoch = self._make_planner(self._opened), 0
        while self._epoch < epoch:
            self._epoch = self._planner.reset(text)
        self._broken = ""

    def _observe(self, planner: Replayer, step: Mapping[str, Any]) -> None:
        canvas, state = self._canvases.at(step["canvas"], step.get("crc")), self._session.states.get(step["state"])
        if canvas is None or state is None:
            self._broken = f"a {'canvas' if canvas is None else 'joint state'} of its epoch was not recorded"
        else:
            executed = step["executed"]
            planner.observe(canvas, state, None if executed is None else np.array(executed, dtype=np.float64))

    def _plan(self, step: Mapping[str, Any]) -> None:
        self._life += step["chunk"] <= self._last_id
        self._last_id = step["chunk"]
        recorded = self._session.chunks.get((self._life, self._last_id))
        if self._broken or self._planner is None:
            self.outcome.skip(self._broken)
            return
        plan = self._planner.plan_as(step["rung"], step["committed"], step["known"])
        if plan is None or recorded is None:
            self.outcome.skip("the plan itself was not recorded" if recorded is None else "no plan was made this time")
        else:
            recorded_map = self._session.maps.get(recorded.observation_ns)
            self.outcome.compared.append(compare(recorded, recorded_map, plan))


def compare(recorded: ActionChunk, recorded_map: ValueMap | None, again: Plan) -> Compared:
    """Differences of one plan."""
    apart = np.abs(recorded.positions_KJ - again.chunk.positions_KJ)
    step, joint = (int(i) for i in np.unravel_index(apart.argmax(), apart.shape))
    value = 0.0
    if recorded_map is not None:
        value = float(np.abs(recorded_map.values_EHW - again.value_map.values_EHW).max())
    exact = bool(np.array_equal(recorded.positions_KJ, again.chunk.positions_KJ)) and value == 0.0
    return Compared(recorded.chunk_id, recorded.epoch, recorded.observation_ns, float(apart.max()),
                    recorded.joint_names[joint], step, value, exact)


def model_and_runtime(recording: Recording, model: str | None) -> tuple[str, str]:
    """The model and the runtime that planned, as the session said."""
    statuses = [heard.message for heard in recording.messages("world_action_status")]
    made_with = next((status.runtime for status in reversed(statuses) if status.runtime), "torch")
    return model or recording.metadata.get("model") or (statuses[-1].model if statuses else "tiny"), str(made_with)


def changed_files(recording: Recording, folder: Path) -> list[str]:
    """What of the model is not what was recorded."""
    now = model_hashes(folder)
    then = {k.removeprefix("sha256."): v for k, v in recording.metadata.items() if k.startswith("sha256.")}
    return [f"{folder / name}: {'has changed' if name in now else 'is missing'} since the recording"
            for name, digest in sorted(then.items()) if now.get(name) != digest]


def summary_rows(outcome: Outcome, bound: float) -> list[Record]:
    """One row an epoch, and one for all."""
    groups: dict[str, Sequence[Compared]] = {
        str(epoch): [c for c in outcome.compared if c.epoch == epoch]
        for epoch in sorted({c.epoch for c in outcome.compared})
    }
    groups["all"] = outcome.compared
    return [
        {"epoch": name, "plans": len(part), "same bits": sum(c.exact for c in part),
         "largest": max((c.difference for c in part), default=0.0),
         "median": float(np.median([c.difference for c in part])) if part else 0.0,
         "value map": max((c.value_difference for c in part), default=0.0),
         "beyond bound": sum(not c.exact and c.difference > bound for c in part)}
        for name, part in groups.items()
    ]
