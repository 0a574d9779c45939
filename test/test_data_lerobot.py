"""Data sets through lerobot itself, in an environment of its own: `lerobot_check` says how to make one.

Skipped unless LEROBOT_PYTHON names the interpreter of that environment.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from test_data_transfer import painted

from starry_ros.cli import main
from starry_ros.data.store import read_episode, write_episode

LEROBOT_PYTHON = os.environ.get("LEROBOT_PYTHON", "")
CHECKOUT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(not LEROBOT_PYTHON, reason="LEROBOT_PYTHON names no interpreter with lerobot")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(2):
        write_episode(tmp_path / "made" / "episodes" / f"{i:06d}.npz", painted(i, 8 + i))
    return tmp_path / "made"


def check(what: str, data_set: Path, folder: Path) -> str:
    command = [LEROBOT_PYTHON, "test/lerobot_check.py", what, str(data_set), str(folder)]
    done = subprocess.run(command, cwd=CHECKOUT, env={**os.environ, "PYTHONPATH": "."}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_lerobot_gives_the_tensors_of_an_exported_data_set_bit_for_bit(folder, tmp_path):
    assert main(["data", "export", str(folder), str(tmp_path / "exported")]) == 0
    assert "2 episodes, 6 frames: same tensors, images bit for bit" in check("read", tmp_path / "exported", folder)


def test_what_lerobot_writes_comes_in_as_it_was(folder, tmp_path):
    check("write", tmp_path / "written", folder)
    assert main(["data", "import", str(tmp_path / "written"), "--out", str(tmp_path / "back")]) == 0
    for path in sorted((folder / "episodes").iterdir()):
        ours, theirs = read_episode(path), read_episode(tmp_path / "back" / "episodes" / path.name)
        for name in ("canvas_THWC", "position_TJ"):
            assert np.array_equal(theirs[name], ours[name][:-1]), name
        assert np.array_equal(theirs["command_TJ"][1:], ours["command_TJ"][1:-1])
        assert theirs["texts"].tolist() == [str(ours["texts"][0])]
