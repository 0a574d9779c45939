"""Options of `starry eval`, `data generate` and the trainings; imports nothing heavy, so that `--help` is quick."""

from __future__ import annotations

import argparse
from pathlib import Path

from starry_ros.ranges import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, WHOLE
from starry_ros.report import add_json_argument
from starry_ros.sim.choices import FORCED, KINDS, SETTINGS, TASKS, Kind, LoopConfig
from starry_ros.training.ablate import ABLATIONS
from starry_ros.training.budgets import OCCLUDED, AutoencoderTraining, RlConfig, StatesTraining, TrainConfig
from starry_ros.wam.choices import RUNTIMES, PlanMode, SpliceMethod
from starry_ros.wam.options import COUPLINGS, GASAM_MODES, INTENTS, LAYOUTS, VALUE_STARTS

POLICIES = ("model", "expert", "untrained")
ABLATED = "model-"
"""A policy of this beginning is the model without a part of `ablate`."""
Suite = tuple[tuple[str, str, Kind], ...]
SUITES: dict[str, Suite] = {
    "easy": tuple((task, "easy", "normal") for task in TASKS),
    "hard": tuple((task, "hard", "normal") for task in TASKS),
    "recovery": tuple((task, "easy", case) for case, tasks in FORCED.items() for task in tasks),
}
"""Tasks, settings and cases that are measured together."""
PRECISIONS = ("auto", "fp32", "bf16")
CALIBRATION_SEED = 500
"""Episodes that neither training nor evaluation plays."""


WAN_CHANGES = ("chunk_latents", "actions_per_latent", "history_chunks", "video_steps", "value_steps", "action_steps")
"""What a `serving.json` may change of a Wan-size model."""


