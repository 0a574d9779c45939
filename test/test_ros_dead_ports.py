"""A process keeps off the shared-memory ports that killed ones have left, and off those alone."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from starry_ros.ros import dead_ports
from starry_ros.ros.dead_ports import keep_off_dead_ports


def taken(path: Path) -> bool:
    """Whether somebody else would find the lock taken."""
    with path.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def test_a_dead_port_that_somebody_uses_is_held_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, processes = tmp_path / "shm", tmp_path / "proc"
    for number in (7411, 7413, 7415, 74150):
        (memory / f"fastrtps_port{number}").parent.mkdir(exist_ok=True)
        (memory / f"fastrtps_port{number}").touch()
        (memory / f"fastrtps_port{number}_el").touch()
    (processes / "12").mkdir(parents=True)
    (processes / "13").mkdir()  # ends while it is looked at
    (processes / "12" / "maps").write_text(
        "7f00-7f01 rw-s 00000000 00:1a 7 /dev/shm/fastrtps_port7411\n"
        "7f01-7f02 rw-s 00000000 00:1a 8 /dev/shm/fastrtps_port7415 (deleted)\n"
        "7f02-7f03 rw-s 00000000 00:1a 9 /dev/shm/fastrtps_0123abcd\n")
    monkeypatch.setattr(dead_ports, "MEMORY", memory)
    monkeypatch.setattr(dead_ports, "PROCESSES", processes)
    monkeypatch.setattr(dead_ports, "_held", held := [])
    with (memory / "fastrtps_port7411_el").open("r+") as reader:  # 7411 is read by a living process
        fcntl.flock(reader, fcntl.LOCK_EX)
        assert keep_off_dead_ports() == ["fastrtps_port7415"]
    found = {number: taken(memory / f"fastrtps_port{number}_el") for number in (7411, 7413, 7415, 74150)}
    assert found == {7411: False, 7413: False, 7415: True, 74150: False}
    for descriptor in held:
        os.close(descriptor)
    assert not taken(memory / "fastrtps_port7415_el")


def test_without_shared_memory_there_is_nothing_to_keep_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_ports, "MEMORY", tmp_path / "absent")
    assert keep_off_dead_ports() == []
