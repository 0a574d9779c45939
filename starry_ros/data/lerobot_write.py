"""Export to LeRobotDataset v3. What is written opens in `lerobot` and loses nothing: images are coded without loss.

Episodes go into files in groups. A group's episode table is written last, in one move: an interrupted export goes on
with the first group that has none.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starry_ros.canvas.layout import CanvasLayout, t_pose_layout
from starry_ros.data.journal import claim_folder
from starry_ros.data.lerobot_format import (
    ACTION,
    COMMAND,
    DATA_PATH,
    DEFAULT_FEATURES,
    DRIVER_SIGN,
    EPISODE_TYPES,
    EPISODE_VALUES,
    EPISODES_DIR,
    FEATURE_OF,
    FILE_OF,
    FILES_A_CHUNK,
    IMAGES,
    INFO_FILE,
    OWN,
    OWN_FILE,
    STATE,
    STATS_FILE,
    TASKS_FILE,
    VELOCITY,
    VERSION,
    VIDEO_PATH,
    Stats,
    arrow,
    image_stats,
    joined_stats,
    stats_of,
)
from starry_ros.data.recording import views_of
from starry_ros.data.store import sentences, whole_values
from starry_ros.data.video import CODEC, PIXEL_FORMAT, VideoWriter
from starry_ros.files import write_text
from starry_ros.robot_spec import RobotSpec
from starry_ros.training.form import Arrays, frame_names
from starry_ros.types import Record

GROUP = 20
"""Episodes a file."""


@dataclass
class _State:
    """What the groups so far add up to."""

    frames: int = 0
    episodes: int = 0
    tasks: list[str] = field(default_factory=list)
    stats: dict[str, list[Stats]] = field(default_factory=dict)


def export_lerobot(
    episodes: Sequence[Callable[[], Arrays]], out: Path, spec: RobotSpec, source: str,
    progress: Callable[[int, int, float], None] = lambda count, total, elapsed_s: None,
) -> int:
    """Write all episodes under `out`, each read only when its turn comes; returns the number of frames.

    `source` tells these episodes from others. `progress` hears how many are written, of how many, after how many
    seconds. DataError if `out` is another data set.
    """
    begin_s, layout = time.monotonic(), t_pose_layout(spec)
    state, first = _State(), episodes[0]()
    shapes = {name: first[name] for name in frame_names(first) if name not in ("canvas_THWC", "text_T")}
    own = {**_own(shapes, spec, layout, len(episodes)), "source": source}
    claim_folder(out, OWN_FILE, own, foreign=(out / INFO_FILE).exists())
    for group in range(-(-len(episodes) // GROUP)):
        members = range(group * GROUP, min(len(episodes), (group + 1) * GROUP))
        place = {"chunk_index": group // FILES_A_CHUNK, "file_index": group % FILES_A_CHUNK}
        table = out / EPISODES_DIR / (FILE_OF.format(**place) + ".parquet")
        if table.exists():
            _recall(state, table)
        else:
            _write_group(out, place, [(i, episodes[i]) for i in members], spec, layout, state, table)
        progress(members.stop, len(episodes), time.monotonic() - begin_s)
    _write_meta(out, spec, layout, shapes, state)
    return state.frames


def _own(shapes: Arrays, spec: RobotSpec, layout: CanvasLayout, episodes: int) -> Record:
    """What LeRobot's own files have no place for."""
    arrays = {name: {"dtype": str(array.dtype), "shape": list(array.shape[1:])} for name, array in shapes.items()}
    return {
        "contract_hash": spec.content_hash, "layout_hash": layout.layout_hash, "robot": spec.name, "arrays": arrays,
        "episodes": episodes, DRIVER_SIGN: True,
    }


