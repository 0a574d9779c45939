"""A published model behind the session's seam: a folder as published, shrunken, in; plans for a robot out.

VAE and text encoder are the shrunken public ones of `data/wan`; the transformer is written here in LingBot-VA's names.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_wam_wan_model import Slot, Uncached
from test_wam_wan_shared import Whole
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from wam_kit import SPEC as TINY_SPEC

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.errors import CheckpointError, ConfigError, ContractError, InputError, RuntimeUnavailable
from starry_ros.robot_spec import load_robot_spec
from starry_ros.timing import FakeClock
from starry_ros.training.adopt import adopt_command, quantiles_of_data
from starry_ros.training.arguments import add_adopt_command_arguments
from starry_ros.types import U8, ActionChunk, Canvas, RobotState
from starry_ros.wam.choices import PlanMode
from starry_ros.wam.config import StreamConfig
from starry_ros.wam.ladder import LadderConfig
from starry_ros.wam.load import load_session
from starry_ros.wam.pace import Pace
from starry_ros.wam.planner import Planner, PlannerConfig
from starry_ros.wam.runtimes.base import Effort
from starry_ros.wam.session import Session, SessionConfig
from starry_ros.wam.wan.adapter import transformer_config, transformer_sources
from starry_ros.wam.wan.canvas import CameraVae, fresh_states, join, split, to_latents, to_tokens
from starry_ros.wam.wan.check import check_public
from starry_ros.wam.wan.config import WanConfig
from starry_ros.wam.wan.load import load_vae, random_model, save_streams
from starry_ros.wam.wan.model import WanModel
from starry_ros.wam.wan.runtime import WanRuntime
from starry_ros.wam.wan.serving import quantile_stats, read_serving, usual_slots, write_serving

DATA = Path(__file__).parent / "data" / "wan"
SHARE = Path(__file__).parents[1]
SPEC = dataclasses.replace(TINY_SPEC, canvas=dataclasses.replace(TINY_SPEC.canvas, height_px=96, width_px=64,
                                                                  token_px=32))
LAYOUT = t_pose_layout(SPEC)
STEP_NS = round(SPEC.action.step_s * 1e9)
RAW = {"patch_size": [1, 2, 2], "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "num_layers": 2,
       "ffn_dim": 32, "freq_dim": 16, "text_dim": 16, "eps": 1e-6, "action_dim": 30}
CHANGES = {"chunk_latents": 2, "actions_per_latent": 8, "history_chunks": 3, "video_steps": 2, "action_steps": 3}
FRAME_STEPS = 2
LOWER, UPPER = SPEC.limit("lower"), SPEC.limit("upper")


def quantiles() -> tuple[np.ndarray, np.ndarray]:
    """Of every slot: a joint's limits, where it has one."""
    q01, q99 = np.zeros(30), np.zeros(30)
    for joint, slot in enumerate(usual_slots(SPEC).values()):
        q01[slot], q99[slot] = LOWER[joint], UPPER[joint]
    return q01, q99


