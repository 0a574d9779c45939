"""The optional parts of a model, as options of `starry train`: from arguments to a configuration and to data."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.errors import ConfigError
from starry_ros.paths import model_dir
from starry_ros.robot_spec import RobotSpec
from starry_ros.training.dataset import Demonstrations, in_other_words, load_demonstrations
from starry_ros.training.pseudo import fit_labeller, load_video
from starry_ros.training.scenes import load_scenes, view_of
from starry_ros.training.tint import tinted
from starry_ros.training.train_data import encoder
from starry_ros.wam.autoencoder import Autoencoder
from starry_ros.wam.checkpoint import CONFIG
from starry_ros.wam.config import WamConfig, preset
from starry_ros.wam.model import WorldActionModel
from starry_ros.wam.narrow import start_from_wide
from starry_ros.wam.options import GeometryConfig
from starry_ros.wam.state_tokens import load_states


def chosen_config(args: argparse.Namespace, spec: RobotSpec) -> WamConfig:
    """The preset with the chosen parts. Raises ConfigError on parts that do not fit together."""
    config = preset(args.preset, t_pose_layout(spec), len(spec.joints), spec.action.step_s)
    steps = {name: value for name in ("video_steps", "value_steps", "action_steps")
             if (value := getattr(args, name)) is not None}
    for name, value in steps.items():
        if value < 1:
            raise ConfigError(f"--{name.replace('_', '-')}", "is not positive", got=value, expected=">= 1")
    prefix = _known_prefix(args.out, args.init) if args.prefix is None else args.prefix
    if not 0 <= prefix <= config.history_actions:
        raise ConfigError("--prefix", "is out of range", got=prefix, expected=f"0 to {config.history_actions}")
    if args.intent == "blind":
        steps.setdefault("value_steps", 1)
    geometry = None if args.geometry is None else GeometryConfig(mode=args.geometry, hands=len(spec.arms))
    states = None if args.states is None else load_states(args.states).config
    width_px = config.canvas_width_px * (2 if args.layout == "rgbd" else 1)
    return dataclasses.replace(
        config, coupling=args.coupling, intent=args.intent, value_start=args.value_start, layout=args.layout,
        paths=args.paths, geometry=geometry, states=states, prefix_steps=prefix, canvas_width_px=width_px, **steps)


def run_or_model(folder: Path | None) -> Path | None:
    """A folder that is there, or that of a model which ships with the package. Raises CheckpointError."""
    return folder if folder is None or folder.exists() else model_dir(str(folder))


def _known_prefix(*folders: Path | None) -> int:
    """Committed steps that the first of these runs or models knows of: what continues it must not forget them."""
    for folder in filter(None, folders):
        for path in (folder / CONFIG, folder / "checkpoint" / CONFIG):
            if path.exists():
                return int(json.loads(path.read_text(encoding="utf-8")).get("config", {}).get("prefix_steps", 0))
    return 0


def chosen_data(args: argparse.Namespace, spec: RobotSpec, config: WamConfig, autoencoder: Autoencoder
                ) -> Demonstrations:
    """The demonstrations as this model sees them, with their scenes if it needs any."""
    size = (config.canvas_height_px, config.canvas_width_px)
    if (autoencoder.config.height_px, autoencoder.config.width_px) != size:
        raise ConfigError("--autoencoder", "was trained on another canvas", expected=size,
                          got=(autoencoder.config.height_px, autoencoder.config.width_px),
                          fix=f"train one with `starry train-autoencoder --layout {config.layout}`")
    scenes = None
    if config.geometry is not None:
        cell_px = config.geometry.cell_px
        scenes = load_scenes(args.data, cell_px, config.canvas_width_px // cell_px)
    view = tinted(view_of(spec, config.layout, config.paths), args.tint)
    data = load_demonstrations(args.data, args.out / "cache", encoder(autoencoder), view, scenes, args.occluded)
    return in_other_words(data) if args.reworded else data


def chosen_video(args: argparse.Namespace, spec: RobotSpec, config: WamConfig, autoencoder: Autoencoder,
                 robot: Demonstrations) -> Demonstrations:
    """Frames without actions, labelled by a state run's motions. Raises ConfigError without such a run."""
    run = args.video_states or args.states
    if run is None or config.geometry is not None:
        raise ConfigError("--video", "needs compact states, and no geometry part: a video has no depth",
                          fix="add --video-states RUN of `starry train-state-tokens`, leave out --geometry")
    view = view_of(spec, config.layout, config.paths)
    video = load_video(args.video, args.out / "video_cache", encoder(autoencoder), config, view)
    return fit_labeller(load_states(run), robot, config.chunk_steps).label(video)


def start_parts(args: argparse.Namespace, model: WorldActionModel) -> None:
    """First weights of the parts that do not start at random."""
    if args.states is not None:
        model.compact.load_state_dict(load_states(args.states).encoder.state_dict())
    if args.narrow_from_video:
        for stream in (model.value, model.action):
            start_from_wide(stream, model.video)


def freeze(args: argparse.Namespace, model: WorldActionModel) -> None:
    """Let only the geometry expert learn. Raises ConfigError where there is none, or no model beside it."""
    if model.geometry is None:
        raise ConfigError("--only-geometry", "there is no geometry part", fix="add --geometry predicted")
    if args.init is None:
        raise ConfigError("--only-geometry", "there is nothing to keep", fix="add --init MODEL")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("geometry."))
