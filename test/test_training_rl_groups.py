"""Stage two: which episodes an iteration plays, what they get credit for, and runs of several iterations."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rl_kit import CONFIG, draws, narrow_model, of_four_steps
from wam_kit import SPEC

from starry_ros.errors import CheckpointError, ConfigError
from starry_ros.sim.tasks import TASKS, drawn_case, task_of
from starry_ros.training import train_rl
from starry_ros.training.pool import HERE
from starry_ros.training.rl_groups import FIRST_SEED, Schedule, groups_of
from starry_ros.training.rl_rollout import Rollout
from starry_ros.training.train_rl import Learner, RlTrainer
from starry_ros.wam.checkpoint import load_checkpoint, save_checkpoint


def schedule(**changes):
    return Schedule(Path("model"), SPEC, dataclasses.replace(CONFIG, **changes), 4)


def ended(job, expected_s, made=None, success=True, rewards=None):
    plans = len(expected_s) - 1
    return Rollout(job, success, tuple(range(plans) if made is None else made),
                   tuple(rewards or (0.0,) * plans), tuple(expected_s))


def advantages(episodes, **changes):
    """Of a group of episodes: what was expected at their plans and ends, or that and more of `ended`."""
    plan = schedule(**{"layouts": 1, "group": len(episodes), "held": 2, "look_on_s": 0.8, "time_weight": 1.0,
                       "dense_weight": 0.0, "success_weight": 0.0} | changes)
    given = [each if isinstance(each, dict) else {"expected_s": each} for each in episodes]
    return plan.advantages([ended(job, **each) for job, each in zip(plan.jobs(0), given, strict=True)])


def test_a_group_plays_one_layout_with_other_offsets_and_iterations_others():
    plan = schedule(layouts=3, group=4, held=2)
    jobs, later = plan.jobs(0), plan.jobs(1)
    assert [job.case.seed - FIRST_SEED for job in jobs] == [0] * 4 + [1] * 4 + [2] * 4
    assert {job.case.seed - FIRST_SEED for job in later} == {3, 4, 5}
    assert len({job.noise_seed for job in jobs + later}) == 24
    assert {(job.spread, job.held, job.steps) for job in jobs} == {(CONFIG.spread, 2, 4)}
    assert schedule(layouts=3, group=4, held=2).jobs(1) == later
    assert not {job.noise_seed for job in schedule(layouts=3, group=4, seed=1).jobs(0)} & {j.noise_seed for j in jobs}


def test_whoever_loses_time_while_an_offset_lasts_is_blamed_and_the_others_are_praised():
    """Plans 2 and 3 share an offset; from the first of them to the next one's first the middle episode lost 0.9 s."""
    found = advantages([(5.0, 5.0, 5.0, 5.0, 5.0), (5.0, 5.0, 5.0, 5.4, 5.9), (5.0, 5.0, 5.0, 5.0, 5.0)])
    assert found == pytest.approx(np.array([[0, 0, 0.45, 0.45], [0, 0, -0.9, -0.9], [0, 0, 0.45, 0.45]]))


def test_what_is_lost_counts_as_long_as_it_is_looked_on():
    late = [(5.0, 5.0, 5.0, 6.0, 6.0, 6.0), (5.0,) * 6]
    assert advantages(late, held=1, look_on_s=0.4)[0] == pytest.approx([0, 0, -1, 0, 0])
    assert advantages(late, held=1, look_on_s=1.2)[0] == pytest.approx([-1, -1, -1, 0, 0])


def test_what_was_lost_for_good_counts_no_more_than_what_a_grasp_costs():
    found = advantages([(5.0, 15.0), (5.0, 5.0), (5.0, 5.0)], held=1)
    assert found[:, 0] == pytest.approx([-1.5, 1.5, 1.5])


