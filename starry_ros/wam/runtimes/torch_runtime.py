"""The reference runtime: the graphs as they are, in eager PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from starry_ros.wam.autoencoder import Autoencoder
from starry_ros.wam.model import WorldActionModel
from starry_ros.wam.runtimes.graphs import GraphSpec, build_graphs, graph_specs
from starry_ros.wam.runtimes.runner import Arrays, GraphRunner


def torch_runtime(model: WorldActionModel, autoencoder: Autoencoder, device: str = "cpu") -> GraphRunner:
    """A runner over the modules themselves."""
    graphs = build_graphs(model.to(device), autoencoder.to(device))
    engines = {spec.name: _engine(graphs[spec.name], spec, device) for spec in graph_specs(model.config)}
    return GraphRunner("torch", model.config, engines)


def _engine(graph: nn.Module, spec: GraphSpec, device: str) -> Callable[[Arrays], Arrays]:
    @torch.inference_mode()
    def run(arrays: Arrays) -> Arrays:
        writable = [np.require(arrays[name], requirements=["C", "W"]) for name in spec.inputs]
        tensors = [torch.from_numpy(array).to(device) for array in writable]
        outputs = graph(*tensors)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return {name: value.cpu().numpy() for name, value in zip(spec.outputs, outputs, strict=True)}

    return run
