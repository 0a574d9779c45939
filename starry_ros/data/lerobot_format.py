"""Names and small tables of LeRobotDataset v3, shared by its reader and its writer.

| array of `store` | feature |
|---|---|
| canvas_THWC | observation.images.<camera>, one video a camera, as it lies on the canvas |
| position_TJ, velocity_TJ, command_TJ | observation.state, observation.velocity, observation.command |
| command_TJ one frame on | action: where the joints are sent next |
| everything else | starry.<array>, flattened; `meta/starry.json` holds the shapes |

The four features of joints hold the driver's values: those of a joint of `sign: -1` are turned round.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starry_ros.data import INSTALL
from starry_ros.errors import DataError, RuntimeUnavailable
from starry_ros.types import Record

VERSION = "v3.0"
IMAGES = "observation.images."
STATE, VELOCITY, COMMAND, ACTION = "observation.state", "observation.velocity", "observation.command", "action"
FEATURE_OF = {"position_TJ": STATE, "velocity_TJ": VELOCITY, "command_TJ": COMMAND}
DRIVER_SIGN = "driver_sign"
"""Marks in OWN_FILE that the features of joints hold the driver's values; without it they are the contract's."""
OWN = "starry."
EPISODE_VALUES, EPISODE_TYPES = "starry/episode", "starry/types"
"""Columns of the episode table: what belongs to a whole episode as JSON, and the types of that."""
OWN_FILE, INFO_FILE, STATS_FILE = "meta/starry.json", "meta/info.json", "meta/stats.json"
TASKS_FILE = "meta/tasks.parquet"
TASK_COLUMNS = ("__index_level_0__", "task")
EPISODES_DIR = "meta/episodes"
FILE_OF = "chunk-{chunk_index:03d}/file-{file_index:03d}"
DATA_PATH = f"data/{FILE_OF}.parquet"
VIDEO_PATH = f"videos/{{video_key}}/{FILE_OF}.mp4"
FILES_A_CHUNK = 1000
DEFAULT_FEATURES: Record = {
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    "frame_index": {"dtype": "int64", "shape": [1], "names": None},
    "episode_index": {"dtype": "int64", "shape": [1], "names": None},
    "index": {"dtype": "int64", "shape": [1], "names": None},
    "task_index": {"dtype": "int64", "shape": [1], "names": None},
}
Stats = dict[str, NDArray[np.float64]]


def arrow() -> Any:
    """The pyarrow package with its parquet part; RuntimeUnavailable if it is missing."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise RuntimeUnavailable("LeRobot data", "pyarrow is missing", fix=INSTALL) from error
    return pyarrow


def read_json(path: Path) -> Record:
    """A JSON file of the data set; DataError names it."""
    try:
        found: Record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(str(path), f"cannot be read: {error}", fix="name a LeRobot data set") from error
    return found


def stats_of(array_TX: NDArray[Any]) -> Stats:
    """Least, greatest, mean and deviation over frames, and their number."""
    rows = array_TX.reshape(len(array_TX), -1).astype(np.float64)
    count = np.array([len(rows)])
    return {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0), "count": count}


def image_stats(view_THWC: NDArray[Any]) -> Stats:
    """The same for images of [0, 1], by channel [3, 1, 1], over every few frames."""
    some = view_THWC[:: max(1, len(view_THWC) // 20)].astype(np.float64) / 255.0
    parts = {name: value.reshape(-1, 1, 1) for name, value in stats_of(some.reshape(-1, 3)).items()}
    return {**parts, "count": np.array([len(some)])}


def joined_stats(parts: list[Stats]) -> Stats:
    """Statistics of all parts together (Chan's formula for the deviation)."""
    counts = [float(part["count"][0]) for part in parts]
    total = sum(counts)
    mean = sum(part["mean"] * n for part, n in zip(parts, counts, strict=True)) / total
    square = sum((part["std"] ** 2 + (part["mean"] - mean) ** 2) * n for part, n in zip(parts, counts, strict=True))
    return {
        "min": np.min([part["min"] for part in parts], axis=0), "max": np.max([part["max"] for part in parts], axis=0),
        "mean": mean, "std": np.sqrt(square / total), "count": np.array([int(total)]),
    }