def write_model(folder: Path, raw: dict[str, object], grammar: str, **changes: object) -> WanModel:
    """A folder as published, with random weights and its `serving.json`; returns what was written."""
    config, found = transformer_config(raw, "x")
    assert found == grammar
    written = random_model(config, torch.float32, "cpu", seed=1)
    state, tensors = written.state_dict(), {}
    for ours, source in transformer_sources(written, config, grammar).items():
        tensor = state[ours]
        if ours.startswith("video_port.leave"):
            tensor = tensor.unflatten(0, (4, 4)).transpose(0, 1).flatten(0, 1)
        tensors[source.name] = tensor.reshape(source.shape).contiguous()
    (folder / "transformer").mkdir(parents=True)
    save_file(tensors, folder / "transformer" / "diffusion_pytorch_model.safetensors")
    (folder / "transformer" / "config.json").write_text(json.dumps(raw))
    for part in ("vae", "text_encoder"):
        shutil.copytree(DATA / part, folder / part)
    words = {word: i for i, word in enumerate(["<pad>", "</s>", "put", "the", "red", "blue", "block", "on", "pad"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    (folder / "tokenizer").mkdir()
    tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))
    write_serving(folder, SPEC, *quantiles(), **(CHANGES | changes))
    return written


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("lingbot") / "model"
    write_model(path, RAW, "lingbot")
    return path


@pytest.fixture
def session(folder: Path) -> Session:
    return load_session(folder, SPEC, "torch")


def image(frame: int) -> U8:
    """Where a pixel is, and which frame it belongs to."""
    v, u = np.mgrid[:96, :64]
    return np.stack([u * 2, v * 2, (u + v + 17 * frame) % 256], -1).astype(np.uint8)


def show(session: Session, frame: int, at_step: int | None = None) -> None:
    stamp_ns = 10**9 + (frame * FRAME_STEPS if at_step is None else at_step) * STEP_NS
    position_J = (LOWER + UPPER) / 2 + 0.01 * np.sin(frame)
    session.observe(Canvas(stamp_ns, LAYOUT.layout_hash, image(frame), ()),
                    RobotState(stamp_ns, position_J, np.zeros(14)))


# ---- the way in and out -------------------------------------------------------------------------------------------


def test_a_published_folder_opens_as_a_session_and_plans(session: Session) -> None:
    assert session.reset("put the red block on the pad") == 1
    plans = []
    for frame in range(20):
        show(session, frame)
        if frame % 4 in (0, 2):
            plans.append(session.plan())
    for plan in plans:
        chunk = plan.chunk
        assert set(plan.timing_s) == {"video", "action", "value_map", "total"}
        assert chunk.positions_KJ.shape == (16, 14)
        assert (chunk.positions_KJ >= LOWER).all()
        assert (chunk.positions_KJ <= UPPER).all()
        assert chunk.step_ns == STEP_NS
        assert chunk.start_ns == chunk.observation_ns + STEP_NS
        assert chunk.joint_names == SPEC.joint_names
        assert not plan.value_map.values_EHW.any(), "LingBot-VA has no value map"
        assert {point.confidence for point in plan.value_map.landing} == {0.0}
    ages = [(10**9 + frame * FRAME_STEPS * STEP_NS - plan.chunk.observation_ns) // (FRAME_STEPS * STEP_NS)
            for frame, plan in zip((f for f in range(20) if f % 4 in (0, 2)), plans, strict=True)]
    assert ages == [0, 2] * 5, "a plan starts from the newest latent frame: the first alone, then every fourth"


def test_the_same_seed_gives_the_same_plans_and_another_sentence_another_plan_with_the_same_history(
    folder: Path
) -> None:
    found = []
    for text in ("red", "red", "blue"):
        session = load_session(folder, SPEC, "torch")
        session.reset(f"put the {text} block on the pad")
        for frame in range(6):
            show(session, frame)
        found.append(session.plan().chunk.positions_KJ)
    assert np.array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 1e-4


# ---- against everything anew --------------------------------------------------------------------------------------

OWN = {name: value for name, value in RAW.items() if name != "action_dim"}
NARROW = StreamConfig(16, 24)


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Wan video model with value and action streams beside it."""
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("own") / "model"
    write_model(path, OWN, "diffusers")
    config, _ = transformer_config(OWN, "x")
    config = dataclasses.replace(config, value=NARROW, action=NARROW, latent_channels=4)
    save_streams(random_model(config, torch.float32, "cpu", seed=2), path / "streams")
    return path


def anew(vae: CameraVae, config: WanConfig, frames: int, commands_UA: Tensor) -> list[Slot]:
    """Chunks of an episode: all its latents from the whole video at once, actions by time."""
    latents = to_tokens(vae.encode([image(frame) for frame in range(frames)], fresh_states()), config.patch)
    size, each = config.frame_tokens, config.actions_per_latent
    count, slots = latents.shape[1] // size, list[Slot]()
    for first in range(0, count, config.chunk_latents):
        end = min(first + config.chunk_latents, count)
        done = commands_UA[max(0, first - 1) * each : (end - 1) * each]
        slots.append((first, latents[:, first * size : end * size], done[None] if len(done) else None))
    return slots


@pytest.mark.parametrize("which", ["folder", "own_folder"])
def test_plans_of_a_long_episode_equal_those_with_everything_computed_anew(
    which: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`folder` is LingBot-VA's, whose actions share the video's blocks; `own_folder` has streams of their own."""
    monkeypatch.setattr(Pace, "of_arms", lambda _, positions_KJ, *__: positions_KJ)  # untrained plans jump
    path: Path = request.getfixturevalue(which)
    session = load_session(path, SPEC, "torch")
    runtime = session.runtime
    assert isinstance(runtime, WanRuntime)
    model, slots = runtime._decoder.model, list(usual_slots(SPEC).values())
    noises, executed = [], []
    predict, commit = runtime._decoder.predict, runtime.commit
    monkeypatch.setattr(runtime._decoder, "predict",
                        lambda noise, *more: (noises.append(noise), predict(noise, *more))[1])
    monkeypatch.setattr(runtime, "commit",
                        lambda actions, valid: (executed.extend(actions[valid > 0]), commit(actions, valid))[1])
    vae = CameraVae(load_vae(path / "vae", torch.float32), LAYOUT, model.config)
    plain = Uncached(model) if model.config.value else Whole(model)
    session.reset("put the red block on the pad")
    text = torch.from_numpy(session._texts.encode(session.instruction).tokens_TD.copy())
    worst = 0.0
    for frame in range(41):
        show(session, frame)
        if frame in (0, 4, 10, 24, 28, 40):
            plan = session.plan()
            commands = torch.zeros(len(executed), 30)
            if executed:
                commands[:, slots] = torch.from_numpy(np.array(executed))
            *past, now = anew(vae, model.config, frame // 4 * 4 + 1, commands)
            made = plain.predict(past, now, text, noises[-1], slots)
            wanted = session._stats.actions_from_model(made.action[0][:, slots].numpy(), np.zeros(14))
            worst = max(worst, float(np.abs(np.clip(wanted, LOWER, UPPER) - plan.chunk.positions_KJ).max()))
            assert (plan.value_map.values_EHW.std() > 0) == (which == "own_folder")
    assert runtime._decoder.frames.written > runtime._decoder.frames.slots
    assert worst < 1e-4


def test_what_was_only_supposed_changes_nothing(own_folder: Path) -> None:
    plans = []
    for supposes in (False, True):
        session = load_session(own_folder, SPEC, "torch", SessionConfig(imagine=True))
        session.reset("put the red block on the pad")
        for frame in range(11):
            show(session, frame)
        if supposes:
            session.branch()
            ahead = session.plan()
            assert ahead.imagined_HWC is not None
            assert ahead.imagined_HWC.shape == (96, 64, 3)
            session.observe(*session.foreseen(ahead))
            session.plan()
            session.drop()
        for frame in range(11, 14):
            show(session, frame)
        plans.append(session.plan().chunk.positions_KJ)
    assert np.array_equal(*plans)


def test_a_grounded_plan_from_an_older_latent_frame_begins_with_what_is_commanded_until_it_is_in_force(
    session: Session
) -> None:
    config = PlannerConfig(PlanMode.ASYNC_GROUNDED, latency_s=0.3, ladder=LadderConfig(budget_s=1e9))
    planner = Planner(session, config, FakeClock(10**9))
    planner.reset("put the red block on the pad")
    chunks = []
    for frame in range(7):
        show(session, frame)
        if frame in (0, 2, 6):
            plan = planner.plan(session.newest_ns or 0)
            assert plan is not None
            chunks.append(plan.chunk)
    assert [runtime_lag(chunk, frame) for chunk, frame in zip(chunks, (0, 2, 6), strict=True)] == [0, 4, 4]
    for before, after, shift in ((chunks[0], chunks[1], 0), (chunks[1], chunks[2], 8)):
        assert after.start_ns - before.start_ns == shift * STEP_NS
        assert np.allclose(after.positions_KJ[:8], before.positions_KJ[shift : shift + 8], atol=1e-9)
        if not shift:
            assert np.abs(after.positions_KJ[8] - before.positions_KJ[8]).max() > 1e-4


def runtime_lag(chunk: ActionChunk, frame: int) -> int:
    """How many steps the frame that a chunk starts from is older than the newest one."""
    return (10**9 + frame * FRAME_STEPS * STEP_NS - chunk.observation_ns) // STEP_NS


def test_the_history_of_a_published_model_may_be_narrower_than_its_weights(folder: Path) -> None:
    plans = []
    for cache in ("auto", "bfloat16", "float16"):
        session = load_session(folder, SPEC, "torch", cache=cache)
        assert isinstance(session.runtime, WanRuntime)
        assert str(session.runtime._decoder.field.keys.dtype) == f"torch.{'float32' if cache == 'auto' else cache}"
        session.reset("put the red block on the pad")
        for frame in range(6):
            show(session, frame)
        plans.append(session.plan().chunk.positions_KJ)
    assert 0 < np.abs(plans[1] - plans[0]).max() < 0.1
    assert np.abs(plans[2] - plans[0]).max() < np.abs(plans[1] - plans[0]).max(), "three more bits"
    with pytest.raises(ConfigError, match="cache: is unknown"):
        load_session(folder, SPEC, "torch", cache="fp4")


# ---- frames -------------------------------------------------------------------------------------------------------


def test_frames_faster_than_the_grid_are_left_out_and_missing_ones_repeat_the_one_before(session: Session) -> None:
    runtime = session.runtime
    assert isinstance(runtime, WanRuntime)
    session.reset("put the red block on the pad")
    for at_step in (0, 1, 2, 3, 4, 5, 8):  # one a step, then a gap of one frame
        show(session, at_step, at_step)
    film = runtime._film
    assert film.frame == 4
    assert runtime.lag_steps == 0
    show(session, 9, 16)
    shown = [int(frame[0, 0, 2]) for frame in film.waiting]
    assert shown == []
    assert film.latent == 2
    show(session, 11, 20)
    assert [int(frame[0, 0, 2]) for frame in film.waiting] == [(17 * 9) % 256, (17 * 11) % 256]
    assert session.observed_ns == 10**9 + 16 * STEP_NS


def test_a_gap_longer_than_a_chunk_starts_the_video_anew(session: Session) -> None:
    runtime = session.runtime
    assert isinstance(runtime, WanRuntime)
    session.reset("put the red block on the pad")
    for frame in range(30):
        show(session, frame)
    assert runtime._decoder.frames.written == 3
    show(session, 100)
    assert runtime._decoder.frames.written == 0
    assert runtime._film.latent == 8, "time goes on"
    assert session.plan().chunk.observation_ns == 10**9 + 100 * FRAME_STEPS * STEP_NS


def test_a_known_beginning_of_the_chunk_is_kept(session: Session) -> None:
    session.reset("put the red block on the pad")
    show(session, 0)
    known_DJ = session.in_model_units(np.tile((LOWER + UPPER) / 2 + 0.05 * (UPPER - LOWER), (3, 1)))
    for plan in (session.plan(Effort(known_DJ=known_DJ)), session.plan(Effort(video=False, known_DJ=known_DJ))):
        np.testing.assert_allclose(plan.chunk.positions_KJ[:3], np.tile((LOWER + UPPER) / 2 + 0.05 * (UPPER - LOWER),
                                                                        (3, 1)), atol=1e-5)
    with session.supposing(np.tile(LOWER, (2, 1))):
        np.testing.assert_allclose(session.plan().chunk.positions_KJ[:2], np.tile(LOWER, (2, 1)), atol=1e-5)
    with pytest.raises(RuntimeUnavailable, match="no gradient"):
        session.plan(Effort(target_KJ=known_DJ, weight_K=np.ones(3, np.float32)))


# ---- canvas and numbers -------------------------------------------------------------------------------------------


def test_the_latent_canvas_has_the_wrists_above_the_head_and_the_way_back_is_exact() -> None:
    config = WanConfig(canvas_height_px=96, canvas_width_px=64, latent_channels=4)
    head = torch.arange(4 * 2 * 4 * 4).float().reshape(1, 4, 2, 4, 4)
    wrists = -torch.arange(2 * 4 * 2 * 2 * 2).float().reshape(2, 4, 2, 2, 2) - 1
    canvas = join(head, wrists)
    assert canvas.shape == (1, 4, 2, 6, 4)
    assert torch.equal(canvas[:, :, :, :2, :2], wrists[:1]), "left above, left"
    assert torch.equal(canvas[:, :, :, :2, 2:], wrists[1:])
    assert torch.equal(canvas[:, :, :, 2:], head)
    assert all(torch.equal(*pair) for pair in zip(split(canvas, 4), (head, wrists), strict=True))
    tokens = to_tokens(canvas, 2)
    assert tokens.shape == (1, config.chunk_tokens, config.token_width)
    assert torch.equal(tokens[0, 0], canvas[0, :, 0, :2, :2].flatten()), "channels first, then the patch"
    assert torch.equal(to_latents(tokens, config), canvas)


def test_quantile_normalisation_is_lingbots_formula_and_its_inverse() -> None:
    rng = np.random.default_rng(0)
    q01, q99 = rng.uniform(-2, 0, 14), rng.uniform(0.1, 2, 14)
    stats, positions, anything = quantile_stats(q01, q99, 16), rng.uniform(-2, 2, (16, 14)), rng.uniform(-1, 1, 14)
    x = stats.actions_to_model(positions, anything)
    np.testing.assert_allclose(x, 2 * (positions - q01) / (q99 - q01 + 1e-6) - 1, atol=1e-12)
    np.testing.assert_allclose(stats.actions_from_model(x, anything), positions, atol=1e-12)
    np.testing.assert_allclose(stats.state_to_model(positions), x, atol=1e-12)


# ---- refusals -----------------------------------------------------------------------------------------------------


def _change(folder: Path, **changes: object) -> None:
    path = folder / "serving.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


SLOTS = usual_slots(SPEC)
REFUSED: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "no serving.json": (lambda f: (f / "serving.json").unlink(), CheckpointError, "which joint is in which slot"),
    "no quantiles": (lambda f: _change(f, q01=[0.0] * 7), CheckpointError, "quantiles are wrong"),
    "quantiles not apart": (lambda f: _change(f, q99=[0.0] * 30), CheckpointError, "not apart in"),
    "a slot twice": (lambda f: _change(f, slots=SLOTS | {"left_waist": 28}), CheckpointError, "slots are wrong"),
    "a slot too far": (lambda f: _change(f, slots=SLOTS | {"left_waist": 30}), CheckpointError, "slots are wrong"),
    "a hand's slot": (lambda f: _change(f, slots=SLOTS | {"left_waist": 3}), CheckpointError, "pose of a hand"),
    "another joint": (lambda f: _change(f, slots={"elbow": 14}), CheckpointError, "do not name the joints"),
    "another robot": (lambda f: _change(f, contract_hash="0"), CheckpointError, "another contract"),
    "an unknown field": (lambda f: _change(f, guidance=5), CheckpointError, r"unknown \['guidance'\]"),
    "another chunk": (lambda f: _change(f, chunk_latents=4), ContractError, "chunk_steps"),
    "no tokenizer": (lambda f: shutil.rmtree(f / "tokenizer"), CheckpointError, "tokenizer"),
    "video alone": (lambda f: (f / "transformer" / "config.json").write_text(json.dumps(OWN)), CheckpointError,
                    "have no action stream"),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_folder_that_cannot_be_served_is_refused_with_a_way_out(name: str, folder: Path, tmp_path: Path) -> None:
    damage, kind, match = REFUSED[name]
    copy = Path(shutil.copytree(folder, tmp_path / "m"))
    assert check_public(copy, SPEC)["chunk_s"] == pytest.approx(1.6)
    damage(copy)
    for use in (check_public, load_session):
        with pytest.raises(kind, match=match) as caught:
            use(copy, SPEC)
        assert getattr(caught.value, "fix", "")


def test_other_runtimes_slow_cameras_and_frames_without_actions_are_refused(
    folder: Path, session: Session, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeUnavailable, match="does not run models of this size"):
        load_session(folder, SPEC, "openvino")
    slow = dataclasses.replace(SPEC, rates=dataclasses.replace(SPEC.rates, camera_hz=4.0))
    write_serving(tmp_path, slow, *quantiles(), **CHANGES)
    shutil.copytree(folder / "transformer", tmp_path / "transformer")
    with pytest.raises(ContractError, match="below the model's frame rate"):
        load_session(tmp_path, slow, "torch")
    session.reset("put the red block on the pad")
    with pytest.raises(InputError, match="nothing has been observed"):
        session.plan()
    runtime = session.runtime
    runtime.observe(image(0), 0)
    with pytest.raises(InputError, match="lacks the actions"):
        runtime.observe(image(1), FRAME_STEPS)


# ---- starry model adopt -------------------------------------------------------------------------------------------


def adopt(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    add_adopt_command_arguments(parser)
    return adopt_command(parser.parse_args([str(argument) for argument in arguments]))


def test_adopting_a_published_folder_writes_what_serving_needs(folder: Path, tmp_path: Path) -> None:
    robot = tmp_path / "robot.yaml"
    source = (SHARE / "config" / "robots" / "bimanual_sim.yaml").read_text()
    source = source.replace("height_px: 192", "height_px: 96").replace("width_px: 160", "width_px: 64")
    robot.write_text(source.replace("token_px: 16 ", "token_px: 32 "))
    model, shape = tmp_path / "model", ("--chunk-latents", 2, "--actions-per-latent", 8)
    shutil.copytree(folder, model)
    (model / "serving.json").unlink()
    whole = quantiles()
    whole[1][20] = 1.0
    for name, (q01, q99) in {"norm_stat.json": whole, "short.json": (np.zeros(7), np.ones(7))}.items():
        (tmp_path / name).write_text(json.dumps({"norm_stat": {"q01": q01.tolist(), "q99": q99.tolist()}}))
    with pytest.raises(ConfigError, match="quantiles of the actions once"):
        adopt(model, "--robot", robot)
    with pytest.raises(CheckpointError, match="quantiles are wrong"):
        adopt(model, "--robot", robot, "--quantiles", tmp_path / "short.json", *shape)
    assert not (model / "serving.json").exists(), "what cannot be served is not left behind"
    assert adopt(model, "--robot", robot, "--quantiles", tmp_path / "norm_stat.json", *shape, "--slot",
                 "left_waist=20") == 0
    serving = read_serving(model, load_robot_spec(robot), 30)
    assert serving.slots == (20, 15, 16, 17, 18, 19, 28, 21, 22, 23, 24, 25, 26, 29)


def test_quantiles_of_data_are_percentiles_and_a_joint_that_rests_gets_its_limits(tmp_path: Path) -> None:
    commands = np.linspace(LOWER, UPPER, 101) * 0.5
    commands[:, 3] = 0.1
    (tmp_path / "episodes").mkdir()
    for i, part in enumerate((commands[:40], commands[40:])):
        np.savez(tmp_path / "episodes" / f"{i:06d}.npz", command_TJ=part)
    q01, q99 = quantiles_of_data(tmp_path, SPEC, SLOTS, 30)
    slots = list(SLOTS.values())
    moving = [j for j in range(14) if j != 3]
    np.testing.assert_allclose(q01[slots][moving], commands[1][moving], atol=1e-9)
    np.testing.assert_allclose(q99[slots][moving], commands[99][moving], atol=1e-9)
    assert (q01[slots[3]], q99[slots[3]]) == (LOWER[3], UPPER[3])
