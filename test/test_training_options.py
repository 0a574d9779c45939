"""Every optional part of a model trains, is saved, and serves what it was trained for."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_kit import CANVAS, LATENT, write_episodes
from wam_kit import CONFIG, LAYOUT, SPEC, make_checkpoint

from starry_ros.canvas.depth import NEAR_M, depth_as_grey, depth_cells, pack_depth, rgbd_layout
from starry_ros.canvas.paths import COLOURS_RGB, draw_paths
from starry_ros.errors import CheckpointError, ConfigError, DataError
from starry_ros.training import probe_states, pseudo, train
from starry_ros.training.arguments import add_part_arguments
from starry_ros.training.budgets import TrainConfig
from starry_ros.training.compute import Compute
from starry_ros.training.forward import TextTable
from starry_ros.training.scenes import PLAIN, load_scenes, view_of
from starry_ros.training.train import Trainer
from starry_ros.training.train_options import (
    chosen_config,
    chosen_data,
    chosen_video,
    freeze,
    run_or_model,
    start_parts,
)
from starry_ros.types import CameraModel
from starry_ros.wam import config as wam_config
from starry_ros.wam.autoencoder import Autoencoder, AutoencoderConfig
from starry_ros.wam.checkpoint import load_checkpoint, save_checkpoint
from starry_ros.wam.gasam import canvas_intrinsics, scene_arrays
from starry_ros.wam.load import choose_geometry, load_session, reference
from starry_ros.wam.options import StatesConfig
from starry_ros.wam.runtimes.base import Noise
from starry_ros.wam.state_tokens import StateAutoencoder, save_states

STATES = StatesConfig(latent_channels=LATENT[0], state_width=6, width=16, feed_forward=16, heads=2, layers=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes with depth, cameras and hands, and a run of the state autoencoder."""
    root = tmp_path_factory.mktemp("data")
    write_episodes(root / "d", (24, 9))
    rng = np.random.default_rng(0)
    for path in (root / "d" / "episodes").glob("*.npz"):
        with np.load(path) as file:
            arrays = dict(file)
        frames = len(arrays["canvas_THWC"])
        arrays |= {
            "depth_THW": rng.integers(0, 1500, (frames, *CANVAS[:2]), dtype=np.uint16),
            "pose_TV44": np.tile(np.eye(4, dtype=np.float32), (frames, 3, 1, 1)),
            "camera_V4": np.tile(np.float32([100, 100, 60, 50]), (3, 1)),
            "hands_TA3": rng.uniform(0, 0.5, (frames, 2, 3)).astype(np.float32),
        }
        np.savez(path, **arrays)
    torch.manual_seed(0)
    save_states(root / "states", StateAutoencoder(STATES), {})
    return root


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setitem(wam_config.PRESETS, "narrow", lambda layout, joints, step_s=0.1: CONFIG)

    def embed(texts: tuple[str, ...]) -> TextTable:
        rng = np.random.default_rng(0)
        tokens = rng.standard_normal((len(texts), CONFIG.text_tokens, CONFIG.text_width), dtype=np.float32)
        return TextTable(torch.from_numpy(tokens), torch.ones(len(texts), CONFIG.text_tokens))

    monkeypatch.setattr(train, "embed_texts", embed)


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_part_arguments(parser)
    parser.set_defaults(preset="narrow", tint=0.0, reworded=0.0, out=Path("nowhere"), init=None)
    return parser.parse_args(words)


PARTS: list[tuple[str, ...]] = [
    (),
    ("--coupling", "joint", "--prefix", "3"),
    ("--intent", "video", "--geometry", "predicted", "--states", "STATES"),
    ("--coupling", "joint", "--geometry", "predicted", "--layout", "rgbd", "--paths", "--value-start", "black"),
    ("--geometry", "predicted", "--value-steps", "2", "--video-steps", "3"),
    ("--geometry", "measured", "--narrow-from-video", "--states", "STATES"),
]


