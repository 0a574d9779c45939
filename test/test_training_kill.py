"""A training whose process is killed, wherever that is, and started again ends with the bits of one that is not."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from process_kit import arguments, narrow_process, start
from safetensors.torch import load_file
from test_training_units import write_data
from wam_kit import SPEC, make_checkpoint

from starry_ros.training import train
from starry_ros.training.store import STATE
from starry_ros.wam.checkpoint import load_checkpoint, save_checkpoint

STEPS, LONGEST_S = 30, 120.0
CUTS = (1, 3, 3, 4, 6, 7, 8)
"""Which of the files that it would put in their places each process is killed at.

A save has four: weights, units, configuration, state. First the cache of images, which has one; then at the second,
third and fourth file of the first save; then, after a whole save, at the same files of the next one.
"""


def work(data: Path, out: Path, model: Path, last: int) -> None:
    """`starry train`, saving at every step; killed when it is about to put its file number `last` in its place."""
    patch, replace, done = narrow_process(), os.replace, 0

    def counted(source: str, target: str) -> None:
        nonlocal done
        done += 1
        if done == last:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    patch.setattr(os, "replace", counted)
    words = ("--steps", str(STEPS), "--batch", "2", "--save-every", "1", "--eval-every", "0", "--prefix", "2")
    train.train_command(arguments(data, out, model, *words, "--noisy-history", "0.5", "--text-dropout", "0.5"))


def saved(run: Path) -> tuple[dict[str, torch.Tensor], dict[str, bytes]]:
    """Everything that a run has to go on from, and the files of its model."""
    return load_file(run / STATE), {path.name: path.read_bytes() for path in (run / "checkpoint").iterdir()}


def ended(process: Any) -> int | None:
    """The exit code of a process that ends by itself; it is killed if it does not."""
    process.join(LONGEST_S)
    if process.is_alive():
        process.kill()
        pytest.fail(f"a training has not ended within {LONGEST_S} s")
    code: int | None = process.exitcode
    return code


def kill_at_random(run: Path, draw: random.Random, *paths: Path) -> None:
    """Start the run, wait until it has saved once more, and kill it within the next five steps or so."""
    state = run / STATE
    before = state.stat().st_mtime_ns
    process = start(work, *paths, 0)
    while process.is_alive() and state.stat().st_mtime_ns == before:
        time.sleep(0.002)
    time.sleep(draw.uniform(0.0, 0.3))
    assert process.is_alive(), "it has to be at work when it is killed"
    process.kill()
    assert ended(process) == -signal.SIGKILL


@pytest.mark.slow
def test_a_training_killed_at_every_file_and_at_random_moments_ends_with_the_bits_of_one_that_was_not(
    tmp_path: Path
) -> None:
    data, model, whole, broken = (tmp_path / name for name in ("data", "model", "whole", "broken"))
    write_data(data)
    save_checkpoint(model, make_checkpoint())
    straight = start(work, data, whole, model, 0)
    for number in CUTS:
        assert ended(start(work, data, broken, model, number)) == -signal.SIGKILL
    seed = time.time_ns()
    print(f"killed at moments drawn by seed {seed}")  # shown where the test fails
    draw = random.Random(seed)
    for _ in range(2):
        kill_at_random(broken, draw, data, broken, model)
    last = start(work, data, broken, model, 0)
    for process in (straight, last):
        assert ended(process) == 0
    (wanted, files), (got, others) = saved(whole), saved(broken)
    assert wanted.keys() == got.keys()
    assert all(torch.equal(got[name], value) for name, value in wanted.items())
    assert {name for name in files if files[name] != others[name]} == set()
    assert load_checkpoint(broken / "checkpoint", SPEC).training["steps_done"] == STEPS
    notes = [json.loads(line)["step"] for line in (broken / "metrics.jsonl").read_text().splitlines()]
    assert notes == [25], "what was noted and not saved is noted once"
