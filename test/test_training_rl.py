"""Stage two: the stochastic sampler's marginals and likelihoods, GRPO's terms, and what stays frozen."""

from __future__ import annotations

import dataclasses
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence
from wam_kit import LetterEncoder, make_checkpoint

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.errors import CheckpointError, ConfigError
from starry_ros.paths import robot_file
from starry_ros.robot_spec import load_robot_spec
from starry_ros.sim.cases import Case
from starry_ros.sim.cell import Cell
from starry_ros.sim.choices import LoopConfig
from starry_ros.sim.kinematics import ArmKinematics
from starry_ros.sim.loop import run_episode
from starry_ros.sim.tasks import drawn_case, task_of
from starry_ros.training import rl_rollout, train_rl
from starry_ros.training.budgets import RlConfig
from starry_ros.training.rl_layouts import PLAYS_MOST, next_layouts
from starry_ros.training.rl_rollout import Rollout, RolloutJob, executed_steps, landing_reward, play_rollout
from starry_ros.training.rl_sampler import (
    StochasticAct,
    deviation,
    deviations,
    log_likelihood,
    log_likelihoods,
    means,
    step_mean,
)
from starry_ros.training.train_rl import Learner, RlTrainer, advantages, divergence, frozen_fingerprint, grpo_loss
from starry_ros.wam.checkpoint import load_checkpoint, save_checkpoint
from starry_ros.wam.model import WorldActionModel
from starry_ros.wam.options import GeometryConfig
from starry_ros.wam.runtimes.base import Noise
from starry_ros.wam.runtimes.graphs import graph_specs
from starry_ros.wam.runtimes.torch_runtime import torch_runtime
from starry_ros.wam.sampler import levels

SPEC = load_robot_spec(robot_file("bimanual_sim"))
CONFIG = RlConfig(sampler_steps=4, noise_level=0.4, learning_rate=1e-3, epochs=2, batch=2)


def test_the_noisy_sampler_has_the_marginals_of_the_plain_one():
    """Data N(1.5, 0.5^2): velocity and marginals are known in closed form."""
    generator = torch.Generator().manual_seed(0)
    mean, spread = 1.5, 0.5
    x = torch.randn(40_000, 1, generator=generator)
    for s, ds in levels(150):
        variance = ((1 - s) * spread) ** 2 + s**2
        off = x - (1 - s) * mean
        data = mean + (1 - s) * spread**2 / variance * off
        velocity = s / variance * off - data
        x = step_mean(x, velocity, s, ds, 0.6)
        if s + ds > 1e-6:
            x = x + deviation(s, 0.6) * math.sqrt(-ds) * torch.randn(x.shape, generator=generator)
    assert abs(float(x.mean()) - mean) < 0.02
    assert abs(float(x.std()) - spread) < 0.02


def test_without_noise_the_step_is_eulers():
    x, v = torch.randn(2, 3), torch.randn(2, 3)
    assert torch.equal(step_mean(x, v, 0.5, -0.1, 0.0), x - 0.1 * v)


def test_likelihood_and_divergence_are_those_of_torch_distributions():
    generator = torch.Generator().manual_seed(1)
    following, mean, first = torch.randn(3, 5, 4, 2, generator=generator)
    std = torch.tensor([0.1, 0.5, 0.2, 0.9, 0.3])
    for i in range(5):
        exact = Normal(mean[i], std[i]).log_prob(following[i]).sum()
        assert torch.allclose(log_likelihood(following[i][None], mean[i][None], float(std[i])), exact, rtol=1e-4)
    wide = std[:, None, None].expand_as(mean)
    exact = kl_divergence(Normal(mean, wide), Normal(first, wide)).sum((1, 2)).mean()
    assert torch.allclose(divergence(mean, first, std), exact, rtol=1e-5)


def test_advantages_have_mean_zero_and_deviation_one_or_are_zero():
    found = advantages([0.1, 1.2, 0.4, 0.9])
    assert abs(found.mean()) < 1e-12
    assert abs(found.std() - 1) < 1e-12
    assert np.argmax(found) == 1
    assert (advantages([0.7, 0.7]) == 0).all()


