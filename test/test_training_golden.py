"""One episode through the training loader and through the serving session gives the model the same tensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from training_kit import write_episodes
from wam_kit import CONFIG, JOINTS, LAYOUT, MIDDLE_J, SPEC, STEP_NS, LetterEncoder, make_checkpoint

from starry_ros.training import train
from starry_ros.training.dataset import Demonstrations, Sampler, load_demonstrations
from starry_ros.training.forward import Given, prepare
from starry_ros.training.train_data import encoder
from starry_ros.types import Canvas, RobotState
from starry_ros.wam.autoencoder import Autoencoder, AutoencoderConfig
from starry_ros.wam.checkpoint import Checkpoint
from starry_ros.wam.model import Ropes, WorldActionModel
from starry_ros.wam.runtimes.runner import Arrays
from starry_ros.wam.runtimes.torch_runtime import torch_runtime
from starry_ros.wam.session import Session, SessionConfig

SLOTS = CONFIG.history_slots


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    torch.set_num_threads(1)
    return make_checkpoint()


@pytest.fixture(scope="module")
def data(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Demonstrations:
    """One episode whose commands serving leaves as they are: within limits, jaws shut (plans snap them to an end)."""
    root = tmp_path_factory.mktemp("golden")
    path = write_episodes(root / "data", (40,)) / "episodes" / "00000.npz"
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    rng = np.random.default_rng(1)
    for name in ("position_TJ", "command_TJ"):
        arrays[name] = (MIDDLE_J + rng.uniform(-0.01, 0.01, (40, JOINTS))).astype(np.float32)
    arrays["command_TJ"][:, list(SPEC.gripper_indices)] = 0.0
    np.savez(path, **arrays)
    return load_demonstrations(root / "data", root / "cache", encoder(checkpoint.autoencoder))


def serve(
    checkpoint: Checkpoint, data: Demonstrations, frames: list[int]
) -> tuple[Session, dict[str, list[Arrays]]]:
    """What the graphs take and give when a session sees these frames of the episode and commands what it commanded."""
    runtime = torch_runtime(checkpoint.build_model(), checkpoint.autoencoder)
    given: dict[str, list[Arrays]] = {name: [] for name in runtime.engines}

    def watched(name: str, engine: Callable[[Arrays], Arrays]) -> Callable[[Arrays], Arrays]:
        def run(arrays: Arrays) -> Arrays:
            found = engine(arrays)
            given[name].append({key: np.array(value) for key, value in {**arrays, **found}.items()})
            return found
        return run

    for name, engine in list(runtime.engines.items()):
        runtime.engines[name] = watched(name, engine)
    session = Session(runtime, checkpoint.stats, LetterEncoder(), SPEC, LAYOUT.layout_hash, SessionConfig())
    session.reset(data.texts[data.text_F[frames[-1]]])
    for frame in frames:
        stamp_ns, commands = (frame + 1) * STEP_NS, data.command_FJ[frame + 1 : frame + 1 + CONFIG.chunk_steps]
        canvas = Canvas(stamp_ns, LAYOUT.layout_hash, np.array(data.canvas_FHWC[frame]), ())
        session.observe(canvas, RobotState(stamp_ns, data.position_FJ[frame].astype(np.float64), np.zeros(JOINTS)))
        session.plan(shape=lambda _, steps=commands: steps.astype(np.float64))
    return session, given


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    """Numbers of one type and equal to the last bit."""
    return one.dtype == other.dtype == np.float32 and np.array_equal(one.view(np.uint32), other.view(np.uint32))


def test_training_and_serving_show_the_model_the_same_bits(
    checkpoint: Checkpoint, data: Demonstrations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "MiniLmEncoder", LetterEncoder)
    texts = train.embed_texts(data.texts)
    sampler = Sampler(data, batch=1, future_steps=CONFIG.future_steps, history_slots=SLOTS, no_history=0.0,
                      history_actions=CONFIG.history_actions, seed=0, slow_past=0.0)
    whole = 0
    for step in range(40):
        batch = sampler.draw(step)
        frame = int(np.flatnonzero((data.position_FJ == batch.position_BJ[0]).all(axis=1))[0])
        past = [frame - batch.spacing * (slot + 1) for slot in range(SLOTS)]
        if batch.history_valid_BR.shape[1] < SLOTS or past[-1] < 0 or frame + CONFIG.chunk_steps >= len(data):
            continue
        whole += 1
        trained: Given = prepare(checkpoint.build_model(), batch, texts, checkpoint.stats)
        session, served = serve(checkpoint, data, [*reversed(past), frame])
        canvases, latents = ([arrays[name][0] for arrays in served["observe"]] for name in ("canvas", "latents"))
        assert np.array_equal(canvases[-1], batch.canvas_BHWC[0])
        assert same_bits(latents[-1], batch.latents_BCYX[0])
        for slot in range(SLOTS):
            assert np.array_equal(canvases[-2 - slot], batch.history_canvas_BRHWC[0, slot])
            assert same_bits(latents[-2 - slot], batch.history_latents_BRCYX[0, slot])
            actions = served["remember_actions"][-1 - slot]
            executed = checkpoint.stats.state_to_model(batch.executed_BRUJ[0, slot]).astype(np.float32)
            valid = batch.executed_valid_BRU[0, slot]
            assert np.array_equal(actions["valid"][0], valid)
            assert same_bits(actions["actions"][0][valid > 0], executed[valid > 0])
        assert same_bits(served["act"][-1]["state"], trained.state.numpy())
        assert same_bits(session.in_model_units(data.plan_FKJ[frame].astype(np.float64)), trained.actions[0].numpy())
        text = int(batch.text_B[0])
        assert same_bits(served["encode_text"][-1]["tokens"][0], texts.tokens_STD[text].numpy())
        assert same_bits(served["encode_text"][-1]["mask"][0], texts.mask_ST[text].numpy())
        if whole == 2:
            break
    assert whole == 2, "the seeds must give samples with a full history"


def served_latents(model: WorldActionModel, autoencoder: Autoencoder, canvases: np.ndarray) -> np.ndarray:
    """What the graph that serves gives for one canvas after the other, on one thread."""
    observe, rope = torch_runtime(model, autoencoder).engines["observe"], Ropes(CONFIG).frame(0).numpy()
    return np.stack([observe({"canvas": np.array(canvas)[None], "rope": rope})["latents"][0] for canvas in canvases])


def test_every_cached_latent_has_the_bits_that_serving_gives_it(checkpoint: Checkpoint, data: Demonstrations) -> None:
    served = served_latents(checkpoint.build_model(), checkpoint.autoencoder, data.canvas_FHWC)
    assert same_bits(served, np.array(data.latents_FCYX))


def test_latents_do_not_depend_on_the_threads_that_are_there_nor_on_what_is_encoded_beside_them(
    checkpoint: Checkpoint, data: Demonstrations
) -> None:
    """An autoencoder of the shipped widths may round otherwise on two threads, and in batches."""
    torch.manual_seed(0)
    wide = Autoencoder(AutoencoderConfig(LAYOUT.height_px, LAYOUT.width_px, CONFIG.latent_channels)).eval()
    canvases = np.array(data.canvas_FHWC)
    served = served_latents(checkpoint.build_model(), wide, canvases)
    torch.set_num_threads(2)
    try:
        made = encoder(wide)(canvases)
        assert torch.get_num_threads() == 2, "and leaves them as they were"
    finally:
        torch.set_num_threads(1)
    assert same_bits(served, made)


def test_a_cache_in_half_precision_of_an_older_version_is_made_anew(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder, cache, encode = write_episodes(tmp_path / "data", (3,)), tmp_path / "cache", encoder(checkpoint.autoencoder)
    new = np.array(load_demonstrations(folder, cache, encode).latents_FCYX)
    stamp = json.loads((cache / "cache.json").read_text())
    del stamp["latents"]
    (cache / "cache.json").write_text(json.dumps(stamp))
    np.save(cache / "latents.npy", new.astype(np.float16))
    again = load_demonstrations(folder, cache, encode).latents_FCYX
    assert same_bits(np.array(again), new)
    assert isinstance(again, np.memmap), "read from the disk as it is needed"