@pytest.mark.parametrize("words", PARTS, ids=lambda words: " ".join(words) or "plain")
def test_a_model_with_these_parts_trains_is_saved_and_plans(words: tuple[str, ...], folder: Path, tmp_path: Path
                                                            ) -> None:
    args = arguments(*[str(folder / "states") if word == "STATES" else word for word in words])
    args.data, args.out = folder / "d", tmp_path
    wam = chosen_config(args, SPEC)
    torch.manual_seed(1)
    autoencoder = Autoencoder(
        AutoencoderConfig(LAYOUT.height_px, wam.canvas_width_px, CONFIG.latent_channels, (8, 8, 8))).eval()
    data = chosen_data(args, SPEC, wam, autoencoder)
    trainer = Trainer(SPEC, data, autoencoder, TrainConfig("narrow", steps=2, batch=2, warm_up=1), tmp_path, wam)
    start_parts(args, trainer.model)
    frozen = {name: value.clone() for name, value in trainer.model.state_dict().items() if name.startswith("compact.")}
    terms = [trainer.step() for _ in range(2)]
    assert all(np.isfinite(list(term.values())).all() for term in terms)
    assert ({"depth", "pose", "weight"} <= set(terms[0])) == (wam.geometry is not None)
    assert all(torch.equal(trainer.model.state_dict()[name], value) for name, value in frozen.items())
    assert bool(frozen) == ("--states" in words)
    trainer.save()
    checkpoint = load_checkpoint(tmp_path / "checkpoint", SPEC)
    assert checkpoint.config == wam
    serve(checkpoint, data)


@pytest.mark.parametrize("words", PARTS, ids=lambda words: " ".join(words) or "plain")
def test_a_pass_of_such_a_model_on_another_device_mixes_no_devices(words: tuple[str, ...], folder: Path, tmp_path: Path
                                                                   ) -> None:
    """The device without numbers stands for a GPU: an operation on two devices raises there too."""
    args = arguments(*[str(folder / "states") if word == "STATES" else word for word in words])
    args.data, args.out = folder / "d", tmp_path
    wam, device = chosen_config(args, SPEC), torch.device("meta")
    autoencoder = Autoencoder(
        AutoencoderConfig(LAYOUT.height_px, wam.canvas_width_px, CONFIG.latent_channels, (8, 8, 8))).eval()
    data = chosen_data(args, SPEC, wam, autoencoder)
    config = TrainConfig("narrow", steps=2, batch=2, warm_up=1)
    trainer = Trainer(SPEC, data, autoencoder, config, tmp_path, wam, Compute(device))
    with trainer.compute.here():
        loss, terms = trainer._pass(0, None)
    loss.backward()
    assert {term.device for term in terms.values()} == {device}
    assert sum(parameter.grad is not None for parameter in trainer.model.parameters()) > 20


def serve(checkpoint: Any, data: Any) -> None:
    """Plans with history from the saved model."""
    runtime, c, rng = reference(checkpoint), checkpoint.config, np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    runtime.set_text(draw(c.text_tokens, c.text_width), np.ones(c.text_tokens, np.float32))
    for i in range(2):
        runtime.observe(data.canvas_FHWC[i], 4 * i)
        if c.gasam:
            runtime.look(scene_arrays(data.scenes.at(np.array([i]))))
        noise = Noise(draw(1, c.frame_tokens, c.latent_token_width), draw(1, c.frame_tokens, c.value_token_width),
                      draw(1, c.chunk_steps, c.joints))
        plan = runtime.predict(noise, draw(c.joints))
        assert np.isfinite(plan.actions_KJ).all()
        assert runtime.decode(plan.latents).shape == (c.canvas_height_px, c.canvas_width_px, 3)
        runtime.commit(draw(c.history_actions, c.joints), np.ones(c.history_actions, np.float32))
    assert runtime.frames.keys.shape[3] == c.history_slots * c.past_tokens


def test_a_video_without_actions_is_labelled_by_its_motions_and_trains_beside_demonstrations(
    folder: Path, tmp_path: Path
) -> None:
    """States that are the joints themselves give the true positions and plans back."""
    for i, path in enumerate(sorted((folder / "d" / "episodes").glob("*.npz"))):
        with np.load(path) as file:
            canvas = file["canvas_THWC"]
        (tmp_path / "v" / "episodes").mkdir(parents=True, exist_ok=True)
        np.savez(tmp_path / "v" / "episodes" / f"{i}.npz", canvas_THWC=canvas)
    args = arguments("--video", str(tmp_path / "v"), "--video-states", str(folder / "states"))
    args.data, args.out = folder / "d", tmp_path / "run"
    wam = dataclasses.replace(CONFIG, chunk_steps=4)
    torch.manual_seed(1)
    autoencoder = Autoencoder(AutoencoderConfig(LAYOUT.height_px, LAYOUT.width_px, 4, (8, 8, 8))).eval()
    robot = chosen_data(args, SPEC, wam, autoencoder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pseudo, "encode_frames", lambda model, latents, frames: robot.position_FJ[frames])
        patch.setattr(probe_states, "PENALTIES", (1e-6,))
        labelled = chosen_video(args, SPEC, wam, autoencoder, robot)
    np.testing.assert_allclose(labelled.position_FJ, robot.position_FJ, atol=1e-4)
    for frame in (0, 7, 19, 22):
        for k in range(4):
            wanted = robot.position_FJ[min(frame + k + 1, robot.last_F[frame])]
            np.testing.assert_allclose(labelled.plan_FKJ[frame, k], wanted, atol=1e-3)
    assert labelled.texts == (pseudo.NO_SENTENCE,)
    args.states = None
    labelled = chosen_video(args, SPEC, CONFIG, autoencoder, robot)
    trainer = Trainer(SPEC, robot, autoencoder, TrainConfig("narrow", steps=2, batch=2, warm_up=1), tmp_path / "run")
    trainer.video = train.VideoPart(trainer.make_sampler(labelled), train.embed_texts(labelled.texts), 0.5)
    terms = trainer.step()
    assert {"pseudo_video", "pseudo_action"} == {name for name in terms if name.startswith("pseudo")}
    args.video_states = None
    with pytest.raises(ConfigError, match="needs compact states"):
        chosen_video(args, SPEC, wam, autoencoder, robot)


