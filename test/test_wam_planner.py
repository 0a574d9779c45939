"""Planning while moving: committed prefixes, speculative history that leaves no trace, modes, and guided inpainting."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from wam_kit import CONFIG, JOINTS, LAYOUT, SPEC, STEP_NS, LetterEncoder, make_canvas, make_checkpoint, make_state

from starry_ros.errors import ConfigError
from starry_ros.timing import NS_PER_S, FakeClock, nanoseconds
from starry_ros.types import Plan
from starry_ros.wam import load
from starry_ros.wam.choices import PlanMode, SpliceMethod
from starry_ros.wam.guidance import BETA, pull, soft_weights, strength
from starry_ros.wam.ladder import LadderConfig, Rung
from starry_ros.wam.planner import Planner, PlannerConfig
from starry_ros.wam.runtimes.base import Effort
from starry_ros.wam.runtimes.runner import GraphRunner
from starry_ros.wam.runtimes.torch_runtime import torch_runtime
from starry_ros.wam.session import Session
from starry_ros.wam.surprise import Score

SENTENCE = "put the red block on the pad"
NO_DEADLINE = LadderConfig(budget_s=1e9)


def make_runtime(prefix_steps: int = 0) -> GraphRunner:
    checkpoint = make_checkpoint()
    runtime = torch_runtime(checkpoint.build_model(), checkpoint.autoencoder)
    runtime.config = replace(CONFIG, prefix_steps=prefix_steps)
    return runtime


def make_planner(
    mode: PlanMode, splice: SpliceMethod = SpliceMethod.AUTO, prefix_steps: int = 0, **more: object
) -> Planner:
    session = Session(make_runtime(prefix_steps), make_checkpoint().stats, LetterEncoder(), SPEC, LAYOUT.layout_hash)
    config = PlannerConfig(mode, splice, ladder=NO_DEADLINE, **more)
    planner = Planner(session, config, FakeClock(NS_PER_S))
    planner.reset(SENTENCE)
    return planner


def observe_and_plan(planner: Planner, stamp_ns: int) -> Plan:
    planner.observe(make_canvas(stamp_ns), make_state(stamp_ns, offset=stamp_ns * 1e-11))
    plan = planner.plan(stamp_ns)
    assert plan is not None
    return plan


GROUNDED = [SpliceMethod.TRAINED_PREFIX, SpliceMethod.GUIDED, SpliceMethod.PUT_BACK, SpliceMethod.LINEAR_BLEND,
            SpliceMethod.HARD_SWITCH]


@pytest.mark.parametrize("splice", GROUNDED)
@pytest.mark.parametrize("latency_s", [0.15, 0.3, 0.62])
def test_a_grounded_chunk_begins_with_exactly_what_was_committed(splice: SpliceMethod, latency_s: float) -> None:
    planner = make_planner(PlanMode.ASYNC_GROUNDED, splice, prefix_steps=8, latency_s=latency_s)
    before = observe_and_plan(planner, 0).chunk
    after = observe_and_plan(planner, 4 * STEP_NS).chunk
    committed = -(-nanoseconds(latency_s + 0.05) // STEP_NS)
    assert np.allclose(after.positions_KJ[:committed], before.positions_KJ[4 : 4 + committed], atol=1e-12)
    assert not np.allclose(after.positions_KJ[committed + 1], before.positions_KJ[5 + committed], atol=1e-4)
    assert after.start_ns == 5 * STEP_NS


def test_between_steps_the_committed_prefix_is_interpolated() -> None:
    planner = make_planner(PlanMode.ASYNC_GROUNDED, SpliceMethod.HARD_SWITCH, latency_s=0.2)
    before = observe_and_plan(planner, 0).chunk
    after = observe_and_plan(planner, 4 * STEP_NS + STEP_NS // 4).chunk
    middle = 0.75 * before.positions_KJ[4] + 0.25 * before.positions_KJ[5]
    assert np.allclose(after.positions_KJ[0], middle, atol=1e-9)


@pytest.mark.parametrize("lag", [1, 2, 4])
def test_where_plans_start_from_an_older_frame_the_prefix_still_reaches_to_their_arrival(lag: int) -> None:
    """By times: what the new chunk says of every moment before it is in force is what the last one says of it."""
    planner = make_planner(PlanMode.ASYNC_GROUNDED, SpliceMethod.HARD_SWITCH, latency_s=0.3)
    before = observe_and_plan(planner, 0).chunk
    planner.session.runtime.lag_steps = lag
    after = observe_and_plan(planner, 6 * STEP_NS).chunk
    assert after.observation_ns == (6 - lag) * STEP_NS
    in_force_ns = 6 * STEP_NS + nanoseconds(0.3 + 0.05)
    same = []
    for k, position_J in enumerate(after.positions_KJ[:10]):
        due_ns = after.start_ns + k * STEP_NS
        same.append(np.allclose(position_J, before.positions_KJ[(due_ns - before.start_ns) // STEP_NS], atol=1e-12))
        if due_ns < in_force_ns + STEP_NS:
            assert same[k], "commanded until then by the last chunk"
    assert sum(same) == lag + 4, "and no longer"


def test_a_sync_chunk_of_an_older_frame_starts_when_its_plan_arrives() -> None:
    planner = make_planner(PlanMode.SYNC, latency_s=0.3)
    planner.session.runtime.lag_steps = 3
    assert observe_and_plan(planner, 6 * STEP_NS).chunk.start_ns == 6 * STEP_NS + nanoseconds(0.3) + STEP_NS


def test_measured_latency_counts_from_the_stamp_of_the_observation() -> None:
    planner = make_planner(PlanMode.ASYNC_GROUNDED, SpliceMethod.HARD_SWITCH)
    for stamp_ns in (0, 4 * STEP_NS, 8 * STEP_NS):  # the first two plans do not count
        planner.observe(make_canvas(stamp_ns), make_state(stamp_ns))
        planner.plan(stamp_ns + nanoseconds(0.25), stamp_ns + nanoseconds(0.2))
    planner.observe(make_canvas(12 * STEP_NS), make_state(12 * STEP_NS))
    assert planner.commitment().steps == 3, "0.25 s, and the executor's lead of 0.05 s"


def test_until_an_executor_has_told_its_first_course_nothing_is_commanded() -> None:
    """Arms that were never armed stand, whatever the plans ask for that are made for a preview."""
    planner = make_planner(PlanMode.ASYNC_GROUNDED, latency_s=0.3)
    observe_and_plan(planner, 0)
    planner.session.courses.expected = True
    planner.observe(make_canvas(4 * STEP_NS), make_state(4 * STEP_NS))
    assert planner.commitment().steps == 0
    executed_UJ = planner.session.executed_UJ
    assert executed_UJ is not None
    assert np.allclose(executed_UJ, make_state(0, offset=0.0).position_J), "they stood where they were seen"


def test_a_new_session_of_standing_arms_takes_none_of_its_own_plans_for_commanded() -> None:
    """Wherever the arms were put meanwhile: the course of the session before says nothing of them."""
    planner = make_planner(PlanMode.ASYNC_GROUNDED, latency_s=0.3)
    planner.session.courses.expected = True
    planner.told(observe_and_plan(planner, 0).chunk)
    planner.observe(make_canvas(4 * STEP_NS), make_state(4 * STEP_NS))
    assert planner.commitment().steps == 4
    planner.reset(SENTENCE)
    observe_and_plan(planner, 0)
    planner.observe(make_canvas(4 * STEP_NS), make_state(4 * STEP_NS))
    assert planner.commitment().steps == 0
    assert planner.session.executed_UJ is not None
    assert np.allclose(planner.session.executed_UJ, make_state(0, offset=0.0).position_J)


def test_it_says_when_its_next_plan_is_due() -> None:
    planner = make_planner(PlanMode.SYNC, execute_s=0.8, latency_s=0.3)
    assert planner.next_ns is None
    chunk = observe_and_plan(planner, 0).chunk
    assert planner.next_ns == chunk.end_ns


def test_the_naive_mode_ignores_what_was_committed() -> None:
    planner = make_planner(PlanMode.ASYNC_NAIVE, latency_s=0.3)
    observe_and_plan(planner, 0)
    assert planner.commitment().steps == 0


def test_the_sync_mode_plans_when_the_executed_part_is_over_and_starts_on_arrival() -> None:
    planner = make_planner(PlanMode.SYNC, execute_s=0.8, latency_s=0.3)
    chunk = observe_and_plan(planner, 0).chunk
    assert chunk.start_ns == nanoseconds(0.3) + STEP_NS
    assert len(chunk.positions_KJ) == 8
    assert not planner.due(chunk.end_ns - 1)
    assert planner.due(chunk.end_ns)


@pytest.mark.parametrize("splice", [SpliceMethod.TRAINED_PREFIX, SpliceMethod.PUT_BACK])
def test_a_grounded_plan_leaves_no_trace_in_the_history(splice: SpliceMethod) -> None:
    """Roll-back: the rings after a grounded plan are those of a session that planned naively, bit for bit."""
    planners = [make_planner(PlanMode.ASYNC_GROUNDED, splice, prefix_steps=8, latency_s=0.3),
                make_planner(PlanMode.ASYNC_NAIVE)]
    for planner in planners:
        for k in range(4):
            planner.observe(make_canvas(4 * k * STEP_NS), make_state(4 * k * STEP_NS))
            if k:
                planner.plan(4 * k * STEP_NS)
    first, second = (planner.session.runtime for planner in planners)
    assert np.array_equal(first.frames.keys, second.frames.keys)
    assert np.array_equal(first.frames.valid, second.frames.valid)
    assert np.array_equal(first.actions.valid, second.actions.valid)
    assert first.actions.written == second.actions.written
    assert first.actions.branches == 0


def test_lower_rungs_run_fewer_graphs_and_reuse_the_rest() -> None:
    session = make_planner(PlanMode.ASYNC_NAIVE).session
    session.observe(make_canvas(0), make_state(0))
    counts: dict[str, int] = {}
    for name, engine in list(session.runtime.engines.items()):
        def counted(arrays: dict[str, np.ndarray], name: str = name, engine: object = engine) -> dict[str, np.ndarray]:
            counts[name] = counts.get(name, 0) + 1
            return engine(arrays)  # type: ignore[operator]
        session.runtime.engines[name] = counted
    full = session.plan()
    assert (counts["imagine"], counts["predict_value"], counts["act"]) == (1, 1, CONFIG.action_steps)
    reuse = session.plan(Effort(video=False))
    assert (counts["imagine"], counts["predict_value"]) == (1, 2)
    only = session.plan(Effort(video=False, value=False))
    assert (counts["imagine"], counts["predict_value"], counts["act"]) == (1, 2, 3 * CONFIG.action_steps)
    assert np.array_equal(only.value_map.values_EHW, reuse.value_map.values_EHW)
    assert np.isfinite(full.chunk.positions_KJ).all()


def test_on_hold_no_plan_is_made_and_the_next_is_due_later() -> None:
    planner = make_planner(PlanMode.ASYNC_NAIVE)
    observe_and_plan(planner, 0)
    planner.ladder.choose = lambda *_: Rung.HOLD  # type: ignore[method-assign]
    assert planner.plan(NS_PER_S) is None
    assert not planner.due(NS_PER_S + nanoseconds(0.3))
    assert planner.due(NS_PER_S + nanoseconds(0.4))


def test_a_model_without_training_for_prefixes_says_so() -> None:
    with pytest.raises(ConfigError, match="not trained with prefixes"):
        make_planner(PlanMode.ASYNC_GROUNDED, SpliceMethod.TRAINED_PREFIX)
    assert make_planner(PlanMode.ASYNC_GROUNDED).method is SpliceMethod.PUT_BACK
    assert make_planner(PlanMode.ASYNC_GROUNDED, prefix_steps=6).method is SpliceMethod.TRAINED_PREFIX


def test_guided_inpainting_is_refused_before_anything_moves_where_nothing_gives_its_gradient() -> None:
    """What, got, expected, fix; and with PyTorch, which gives it, it is not."""
    session = make_planner(PlanMode.ASYNC_GROUNDED, SpliceMethod.GUIDED).session
    del session.runtime.engines["act_pull"]  # as in every other runtime, and with joint coupling
    session.runtime.name = "onnxruntime"
    with pytest.raises(ConfigError) as refused:
        Planner(session, PlannerConfig(splice=SpliceMethod.GUIDED))
    for part in ("narrow", "onnxruntime", "got guided", "expected", "put_back", "fix", "runtime torch"):
        assert part in str(refused.value)


def test_where_guided_inpainting_is_asked_for_auto_is_the_runtime_that_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(load, "load_checkpoint", lambda *_: make_checkpoint())
    monkeypatch.setattr(load, "load_text_encoder", lambda *_: LetterEncoder())
    monkeypatch.setattr(load, "choose_runtime", lambda name, *_: asked.append(name) or make_runtime())
    for runtime, guided in (("auto", False), ("auto", True), ("openvino", True)):
        load.load_session(tmp_path, SPEC, runtime, guided=guided)
    assert asked == ["auto", "torch", "openvino"]


@pytest.mark.parametrize(("replan_s", "level", "due_s"), [
    (2.0, 0.9, 2.0), (2.0, 1.0, 0.4), (2.0, 1.7, 0.4), (0.4, 1.7, 0.4), (0.2, 1.7, 0.2)])
def test_after_a_surprise_the_next_frame_of_the_history_is_planned_from(
    replan_s: float, level: float, due_s: float
) -> None:
    """Frames of the history lie 0.4 s apart. Not at once: that plan would be compared with one of nearly the same
    frame, and a frame that comes sooner takes the last one's place in the history.
    """
    planner = make_planner(PlanMode.ASYNC_GROUNDED, replan_s=replan_s, latency_s=0.1)
    surprise_of(planner, level)
    observe_and_plan(planner, 0)
    assert not planner.due(nanoseconds(due_s) - 1)
    assert planner.due(nanoseconds(due_s))


def surprise_of(planner: Planner, level: float) -> None:
    """Every plan finds this surprise."""
    def found(_aim: object) -> None:
        planner.monitor.score = Score(shifted=level)

    planner.monitor.aim = found  # type: ignore[method-assign]


@pytest.mark.parametrize("mode", PlanMode)
def test_what_was_imagined_is_held_against_reality_only_where_plans_know_what_is_commanded_meanwhile(
    mode: PlanMode
) -> None:
    """In the others arms wait for the plan, or are elsewhere by then: progress would be little, and slow them."""
    planner, expected = make_planner(mode, latency_s=0.6), []
    planner.monitor.expect = expected.append  # type: ignore[method-assign]
    observe_and_plan(planner, 0)
    assert len(expected) == (mode is PlanMode.ASYNC_GROUNDED)


def test_the_first_plan_of_an_episode_has_nothing_to_go_on_from() -> None:
    planner = make_planner(PlanMode.ASYNC_GROUNDED, prefix_steps=8, latency_s=0.2)
    committed = []
    for i in range(6):
        if i == 4:
            planner.reset(SENTENCE)
        now_ns = NS_PER_S + i * 4 * STEP_NS
        planner.observe(make_canvas(now_ns), make_state(now_ns))
        committed.append(planner.commitment().steps)
        planner.plan(now_ns)
    assert committed == [0, 3, 3, 3, 0, 3]


def test_the_pull_is_the_transposed_jacobian_by_finite_differences() -> None:
    """On a denoiser that is far from the identity, in float64."""
    generator = torch.Generator().manual_seed(0)
    size = 3 * 2
    first, second = (torch.randn(size, size, generator=generator, dtype=torch.float64) for _ in range(2))

    def velocity(a: torch.Tensor) -> torch.Tensor:
        return (torch.tanh(a.reshape(1, -1) @ first) @ second).reshape(a.shape)

    a, target = (torch.randn(1, 3, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    weight, s, h = torch.tensor([1.0, 0.4, 0.0], dtype=torch.float64)[None, :, None], 0.6, 1e-6

    def guess(x: torch.Tensor) -> torch.Tensor:
        return x - s * velocity(x)

    jacobian = torch.zeros(size, size, dtype=torch.float64)
    for i in range(size):
        step = torch.zeros(size, dtype=torch.float64)
        step[i] = h
        jacobian[:, i] = ((guess(a + step.reshape(a.shape)) - guess(a - step.reshape(a.shape))) / (2 * h)).reshape(-1)
    expected = (jacobian.T @ (weight * (target - guess(a))).reshape(-1)).reshape(a.shape)
    assert torch.allclose(pull(velocity, a, s, target, weight), expected, atol=1e-7)


def test_the_runtimes_pull_is_the_gradient_of_the_weighted_error() -> None:
    """Of the model's own denoiser: E = W (Y - g)^2 / 2 falls along the pull, by its squared length."""
    session = make_planner(PlanMode.ASYNC_GROUNDED, SpliceMethod.GUIDED).session
    session.observe(make_canvas(0), make_state(0))
    seen: list[dict[str, np.ndarray]] = []
    engine = session.runtime.engines["act_pull"]
    session.runtime.engines["act_pull"] = lambda arrays: seen.append(arrays) or engine(arrays)
    steps = CONFIG.chunk_steps
    target, weight = np.full((steps, JOINTS), 0.7, np.float32), soft_weights(steps, 3, 9)
    session.plan(Effort(target_KJ=target, weight_K=weight))
    arrays = seen[1]
    act = {k: v for k, v in arrays.items() if k not in ("target", "weight")}

    def error(a: np.ndarray) -> float:
        following = session.runtime.engines["act"]({**act, "a": a.astype(np.float32)})["a_next"]
        guess = a - act["s"][0] * (following - a) / act["ds"][0]
        return float((weight[None, :, None] * (target - guess) ** 2).sum() / 2)

    pulled = engine(arrays)["pull"].astype(np.float64)
    h = 0.02 / np.linalg.norm(pulled)
    slope = (error(arrays["a"] + h * pulled) - error(arrays["a"] - h * pulled)) / (2 * h)
    assert slope == pytest.approx(-float((pulled**2).sum()), rel=0.02)


