"""Random plans, services and faults: no command and no look-ahead outside any limit, nothing broken accepted.

STARRY_FUZZ_CHUNKS sets the number of chunks.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from control_kit import FORWARD_SPEC, FULL_SPEC, SPEC

from starry_ros.bench.fuzz import ExecutorFuzzer, worst_use
from starry_ros.control.schedule import Refusal
from starry_ros.robot_spec import RobotSpec

CHUNKS = int(os.environ.get("STARRY_FUZZ_CHUNKS", "3000"))
SEEDS = 6


def test_no_random_plan_leads_out_of_the_workspace_or_brings_the_arms_together() -> None:
    report = ExecutorFuzzer(FULL_SPEC, 21).run(CHUNKS // 20)
    assert not report.problems, report.problems[:5]
    assert report.accepted > report.chunks // 20


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_random_plan_or_event_leads_outside_the_limits(seed: int) -> None:
    report = ExecutorFuzzer(SPEC if seed % 2 else FORWARD_SPEC, seed).run(CHUNKS // SEEDS)
    assert not report.problems, f"seed {seed}: {report.problems[:5]}"
    assert report.gate_interventions == 0, f"seed {seed}: a curve broke a limit before the gate"
    assert report.accepted > report.chunks // 10
    assert report.worst_use["acceleration"] > 0.9, "the limits were tried"
    assert report.accepted + sum(report.refused.values()) == report.chunks
    wanted = {"not_finite", "out_of_limits", "foreign_contract", "wrong_joints", "wrong_shape", "bad_times"}
    assert wanted <= set(report.refused) <= {reason.value for reason in Refusal}


def test_the_same_seed_replays_the_same_run() -> None:
    first, second = (ExecutorFuzzer(SPEC, 11).run(60) for _ in range(2))
    assert first == second


def rows(spec: RobotSpec, value: float, kind: str) -> np.ndarray:
    """Positions of which exactly one limit is used to `value`, from a closed form."""
    t = np.arange(200) / spec.rates.control_hz
    bound = spec.limit(kind)[0] * value
    path = {"velocity": bound * t, "acceleration": bound * t**2 / 2, "jerk": bound * t**3 / 6}[kind]
    positions = np.repeat(spec.limit("home")[None], len(t), axis=0)
    positions[:, 0] = path
    return positions


@pytest.mark.parametrize("kind", ["velocity", "acceleration", "jerk"])
def test_the_checker_measures_what_it_says(kind: str) -> None:
    assert worst_use(rows(SPEC, 1.2, kind), SPEC, SPEC.rates.control_hz)[kind] == pytest.approx(1.2, rel=1e-6)
    bad = rows(SPEC, 0.5, kind)
    bad[50, 3] = np.nan
    assert worst_use(bad, SPEC, SPEC.rates.control_hz)[kind] == np.inf
    assert worst_use(bad[:0], SPEC, SPEC.rates.control_hz)[kind] == 0
