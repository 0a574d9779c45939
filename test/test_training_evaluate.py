"""Evaluation: rows, order, untrained copies, and the measures beside success."""

import argparse
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.errors import ConfigError
from starry_ros.paths import robot_file
from starry_ros.report import EVALUATION_COLUMNS
from starry_ros.robot_spec import load_robot_spec
from starry_ros.sim.cases import Case
from starry_ros.sim.choices import COLOURS, LoopConfig
from starry_ros.sim.loop import EpisodeResult
from starry_ros.sim.tasks import evaluation_case
from starry_ros.training import calibrate
from starry_ros.training import evaluate as evaluate_module
from starry_ros.training.ablate import ABLATIONS, UNSEEN, ablate
from starry_ros.training.arguments import (
    SUITES,
    add_calibrate_command_arguments,
    add_evaluate_command_arguments,
)
from starry_ros.training.evaluate import evaluate, untrained_copy
from starry_ros.training.measure import Quality
from starry_ros.training.report_page import write_page
from starry_ros.training.score import Score, by_chance, compared, row
from starry_ros.training.strips import Strips
from starry_ros.wam.autoencoder import Autoencoder, AutoencoderConfig
from starry_ros.wam.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from starry_ros.wam.config import preset
from starry_ros.wam.model import WorldActionModel
from starry_ros.wam.normalise import fit
from starry_ros.wam.runtimes.graphs import graph_specs
from starry_ros.wam.runtimes.torch_runtime import torch_runtime

SPEC = load_robot_spec(robot_file("bimanual_sim"))


def score(
    seed: int, success: bool, *, failure: str = "", landing=(), frames=(), hits=(), kind="normal", forced=True
) -> Score:
    colour = COLOURS[seed % 3]
    result = EpisodeResult(
        Case(seed, kind), colour, f"put the {colour} block on the pad", success, failure, 4.0 + seed, 0.0,
        0.1 + seed / 10, {} if success else {"past": 2}, (9.0, 0.1, 0.3), frames, forced=forced,
    )
    return Score("model", result, Quality(landing, (2.0,), (6.0,), hits))


def test_a_row_counts_successes_by_colour_and_names_failures():
    scores = [score(0, True, landing=(1.0,)), score(1, True, landing=(3.0,)), score(2, False, failure="dropped"),
              score(3, False, failure="timeout", landing=(8.0,))]
    found = row("model", scores)
    assert tuple(found)[: len(EVALUATION_COLUMNS)] == EVALUATION_COLUMNS
    assert (found["success"], found["episodes"]) == (0.5, 4)
    assert (found["red"], found["green"], found["blue"]) == (0.5, 1.0, 0.0)
    assert found["by_colour"]["red"]["episodes"] == 2
    assert found["failures"] == {"dropped": 1, "timeout": 1}
    assert found["refused"] == {"past": 4}
    assert found["failed_seeds"] == [2, 3]
    assert found["mean_s"] == pytest.approx(4.5)
    assert found["landing_px"] == 3.0
    assert (found["imagined"], found["copied"]) == (2.0, 6.0)
    assert found["plan_p50_ms"] == pytest.approx(200.0)  # without each episode's first plan


def test_episodes_in_which_the_forced_case_never_came_about_do_not_count_and_are_told():
    scores = [score(0, True, kind="dropped"), score(1, False, failure="timeout", kind="dropped"),
              score(2, True, kind="dropped", forced=False), score(3, False, kind="dropped", forced=False)]
    found = row("model", scores)
    assert (found["success"], found["episodes"], found["played"]) == (0.5, 2, 4)
    assert (found["unforced_successes"], found["failures"]) == (1, {"timeout": 1})
    none = row("model", scores[2:])
    assert (none["episodes"], none["low"], none["high"], none["worst_delay_s"]) == (0, 0.0, 1.0, None)
    usual = row("model", [score(0, True)])
    assert (usual["episodes"], usual["played"], usual["unforced_successes"]) == (1, None, None)


