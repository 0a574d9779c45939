"""`models/tiny/make.sh`: the commands that make a model like the shipped one, each once, whatever was broken off."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from starry_ros.cli import build_parser
from starry_ros.paths import model_dir
from starry_ros.sim.choices import FORCED, TASKS

SCRIPT = model_dir("tiny") / "make.sh"
FAKE = """#!/bin/bash
echo "$*" >> "$LOG"
while [ $# -gt 0 ]; do
    if [ "$1" = --out ]; then
        mkdir -p "$2/checkpoint"
    fi
    shift
done
[ "$(wc -l < "$LOG")" != "${BREAKS_AT:-0}" ]
"""
"""Notes what it is asked for, makes the folder, and breaks once, having begun."""


def made(folder: Path, breaks_at: int = 0) -> tuple[int, list[list[str]]]:
    """The script's exit code, and the words of every command so far."""
    fake, log = folder / "starry", folder / "log"
    fake.write_text(FAKE)
    fake.chmod(0o755)
    env = {"PATH": "/usr/bin:/bin", "STARRY": str(fake), "LOG": str(log), "BREAKS_AT": str(breaks_at)}
    code = subprocess.run([str(SCRIPT), str(folder / "out")], env=env, check=False, capture_output=True).returncode
    return code, [shlex.split(line.replace(str(folder), "FOLDER")) for line in log.read_text().splitlines()]


def test_every_command_is_one_that_starry_takes(tmp_path: Path) -> None:
    code, commands = made(tmp_path)
    assert code == 0
    for words in commands:
        args = build_parser(words)[0].parse_args(words)
        if words[1] == "generate" and args.kind is not None and args.model is not None:
            assert args.task in FORCED[args.kind]
    shown = [words for words in commands if words[1] == "generate" and "--model" not in words]
    assert {build_parser(words)[0].parse_args(words).task for words in shown} == set(TASKS)


def test_no_folder_is_merged_twice_and_every_one_is(tmp_path: Path) -> None:
    _, commands = made(tmp_path)
    written = {words[words.index("--out") + 1] for words in commands if words[1] == "generate"}
    merges = [words[2 : words.index("--out")] for words in commands if words[1] == "merge"]
    assert [len(parts) for parts in merges] == sorted(len(parts) for parts in merges)
    for parts in merges:
        assert len(parts) == len(set(parts))
        assert set(parts) <= written
    assert set(merges[-1]) == written


@pytest.mark.parametrize("at", [1, 9, 16, 17, 18, 40])
def test_a_recipe_that_breaks_off_goes_on_there(tmp_path: Path, at: int) -> None:
    (tmp_path / "whole").mkdir()
    whole = made(tmp_path / "whole")[1]
    code, commands = made(tmp_path, breaks_at=at)
    assert (code, len(commands)) == (1, at)
    code, commands = made(tmp_path)
    assert code == 0
    assert commands[at] == commands[at - 1], "the command that broke is given again"
    assert [*commands[: at - 1], *commands[at:]] == whole
