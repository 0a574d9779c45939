"""Stage two: the stochastic sampler's marginals and likelihoods, GRPO's terms, and what stays frozen."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rl_kit import CONFIG, draws, narrow_model, of_four_steps
from torch.distributions import Normal, kl_divergence
from wam_kit import LetterEncoder, make_checkpoint

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.kinematics.robot import RobotKinematics
from starry_ros.paths import robot_file
from starry_ros.robot_spec import load_robot_spec
from starry_ros.sim.cases import Case
from starry_ros.sim.cell import Cell
from starry_ros.sim.choices import LoopConfig
from starry_ros.sim.kinematics import ArmKinematics
from starry_ros.training import rl_rollout
from starry_ros.training.rl_rollout import (
    BusyHand,
    RolloutJob,
    busy_arm,
    executed_steps,
    hand_directions,
    landing_reward,
    play_rollout,
)
from starry_ros.training.rl_sampler import aims, along, log_likelihood, means
from starry_ros.training.train_rl import Learner, divergence, frozen_fingerprint, grpo_loss
from starry_ros.wam.checkpoint import save_checkpoint
from starry_ros.wam.model import WorldActionModel
from starry_ros.wam.options import GeometryConfig
from starry_ros.wam.runtimes.graphs import build_graphs, graph_specs

SPEC = load_robot_spec(robot_file("bimanual_sim"))
SERVED = 1e-9
"""So little is drawn that plans are those that are served."""


def test_likelihood_and_divergence_are_those_of_torch_distributions():
    generator = torch.Generator().manual_seed(1)
    aim, mean, first = torch.randn(3, 5, 4, generator=generator)
    exact = Normal(mean, 0.3).log_prob(aim).sum(-1)
    assert torch.allclose(log_likelihood(aim, mean, 0.3), exact, rtol=1e-4)
    exact = kl_divergence(Normal(mean, 0.3), Normal(first, 0.3)).sum(-1)
    assert torch.allclose(divergence(mean, first, 0.3), exact, rtol=1e-5)


@pytest.mark.parametrize(("ratio", "advantage", "gain", "clipped"), [
    (1.1, 1.0, 1.1, False), (1.5, 1.0, 1.2, True), (0.5, 1.0, 0.5, False),
    (0.5, -1.0, -0.8, True), (1.5, -1.0, -1.5, False),
])
def test_the_objective_is_clipped_where_it_would_run_away(ratio, advantage, gain, clipped):
    loss, was = grpo_loss(torch.tensor([math.log(ratio)]), torch.zeros(1), torch.tensor([advantage]), 0.2)
    assert float(loss) == pytest.approx(-gain, rel=1e-5)
    assert bool(was) is clipped


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return narrow_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def start(folder):
    return of_four_steps(folder)


def act_names(start):
    return tuple(next(spec for spec in graph_specs(start.config) if spec.name == "act").inputs)


@pytest.mark.parametrize("committed", [0, 3])
def test_the_likelihood_of_a_plan_can_be_computed_again_from_what_was_kept(start, committed):
    learner = Learner(start, CONFIG)
    made, given = draws(start, credited=(4, 7), committed=committed)
    for draw, plan_KJ in zip(made, given, strict=True):
        assert len(draw.s_N) == start.config.action_steps
        assert draw.committed == committed
        assert np.allclose(plan_KJ[4:7].mean(0), draw.aim_J, atol=1e-5)
        mean_J = means(learner._act, act_names(start), [draw])[0]
        again = Normal(mean_J, CONFIG.spread).log_prob(torch.from_numpy(draw.aim_J)).sum()
        assert again.item() == pytest.approx(draw.log_p, abs=2e-2)


def test_every_chunk_step_that_is_not_committed_moves_by_the_offset(start):
    (made, moved), (_, served) = draws(start, 1, committed=2), draws(start, 1, committed=2, spread=SERVED)
    offset_KJ = moved[0] - served[0]
    assert np.allclose(offset_KJ[:2], 0.0)
    assert np.allclose(offset_KJ[2:], offset_KJ[2], atol=1e-5)
    assert 0.3 * CONFIG.spread < np.abs(offset_KJ[2]).mean() < 3 * CONFIG.spread
    assert len(made) == 1


def test_plans_in_a_row_have_one_offset_and_later_ones_another(start):
    (_, moved), (_, served) = draws(start, 5, held=2), draws(start, 5, spread=SERVED)
    first, second, third, fourth, last = [there[-1] - here[-1] for there, here in zip(moved, served, strict=True)]
    assert np.abs(first).max() > 0.1
    assert np.allclose(second, first, atol=1e-5)
    assert np.abs(third - first).max() > 0.05
    assert np.allclose(fourth, third, atol=1e-5)
    assert np.abs(last - third).max() > 0.05


def test_the_likelihood_along_directions_is_that_of_the_offsets_in_them(start):
    """Oracle: the offsets that make the difference to what was served, by least squares."""
    directions_JH, asked = np.random.default_rng(5).normal(0, 2, (start.config.joints, 3)), []

    def directions(served_KJ, fresh):
        asked.append((served_KJ, fresh))
        return directions_JH

    (made, moved), (_, served) = draws(start, 3, held=2, directions=directions), draws(start, 3, spread=SERVED)
    assert [fresh for _, fresh in asked] == [True, False, True]
    means_DJ = means(Learner(start, CONFIG)._act, act_names(start), made).detach()
    again = log_likelihood(along(aims(made), made), along(means_DJ, made), CONFIG.spread)
    for draw, there, here, log_p, (shown_KJ, _) in zip(made, moved, served, again, asked, strict=True):
        assert np.allclose(shown_KJ, here, atol=1e-6)
        offset_H, rest, *_ = np.linalg.lstsq(directions_JH, there[-1] - here[-1], rcond=None)
        assert rest[0] < 1e-8
        exact = Normal(0.0, CONFIG.spread).log_prob(torch.from_numpy(offset_H)).sum().item()
        assert exact == pytest.approx(draw.log_p, abs=1e-3)
        assert log_p.item() == pytest.approx(draw.log_p, abs=2e-2)


@pytest.mark.parametrize("arm", [0, 1])
def test_an_offset_of_one_centimetre_moves_one_hand_so_far_and_turns_none(arm):
    robot, scale_J, home_J = RobotKinematics(SPEC), np.linspace(0.1, 0.5, 14), SPEC.limit("home")
    home_J[[3, 10]] += 0.2
    directions_JH = hand_directions(robot, home_J, scale_J, SPEC.arms[arm].name)
    assert directions_JH.shape == (14, 3)
    robot.place(home_J)
    before = [robot.hand_pose(each.name) for each in SPEC.arms]
    for direction in range(3):
        robot.place(home_J + 0.01 * directions_JH[:, direction] * scale_J)
        after = [robot.hand_pose(each.name) for each in SPEC.arms]
        moved = np.concatenate([there[:3, 3] - here[:3, 3] for here, there in zip(before, after, strict=True)])
        assert moved == pytest.approx(0.01 * np.eye(6)[3 * arm + direction], abs=1.5e-3)
        for here, there in zip(before, after, strict=True):
            assert np.trace(here[:3, :3].T @ there[:3, :3]) > 1 + 2 * math.cos(0.01)
    assert not directions_JH[list(SPEC.gripper_indices)].any()


def test_the_busy_arm_is_the_one_that_a_plan_moves_farther_whatever_the_jaws_do():
    positions_KJ = np.zeros((16, 14))
    positions_KJ[:, 2], positions_KJ[:, 9] = np.linspace(0, 0.3, 16), np.linspace(0, -0.4, 16)
    positions_KJ[8:, 6] = 0.9
    assert busy_arm(SPEC, positions_KJ) == 1
    positions_KJ[::2, 3] = 0.1
    assert busy_arm(SPEC, positions_KJ) == 0, "there and back again is a way too"


def test_the_hand_that_is_at_work_as_an_offset_begins_keeps_it_to_its_end():
    cell, stats = Cell(SPEC), make_checkpoint().stats
    cell.advance(0.002)
    hand, position_J = BusyHand(cell, stats, (2, 6)), cell.state(0).position_J
    ways_KJ = np.tile(position_J, (len(stats.action_scale_KJ), 1))
    one_KJ, other_KJ = ways_KJ.copy(), ways_KJ.copy()
    one_KJ[:, 0] += np.linspace(0, 0.3, len(ways_KJ))
    other_KJ[:, 7] += np.linspace(0, 0.3, len(ways_KJ))
    right = [np.flatnonzero(hand(stats.actions_to_model(positions_KJ, position_J), fresh).any(axis=1)).min() >= 7
             for positions_KJ, fresh in ((one_KJ, True), (other_KJ, False), (other_KJ, True), (one_KJ, False))]
    assert right == [False, False, True, True]


def test_plans_in_one_pass_have_the_means_of_plans_one_by_one(start):
    learner, (made, _) = Learner(start, CONFIG), draws(start, 3, committed=1)
    together = means(learner._act, act_names(start), made)
    for draw, found in zip(made, together, strict=True):
        assert torch.allclose(found, means(learner._act, act_names(start), [draw])[0], atol=1e-5)


def test_plans_are_computed_again_on_another_device_without_mixing_devices(start):
    """The device without numbers stands for a GPU: an operation on two devices raises there too."""
    device, (made, _) = torch.device("meta"), draws(start, 2, committed=1)
    act = build_graphs(WorldActionModel(start.config).to(device), start.autoencoder)["act"]
    with device:
        log_p = log_likelihood(aims(made), means(act, act_names(start), made), 0.2)
    assert (log_p.device, log_p.shape) == (device, (2,))


def test_only_steps_that_are_executed_get_credit():
    """Two are committed when it arrives, and it is in force until the next one comes, 0.55 s after its observation."""
    assert executed_steps(LoopConfig(0.15, 0.4), 0.1) == (2, 6)
    assert executed_steps(LoopConfig(0.2, 0.4), 0.1) == (3, 6)


def test_an_update_follows_the_advantage_and_touches_the_action_stream_alone(start):
    learner, (samples, _) = Learner(start, CONFIG), draws(start)
    before, frozen = dict(start.model), frozen_fingerprint(learner.model, learner.trained)
    statistics = learner.update([(samples[0], 1.0), (samples[1], -1.0)], np.random.default_rng(0))
    assert frozen_fingerprint(learner.model, learner.trained) == frozen
    changed = {name for name, value in learner.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert changed <= set(learner.trained)
    after_DJ = means(learner._act, act_names(start), samples).detach()
    gains = log_likelihood(aims(samples), after_DJ, CONFIG.spread) - torch.tensor([draw.log_p for draw in samples])
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
        session = policy.planner.session
        seen.append((session.epoch, session._noise(), session.runtime.engines["act"]._rng.standard_normal()))
        harvest.rewards += [0.1, 0.5, 0.7]
        harvest.expected_s += [6.0, 6.5, 7.0]
        return SimpleNamespace(success=True, duration_s=7.5)

    monkeypatch.setattr(rl_rollout, "run_episode", run)
    monkeypatch.setattr(rl_rollout, "load_text_encoder", lambda name, tokens: LetterEncoder())
    monkeypatch.setattr(rl_rollout, "kept_cell", lambda spec: SimpleNamespace(spec=spec))
    monkeypatch.setattr(rl_rollout, "make_expert", lambda task, cell: None)
    jobs = [RolloutJob(folder, SPEC, Case(5_000_007, split="train"), (0, seed), 4, 0.2, 2) for seed in (11, 12)]
    found = [play_rollout(job) for job in jobs]
    assert [rollout.job for rollout in found] == jobs
    assert [(rollout.rewards, rollout.expected_s) for rollout in found] == [((0.1, 0.5, 0.7), (6.0, 6.5, 7.0, 7.5))] * 2
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


def test_statistics_are_means_over_plans(start):
    drawn, other = draws(start)[0]
    shifted, found = dataclasses.replace(drawn, log_p=drawn.log_p - 0.5), []
    for samples in ([(shifted, 1.0)], [(shifted, 1.0), (other, 0.0)]):
        learner = Learner(start, dataclasses.replace(CONFIG, epochs=1, batch=99, clip=1e-9))
        found.append(learner.update(samples, np.random.default_rng(0)))
    assert found[0]["clipped"] == 1.0
    assert found[0]["ratio_off"] == pytest.approx(math.exp(0.5) - 1, rel=0.05)
    for name in ("clipped", "ratio_off", "loss"):
        assert found[1][name] == pytest.approx(found[0][name] / 2, abs=0.02), name


def test_a_model_that_needs_the_scene_is_given_it_while_it_plays_for_its_own_learning(tmp_path, monkeypatch):
    torch.manual_seed(0)
    config = dataclasses.replace(make_checkpoint().config, geometry=GeometryConfig("measured"))
    save_checkpoint(tmp_path, dataclasses.replace(
        make_checkpoint(), config=config, model=WorldActionModel(config).state_dict()))
    monkeypatch.setattr(rl_rollout, "load_text_encoder", lambda name, tokens: LetterEncoder())
    monkeypatch.setattr(rl_rollout, "LOOP", LoopConfig(limit_s=0.9))
    found = play_rollout(RolloutJob(tmp_path, SPEC, Case(5_000_000, split="train"), (1,), 3, 0.01, 2))
    assert (len(found.rewards), len(found.draws), len(found.expected_s), found.success) == (3, 3, 4, False)