def test_a_share_of_hits_has_the_interval_of_its_plans():
    found = row("model", [score(0, True, hits=(1.0, 1.0, 0.0)), score(1, True, hits=(1.0, 1.0))])
    assert (found["hit"], found["hit_plans"]) == (0.8, 5)
    # Brown, Cai and DasGupta 2001, Wilson's interval of 4 in 5
    assert (found["hit_low"], found["hit_high"]) == (pytest.approx(0.3755, abs=1e-3), pytest.approx(0.9638, abs=1e-3))


def test_models_are_compared_by_the_layouts_that_one_of_them_won():
    def of(model, failed, kind="normal"):
        scores = [score(seed, seed not in failed, kind=kind) for seed in range(20)]
        return {**row("model", scores), "model": model, "mode": "sync", "latency_s": 0.0}

    first, second, other = compared([of("a", {1, 2, 3, 4, 5, 6, 7, 9}), of("b", {9, 11}), of("c", set(), "dropped")])
    assert (first["won"], first["lost"], first["by_chance"]) == (None, None, None)
    assert (second["won"], second["lost"]) == (7, 1)
    assert second["by_chance"] == pytest.approx(0.0703, abs=1e-4), "binomtest(1, 8).pvalue of SciPy"
    assert other["won"] is None
    forced = compared([of("a", {1}, "dropped"), of("b", {2}, "dropped")])
    assert [each["by_chance"] for each in forced] == [None, None], "other episodes may count"


@pytest.mark.parametrize(("won", "lost", "expected"), [(0, 0, 1.0), (5, 5, 1.0), (0, 6, 0.03125), (60, 30, 0.00206)])
def test_chance_alone_is_that_of_fair_coins(won, lost, expected):
    assert by_chance(won, lost) == pytest.approx(expected, abs=1e-5)


def test_colours_that_were_not_asked_for_have_no_rate():
    assert row("model", [score(0, True)])["green"] is None


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder, layout = tmp_path_factory.mktemp("model"), t_pose_layout(SPEC)
    torch.manual_seed(0)
    config = preset("tiny", layout, len(SPEC.joints), SPEC.action.step_s)
    coder = AutoencoderConfig(
        latent_channels=config.latent_channels, height_px=config.canvas_height_px, width_px=config.canvas_width_px
    )
    rng = np.random.default_rng(0)
    position = SPEC.limit("home") + rng.normal(0, 0.05, (40, 14))
    plan = position[:, None] + np.cumsum(rng.normal(0, 0.02, (40, 16, 14)), axis=1)
    stats = fit(plan.astype(np.float32), position.astype(np.float32), SPEC.gripper_indices)
    weights = WorldActionModel(config).state_dict()
    save_checkpoint(
        folder, Checkpoint(config, stats, weights, Autoencoder(coder), SPEC.content_hash, layout.layout_hash)
    )
    return folder


def test_an_untrained_copy_keeps_the_shape_and_changes_the_weights(model, tmp_path):
    first, again, other = (
        load_checkpoint(untrained_copy(model, tmp_path / name, SPEC, seed), SPEC)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first.config == load_checkpoint(model).config
    assert all(torch.equal(value, again.model[name]) for name, value in first.model.items())
    assert any(not torch.equal(value, other.model[name]) for name, value in first.model.items())


def test_all_policies_see_the_same_episodes_and_report_in_order(model, tmp_path):
    rows = evaluate(
        model, SPEC, 1, seed=4, policies=("model", "expert", "untrained"), runtime="torch",
        config=LoopConfig(limit_s=0.9), strips=Strips(tmp_path),
    )
    assert [found["policy"] for found in rows] == ["model", "expert", "untrained"]
    colour = evaluation_case(4)[1]
    assert all(found["by_colour"][colour]["episodes"] == 1 for found in rows)
    assert all(found["success"] == 0.0 for found in rows)
    assert rows[0]["landing_px"] is not None
    assert rows[1]["landing_px"] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{policy}_place_block_pad_easy_normal_0004_failure.png" for policy in ("expert", "model", "untrained")
    ]


