"""From a folder of public weights to a session of the robot that `serving.json` names."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import torch

from starry_ros.canvas.layout import t_pose_layout
from starry_ros.errors import CheckpointError, ConfigError, ContractError, RuntimeUnavailable
from starry_ros.robot_spec import RobotSpec
from starry_ros.wam.choices import CACHES
from starry_ros.wam.inspect import build_on_meta, parameters
from starry_ros.wam.memory import plan_memory, require_memory
from starry_ros.wam.session import Session, SessionConfig
from starry_ros.wam.text import EmbeddingStore, TextEncoder
from starry_ros.wam.wan.adapter import transformer_config
from starry_ros.wam.wan.canvas import CameraVae
from starry_ros.wam.wan.config import WanConfig
from starry_ros.wam.wan.decoding import ChunkDecoder
from starry_ros.wam.wan.files import read_json
from starry_ros.wam.wan.load import load_streams, load_transformer, load_vae, stream_sizes
from starry_ros.wam.wan.runtime import WanRuntime
from starry_ros.wam.wan.serving import Serving, read_serving, shape_for
from starry_ros.wam.wan.umt5 import Umt5Encoder
from starry_ros.wam.wan.vae import GROUP

TRANSFORMER, VAE, STREAMS = "transformer", "vae", "streams"
_log = logging.getLogger(__name__)


def is_public(folder: Path) -> bool:
    """Whether a folder is laid out like a published model, by its parts."""
    return (Path(folder) / TRANSFORMER / "config.json").is_file()


def open_public(folder: Path, spec: RobotSpec, runtime: str = "auto", config: SessionConfig | None = None,
                texts: TextEncoder | None = None, *, cache: str = "auto") -> Session:
    """A session of a LingBot-VA checkpoint, or of a Wan2.2-TI2V-5B with trained streams, for a robot.

    Weights, history and VAE go to the GPU where there is one, in bfloat16; else to the processor in float32. `cache` is
    another type for the history. Actions start from full noise, whatever `config` says: a published model was never
    asked for the middle of its plans.
    Raises CheckpointError on damaged or missing parts, ContractError on a canvas or chunk that does not fit, and
    RuntimeUnavailable on another runtime than PyTorch and on too little memory.
    """
    folder = Path(folder)
    if runtime not in ("auto", "torch"):
        raise RuntimeUnavailable(f"runtime {runtime}", "does not run models of this size", expected="torch",
                                 fix="start with runtime:=torch")
    if cache not in CACHES:
        raise ConfigError("cache", "is unknown", got=cache, expected=", ".join(CACHES))
    shape, serving = configure(folder, spec)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    kept: torch.dtype = dtype if cache == "auto" else getattr(torch, cache)
    plan = plan_memory(shape, parameters(build_on_meta(shape)), dtype.itemsize, kept.itemsize)
    _log.info("%s on %s needs %s", shape.name, device, plan)
    require_memory(plan, device, f"model {folder}")
    model = load_transformer(folder / TRANSFORMER, dtype, device, value=shape.value, action=shape.action)
    model.config = shape
    if shape.action is not None:
        load_streams(model, folder / STREAMS, dtype, device)
    layout = t_pose_layout(spec)
    vae = CameraVae(load_vae(folder / VAE, dtype, device), layout, shape)
    texts = texts or EmbeddingStore(Umt5Encoder(folder, shape.text_tokens, dtype, device))
    if texts.dim != shape.text_width:
        raise CheckpointError(str(folder), "text encoder and transformer do not fit together", got=texts.dim,
                              expected=shape.text_width, fix="use the text_encoder that belongs to the model")
    served = WanRuntime(ChunkDecoder(model, kept, capture=True), vae, shape_for(shape, serving.slots, layout), layout)
    config = dataclasses.replace(config or SessionConfig(), temperature=1.0)
    return Session(served, serving.stats(shape.chunk_actions), texts, spec, layout.layout_hash, config)


def configure(folder: Path, spec: RobotSpec) -> tuple[WanConfig, Serving]:
    """The model's shape for a robot, and how its actions are read; from small files alone."""
    where = folder / TRANSFORMER / "config.json"
    shape, grammar = transformer_config(read_json(where), str(where))
    serving = read_serving(folder, spec, shape.joints)
    if grammar != "lingbot" and not (folder / STREAMS).is_dir():
        raise CheckpointError(
            str(folder), "holds a video model without actions: published Wan2.2 weights have no action stream",
            expected=f"LingBot-VA weights, or trained value and action streams in {STREAMS}/",
            fix="train the streams first; `starry bench model` and `starry model inspect` need no training")
    sizes: dict[str, Any] = {} if grammar == "lingbot" else stream_sizes(folder / STREAMS)
    shape = dataclasses.replace(shape, canvas_height_px=spec.canvas.height_px, canvas_width_px=spec.canvas.width_px,
                                **serving.changes, **sizes)
    if shape.actions_per_latent % GROUP or shape.chunk_latents < 1:
        raise ConfigError(str(folder), "actions do not divide among the frames of a latent",
                          got=shape.actions_per_latent, expected=f"a multiple of {GROUP}")
    if spec.action.chunk_steps != shape.chunk_actions:
        raise ContractError(
            f"{spec.name}: action.chunk_steps", "is not the chunk of this model", got=spec.action.chunk_steps,
            expected=shape.chunk_actions, fix="use the contract that the model was trained with")
    frame_hz = GROUP / (shape.actions_per_latent * spec.action.step_s)
    if spec.rates.camera_hz < frame_hz - 1e-6:
        raise ContractError(f"{spec.name}: rates.camera_hz", "is below the model's frame rate",
                            got=spec.rates.camera_hz, expected=f">= {frame_hz:g}", fix="use a faster camera mode")
    return shape, serving