def add_evaluate_command_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `starry eval`."""
    parser.add_argument("--task", choices=("all", *TASKS), help=f"task (default: {TASKS[0]}, or those of the suite)")
    parser.add_argument("--suite", choices=SUITES, help="tasks and cases at once; --task and --case choose among them")
    parser.add_argument("--ablation", action="append", default=[], choices=ABLATIONS,
                        help="also play the model without this part; may be given several times")
    parser.add_argument("--setting", choices=SETTINGS, help="setting (default: easy; a suite brings its own)")
    parser.add_argument("--episodes", type=COUNT, default=50, help="episodes a policy (default: %(default)s)")
    parser.add_argument("--model", nargs="+", default=["tiny"], metavar="MODEL",
                        help="model: a name in models/ or a folder; several are compared in one table (default: tiny)")
    parser.add_argument("--policy", default="all", choices=("all", *POLICIES), help="who plays (default: %(default)s)")
    parser.add_argument("--case", choices=KINDS, help="forced case (default: normal, or those of the suite)")
    parser.add_argument("--seed", type=WHOLE, default=0, help="first evaluation seed (default: %(default)s)")
    parser.add_argument("--workers", type=COUNT, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--runtime", default="auto", choices=RUNTIMES, help="engine (default: %(default)s)")
    parser.add_argument("--geometry", choices=GASAM_MODES,
                        help="weigh the actions' attention by what is measured or predicted (default: as trained)")
    parser.add_argument("--robot", default="bimanual_sim", help="robot: a name in config/robots/ or a file")
    parser.add_argument("--latency", type=NOT_NEGATIVE, nargs="+", default=[LoopConfig.latency_s], metavar="S",
                        help="seconds from an observation to the arrival of its plan (default: %(default)s)")
    parser.add_argument("--replan", type=POSITIVE, default=LoopConfig.replan_s, metavar="S",
                        help="seconds from observation to observation (default: %(default)s)")
    parser.add_argument("--mode", nargs="+", default=[LoopConfig.mode], choices=[mode.value for mode in PlanMode],
                        help="planning mode; every mode plays every latency (default: %(default)s)")
    parser.add_argument("--splice", default=LoopConfig.splice, choices=[method.value for method in SpliceMethod],
                        help="how a chunk goes on from the last one in mode async_grounded (default: %(default)s)")
    parser.add_argument("--strips", type=Path, metavar="DIR", help="write pictures of episodes to DIR")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write report.md, report.json and pictures to DIR")
    add_json_argument(parser)


def add_generate_command_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `starry data generate`."""
    parser.add_argument("--out", type=Path, required=True, help="folder to write; a broken run in it is continued")
    parser.add_argument("--task", default=TASKS[0], choices=TASKS, help="task (default: %(default)s)")
    parser.add_argument("--setting", default="easy", choices=SETTINGS, help="setting (default: %(default)s)")
    parser.add_argument("--kind", help="only this kind of episode, such as twist or drop, or with --model a case "
                             "of `starry eval`, such as dropped (default: the task's mixture)")
    parser.add_argument("--model", help="let this model act first; the expert labels every frame, then takes over")
    parser.add_argument("--episodes", type=COUNT, default=600, help="motions in all (default: %(default)s)")
    parser.add_argument("--seed", type=WHOLE, default=2026, help="of layouts and disturbances (default: %(default)s)")
    parser.add_argument("--workers", type=COUNT, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--depth", action="store_true", help="also record depth, cameras and hands of every frame")
    parser.add_argument("--looks", type=COUNT, default=1,
                        help="film every motion under so many looks of the hard setting, an episode each")
    parser.add_argument("--robot", default="bimanual_sim", help="robot: a name in config/robots/ or a file")


def add_train_command_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `starry train`."""
    parser.add_argument("--data", type=Path, required=True, help="folder written by `starry data generate`")
    parser.add_argument("--out", type=Path, required=True, help="run folder; an unfinished run in it is resumed")
    parser.add_argument("--preset", default="tiny", help="model preset (default: tiny)")
    parser.add_argument("--robot", default="bimanual_sim", help="robot: a name in config/robots/ or a file")
    parser.add_argument("--autoencoder", type=Path, required=True,
                        help="folder of `starry train-autoencoder`, or a model folder whose autoencoder to use")
    parser.add_argument("--steps", type=COUNT, default=TrainConfig.steps, help="optimiser steps in all")
    parser.add_argument("--batch", type=COUNT, default=TrainConfig.batch, help="samples a step over all processes")
    parser.add_argument("--learning-rate", type=POSITIVE, default=TrainConfig.learning_rate, help="peak learning rate")
    parser.add_argument("--seed", type=WHOLE, default=0, help="seed of weights, batches and noise")
    parser.add_argument("--minutes", type=POSITIVE, default=None, help="stop after so many minutes (resume later)")
    parser.add_argument("--save-every", type=COUNT, default=250, help="steps between checkpoints")
    parser.add_argument("--eval-every", type=WHOLE, default=500, metavar="STEPS",
                        help="steps between closed-loop evaluations, which choose best/; 0 for none")
    parser.add_argument("--eval-episodes", type=COUNT, default=20, help="episodes of each task in such an evaluation")
    parser.add_argument("--init", type=Path, default=None,
                        help="run folder, model folder or shipped model whose weights to start from")
    _add_tint(parser)
    parser.add_argument("--reworded", type=SHARE, default=0.0, metavar="SHARE",
                        help="share of the samples to ask for in other words (default: %(default)s)")
    parser.add_argument("--noisy-history", type=SHARE, default=0.0, metavar="SHARE",
                        help="share of the samples whose past frames are shown with noise (default: %(default)s)")
    parser.add_argument("--text-dropout", type=SHARE, default=0.0, metavar="SHARE",
                        help="share of the samples that are shown without their sentence (default: %(default)s)")
    _add_device(parser)
    parser.add_argument("--precision", default="auto", choices=PRECISIONS,
                        help="numbers of the passes; weights are fp32 (default: auto, bf16 on GPUs that have it, "
                             "but for models with geometry)")
    add_part_arguments(parser)


def _add_device(parser: argparse.ArgumentParser) -> None:
    """Where to compute."""
    parser.add_argument("--device", default="auto", metavar="DEVICE",
                        help="cpu, cuda, cuda:N, or auto: the GPU where PyTorch sees one (default: %(default)s)")


def add_part_arguments(parser: argparse.ArgumentParser) -> None:
    """What a model may have beyond its preset."""
    group = parser.add_argument_group("parts of the model")
    group.add_argument("--coupling", default=COUPLINGS[0], choices=COUPLINGS,
                       help="who sees whom: one stream after the other, or all at once (default: %(default)s)")
    group.add_argument("--intent", default=INTENTS[0], choices=INTENTS,
                       help="what tells the actions what to do: the value map, value tokens that learn without a map, "
                            "or the imagined frame; the last two are ablations (default: %(default)s)")
    group.add_argument("--value-start", default=VALUE_STARTS[0], choices=VALUE_STARTS,
                       help="what the value map is denoised from (default: %(default)s)")
    group.add_argument("--geometry", choices=GASAM_MODES,
                       help="add the geometry expert, and weigh the actions' attention by what is measured or "
                            "predicted (needs data with depth)")
    group.add_argument("--only-geometry", action="store_true",
                       help="train the geometry expert alone; everything else keeps the weights of --init")
    group.add_argument("--occluded", default=OCCLUDED[0], choices=OCCLUDED,
                       help="what the value map shows of contacts that something hides from a camera: where they are, "
                            "or nothing (default: %(default)s)")
    group.add_argument("--layout", default=LAYOUTS[0], choices=LAYOUTS,
                       help="canvas of colour, or of colour beside depth (default: %(default)s)")
    group.add_argument("--paths", action="store_true", help="draw the hands' paths into the views (needs depth data)")
    group.add_argument("--states", type=Path, metavar="RUN",
                       help="keep past frames as compact states of this `starry train-state-tokens` run")
    group.add_argument("--video-steps", type=COUNT, help="denoising steps of the imagined frame")
    group.add_argument("--value-steps", type=COUNT, help="denoising steps of the value map")
    group.add_argument("--action-steps", type=COUNT, help="denoising steps of the chunk")
    group.add_argument("--prefix", type=WHOLE, metavar="STEPS",
                       help="also learn to go on from up to so many committed steps, for mode async_grounded; 0: none "
                            "(default: as many as --init knows)")
    group.add_argument("--narrow-from-video", action="store_true",
                       help="start the value and action streams from the video stream's weights, interpolated")
    group.add_argument("--video", type=Path, metavar="DIR",
                       help="also learn from episodes of images without actions, labelled by their motions")
    group.add_argument("--video-states", type=Path, metavar="RUN",
                       help="`starry train-state-tokens` run that labels them (default: that of --states)")
    group.add_argument("--video-weight", type=NOT_NEGATIVE, default=0.3,
                       help="weight of their losses (default: %(default)s)")


def add_train_autoencoder_command_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `starry train-autoencoder`."""
    plan = AutoencoderTraining()
    parser.add_argument("--data", type=Path, required=True, help="folder written by `starry data generate`")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; an unfinished run in it continues")
    parser.add_argument("--steps", type=COUNT, default=plan.steps, help="optimiser steps (default: %(default)s)")
    parser.add_argument("--batch", type=COUNT, default=plan.batch, help="canvases a step (default: %(default)s)")
    parser.add_argument("--layout", default=LAYOUTS[0], choices=LAYOUTS,
                        help="canvas of colour, or of colour beside depth (default: %(default)s)")
    parser.add_argument("--paths", action="store_true", help="draw the hands' paths into the views")
    parser.add_argument("--robot", default="bimanual_sim", help="robot: a name in config/robots/ or a file")
    parser.add_argument("--seed", type=WHOLE, default=plan.seed, help="random seed (default: %(default)s)")
    parser.add_argument("--minutes", type=POSITIVE, help="stop after so long; run again to continue")
    parser.add_argument("--init", type=Path, help="autoencoder or model folder to start from, as for further tasks")
    _add_tint(parser)
    _add_device(parser)


def _add_tint(parser: argparse.ArgumentParser) -> None:
    """Augmentation."""
    parser.add_argument("--tint", type=SHARE, default=0.0, metavar="SHARE",
                        help="share of the episodes to show in another light (default: %(default)s)")


def add_train_rl_command_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `starry train-rl`."""
    default = RlConfig()
    parser.add_argument("--model", default="tiny", help="model to start from (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="run folder; an unfinished run in it is resumed")
    parser.add_argument("--task", action="append", choices=TASKS, help="task; may be given several times")
    parser.add_argument("--setting", default=default.setting, choices=SETTINGS, help="setting (default: %(default)s)")
    parser.add_argument("--robot", default="bimanual_sim", help="robot: a name in config/robots/ or a file")
    parser.add_argument("--workers", type=COUNT, default=2, help="processes that play (default: %(default)s)")
    for name, text in (
        ("iterations", "iterations in all"), ("layouts", "layouts an iteration"), ("group", "episodes of each layout"),
        ("held", "plans in a row that bring the hand at work elsewhere by the same offset"),
        ("spread", "how far: deviation along x, y, z in m"),
        ("look_on_s", "how long after the first of them what is lost counts, in s"),
        ("epochs", "passes over the plans an iteration"),
        ("batch", "plans an optimiser step"), ("learning_rate", "learning rate"), ("clip", "bound on ratios"),
        ("kl_weight", "weight of the divergence from the first weights"),
        ("time_weight", "weight of a second that the task's script would be done later"),
        ("dense_weight", "weight of the value map's reward"),
        ("success_weight", "weight of success"), ("seed", "seed of noise and order"),
    ):
        value = getattr(default, name)
        none = name == "seed" or name.endswith("_weight")
        whole, fraction = (WHOLE, NOT_NEGATIVE) if none else (COUNT, POSITIVE)
        parser.add_argument(f"--{name.replace('_', '-')}", type=whole if isinstance(value, int) else fraction,
                            default=value,
                            help=f"{text} (default: %(default)s)")
    _add_device(parser)


def add_train_state_tokens_command_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `starry train-state-tokens`."""
    plan = StatesTraining()
    _add_frames(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder to write; an unfinished run in it continues")
    parser.add_argument("--steps", type=COUNT, default=plan.steps, help="optimiser steps (default: %(default)s)")
    parser.add_argument("--batch", type=COUNT, default=plan.batch, help="frames a step (default: %(default)s)")
    parser.add_argument("--action-weight", type=NOT_NEGATIVE, default=plan.action_weight,
                        help="weight of telling the joints' displacement; 0 learns from images alone "
                             "(default: %(default)s)")
    parser.add_argument("--seed", type=WHOLE, default=plan.seed, help="random seed (default: %(default)s)")
    parser.add_argument("--minutes", type=POSITIVE, help="stop after so long; run again to continue")
    _add_device(parser)


def add_eval_state_tokens_command_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `starry eval-state-tokens`."""
    _add_frames(parser)
    parser.add_argument("--states", type=Path, required=True, help="folder written by `starry train-state-tokens`")
    parser.add_argument("--horizons", type=COUNT, nargs="+", default=[1, 4, 8], help="steps between the two frames")
    parser.add_argument("--pairs", type=COUNT, default=6000, help="pairs to fit on (default: %(default)s)")
    add_json_argument(parser)


def _add_frames(parser: argparse.ArgumentParser) -> None:
    """Where frames come from."""
    parser.add_argument("--data", type=Path, required=True, help="folder written by `starry data generate`")
    parser.add_argument("--autoencoder", type=Path, required=True,
                        help="folder of `starry train-autoencoder`, or a model folder whose autoencoder to use")
    parser.add_argument("--robot", default="bimanual_sim", help="robot: a name in config/robots/ or a file")
    parser.add_argument("--cache", type=Path, help="folder of cached latents (default: cache in the run folder)")


def add_calibrate_command_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `starry calibrate`."""
    parser.add_argument("--model", default="tiny", help="model: a name in models/ or a folder (default: %(default)s)")
    parser.add_argument("--task", default=TASKS[0], choices=TASKS, help="task (default: %(default)s)")
    parser.add_argument("--episodes", type=COUNT, default=24, help="undisturbed episodes (default: %(default)s)")
    parser.add_argument("--pushed", type=COUNT, default=24, help="episodes with a nudged block (default: %(default)s)")
    parser.add_argument("--seed", type=WHOLE, default=CALIBRATION_SEED, help="first seed (default: %(default)s)")
    parser.add_argument("--runtime", default="auto", choices=RUNTIMES, help="engine (default: %(default)s)")
    parser.add_argument("--robot", default="bimanual_sim", help="robot: a name in config/robots/ or a file")
    parser.add_argument("--dry-run", action="store_true", help="measure, but leave the model's folder as it is")
    add_json_argument(parser)


def add_adopt_command_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `starry model adopt`."""
    parser.add_argument("folder", type=Path, metavar="FOLDER",
                        help="a folder of public weights: transformer/, vae/, text_encoder/, tokenizer/")
    parser.add_argument("--robot", default="bimanual_sim",
                        help="contract that the model was trained for (default: %(default)s)")
    parser.add_argument("--quantiles", type=Path, metavar="FILE", help="JSON with q01 and q99, a number a slot")
    parser.add_argument("--data", type=Path, metavar="DIR", help="data that the model was trained on, instead")
    parser.add_argument("--slot", action="append", default=[], metavar="JOINT=N", help="slot of a joint; repeatable")
    for name in WAN_CHANGES:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help="instead of the model's own")
    add_json_argument(parser)
