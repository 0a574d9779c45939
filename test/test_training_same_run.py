"""What a run in its folder may be gone on with: the same model, of the robot that its data belong to."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from test_training_units import narrow_presets, prepare, write_data
from wam_kit import CONFIG, LAYOUT, SPEC, make_checkpoint

from starry_ros.errors import CheckpointError, ConfigError, DataError
from starry_ros.training import adopt, train
from starry_ros.training.arguments import (
    add_train_autoencoder_command_arguments,
    add_train_state_tokens_command_arguments,
)
from starry_ros.training.same_run import begun_run, require_same_model
from starry_ros.training.summary import check_contract
from starry_ros.training.train import Trainer
from starry_ros.training.train_autoencoder import train_autoencoder_command
from starry_ros.training.train_state_tokens import train_state_tokens_command
from starry_ros.wam.checkpoint import load_checkpoint, save_checkpoint
from starry_ros.wam.options import GeometryConfig

OWN = {"contract_hash": SPEC.content_hash, "layout_hash": LAYOUT.layout_hash, "frame_hz": 1 / SPEC.action.step_s}


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow_presets(monkeypatch)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_checkpoint(folder, make_checkpoint())
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data", **OWN)


def begin(data: Path, out: Path, model: Path, *words: str) -> Trainer:
    """A run of one step that was saved."""
    trainer = prepare(data, out, model, *words)
    trainer.step()
    trainer.save()
    return trainer


def train_on(data: Path, tmp_path: Path, model: Path) -> None:
    prepare(data, tmp_path / "run", model)


def train_autoencoder_on(data: Path, tmp_path: Path, model: Path) -> None:
    parser = argparse.ArgumentParser()
    add_train_autoencoder_command_arguments(parser)
    train_autoencoder_command(parser.parse_args(["--data", str(data), "--out", str(tmp_path / "run")]))


def train_states_on(data: Path, tmp_path: Path, model: Path, *more: str) -> None:
    parser = argparse.ArgumentParser()
    add_train_state_tokens_command_arguments(parser)
    words = ["--data", str(data), "--out", str(tmp_path / "run"), "--autoencoder", str(model)]
    train_state_tokens_command(parser.parse_args([*words, *more]))


def adopt_from(data: Path, tmp_path: Path, model: Path) -> None:
    adopt.quantiles_of_data(data, SPEC, {name: i for i, name in enumerate(SPEC.joint_names)}, 30)


@pytest.mark.parametrize("use", [train_on, train_autoencoder_on, train_states_on, adopt_from])
@pytest.mark.parametrize("field", list(OWN))
def test_data_of_another_robot_canvas_or_rate_are_refused_before_anything_is_written(
    use: Any, field: str, model: Path, tmp_path: Path
) -> None:
    data = write_data(tmp_path / "data", **{**OWN, field: 7, "robot": "somebody_else"})
    with pytest.raises(DataError, match=rf"another robot than bimanual_sim; got {field} 7 \(robot somebody_else\); "
                                        rf"expected {field} {OWN[field]}.*--robot"):
        use(data, tmp_path, model)
    assert not (tmp_path / "run").exists()


def test_data_that_do_not_say_their_robot_are_taken(tmp_path: Path) -> None:
    check_contract(write_data(tmp_path / "silent"), SPEC)
    check_contract(write_data(tmp_path / "own", **OWN), SPEC)
    check_contract(tmp_path / "absent", SPEC)
    (tmp_path / "own" / "meta.json").write_text("{")
    with pytest.raises(DataError, match=r"meta\.json: is not JSON"):
        check_contract(tmp_path / "own", SPEC)


def test_a_folder_without_meta_json_trains_and_plays_nothing(model: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    (data / "meta.json").unlink()
    prepare(data, tmp_path / "run", model)
    assert train._tasks(data) == ()


@pytest.mark.parametrize(("began", "again", "got", "expected"), [
    (("--prefix", "8"), ("--prefix", "0"), "--prefix 0", "--prefix 8"),
    ((), ("--prefix", "3"), "--prefix 3", "--prefix 0"),
    ((), ("--preset", "narrower"), "--preset narrower", "--preset narrow"),
    ((), ("--action-steps", "5", "--intent", "video"), "--action-steps 5, --intent video",
     "--action-steps 3, --intent value"),
    (("--coupling", "joint"), ("--value-start", "black"), "--coupling intent_causal, --value-start black",
     "--coupling joint, --value-start noise"),
], ids=str)
def test_a_run_is_not_gone_on_with_as_another_model(
    began: tuple[str, ...], again: tuple[str, ...], got: str, expected: str, data: Path, model: Path, tmp_path: Path
) -> None:
    begin(data, tmp_path / "run", model, *began)
    with pytest.raises(ConfigError) as refused:
        prepare(data, tmp_path / "run", model, *again)
    assert (refused.value.got, refused.value.expected) == (got, expected)
    assert refused.value.where == str(tmp_path / "run")
    assert prepare(data, tmp_path / "run", model, *began).progress.step == 1


def test_every_field_of_a_model_tells_it_from_the_run_also_where_no_option_chooses_it(
    data: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    coder = begin(data, out, model).autoencoder
    begun = begun_run(out)
    assert begun is not None
    require_same_model(out, begun, CONFIG, SPEC, coder)
    wider = dataclasses.replace(CONFIG, detail_channels=9)
    with pytest.raises(ConfigError, match="got detail_channels 9; expected detail_channels 8"):
        require_same_model(out, begun, wider, SPEC, coder)
    more = dataclasses.replace(CONFIG, geometry=GeometryConfig(), paths=True)
    with pytest.raises(ConfigError, match="got --paths yes, --geometry predicted; expected --paths no, --geometry no"):
        require_same_model(out, begun, more, SPEC, coder)
    other = dataclasses.replace(SPEC, name="other")
    wanted = rf"got --robot other \({other.content_hash}\); expected --robot bimanual_sim \({SPEC.content_hash}\)"
    with pytest.raises(ConfigError, match=wanted):
        require_same_model(out, begun, CONFIG, other, coder)


def test_a_run_is_not_gone_on_with_in_the_latents_of_another_autoencoder(
    data: Path, model: Path, tmp_path: Path
) -> None:
    begin(data, tmp_path / "run", model)
    save_checkpoint(tmp_path / "other", make_checkpoint(1))
    with pytest.raises(ConfigError, match="--autoencoder another one"):
        prepare(data, tmp_path / "run", tmp_path / "other")
    assert prepare(data, tmp_path / "run", tmp_path / "run" / "checkpoint").progress.step == 1


def test_steps_wording_and_evaluation_of_a_run_may_change(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(data, tmp_path / "run", model)
    words = ("--steps", "50", "--reworded", "0.2", "--minutes", "1", "--eval-every", "7", "--save-every", "3")
    assert prepare(data, tmp_path / "run", model, *words).progress.step == 1
    assert "has changed" not in capsys.readouterr().out


def test_data_that_have_changed_are_told_in_one_line_and_trained_on(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(data, tmp_path / "run", model)
    more = write_data(tmp_path / "more", seed=1)
    capsys.readouterr()
    again = prepare(more, tmp_path / "run", model)
    line, = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{more} has changed since {tmp_path / 'run'} was saved (data hash 0.3 0, now 0.3 1)")
    again.save()
    prepare(more, tmp_path / "run", model)
    assert "has changed" not in capsys.readouterr().out


@pytest.mark.parametrize("option", [
    "--tint 0.5", "--init MODEL", "--video-weight 0.1", "--narrow-from-video", "--noisy-history 0.5",
    "--text-dropout 0.1", "--seed 7", "--batch 3", "--learning-rate 0.1",
])
def test_a_run_is_not_gone_on_with_in_other_ways_that_decide_its_weights(
    option: str, data: Path, model: Path, tmp_path: Path
) -> None:
    other = option.replace("MODEL", str(model))
    usual = begin(data, tmp_path / "run", model).checkpoint().training
    name, *value = other.split()
    with pytest.raises(ConfigError) as refused:
        prepare(data, tmp_path / "run", model, *other.split())
    assert refused.value.got == f"{name} {value[0] if value else 'yes'}"
    kept = usual[name.removeprefix("--").replace("-", "_")]
    assert refused.value.expected == f"{name} {'none' if kept is None else 'no' if kept is False else kept}"
    begin(data, tmp_path / "other", model, *other.split())
    assert prepare(data, tmp_path / "other", model, *other.split()).progress.step == 1
    with pytest.raises(ConfigError, match=name):
        prepare(data, tmp_path / "other", model)


def test_what_decides_the_weights_stands_in_the_model_that_is_written(data: Path, model: Path, tmp_path: Path) -> None:
    begin(data, tmp_path / "run", model, "--tint", "0.25", "--init", str(model), "--text-dropout", "0.1")
    noted = load_checkpoint(tmp_path / "run" / "checkpoint").training
    assert (noted["tint"], noted["init"], noted["text_dropout"]) == (0.25, str(model), 0.1)
    assert noted["video"] is None
    assert noted["only_geometry"] is False


def test_a_run_of_an_older_version_that_noted_less_is_gone_on_with(data: Path, model: Path, tmp_path: Path) -> None:
    begin(data, tmp_path / "run", model)
    path = tmp_path / "run" / "checkpoint" / "config.json"
    record = json.loads(path.read_text())
    record["training"] = {"steps_done": 1, "data_hash": record["training"]["data_hash"]}
    path.write_text(json.dumps(record))
    assert prepare(data, tmp_path / "run", model, "--tint", "0.5").progress.step == 1


def test_a_run_whose_last_save_was_cut_off_after_any_of_its_files_is_gone_on_with(
    data: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    trainer = begin(data, out, model)
    units = trainer.stats
    trainer.step()
    later = tmp_path / "later"
    save_checkpoint(later, trainer.checkpoint())
    for name in ("model.safetensors", "norm_stats.json", "config.json"):
        (later / name).replace(out / "checkpoint" / name)
        again = prepare(data, out, model)
        assert again.progress.step == 1
        assert again.stats.to_json_dict() == units.to_json_dict()


@pytest.mark.parametrize("damage", ["model.safetensors", "norm_stats.json", "config.json"])
def test_a_run_with_a_damaged_file_is_refused_by_name(damage: str, data: Path, model: Path, tmp_path: Path) -> None:
    begin(data, tmp_path / "run", model)
    path = tmp_path / "run" / "checkpoint" / damage
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match="checkpoint: is no checkpoint of a run"):
        begun_run(tmp_path / "run")


def test_an_autoencoder_is_not_gone_on_with_from_another_start(data: Path, model: Path, tmp_path: Path) -> None:
    episode = data / "episodes" / "00000.npz"
    (data / "episodes" / "00001.npz").write_bytes(episode.read_bytes())
    parser = argparse.ArgumentParser()
    add_train_autoencoder_command_arguments(parser)
    words = ["--data", str(data), "--out", str(tmp_path / "run"), "--batch", "2", "--device", "cpu", "--steps", "1"]
    train_autoencoder_command(parser.parse_args([*words, "--init", str(model)]))
    with pytest.raises(DataError, match="belongs to another run"):
        train_autoencoder_command(parser.parse_args(words))
    train_autoencoder_command(parser.parse_args([*words, "--init", str(model)]))


def test_states_are_not_gone_on_with_by_other_options(data: Path, model: Path, tmp_path: Path) -> None:
    (data / "episodes" / "00001.npz").write_bytes((data / "episodes" / "00000.npz").read_bytes())
    words = ("--batch", "2", "--device", "cpu", "--action-weight", "0.5")
    train_states_on(data, tmp_path, model, *words, "--steps", "2")
    weights = (tmp_path / "run" / "states.safetensors").read_bytes()
    with pytest.raises(ConfigError, match=r"other options; got --seed 3, --action-weight 1\.0; "
                                          r"expected --seed 0, --action-weight 0\.5"):
        train_states_on(data, tmp_path, model, *words[:4], "--seed", "3", "--steps", "3")
    assert (tmp_path / "run" / "states.safetensors").read_bytes() == weights
    train_states_on(data, tmp_path, model, *words, "--steps", "3")
    assert (tmp_path / "run" / "states.safetensors").read_bytes() != weights


def test_states_do_not_learn_from_one_episode_which_is_held_out(data: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data: too few episodes.*got 1; expected at least 2"):
        train_states_on(data, tmp_path, model, "--batch", "2", "--device", "cpu", "--steps", "2")


def test_a_folder_without_a_saved_state_is_no_run(data: Path, model: Path, tmp_path: Path) -> None:
    assert begun_run(tmp_path) is None
    begin(data, tmp_path / "run", model)
    (tmp_path / "run" / "state.safetensors").unlink()
    assert begun_run(tmp_path / "run") is None
    assert prepare(data, tmp_path / "run", model, "--prefix", "2").progress.step == 0


def test_steps_that_were_never_saved_stand_once_in_the_metrics(data: Path, model: Path, tmp_path: Path) -> None:
    out, metrics = tmp_path / "run", tmp_path / "run" / "metrics.jsonl"

    def noted() -> list[int]:
        return [json.loads(line)["step"] for line in metrics.read_text().splitlines()]

    def go(trainer: Trainer, steps: int, save: bool) -> None:
        trainer.step = lambda: _count(trainer)  # type: ignore[method-assign]
        trainer.config = dataclasses.replace(trainer.config, steps=trainer.progress.step + steps)
        if not save:
            trainer.save = lambda: None  # type: ignore[method-assign]
        train.run(trainer, save_every=1000, until_s=None)

    go(prepare(data, out, model), 50, save=True)
    assert noted() == [25, 50]
    go(prepare(data, out, model), 75, save=False)
    assert noted() == [25, 50, 75, 100, 125], "written as it goes"
    go(prepare(data, out, model), 60, save=True)
    assert noted() == [25, 50, 75, 100]


def _count(trainer: Trainer) -> dict[str, float]:
    trainer.progress.step += 1
    return {"action": 0.5}
