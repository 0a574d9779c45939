"""Several data folders as one."""

import dataclasses
import json

import numpy as np
import pytest
from test_data_store import SPEC, episode

from starry_ros.cli import main
from starry_ros.data.merge import merge
from starry_ros.data.store import episode_path, write_episode, write_meta
from starry_ros.errors import DataError
from starry_ros.training.summary import read_meta


def folder_of(path, lengths, **meta):
    for index, frames in enumerate(lengths):
        write_episode(episode_path(path, index), episode(frames, seed=index))
    write_meta(path, SPEC, tasks=meta.pop("tasks", ["place_block_pad"]), setting="easy", seed=3)
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("merge")
    return [folder_of(root / "a", (9, 12)), folder_of(root / "b", (7,), tasks=["handover_block"])]


def test_episodes_follow_one_another_in_the_order_of_the_folders(folders, tmp_path):
    meta = merge(folders, tmp_path / "c", SPEC)
    lengths = [len(np.load(episode_path(tmp_path / "c", i))["time_s_T"]) for i in range(3)]
    assert lengths == [9, 12, 7]
    assert (meta["episodes"], meta["frames"]) == (3, 28)
    assert meta["tasks"] == ["handover_block", "place_block_pad"]
    assert [(part["episodes"], part["tasks"]) for part in meta["merged_from"]] == [
        (2, ["place_block_pad"]), (1, ["handover_block"])]
    assert [source["data_hash"] for source in meta["merged_from"]] == [read_meta(f)["data_hash"] for f in folders]


def test_what_was_merged_before_keeps_its_parts(folders, tmp_path):
    merge(folders, tmp_path / "c", SPEC)
    meta = merge([tmp_path / "c", folders[1]], tmp_path / "d", SPEC)
    assert [(part["episodes"], part["tasks"]) for part in meta["merged_from"]] == [
        (2, ["place_block_pad"]), (1, ["handover_block"]), (1, ["handover_block"])]


def test_the_command_says_what_it_made_and_makes_it_only_once(folders, tmp_path, capsys):
    words = ["data", "merge", *map(str, folders), "--out", str(tmp_path / "c")]
    assert main(words) == 0
    assert "3 episodes, 28 frames" in capsys.readouterr().out
    assert main(words) == 2
    assert "is not empty" in capsys.readouterr().err


def test_folders_of_different_robots_are_refused_by_name(folders, tmp_path):
    other = folder_of(tmp_path / "other", (6,))
    meta = json.loads((other / "meta.json").read_text()) | {"contract_hash": "another"}
    (other / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(DataError, match="contract_hash"):
        merge([folders[0], other], tmp_path / "c", SPEC)
    assert not (tmp_path / "c").exists()


def test_folders_of_another_robot_than_the_one_that_is_named_are_refused_before_anything_is_written(folders, tmp_path):
    with pytest.raises(DataError, match=r"a: holds data of another robot than twin.*give the --robot of these data"):
        merge(folders, tmp_path / "c", dataclasses.replace(SPEC, name="twin"))
    assert not (tmp_path / "c").exists()


def test_a_truncated_episode_is_named_and_leaves_no_half_filled_folder(folders, tmp_path):
    broken = folder_of(tmp_path / "broken", (6, 8))
    path = episode_path(broken, 1)
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(DataError, match=r"broken/episodes/000001\.npz: cannot be read.*Fix: make it again, or"):
        merge([folders[0], broken], tmp_path / "c", SPEC)
    assert not (tmp_path / "c").exists()
