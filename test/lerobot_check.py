"""Data sets through lerobot itself, in an environment of its own (its pins differ from ours); run from the checkout.

    python3 -m venv /tmp/lerobot && /tmp/lerobot/bin/pip install lerobot pyyaml
    PYTHONPATH=. /tmp/lerobot/bin/python test/lerobot_check.py read EXPORTED DATA
    PYTHONPATH=. /tmp/lerobot/bin/python test/lerobot_check.py write OUT DATA

`read` compares what `starry data export DATA EXPORTED` wrote, as lerobot gives it, with the data folder: some frames of
every episode, images to the bit. `write` makes a data set with lerobot, for `starry data import OUT --out BACK`.

    LEROBOT_PYTHON=/tmp/lerobot/bin/python pytest test/test_data_lerobot.py

does both ways with small data.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.data.lerobot_format import ACTION, COMMAND, IMAGES, OWN, STATE, VELOCITY
from starry_ros.paths import robot_file
from starry_ros.robot_spec import load_robot_spec

SPEC = load_robot_spec(robot_file("bimanual_sim"))
TILES = t_pose_layout(SPEC).tiles
FRAMES_AN_EPISODE = 3


def read(exported: Path, data: Path) -> None:
    """Compare what lerobot gives with the data folder."""
    opened = LeRobotDataset("local/exported", root=exported, video_backend="pyav", tolerance_s=1e-3)
    files = sorted((data / "episodes").glob("*.npz"))
    assert opened.num_episodes == len(files), (opened.num_episodes, len(files))
    compared = 0
    for path, start in zip(files, opened.meta.episodes["dataset_from_index"], strict=True):
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        frames = np.linspace(0, len(arrays["position_TJ"]) - 1, FRAMES_AN_EPISODE).astype(int)
        for frame in frames.tolist():
            compare(opened[int(start) + frame], arrays, frame)
            compared += 1
    print(f"{len(files)} episodes, {compared} frames: same tensors, images bit for bit")


def compare(item: dict, arrays: dict[str, np.ndarray], frame: int) -> None:
    """One frame; AssertionError on any difference."""
    named = {STATE: "position_TJ", VELOCITY: "velocity_TJ", COMMAND: "command_TJ"}
    for feature, name in named.items():
        assert np.array_equal(item[feature].numpy(), arrays[name][frame]), feature
    for name in ("plan_TKJ", "events_TEVF"):
        assert np.array_equal(item[OWN + name].numpy(), arrays[name][frame].ravel()), name
    assert item["task"] == str(arrays["texts"][arrays["text_T"][frame]])
    for tile in TILES:
        image = (item[IMAGES + tile.camera].numpy() * 255).round().astype(np.uint8).transpose(1, 2, 0)
        assert np.array_equal(image, arrays["canvas_THWC"][frame][tile.content.slices]), tile.camera


def write(out: Path, data: Path) -> None:
    """Two episodes of a data folder as lerobot writes them."""
    joints = {"dtype": "float32", "shape": (len(SPEC.joint_names),), "names": list(SPEC.joint_names)}
    features: dict[str, dict] = {STATE: joints, ACTION: joints}
    for tile in TILES:
        shape = (tile.content.height_px, tile.content.width_px, 3)
        features[IMAGES + tile.camera] = {"dtype": "image", "shape": shape, "names": ["height", "width", "channels"]}
    made = LeRobotDataset.create("local/written", 10, features, root=out, use_videos=False)
    for path in sorted((data / "episodes").glob("*.npz"))[:2]:
        with np.load(path) as file:
            position, command, canvas = file["position_TJ"], file["command_TJ"], file["canvas_THWC"]
            task = str(file["texts"][0])
        for frame in range(len(position) - 1):
            views = {IMAGES + tile.camera: canvas[frame][tile.content.slices] for tile in TILES}
            made.add_frame({STATE: position[frame], ACTION: command[frame + 1], "task": task, **views})
        made.save_episode()
    made.finalize()
    print(f"written: {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("read", "write"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("data", type=Path)
    given = parser.parse_args()
    {"read": read, "write": write}[given.what](given.folder, given.data)