def test_guided_inpainting_brings_the_chunk_nearer_to_what_is_committed() -> None:
    def first_steps(splice: SpliceMethod) -> np.ndarray:
        planner = make_planner(PlanMode.ASYNC_GROUNDED, splice, latency_s=0.3)
        observe_and_plan(planner, 0)
        raw: list[np.ndarray] = []
        tied = planner._tied
        planner._tied = lambda positions, *rest: raw.append(np.array(positions)) or tied(positions, *rest)
        observe_and_plan(planner, 4 * STEP_NS)
        prefix = tied(raw[0], planner.commitment())
        return np.abs(raw[0][:3] - prefix[:3]).mean()

    assert first_steps(SpliceMethod.GUIDED) < 0.7 * first_steps(SpliceMethod.HARD_SWITCH)


def test_the_pull_is_bounded_and_ends_with_the_noise() -> None:
    assert strength(1.0) == BETA
    assert strength(0.0) == 0.0
    s = 0.5
    assert strength(s) == pytest.approx(min(BETA, s / (0.5 * (0.25 / 0.5))))


def test_soft_weights_hold_the_prefix_and_fade_to_what_is_unknown() -> None:
    weights = soft_weights(16, 4, 10)
    assert (weights[:4] == 1).all()
    assert (np.diff(weights[3:11]) < 0).all()
    assert (weights[10:] == 0).all()
