"""Export of the graphs to ONNX, weights left in `model.safetensors`: `starry export`.

Opset 20, fixed shapes, exported by torch.export and stored as traced: constant folding would copy weights into the
graphs, and every runtime folds on loading anyway. Takes most of a minute, so it is done once a shape of model, when a
model is made, and never on a robot.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from starry_ros.errors import RuntimeUnavailable
from starry_ros.paths import model_dir
from starry_ros.report import print_table, write_report
from starry_ros.types import Record
from starry_ros.wam.checkpoint import WEIGHTS, Checkpoint, load_checkpoint
from starry_ros.wam.graph_files import OPSET, read_graphs, weights_layout, writable_folder, write_graphs
from starry_ros.wam.load import LARGEST_DIFFERENCE, available, build_graph_runtime, differences, reference
from starry_ros.wam.portable import portable
from starry_ros.wam.runtimes.graphs import GraphSpec, build_graphs, graph_specs

LIBRARIES = ("torch", "onnx", "onnxscript", "safetensors")
LARGEST_INLINE_BYTES = 65536
INSTALL_HINT = "pip install onnx onnxscript"


def export_graphs(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the graphs of a checkpoint's shape into a folder. Raises RuntimeUnavailable without the ONNX libraries."""
    graphs = build_graphs(checkpoint.build_model(), checkpoint.autoencoder)
    with tempfile.TemporaryDirectory(prefix="starry_export_") as scratch:
        save_file(checkpoint.tensors(), Path(scratch) / WEIGHTS)
        layout, header = weights_layout(Path(scratch) / WEIGHTS)
    files = {spec.name: _export(graphs[spec.name], spec, layout) for spec in graph_specs(checkpoint.config)}
    write_graphs(folder, checkpoint, files, header, {name: importlib.metadata.version(name) for name in LIBRARIES})


def _export(graph: nn.Module, spec: GraphSpec, layout: Mapping[str, tuple[int, int]]) -> bytes:
    """One graph as ONNX bytes whose weights point into the weights file."""
    try:
        import onnx_ir
        import onnxscript  # noqa: F401  (torch.onnx needs it)
    except ImportError as error:
        raise RuntimeUnavailable("export", f"cannot import {error.name}", fix=INSTALL_HINT) from error
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph, example(spec), dynamo=True, opset_version=OPSET, input_names=list(spec.inputs),
            output_names=list(spec.outputs), optimize=False, verbose=False,
        )
    assert program is not None
    for name, value in program.model.graph.initializers.items():
        tensor = value.const_value
        assert tensor is not None
        if name in layout:
            offset, length = layout[name]
            value.const_value = onnx_ir.ExternalTensor(
                WEIGHTS, offset, length, tensor.dtype, shape=onnx_ir.Shape(tensor.shape.numpy()), name=name)
        elif tensor.nbytes > LARGEST_INLINE_BYTES:
            raise AssertionError(f"{spec.name} holds {name}, which is no tensor of {WEIGHTS}")
    _strip(program.model)
    data: bytes = onnx_ir.to_proto(program.model).SerializeToString()
    return portable(data)


def example(spec: GraphSpec) -> tuple[Tensor, ...]:
    """Inputs to trace a graph with."""
    return tuple(torch.ones(shape, dtype=torch.uint8 if name == "canvas" else torch.float32)
                 for name, shape in spec.inputs.items())


def _strip(model: Any) -> None:
    """Remove what the exporter notes about source lines: nine tenths of the file, and paths of this machine."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on libraries that are not installed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def export_command(args: argparse.Namespace) -> int:
    """`starry export`: writes the graphs, then runs each installed runtime against PyTorch. 1 if one differs."""
    torch.set_num_threads(1)
    folder = model_dir(args.model)
    checkpoint = load_checkpoint(folder)
    out = args.out or writable_folder(folder, checkpoint)
    export_graphs(checkpoint, out)
    rows = check_graphs(checkpoint, out)
    print(f"{out}: {len(graph_specs(checkpoint.config))} graphs")
    print_table(rows)
    if args.json:
        write_report(args.json, rows, model=folder, out=out)
    return 0 if all(row["state"] == "ok" for row in rows) else 1


def check_graphs(checkpoint: Checkpoint, folder: Path) -> list[Record]:
    """One row a runtime: how far its plans are from PyTorch's."""
    graphs = read_graphs(folder, checkpoint)
    if graphs is None:
        raise RuntimeUnavailable(str(folder), "holds no export that fits the model", fix="export again")
    rows = []
    for name in available():
        if name != "torch":
            actions, value = differences(build_graph_runtime(name, checkpoint, graphs), reference(checkpoint))
            state = "ok" if max(actions, value) <= LARGEST_DIFFERENCE else "differs"
            rows.append({"runtime": name, "actions": actions, "value_map": value, "state": state})
    return rows
