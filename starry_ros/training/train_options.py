"""The optional parts of a model, as options of `starry train`: from arguments to a configuration and to data."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.errors import ConfigError
from starry_ros.robot_spec import RobotSpec
from starry_ros.training.dataset import Demonstrations, load_demonstrations
from starry_ros.training.pseudo import fit_labeller, load_video
from starry_ros.training.scenes import load_scenes, view_of
from starry_ros.training.train_data import encoder
from starry_ros.wam.autoencoder import Autoencoder
from starry_ros.wam.config import WamConfig, preset
from starry_ros.wam.model import WorldActionModel
from starry_ros.wam.narrow import start_from_wide
from starry_ros.wam.options import COUPLINGS, GASAM_MODES, LAYOUTS, VALUE_STARTS, GeometryConfig
from starry_ros.wam.state_tokens import load_states


def add_option_arguments(parser: argparse.ArgumentParser) -> None:
    """What a model may have beyond its preset."""
    group = parser.add_argument_group("parts of the model")
    group.add_argument("--coupling", default=COUPLINGS[0], choices=COUPLINGS,
                       help="who sees whom: one stream after the other, or all at once (default: %(default)s)")
    group.add_argument("--value-start", default=VALUE_STARTS[0], choices=VALUE_STARTS,
                       help="what the value map is denoised from (default: %(default)s)")
    group.add_argument("--geometry", choices=GASAM_MODES,
                       help="add the geometry expert, and weigh the actions' attention by what is measured or "
                            "predicted (needs data with depth)")
    group.add_argument("--only-geometry", action="store_true",
                       help="train the geometry expert alone; everything else keeps the weights of --init")
    group.add_argument("--layout", default=LAYOUTS[0], choices=LAYOUTS,
                       help="canvas of colour, or of colour beside depth (default: %(default)s)")
    group.add_argument("--paths", action="store_true", help="draw the hands' paths into the views (needs depth data)")
    group.add_argument("--states", type=Path, metavar="RUN",
                       help="keep past frames as compact states of this `starry train-state-tokens` run")
    group.add_argument("--video-steps", type=int, help="denoising steps of the imagined frame")
    group.add_argument("--value-steps", type=int, help="denoising steps of the value map")
    group.add_argument("--action-steps", type=int, help="denoising steps of the chunk")
    group.add_argument("--prefix", type=int, default=0, metavar="STEPS",
                       help="also learn to go on from up to so many committed steps, for mode async_grounded (0: none)")
    group.add_argument("--narrow-from-video", action="store_true",
                       help="start the value and action streams from the video stream's weights, interpolated")
    group.add_argument("--video", type=Path, metavar="DIR",
                       help="also learn from episodes of images without actions, labelled by their motions")
    group.add_argument("--video-states", type=Path, metavar="RUN",
                       help="`starry train-state-tokens` run that labels them (default: that of --states)")
    group.add_argument("--video-weight", type=float, default=0.3, help="weight of their losses (default: %(default)s)")


def chosen_config(args: argparse.Namespace, spec: RobotSpec) -> WamConfig:
    """The preset with the chosen parts. Raises ConfigError on parts that do not fit together."""
    config = preset(args.preset, t_pose_layout(spec), len(spec.joints), spec.action.step_s)
    steps = {name: value for name in ("video_steps", "value_steps", "action_steps")
             if (value := getattr(args, name)) is not None}
    for name, value in steps.items():
        if value < 1:
            raise ConfigError(f"--{name.replace('_', '-')}", "is not positive", got=value, expected=">= 1")
    if not 0 <= args.prefix <= config.history_actions:
        raise ConfigError("--prefix", "is out of range", got=args.prefix, expected=f"0 to {config.history_actions}")
    geometry = None if args.geometry is None else GeometryConfig(mode=args.geometry, hands=len(spec.arms))
    states = None if args.states is None else load_states(args.states).config
    width_px = config.canvas_width_px * (2 if args.layout == "rgbd" else 1)
    return dataclasses.replace(
        config, coupling=args.coupling, value_start=args.value_start, layout=args.layout, paths=args.paths,
        geometry=geometry, states=states, prefix_steps=args.prefix, canvas_width_px=width_px, **steps)


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
    view = view_of(spec, config.layout, config.paths)
    return load_demonstrations(args.data, args.out / "cache", encoder(autoencoder), view, scenes)


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
    """Let only the geometry expert learn, if that is asked for. Raises ConfigError where there is none."""
    if not args.only_geometry:
        return
    if model.geometry is None:
        raise ConfigError("--only-geometry", "there is no geometry part", fix="add --geometry predicted")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("geometry."))
