"""Depth, cameras and hands of recorded frames, and canvases made with them.

Recorded by `starry data generate --depth`: `depth_THW` is the depth canvas in millimetres (uint16, 0 unknown),
`pose_TV44` the cameras' poses, `camera_V4` their intrinsics on the canvas, `hands_TA3` the hands' positions in m.

Shapes: T frames of an episode, F all frames, V views, A hands, H x W canvas pixels, Y x X cells.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from starry_ros.canvas.depth import depth_cells, pack_depth, rgbd_canvas, rgbd_layout
from starry_ros.canvas.layout import CanvasLayout, t_pose_layout
from starry_ros.canvas.paths import draw_paths
from starry_ros.errors import DataError
from starry_ros.robot_spec import RobotSpec
from starry_ros.types import F32, U8, CameraModel
from starry_ros.wam.gasam import Scene, canvas_intrinsics

if TYPE_CHECKING:
    from starry_ros.sim.cell import Cell

NAMES = ("depth_THW", "pose_TV44", "camera_V4", "hands_TA3")
FIX = "generate the data again with `starry data generate --depth`"


@dataclass(frozen=True)
class View:
    """How the canvases that a model sees are made from an episode's arrays."""

    name: str
    needs: tuple[str, ...]
    compose: Callable[[Mapping[str, NDArray[Any]]], U8]

    def canvases(self, path: Path) -> U8:
        """Canvases [T, H, W, 3] of an episode's file. Raises DataError where it lacks what they need."""
        return self.compose(read_arrays(path, self.needs))


PLAIN = View("rgb", ("canvas_THWC",), lambda arrays: arrays["canvas_THWC"])


@dataclass(frozen=True)
class Scenes:
    """Scenes of all frames of a data set, cells for pixels."""

    depth_FYX: NDArray[np.float16]
    intrinsics_FV4: F32
    pose_FV44: F32
    hands_FA3: F32

    def at(self, frames: NDArray[np.int64]) -> Scene:
        """The scenes of some frames."""
        arrays = (self.depth_FYX[frames].astype(np.float32), self.intrinsics_FV4[frames], self.pose_FV44[frames],
                  self.hands_FA3[frames])
        return Scene(*(torch.as_tensor(np.ascontiguousarray(array)) for array in arrays))


def observe_scene(cell: Cell, layout: CanvasLayout) -> dict[str, Any]:
    """What the cell shows of its geometry at this instant, by the names of NAMES."""
    models = [cell.camera_model(camera) for camera in layout.cameras]
    depth = pack_depth(layout, {camera: cell.depth(camera) for camera in layout.cameras})
    return {
        "depth_THW": np.round(1000 * depth).astype(np.uint16),
        "pose_TV44": np.stack([model.T_world_cam for model in models]).astype(np.float32),
        "camera_V4": np.array([canvas_intrinsics(model, layout) for model in models], np.float32),
        "hands_TA3": np.stack([cell.pinch_position(arm.name) for arm in cell.spec.arms]).astype(np.float32),
    }


def load_scenes(folder: Path, cell_px: int, columns: int) -> Scenes:
    """Scenes of every episode of a data folder; `columns` cells a row, unknown beyond the depth canvas.

    Raises DataError on data without depth, or without episodes.
    """
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in NAMES}
    files = sorted((folder / "episodes").glob("*.npz"))
    if not files:
        raise DataError(str(folder), "holds no episodes", fix="run `starry data generate --depth` first")
    for path in files:
        arrays = read_arrays(path, NAMES)
        depth = depth_cells(metres(arrays["depth_THW"]), cell_px)
        beyond = ((0, 0), (0, 0), (0, columns - depth.shape[-1]))
        parts["depth_THW"].append(np.pad(depth, beyond).astype(np.float16))
        # Files that went through other formats of earlier versions hold doubles, which weights cannot be multiplied by.
        parts["camera_V4"].append(np.repeat(arrays["camera_V4"][None].astype(np.float32), len(depth), axis=0))
        parts["pose_TV44"].append(arrays["pose_TV44"].astype(np.float32))
        parts["hands_TA3"].append(arrays["hands_TA3"].astype(np.float32))
    joined = {name: np.concatenate(some) for name, some in parts.items()}
    return Scenes(joined["depth_THW"], joined["camera_V4"], joined["pose_TV44"], joined["hands_TA3"])


def metres(depth_mm: NDArray[np.uint16]) -> F32:
    """Recorded depth in m."""
    return (depth_mm.astype(np.float32) / 1000).astype(np.float32)


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Some arrays of an episode. Raises DataError that names the file and what to do."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except KeyError as error:
        raise DataError(str(path), f"has no {error}", fix=FIX) from error
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(str(path), f"cannot be read: {error}", fix="delete it and generate again") from error


def seen_layout(spec: RobotSpec, kind: str) -> CanvasLayout:
    """The layout of the canvases that a view of this kind makes."""
    layout = t_pose_layout(spec)
    return rgbd_layout(layout) if kind == "rgbd" else layout


def view_of(spec: RobotSpec, kind: str, paths: bool) -> View:
    """Canvases as recorded, with the hands' paths drawn in, and with depth beside them."""
    layout = t_pose_layout(spec)

    def compose(arrays: Mapping[str, NDArray[Any]]) -> U8:
        canvas: U8 = arrays["canvas_THWC"]
        if paths:
            canvas = np.stack([_with_paths(arrays, i, layout) for i in range(len(canvas))])
        return rgbd_canvas(canvas, metres(arrays["depth_THW"])) if kind == "rgbd" else canvas

    if kind == "rgb" and not paths:
        return PLAIN
    needs = ("canvas_THWC", *(("depth_THW",) if kind == "rgbd" else ()),
             *(("pose_TV44", "camera_V4", "hands_TA3") if paths else ()))
    return View(f"{kind}{' with paths' if paths else ''}", needs, compose)


def _with_paths(arrays: Mapping[str, NDArray[Any]], i: int, layout: CanvasLayout) -> U8:
    """The canvas of frame `i` with the hands' paths up to it."""
    cameras = [_camera(layout, view, arrays["camera_V4"][view], arrays["pose_TV44"][i, view])
               for view in range(len(layout.tiles))]
    return draw_paths(arrays["canvas_THWC"][i], layout, cameras, arrays["hands_TA3"][: i + 1].astype(np.float64))


def _camera(layout: CanvasLayout, view: int, intrinsics_4: F32, pose_44: F32) -> CameraModel:
    """A camera from its intrinsics on the canvas: the inverse of `canvas_intrinsics`."""
    tile = layout.tiles[view]
    fx, fy, cx, cy = (float(number) for number in intrinsics_4)
    scale_u, scale_v = (float(number) for number in tile.scale_xy)
    (u, v), = layout.canvas_to_camera(tile.camera, [[cx, cy]])
    return CameraModel(tile.camera, tile.camera_width_px, tile.camera_height_px, fx / scale_u, fy / scale_v,
                       float(u), float(v), pose_44.astype(np.float64))