def _write_group(
    out: Path, place: Record, members: list[tuple[int, Callable[[], Arrays]]], spec: RobotSpec, layout: CanvasLayout,
    state: _State, table: Path,
) -> None:
    """Videos and frames of a few episodes, then their table."""
    pa, hz = arrow(), 1 / spec.action.step_s
    writers = {
        tile.camera: VideoWriter(out / VIDEO_PATH.format(video_key=IMAGES + tile.camera, **place), hz,
                                 tile.content.height_px, tile.content.width_px)
        for tile in layout.tiles
    }
    rows, columns = [], []
    try:
        for index, read in members:
            arrays = read()
            begin_s = next(iter(writers.values())).frames / hz
            views = views_of(arrays["canvas_THWC"].astype(np.uint8), layout)
            for camera, writer in writers.items():
                writer.add(views[camera])
            columns.append(_columns(arrays, index, spec, state))
            rows.append(_episode_row(arrays, index, place, begin_s, hz, views, columns[-1], state))
    finally:
        for writer in writers.values():
            writer.close()
    data = out / DATA_PATH.format(**place)
    data.parent.mkdir(parents=True, exist_ok=True)
    pa.parquet.write_table(pa.concat_tables(_table(part) for part in columns), data, compression="zstd")
    table.parent.mkdir(parents=True, exist_ok=True)
    part = table.with_name(f".{table.name}")
    pa.parquet.write_table(pa.Table.from_pylist(rows), part)
    part.rename(table)


def _columns(arrays: Arrays, index: int, spec: RobotSpec, state: _State) -> dict[str, NDArray[Any]]:
    """Every feature of an episode but its images, one row a frame."""
    texts = sentences(arrays)
    state.tasks += [text for text in dict.fromkeys(texts) if text not in state.tasks]
    frames = np.arange(len(texts))
    columns = {
        FEATURE_OF.get(name, OWN + name): _storable(arrays[name])
        for name in frame_names(arrays) if name not in ("canvas_THWC", "text_T")
    }
    sign_J, hz = spec.limit("sign").astype(np.float32), 1 / spec.action.step_s
    columns |= {feature: sign_J * columns[feature] for feature in FEATURE_OF.values() if feature in columns}
    command = columns[COMMAND].astype(np.float32)
    return {
        **columns, ACTION: np.concatenate([command[1:], command[-1:]]), "timestamp": (frames / hz).astype(np.float32),
        "frame_index": frames, "episode_index": np.full(len(frames), index), "index": state.frames + frames,
        "task_index": np.array([state.tasks.index(text) for text in texts]),
    }


def _storable(array: NDArray[Any]) -> NDArray[Any]:
    """Integers as int64, as LeRobot likes them; more than one value a frame as a flat row."""
    if array.dtype.kind in "iu":
        array = array.astype(np.int64)
    return array.reshape(len(array), -1) if array.ndim > 1 else array


def _table(columns: dict[str, NDArray[Any]]) -> Any:
    pa = arrow()
    fields = {}
    for name, array in columns.items():
        flat = pa.array(array.ravel())
        fields[name] = flat if array.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, array.shape[1])
    return pa.table(fields)


def _episode_row(
    arrays: Arrays, index: int, place: Record, begin_s: float, hz: float, views: dict[str, Any],
    columns: dict[str, NDArray[Any]], state: _State,
) -> Record:
    """One line of the episode table; `state` moves on."""
    frames = len(columns["index"])
    values, types = whole_values(arrays)
    row: Record = {
        "episode_index": index, "tasks": list(dict.fromkeys(sentences(arrays))), "length": frames,
        **{f"data/{name}": value for name, value in place.items()},
        "dataset_from_index": state.frames, "dataset_to_index": state.frames + frames,
        **{f"meta/episodes/{name}": value for name, value in place.items()},
        EPISODE_VALUES: json.dumps(values), EPISODE_TYPES: json.dumps(types),
    }
    for camera in views:
        key = f"videos/{IMAGES}{camera}"
        row |= {f"{key}/{name}": value for name, value in place.items()}
        row |= {f"{key}/from_timestamp": begin_s, f"{key}/to_timestamp": begin_s + frames / hz}
    stats = {name: stats_of(array) for name, array in columns.items()}
    stats |= {IMAGES + camera: image_stats(view) for camera, view in views.items()}
    for name, parts in stats.items():
        row |= {f"stats/{name}/{key}": value.tolist() for key, value in parts.items()}
        state.stats.setdefault(name, []).append(parts)
    state.frames += frames
    state.episodes += 1
    return row


