"""The session: epochs, sentences, history, noise, and the chunk it makes of a prediction."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from wam_kit import CONFIG, JOINTS, LAYOUT, MIDDLE_J, SPEC, STEP_NS, LetterEncoder, make_canvas, make_checkpoint
from wam_kit import make_state as state_at

from starry_ros.errors import CheckpointError, ContractError, InputError, StarryError
from starry_ros.types import F32, U8, Plan
from starry_ros.wam.checkpoint import Checkpoint, save_checkpoint
from starry_ros.wam.config import WamConfig
from starry_ros.wam.load import load_session
from starry_ros.wam.pace import Pace
from starry_ros.wam.runtimes.base import Noise, Prediction, Runtime
from starry_ros.wam.runtimes.torch_runtime import torch_runtime
from starry_ros.wam.session import Session, SessionConfig

RED, BLUE = "put the red block on the pad", "put the blue block on the pad"


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return make_checkpoint()


def open_session(
    checkpoint: Checkpoint, seed: int = 0, runtime: Runtime | None = None, temperature: float = 1.0
) -> Session:
    runtime = runtime or torch_runtime(checkpoint.build_model(), checkpoint.autoencoder)
    config = SessionConfig(seed=seed, temperature=temperature)
    return Session(runtime, checkpoint.stats, LetterEncoder(), SPEC, LAYOUT.layout_hash, config)


def play(session: Session, plans: int, before: Callable[[int], object] = lambda _: None) -> list[Plan]:
    """Observe and plan every 0.5 s, after calling `before` with the number of the plan."""
    made = []
    for i in range(plans):
        before(i)
        stamp_ns = 7_000_000_000 + i * 5 * STEP_NS
        session.observe(make_canvas(stamp_ns), state_at(stamp_ns, 0.01 * i))
        made.append(session.plan())
    return made


def same(a: Plan, b: Plan) -> bool:
    return bool(np.array_equal(a.chunk.positions_KJ, b.chunk.positions_KJ)
                and np.array_equal(a.value_map.values_EHW, b.value_map.values_EHW))


class Recorder:
    """A runtime that always predicts the same and remembers what it was told."""

    name = "recorder"
    lag_steps = 0

    def __init__(self, config: WamConfig = CONFIG) -> None:
        self.config = config
        self.commits: list[tuple[F32, F32]] = []
        self.steps: list[int] = []
        self.noises: list[Noise] = []
        rng = np.random.default_rng(3)
        self.prediction = Prediction(
            actions_KJ=2 * rng.standard_normal((CONFIG.chunk_steps, JOINTS), dtype=np.float32),
            map_EYX=np.zeros((2, LAYOUT.height_px // 4, LAYOUT.width_px // 4), np.float32),
            landing_EV2=np.full((2, 3, 2), (0.25, 0.75), np.float32), seen_EV=np.full((2, 3), 0.5, np.float32),
            latents=np.zeros((1, 30, CONFIG.latent_token_width), np.float32), seconds={"video": 0.0},
        )

    def set_text(self, tokens_TD: F32, mask_T: F32) -> None:
        pass

    def observe(self, canvas_HWC: U8, step: int) -> None:
        self.steps.append(step)

    def commit(self, actions_UJ: F32, valid_U: F32) -> None:
        self.commits.append((actions_UJ, valid_U))

    def reset(self) -> None:
        self.commits.clear()

    def latents(self) -> F32:
        return np.zeros((30, CONFIG.latent_token_width), np.float32)

    def predict(self, noise: Noise, state_J: F32, effort: object = None) -> Prediction:
        self.noises.append(noise)
        return self.prediction

    def decode(self, latents: F32) -> U8:
        return np.zeros((LAYOUT.height_px, LAYOUT.width_px, 3), np.uint8)


def test_every_reset_starts_an_epoch_that_its_chunks_carry(checkpoint: Checkpoint) -> None:
    session = open_session(checkpoint, runtime=Recorder())
    assert [session.reset(RED), session.reset(RED), session.reset(BLUE)] == [1, 2, 3]
    chunk = play(session, 2)[1].chunk
    assert (chunk.epoch, chunk.instruction_id, chunk.chunk_id) == (3, 3, 2)
    assert session.reset(RED) == 4
    with pytest.raises(InputError, match="nothing has been observed"):
        session.plan()


def test_an_unusable_sentence_changes_nothing(checkpoint: Checkpoint) -> None:
    plans = []
    for sentences in ([], ["", "x" * 500, "a\x00b"]):
        session = open_session(checkpoint)
        session.reset(RED)
        play(session, 3)
        for text in sentences:
            for change in (session.reset, session.set_instruction):
                with pytest.raises(InputError):
                    change(text)
        assert (session.epoch, session.instruction_id, session.instruction) == (1, 1, RED)
        stamp_ns = 9_000_000_000
        session.observe(make_canvas(stamp_ns), state_at(stamp_ns))
        plans.append(session.plan())
    assert same(*plans)


def test_the_same_seed_gives_the_same_plans_and_another_seed_others(checkpoint: Checkpoint) -> None:
    runs = []
    for seed in (5, 5, 6):
        session = open_session(checkpoint, seed)
        session.reset(RED)
        runs.append(play(session, 4))
    assert all(same(a, b) for a, b in zip(runs[0], runs[1], strict=True))
    assert not any(same(a, b) for a, b in zip(runs[0], runs[2], strict=True))


def test_noise_is_new_for_every_plan_and_epoch(checkpoint: Checkpoint) -> None:
    recorder = Recorder()
    session = open_session(checkpoint, runtime=recorder)
    for _ in range(2):
        session.reset(RED)
        play(session, 3)
    first = {float(noise.action[0, 0, 0]) for noise in recorder.noises}
    assert len(first) == 6
    values = np.concatenate([np.ravel(part) for noise in recorder.noises for part in dataclasses.astuple(noise)])
    assert abs(values.mean()) < 0.02
    assert abs(values.std() - 1) < 0.02


def test_the_temperature_scales_the_noise_of_the_actions_alone(checkpoint: Checkpoint) -> None:
    noises = []
    for temperature in (1.0, 0.5, 0.0):
        recorder = Recorder()
        session = open_session(checkpoint, 4, recorder, temperature)
        session.reset(RED)
        play(session, 1)
        noises.append(recorder.noises[0])
    for noise, scale in zip(noises, (1.0, 0.5, 0.0), strict=True):
        assert noise.action.dtype == np.float32
        np.testing.assert_array_equal(noise.action, scale * noises[0].action)
        np.testing.assert_array_equal(noise.value, noises[0].value)
        np.testing.assert_array_equal(noise.video, noises[0].video)
    assert SessionConfig().temperature == 0.0


def test_a_new_sentence_keeps_the_history_and_changes_the_next_plan(checkpoint: Checkpoint) -> None:
    sessions = [open_session(checkpoint) for _ in range(2)]
    rings = []
    plans = []
    for session, last in zip(sessions, (RED, BLUE), strict=True):
        session.reset(RED)

        def swap(i: int, session: Session = session, last: str = last) -> None:
            if i == 4:
                before = session.runtime.frames.snapshot(), session.runtime.actions.snapshot()
                assert session.set_instruction(last) == 2
                rings.append((before, (session.runtime.frames.snapshot(), session.runtime.actions.snapshot())))

        plans.append(play(session, 5, swap))
        assert session.epoch == 1
    for before, after in rings:
        for a, b in zip(before, after, strict=True):
            assert a.written == b.written == 3
            assert np.array_equal(a.keys, b.keys)
            assert np.array_equal(a.valid, b.valid)
    assert all(same(a, b) for a, b in zip(plans[0][:4], plans[1][:4], strict=True))
    assert not same(plans[0][4], plans[1][4])
    assert plans[1][4].chunk.instruction_id == 2
    np.testing.assert_array_equal(sessions[0].runtime.frames.keys, sessions[1].runtime.frames.keys)


def test_history_changes_plans_and_reset_forgets_it(checkpoint: Checkpoint) -> None:
    fresh = open_session(checkpoint)
    fresh.reset(RED)
    fresh.reset(RED)
    used = open_session(checkpoint)
    used.reset(RED)
    play(used, 4)
    used.reset(RED)
    assert same(play(fresh, 1)[0], play(used, 1)[0])
    recorder = open_session(checkpoint, seed=1)
    recorder.reset(RED)
    assert not recorder.runtime.frames.valid.any()
    play(recorder, 3)
    assert recorder.runtime.frames.valid.all()


@pytest.mark.parametrize("delay_ns", [0, -1, -10**9])
def test_a_canvas_that_is_not_newer_is_refused_and_changes_nothing(checkpoint: Checkpoint, delay_ns: int) -> None:
    recorder = Recorder()
    session = open_session(checkpoint, runtime=recorder)
    session.reset(RED)
    session.observe(make_canvas(10**10), state_at(10**10))
    with pytest.raises(InputError, match="not newer"):
        session.observe(make_canvas(10**10 + delay_ns), state_at(10**10))
    assert recorder.steps == [0]
    assert session.plan().chunk.observation_ns == 10**10


def test_a_canvas_of_another_layout_or_size_and_a_bad_state_are_refused(checkpoint: Checkpoint) -> None:
    session = open_session(checkpoint, runtime=Recorder())
    session.reset(RED)
    good, state = make_canvas(10**10), state_at(10**10)
    small = dataclasses.replace(good, image_HWC=good.image_HWC[:-32])
    cases: list[tuple[object, object, type[StarryError], str]] = [
        (make_canvas(10**10, layout_hash="0" * 16), state, ContractError, "another layout"),
        (small, state, InputError, "wrong size"),
        (good, state_at(10**10, float("nan")), InputError, "not finite"),
        (good, dataclasses.replace(state, position_J=np.zeros(13)), InputError, "wrong length"),
    ]
    for canvas, measured, kind, match in cases:
        with pytest.raises(kind, match=match):
            session.observe(canvas, measured)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="nothing has been observed"):
        session.plan()


def test_a_plan_needs_an_observation_and_a_sentence(checkpoint: Checkpoint) -> None:
    session = open_session(checkpoint, runtime=Recorder())
    with pytest.raises(InputError, match="nothing has been observed"):
        session.plan()
    session.observe(make_canvas(10**10), state_at(10**10))
    with pytest.raises(InputError, match="no instruction"):
        session.plan()
    session.set_instruction(RED)
    assert session.plan().chunk.epoch == 0


def test_a_chunk_is_the_prediction_in_robot_units_inside_the_limits_with_grippers_that_go_all_the_way(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pace, "of_arms", lambda _, positions_KJ, *__: positions_KJ)  # untrained plans jump
    lower_J, upper_J = SPEC.limit("lower"), SPEC.limit("upper")
    for snap in (True, False):
        recorder = Recorder(dataclasses.replace(CONFIG, snap_grippers=snap))
        session = open_session(checkpoint, runtime=recorder)
        session.reset(RED)
        chunk = play(session, 1)[0].chunk
        assert (chunk.observation_ns, chunk.start_ns, chunk.step_ns) == (7 * 10**9, 7 * 10**9 + STEP_NS, STEP_NS)
        assert (chunk.joint_names, chunk.contract_hash) == (SPEC.joint_names, SPEC.content_hash)
        stats, last = checkpoint.stats, CONFIG.chunk_steps - 1
        asked = np.zeros((CONFIG.chunk_steps, JOINTS))
        for k in range(CONFIG.chunk_steps):
            for j in range(JOINTS):
                x = float(recorder.prediction.actions_KJ[k, j])
                wanted = x * stats.action_scale_KJ[k, j] + stats.action_offset_KJ[k, j]
                wanted += 0.0 if j in SPEC.gripper_indices else MIDDLE_J[j]
                asked[k, j] = min(max(wanted, lower_J[j]), upper_J[j])
                if snap and j in SPEC.gripper_indices:
                    asked[k, j] = upper_J[j] if asked[k, j] > (lower_J[j] + upper_J[j]) / 2 else lower_J[j]
        for k in range(CONFIG.chunk_steps):
            for j in range(JOINTS):
                jaw = snap and j in SPEC.gripper_indices
                around = [asked[min(max(i, 0), last), j] for i in ((k - 1, k, k + 1) if jaw else (k,))]
                assert chunk.positions_KJ[k, j] == pytest.approx(sum(around) / len(around), abs=1e-9)
        assert np.isin(asked[:, list(SPEC.gripper_indices)], (0.0, 0.04)).all() == snap


def test_executed_actions_go_into_the_ring_at_their_times(checkpoint: Checkpoint) -> None:
    recorder = Recorder()
    session = open_session(checkpoint, runtime=recorder)
    session.reset(RED)
    start_ns = 10**10

    def observe(step: int) -> None:
        stamp_ns = start_ns + step * STEP_NS
        session.observe(make_canvas(stamp_ns), state_at(stamp_ns, 0.001 * step))

    observe(0)
    chunk = session.plan().chunk
    observe(5)  # 5 steps later: commands 0 .. 4 of the chunk have been executed
    observe(7)  # too close: replaces the frame at 5, nothing is remembered
    observe(30)  # 25 steps after the frame it replaced: the chunk's last command is held
    normal = checkpoint.stats.state_to_model
    (first, first_valid), (second, second_valid) = recorder.commits
    assert first_valid.tolist() == [1, 1, 1, 1, 1, 0, 0, 0]
    np.testing.assert_allclose(first[:5], normal(chunk.positions_KJ[:5]), rtol=1e-6, atol=1e-6)
    assert second_valid.all()
    np.testing.assert_allclose(second, normal(chunk.positions_KJ[7:15]), rtol=1e-6, atol=1e-6)
    assert recorder.steps == [0, 5, 7, 30]


def test_without_a_chunk_the_measured_state_counts_as_commanded(checkpoint: Checkpoint) -> None:
    recorder = Recorder()
    session = open_session(checkpoint, runtime=recorder)
    session.reset(RED)
    for stamp_ns in (10**10, 10**10 + 4 * STEP_NS):
        session.observe(make_canvas(stamp_ns), state_at(stamp_ns, 0.05))
    ((executed, valid),) = recorder.commits
    assert valid.tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    measured_J = checkpoint.stats.state_to_model(MIDDLE_J + 0.05)
    np.testing.assert_allclose(executed[:4], np.tile(measured_J, (4, 1)), rtol=1e-5)


def test_landing_points_are_canvas_pixels_with_integer_centres(checkpoint: Checkpoint) -> None:
    session = open_session(checkpoint, runtime=Recorder())
    session.reset(RED)
    value_map = play(session, 1)[0].value_map
    assert [(point.event, point.camera) for point in value_map.landing] == [
        (event, tile.camera) for event in (0, 1) for tile in LAYOUT.tiles]
    for point in value_map.landing:
        rect = LAYOUT.tile(point.camera).rect
        assert point.u_px == rect.x_px + 0.25 * rect.width_px - 0.5
        assert point.v_px == rect.y_px + 0.75 * rect.height_px - 0.5
        assert point.confidence == 0.5


def test_the_imagined_frame_is_decoded_only_on_request(checkpoint: Checkpoint) -> None:
    runtime = torch_runtime(checkpoint.build_model(), checkpoint.autoencoder)
    for imagine in (False, True):
        session = Session(runtime, checkpoint.stats, LetterEncoder(), SPEC, LAYOUT.layout_hash,
                          SessionConfig(imagine=imagine))
        session.reset(RED)
        plan = play(session, 1)[0]
        assert (plan.imagined_HWC is not None) == imagine
        assert {"video", "value", "action", "total"} <= set(plan.timing_s)
    assert plan.imagined_HWC is not None
    assert plan.imagined_HWC.shape == (LAYOUT.height_px, LAYOUT.width_px, 3)


def test_a_model_folder_becomes_a_session_that_plans(tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    wide = dataclasses.replace(CONFIG, text_width=384, text_tokens=24)
    torch.manual_seed(0)
    model = type(checkpoint.build_model())(wide)
    save_checkpoint(tmp_path / "m", dataclasses.replace(checkpoint, config=wide, model=dict(model.state_dict())))
    session = load_session(tmp_path / "m", SPEC, "torch")
    assert session.runtime.name.startswith("torch")
    assert session.reset(RED) == 1
    assert np.isfinite(play(session, 2)[1].chunk.positions_KJ).all()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_session(tmp_path / "absent", SPEC, "torch")
