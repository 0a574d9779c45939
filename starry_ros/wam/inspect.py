"""`starry model inspect`: what a preset or a folder is, what it needs, and whether it fits this machine.

Modules are built on the meta device and of files only headers are read, so that a model of any size is described in a
second and in no memory.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.errors import CheckpointError, ConfigError
from starry_ros.paths import model_dir, robot_file
from starry_ros.report import print_table, write_report
from starry_ros.robot_spec import load_robot_spec
from starry_ros.types import Record
from starry_ros.wam.choices import WEIGHT_BYTES
from starry_ros.wam.config import WamConfig, preset
from starry_ros.wam.memory import MemoryPlan, free_bytes, plan_memory, readable, token_numbers
from starry_ros.wam.model import WorldActionModel
from starry_ros.wam.wan.adapter import UNUSED, transformer_config, transformer_sources
from starry_ros.wam.wan.config import WAN_PRESETS, WanConfig
from starry_ros.wam.wan.files import WeightFolder, read_json
from starry_ros.wam.wan.model import WanModel

_STREAM_OF = {  # first part of a parameter's name: its stream
    "detail": "video", "latent_in": "video", "latent_out": "video", "observed": "video", "imagined": "video",
    "frame_position": "video", "video": "video", "video_port": "video", "text_kv": "video", "sentence": "video",
    "sentence_modulation": "video", "value": "value", "value_in": "value", "value_noise": "value",
    "value_position": "value", "value_head": "value", "value_token": "value", "value_port": "value",
    "action": "action", "action_in": "action", "action_out": "action", "action_port": "action", "state_in": "action",
    "executed_in": "action", "step_position": "action", "landing": "action",
}


def inspect_command(args: argparse.Namespace) -> int:
    """Print streams, memory and files. 1 if the model does not fit the device."""
    if (args.folder is None) == (args.preset is None):
        raise ConfigError("model inspect", "needs one model", fix="give a FOLDER, or --preset NAME")
    config, files = of_preset(args.preset, args.robot) if args.preset else of_folder(args.folder)
    if args.history is not None:
        field = "history_chunks" if isinstance(config, WanConfig) else "history_slots"
        config = dataclasses.replace(config, **{field: args.history})
    model = build_on_meta(config)
    weights = args.weights or ("bfloat16" if isinstance(config, WanConfig) else "float32")
    plan = plan_memory(config, parameters(model), WEIGHT_BYTES[weights], WEIGHT_BYTES[args.cache or weights])
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    rows, free = stream_rows(config, model, WEIGHT_BYTES[weights]), free_bytes(device)
    fits = plan.total_bytes <= free
    for name, text in {**facts(config), **files, "history": history_text(config, plan)}.items():
        print(f"{name}: {text}")
    print()
    print_table(rows)
    print(f"\nmemory: {plan}, weights {weights}, history {args.cache or weights}")
    print(f"{device}: {readable(free)} free: {'fits' if fits else 'DOES NOT FIT'}")
    if args.json:
        write_report(args.json, rows, plan=dataclasses.asdict(plan), free_bytes=free, fits=fits, **files)
    return 0 if fits else 1


def of_preset(name: str, robot: str) -> tuple[WamConfig | WanConfig, dict[str, str]]:
    """A preset, on a robot's canvas where it has none of its own."""
    if name in WAN_PRESETS:
        return WAN_PRESETS[name], {}
    spec = load_robot_spec(robot_file(robot))
    return preset(name, t_pose_layout(spec), len(spec.joints), spec.action.step_s), {}