def test_strips_show_the_frames_side_by_side(tmp_path):
    import cv2

    frames = tuple(np.full((192, 160, 3), (10 * i, 0, 255 - 10 * i), dtype=np.uint8) for i in range(3))
    Strips(tmp_path).write(score(5, False, failure="timeout", frames=frames))
    picture = cv2.imread(str(tmp_path / "model_place_block_pad_easy_normal_0005_failure.png"))[..., ::-1]
    assert picture.shape == (212, 480, 3)
    assert [picture[5, 5 + 160 * i].tolist() for i in range(3)] == [[10 * i, 0, 255 - 10 * i] for i in range(3)]


def test_an_ablation_blanks_its_inputs_and_nothing_else(model):
    checkpoint = load_checkpoint(model, SPEC)
    runtime, seen = torch_runtime(checkpoint.build_model(), checkpoint.autoencoder), {}
    for graph in ("imagine", "predict_value", "act"):
        runtime.engines[graph] = lambda arrays, graph=graph: seen.__setitem__(graph, arrays) or {}
    names = {"landing": 0.5, "seen": UNSEEN, "value_k": 0.0, "value_v": 0.0}
    given = {name: np.full((1, 2), 7.0, np.float32) for name in (*names, "current_k", "state")}
    ablate(runtime, "no_value")
    runtime.engines["act"](given)
    assert {name: float(seen["act"][name][0, 0]) for name in given} == {**names, "current_k": 7.0, "state": 7.0}
    ablate(runtime, "no_history")
    for graph in ("imagine", "predict_value", "act"):
        name = "executed_valid" if graph == "act" else "past_valid"
        runtime.engines[graph]({name: np.ones((1, 4)), "x": np.ones(3)})
        assert not seen[graph][name].any()
        assert seen[graph]["x"].all()
    with pytest.raises(ConfigError, match="no_hands"):
        ablate(runtime, "no_hands")


def test_without_its_history_a_model_still_knows_the_steps_that_are_committed(model):
    checkpoint = load_checkpoint(model, SPEC)
    runtime, seen = torch_runtime(checkpoint.build_model(), checkpoint.autoencoder), {}
    for graph in ("imagine", "act"):
        runtime.engines[graph] = lambda arrays, graph=graph: seen.__setitem__(graph, arrays) or {}
    ablate(runtime, "no_history")
    c = runtime.config
    none_NP = np.zeros((c.layers, 1, c.heads, c.history_actions, c.head_dim), np.float32)

    def told(graph):
        runtime.engines[graph]({"executed_valid": runtime.actions.valid})
        return seen[graph]["executed_valid"].reshape(c.history_slots, c.history_actions)

    known = np.zeros(c.history_actions, np.float32)
    known[:3] = 1
    for slot in range(2 * c.history_slots):  # the ring goes round
        with runtime.supposing(np.zeros((c.history_actions, c.joints), np.float32), known):
            for graph in ("imagine", "act"):
                assert told(graph)[slot % c.history_slots].tolist() == known.tolist()
                assert told(graph).sum() == 3
        runtime.actions.write(none_NP, none_NP, step=slot)
        assert not told("act").any()
    runtime.branch()
    runtime.actions.write(none_NP, none_NP, step=99)
    assert not told("act").any(), "what is supposed to have happened is history too"


def test_every_ablation_names_inputs_that_its_graphs_have(model):
    inputs = {spec.name: set(spec.inputs) for spec in graph_specs(load_checkpoint(model, SPEC).config)}
    for name, graphs in ABLATIONS.items():
        for graph, blanks in graphs.items():
            assert set(blanks) <= inputs[graph], name


