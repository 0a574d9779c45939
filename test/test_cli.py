"""The command line: help, exit codes, one line for errors, JSON, and nothing heavy before it is needed."""

from __future__ import annotations

import argparse
import errno
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from starry_ros import checks, cli
from starry_ros.errors import ConfigError
from starry_ros.paths import robot_file
from starry_ros.report import bench_row

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def fake_verb(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A verb `starry fake` whose function a test sets."""
    module = types.ModuleType("fake_room")
    module.add_arguments = _add_size  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_room", module)
    monkeypatch.setitem(cli.VERBS, ("fake",), cli.Verb("pretend", "fake_room", "work"))
    return module


def _add_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=3)


def raising(error: BaseException) -> object:
    def work(args: argparse.Namespace) -> int:
        raise error
    return work


def test_help_lists_every_verb_and_the_exit_codes(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for word in {key[0] for key in cli.VERBS}:
        assert re.search(rf"^    {word}\s", text, re.MULTILINE)
    assert "130" in text


@pytest.mark.parametrize("key", cli.VERBS, ids=" ".join)
def test_every_verb_explains_itself(key: tuple[str, ...], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*key, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "exit codes:" in text
    assert len(text.splitlines()) > 8


SILENT = {"up", "record", "view", "top", "train", "train-autoencoder", "train-state-tokens", "train-rl", "data",
          "model average"}
"""Verbs, or their first words, that run or make something and measure nothing."""


@pytest.mark.parametrize("key", [key for key in cli.VERBS if not {key[0], " ".join(key)} & SILENT], ids=" ".join)
def test_every_verb_that_reports_writes_json(key: tuple[str, ...], capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        cli.main([*key, "--help"])
    assert "--json FILE" in capsys.readouterr().out


def test_nothing_to_do_shows_the_help_and_is_wrong_usage(capsys: Capture) -> None:
    assert cli.main([]) == cli.EXIT_USER_ERROR
    assert "verbs:" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["dance"], ["check"], ["check", "dance"], ["bench", "dance"], ["up", "--runtime", "x"]]
)
def test_wrong_usage_ends_with_2_and_names_the_choices(words: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == cli.EXIT_USER_ERROR
    assert "usage: starry" in capsys.readouterr().err


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (1, 1)])
def test_the_functions_result_is_the_exit_code(fake_verb: types.ModuleType, result: int | None, code: int) -> None:
    seen = []
    fake_verb.work = lambda args: (seen.append(args.size), result)[1]  # type: ignore[attr-defined]
    assert cli.main(["fake", "--size", "5"]) == code
    assert seen == [5]


def test_an_error_that_the_user_can_fix_is_one_line_and_2(fake_verb: types.ModuleType, capsys: Capture) -> None:
    error = ConfigError("here", "is wrong", got=1, expected=2, fix="do that")
    fake_verb.work = raising(error)  # type: ignore[attr-defined]
    assert cli.main(["fake"]) == 2
    assert capsys.readouterr().err == "error: here: is wrong; got 1; expected 2. Fix: do that\n"


def test_a_missing_library_is_named_with_its_remedy(fake_verb: types.ModuleType, capsys: Capture) -> None:
    fake_verb.work = raising(ModuleNotFoundError("No module", name="mujoco"))  # type: ignore[attr-defined]
    assert cli.main(["fake"]) == 2
    assert capsys.readouterr().err.startswith("error: mujoco: is not installed. Fix: make setup")


@pytest.mark.parametrize(("number", "name"), [(errno.EACCES, "/srv/demo"), (errno.ENOSPC, None)])
def test_a_place_that_cannot_be_written_is_one_line_and_2(
    number: int, name: str | None, fake_verb: types.ModuleType, capsys: Capture
) -> None:
    fake_verb.work = raising(OSError(number, "is no good", name))  # type: ignore[attr-defined]
    assert cli.main(["fake"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {name or 'a file'}: is no good. Fix: ")


def test_an_os_error_that_is_not_the_users_is_not_hidden(fake_verb: types.ModuleType) -> None:
    fake_verb.work = raising(OSError(errno.EBADF, "bad descriptor"))  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="bad descriptor"):
        cli.main(["fake"])


def test_a_missing_module_of_our_own_is_a_bug_and_not_hidden(fake_verb: types.ModuleType) -> None:
    fake_verb.work = raising(ModuleNotFoundError("No module", name="starry_ros.gone"))  # type: ignore[attr-defined]
    with pytest.raises(ModuleNotFoundError):
        cli.main(["fake"])


def test_ctrl_c_ends_with_130_and_no_traceback(fake_verb: types.ModuleType, capsys: Capture) -> None:
    fake_verb.work = raising(KeyboardInterrupt())  # type: ignore[attr-defined]
    assert cli.main(["fake"]) == 130
    assert capsys.readouterr().err == "stopped\n"


def test_no_parser_needs_a_heavy_library() -> None:
    """`--help`, and a complaint about a wrong word, come at once and on a machine that lacks the libraries."""
    program = """
import sys
from starry_ros.cli import VERBS, build_parser
heavy = {"torch", "mujoco", "rclpy"}
for key in [(), *VERBS]:
    build_parser(list(key))
    found = heavy & set(sys.modules)
    if found:
        sys.exit(f"starry {' '.join(key)}: its options import {sorted(found)}")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False,
                          cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr


def test_check_robot_prints_every_joint_and_writes_them(tmp_path: Path, capsys: Capture) -> None:
    assert cli.main(["check", "robot", "bimanual_sim", "--json", str(tmp_path / "r.json")]) == 0
    text = capsys.readouterr().out
    report = json.loads((tmp_path / "r.json").read_text())
    assert len(report["rows"]) == 14
    assert report["meta"]["contract_hash"] in text
    assert all(row["joint"] in text for row in report["rows"])


@pytest.mark.parametrize(("old", "new", "code", "words"), [
    ("z: [0.0, 0.70]", "z: [0.4, 0.70]", 1, "no executor arms there"),
    ("arm_distance_m: 0.06", "arm_distance_m: 2.0", 1, "m apart"),
    ("package:sim/assets/cell.xml", "missing.xml", 2, "cannot be read for forward kinematics"),
    ("end_effector_frame: left_pinch", "end_effector_frame: tool9", 2, "lacks an end-effector frame; got tool9"),
    ("left_arm_controller/joint_trajectory", "right_arm_controller/joint_trajectory", 2, "duplicate"),
])
def test_check_robot_finds_what_could_not_be_armed(
    old: str, new: str, code: int, words: str, tmp_path: Path, capsys: Capture
) -> None:
    text = robot_file("bimanual_sim").read_text()
    assert old in text
    (tmp_path / "robot.yaml").write_text(text.replace(old, new))
    assert cli.main(["check", "robot", str(tmp_path / "robot.yaml")]) == code
    assert words in "".join(capsys.readouterr())


def test_check_robot_refuses_a_broken_file_with_2(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "robot.yaml").write_text("name: x\n")
    assert cli.main(["check", "robot", str(tmp_path / "robot.yaml")]) == 2
    assert "missing fields" in capsys.readouterr().err


def test_check_model_and_data_refuse_what_does_not_exist(tmp_path: Path, capsys: Capture) -> None:
    assert cli.main(["check", "model", str(tmp_path / "nothing")]) == 2
    assert cli.main(["check", "data", str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.count("error: ") == 2


def test_check_machine_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(checks, "_PACKAGES", (("no_such_package", "a test", True, "no-such"),))
    assert cli.main(["check", "machine"]) == 1
    assert "no_such_package: make setup, or pip install no-such\n" in capsys.readouterr().out


@pytest.mark.parametrize(("bound", "passed"), [(2.0, True), (2.5, False), (None, None)])
def test_bench_ends_with_1_when_a_bar_is_missed(
    bound: float | None, passed: bool | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    module = types.ModuleType("fake_bench")
    module.run = lambda spec: [bench_row("speed/x", 2.0, "s", 4.0)]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_bench", module)
    monkeypatch.setitem(checks.BENCHES, "canvas", ("fake_bench", "pretend"))
    monkeypatch.setattr(checks, "BARS", () if bound is None else (checks.Bar("speed/*", "ratio", ">=", bound),))
    code = 1 if passed is False else 0
    assert cli.main(["bench", "canvas", "--json", str(tmp_path / "b.json")]) == code
    report = json.loads((tmp_path / "b.json").read_text())
    assert (report["rows"][0]["ratio"], report["rows"][0]["passed"]) == (2.0, passed)
    assert report["meta"]["passed"] is (code == 0)
    assert ("missed: speed/x (ratio >= 2.5)" in capsys.readouterr().out) is (code == 1)


@pytest.mark.parametrize(("relation", "value", "verdict"), [
    (">=", 1.0, True), (">=", 0.999, False), ("<=", 1.0, True), ("<=", 1.001, False), ("<=", None, None),
])
def test_a_bar_judges_only_rows_it_is_about(relation: str, value: float | None, verdict: bool | None) -> None:
    bar = checks.Bar("a/*", "value", relation, 1.0)
    assert bar.verdict({"name": "a/b", "value": value}) is verdict
    assert bar.verdict({"name": "b/a", "value": value}) is None


def test_one_bench_that_cannot_run_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    good, bad = types.ModuleType("good_bench"), types.ModuleType("bad_bench")
    good.run = lambda spec: [bench_row("speed", 1.0, "s")]  # type: ignore[attr-defined]
    bad.run = raising(ConfigError("bench", "cannot run here"))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "good_bench", good)
    monkeypatch.setitem(sys.modules, "bad_bench", bad)
    monkeypatch.setattr(checks, "BENCHES", {"bad": ("bad_bench", "pretend"), "good": ("good_bench", "pretend")})
    assert cli.main(["bench", "all"]) == 1
    captured = capsys.readouterr()
    assert "cannot run here" in captured.err
    assert "speed" in captured.out
