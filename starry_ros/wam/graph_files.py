"""Exported graphs on disk: `<graph>.onnx` for each graph of `runtimes.graphs`, and `export.json`.

The files hold no weights. Each weight is an external tensor, a place in the `model.safetensors` that lies beside the
graphs, so nothing is stored twice and one export serves every checkpoint of the same shape. `export.json`, written
last, names that shape, the layout of the weights file and the SHA-256 of each graph: what does not fit is not used.

Graphs are looked for in the model folder, in the user's cache, and in the models that ship with the package.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from starry_ros.errors import ConfigError, RuntimeUnavailable
from starry_ros.paths import share_dir
from starry_ros.wam.checkpoint import WEIGHTS, Checkpoint
from starry_ros.wam.config import WamConfig
from starry_ros.wam.runtimes.graphs import graph_specs

FORMAT_VERSION = 1
OPSET = 20
"""The newest version of ONNX's operators that TensorRT's parser reads."""
MANIFEST = "export.json"
_NOT_IN_GRAPHS = ("name", "step_s", "video_steps", "value_steps", "action_steps", "snap_grippers")


@dataclass(frozen=True)
class GraphFiles:
    """Checked contents of an export: ONNX by graph name, and the SHA-256 of the weights file's header."""

    folder: Path
    files: Mapping[str, bytes]
    weights_header: str


def graph_names(config: WamConfig) -> tuple[str, ...]:
    """Names of the graphs."""
    return tuple(spec.name for spec in graph_specs(config))


def architecture(checkpoint: Checkpoint) -> str:
    """Hash of everything that the graphs depend on, besides this package's code."""
    model = {key: value for key, value in checkpoint.config.to_json_dict().items() if key not in _NOT_IN_GRAPHS}
    states = (checkpoint.model, checkpoint.autoencoder.state_dict())
    shapes = [{name: list(value.shape) for name, value in state.items()} for state in states]
    interface = [[spec.name, spec.inputs, spec.outputs] for spec in graph_specs(checkpoint.config)]
    described = [FORMAT_VERSION, model, checkpoint.autoencoder.config.to_json_dict(), shapes, interface]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def write_graphs(folder: Path, checkpoint: Checkpoint, files: Mapping[str, bytes], weights_header: str,
                 made_with: Mapping[str, str]) -> None:
    """Write an export. A reader sees the old one, the new one, or none that fits."""
    folder.mkdir(parents=True, exist_ok=True)
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    manifest = {"format_version": FORMAT_VERSION, "architecture": architecture(checkpoint),
                "weights_header": weights_header, "made_with": dict(made_with), "graphs": hashes}
    for name, data in files.items():
        _replace(folder / f"{name}.onnx", data)
    _replace(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())


def find_graphs(folder: Path, checkpoint: Checkpoint) -> GraphFiles | None:
    """The first export that fits a checkpoint: of its own folder, of the cache, of a shipped model."""
    shipped = sorted((share_dir() / "models").glob(f"*/{MANIFEST}"))
    places = [folder, *cache_folders(checkpoint), *(path.parent for path in shipped)]
    return next((found for place in places if (found := read_graphs(place, checkpoint)) is not None), None)