def test_the_page_shows_every_row_and_links_every_picture(tmp_path):
    pictures = [tmp_path / "pictures" / f"model_place_{end}.png" for end in ("failure", "success")]
    rows = [row("model", [score(0, True, landing=(1.0,), hits=(1.0,)), score(1, False, failure="dropped")])]
    page = write_page(tmp_path, rows, pictures, {"model": "tiny", "robot": "bimanual_sim", "seed": 0}).read_text()
    assert "| model | place_block_pad | easy | normal | 2 | 0.5 | 0.09 to 0.91 |" in page
    assert "1 dropped" in page
    header, _, line = (next(part) for part in [iter(page[page.index("| policy") :].splitlines())] * 3)
    cells = dict(zip(header.split(" | "), line.split(" | "), strict=True))
    assert cells["limits: worst delay, s"] == "0.2"
    assert cells["refused plans"] == "2 past"
    assert cells["map hit"] == "1.00 (0.21 to 1.00 of 1)"
    assert cells["seconds to success"] == "4"
    assert "played" not in cells
    assert page.index("## Failures") < page.index("pictures/model_place_failure.png") < page.index("## Successes")
    assert page.index("## Successes") < page.index("pictures/model_place_success.png")


def test_several_models_stand_in_one_table_and_expert_and_untrained_play_once(model, tmp_path, monkeypatch, capsys):
    second, played = tmp_path / "other", []
    second.mkdir()
    (second / "config.json").write_bytes((model / "config.json").read_bytes())

    def stand_in(folder, *_, policies, strips, **__):
        played.append((folder, tuple(policies), strips.folder if strips else None))
        return [row(policy, [score(0, True)]) for policy in policies]

    monkeypatch.setattr(evaluate_module, "evaluate", stand_in)
    parser = argparse.ArgumentParser()
    add_evaluate_command_arguments(parser)
    words = ["--model", str(model), str(second), "--report", str(tmp_path / "report"), "--ablation", "no_value"]
    assert evaluate_module.evaluate_command(parser.parse_args(words)) == 0
    assert [(folder, policies) for folder, policies, _ in played] == [
        (model, ("model", "expert", "untrained", "model-no_value")), (second, ("model", "model-no_value"))]
    assert len({strips for _, _, strips in played}) == 2
    names = [str(model), None, str(model), str(model), str(second), str(second)]
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [found["model"] for found in report["rows"]] == names
    assert report["meta"]["model"] == f"{model}, {second}"
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed[:7]] == ["model", *(name or "-" for name in names)]
    assert f"| {second} | model |" in (tmp_path / "report" / "report.md").read_text()
    assert evaluate_module.evaluate_command(parser.parse_args(["--model", str(model)])) == 0
    assert capsys.readouterr().out.startswith("policy"), "one model needs no column"


def test_pictures_of_every_loop_have_names_of_their_own_and_the_page_shows_no_older_ones(tmp_path, monkeypatch):
    frames = (np.zeros((192, 160, 3), np.uint8),)

    def stand_in(jobs, workers):
        return [replace(score(job.case.seed, False, failure="timeout", frames=frames), policy=job.policy)
                for job in jobs]

    monkeypatch.setattr(evaluate_module, "run_scores", stand_in)
    old = tmp_path / "pictures" / "expert_lift_tray_easy_normal_0000_failure.png"
    old.parent.mkdir()
    old.write_bytes(b"")
    parser = argparse.ArgumentParser()
    add_evaluate_command_arguments(parser)
    words = ["--policy", "expert", "--episodes", "1", "--seed", "7", "--report", str(tmp_path), "--latency", "0.2"]
    loops = ["0.45", "--mode", "sync", "async_naive"]
    for more, names in (([], [""]), (loops, ["_sync_0.2s", "_sync_0.45s", "_async_naive_0.2s", "_async_naive_0.45s"])):
        evaluate_module.evaluate_command(parser.parse_args([*words, *more]))
        wanted = {f"pictures/expert_place_block_pad_easy_normal{name}_0007_failure.png" for name in names}
        shown = re.findall(r"\]\((.*?)\)", (tmp_path / "report.md").read_text())
        assert len(shown) == len(wanted)
        assert set(shown) == wanted
        assert all((tmp_path / path).stat().st_size for path in wanted)


