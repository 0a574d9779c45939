"""Import of LeRobotDataset v3 and v2.1: one `Recording` an episode.

Joints are matched with the robot contract by name, cameras by `observation.images.<camera>`; both can be mapped.
Without `observation.command`, the command in force at a frame is the action of the frame before: LeRobot's action is
where the joints are sent next.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from starry_ros.data.depth import DepthTrack, millimetres
from starry_ros.data.journal import fingerprint
from starry_ros.data.lerobot_format import (
    ACTION,
    COMMAND,
    DRIVER_SIGN,
    EPISODE_TYPES,
    EPISODE_VALUES,
    EPISODES_DIR,
    FEATURE_OF,
    IMAGES,
    INFO_FILE,
    OWN,
    OWN_FILE,
    STATE,
    TASK_COLUMNS,
    TASKS_FILE,
    VELOCITY,
    arrow,
    read_json,
)
from starry_ros.data.recording import Recording, Shrinker
from starry_ros.data.store import whole_arrays
from starry_ros.data.video import read_video
from starry_ros.errors import DataError, InputError
from starry_ros.robot_spec import RobotSpec, order_by_name
from starry_ros.training.form import Arrays
from starry_ros.types import F32, U8, Record

KNOWN_VERSIONS = ("v3.0", "v2.1", "v2.0")
DEPTHS = "observation.depth."
NEEDED = ("fps", "features", "data_path")


@dataclass(frozen=True)
class Mapping:
    """How a foreign data set maps to the contract: feature of each camera, unit and order of joints, gripper range, and
    the sentence where it names none.
    """

    cameras: dict[str, str] = field(default_factory=dict)
    by_position: bool = False
    degrees: bool = False
    gripper_range: tuple[float, float] | None = None
    instruction: str = ""


class LeRobotReader:
    """A data set folder."""

    def __init__(self, folder: Path, spec: RobotSpec, mapping: Mapping = Mapping()) -> None:
        self.folder, self.spec, self.mapping = folder, spec, mapping
        self.info = read_json(folder / INFO_FILE)
        version = self.info.get("codebase_version")
        if version not in KNOWN_VERSIONS:
            raise DataError(str(folder), "is of another version", got=version, expected=list(KNOWN_VERSIONS),
                            fix="convert it with lerobot")
        _refuse_lack(folder / INFO_FILE, list(self.info), NEEDED)
        self.hz = float(self.info["fps"])
        self._grouped = version == "v3.0"
        self._shrinker = Shrinker(spec)
        self._features: Record = self.info["features"]
        own = folder / OWN_FILE
        self._own: Record = read_json(own) if own.exists() else {}
        drivers = not self._own or self._own.get(DRIVER_SIGN)
        self._sign_J = spec.limit("sign") if drivers else np.ones(len(spec.joints))
        self._tasks = self._read_tasks()
        self.rows = self._read_rows()
        self._camera_features = {camera.name: self._camera_feature(camera.name) for camera in spec.cameras}

    def __len__(self) -> int:
        return len(self.rows)

    def _camera_feature(self, camera: str) -> str:
        feature = self.mapping.cameras.get(camera, IMAGES + camera)
        if feature not in self._features:
            images = [name for name, one in self._features.items() if one["dtype"] in ("video", "image")]
            raise DataError(str(self.folder), f"has no feature {feature}", got=images,
                            fix=f"map it: --camera {camera}=FEATURE")
        return feature

    def _read_tasks(self) -> dict[int, str]:
        if not self._grouped:
            rows = _json_lines(self.folder / "meta/tasks.jsonl")
            return {int(row["task_index"]): str(row["task"]) for row in rows}
        table = _read_table(self.folder / TASKS_FILE).to_pydict()
        column = next((name for name in TASK_COLUMNS if name in table), TASK_COLUMNS[-1])
        _refuse_lack(self.folder / TASKS_FILE, list(table), ("task_index", column))
        return {int(i): str(text) for i, text in zip(table["task_index"], table[column], strict=True)}

    def _read_rows(self) -> list[Record]:
        """One record an episode, in order."""
        if not self._grouped:
            return sorted(_json_lines(self.folder / "meta/episodes.jsonl"), key=lambda row: int(row["episode_index"]))
        rows = [row for path in sorted((self.folder / EPISODES_DIR).glob("*/*.parquet"))
                for row in _read_table(path).to_pylist()]
        return sorted(rows, key=lambda row: int(row["episode_index"]))

    def recording(self, number: int) -> Recording:
        """Read one episode. DataError names the file and the episode."""
        row = self.rows[number]
        where = f"{self.folder}, episode {row['episode_index']}"
        path = self.folder / self._format(self.info["data_path"], row, "data")
        table = _episode_table(path, int(row["episode_index"]))
        if table.num_rows != int(row["length"]):
            raise DataError(where, f"{path} has another number of frames", got=table.num_rows, expected=row["length"])
        state = self._joints(where, table, STATE)
        command = self._joints(where, table, COMMAND) if COMMAND in table.column_names else None
        if command is None and ACTION in table.column_names:
            action = self._joints(where, table, ACTION)
            command = np.concatenate([state[:1], action[:-1]])
        velocity = self._joints(where, table, VELOCITY) if VELOCITY in table.column_names else None
        texts = [self._tasks.get(int(i)) or self.mapping.instruction for i in table.column("task_index").to_pylist()]
        if not all(texts):
            raise DataError(where, "names no sentence", fix="give one with --instruction")
        return Recording(
            where=where, time_s_T=np.asarray(table.column("timestamp").to_pylist(), np.float64),
            views={camera: self._views(where, camera, row, table) for camera in self._camera_features},
            position_TJ=state, command_TJ=command, velocity_TJ=velocity, texts=texts, known=self._known(row, table),
            depths=self._depths(where, table),
        )

    def fingerprint(self, number: int) -> str:
        """Changes when the files of an episode change, or a sentence."""
        row = self.rows[number]
        videos = [feature for feature in self._camera_features.values() if self._features[feature]["dtype"] == "video"]
        files = [self._format(self.info["data_path"], row, "data"),
                 *(self._format(self.info["video_path"], row, f"videos/{feature}", feature) for feature in videos)]
        tasks = hashlib.sha256(json.dumps(self._tasks).encode()).hexdigest()[:16]
        return fingerprint(self.folder / file for file in files) + tasks

    def _format(self, pattern: str, row: Record, part: str, key: str = "") -> str:
        """Path of an episode's data or video file."""
        episode = int(row["episode_index"])
        return pattern.format(
            episode_index=episode, episode_chunk=episode // int(self.info.get("chunks_size", 1000)), video_key=key,
            chunk_index=row.get(f"{part}/chunk_index", 0), file_index=row.get(f"{part}/file_index", 0),
        )

    def _joints(self, where: str, table: Any, feature: str) -> F32:
        """A feature's rows [T, J] in contract order and sign, rad and m, or rad/s and m/s."""
        if feature not in table.column_names:
            raise DataError(where, f"has no feature {feature}", got=table.column_names)
        rows = _rows(table, feature)
        if self._own.get("contract_hash") == self.spec.content_hash:
            return self._turned(rows).astype(np.float32)
        told = self._ordered(where, feature, rows.astype(np.float64))
        rows = self._turned(told)
        grippers = list(self.spec.gripper_indices)
        others = [i for i in range(rows.shape[1]) if i not in grippers]
        if self.mapping.degrees:
            rows[:, others] = np.radians(rows[:, others])
        if self.mapping.gripper_range is not None:
            rows[:, grippers] = self._opened(told[:, grippers], velocity=feature == VELOCITY)
        return rows.astype(np.float32)

    def _turned(self, rows_TJ: NDArray[Any]) -> NDArray[Any]:
        """Joints in contract order, from the data's sign to the contract's."""
        turned: NDArray[Any] = self._sign_J * rows_TJ
        return turned

    def _opened(self, told_TG: NDArray[np.float64], velocity: bool) -> NDArray[np.float64]:
        """Grippers in m, or m/s, by what the data say where they are closed and open: which way they turn, too."""
        low, high = self.mapping.gripper_range or (0.0, 1.0)
        lower_G, upper_G = (self.spec.limit(name)[list(self.spec.gripper_indices)] for name in ("lower", "upper"))
        scale_G = (upper_G - lower_G) / (high - low)
        return told_TG * scale_G if velocity else lower_G + (told_TG - low) * scale_G

    def _ordered(self, where: str, feature: str, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        names = _flat_names(self._features[feature].get("names"))
        if self.mapping.by_position or not names:
            if rows.shape[1] != len(self.spec.joints):
                expected = len(self.spec.joints)
                raise DataError(where, f"{feature} has another width", got=rows.shape[1], expected=expected)
            return rows
        names = [name.removesuffix(".pos") for name in names]
        try:
            order = order_by_name(feature, self.spec.joint_names, names, np.arange(len(names), dtype=np.float64))
        except InputError as error:
            raise DataError(where, f"{error}", fix="use the data's names in the contract, or --by-position") from error
        return rows[:, order.astype(int)]

    def _views(self, where: str, camera: str, row: Record, table: Any) -> U8:
        """All frames of a camera, shrunk to the canvas one by one."""
        feature = self._camera_features[camera]
        images = (
            _embedded(self.folder, where, table, feature) if self._features[feature]["dtype"] == "image"
            else read_video(
                self.folder / self._format(self.info["video_path"], row, f"videos/{feature}", feature),
                float(row.get(f"videos/{feature}/from_timestamp", 0.0)), table.num_rows, self.hz,
            )
        )
        return np.stack([self._shrinker.shrink(where, camera, image) for image in images])

    def _depths(self, where: str, table: Any) -> dict[str, DepthTrack]:
        """Depth features at the contract's size, one image a frame."""
        features = {camera.name: DEPTHS + camera.name for camera in self.spec.cameras}
        return {
            camera: DepthTrack([
                millimetres(self._shrinker.sample(where, camera, _metres(f"{where}, {feature}", rows)))
                for rows in table.column(feature).to_pylist()
            ], np.arange(table.num_rows))
            for camera, feature in features.items() if feature in table.column_names
        }

    def _known(self, row: Record, table: Any) -> Arrays:
        """Arrays that this project exported, with their own types and shapes."""
        if self._own.get("contract_hash") != self.spec.content_hash:
            return {}
        found: Arrays = {}
        for name, form in self._own["arrays"].items():
            feature = FEATURE_OF.get(name, OWN + name)
            rows = _rows(table, feature)
            rows = self._turned(rows) if name in FEATURE_OF else rows
            found[name] = rows.reshape(-1, *form["shape"]).astype(form["dtype"])
        values, types = (json.loads(row.get(column) or "{}") for column in (EPISODE_VALUES, EPISODE_TYPES))
        return {**found, **whole_arrays(values, types)}


def _refuse_lack(path: Path, found: list[str], needed: Sequence[str]) -> None:
    missing = [name for name in needed if name not in found]
    if missing:
        raise DataError(str(path), f"lacks {missing}", got=found, fix="convert the data set with lerobot")


def _metres(where: str, rows: Any) -> F32:
    """A depth image [H, W] in m; integers are millimetres. DataError if it is not one."""
    try:
        depth = np.array(rows)
        metres: F32 = (depth / 1000 if depth.dtype.kind in "iu" else depth).astype(np.float32)
    except (ValueError, TypeError) as error:
        raise DataError(where, f"is not a depth image: {error}") from error
    if metres.ndim != 2:
        raise DataError(where, "is not a depth image", got=f"shape {metres.shape}", expected="[H, W]")
    return metres


def _rows(table: Any, feature: str) -> NDArray[Any]:
    """A numeric column as an array with one row a frame."""
    column, types = table.column(feature).combine_chunks(), arrow().types
    if types.is_list(column.type) or types.is_fixed_size_list(column.type) or types.is_large_list(column.type):
        return np.asarray(column.flatten()).reshape(table.num_rows, -1)
    return np.asarray(column)


def _flat_names(names: Any) -> list[str]:
    """Names of a feature's values; LeRobot has them as a list, or as a dictionary of lists."""
    if isinstance(names, dict):
        return [name for part in names.values() for name in _flat_names(part)]
    return [str(name) for name in names or []]


def _embedded(folder: Path, where: str, table: Any, feature: str) -> Iterator[U8]:
    """Images that lie in the table as PNG or JPEG bytes, or beside it as files."""
    for frame, item in enumerate(table.column(feature).to_pylist()):
        held = item or {}
        data = held.get("bytes") or (_bytes(folder / str(held["path"])) if held.get("path") else b"")
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
        if image is None:
            raise DataError(where, f"{feature}: frame {frame} is not an image")
        yield np.ascontiguousarray(image[..., ::-1])


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(str(path), f"cannot be read: {error.strerror}") from error


@lru_cache(maxsize=1)
def _read_table(path: Path) -> Any:
    """A parquet file; the newest is kept, because many episodes share one."""
    pa = arrow()
    try:
        return pa.parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(str(path), f"cannot be read: {error}", fix="copy it again, or use --skip-bad") from error


def _episode_table(path: Path, episode: int) -> Any:
    table, pa = _read_table(path), arrow()
    if "episode_index" not in table.column_names:
        raise DataError(str(path), "has no column episode_index", got=table.column_names)
    import pyarrow.compute as pc

    return table.filter(pc.equal(table.column("episode_index"), pa.scalar(episode, pa.int64())))


def _json_lines(path: Path) -> list[Record]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(str(path), f"cannot be read: {error}") from error
