"""From a folder of public weights to modules, each part by itself: transformer/, vae/, text_encoder/."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from starry_ros.errors import CheckpointError
from starry_ros.files import write_text
from starry_ros.wam.config import StreamConfig
from starry_ros.wam.wan.adapter import UNUSED, Source, same_names, transformer_config, transformer_sources
from starry_ros.wam.wan.config import NARROW, WanConfig
from starry_ros.wam.wan.files import WeightFolder, read_json
from starry_ros.wam.wan.model import WanModel
from starry_ros.wam.wan.vae import VaeConfig, WanVae


def load_transformer(folder: Path, dtype: torch.dtype = torch.bfloat16, device: str = "cpu", *,
                     value: StreamConfig | None = NARROW, action: StreamConfig | None = NARROW) -> WanModel:
    """A model with the video stream of a folder: Wan2.2-TI2V-5B of either kind, or LingBot-VA with its action port.

    What the folder lacks, a value and an action stream (of the given sizes), has random weights until it is trained.
    Raises CheckpointError on another architecture, and on missing, unexpected, misshapen or non-finite tensors.
    """
    where = Path(folder) / "config.json"
    config, grammar = transformer_config(read_json(where), str(where))
    if grammar != "lingbot":
        config = dataclasses.replace(config, value=value, action=action)
    weights = WeightFolder(Path(folder))
    with torch.device("meta"):
        model = WanModel(config)
    sources = transformer_sources(model, config, grammar)
    weights.load_into(model, sources, dtype, device, UNUSED)
    _fill_rest(model, config, set(sources), dtype, device)
    return model.eval()


def load_streams(model: WanModel, folder: Path, dtype: torch.dtype = torch.bfloat16, device: str = "cpu") -> None:
    """Trained value and action streams, under this package's names, over the random ones. CheckpointError as above."""
    WeightFolder(folder).load_into(model, own_streams(model), dtype, device)


def own_streams(model: WanModel) -> dict[str, Source]:
    """The tensors that no published file holds: value and action stream, and how their tokens enter."""
    return {name: source for name, source in same_names(model).items() if not name.startswith("video")}


def save_streams(model: WanModel, folder: Path) -> None:
    """Write what `load_streams` reads: weights, and the sizes of the streams."""
    folder.mkdir(parents=True, exist_ok=True)
    state = model.state_dict()
    save_file({name: state[name].contiguous() for name in own_streams(model)}, folder / "streams.safetensors")
    sizes = {name: stream and dataclasses.asdict(stream)
             for name, stream in (("value", model.config.value), ("action", model.config.action))}
    write_text(folder / "config.json", json.dumps(sizes, indent=1) + "\n")


def stream_sizes(folder: Path) -> dict[str, StreamConfig | None]:
    """Sizes of trained streams: those of the folder's config.json. Raises CheckpointError where it names none."""
    raw = read_json(folder / "config.json")
    try:
        return {name: raw[name] and StreamConfig(**raw[name]) for name in ("value", "action")}
    except (KeyError, TypeError) as error:
        raise CheckpointError(str(folder / "config.json"), f"names no sizes of streams: {error}",
                              expected='{"value": {"width": .., "feed_forward": ..} or null, "action": {..}}',
                              fix="save the streams with `save_streams`") from error


def load_vae(folder: Path, dtype: torch.dtype = torch.bfloat16, device: str = "cpu") -> WanVae:
    """The VAE of a folder. Raises CheckpointError like `load_transformer`."""
    where = Path(folder) / "config.json"
    config = VaeConfig.from_json_dict(read_json(where), str(where))
    with torch.device("meta"):
        vae = WanVae(config)
    WeightFolder(Path(folder)).load_into(vae, same_names(vae), dtype, device)
    return vae.eval()


def random_model(config: WanConfig, dtype: torch.dtype, device: str, seed: int = 0) -> WanModel:
    """A model of that shape with random weights, made in place: what measures time needs no more."""
    with torch.device("meta"):
        model = WanModel(config)
    _fill_rest(model, config, set(), dtype, device, seed)
    return model.eval()


def _fill_rest(model: WanModel, config: WanConfig, given: set[str], dtype: torch.dtype, device: str,
               seed: int = 0) -> None:
    """Random numbers for every tensor that no file gave; gains are 1 and biases 0."""
    generator = torch.Generator(device).manual_seed(seed)
    state = {}
    for name, tensor in model.state_dict().items():
        if name in given:
            continue
        filled = torch.empty(tensor.shape, dtype=dtype, device=device)
        if tensor.dim() == 1:
            filled.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        else:
            filled.normal_(std=tensor.shape[-1] ** -0.5, generator=generator)
        state[name] = filled
    model.load_state_dict(state, strict=False, assign=True)