@pytest.mark.parametrize("task", ["all", "lift_tray"])
def test_a_forced_case_that_a_task_lacks_is_refused_before_anything_is_played(task, monkeypatch):
    monkeypatch.setattr(evaluate_module, "run_scores", lambda jobs, workers: pytest.fail("played"))
    parser = argparse.ArgumentParser()
    add_evaluate_command_arguments(parser)
    args = parser.parse_args(["--policy", "expert", "--case", "push", "--task", task])
    with pytest.raises(ConfigError, match=r"case push: .*expected place_block_pad"):
        evaluate_module.evaluate_command(args)
    with pytest.raises(ConfigError, match=r"case closed_jaw: .*got press_button"):
        evaluate(None, SPEC, 1, case="closed_jaw", policies=("expert",), task="press_button")


def test_a_suite_brings_its_settings_and_another_one_is_refused_before_anything_is_played(monkeypatch):
    played = []
    monkeypatch.setattr(evaluate_module, "evaluate", lambda *_, setting, **__: played.append(setting) or [])
    monkeypatch.setattr(evaluate_module, "print_table", lambda rows, columns: None)
    parser = argparse.ArgumentParser()
    add_evaluate_command_arguments(parser)

    def play(*words):
        evaluate_module.evaluate_command(parser.parse_args(["--policy", "expert", *words]))
        settings = set(played)
        played.clear()
        return settings

    for suite, setting in (("recovery", "hard"), ("easy", "hard"), ("hard", "easy")):
        with pytest.raises(ConfigError, match=f"--setting: is not that of suite {suite}.*got {setting}"):
            play("--suite", suite, "--setting", setting)
        assert not played
    assert play("--suite", "hard") == play("--suite", "hard", "--setting", "hard") == {"hard"}
    assert play("--suite", "recovery") == play() == {"easy"}
    assert play("--setting", "hard") == {"hard"}


def test_task_and_case_choose_within_a_suite_and_what_it_lacks_is_refused(monkeypatch):
    played = []
    monkeypatch.setattr(evaluate_module, "evaluate",
                        lambda *args, task, setting, **_: played.append((task, setting, args[5])) or [])
    monkeypatch.setattr(evaluate_module, "print_table", lambda rows, columns: None)
    parser = argparse.ArgumentParser()
    add_evaluate_command_arguments(parser)

    def play(*words):
        played.clear()
        evaluate_module.evaluate_command(parser.parse_args(["--policy", "expert", *words]))
        return set(played)

    whole = play("--suite", "recovery")
    assert whole == play("--suite", "recovery", "--task", "all") == set(SUITES["recovery"])
    assert play("--suite", "recovery", "--case", "dropped") == {row for row in whole if row[2] == "dropped"}
    one = play("--suite", "recovery", "--task", "stack_blocks_two", "--case", "dropped")
    assert one == {("stack_blocks_two", "easy", "dropped")}
    assert play("--suite", "hard", "--task", "lift_tray") == {("lift_tray", "hard", "normal")}
    with pytest.raises(ConfigError, match="nothing of suite recovery; got lift_tray"):
        play("--suite", "recovery", "--task", "lift_tray")
    assert not played


def test_every_suite_holds_cases_that_its_tasks_have():
    for suite in SUITES.values():
        for task, setting, kind in suite:
            assert Case(0, kind, task, setting).kind == kind


def test_calibration_of_a_task_whose_blocks_nobody_nudges_is_refused_before_a_model_is_loaded(monkeypatch):
    monkeypatch.setattr(calibrate, "load_session", lambda *_: pytest.fail("loaded"))
    parser = argparse.ArgumentParser()
    add_calibrate_command_arguments(parser)
    with pytest.raises(ConfigError, match=r"case push: .*got lift_tray; expected place_block_pad"):
        calibrate.calibrate_command(parser.parse_args(["--task", "lift_tray"]))


def test_a_model_policy_without_a_model_is_refused():
    with pytest.raises(ConfigError, match="no model"):
        evaluate(None, SPEC, 1)
