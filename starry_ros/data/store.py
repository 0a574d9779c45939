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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starry_ros.errors import DataError
from starry_ros.files import write_text
from starry_ros.robot_spec import RobotSpec
from starry_ros.training.form import TYPES, Arrays, frame_names, problem_of
from starry_ros.training.summary import summary
from starry_ros.types import Record

Forms = dict[str, tuple[str, tuple[int, ...]]]
"""Type, and shape of one frame, of arrays by name."""


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


def read_without_canvas(path: Path) -> Arrays:
    """An episode's other arrays: quickly, and without judging them. DataError if the file cannot be read."""
    return _loaded(path, without="canvas_THWC")


def frame_forms(path: Path) -> Forms:
    """Forms of an episode's arrays with one row a frame, but of the canvas: that would take long to read."""
    arrays = read_without_canvas(path)
    return {name: (str(arrays[name].dtype), arrays[name].shape[1:]) for name in frame_names(arrays)}


def _loaded(path: Path, without: str = "") -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files if name != without}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(str(path), f"cannot be read: {error}", fix="make it again, or use --skip-bad") from error


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


def whole_values(arrays: Arrays) -> tuple[Record, dict[str, str]]:
    """What belongs to the whole episode, but its sentences: values for JSON, and their types, by name."""
    names = set(arrays) - {*frame_names(arrays), "texts"}
    whole = {name: array for name, array in arrays.items() if name in names}
    return {name: array.tolist() for name, array in whole.items()}, {name: str(a.dtype) for name, a in whole.items()}


def whole_arrays(values: Mapping[str, Any], types: Mapping[str, str]) -> Arrays:
    """Inverse of `whole_values`. What has no type, as in files of earlier versions, gets that of its values."""
    return {name: np.array(value, types.get(name)) for name, value in values.items()}


def write_meta(folder: Path, spec: RobotSpec, **more: object) -> Record:
    """Count and hash what the folder holds; write and return its meta.json."""
    meta = {"tasks": [], "setting": "", **more, **summary(episode_files(folder), spec)}
    write_text(folder / "meta.json", json.dumps(meta, indent=1) + "\n")
    return meta
