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
from starry_ros.training.rl_pairs import FIRST_SEED, Schedule, Window, pairs_of
from starry_ros.training.rl_rollout import Rollout
from starry_ros.training.train_rl import Learner, RlTrainer
from starry_ros.wam.checkpoint import load_checkpoint, save_checkpoint

PLANS = 20


def schedule(**changes):
    return Schedule(Path("model"), SPEC, dataclasses.replace(CONFIG, **changes), 4)


def ended(job, success, arms=(1,) * PLANS, dense=0.5, made=()):
    return Rollout(job, dense, success, tuple(made), tuple(arms))


def test_layouts_that_failed_are_probed_in_pairs_that_lie_all_over_the_part_that_leaves_time():
    plan = schedule(scouts=6, groups=2, probes=4)
    arms = [plan_number % 2 for plan_number in range(PLANS)]
    jobs = plan.probes(0, [ended(job, job.case.seed % 2 == 0, arms) for job in plan.scouts(0)])
    assert [job.case.seed - FIRST_SEED for job in jobs] == [1] * 8 + [3] * 8
    for one, other in zip(jobs[::2], jobs[1::2], strict=True):
        assert (one.mirrored, other.mirrored) == (False, True)
        assert dataclasses.replace(other, mirrored=False) == one
        assert list(one.drawn) == list(range(one.drawn[0], one.drawn[0] + CONFIG.plans_drawn))
        assert one.arm == arms[one.drawn[0]], "the hand that the scout moved then"
    assert len({job.noise_seed for job in jobs}) == 8
    firsts = [job.drawn[0] for job in jobs[:8:2]]
    assert firsts == sorted(firsts)
    assert firsts[0] < 4
    assert 9 < jobs[6].drawn[-1] < 15, "three quarters of twenty"
    assert {job.case.seed - FIRST_SEED for job in plan.scouts(1)} == set(range(6, 12))


def test_a_group_draws_the_plans_of_the_pair_that_ended_farthest_apart():
    plan = schedule(scouts=8, groups=4, probes=2, pairs=3, again=2)
    jobs = plan.probes(0, [ended(job, False) for job in plan.scouts(0)[:4]])
    both, one, dense, none = (jobs[4 * i:4 * i + 4] for i in range(4))
    probes = [
        *(ended(job, True) for job in both), ended(one[0], False), ended(one[1], False), ended(one[2], True),
        ended(one[3], False), ended(dense[0], True, dense=0.1), ended(dense[1], False), ended(dense[2], False),
        ended(dense[3], True, dense=0.9), *(ended(job, False, dense=i) for i, job in enumerate(none)),
    ]
    windows = plan.deciding(probes)
    assert windows == [Window(one[0].case, one[2].drawn[0], 1, 2), Window(dense[0].case, dense[2].drawn[0], 1, 2)], (
        "any kick turned the first layout; the reward of the map alone decides nothing")
    groups = plan.groups(0, windows)
    assert [(job.case, job.drawn) for job in groups] == [(one[0].case, one[2].drawn)] * 6 + [
        (dense[0].case, dense[2].drawn)] * 6
    assert [job.mirrored for job in groups] == [False, True] * 6
    assert len({job.noise_seed for job in groups}) == 6
    assert not {job.noise_seed for job in plan.groups(1, windows)} & {job.noise_seed for job in groups}


def test_what_a_pair_earns_is_credited_to_one_and_blamed_on_the_other():
    plan = schedule(scouts=1, groups=1, probes=3)
    jobs = plan.probes(0, [ended(plan.scouts(0)[0], False)])
    names = iter("abcdef")
    pairs = [ended(job, success, made=(next(names),))
             for job, success in zip(jobs, (True, False, False, True, True, True), strict=True)]
    assert plan.credited(pairs) == [("a", 1.0), ("b", -1.0), ("c", -1.0), ("d", 1.0)]
    assert [len(pair) for pair in pairs_of(pairs)] == [2, 2, 2]


def test_a_layout_is_played_again_while_its_pairs_end_apart_and_not_for_ever():
    plan = schedule(scouts=3, pairs=1)
    cases = [job.case for job in plan.scouts(0)]
    windows = [Window(cases[0], 3, 1, 2), Window(cases[1], 4, 0, 2), Window(cases[2], 5, 1, 0)]
    played = [ended(job, job.mirrored and job.case != cases[1]) for job in plan.groups(0, windows)]
    left = plan.still_deciding(windows, played)
    assert left == [Window(cases[0], 3, 1, 1)], "of the second both failed, the third was played often enough"
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
    """Of two scouts the second fails; of every pair the mirrored episode goes well, but of each third both fail."""

    def play(job):
        if not job.drawn:
            return ended(job, job.case.seed % 2 == 0, made=made[:1])
        good = job.mirrored and job.noise_seed % 3 != 0
        return ended(job, good, made=made[int(good):int(good) + 1])

    monkeypatch.setattr(train_rl, "play_rollout", play)
    return dataclasses.replace(CONFIG, iterations=2, groups=1, probes=6, pairs=4, learning_rate=1e-4)


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
    assert [set(record["layouts"]) for record in records] == [{"1"}, {"1", "3"}], "the first is played once more"
    assert [[window["left"] for window in record["windows"]] for record in records] == [[1], [1, 0]]
    assert records[1]["success"] == 0.5
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
    monkeypatch.setattr(Learner, "update", lambda self, samples, rng: learnt.append(samples) or {})
    record = RlTrainer(folder, SPEC, dataclasses.replace(played, scouts=6, groups=3), tmp_path).iterate(HERE)
    assert (record["scouts"], record["probes"], record["groups"], record["episodes"]) == (6, 36, 3, 24)
    assert record["samples"] == 2 * (record["turned"] + sum(won for won, _ in record["layouts"].values()))
    assert 0 < record["of_probes"] == 2 * record["turned"] < 36
    credits = [credit for _, credit in learnt[0]]
    assert sorted(set(credits)) == [-1.0, 0.0, 1.0]
    assert (credits.count(1.0), credits.count(-1.0)) == (record["samples"] / 2,) * 2
    assert credits[record["samples"]:] == [0.0] * 3, "three scouts went well"


@pytest.mark.parametrize("outcome", [False, True])
def test_where_no_layout_failed_or_no_probe_turned_one_nothing_is_learnt(
    folder, tmp_path, played, monkeypatch, outcome
):
    monkeypatch.setattr(train_rl, "play_rollout", lambda job: ended(job, outcome, (0, 0)))
    record = RlTrainer(folder, SPEC, played, tmp_path).iterate(HERE)
    assert (record["probes"], record["episodes"], record["samples"]) == (0 if outcome else 12, 0, 0)
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
    metrics.write_text(whole + json.dumps({"iteration": 2, "layouts": {"0": [0, 2], "1": [1, 2]}}) + "\n")
    trainer = RlTrainer(folder, SPEC, played, tmp_path)
    assert metrics.read_text() == whole
    assert {job.case.seed for job in trainer.schedule.scouts(trainer.progress.step)} == {FIRST_SEED + 2, FIRST_SEED + 3}
