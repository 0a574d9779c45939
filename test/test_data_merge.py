"""Several data folders as one."""

import dataclasses
import json
import os

import numpy as np
import pytest
from test_data_store import SPEC, episode

from starry_ros.cli import main
from starry_ros.data import merge as data_merge
from starry_ros.data.merge import merge
from starry_ros.data.store import episode_path, read_episode, write_episode, write_meta
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
    said, bar = capsys.readouterr()
    assert "3 episodes, 28 frames" in said
    assert "3/3 episodes" in bar
    assert main(words) == 0
    assert capsys.readouterr() == (said, "")


def test_a_folder_that_holds_other_episodes_is_left_alone(folders, tmp_path, capsys):
    out, foreign = tmp_path / "c", folder_of(tmp_path / "foreign", (5,))
    words = ["data", "merge", *map(str, folders), "--out"]
    assert main([*words, str(foreign)]) == 2
    assert "holds other episodes" in capsys.readouterr().err
    assert main([*words, str(out)]) == 0
    for others in (folders[::-1], folders[:1], [*folders, foreign]):
        assert main(["data", "merge", *map(str, others), "--out", str(out)]) == 2
        assert "holds episodes of another merge" in capsys.readouterr().err
    assert len(list(out.glob("episodes/*"))) == 3


def test_a_merge_that_was_cut_off_goes_on_and_gives_the_same_data(folders, tmp_path, monkeypatch):
    whole, read = merge(folders, tmp_path / "whole", SPEC), []

    def cut_off(path):
        read.append(path.name)
        if len(read) == 2:
            raise KeyboardInterrupt
        return read_episode(path)

    monkeypatch.setattr(data_merge, "read_episode", cut_off)
    with pytest.raises(KeyboardInterrupt):
        merge(folders, tmp_path / "c", SPEC)
    assert [path.name for path in (tmp_path / "c" / "episodes").iterdir()] == ["000000.npz"]
    assert merge(folders, tmp_path / "c", SPEC) == whole
    assert read == ["000000.npz", "000001.npz", "000001.npz", "000000.npz"]
    assert sorted(path.name for path in (tmp_path / "c" / "episodes").iterdir()) == [f"{i:06d}.npz" for i in range(3)]


@pytest.mark.parametrize("links", [True, False])
def test_an_episode_that_was_made_again_is_taken_again_and_the_others_stay_what_they_are(links, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    source = folder_of(tmp_path / "a", (9, 12))
    first, second = (episode_path(source, i) for i in range(2))
    merge([source], tmp_path / "c", SPEC)
    kept = second.read_bytes()
    write_episode(first, episode(6, seed=7))
    write_meta(source, SPEC, tasks=["place_block_pad"])
    assert merge([source], tmp_path / "c", SPEC)["frames"] == 18
    assert episode_path(tmp_path / "c", 0).read_bytes() == first.read_bytes()
    assert episode_path(tmp_path / "c", 1).read_bytes() == kept == second.read_bytes()


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


def test_a_truncated_episode_is_named_and_the_merge_goes_on_once_it_is_whole(folders, tmp_path):
    broken = folder_of(tmp_path / "broken", (6, 8))
    path = episode_path(broken, 1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3000])
    with pytest.raises(DataError, match=r"broken/episodes/000001\.npz: cannot be read.*Fix: make it again, and"):
        merge([folders[0], broken], tmp_path / "c", SPEC)
    assert not (tmp_path / "c" / "meta.json").exists()
    path.write_bytes(whole)
    assert merge([folders[0], broken], tmp_path / "c", SPEC)["episodes"] == 4