def of_folder(folder: str) -> tuple[WamConfig | WanConfig, dict[str, str]]:
    """A model folder's configuration, and what its files hold. Raises CheckpointError on anything else."""
    path = Path(folder).expanduser()
    where = path / "transformer" if (path / "transformer" / "config.json").is_file() else path
    raw = read_json(where / "config.json") if (where / "config.json").is_file() else None
    if raw is None or "format_version" in raw:
        raw = read_json(model_dir(folder) / "config.json")
        if "config" not in raw:
            raise CheckpointError(folder, "is no model folder", fix="give one, or --preset NAME")
        return WamConfig.from_json_dict(raw["config"]), {"weights": str(raw.get("weights_sha256", ""))[:16]}
    config, grammar = transformer_config(raw, str(where / "config.json"))
    if grammar != "lingbot":
        config = dataclasses.replace(config, value=None, action=None)
    weights = WeightFolder(where)
    sources = transformer_sources(build_on_meta(config), config, grammar)
    wanted = {source.name for source in sources.values()}
    spare = sorted(name for name in weights.names - wanted if not UNUSED.fullmatch(name))
    return config, {"grammar": grammar, "tensors": f"{len(weights.names)} of {len(wanted)} wanted",
                    "missing": ", ".join(sorted(wanted - weights.names)) or "none",
                    "unexpected": ", ".join(spare) or "none"}


def build_on_meta(config: WamConfig | WanConfig) -> nn.Module:
    """The model without memory."""
    with torch.device("meta"):
        return WanModel(config) if isinstance(config, WanConfig) else WorldActionModel(config)


def parameters(module: nn.Module) -> int:
    """Numbers in a module."""
    return sum(tensor.numel() for tensor in module.parameters())


def stream_rows(config: WamConfig | WanConfig, model: nn.Module, weight_bytes: int) -> list[Record]:
    """One row a stream, and the sum."""
    count: dict[str, int] = {}
    for name, tensor in model.named_parameters():
        stream = _STREAM_OF.get(name.split(".")[0], name.split(".")[0])
        count[stream] = count.get(stream, 0) + tensor.numel()
    sizes, tokens, steps = _widths(config), _tokens(config), _steps(config)
    rows: list[Record] = [
        {"stream": name, "parameters": number, "width": sizes.get(name, (None, None))[0],
         "feed_forward": sizes.get(name, (None, None))[1], "tokens": tokens.get(name), "steps": steps.get(name),
         "weights": readable(number * weight_bytes)} for name, number in count.items()
    ]
    return [*rows, {"stream": "all", "parameters": sum(count.values()),
                    "weights": readable(sum(count.values()) * weight_bytes)}]


def facts(config: WamConfig | WanConfig) -> dict[str, str]:
    """What the model looks at, in words."""
    wan = isinstance(config, WanConfig)
    frame = "latent frame" if wan else "frame"
    return {
        "model": f"{config.name}: {config.layers} layers, attention {config.heads} x {config.head_dim}",
        "canvas": f"{config.canvas_height_px} x {config.canvas_width_px} px, {config.rows} x {config.columns} = "
                  f"{config.frame_tokens} tokens a {frame}",
    }


def history_text(config: WamConfig | WanConfig, plan: MemoryPlan) -> str:
    """Slots, tokens and bytes of the ring."""
    if isinstance(config, WanConfig):
        slots, slot = config.history_chunks, config.slot_tokens
        kind = f"chunks of {config.chunk_latents} latent frames and {config.chunk_actions} actions"
    else:
        slots, slot = config.history_slots, config.past_tokens + config.history_actions
        kind = f"frames with {config.history_actions} actions"
    each = plan.history_bytes // (slots * slot)
    return (f"{slots} {kind} = {slots * slot} tokens of {each} bytes ({2 * token_numbers(config)} numbers) = "
            f"{plan.history_bytes} bytes, {plan.history_bytes / 1e9:.3g} GB")


def _widths(c: WamConfig | WanConfig) -> Mapping[str, tuple[int, int]]:
    video = (c.width, c.feed_forward) if isinstance(c, WanConfig) else (c.video.width, c.video.feed_forward)
    others = {name: getattr(c, name) for name in ("value", "action") if getattr(c, name) is not None}
    return {"video": video, **{name: (stream.width, stream.feed_forward) for name, stream in others.items()}}


def _tokens(c: WamConfig | WanConfig) -> Mapping[str, int]:
    if isinstance(c, WanConfig):
        return {"video": c.chunk_tokens, "value": c.chunk_tokens, "action": c.chunk_actions}
    return {"video": c.frame_tokens, "value": c.frame_tokens, "action": 1 + c.chunk_steps}


def _steps(c: WamConfig | WanConfig) -> Mapping[str, int]:
    return {"video": c.video_steps, "value": c.value_steps, "action": c.action_steps}
