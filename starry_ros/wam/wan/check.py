"""`starry check model FOLDER` for a published model: every name, shape and type, from the files' headers alone."""

from __future__ import annotations

from pathlib import Path

import torch

from starry_ros.errors import CheckpointError
from starry_ros.robot_spec import RobotSpec
from starry_ros.types import Record
from starry_ros.wam.inspect import build_on_meta, parameters
from starry_ros.wam.memory import plan_memory, readable
from starry_ros.wam.wan.adapter import (
    UMT5_UNUSED,
    UNUSED,
    same_names,
    transformer_config,
    transformer_sources,
    umt5_sources,
)
from starry_ros.wam.wan.files import WeightFolder, read_json
from starry_ros.wam.wan.load import own_streams
from starry_ros.wam.wan.model import WanModel
from starry_ros.wam.wan.open import STREAMS, TRANSFORMER, VAE, configure
from starry_ros.wam.wan.umt5 import TEXT_ENCODER, TOKENIZER, Umt5, Umt5Config
from starry_ros.wam.wan.vae import GROUP, VaeConfig, WanVae


def check_public(folder: Path, spec: RobotSpec) -> Record:
    """What serving this folder for a robot would be. Raises what `open_public` would, but reads no weights."""
    shape, _ = configure(folder, spec)
    where = folder / TRANSFORMER / "config.json"
    grammar = transformer_config(read_json(where), str(where))[1]
    model = build_on_meta(shape)
    WeightFolder(folder / TRANSFORMER).check(transformer_sources(model, shape, grammar), UNUSED)
    if (folder / STREAMS).is_dir() and isinstance(model, WanModel) and shape.action is not None:
        WeightFolder(folder / STREAMS).check(own_streams(model))
    vae_where, text_where = folder / VAE / "config.json", folder / TEXT_ENCODER / "config.json"
    with torch.device("meta"):
        vae = WanVae(VaeConfig.from_json_dict(read_json(vae_where), str(vae_where)))
        text = Umt5(Umt5Config.from_json_dict(read_json(text_where), str(text_where)))
    WeightFolder(folder / VAE).check(same_names(vae))
    WeightFolder(folder / TEXT_ENCODER).check(umt5_sources(text), UMT5_UNUSED)
    if not (folder / TOKENIZER).is_file():
        raise CheckpointError(str(folder / TOKENIZER), "is missing", fix="download the tokenizer folder too")
    step_s = spec.action.step_s
    memory = plan_memory(shape, parameters(model), 2).total_bytes + 2 * (parameters(vae) + parameters(text))
    return {"model": folder.name, "shape": shape.name, "parameters": parameters(model), "robot": spec.name,
            "chunk_s": shape.chunk_actions * step_s, "frame_s": shape.actions_per_latent // GROUP * step_s,
            "value_map": shape.value is not None, "bfloat16": readable(memory)}
