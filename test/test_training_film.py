"""One motion filmed under several looks."""

import numpy as np
import pytest

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.errors import ConfigError
from starry_ros.paths import robot_file
from starry_ros.robot_spec import load_robot_spec
from starry_ros.sim.tasks import named_colour
from starry_ros.training.episodes import Source
from starry_ros.training.generate import generate

ROBOT = robot_file("bimanual_sim")
SOURCE = Source("place_block_pad", 11, ROBOT, "hard", looks=3)
OF_THE_FILM = {"canvas_THWC", "events_TEVF"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("looks")
    return folder, generate(folder, SOURCE, 1)


def episodes(folder):
    return [dict(np.load(path)) for path in sorted((folder / "episodes").glob("*.npz"))]


def test_every_look_is_an_episode_of_the_same_motion_in_other_pictures(written):
    folder, meta = written
    first, *others = episodes(folder)
    assert meta["episodes"] == 1 + len(others) == 3
    for other in others:
        assert {name for name in first if not np.array_equal(first[name], other[name])} == OF_THE_FILM
    assert not np.array_equal(others[0]["canvas_THWC"], others[1]["canvas_THWC"])


def test_the_colours_of_the_surfaces_are_those_of_the_look_from_first_to_last(written):
    corner = t_pose_layout(load_robot_spec(ROBOT)).tile("head").content
    patches = [
        np.median(episode["canvas_THWC"][:, corner.y_px + 40 : corner.y_px + 60, 4:20], axis=(1, 2))
        for episode in episodes(written[0])
    ]
    for patch in patches:
        assert np.ptp(patch, axis=0).max() <= 4
    tables = np.array([patch[0] for patch in patches])
    assert all(np.abs(a - b).max() > 8 for i, a in enumerate(tables) for b in tables[:i])


def test_labels_follow_the_cameras_of_each_look(written):
    head = 0
    for episode in episodes(written[0]):
        u, v, *_, visible = episode["events_TEVF"][0, 0, head]
        colour = named_colour(str(episode["texts"][0]))
        assert visible
        assert ("red", "green", "blue")[int(np.argmax(episode["canvas_THWC"][0, round(v), round(u)]))] == colour


def test_a_motion_with_a_look_missing_is_filmed_again_and_is_the_same(written):
    folder, meta = written
    lost = folder / "episodes" / "000001.npz"
    before = dict(np.load(lost))
    lost.unlink()
    assert generate(folder, SOURCE, 1)["episodes"] == meta["episodes"]
    again = dict(np.load(lost))
    assert all(np.array_equal(before[name], again[name]) for name in before)


@pytest.mark.parametrize(("setting", "looks"), [("easy", 2), ("hard", 0)])
def test_looks_that_there_are_not_are_refused(setting, looks):
    with pytest.raises(ConfigError, match="looks"):
        Source("place_block_pad", 11, ROBOT, setting, looks=looks)