def test_where_all_succeed_the_rest_of_the_return_is_not_blown_up():
    rest = np.array([0.297, 0.295, 0.299, 0.296])
    assert np.abs(advantages(1 + rest)).max() < 0.05
    assert np.abs(advantages([1.297, 0.295, 1.299, 1.296])).max() > 1


def test_layouts_whose_outcomes_differ_are_played_once_more():
    assert next_layouts([], 3) == [0, 1, 2]
    past = [{"0": [8, 8], "1": [5, 8], "2": [0, 8]}]
    assert next_layouts(past, 3) == [1, 3, 4]
    past += [{"1": [7, 8], "3": [1, 8], "4": [2, 8]}]
    assert next_layouts(past, 1) == [3]
    assert next_layouts([*past, {"3": [1, 8]}], 3) == [4, 5, 6]
    assert next_layouts([{"0": [1, 2]}] * (PLAYS_MOST - 1), 1) == [0]
    assert next_layouts([{"0": [1, 2]}] * PLAYS_MOST, 1) == [1]


@pytest.mark.parametrize(("ratio", "advantage", "gain", "clipped"), [
    (1.1, 1.0, 1.1, False), (1.5, 1.0, 1.2, True), (0.5, 1.0, 0.5, False),
    (0.5, -1.0, -0.8, True), (1.5, -1.0, -1.5, False),
])
def test_the_objective_is_clipped_where_it_would_run_away(ratio, advantage, gain, clipped):
    loss, was = grpo_loss(torch.tensor([math.log(ratio)]), torch.zeros(1), advantage, 0.2)
    assert float(loss) == pytest.approx(-gain, rel=1e-5)
    assert bool(was) is clipped


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_checkpoint(folder, make_checkpoint())
    return folder


@pytest.fixture(scope="module")
def start(folder):
    checkpoint = load_checkpoint(folder, SPEC)
    return dataclasses.replace(checkpoint, config=dataclasses.replace(checkpoint.config, action_steps=4))


def draws(checkpoint, count=2, credited=(0, None)):
    """Plans of a narrow model on random canvases, and how they were drawn."""
    runner, rng = torch_runtime(checkpoint.build_model(), checkpoint.autoencoder), np.random.default_rng(0)
    act = runner.engines["act"] = StochasticAct(runner.engines["act"], CONFIG.noise_level, 3, credited)
    c = runner.config

    def normal(*shape):
        return rng.standard_normal(shape, dtype=np.float32)

    runner.set_text(normal(c.text_tokens, c.text_width), np.ones(c.text_tokens, np.float32))
    found = []
    for i in range(count):
        runner.observe(rng.integers(0, 256, (c.canvas_height_px, c.canvas_width_px, 3), dtype=np.uint8), 4 * i)
        noise = Noise(normal(1, c.frame_tokens, c.latent_token_width), normal(1, c.frame_tokens, c.value_token_width),
                      normal(1, c.chunk_steps, c.joints))
        runner.predict(noise, normal(c.joints))
        found.append(act.draw())
        runner.commit(normal(c.history_actions, c.joints), np.ones(c.history_actions, np.float32))
    return found


def test_the_likelihood_of_a_plan_can_be_computed_again_from_what_was_kept(start):
    learner = Learner(start, CONFIG)
    names = tuple(next(spec for spec in graph_specs(start.config) if spec.name == "act").inputs)
    for draw in draws(start):
        assert len(draw.s_N) == CONFIG.sampler_steps - 1
        mean = means(learner._act, names, [draw], CONFIG.noise_level)[0]
        again = log_likelihoods(draw, mean, CONFIG.noise_level).detach().numpy()
        assert np.allclose(again, draw.log_p_N, atol=2e-2)
        exact = Normal(mean, deviations(draw, CONFIG.noise_level)[:, None, None])
        assert np.allclose(exact.log_prob(torch.from_numpy(draw.following_NKJ)).sum((1, 2)).detach(), again, atol=2e-2)


