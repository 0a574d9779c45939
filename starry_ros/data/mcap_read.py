"""Import of MCAP recordings of ROS 2 topics: of this project's recorder, of rosbag2, or of `mcap_write`.

Topics are those of the robot contract, under any namespace: `<camera>/image_raw` or `.../compressed`, optional
`<camera>/camera_info` and `<camera>/depth/image_raw`, the joint states, the trajectories or set-points sent to the
arms, and the sentence from `world_action_status` or `instruction`. Frames come at the head camera's stamps. A new
session epoch starts a new episode.

Shapes: N messages of a topic, T frames, J joints.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from starry_ros.data.depth import NONE, DepthTrack, Millimetres
from starry_ros.data.mcap_tape import CLOCKS_APART_S, Tape, read_tape
from starry_ros.data.recording import Recording
from starry_ros.data.store import whole_arrays
from starry_ros.errors import DataError
from starry_ros.robot_spec import RobotSpec
from starry_ros.training.form import Arrays
from starry_ros.types import F32, F64

SKEW_S = 0.1
"""Another camera's image must be this near the head camera's, else the frame is left out; depth, else it has none."""
LONGEST_GAP_S = 1.0
"""Longer without a complete frame or a joint state, and the episode is refused; shorter gaps hold the last image."""
SHORTEST_S = 1.0


def read_mcap(path: Path, spec: RobotSpec, instruction: str = "") -> list[Recording]:
    """The episodes of one file. `instruction` is the sentence where the file names none. DataError names the file."""
    recordings = [read() for read in mcap_episodes(path, spec, instruction)]
    return [recording for recording in recordings if recording is not None]


def mcap_episodes(path: Path, spec: RobotSpec, instruction: str = "") -> list[Callable[[], Recording | None]]:
    """One function for each episode of a file, which gives it, or None where it is too short to be one.

    `instruction` is the sentence where the file names none. DataError names the file; that of a function, its episode.
    """
    tape = read_tape(path, spec)
    head = next(camera.name for camera in spec.cameras if camera.role == "head")
    for what, found in (("images of " + head, tape.images.get(head)), ("joint states", tape.joints)):
        if not found:
            raise DataError(str(path), f"holds no {what}", got=tape.faults[0][1] if tape.faults else None,
                            fix="record the topics of the robot contract")
    texts = [entry for entry in tape.texts if entry[2]]
    if not texts:
        if not instruction:
            raise DataError(str(path), "names no sentence", fix="give one with --instruction")
        texts = [(-np.inf, 0, instruction)]
    spans = list(_episodes(texts, tape.images[head][-1][0]))
    faults: dict[int, str] = {}
    for at, fault in tape.faults:
        faults.setdefault(max(0, bisect.bisect_right([begin_s for begin_s, _ in spans], at) - 1), fault)

    def read(number: int) -> Recording | None:
        where = f"{path}, episode {number}"
        if number in faults:
            raise DataError(where, faults[number])
        return _recording(where, tape, spec, head, texts, *spans[number])

    return [partial(read, number) for number in range(len(spans))]


def _episodes(texts: list[tuple[float, int, str]], last_s: float) -> Iterator[tuple[float, float]]:
    """(begin, end) of each session epoch. A change of sentence within an epoch stays in the episode, and so does what
    came before a sentence of no session: people name what they have shown also after it.
    """
    first_s = texts[0][0] if texts[0][1] else -np.inf
    begins = [first_s] + [now[0] for before, now in pairwise(texts) if now[1] != before[1]]
    yield from zip(begins, [*begins[1:], last_s + 1.0], strict=True)


def _recording(
    where: str, tape: Tape, spec: RobotSpec, head: str, texts: list[tuple[float, int, str]], begin_s: float,
    end_s: float,
) -> Recording | None:
    """One episode, or None if it is too short to be one."""
    joint_s = np.array([entry[0] for entry in tape.joints])
    frames = [(at, image) for at, image in tape.images[head]
              if begin_s <= at < end_s and joint_s[0] <= at <= joint_s[-1]]
    if len(frames) < 2 or (not tape.whole and frames[-1][0] - frames[0][0] < SHORTEST_S):
        return None
    times = _complete(where, tape, np.array([at for at, _ in frames]))
    _check_joints(where, joint_s, times)
    position, velocity = (_at(joint_s, np.array([entry[i] for entry in tape.joints]), times) for i in (1, 2))
    text_s = [entry[0] for entry in texts]
    labels = {name: np.array(rows) for name, rows in tape.labels.items() if len(rows) == len(frames)}
    return Recording(
        where=where, time_s_T=times, position_TJ=position,
        velocity_TJ=velocity if np.isfinite(velocity).all() else None,
        views={camera: _nearest(found, times) for camera, found in tape.images.items()},
        texts=[texts[max(0, bisect.bisect_right(text_s, at) - 1)][2] for at in times],
        command_TJ=_commands(where, tape, spec, times, position), calibration=tape.calibration,
        depths={camera: _depths(found, times) for camera, found in tape.depths.items()},
        known=_known(tape, labels, spec),
    )


def _at(time_s_N: F64, rows_NJ: F64, times_T: F64) -> F32:
    """Rows interpolated at other times."""
    return np.column_stack([np.interp(times_T, time_s_N, column) for column in rows_NJ.T]).astype(np.float32)


def _complete(where: str, tape: Tape, times_T: F64) -> F64:
    """The times at which every camera has an image near enough. DataError where too long a gap is left."""
    skews = {camera: np.abs(_near(found, times_T)[1]) for camera, found in tape.images.items()}
    kept: F64 = times_T[np.max(list(skews.values()), axis=0) <= SKEW_S]
    gaps = np.diff(np.concatenate([times_T[:1], kept, times_T[-1:]]))
    if len(kept) < 2 or gaps.max() > LONGEST_GAP_S:
        worst = max(skews, key=lambda camera: float(skews[camera].max()))
        raise DataError(where, f"lost images, most of all camera {worst}", got=f"a gap of {gaps.max():.2f} s",
                        expected=f"<= {LONGEST_GAP_S} s", fix="record again with a faster disk or fewer topics")
    return kept


def _check_joints(where: str, joint_s_N: F64, times_T: F64) -> None:
    """DataError where the joints were silent too long within these times: nobody knows what they did."""
    gaps = np.diff(np.clip(joint_s_N, times_T[0], times_T[-1]))
    if gaps.max() > LONGEST_GAP_S:
        begin_s = joint_s_N[int(gaps.argmax())] - times_T[0]
        raise DataError(where, "lost joint states", got=f"a gap of {gaps.max():.2f} s, {max(begin_s, 0.0):.2f} s in",
                        expected=f"<= {LONGEST_GAP_S} s", fix="record again with a faster disk or fewer topics")


def _near(found: list[tuple[float, Any]], times_T: F64) -> tuple[Any, F64]:
    """For each time the index of the image that is nearest to it, and how far off that is."""
    stamps = np.array([at for at, _ in found])
    after = np.clip(np.searchsorted(stamps, times_T), 0, len(stamps) - 1)
    before = np.maximum(after - 1, 0)
    nearest = np.where(np.abs(stamps[before] - times_T) <= np.abs(stamps[after] - times_T), before, after)
    return nearest, stamps[nearest] - times_T


def _nearest(found: list[tuple[float, Any]], times_T: F64) -> Any:
    """For each time the image that is nearest to it."""
    return np.stack([found[int(i)][1] for i in _near(found, times_T)[0]])


def _depths(found: list[tuple[float, Millimetres]], times_T: F64) -> DepthTrack:
    """For each time the depth image that is nearest to it, and near enough."""
    nearest, apart_s = _near(found, times_T)
    return DepthTrack([image for _, image in found], np.where(np.abs(apart_s) <= SKEW_S, nearest, NONE))


def _commands(where: str, tape: Tape, spec: RobotSpec, times_T: F64, position_TJ: F32) -> F32 | None:
    """The trajectory in force at each time, evaluated there; None if no arm was sent any. A silent arm stays put.

    DataError where an arm's commands all begin after the joint states have ended: they are of another clock.
    """
    if not tape.commands:
        return None
    command, last_s = position_TJ.copy(), tape.joints[-1][0]
    for arm, sent in tape.commands.items():
        begins, part = [entry[0] for entry in sent], spec.arm_slice(arm)
        if begins[0] > last_s + CLOCKS_APART_S:
            raise DataError(where, f"the commands of the {arm} arm begin after the joint states have ended",
                            got=f"{begins[0]:.2f} s", expected=f"<= {last_s:.2f} s", fix="let one clock stamp both")
        for row, at in zip(command, times_T, strict=True):
            index = bisect.bisect_right(begins, at) - 1
            if index >= 0:
                begin, offsets, points = sent[index]
                row[part] = [np.interp(at - begin, offsets, column) for column in points.T]
    return command


def _known(tape: Tape, labels: dict[str, F64], spec: RobotSpec) -> Arrays:
    """Arrays that `mcap_write` stored, if it wrote them for this robot."""
    if tape.whole.get("contract_hash") != spec.content_hash:
        return {}
    forms = tape.whole["labels"]
    found: Arrays = {
        name: labels[name].reshape(-1, *shape).astype(dtype) for name, (dtype, shape) in forms.items() if name in labels
    }
    return {**found, **whole_arrays(tape.whole["episode"], tape.whole.get("types", {}))}
