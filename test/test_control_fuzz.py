"""Random plans, services and faults: no command and no look-ahead outside any limit, nothing broken accepted.

STARRY_FUZZ_CHUNKS sets the number of chunks.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from control_kit import FORWARD_SPEC, FULL_SPEC, SPEC

from starry_ros.bench.fuzz import ExecutorFuzzer, strayed, worst_use
from starry_ros.control.executor import Executor
from starry_ros.control.schedule import Refusal
from starry_ros.control.status import LookAhead
from starry_ros.robot_spec import RobotSpec
from starry_ros.types import JointCommand

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
    assert (report.recalls > 0) == bool(seed % 2), "commands went back to what the arms were on"
    assert report.accepted + sum(report.refused.values()) == report.chunks
    wanted = {"not_finite", "out_of_limits", "foreign_contract", "wrong_joints", "wrong_shape", "bad_times"}
    assert wanted <= set(report.refused) <= {reason.value for reason in Refusal}


def test_commands_that_go_on_from_where_the_arms_are_not_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = Executor._go_on

    def elsewhere(executor: Executor, now_ns: int) -> None:
        executor._track.curve.pieces_B4J[:, 0] += 0.01
        executor._track.motion_3J = executor._track.curve.at(0.0)
        go_on(executor, now_ns)

    monkeypatch.setattr(Executor, "_go_on", elsewhere)
    report = ExecutorFuzzer(SPEC, 1).run(80)
    assert any("goes on from nowhere" in problem for problem in report.problems)


def test_a_command_strays_from_a_look_ahead_by_more_than_jerk_explains() -> None:
    jerk_J, joints, after_s = SPEC.limit("jerk"), len(SPEC.joint_names), 0.01
    time_s, at_s = 0.02 * np.arange(1, 6), 0.073

    def cubic(t: np.ndarray | float) -> list[np.ndarray]:
        """Position, velocity, acceleration under the greatest jerk."""
        t = np.asarray(t)[..., None]
        return [jerk_J * t**3 / 6, jerk_J * t**2 / 2, jerk_J * t]

    ahead = LookAhead(10**9, time_s, *cubic(time_s))
    between = jerk_J * 0.013**3 / 6
    explained = jerk_J * after_s**3 / 3 + between
    for off, share in ((0.0, between), (1.0, between + explained)):
        command = JointCommand(10**9 + 73_000_000, cubic(at_s)[0] + off * explained, *np.zeros((2, joints)))
        assert strayed(ahead, command, after_s, jerk_J) == pytest.approx(share / explained, rel=1e-6)


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