def test_the_expert_alone_learns_beside_a_finished_model_and_its_weights_serve_in_every_mode(
    folder: Path, tmp_path: Path
) -> None:
    plain = make_checkpoint()
    save_checkpoint(tmp_path / "plain", plain)
    args = arguments("--geometry", "predicted", "--only-geometry")
    args.data, args.out, args.init = folder / "d", tmp_path / "run", tmp_path / "plain"
    wam = chosen_config(args, SPEC)
    data = chosen_data(args, SPEC, wam, plain.autoencoder)
    trainer = Trainer(SPEC, data, plain.autoencoder, TrainConfig("narrow", steps=2, batch=2, warm_up=1), args.out, wam)
    fitted = trainer.stats
    train._start_from(trainer, args)
    train._keep_all_but_geometry(trainer, args)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    for _ in range(2):
        assert set(trainer.step()) == {"depth", "pose", "weight"}
    changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("geometry.") for name in changed)
    trainer.save()
    trained = load_checkpoint(args.out / "checkpoint", SPEC)
    assert all(torch.equal(trained.model[name], value) for name, value in plain.model.items())
    assert np.array_equal(trained.stats.action_offset_KJ, plain.stats.action_offset_KJ), "in the units that they know"
    assert not np.array_equal(trained.stats.action_offset_KJ, fitted.action_offset_KJ)
    assert choose_geometry(trained, "off").config.gasam == ""
    assert choose_geometry(trained, "measured").config.gasam == "measured"
    measured = choose_geometry(plain, "measured")
    assert measured.config.gasam == "measured"
    assert measured.build_model().geometry is not None
    with pytest.raises(ConfigError, match="no geometry expert"):
        choose_geometry(plain, "predicted")
    with pytest.raises(ConfigError, match="needs depth, cameras and hands"):
        load_session(args.out / "checkpoint", SPEC, "torch")
    trainer.wam = dataclasses.replace(wam, prefix_steps=1)
    with pytest.raises(ConfigError, match="another model than that of --init"):
        train._keep_all_but_geometry(trainer, args)
    with pytest.raises(ConfigError, match="no geometry part"):
        freeze(args, plain.build_model())
    args.init = None
    with pytest.raises(ConfigError, match="nothing to keep"):
        freeze(args, trainer.model)


def test_what_goes_on_from_weights_keeps_the_prefix_that_they_know(tmp_path: Path) -> None:
    args = arguments()
    assert chosen_config(args, SPEC).prefix_steps == 0
    args.init = run_or_model(Path("tiny"))
    shipped = load_checkpoint(args.init).config.prefix_steps
    assert chosen_config(args, SPEC).prefix_steps == shipped > 0
    args.out = tmp_path / "run"
    plain = make_checkpoint()
    save_checkpoint(args.out / "checkpoint", plain)
    assert chosen_config(args, SPEC).prefix_steps == plain.config.prefix_steps != shipped, "a begun run comes first"
    args.prefix = 3
    assert chosen_config(args, SPEC).prefix_steps == 3
    with pytest.raises(CheckpointError, match="is unknown"):
        run_or_model(tmp_path / "nothing")


def test_parts_that_do_not_fit_are_refused_with_a_way_out(folder: Path, tmp_path: Path) -> None:
    plain = Autoencoder(AutoencoderConfig(LAYOUT.height_px, LAYOUT.width_px, CONFIG.latent_channels, (8, 8, 8)))
    args = arguments("--layout", "rgbd")
    args.data, args.out = folder / "d", tmp_path
    with pytest.raises(ConfigError, match=r"another canvas.*train-autoencoder --layout rgbd"):
        chosen_data(args, SPEC, chosen_config(args, SPEC), plain)
    args.value_steps = 0
    with pytest.raises(ConfigError, match="--value-steps: is not positive"):
        chosen_config(args, SPEC)
    without = write_episodes(tmp_path / "plain", (5,))
    with pytest.raises(DataError, match="starry data generate --depth"):
        load_scenes(without, 8, 20)


