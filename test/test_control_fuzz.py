"""Random plans, services and faults: no command and no look-ahead outside any limit, nothing broken accepted.

STARRY_FUZZ_CHUNKS sets the number of chunks.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from control_kit import FORWARD_SPEC, FULL_SPEC, PERIOD_NS, SPEC

from starry_ros.bench.fuzz import BEGIN_NS, ExecutorFuzzer
from starry_ros.bench.fuzz_run import add_arguments, fuzz_command
from starry_ros.bench.streams import Run, Stream, run_of, worst_use
from starry_ros.control import safety
from starry_ros.control.executor import Executor
from starry_ros.control.intake import Intake
from starry_ros.control.safety import Event, Mode
from starry_ros.control.schedule import Refusal, Schedule
from starry_ros.control.status import LookAhead
from starry_ros.control.waiting import WaitingPlans
from starry_ros.control.watch import StateWatch
from starry_ros.robot_spec import RobotSpec
from starry_ros.types import ActionChunk, JointCommand, RobotState

MIDDLE_J = (SPEC.limit("lower") + SPEC.limit("upper")) / 2
CHUNKS = int(os.environ.get("STARRY_FUZZ_CHUNKS", "800"))
SEEDS = 2


def problems(fuzzer: ExecutorFuzzer, chunks: int, words: str) -> list[str]:
    """What a fuzzer finds within so many chunks, or until it has found something with these words."""
    for _ in range(chunks // 10):
        found = fuzzer.run(10).problems
        if any(words in problem for problem in found):
            break
    return found


@pytest.mark.parametrize("by_slices", [False, True])
def test_no_random_plan_leads_out_of_the_workspace_or_brings_the_arms_together(by_slices: bool) -> None:
    report = ExecutorFuzzer(FULL_SPEC, 21, by_slices=by_slices).run(CHUNKS // 20)
    assert not report.problems, report.problems[:5]
    assert report.accepted > report.chunks // 30


@pytest.mark.parametrize("by_slices", [False, True])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_random_plan_or_event_leads_outside_the_limits(seed: int, by_slices: bool) -> None:
    report = ExecutorFuzzer(SPEC if seed % 2 else FORWARD_SPEC, seed, by_slices=by_slices).run(CHUNKS // SEEDS // 2)
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
    found = problems(ExecutorFuzzer(SPEC, 1), 80, "of its limit")
    assert any(problem.startswith("command") and "of its limit" in problem for problem in found)


def test_a_run_that_begins_elsewhere_than_the_arms_were_measured_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    start_of = StateWatch.start_of

    def elsewhere(watch: StateWatch, command_J: np.ndarray, *, anew: bool) -> np.ndarray | None:
        start_J = start_of(watch, command_J, anew=anew)
        return None if start_J is None else start_J + 0.2

    monkeypatch.setattr(StateWatch, "start_of", elsewhere)
    words = "begins away from the arm"
    assert any(words in problem for problem in problems(ExecutorFuzzer(FORWARD_SPEC, 1), 200, words))


@pytest.mark.parametrize(("reason", "refusing", "found"), [
    (Refusal.ARMS_TOO_CLOSE, False, True), (Refusal.ARMS_TOO_CLOSE, True, False),
    (Refusal.OUTSIDE_WORKSPACE, True, True),
])
def test_arms_too_close_are_found_unless_one_of_them_refuses(reason: Refusal, refusing: bool, found: bool) -> None:
    fuzzer = ExecutorFuzzer(FULL_SPEC, 1)
    fuzzer._look_around("command", [FULL_SPEC.limit("home")])
    assert not fuzzer.report.problems
    fuzzer._space = SimpleNamespace(breach=lambda _: (reason, ""))
    fuzzer._executor._safety.set_condition(Event.NOT_FOLLOWING, refusing)
    fuzzer._look_around("command", [FULL_SPEC.limit("home")])
    assert bool(fuzzer.report.problems) == found


def test_a_look_ahead_that_leaves_the_workspace_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    look_ahead = Executor.look_ahead

    def astray(executor: Executor, now_ns: int) -> LookAhead | None:
        ahead = look_ahead(executor, now_ns)
        position_NJ = np.repeat(FULL_SPEC.limit("upper")[None], len(ahead.time_s_N), axis=0) if ahead else None
        return replace(ahead, position_NJ=position_NJ) if ahead else None

    monkeypatch.setattr(Executor, "look_ahead", astray)
    words = "look-ahead outside_workspace"
    assert any(words in problem for problem in problems(ExecutorFuzzer(FULL_SPEC, 1), 20, words))


@pytest.mark.parametrize("by_slices", [False, True])
@pytest.mark.parametrize("reason", ["stale_epoch", "duplicate", "out_of_order", "old_instruction", "before_arm"])
def test_a_merge_that_forgets_a_rule_of_identity_is_found(
    monkeypatch: pytest.MonkeyPatch, reason: str, by_slices: bool
) -> None:
    judge = Schedule._judge_identity

    def forgetful(schedule: Schedule, chunk: ActionChunk, now_ns: int) -> Refusal | None:
        found = judge(schedule, chunk, now_ns)
        return None if found is not None and found.value == reason else found

    monkeypatch.setattr(Schedule, "_judge_identity", forgetful)
    words = {"stale_epoch": "a stale epoch", "duplicate": "a duplicate", "out_of_order": "out of order",
             "old_instruction": "sentence", "before_arm": "seen before arm"}[reason]
    found = problems(ExecutorFuzzer(FORWARD_SPEC, 18 if by_slices else 4, by_slices=by_slices), 250, words)
    assert any("accepted although" in problem and words in problem for problem in found)


@pytest.mark.parametrize("rule", ["_judge_times", "_judge_values"])
def test_a_merge_without_a_rule_of_times_or_values_is_found(monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    monkeypatch.setattr(Schedule, rule, lambda *_: None)
    found = problems(ExecutorFuzzer(FORWARD_SPEC, 1), 120, "accepted although")
    assert any("accepted although" in problem for problem in found), found[:3]


def test_a_way_to_move_without_arm_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safety, "TABLE", {**safety.TABLE, (Mode.FAULT, Event.ESTOP_RELEASED): Mode.RUN})
    assert any("without arm" in problem for problem in problems(ExecutorFuzzer(FORWARD_SPEC, 3), 200, "without arm"))


def test_joining_that_takes_the_motion_for_another_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Intake, "_as_foreseen", lambda *_: True)
    words = "of its limit"
    assert any(words in problem for problem in problems(ExecutorFuzzer(FORWARD_SPEC, 8, by_slices=True), 120, words))


def test_plans_that_get_no_answer_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WaitingPlans, "join", lambda *_: [])
    assert "got no answer" in ExecutorFuzzer(SPEC, 1, by_slices=True).run(1).problems[-1]


def test_a_crash_is_a_problem_of_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Executor, "submit", lambda *_: 1 / 0)
    problems = ExecutorFuzzer(SPEC, 1, by_slices=False).run(5).problems
    assert len(problems) == 1
    assert "crash" in problems[0]
    assert "ZeroDivisionError" in problems[0]


def jerking(t: np.ndarray) -> np.ndarray:
    """All joints of one arm under the greatest jerk, from the middle of their ranges."""
    arm = SPEC.arm_slice(SPEC.arms[0].name)
    positions = np.repeat(MIDDLE_J[None], len(t), axis=0)
    positions[:, arm] += SPEC.limit("jerk")[arm] * t[:, None] ** 3 / 6
    return positions


@pytest.mark.parametrize("gap", [1, 3, 7])
def test_limits_are_judged_across_times_that_are_left_out(gap: int) -> None:
    """The jerk limit itself passes whatever is left out; a hundredth more of it does not."""
    ticks = np.array([0, 1, 2, 3, 4, 4 + gap, 5 + gap, 6 + gap])
    for share, fine in ((1.0, True), (1.01, False)):
        stream = Stream(SPEC, SPEC.arm_slice(SPEC.arms[0].name))
        home, path = MIDDLE_J, jerking(0.004 * ticks)
        wrong = [stream.add(int(4_000_000 * tick), home + share * (q_J - home))
                 for tick, q_J in zip(ticks, path, strict=True)]
        assert (wrong == [None] * len(ticks)) == fine
    jump = [stream.add(10**9 + 10_000_000 * k, home + 1e-3 * (k > 4)) for k in range(8)]
    assert sum(text is not None for text in jump[1:]) >= 1, "a milliradian"


def test_a_command_may_go_on_from_a_look_ahead_and_from_nowhere_else() -> None:
    arm, time_s = SPEC.arm_slice(SPEC.arms[0].name), 0.02 * np.arange(1, 9)
    still = np.zeros((8, len(SPEC.joint_names)))
    ahead = LookAhead(10**9, time_s, jerking(time_s / 2), still, still)
    for off, fine in ((0.0, True), (2e-3, False)):
        stream = Stream(SPEC, arm)
        for k in range(5):
            stream.add(10**9 - 10_000_000 * (9 - k), SPEC.limit("lower") * 0.5)
        now_ns = 10**9 + 110_000_000
        wrong = stream.add(now_ns, jerking(np.array([0.055]))[0] + off, [run_of(ahead, arm, now_ns - 10_000_000)])
        assert (wrong is None) == fine


def test_motions_that_agree_of_late_stay_apart_while_a_look_ahead_can_still_tell_them_apart() -> None:
    """Two explanations: one stands still; the other was off once, by what a steady tick allows and a nearer one not."""
    arm, tick_ns, still = SPEC.arm_slice(SPEC.arms[0].name), 10_000_000, np.repeat(MIDDLE_J[None], 8, axis=0)
    off_J = 0.9 * SPEC.limit("jerk") * 2000e-9 / 6
    times_ns = [10**9 + tick_ns * k for k in range(-5, 1)]
    good = Run(times_ns, [MIDDLE_J[arm].copy() for _ in times_ns])
    bad = Run(times_ns, [MIDDLE_J[arm] + (k == 4) * off_J[arm] for k in range(6)])
    ahead = LookAhead(10**9, 0.005 + 0.01 * np.arange(8), still, 0 * still, 0 * still)
    for runs, fine in (([good, bad], True), ([bad, good], True), ([bad], False)):
        stream = Stream(SPEC, arm)
        stream.runs = runs
        assert [stream.add(10**9 + tick_ns * k, MIDDLE_J) for k in (1, 2, 3)] == [None] * 3
        assert (stream.continued(ahead) is None) == fine


def test_ticks_at_odd_times_or_without_a_usable_state_are_counted_by_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step, odd, last_ns = Executor.step, [], BEGIN_NS

    def counted(executor: Executor, now_ns: int, state: RobotState | None) -> JointCommand | None:
        nonlocal last_ns
        usable = state is not None and bool(np.isfinite(state.position_J).all())
        odd.append(now_ns - last_ns != PERIOD_NS or not usable)
        last_ns = now_ns
        return step(executor, now_ns, state)

    monkeypatch.setattr(Executor, "step", counted)
    report = ExecutorFuzzer(SPEC, 2).run(40)
    assert len(odd) > report.odd_ticks == sum(odd) > 0
    assert report.other_events > report.chunks == 40, "every chunk comes with a heartbeat, or more"


def test_the_report_of_many_seeds_says_what_its_events_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser, file = argparse.ArgumentParser(), tmp_path / "fuzz.json"
    add_arguments(parser)
    assert fuzz_command(parser.parse_args(["--chunks", "12", "--seed", "2", "--json", str(file)])) == 0
    value = {row["name"]: row["value"] for row in json.loads(file.read_text())["rows"]}
    chunks, other, odd = (value[f"fuzz/{name}"] for name in ("chunks", "other_events", "odd_ticks"))
    assert value["fuzz/events"] == chunks + other + odd
    assert chunks == 12
    assert min(other, odd) > 0
    printed = capsys.readouterr().out
    assert f"seed 2: {chunks + other + odd} events (12 chunks, {other} others, {odd} odd ticks)" in printed
    assert "fuzz/odd_ticks" in printed


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
