"""The reference runtime: the graphs as they are, in eager PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from starry_ros.wam.autoencoder import Autoencoder
from starry_ros.wam.guidance import pull
from starry_ros.wam.kv_cache import numpy_zeros
from starry_ros.wam.model import WorldActionModel
from starry_ros.wam.runtimes.graphs import GraphSpec, build_graphs, graph_specs
from starry_ros.wam.runtimes.runner import Arrays, GraphRunner


def torch_runtime(
    model: WorldActionModel, autoencoder: Autoencoder, device: str = "cpu", half_history: bool = False
) -> GraphRunner:
    """A runner over the modules themselves. `half_history` stores keys and values as float16: half the memory."""
    graphs = build_graphs(model.to(device), autoencoder.to(device))
    engines = {spec.name: _engine(graphs[spec.name], spec, device) for spec in graph_specs(model.config)}
    if "act" in graphs:
        spec = next(spec for spec in graph_specs(model.config) if spec.name == "act")
        engines["act_pull"] = _pull_engine(graphs["act"], spec, device)
    zeros = (lambda shape: np.zeros(shape, np.float16)) if half_history else numpy_zeros
    return GraphRunner("torch", model.config, engines, zeros)


def _pull_engine(act: nn.Module, spec: GraphSpec, device: str) -> Callable[[Arrays], Arrays]:
    """The gradient that guided inpainting follows; the act graph gives a_next = a + v ds."""

    def run(arrays: Arrays) -> Arrays:
        tensors = {name: _widened(torch.from_numpy(np.array(value)).to(device)) for name, value in arrays.items()}
        target, weight = tensors.pop("target"), tensors.pop("weight")

        def velocity(a: torch.Tensor) -> torch.Tensor:
            following = act(*({**tensors, "a": a}[name] for name in spec.inputs))
            following = following[0] if isinstance(following, tuple) else following
            slope: torch.Tensor = (following - a) / tensors["ds"]
            return slope

        pulled = pull(velocity, tensors["a"], float(tensors["s"]), target, weight)
        return {"pull": pulled.cpu().numpy()}

    return run


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    """Half precision is for storage: graphs compute in float32."""
    return tensor.float() if tensor.dtype == torch.float16 else tensor


def _engine(graph: nn.Module, spec: GraphSpec, device: str) -> Callable[[Arrays], Arrays]:
    @torch.inference_mode()
    def run(arrays: Arrays) -> Arrays:
        writable = [np.require(arrays[name], requirements=["C", "W"]) for name in spec.inputs]
        tensors = [_widened(torch.from_numpy(array).to(device)) for array in writable]
        outputs = graph(*tensors)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return {name: value.cpu().numpy() for name, value in zip(spec.outputs, outputs, strict=True)}

    return run
