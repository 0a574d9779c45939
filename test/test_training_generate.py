"""A tiny data set: arrays, labels, resuming."""

import json
import os
import shutil
from collections import Counter

import numpy as np
import pytest

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.errors import ConfigError, DataError
from starry_ros.paths import robot_file
from starry_ros.robot_spec import load_robot_spec
from starry_ros.sim.tasks import named_colour
from starry_ros.training.disturb import KINDS
from starry_ros.training.episodes import Source
from starry_ros.training.form import problem_of, progress_of
from starry_ros.training.generate import generate

ROBOT = robot_file("bimanual_sim")
SPEC = load_robot_spec(ROBOT)
LAYOUT = t_pose_layout(SPEC)
SEED = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    generate(folder, Source("place_block_pad", SEED, ROBOT), 1)
    return folder


@pytest.fixture(scope="module")
def episode(folder):
    with np.load(folder / "episodes" / "000000.npz", allow_pickle=False) as data:
        return dict(data)


def test_arrays_have_the_stated_shapes_and_types(episode):
    frames = len(episode["time_s_T"])
    assert frames > 20
    expected = {
        "canvas_THWC": ((192, 160, 3), "uint8"), "position_TJ": ((14,), "float32"), "velocity_TJ": ((14,), "float32"),
        "command_TJ": ((14,), "float32"), "plan_TKJ": ((16, 14), "float32"), "stage_T": ((), "int8"),
        "empty_closed_T": ((), "bool"), "time_s_T": ((), "float32"), "text_T": ((), "int32"),
        "events_TEVF": ((2, 3, 5), "float32"), "progress_T": ((), "float32"),
    }
    for name, (shape, dtype) in expected.items():
        assert episode[name].shape == (frames, *shape), name
        assert episode[name].dtype == dtype, name
    assert np.array_equal(episode["progress_T"], progress_of(episode["stage_T"]))
    assert problem_of(episode) == ""
    assert str(episode["kind"]) in KINDS


def test_frames_are_a_tenth_of_a_second_apart(episode):
    assert np.allclose(np.diff(episode["time_s_T"]), 0.1, atol=1e-4)


def test_plans_start_near_the_command_and_stay_inside_the_limits(episode):
    plan, command = episode["plan_TKJ"], episode["command_TJ"]
    assert (plan >= SPEC.limit("lower") - 1e-6).all()
    assert (plan <= SPEC.limit("upper") + 1e-6).all()
    assert np.abs(plan[:, 0] - command).max() < 0.15


def colour_at(canvas: np.ndarray, u_px: float, v_px: float) -> str:
    red, green, blue = canvas[round(v_px), round(u_px)].astype(int)
    if min(red, green, blue) > 200:
        return "white"
    return ("red", "green", "blue")[int(np.argmax([red, green, blue]))]


def test_visible_labels_lie_on_the_named_block_and_then_on_the_pad(episode):
    seen = Counter()
    first = min(10, len(episode["time_s_T"]))
    for t in range(first):
        colour = named_colour(str(episode["texts"][episode["text_T"][t]]))
        wanted = {0: (colour, "white"), 1: ("white", "white")}
        if episode["stage_T"][t] != 0:
            continue
        for event, tile in ((0, 0), (1, 0)):
            u, v, sigma, _inside, visible = episode["events_TEVF"][t, event, tile]
            if visible:
                assert 2.0 <= sigma <= 10.0
                seen[event, colour_at(episode["canvas_THWC"][t], u, v) == wanted[event][0]] += 1
    assert seen[0, True] + seen[1, True] >= 4
    assert seen[0, True] + seen[1, True] >= 4 * (seen[0, False] + seen[1, False])


def test_labels_in_frame_lie_inside_their_tiles(episode):
    for view, tile in enumerate(LAYOUT.tiles):
        label = episode["events_TEVF"][:, :, view]
        u, v = label[label[..., 3] > 0][:, :2].T
        assert (u >= tile.content.x_px - 0.5).all()
        assert (u <= tile.content.x_px + tile.content.width_px - 0.5).all()
        assert (v >= tile.content.y_px - 0.5).all()
        assert (v <= tile.content.y_px + tile.content.height_px - 0.5).all()


def test_meta_counts_what_was_written(folder, episode):
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["episodes"] == 1
    assert meta["frames"] == len(episode["time_s_T"])
    assert meta["kinds"] == {str(episode["kind"]): 1}
    assert meta["contract_hash"] == SPEC.content_hash
    assert meta["joint_names"] == list(SPEC.joint_names)


def test_a_second_call_resumes_and_changes_nothing(folder):
    path = folder / "episodes" / "000000.npz"
    before, meta = path.stat().st_mtime_ns, json.loads((folder / "meta.json").read_text())
    assert generate(folder, Source("place_block_pad", SEED, ROBOT), 1) == meta
    assert path.stat().st_mtime_ns == before


def test_what_a_folder_is_made_from_is_noted_once(folder):
    source, before = folder / "source.json", (folder / "source.json").stat()
    generate(folder, Source("place_block_pad", SEED, ROBOT), 1)
    assert (source.stat().st_mtime_ns, source.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_an_unreadable_note_of_what_a_folder_is_made_from_is_named(folder, tmp_path):
    out = tmp_path / "data"
    shutil.copytree(folder, out)
    for damage in (b"", (folder / "source.json").read_bytes()[:-9], b"\xff{}"):
        (out / "source.json").write_bytes(damage)
        with pytest.raises(DataError, match=r"source\.json: cannot be read"):
            generate(out, Source("place_block_pad", SEED, ROBOT), 1)


def test_a_call_that_is_cut_off_leaves_the_meta_json_that_was_there(folder, tmp_path, monkeypatch):
    out = tmp_path / "data"
    shutil.copytree(folder, out)
    whole = (out / "meta.json").read_bytes()
    (out / "episodes" / "000001.npz").write_bytes((out / "episodes" / "000000.npz").read_bytes())

    def cut_off(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", cut_off)
    with pytest.raises(KeyboardInterrupt):
        generate(out, Source("place_block_pad", SEED, ROBOT), 2)
    assert (out / "meta.json").read_bytes() == whole


def test_a_call_for_fewer_motions_counts_all_episodes_that_lie_there(folder, episode, tmp_path):
    """Training takes every file, so meta.json has to speak of every file."""
    out = tmp_path / "data"
    shutil.copytree(folder, out)
    (out / "episodes" / "000001.npz").write_bytes((out / "episodes" / "000000.npz").read_bytes())
    meta = generate(out, Source("place_block_pad", SEED, ROBOT), 1)
    assert (meta["episodes"], meta["frames"]) == (2, 2 * len(episode["time_s_T"]))
    assert meta["data_hash"] != json.loads((folder / "meta.json").read_text())["data_hash"]
    assert json.loads((out / "meta.json").read_text()) == meta
    assert meta == generate(out, Source("place_block_pad", SEED, ROBOT), 2)


def test_other_data_in_the_folder_are_left_alone(folder):
    with pytest.raises(DataError, match="other data"):
        generate(folder, Source("place_block_pad", SEED + 1, ROBOT), 1)


def test_an_unknown_task_is_refused():
    with pytest.raises(ConfigError, match="unknown task"):
        Source("juggle", SEED, ROBOT)
