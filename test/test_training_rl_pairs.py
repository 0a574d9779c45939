"""Stage two: which episodes an iteration plays, what they get credit for, and runs of several iterations."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rl_kit import CONFIG, draws, narrow_model, of_four_steps
from wam_kit import SPEC

from starry_ros.errors import CheckpointError, ConfigError
from starry_ros.sim.tasks import TASKS, drawn_case, task_of
from starry_ros.training import train_rl
from starry_ros.training.pool import HERE
from starry_ros.training.rl_pairs import FIRST_SEED, Schedule, Window, loss, pairs_of
from starry_ros.training.rl_rollout import Rollout
from starry_ros.training.train_rl import Learner, RlTrainer
from starry_ros.wam.checkpoint import load_checkpoint, save_checkpoint

PLANS = 20


def schedule(**changes):
    return Schedule(Path("model"), SPEC, dataclasses.replace(CONFIG, **changes), 4)


def ended(job, done_s, arms=(1,) * PLANS, dense=0.5, made=(), expected_s=()):
    return Rollout(job, dense, done_s < 14, done_s, tuple(made), tuple(arms), tuple(expected_s))


def lost_at(plan, lost_s, begun_s=6.0):
    """What is expected of an episode that loses time at once, after the pictures of one plan and before the next."""
    return [begun_s] * (plan + 1) + [begun_s + lost_s] * (PLANS - plan)


def test_the_plans_that_lost_most_time_are_found():
    job = schedule(scouts=1).scouts(0)[0]
    assert loss(ended(job, 9.0, expected_s=lost_at(7, 3.0)), 3) == (3.0, 5), "the last plan, and those before it"
    assert loss(ended(job, 9.0, expected_s=lost_at(PLANS - 1, 3.0)), 3) == (3.0, PLANS - 3)
    rests = [6.0] * 5 + [6.0 + 0.4 * plan for plan in range(PLANS - 4)]
    assert loss(ended(job, 12.0, expected_s=rests), 3) == (pytest.approx(1.2), 5), "as it begins to rest"


def test_the_plans_that_lost_most_are_drawn():
    plan = schedule(scouts=6, groups=3, again=2)
    losses = (9, 3.0), (4, 0.5), (12, 9.0), (0, 2.0), (7, 1.5), (8, 0.0)
    scouts = [ended(job, 14.0, range(PLANS), expected_s=lost_at(*lost))
              for job, lost in zip(plan.scouts(0), losses, strict=True)]
    cases = [scout.job.case for scout in scouts]
    windows = plan.windows(scouts)
    assert windows == [Window(cases[2], 10, 10, 2), Window(cases[0], 7, 7, 2), Window(cases[3], 0, 0, 2)]
    assert len(schedule(groups=9).windows(scouts)) == 4, "two have lost too little"
    assert {job.case.seed - FIRST_SEED for job in plan.scouts(1)} == set(range(6, 12))


def test_a_group_plays_pairs_of_the_same_plans_as_far_to_either_side():
    plan = schedule(pairs=3, look_on_s=1.5)
    windows = [Window(job.case, first, 1) for job, first in zip(plan.scouts(0), (4, 30), strict=False)]
    jobs = plan.groups(0, windows)
    for one, other in zip(jobs[::2], jobs[1::2], strict=True):
        assert (one.mirrored, other.mirrored) == (False, True)
        assert dataclasses.replace(other, mirrored=False) == one
    assert [(job.case, job.drawn, job.arm) for job in jobs] == [
        (window.case, tuple(range(window.first, window.first + CONFIG.plans_drawn)), 1)
        for window in windows for _ in range(6)]
    assert len({job.noise_seed for job in jobs}) == 6
    assert not {job.noise_seed for job in plan.groups(1, windows)} & {job.noise_seed for job in jobs}
    assert jobs[0].limit_s == pytest.approx(7 * 0.4 + 1.5), "to the end of the last drawn plan, and on"
    assert jobs[-1].limit_s == task_of(windows[1].case.task).time_limit_s


def test_what_a_pair_earns_is_credited_to_one_and_blamed_on_the_other():
    plan = schedule(pairs=4)
    jobs = plan.groups(0, [Window(plan.scouts(0)[0].case, 3, 1)])
    names = iter("abcdefgh")
    pairs = [ended(job, done_s, made=(next(names),))
             for job, done_s in zip(jobs, (6.0, 9.0, 14.0, 12.0, 6.0, 6.0, 6.0, 6.5), strict=True)]
    credits = [(made, round(credit, 9)) for made, credit in plan.credited(pairs)]
    assert credits == [("a", 1.0), ("b", -1.0), ("c", -1.0), ("d", 1.0)]
    assert [len(pair) for pair in pairs_of(pairs)] == [2, 2, 2, 2]


def test_a_layout_is_played_again_while_its_pairs_end_apart_and_not_for_ever():
    plan = schedule(scouts=3, pairs=1)
    cases = [job.case for job in plan.scouts(0)]
    windows = [Window(cases[0], 3, 1, 2), Window(cases[1], 4, 0, 2), Window(cases[2], 5, 1, 0)]
    played = [ended(job, 6.0 if job.mirrored and job.case != cases[1] else 12.0) for job in plan.groups(0, windows)]
    left = plan.still_deciding(windows, played)
    assert left == [Window(cases[0], 3, 1, 1)], "the second ended alike, the third was played often enough"
    assert plan.known(json.loads(json.dumps(plan.noted(left)))) == left


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_task_asks_for_everything_in_all_its_words(count):
    tasks = TASKS[-count:]
    asked = {task: set() for task in tasks}
    plan = schedule(scouts=12 * count, tasks=tasks)
    for job in plan.scouts(0) + plan.scouts(1) + plan.scouts(2):
        _, target, sentence = drawn_case("train", job.case.seed, job.case.task, "easy")
        asked[job.case.task].add((target, sentence))
    for task, found in asked.items():
        assert len(found) == len(task_of(task).targets) * len(task_of(task).templates), task
    played = [job.case.task for job in plan.scouts(1)]
    assert [played.count(task) for task in tasks] == [12] * count


def test_layouts_and_sentences_are_of_training():
    cases = {job.case for job in schedule(scouts=12, setting="hard", tasks=("place_dual_blocks",)).scouts(0)}
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
    """Of two scouts the second loses time; of every pair the mirrored one does better, but of each third neither."""

    def play(job):
        if not job.drawn:
            lost_s = 9.0 * (job.case.seed % 2)
            return ended(job, 6.0 + lost_s, made=made[:1], expected_s=lost_at(5, lost_s))
        good = job.mirrored and job.noise_seed % 3 != 0
        return ended(job, 6.0 if good else 9.0, made=made[int(good):int(good) + 1])

    monkeypatch.setattr(train_rl, "play_rollout", play)
    return dataclasses.replace(CONFIG, iterations=2, groups=1, pairs=4, learning_rate=1e-4)


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
    assert [record["groups"] for record in records] == [1, 2], "the first is played once more"
    assert [[window["left"] for window in record["windows"]] for record in records] == [[1], [1, 0]]
    assert (records[1]["success"], records[1]["lost_s"]) == (0.5, 4.5)
    with torch.no_grad():
        trainer.learner.model.latent_out.weight[0, 0] += 1e-3
    with pytest.raises(CheckpointError, match="frozen tensor has changed"):
        trainer.iterate(HERE)


@pytest.mark.parametrize(("change", "got", "expected"), [
    ({"tasks": ("lift_tray", "press_button")}, "--task lift_tray press_button", "--task place_block_pad"),
    ({"setting": "hard"}, "--setting hard", "--setting easy"),
    ({"scouts": 4}, "--scouts 4", "--scouts 2"),
    ({"seed": 3}, "--seed 3", "--seed 0"),
    ({"learning_rate": 2e-4, "again": 1}, "--again 1, --learning-rate 0.0002", "--again 2, --learning-rate 0.0001"),
])
def test_a_run_is_not_resumed_with_other_options(folder, tmp_path, played, change, got, expected):
    RlTrainer(folder, SPEC, played, tmp_path).iterate(HERE)
    with pytest.raises(ConfigError) as refused:
        RlTrainer(folder, SPEC, dataclasses.replace(played, **change), tmp_path)
    assert (refused.value.got, refused.value.expected) == (got, expected)
    longer = dataclasses.replace(played, iterations=99)
    assert RlTrainer(folder, SPEC, longer, tmp_path).progress.step == 1


def test_pairs_teach_and_scouts_that_went_well_hold_on(folder, tmp_path, played, monkeypatch):
    learnt = []
    monkeypatch.setattr(Learner, "update", lambda self, samples, rng, where: learnt.append(samples) or {})
    record = RlTrainer(folder, SPEC, dataclasses.replace(played, scouts=6, groups=3), tmp_path).iterate(HERE)
    assert (record["scouts"], record["groups"], record["episodes"]) == (6, 3, 24)
    assert 0 < record["samples"] < 24, "not those of pairs that ended alike"
    credits = [round(credit, 9) for _, credit in learnt[0]]
    assert sorted(set(credits)) == [-1.0, 0.0, 1.0]
    assert (credits.count(1.0), credits.count(-1.0)) == (record["samples"] / 2,) * 2
    assert credits[record["samples"]:] == [0.0] * 3, "three scouts went well"


@pytest.mark.parametrize(("lost_s", "episodes"), [(0.0, 0), (9.0, 8)])
def test_where_no_time_was_lost_or_all_pairs_end_alike_nothing_is_learnt(
    folder, tmp_path, played, monkeypatch, lost_s, episodes
):
    monkeypatch.setattr(train_rl, "play_rollout", lambda job: ended(job, 9.0, expected_s=lost_at(5, lost_s)))
    record = RlTrainer(folder, SPEC, played, tmp_path).iterate(HERE)
    assert (record["episodes"], record["samples"]) == (episodes, 0)
    weights = load_checkpoint(tmp_path / "checkpoint", SPEC).model
    assert all(torch.equal(weights[name], value) for name, value in load_checkpoint(folder, SPEC).model.items())


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
        trainer = RlTrainer(folder, SPEC, dataclasses.replace(played, scouts=6, groups=3), tmp_path / name)
        trainer.iterate(SimpleNamespace(run=lambda work, jobs, order=order: map(work, jobs[::order])))
        weights.append(trainer.learner.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_an_iteration_that_was_cut_off_while_saving_is_forgotten(folder, tmp_path, played):
    RlTrainer(folder, SPEC, played, tmp_path).iterate(HERE)
    metrics = tmp_path / "metrics.jsonl"
    whole = metrics.read_text()
    metrics.write_text(whole + json.dumps({"iteration": 2, "windows": []}) + "\n")
    trainer = RlTrainer(folder, SPEC, played, tmp_path)
    assert metrics.read_text() == whole
    assert {job.case.seed for job in trainer.schedule.scouts(trainer.progress.step)} == {FIRST_SEED + 2, FIRST_SEED + 3}