def test_plans_in_one_pass_have_the_means_of_plans_one_by_one(start):
    learner, made = Learner(start, CONFIG), draws(start, 3)
    names = tuple(next(spec for spec in graph_specs(start.config) if spec.name == "act").inputs)
    together = means(learner._act, names, made, CONFIG.noise_level)
    for draw, found in zip(made, together, strict=True):
        alone = means(learner._act, names, [draw], CONFIG.noise_level)[0]
        assert torch.allclose(found, alone, atol=1e-5)
        off = torch.from_numpy(draw.following_NKJ) - found.detach()
        assert 0.9 < float((off / deviations(draw, CONFIG.noise_level)[:, None, None]).std()) < 1.1


def test_only_steps_that_are_executed_get_credit(start):
    """Two are committed when it arrives, and it is in force until the next one comes, 0.55 s after its observation."""
    assert executed_steps(LoopConfig(0.15, 0.4), 0.1) == (2, 6)
    assert executed_steps(LoopConfig(0.2, 0.4), 0.1) == (3, 6)
    learner = Learner(start, CONFIG)
    names = tuple(next(spec for spec in graph_specs(start.config) if spec.name == "act").inputs)
    draw = draws(start, 1, credited=(2, 6))[0]
    mean = means(learner._act, names, [draw], CONFIG.noise_level)[0].detach()
    exact = Normal(mean, deviations(draw, CONFIG.noise_level)[:, None, None])
    wanted = exact.log_prob(torch.from_numpy(draw.following_NKJ))[:, 2:6].sum((1, 2))
    assert np.allclose(wanted, draw.log_p_N, atol=2e-2)
    assert np.allclose(wanted, log_likelihoods(draw, mean, CONFIG.noise_level), atol=2e-2)


