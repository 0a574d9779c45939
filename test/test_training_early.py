"""Closed-loop evaluation during a training."""

import dataclasses
import json

import pytest
import torch
from wam_kit import CONFIG, LetterEncoder, make_checkpoint

from starry_ros.paths import model_dir, robot_file
from starry_ros.robot_spec import load_robot_spec
from starry_ros.sim.choices import LoopConfig
from starry_ros.sim.loop import run_episode
from starry_ros.training import early, train
from starry_ros.training.cells import kept_cell
from starry_ros.training.early import EarlyEvaluation
from starry_ros.training.scenes import seen_layout
from starry_ros.wam.autoencoder import Autoencoder, AutoencoderConfig
from starry_ros.wam.checkpoint import load_checkpoint
from starry_ros.wam.model import WorldActionModel
from starry_ros.wam.options import GeometryConfig

SPEC = load_robot_spec(robot_file("bimanual_sim"))


@pytest.fixture(scope="module")
def shipped():
    return load_checkpoint(model_dir("tiny"), SPEC)


class Scripted:
    """Stands for the closed loop: says which seeds succeed."""

    def __init__(self, wins):
        self.wins, self.seeds, self.settings = wins, [], []

    def __call__(self, policy, cell, case):
        self.seeds.append(case.seed)
        self.settings.append(case.setting)
        success = case.seed - early.FIRST_SEED < self.wins
        return type("Result", (), {"success": success})()


def evaluation(tmp_path, monkeypatch, wins, episodes=6):
    played = Scripted(wins)
    monkeypatch.setattr(early, "run_episode", played)
    monkeypatch.setattr(early, "Cell", lambda spec: object())
    return EarlyEvaluation(SPEC, ["place_block_pad"], 100, episodes, tmp_path), played


def test_it_is_due_at_multiples_of_its_interval_and_never_at_zero(tmp_path):
    every_100 = EarlyEvaluation(SPEC, ["place_block_pad"], 100, 1, tmp_path)
    assert [every_100.due(step) for step in (99, 100, 200)] == [False, True, True]
    assert not EarlyEvaluation(SPEC, ["place_block_pad"], 0, 1, tmp_path).due(100)


def test_the_best_checkpoint_so_far_is_kept(tmp_path, monkeypatch, shipped):
    for step, wins, kept in [(100, 3, 100), (200, 2, 100), (300, 3, 300), (400, 5, 400)]:
        runner, _ = evaluation(tmp_path, monkeypatch, wins)
        assert runner.run(shipped, step).successes == wins
        assert json.loads((tmp_path / "best.json").read_text())["step"] == kept
    assert load_checkpoint(tmp_path / "best", SPEC).config == shipped.config


def test_after_resuming_with_fewer_episodes_the_best_share_of_them_is_the_best_checkpoint(
    tmp_path, monkeypatch, shipped
):
    for step, wins, episodes, kept in [(100, 6, 10, 100), (200, 2, 4, 100), (300, 3, 4, 300), (400, 7, 10, 300),
                                       (500, 6, 8, 500)]:
        runner, _ = evaluation(tmp_path, monkeypatch, wins, episodes)
        runner.run(shipped, step)
        assert json.loads((tmp_path / "best.json").read_text())["step"] == kept
        assert load_checkpoint(tmp_path / "best", SPEC).config == shipped.config


def test_processes_share_the_episodes_and_only_the_first_one_writes(tmp_path, monkeypatch, shipped):
    seeds = []
    for rank in (1, 0):
        runner, played = evaluation(tmp_path, monkeypatch, 6)
        runner.run(shipped, 100, rank, 2)
        assert (tmp_path / "best.json").exists() == (rank == 0)
        seeds += played.seeds
    assert sorted(seeds) == [early.FIRST_SEED + i for i in range(6)]


@pytest.mark.parametrize(("noted", "settings"), [
    ({"setting": "hard"}, ["hard"] * 4), ({"setting": "easy,hard"}, ["easy", "hard"] * 2),
    ({"setting": "easy"}, ["easy"] * 4), ({"setting": ""}, ["easy"] * 4), ({}, ["easy"] * 4)])
def test_the_settings_of_the_data_are_played(noted, settings, tmp_path, monkeypatch, shipped):
    (tmp_path / "meta.json").write_text(json.dumps(noted))
    played = Scripted(1)
    monkeypatch.setattr(early, "run_episode", played)
    monkeypatch.setattr(early, "Cell", lambda spec: object())
    EarlyEvaluation(SPEC, ["lift_tray"], 100, 4, tmp_path, train._settings(tmp_path)).run(shipped, 100)
    assert played.settings == settings


def test_each_task_is_played_and_counted(tmp_path, monkeypatch, shipped):
    monkeypatch.setattr(early, "Cell", lambda spec: object())
    monkeypatch.setattr(early, "run_episode", lambda policy, cell, case: type(
        "Result", (), {"success": case.task == "press_button" or case.seed == early.FIRST_SEED})())
    found = EarlyEvaluation(SPEC, ["lift_tray", "press_button"], 100, 3, tmp_path).run(shipped, 100)
    assert (found.successes, found.episodes, found.by_task) == (4, 6, {"lift_tray": 1, "press_button": 3})


def test_without_a_task_that_can_be_played_it_is_never_due(tmp_path):
    assert not EarlyEvaluation(SPEC, [], 100, 3, tmp_path).due(100)


def narrow(layout="rgb", **parts):
    """A narrow model with these parts and first weights, and the canvas that it sees."""
    torch.manual_seed(0)
    seen = seen_layout(SPEC, layout)
    config = dataclasses.replace(CONFIG, layout=layout, canvas_width_px=seen.width_px, **parts)
    coder = Autoencoder(AutoencoderConfig(seen.height_px, seen.width_px, CONFIG.latent_channels, (8, 8, 8)))
    return dataclasses.replace(make_checkpoint(), config=config, model=WorldActionModel(config).state_dict(),
                               autoencoder=coder.eval(), layout_hash=seen.layout_hash)


@pytest.mark.parametrize("parts", [
    {}, {"layout": "rgbd"}, {"paths": True}, {"geometry": GeometryConfig("measured")},
    {"geometry": GeometryConfig("predicted"), "layout": "rgbd", "paths": True}, {"geometry": GeometryConfig("off")},
], ids=lambda parts: " ".join(parts) or "plain")
def test_every_kind_of_model_plays_a_real_episode_and_sees_what_it_was_trained_on(parts, tmp_path, monkeypatch):
    played = []

    def short(policy, cell, case):
        played.append(run_episode(policy, cell, case, LoopConfig(limit_s=0.7)))
        return played[-1]

    monkeypatch.setattr(early, "load_text_encoder", lambda name, tokens: LetterEncoder())
    monkeypatch.setattr(early, "Cell", kept_cell)
    monkeypatch.setattr(early, "run_episode", short)
    found = EarlyEvaluation(SPEC, ["place_block_pad"], 100, 1, tmp_path).run(narrow(**parts), 100)
    assert (found.successes, found.episodes) == (0, 1)
    result, = played
    assert (result.failure, len(result.plan_s)) == ("timeout", 2)
    assert load_checkpoint(tmp_path / "best", SPEC).config.needs_scene == (parts not in (
        {}, {"geometry": GeometryConfig("off")}))
