"""Plans again, offline, from what a session observed, and says where and by how much the plans differ.

A chunk names its observation by stamp, so every plan of the recording is made again from the canvas of that stamp and
the joint state nearest to it, with the same memory, sentence, epoch and noise. On the runtime that made them the plans
come out bit for bit; on another runtime within its parity bound; with other weights they do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from starry_ros.errors import DataError
from starry_ros.recording.reader import Recording, chunk_of, image_of, stamp_ns, state_of, value_map_of
from starry_ros.recording.session_file import model_hashes
from starry_ros.robot_spec import RobotSpec
from starry_ros.types import ActionChunk, Canvas, Plan, Record, RobotState, ValueMap

PARITY_RAD = 2e-3
"""What another runtime may differ, in rad (grippers m): the runtimes' bound of 1e-3 standard deviations, rounded up."""


class Planner(Protocol):
    """What `wam.session.Session` offers."""

    def reset(self, instruction: str) -> int: ...
    def set_instruction(self, text: str) -> int: ...
    def observe(self, canvas: Canvas, state: RobotState) -> None: ...
    def plan(self) -> Plan: ...


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
    """What a recording says about its plans, without the images."""

    chunks: tuple[ActionChunk, ...]
    maps: dict[int, ValueMap]
    sentences: dict[tuple[int, int], str]
    states: tuple[RobotState, ...]
    layouts: dict[int, str]
    lives: tuple[int, ...]
    """For each chunk, which life of the planning process it belongs to."""

    @staticmethod
    def read(recording: Recording, spec: RobotSpec) -> Session:
        """Collect everything but images. DataError when there is no plan in the recording."""
        chunks, maps, sentences, states, layouts, lives = [], {}, {}, [], {}, []
        life = 0
        for heard in recording.messages("action_chunk", "value_map", "world_action_status", spec.joint_state_topic,
                                        "canvas_info"):
            message = heard.message
            if heard.topic == "action_chunk":
                life += lives[-1:] == [life] and message.chunk_id <= chunks[-1].chunk_id
                chunks.append(chunk_of(message))
                lives.append(life)
            elif heard.topic == "value_map":
                maps[stamp_ns(message.header.stamp)] = value_map_of(message)
            elif heard.topic == "world_action_status":
                life += lives[-1:] == [life] and message.plans == 0
                sentences[life, message.instruction_id] = message.instruction
            elif heard.topic == "canvas_info":
                layouts[stamp_ns(message.header.stamp)] = message.layout_hash
            else:
                states.append(state_of(spec, message))
        if not chunks:
            raise DataError(str(recording.path), "holds no plan", fix="record a session in which the model plans")
        return Session(tuple(chunks), maps, sentences, tuple(states), layouts, tuple(lives))

    def nearest_state(self, at_ns: int) -> RobotState | None:
        """The joint state measured nearest to an image."""
        return min(self.states, key=lambda state: abs(state.stamp_ns - at_ns), default=None)


def replay(recording: Recording, session: Session, make_planner: Any) -> Iterator[tuple[Outcome, Compared | None]]:
    """Plan again, in order; yields the outcome so far after every chunk. `make_planner()` opens a fresh session."""
    outcome = Outcome()
    due = {chunk.observation_ns: index for index, chunk in enumerate(session.chunks)}
    player = _Player(session, make_planner)
    for heard in recording.messages("canvas"):
        index = due.pop(stamp_ns(heard.message.header.stamp), None)
        if index is not None:
            canvas = Canvas(session.chunks[index].observation_ns, session.layouts.get(
                session.chunks[index].observation_ns, ""), image_of("canvas", heard.message), ())
            yield outcome, player.play(index, canvas, outcome)
    for _ in due:
        outcome.skip("its canvas was not recorded")
    yield outcome, None


class _Player:
    """Brings a planner to the state that it had before each chunk."""

    def __init__(self, session: Session, make_planner: Any) -> None:
        self._session, self._make_planner = session, make_planner
        self._planner: Planner | None = None
        self._life, self._epoch, self._instruction, self._last_index = -1, 0, 0, -1
        self._whole = False

    def play(self, index: int, canvas: Canvas, outcome: Outcome) -> Compared | None:
        chunk, life = self._session.chunks[index], self._session.lives[index]
        text = self._session.sentences.get((life, chunk.instruction_id))
        state = self._session.nearest_state(canvas.stamp_ns)
        if text is None or state is None:
            outcome.skip("its sentence was not recorded" if text is None else "no joint state was recorded")
            self._whole, self._last_index = False, index
            return None
        if life != self._life:
            self._planner, self._life, self._epoch = self._make_planner(), life, 0
        self._follow(chunk, text, index)
        if not self._whole or self._planner is None:
            outcome.skip("an earlier plan of its epoch was not recorded")
            return None
        self._planner.observe(canvas, state)
        compared = compare(chunk, self._session.maps.get(chunk.observation_ns), self._planner.plan())
        outcome.compared.append(compared)
        return compared

    def _follow(self, chunk: ActionChunk, text: str, index: int) -> None:
        """Epoch and sentence of this chunk; an epoch whose beginning is missing cannot be played."""
        assert self._planner is not None
        first = index == 0 or self._session.lives[index - 1] != self._life
        expected = 1 if first else self._session.chunks[index - 1].chunk_id + 1
        contiguous = chunk.chunk_id == expected and (first or self._last_index == index - 1)
        if chunk.epoch != self._epoch:
            while self._epoch < chunk.epoch:
                self._epoch = self._planner.reset(text)
            self._whole = contiguous
        elif chunk.instruction_id != self._instruction:
            self._planner.set_instruction(text)
        self._whole = self._whole and contiguous
        self._instruction, self._last_index = chunk.instruction_id, index


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