def _recall(state: _State, table: Path) -> None:
    """Bring `state` to where it was after a group that is already written."""
    for row in arrow().parquet.read_table(table).to_pylist():
        state.frames, state.episodes = row["dataset_to_index"], state.episodes + 1
        state.tasks += [text for text in row["tasks"] if text not in state.tasks]
        for key in row:
            if key.startswith("stats/") and key.endswith("/mean"):
                name = key.removeprefix("stats/").removesuffix("/mean")
                parts = {part: np.array(row[f"stats/{name}/{part}"]) for part in ("min", "max", "mean", "std", "count")}
                state.stats.setdefault(name, []).append(parts)


def _write_meta(out: Path, spec: RobotSpec, layout: CanvasLayout, shapes: Arrays, state: _State) -> None:
    """tasks.parquet, stats.json and, last, info.json."""
    pa = arrow()
    tasks = pa.table({"task_index": np.arange(len(state.tasks)), "__index_level_0__": state.tasks})
    pa.parquet.write_table(tasks.replace_schema_metadata({"pandas": json.dumps(_PANDAS)}), out / TASKS_FILE)
    joined = {name: joined_stats(parts) for name, parts in state.stats.items()}
    plain = {name: {key: value.tolist() for key, value in parts.items()} for name, parts in joined.items()}
    write_text(out / STATS_FILE, json.dumps(plain, indent=1) + "\n")
    hz = 1 / spec.action.step_s
    info = {
        "codebase_version": VERSION, "robot_type": spec.name, "total_episodes": state.episodes,
        "total_frames": state.frames, "total_tasks": len(state.tasks), "chunks_size": FILES_A_CHUNK,
        "data_files_size_in_mb": 100, "video_files_size_in_mb": 200, "fps": round(hz) if hz == round(hz) else hz,
        "splits": {"train": f"0:{state.episodes}"}, "data_path": DATA_PATH, "video_path": VIDEO_PATH,
        "features": dict(_features(spec, layout, shapes, hz)),
    }
    write_text(out / INFO_FILE, json.dumps(info, indent=1) + "\n")


def _features(spec: RobotSpec, layout: CanvasLayout, shapes: Arrays, hz: float) -> Iterator[tuple[str, Record]]:
    joints = list(spec.joint_names)
    for tile in layout.tiles:
        height, width = tile.content.height_px, tile.content.width_px
        details = {
            "video.height": height, "video.width": width, "video.codec": CODEC, "video.pix_fmt": PIXEL_FORMAT,
            "video.is_depth_map": False, "video.fps": hz, "video.channels": 3, "has_audio": False,
        }
        names = ["height", "width", "channels"]
        yield IMAGES + tile.camera, {"dtype": "video", "shape": [height, width, 3], "names": names, "info": details}
    for name, array in shapes.items():
        stored = _storable(array)
        feature, width = FEATURE_OF.get(name, OWN + name), stored.shape[1] if stored.ndim > 1 else 1
        known = feature in (STATE, VELOCITY, COMMAND)
        yield feature, {"dtype": str(stored.dtype), "shape": [width], "names": joints if known else None}
    yield ACTION, {"dtype": "float32", "shape": [len(joints)], "names": joints}
    yield from DEFAULT_FEATURES.items()


def _column(name: str | None, field_name: str, kind: str, numpy_kind: str) -> Record:
    return {"name": name, "field_name": field_name, "pandas_type": kind, "numpy_type": numpy_kind, "metadata": None}


_PANDAS = {
    "index_columns": ["__index_level_0__"], "column_indexes": [], "pandas_version": "2.2.0",
    "columns": [
        _column("task_index", "task_index", "int64", "int64"), _column(None, "__index_level_0__", "unicode", "object"),
    ],
}
"""Marks the sentences as the index of tasks.parquet, as LeRobot reads them."""
