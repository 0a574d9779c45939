"""Weights out of a folder of safetensors: one file, or shards with an index. Nothing is unpickled.

Every name, shape and type is checked against the module before a single number is read; then tensors are read one at a
time, so that loading needs the memory of the model and of one tensor.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from starry_ros.errors import CheckpointError
from starry_ros.wam.wan.adapter import Source

TYPES = ("F32", "F16", "BF16")
PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl")
NAMES_SHOWN = 5
NONE = re.compile(r"(?!)")


class WeightFolder:
    """The tensors of a folder by name, not read yet."""

    def __init__(self, folder: Path) -> None:
        """Raises CheckpointError where there is nothing to read, a shard is missing or a file is damaged."""
        self.folder = Path(folder)
        self._files = {name: file for file in self._shards() for name in _names(file)}

    @property
    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._files)

    def shape_and_type(self, name: str) -> tuple[tuple[int, ...], str]:
        """Of one tensor, from the header alone."""
        with safe_open(self._files[name], framework="pt") as file:
            part = file.get_slice(name)
            return tuple(part.get_shape()), str(part.get_dtype())

    def load_into(self, module: nn.Module, sources: Mapping[str, Source], dtype: torch.dtype, device: str = "cpu",
                  unused: re.Pattern[str] = NONE) -> list[str]:
        """Give a module built on the meta device these weights; returns names in the files that nothing needs.

        Raises CheckpointError, before reading, with the lists of missing, unexpected and misshapen tensors; and on
        numbers that are not finite.
        """
        self.check(sources, unused)
        by_file: dict[Path, list[str]] = {}
        for ours, source in sources.items():
            by_file.setdefault(self._files[source.name], []).append(ours)
        for path, names in by_file.items():
            with safe_open(path, framework="pt", device=device) as file:
                state = {}
                for ours in names:
                    source = sources[ours]
                    tensor = file.get_tensor(source.name)
                    if not torch.isfinite(tensor).all():
                        raise CheckpointError(str(path), f"tensor {source.name} is not finite",
                                              fix="download the file again; the weights in it are unusable")
                    state[ours] = (source.convert(tensor) if source.convert else tensor).to(dtype)
                module.load_state_dict(state, strict=False, assign=True)
        return sorted(name for name in self.names - {s.name for s in sources.values()} if unused.fullmatch(name))

    def check(self, sources: Mapping[str, Source], unused: re.Pattern[str] = NONE) -> None:
        """Compare names, shapes and types. Raises CheckpointError as `load_into` does; reads headers alone."""
        wanted = {source.name: source for source in sources.values()}
        missing = sorted(set(wanted) - self.names)
        unexpected = sorted(name for name in self.names - set(wanted) if not unused.fullmatch(name))
        if missing or unexpected:
            raise CheckpointError(
                str(self.folder), f"does not hold the tensors of this model: missing {_shown(missing)}, unexpected "
                f"{_shown(unexpected)}", got=f"{len(self.names)} tensors", expected=f"{len(wanted)} tensors",
                fix="check that the folder belongs to this model; `starry model inspect FOLDER` shows what it is",
            )
        for path in sorted({self._files[name] for name in wanted}):
            with safe_open(path, framework="pt") as file:
                for name in (name for name in wanted if self._files[name] == path):
                    part = file.get_slice(name)
                    got = (tuple(part.get_shape()), str(part.get_dtype()))
                    if got[0] != wanted[name].shape or got[1] not in TYPES:
                        raise CheckpointError(str(path), f"tensor {name} has the wrong shape or type", got=got,
                                              expected=(wanted[name].shape, TYPES),
                                              fix="use the weights that belong to this configuration")

    def _shards(self) -> list[Path]:
        """The files to read: those of the index, or the only one."""
        if not self.folder.is_dir():
            raise CheckpointError(str(self.folder), "is no folder", fix="give the folder that holds the weights")
        indices = sorted(self.folder.glob("*.safetensors.index.json"))
        files = sorted(self.folder.glob("*.safetensors"))
        if indices:
            listed = _indexed(indices[0])
            absent = sorted(name for name in listed if not (self.folder / name).is_file())
            if absent:
                raise CheckpointError(str(self.folder), f"lacks {len(absent)} of {len(listed)} shards",
                                      got=", ".join(absent[:NAMES_SHOWN]), fix="download the missing files")
            return [self.folder / name for name in listed]
        if len(files) == 1:
            return files
        if files:
            raise CheckpointError(str(self.folder), "has several weight files and no index",
                                  got=[file.name for file in files], fix="download *.safetensors.index.json too")
        pickles = sorted(path.name for path in self.folder.iterdir() if path.suffix in PICKLES)
        if pickles:
            raise CheckpointError(
                str(self.folder), "holds pickled weights, which can run code when they are opened: refused",
                got=", ".join(pickles[:NAMES_SHOWN]), expected="*.safetensors",
                fix="use the model's safetensors, such as Wan-AI/Wan2.2-TI2V-5B-Diffusers",
            )
        raise CheckpointError(str(self.folder), "holds no weights", expected="*.safetensors",
                              fix="give the folder that holds the weights")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError where there is none."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(str(path), f"cannot be read: {error}", fix="download the folder again") from error
    if not isinstance(raw, dict):
        raise CheckpointError(str(path), "is not a JSON object", fix="download the folder again")
    return raw


def _indexed(index: Path) -> list[str]:
    """Names of the shards; they must lie beside the index."""
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise CheckpointError(str(index), "has no weight_map", fix="download the folder again")
    names = sorted({str(name) for name in listed.values()})
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise CheckpointError(str(index), "names files outside its folder", got=outside[:NAMES_SHOWN],
                              fix="download the folder again from a source you trust")
    return names


def _names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(str(path), f"is truncated or no safetensors file: {error}",
                              got=f"{path.stat().st_size} bytes", fix="download it again") from error


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return f"{len(names)} ({', '.join(names[:NAMES_SHOWN])}{more})" if names else "none"
