"""Reports: the interval against closed forms, rows, conditions, and what JSON cannot hold."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import pytest

from starry_ros.errors import ConfigError
from starry_ros.report import (
    BENCH_COLUMNS,
    EVALUATION_COLUMNS,
    add_json_argument,
    bench_row,
    evaluation_row,
    print_table,
    wilson,
    write_report,
)

Z = 1.959963984540054


@pytest.mark.parametrize("n", [1, 5, 10, 50, 400])
def test_nothing_or_everything_has_the_closed_form(n: int) -> None:
    """At 0 of n the upper end is z^2 / (n + z^2); at n of n the lower end is n / (n + z^2)."""
    assert wilson(0, n) == pytest.approx((0.0, Z * Z / (n + Z * Z)), abs=1e-12)
    assert wilson(n, n) == pytest.approx((n / (n + Z * Z), 1.0), abs=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(1, 10), (7, 10), (45, 50), (98, 100)])
def test_both_ends_solve_the_equation_of_the_score_test(successes: int, n: int) -> None:
    """An end p satisfies (successes / n - p)^2 = z^2 p (1 - p) / n."""
    for p in wilson(successes, n):
        assert (successes / n - p) ** 2 == pytest.approx(Z * Z * p * (1 - p) / n, rel=1e-9)


def test_the_interval_is_symmetric_in_success_and_failure() -> None:
    low, high = wilson(3, 20)
    assert wilson(17, 20) == pytest.approx((1 - high, 1 - low))


def test_no_episode_says_nothing_and_impossible_counts_are_refused() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    for successes, n in ((-1, 3), (4, 3)):
        with pytest.raises(ValueError, match="successes"):
            wilson(successes, n)


def test_rows_have_the_agreed_columns() -> None:
    row = evaluation_row("expert", "place_block_pad", "easy", 9, 10, colour="red")
    assert tuple(row)[: len(EVALUATION_COLUMNS)] == EVALUATION_COLUMNS
    assert (row["success"], row["colour"]) == (0.9, "red")
    bench = bench_row("pack", 2.0, "ms", 5.0)
    assert tuple(bench) == BENCH_COLUMNS
    assert bench["ratio"] == pytest.approx(2.5)
    assert bench_row("share", 0.9, "share", 0.3, more_is_better=True)["ratio"] == pytest.approx(3.0)
    assert bench_row("pack", 2.0, "ms")["ratio"] is None


def test_a_report_carries_machine_versions_commit_command_and_time(tmp_path: Path) -> None:
    write_report(tmp_path / "new" / "report.json", [{"name": "x"}], seed=7)
    report = json.loads((tmp_path / "new" / "report.json").read_text())
    assert set(report) == {"meta", "rows"}
    assert {"machine", "versions", "commit", "command", "time", "seed"} <= set(report["meta"])
    assert report["meta"]["seed"] == 7
    assert report["meta"]["versions"]["python"]
    assert report["rows"] == [{"name": "x"}]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.json"]


def test_numpy_paths_and_non_finite_numbers_become_plain(tmp_path: Path) -> None:
    row = {"a": np.float32(0.5), "b": np.arange(2), "c": math.nan, "d": Path("x"), "e": (np.int64(3), True, None)}
    write_report(tmp_path / "r.json", [row])
    assert json.loads((tmp_path / "r.json").read_text())["rows"] == [
        {"a": 0.5, "b": [0, 1], "c": None, "d": "x", "e": [3, True, None]}
    ]


def test_a_file_that_cannot_be_written_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_report(tmp_path / "file" / "r.json", [])


@pytest.mark.parametrize("name", ["file/r.json", "folder", "file/deep/r.json"])
def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    parser = argparse.ArgumentParser()
    add_json_argument(parser)
    assert parser.parse_args(["--json", str(tmp_path / "new" / "r.json")]).json == tmp_path / "new" / "r.json"
    with pytest.raises(SystemExit):
        parser.parse_args(["--json", str(tmp_path / name)])
    assert "cannot be written" in capsys.readouterr().err


def test_a_table_is_aligned_and_shows_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([{"name": "a", "value": 0.123456}, {"name": "long", "value": None}])
    assert capsys.readouterr().out == "name  value\na     0.1235\nlong  -\n"