def test_an_episode_that_is_over_loses_nothing_and_its_plans_alone_get_credit():
    plan = schedule(layouts=1, held=1, look_on_s=0.4, dense_weight=0.0, success_weight=0.0)
    jobs = plan.jobs(0)
    pair = [ended(jobs[0], (1.0, 1.0), "a"), ended(jobs[1], (1.0, 1.0, 1.6, 1.9), "bcd")]
    credits = [(made, round(credit, 9)) for made, credit in plan.credited(pair)]
    assert credits == [("a", 0.0), ("b", 0.0), ("c", -0.6), ("d", -0.3)]


def test_map_and_success_are_credited_by_their_weights():
    same_s = (5.0, 5.0, 5.0)
    good = {"expected_s": same_s, "rewards": (0.5, 0.3)}
    bad = {"expected_s": same_s, "rewards": (0.1, 0.3), "success": False}
    assert advantages([good, bad], dense_weight=0.5)[0] == pytest.approx([0.2, 0])
    assert advantages([good, bad], success_weight=0.3)[1] == pytest.approx([-0.3, -0.3])
    assert advantages([good, bad], dense_weight=0.5, success_weight=0.3)[0] == pytest.approx([0.5, 0.3])


def test_episodes_that_end_alike_teach_nothing_and_layouts_are_not_compared():
    plan = schedule(layouts=2, group=3)
    played = [ended(job, (9.0, 9.0 + job.case.seed % 2), success=bool(job.case.seed % 2)) for job in plan.jobs(0)]
    assert [len(group) for group in groups_of(played)] == [3, 3]
    assert [credit for _, credit in plan.credited(played)] == [0.0] * 6


def test_a_group_of_one_has_nothing_to_be_compared_with():
    with pytest.raises(ConfigError, match="--group 1"):
        schedule(group=1)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_task_asks_for_everything_in_all_its_words(count):
    tasks = TASKS[-count:]
    asked = {task: set() for task in tasks}
    plan = schedule(layouts=12 * count, tasks=tasks)
    for job in plan.jobs(0) + plan.jobs(1) + plan.jobs(2):
        _, target, sentence = drawn_case("train", job.case.seed, job.case.task, "easy")
        asked[job.case.task].add((target, sentence))
    for task, found in asked.items():
        assert len(found) == len(task_of(task).targets) * len(task_of(task).templates), task
    played = [job.case.task for job in plan.jobs(1)]
    assert [played.count(task) for task in tasks] == [12 * CONFIG.group] * count


def test_layouts_and_sentences_are_of_training():
    cases = {job.case for job in schedule(layouts=12, setting="hard", tasks=("place_dual_blocks",)).jobs(0)}
    assert {case.split for case in cases} == {"train"}
    unseen = {template.format("red", "blue") for template in task_of("place_dual_blocks").hard_templates}
    sentences = {drawn_case(case.split, case.seed, case.task, case.setting)[2] for case in cases}
    assert len(sentences) == 12
    assert not sentences & unseen


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return narrow_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def made(folder):
    return draws(of_four_steps(folder))[0]


@pytest.fixture
def played(made, monkeypatch):
    """The second episode of a group loses time."""

    def play(job):
        worse = job.noise_seed[-1] == 1
        return ended(job, (6.0, 6.0 + worse), made[worse : worse + 1])

    monkeypatch.setattr(train_rl, "play_rollout", play)
    return dataclasses.replace(CONFIG, iterations=2, learning_rate=1e-4)


def test_a_run_is_resumed_and_a_changed_frozen_tensor_is_found(folder, tmp_path, played):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    trainer = RlTrainer(folder, SPEC, played, whole)
    for _ in range(2):
        trainer.iterate(HERE)
    for _ in range(2):
        RlTrainer(folder, SPEC, played, parts).iterate(HERE)
    first, second = (load_checkpoint(folder / "checkpoint", SPEC).model for folder in (whole, parts))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], value) for name, value in load_checkpoint(folder, SPEC).model.items())
    records = [json.loads(line) for line in (parts / "metrics.jsonl").read_text().splitlines()]
    assert [record["iteration"] for record in records] == [1, 2]
    assert [(record["episodes"], record["samples"]) for record in records] == [(4, 4)] * 2
    assert (records[1]["success"], records[1]["lost_s"], records[1]["advantage"]) == (1.0, 0.5, 1.0)
    with torch.no_grad():
        trainer.learner.model.latent_out.weight[0, 0] += 1e-3
    with pytest.raises(CheckpointError, match="frozen tensor has changed"):
        trainer.iterate(HERE)


