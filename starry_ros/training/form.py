"""The form of an episode's arrays, and what is wrong with those of another. `data/store.py` says what they are.

Shapes: T frames, J joints in contract order, K plan steps, E = 2 events, V views, F = 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starry_ros.sim.choices import STAGES
from starry_ros.types import F32

Arrays = dict[str, NDArray[Any]]
Form = tuple[int | None, ...]
TYPES = {
    "canvas_THWC": np.uint8, "position_TJ": np.float32, "velocity_TJ": np.float32, "command_TJ": np.float32,
    "plan_TKJ": np.float32, "events_TEVF": np.float32, "stage_T": np.int8, "progress_T": np.float32,
    "empty_closed_T": np.bool_, "text_T": np.int32, "time_s_T": np.float32,
}
NEEDED = (*(name for name in TYPES if name not in ("progress_T", "velocity_TJ")), "texts")
FORMS: Mapping[str, Form] = {
    "canvas_THWC": (None, None, 3), "position_TJ": (None,), "velocity_TJ": (None,), "command_TJ": (None,),
    "plan_TKJ": (None, None), "events_TEVF": (2, None, 5),
}
"""Shape of one frame, None where any size will do; of other arrays a frame holds one value."""
OF_JOINTS = ("position_TJ", "velocity_TJ", "command_TJ", "plan_TKJ")


def frame_names(arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    """Names of the arrays with one row a frame."""
    return [name for name in arrays if name.rpartition("_")[2].startswith("T") and "_" in name]


def problem_of(arrays: Mapping[str, NDArray[Any]], needed: Sequence[str] = NEEDED) -> str:
    """What is wrong with an episode's arrays, or an empty string. `needed` have to be there; all that are, are judged.

    It says nothing of the robot that they belong to.
    """
    if missing := sorted(set(needed) - set(arrays)):
        return f"lacks {missing}"
    lengths = {arrays[name].shape[:1] for name in frame_names(arrays)}
    if len(lengths) != 1 or lengths & {(), (0,)}:
        return f"has arrays of different length, or none: {sorted(size for shape in lengths for size in shape)}"
    return _shapes(arrays) or _not_finite(arrays) or _out_of_range(arrays)


def unlike(arrays: Mapping[str, NDArray[Any]], first: Mapping[str, NDArray[Any]]) -> str:
    """In which array of TYPES an episode has another form than the first of its folder, or an empty string."""
    for name in TYPES:
        if name in arrays and name in first and arrays[name].shape[1:] != first[name].shape[1:]:
            got, wanted = (["T", *some[name].shape[1:]] for some in (arrays, first))
            return f"has {name} {_listed(got)}, the folder's first episode {_listed(wanted)}"
    return ""


def progress_of(stage_T: NDArray[np.int8]) -> F32:
    """Progress [T] from stages alone: their runs share the way evenly, `done` is 1."""
    done = STAGES.index("done")
    starts = [0, *(np.flatnonzero(np.diff(stage_T)) + 1).tolist(), len(stage_T)]
    runs = [(a, b) for a, b in pairwise(starts) if stage_T[a] != done]
    progress = np.ones(len(stage_T), dtype=np.float32)
    for number, (begin, end) in enumerate(runs):
        progress[begin:end] = (number + np.arange(end - begin) / (end - begin)) / len(runs)
    return progress


def _listed(sizes: Sequence[object]) -> str:
    return f"[{', '.join(map(str, sizes))}]"


def _shapes(arrays: Mapping[str, NDArray[Any]]) -> str:
    """What is wrong with types and shapes."""
    for name in TYPES:
        if name not in arrays:
            continue
        array, form = arrays[name], FORMS.get(name, ())
        if array.dtype.kind not in "biuf" or (name == "canvas_THWC" and array.dtype != np.uint8):
            return f"has {name} of type {array.dtype}, expected {np.dtype(TYPES[name])}"
        sizes = array.shape[1:]
        fits = len(sizes) == len(form) and 0 not in sizes
        if not fits or any(wanted not in (None, size) for size, wanted in zip(sizes, form, strict=True)):
            wanted = _listed(["T", *("any" if size is None else size for size in form)])
            return f"has {name} of shape {_listed(array.shape)}, expected {wanted}"
    joints = {name: arrays[name].shape[-1] for name in OF_JOINTS if name in arrays}
    if len(set(joints.values())) > 1:
        return f"has unlike numbers of joints: {', '.join(f'{name} {count}' for name, count in joints.items())}"
    return "has texts that are not a list" if "texts" in arrays and arrays["texts"].ndim != 1 else ""


def _not_finite(arrays: Mapping[str, NDArray[Any]]) -> str:
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            if name not in frame_names(arrays):
                return f"has non-finite values in {name}"
            bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
            return f"has non-finite values in {name}, first in frame {int(bad.argmax())}"
    return ""


def _out_of_range(arrays: Mapping[str, NDArray[Any]]) -> str:
    if "time_s_T" in arrays:
        backward = np.flatnonzero(np.diff(arrays["time_s_T"].astype(np.float64)) <= 0)
        if len(backward):
            return f"has times that do not increase, first after frame {backward[0]}"
    for name, what, count in (
        ("stage_T", "a stage", len(STAGES)), ("text_T", "a sentence index", len(arrays.get("texts", ()))),
    ):
        if name in arrays:
            bad = np.flatnonzero((arrays[name] < 0) | (arrays[name] >= count))
            if len(bad):
                found = arrays[name][bad[0]]
                return f"has {what} out of range in frame {bad[0]}: {found}, expected 0 to {count - 1}"
    return ""