def test_scenes_are_cells_of_the_recorded_depth(folder: Path) -> None:
    scenes = load_scenes(folder / "d", 8, 40)
    with np.load(folder / "d" / "episodes" / "00001.npz") as file:
        depth, hands = file["depth_THW"], file["hands_TA3"]
    scene = scenes.at(np.array([26]))
    for row, column in ((0, 0), (5, 17), (23, 19)):
        wanted = depth[2, 8 * row + 4, 8 * column + 4] / 1000
        assert float(scene.depth_BYX[0, row, column]) == pytest.approx(wanted, rel=1e-3)
    assert not scene.depth_BYX[..., 20:].any()
    np.testing.assert_array_equal(scene.hands_BA3[0], hands[2])


def test_depth_is_sampled_packed_and_drawn() -> None:
    rng = np.random.default_rng(1)
    images = {tile.camera: rng.uniform(0.1, 1.9, (240, 320)).astype(np.float32) for tile in LAYOUT.tiles}
    packed = pack_depth(LAYOUT, images)
    for tile in LAYOUT.tiles:
        assert np.isin(packed[tile.content.slices], images[tile.camera]).all()
        u, v = tile.content.x_px + 7, tile.content.y_px + 11
        x, y = LAYOUT.canvas_to_camera(tile.camera, [u, v])
        assert packed[v, u] == images[tile.camera][int(np.floor(y + 0.5)), int(np.floor(x + 0.5))]
    assert not packed[: LAYOUT.tiles[0].content.y_px].any()
    grey = depth_as_grey(np.float32([0.0, NEAR_M, 0.01, 2.0, 9.0, np.sqrt(NEAR_M * 2.0)]))
    assert grey.tolist() == [0, 255, 255, 1, 1, 128]
    np.testing.assert_array_equal(depth_cells(packed, 8), packed[4::8, 4::8])
    wide = rgbd_layout(LAYOUT)
    assert (wide.width_px, wide.tiles) == (2 * LAYOUT.width_px, LAYOUT.tiles)
    assert wide.layout_hash != LAYOUT.layout_hash


def test_a_path_is_drawn_where_the_camera_of_now_projects_it() -> None:
    canvas = np.zeros((LAYOUT.height_px, LAYOUT.width_px, 3), np.uint8)
    cameras = [CameraModel(tile.camera, 320, 240, 200.0, 200.0, 159.5, 119.5, np.eye(4)) for tile in LAYOUT.tiles]
    still = np.tile([[[0.1, 0.05, 1.0], [0.0, 0.0, -1.0]]], (4, 1, 1))
    drawn = draw_paths(canvas, LAYOUT, cameras, still)
    assert not canvas.any()
    lit = np.argwhere(drawn.any(axis=2))
    for camera in cameras:
        u, v = LAYOUT.camera_to_canvas(camera.camera, [179.5, 129.5])
        assert np.abs(lit - [v, u]).sum(axis=1).min() <= 1.01
    assert len(lit) == len(cameras)
    assert tuple(drawn[tuple(lit[0])]) == COLOURS_RGB[0]
    moving = np.stack([[[x, 0.0, 1.0], [9.0, 9.0, 1.0]] for x in (-0.2, 0.0, 0.2)])
    head = LAYOUT.tiles[0].content
    row = draw_paths(canvas, LAYOUT, cameras, moving)[head.y_px + 60, head.x_px : head.x_px + head.width_px].any(axis=1)
    above = draw_paths(canvas, LAYOUT, cameras, moving)[head.y_px + 59, head.x_px : head.x_px + head.width_px].any(1)
    assert max(row.sum(), above.sum()) >= 40


def test_views_compose_what_they_say(folder: Path) -> None:
    assert view_of(SPEC, "rgb", False) is PLAIN
    path = folder / "d" / "episodes" / "00001.npz"
    plain, wide = PLAIN.canvases(path), view_of(SPEC, "rgbd", True).canvases(path)
    assert wide.shape[2] == 2 * plain.shape[2]
    tile = LAYOUT.tiles[0]
    camera = CameraModel(tile.camera, 320, 240, 210.0, 205.0, 150.0, 120.0, np.eye(4))
    assert canvas_intrinsics(camera, LAYOUT)[0] == pytest.approx(105.0)