def test_an_update_follows_the_advantage_and_touches_the_action_stream_alone(start):
    learner, samples = Learner(start, CONFIG), draws(start)
    before, frozen = dict(start.model), frozen_fingerprint(learner.model, learner.trained)
    statistics = learner.update([(samples[0], 1.0), (samples[1], -1.0)], np.random.default_rng(0))
    assert frozen_fingerprint(learner.model, learner.trained) == frozen
    changed = {name for name, value in learner.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert changed <= set(learner.trained)
    names = tuple(next(spec for spec in graph_specs(start.config) if spec.name == "act").inputs)
    gains = [
        float((log_likelihoods(draw, means(learner._act, names, [draw], CONFIG.noise_level)[0], CONFIG.noise_level)
               - torch.from_numpy(draw.log_p_N)).sum().detach()) for draw in samples
    ]
    assert gains[0] > gains[1]
    assert statistics["kl"] >= 0
    assert 0 <= statistics["clipped"] <= 1


def test_the_reward_is_the_map_where_the_hand_will_be():
    cell = Cell(SPEC)
    cell.advance(0.002)
    home = SPEC.limit("home")
    home[7:13] = [0.1, 0.3, 0.2, 0.0, 1.07, 0.0]
    layout, camera = t_pose_layout(SPEC), cell.camera_model("head")
    point = ArmKinematics.from_model(cell.model, "right").pinch(home[7:13])
    x, y, z = camera.T_world_cam[:3, :3].T @ (point - camera.T_world_cam[:3, 3])
    u_px, v_px = layout.camera_to_canvas(
        "head", [camera.fx_px * x / z + camera.cx_px, camera.fy_px * y / z + camera.cy_px])
    values = np.zeros((2, 48, 40), np.float32)
    values[0, round((v_px - 1.5) / 4), round((u_px - 1.5) / 4)] = 0.8
    plan = SimpleNamespace(value_map=SimpleNamespace(values_EHW=values, stride_px=4),
                           chunk=SimpleNamespace(positions_KJ=np.tile(home, (16, 1))))
    assert landing_reward(cell, plan) == pytest.approx(0.8)
    values[:] = 0
    assert landing_reward(cell, plan) == 0.0


def test_a_hand_that_hangs_over_the_contact_earns_nothing():
    cell = Cell(SPEC)
    cell.advance(0.002)
    values = np.full((2, 48, 40), 0.9, np.float32)
    plan = SimpleNamespace(value_map=SimpleNamespace(values_EHW=values, stride_px=4),
                           chunk=SimpleNamespace(positions_KJ=np.tile(cell.state(0).position_J, (16, 1))))
    assert landing_reward(cell, plan) == 0.0


def test_episodes_of_a_group_differ_by_nothing_but_the_noise_that_gets_credit(folder, monkeypatch):
    """The noise of the imagined frame and of the value map is that of `starry eval`; actions start from no noise."""
    seen = []

    def run(policy, cell, case, config, harvest):
        policy.reset("take red")
        seen.append((policy.planner.session.epoch, policy.planner.session._noise(), harvest.act._rng.standard_normal()))
        harvest.rewards.append(0.5)
        return SimpleNamespace(success=True)

    monkeypatch.setattr(rl_rollout, "run_episode", run)
    monkeypatch.setattr(rl_rollout, "load_text_encoder", lambda name, tokens: LetterEncoder())
    monkeypatch.setattr(rl_rollout, "kept_cell", lambda spec: None)
    jobs = [RolloutJob(folder, SPEC, Case(5_000_007, split="train"), seed, 4, 0.7, 2) for seed in (11, 12)]
    found = [play_rollout(job) for job in jobs]
    assert [rollout.noise_seed for rollout in found] == [11, 12]
    (epoch, first, drawn), (other_epoch, second, other_drawn) = seen
    assert epoch == other_epoch == 5_000_008
    assert np.array_equal(first.video, second.video)
    assert np.array_equal(first.value, second.value)
    assert not first.action.any()
    assert not second.action.any()
    assert drawn != other_drawn
    kept = rl_rollout._session(jobs[0])
    assert rl_rollout._session(jobs[1])[0] is kept[0]
    save_checkpoint(folder, make_checkpoint())
    assert rl_rollout._session(jobs[0])[0] is not kept[0]


def test_a_run_is_resumed_and_a_changed_frozen_tensor_is_found(start, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(train_rl, "play_rollout", stub(draws(start, 2), 2))
    config = dataclasses.replace(CONFIG, iterations=2, groups=1, group_size=2, learning_rate=1e-4)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    trainer = RlTrainer(folder, SPEC, config, whole)
    for _ in range(2):
        trainer.iterate(1)
    for _ in range(2):
        RlTrainer(folder, SPEC, config, parts).iterate(1)
    first, second = (load_checkpoint(folder / "checkpoint", SPEC).model for folder in (whole, parts))
    assert all(torch.equal(first[name], second[name]) for name in first)
    records = [json.loads(line) for line in (parts / "metrics.jsonl").read_text().splitlines()]
    assert [record["iteration"] for record in records] == [1, 2]
    assert [record["layouts"] for record in records] == [{"0": [1, 2]}, {"0": [1, 2]}]
    assert records[1]["success"] == 0.5
    with torch.no_grad():
        trainer.learner.model.latent_out.weight[0, 0] += 1e-3
    with pytest.raises(CheckpointError, match="frozen tensor has changed"):
        trainer.iterate(1)
    assert trainer._jobs(2)[0].case.seed == 5_000_001


@pytest.mark.parametrize(("change", "got", "expected"), [
    ({"tasks": ("lift_tray", "press_button")}, "--task lift_tray press_button", "--task place_block_pad"),
    ({"setting": "hard"}, "--setting hard", "--setting easy"),
    ({"groups": 2, "group_size": 4}, "--groups 2, --group-size 4", "--groups 1, --group-size 2"),
])
def test_a_run_is_not_resumed_with_other_layouts_or_groups(start, folder, tmp_path, monkeypatch, change, got, expected):
    monkeypatch.setattr(train_rl, "play_rollout", stub(draws(start, 2), 2))
    config = dataclasses.replace(CONFIG, groups=1, group_size=2)
    RlTrainer(folder, SPEC, config, tmp_path).iterate(1)
    with pytest.raises(ConfigError) as refused:
        RlTrainer(folder, SPEC, dataclasses.replace(config, **change), tmp_path)
    assert (refused.value.got, refused.value.expected) == (got, expected)
    free = dataclasses.replace(config, iterations=99, learning_rate=1e-5, kl_weight=0.5, seed=3)
    assert RlTrainer(folder, SPEC, free, tmp_path).progress.step == 1


def test_a_run_is_not_resumed_from_another_model_although_its_frozen_tensors_are_the_same(folder, tmp_path):
    config = dataclasses.replace(CONFIG, groups=1, group_size=2)
    RlTrainer(folder, SPEC, config, tmp_path / "run")
    other = load_checkpoint(folder, SPEC)
    weights = {**other.model, "action_out.bias": other.model["action_out.bias"] + 1e-3}
    save_checkpoint(tmp_path / "other", dataclasses.replace(other, model=weights))
    hashes = [load_checkpoint(path).weights_sha256[:16] for path in (tmp_path / "other", folder)]
    with pytest.raises(ConfigError, match="got --model {}; expected --model {}".format(*hashes)):
        RlTrainer(tmp_path / "other", SPEC, config, tmp_path / "run")


def test_a_model_that_needs_the_scene_is_given_it_while_it_plays_for_its_own_learning(tmp_path, monkeypatch):
    torch.manual_seed(0)
    config = dataclasses.replace(make_checkpoint().config, geometry=GeometryConfig("measured"))
    save_checkpoint(tmp_path, dataclasses.replace(
        make_checkpoint(), config=config, model=WorldActionModel(config).state_dict()))
    monkeypatch.setattr(rl_rollout, "load_text_encoder", lambda name, tokens: LetterEncoder())
    monkeypatch.setattr(rl_rollout, "run_episode", lambda policy, cell, case, loop, harvest: run_episode(
        policy, cell, case, dataclasses.replace(loop, limit_s=0.7), harvest))
    found = play_rollout(RolloutJob(tmp_path, SPEC, Case(5_000_000, split="train"), 1, 3, 0.4, 2))
    assert (found.plans, len(found.draws)) == (2, 2)


def stub(made, size):
    """Stands in for `play_rollout`: every other episode succeeds."""

    def play(job):
        member = job.noise_seed % size
        return Rollout(job.case, 0.5, bool(member % 2), (made[member % 2],), 1, job.noise_seed)

    return play


def test_the_order_in_which_episodes_finish_changes_nothing(start, folder, tmp_path, monkeypatch):
    config = dataclasses.replace(CONFIG, groups=2, group_size=2, learning_rate=1e-4)
    monkeypatch.setattr(train_rl, "play_rollout", stub(draws(start, 2), 2))
    weights = []
    for name, order in (("forth", 1), ("back", -1)):
        monkeypatch.setattr(train_rl, "run_jobs", lambda work, jobs, workers, order=order: map(work, jobs[::order]))
        trainer = RlTrainer(folder, SPEC, config, tmp_path / name)
        trainer.iterate(2)
        weights.append(trainer.learner.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_layouts_and_sentences_are_of_training(folder, tmp_path):
    config = dataclasses.replace(CONFIG, groups=12, setting="hard", tasks=("place_dual_blocks",))
    cases = {job.case for job in RlTrainer(folder, SPEC, config, tmp_path)._jobs(0)}
    assert {case.split for case in cases} == {"train"}
    unseen = {template.format("red", "blue") for template in task_of("place_dual_blocks").hard_templates}
    sentences = {drawn_case(case.split, case.seed, case.task, case.setting)[2] for case in cases}
    assert len(sentences) == 12
    assert not sentences & unseen


def test_an_iteration_that_was_cut_off_while_saving_is_forgotten(start, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(train_rl, "play_rollout", stub(draws(start, 2), 2))
    config = dataclasses.replace(CONFIG, groups=1, group_size=2)
    RlTrainer(folder, SPEC, config, tmp_path).iterate(1)
    metrics = tmp_path / "metrics.jsonl"
    whole = metrics.read_text()
    metrics.write_text(whole + json.dumps({"iteration": 2, "layouts": {"0": [0, 2], "1": [1, 2]}}) + "\n")
    trainer = RlTrainer(folder, SPEC, config, tmp_path)
    assert metrics.read_text() == whole
    assert {job.case.seed for job in trainer._jobs(1)} == {5_000_000}


def test_as_many_sampler_steps_are_taken_as_the_model_has(folder, tmp_path):
    trainer = RlTrainer(folder, SPEC, dataclasses.replace(CONFIG, sampler_steps=0), tmp_path)
    assert {job.steps for job in trainer._jobs(0)} == {load_checkpoint(folder).config.action_steps}