def read_graphs(folder: Path, checkpoint: Checkpoint) -> GraphFiles | None:
    """The export in a folder, or None where there is none, or one that is incomplete, altered or of another shape."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
        if (manifest["format_version"], manifest["architecture"]) != (FORMAT_VERSION, architecture(checkpoint)):
            return None
        files = {name: (folder / f"{name}.onnx").read_bytes() for name in graph_names(checkpoint.config)}
        if any(hashlib.sha256(data).hexdigest() != manifest["graphs"][name] for name, data in files.items()):
            return None
        return GraphFiles(folder, files, str(manifest["weights_header"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def staged(checkpoint: Checkpoint, graphs: GraphFiles) -> Iterator[Path]:
    """A folder, gone after the block, with the graphs beside the weights of this very checkpoint.

    Raises RuntimeUnavailable if a graph is of another opset, or if the weights would lie elsewhere than the graphs say.
    """
    for name, data in graphs.files.items():
        if (found := opsets(data)) and found != [OPSET]:
            raise RuntimeUnavailable(f"graph {name}", "is of another opset", got=found, expected=OPSET,
                                     fix="export the model again with `starry export`")
    with tempfile.TemporaryDirectory(prefix="starry_graphs_") as scratch:
        folder = Path(scratch)
        save_file(checkpoint.tensors(), folder / WEIGHTS)
        _, header = weights_layout(folder / WEIGHTS)
        if header != graphs.weights_header:
            raise RuntimeUnavailable(str(graphs.folder), "exported graphs expect another weights file",
                                     fix="export the model again with `starry export`")
        for name, data in graphs.files.items():
            (folder / f"{name}.onnx").write_bytes(data)
        yield folder


def opsets(data: bytes) -> list[int]:
    """Versions of the operators that an ONNX file imports (field 2 of its field 8); what cannot be read has none.

    Protocol buffers: a field is a varint (number << 3 | kind), then a varint (kind 0), or a length and bytes (kind 2).
    """
    try:
        imports = [value for number, value in _fields(data) if number == 8 and isinstance(value, bytes)]
        return [value for part in imports for number, value in _fields(part) if number == 2 and isinstance(value, int)]
    except (IndexError, ValueError):
        return []


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0

    def varint() -> int:
        nonlocal at
        value, shift = 0, 0
        while data[at] & 0x80:
            value, shift, at = value | (data[at] & 0x7F) << shift, shift + 7, at + 1
        at += 1
        return value | data[at - 1] << shift

    while at < len(data):
        key = varint()
        if key & 7 not in (0, 2):
            raise ValueError(f"kind {key & 7} of field {key >> 3}")
        value = varint()
        if key & 7 == 2:
            at += value
            yield key >> 3, data[at - value : at]
        else:
            yield key >> 3, value


def one_line(error: Exception) -> str:
    """A library's message without its line breaks."""
    return " ".join(str(error).split())


def weights_layout(path: Path) -> tuple[dict[str, tuple[int, int]], str]:
    """Offset and length in bytes of every tensor of a safetensors file, and the SHA-256 of its header."""
    with open(path, "rb") as file:
        prefix = file.read(8)
        raw = file.read(int.from_bytes(prefix, "little"))
    start = len(prefix) + len(raw)
    spans = {name: entry["data_offsets"] for name, entry in json.loads(raw).items() if name != "__metadata__"}
    return {name: (start + begin, end - begin) for name, (begin, end) in spans.items()}, hashlib.sha256(raw).hexdigest()


def cache_folders(checkpoint: Checkpoint) -> tuple[Path, ...]:
    """Folders of this user for this shape of model: in the cache, and in /tmp for a home that cannot be written."""
    cache = Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / "starry_ros"
    temporary = Path(tempfile.gettempdir()) / f"starry_ros-{os.getuid()}"
    return tuple(base / "onnx" / architecture(checkpoint) for base in (cache, temporary)
                 if base.is_absolute() and _is_mine(base))


def writable_folder(folder: Path, checkpoint: Checkpoint) -> Path:
    """The model folder, or the first folder of the cache, that can be written. Raises ConfigError if none can."""
    places = (folder, *cache_folders(checkpoint))
    for place in places:
        try:
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.TemporaryFile(dir=place):
                return place
        except OSError:
            continue
    raise ConfigError("export", "has nowhere to write", got=[str(place) for place in places], fix="give --out DIR")


def _is_mine(base: Path) -> bool:
    """Whether nobody else can put files there; a folder that does not exist yet is made by its owner alone."""
    try:
        status = base.stat()
    except OSError:
        return True
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def _replace(path: Path, data: bytes) -> None:
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