@pytest.mark.parametrize(("change", "got", "expected"), [
    ({"tasks": ("lift_tray", "press_button")}, "--task lift_tray press_button", "--task place_block_pad"),
    ({"setting": "hard"}, "--setting hard", "--setting easy"),
    ({"layouts": 4}, "--layouts 4", "--layouts 2"),
    ({"seed": 3}, "--seed 3", "--seed 0"),
    ({"learning_rate": 2e-4, "held": 1}, "--held 1, --learning-rate 0.0002", "--held 3, --learning-rate 0.0001"),
])
def test_a_run_is_not_resumed_with_other_options(folder, tmp_path, played, change, got, expected):
    RlTrainer(folder, SPEC, played, tmp_path).iterate(HERE)
    with pytest.raises(ConfigError) as refused:
        RlTrainer(folder, SPEC, dataclasses.replace(played, **change), tmp_path)
    assert (refused.value.got, refused.value.expected) == (got, expected)
    longer = dataclasses.replace(played, iterations=99)
    assert RlTrainer(folder, SPEC, longer, tmp_path).progress.step == 1


def test_plans_are_learnt_from_with_their_advantages(folder, tmp_path, played, monkeypatch):
    learnt = []
    monkeypatch.setattr(Learner, "update", lambda self, samples, rng, where: learnt.append(samples) or {})
    record = RlTrainer(folder, SPEC, dataclasses.replace(played, layouts=6, group=3), tmp_path).iterate(HERE)
    assert (record["episodes"], record["samples"]) == (18, 18)
    assert [credit for _, credit in learnt[0]] == [0.5, -1.0, 0.5] * 6


def test_a_run_is_not_resumed_from_another_model_although_its_frozen_tensors_are_the_same(folder, tmp_path):
    RlTrainer(folder, SPEC, CONFIG, tmp_path / "run")
    other = load_checkpoint(folder, SPEC)
    weights = {**other.model, "action_out.bias": other.model["action_out.bias"] + 1e-3}
    save_checkpoint(tmp_path / "other", dataclasses.replace(other, model=weights))
    hashes = [load_checkpoint(path).weights_sha256[:16] for path in (tmp_path / "other", folder)]
    with pytest.raises(ConfigError, match="got --model {}; expected --model {}".format(*hashes)):
        RlTrainer(tmp_path / "other", SPEC, CONFIG, tmp_path / "run")


def test_the_order_in_which_episodes_finish_changes_nothing(folder, tmp_path, played):
    weights = []
    for name, order in (("forth", 1), ("back", -1)):
        trainer = RlTrainer(folder, SPEC, dataclasses.replace(played, layouts=6), tmp_path / name)
        trainer.iterate(SimpleNamespace(run=lambda work, jobs, order=order: map(work, jobs[::order])))
        weights.append(trainer.learner.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_an_iteration_that_was_cut_off_while_saving_is_forgotten(folder, tmp_path, played):
    RlTrainer(folder, SPEC, played, tmp_path).iterate(HERE)
    metrics = tmp_path / "metrics.jsonl"
    whole = metrics.read_text()
    metrics.write_text(whole + json.dumps({"iteration": 2}) + "\n")
    trainer = RlTrainer(folder, SPEC, played, tmp_path)
    assert metrics.read_text() == whole
    assert {job.case.seed for job in trainer.schedule.jobs(trainer.progress.step)} == {FIRST_SEED + 2, FIRST_SEED + 3}
