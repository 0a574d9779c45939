"""Episodes on disk: what every other file of this room reads and writes.

A data folder holds `episodes/000000.npz`, one an episode, and `meta.json`. Arrays whose name ends in `_T...` have one
row a frame, at 10 Hz; the rest belong to the episode.

| array | what |
|---|---|
| canvas_THWC | uint8 RGB canvas |
| position_TJ, velocity_TJ | measured joints in contract order; rad, rad/s, grippers m, m/s |
| command_TJ | position targets in force |
| plan_TKJ | the label of the actions: positions one step ahead, two steps ahead, ... |
| events_TEVF | next two contacts: u_px, v_px, sigma_px, in_frame, visible on the canvas, for each view |
| stage_T | index into `STAGES` |
| progress_T | 0 at the start of the task to 1 at its end |
| empty_closed_T | a jaw is closed on nothing |
| text_T, texts | the sentence in force, as an index into `texts` |
| time_s_T | seconds since the start |
| calibration_VF | of recordings with `camera_info`: each camera's size and intrinsics, as in `calibration` |
| labelled_with_depth | of recordings with depth: the contacts cannot be labelled again without it |
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starry_ros.errors import DataError
from starry_ros.files import write_text
from starry_ros.robot_spec import RobotSpec
from starry_ros.training.summary import summary
from starry_ros.types import Record

Arrays = dict[str, NDArray[Any]]
Forms = dict[str, tuple[str, tuple[int, ...]]]
"""Type, and shape of one frame, of arrays by name."""
TYPES = {
    "canvas_THWC": np.uint8, "position_TJ": np.float32, "velocity_TJ": np.float32, "command_TJ": np.float32,
    "plan_TKJ": np.float32, "events_TEVF": np.float32, "stage_T": np.int8, "progress_T": np.float32,
    "empty_closed_T": np.bool_, "text_T": np.int32, "time_s_T": np.float32,
}
NEEDED = tuple(name for name in TYPES if name not in ("progress_T", "velocity_TJ"))


def episode_files(folder: Path) -> list[Path]:
    """The episodes of a data folder in order; DataError if there are none."""
    files = sorted((folder / "episodes").glob("*.npz"))
    if not files:
        raise DataError(str(folder), "holds no episodes", fix="run `starry data generate` or `starry data import`")
    return files


def read_episode(path: Path) -> Arrays:
    """All arrays of an episode. DataError names the file, and what is wrong with it."""
    arrays = _loaded(path)
    problem = problem_of(arrays)
    if problem:
        raise DataError(str(path), problem, fix="make it again, or use --skip-bad")
    return arrays


def frame_forms(path: Path) -> Forms:
    """Forms of an episode's arrays with one row a frame, but of the canvas: that would take long to read."""
    arrays = _loaded(path, without="canvas_THWC")
    return {name: (str(arrays[name].dtype), arrays[name].shape[1:]) for name in frame_names(arrays)}


def _loaded(path: Path, without: str = "") -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files if name != without}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(str(path), f"cannot be read: {error}", fix="make it again, or use --skip-bad") from error


def problem_of(arrays: Arrays) -> str:
    """What is wrong with an episode's arrays, or an empty string."""
    missing = sorted(set(NEEDED) - set(arrays))
    if missing or "texts" not in arrays:
        return f"lacks {missing or ['texts']}"
    lengths = {len(arrays[name]) for name in frame_names(arrays)}
    if len(lengths) != 1 or lengths == {0}:
        return f"has arrays of different length, or none: {sorted(lengths)}"
    for name in ("position_TJ", "command_TJ", "plan_TKJ", "events_TEVF", "time_s_T"):
        bad = np.flatnonzero(~np.isfinite(arrays[name].astype(np.float64)).reshape(len(arrays[name]), -1).all(axis=1))
        if len(bad):
            return f"has non-finite values in {name}, first in frame {bad[0]}"
    backward = np.flatnonzero(np.diff(arrays["time_s_T"].astype(np.float64)) <= 0)
    if len(backward):
        return f"has times that do not increase, first after frame {backward[0]}"
    index = arrays["text_T"].astype(int)
    return "" if index.min() >= 0 and index.max() < len(arrays["texts"]) else "has a sentence index out of range"


def frame_names(arrays: Arrays) -> list[str]:
    """Names of the arrays with one row a frame."""
    return [name for name in arrays if name.rpartition("_")[2].startswith("T") and "_" in name]


def take_frames(arrays: Arrays, rows: slice | NDArray[np.int64]) -> Arrays:
    """The same episode with some of its frames, and the sentences that are in force in them, in order."""
    names = set(frame_names(arrays))
    taken = {name: array[rows] if name in names else array for name, array in arrays.items()}
    used = list(dict.fromkeys(taken["text_T"].tolist()))
    text = np.array([used.index(i) for i in taken["text_T"].tolist()], arrays["text_T"].dtype)
    return {**taken, "text_T": text, "texts": arrays["texts"][used]}


def write_episode(path: Path, arrays: Arrays) -> None:
    """Write an episode in one move, so that an interrupted run leaves no half file."""
    problem = problem_of(arrays)
    if problem:
        raise DataError(str(path), f"is not written: {problem}")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.partial")
    typed = {name: array.astype(TYPES.get(name, array.dtype)) for name, array in arrays.items()}
    with part.open("wb") as file:
        np.savez(file, **typed)  # type: ignore[arg-type]
    part.rename(path)


def episode_path(folder: Path, index: int) -> Path:
    """Where episode `index` of a data folder lies."""
    return folder / "episodes" / f"{index:06d}.npz"


def sentences(arrays: Arrays) -> list[str]:
    """The sentence of every frame."""
    texts = [str(text) for text in arrays["texts"]]
    return [texts[int(i)] for i in arrays["text_T"]]


def write_meta(folder: Path, spec: RobotSpec, **more: object) -> Record:
    """Count and hash what the folder holds; write and return its meta.json."""
    meta = {"tasks": [], "setting": "", **more, **summary(episode_files(folder), spec)}
    write_text(folder / "meta.json", json.dumps(meta, indent=1) + "\n")
    return meta


def sound_episodes(folder: Path, skip_bad: bool, bad: list[str]) -> Iterator[tuple[Path, Arrays]]:
    """Every episode of a folder. A bad one raises DataError, or is noted in `bad` and left out."""
    for path in episode_files(folder):
        try:
            arrays = read_episode(path)
        except DataError as error:
            if not skip_bad:
                raise
            bad.append(str(error))
            continue
        yield path, arrays
