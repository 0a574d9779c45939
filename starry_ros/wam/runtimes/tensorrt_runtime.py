"""The graphs on TensorRT: every tensor has one place on the device, and graphs are wired by the names of their tensors.

An output and the inputs of the same name share a buffer, so keys go from one graph to the next without a copy, and the
rings are bound by address once. Each denoising graph has two contexts that read and write a pair of buffers crosswise;
its whole loop is captured as one CUDA graph, and only contents change from plan to plan.

Built against TensorRT 10 and 11, not run: no machine with a GPU was at hand. The logic is tested on a stand-in engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from starry_ros.errors import RuntimeUnavailable
from starry_ros.types import F32
from starry_ros.wam.checkpoint import Checkpoint
from starry_ros.wam.config import WamConfig
from starry_ros.wam.graph_files import GraphFiles
from starry_ros.wam.kv_cache import Ring
from starry_ros.wam.runtimes.base import WHOLE_PLAN, Effort
from starry_ros.wam.runtimes.graphs import graph_specs
from starry_ros.wam.runtimes.runner import Arrays, GraphRunner
from starry_ros.wam.runtimes.trt_engine import INSTALL_HINT, load_engines, load_library
from starry_ros.wam.sampler import levels

ALIGNED = 64
"""Levels lie this many numbers apart in their table: 256 bytes, what a bound address must be a multiple of."""
OWN = ("rope", "s", "ds", "valid", "mask", "actions")
"""Inputs that mean something else in every graph, and so have a buffer in each."""
TO_HOST = ("landing", "seen")
"""Outputs that the next graph reads and the caller too."""


class Context(Protocol):
    """What is used of an execution context."""

    def set_tensor_address(self, name: str, address: int) -> bool: ...

    def execute_async_v3(self, stream: int) -> bool: ...


class Device(Protocol):
    """Memory, a stream, and capture of what is put on it."""

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor: ...

    def stream(self) -> int: ...

    def enqueue(self, work: Callable[[], object]) -> None: ...

    def capture(self, work: Callable[[], None]) -> Callable[[], None]: ...

    def wait(self) -> None: ...


class CudaDevice:
    """The first CUDA device, by way of PyTorch's allocator and graphs, on a stream of its own."""

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise RuntimeUnavailable("tensorrt", "there is no NVIDIA GPU that PyTorch can use", fix=INSTALL_HINT)
        self._stream = torch.cuda.Stream()
        torch.cuda.set_stream(self._stream)

    @property
    def architecture(self) -> str:
        """Compute capability, such as sm87."""
        return "sm{}{}".format(*torch.cuda.get_device_capability())

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device="cuda")

    def stream(self) -> int:
        return int(torch.cuda.current_stream().cuda_stream)

    def enqueue(self, work: Callable[[], object]) -> None:
        work()  # PyTorch's operations go to the current stream, or into the capture under way

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            work()
        return graph.replay  # type: ignore[no-any-return]

    def wait(self) -> None:
        torch.cuda.current_stream().synchronize()


def tensorrt_runtime(checkpoint: Checkpoint, graphs: GraphFiles, precision: str = "fp32") -> TensorRtRunner:
    """A runner over engines of this machine. Raises RuntimeUnavailable without the library, a GPU or the precision."""
    trt = load_library()
    device = CudaDevice()
    engines = load_engines(trt, checkpoint, graphs, precision, device.architecture)
    for spec in graph_specs(checkpoint.config):
        check_shapes(trt, engines[spec.name], spec.name, {**spec.inputs, **dict.fromkeys(spec.outputs)})
    contexts = {name: (engine.create_execution_context(), engine.create_execution_context())
                for name, engine in engines.items()}
    shapes = {name: {engine.get_tensor_name(i): tuple(engine.get_tensor_shape(engine.get_tensor_name(i)))
                     for i in range(engine.num_io_tensors)} for name, engine in engines.items()}
    return TensorRtRunner(checkpoint.config, contexts, shapes, device)


def check_shapes(trt: Any, engine: Any, graph: str, wanted: Mapping[str, tuple[int, ...] | None]) -> None:
    """Raise RuntimeUnavailable unless an engine has just these tensors, its inputs of these shapes."""
    found = {engine.get_tensor_name(i): tuple(engine.get_tensor_shape(engine.get_tensor_name(i)))
             for i in range(engine.num_io_tensors)}
    wrong = sorted(set(found) ^ set(wanted)) or [
        name for name, shape in wanted.items()
        if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT and found[name] != shape]
    if wrong:
        raise RuntimeUnavailable("tensorrt", f"engine of {graph} has other tensors", got=wrong,
                                 fix="export the model again with `starry export`")


class TensorRtRunner(GraphRunner):
    """A `Runtime` over two contexts a graph. Keys stay on the device; small results come back as arrays."""

    def __init__(self, config: WamConfig, contexts: Mapping[str, tuple[Context, Context]],
                 shapes: Mapping[str, Mapping[str, tuple[int, ...]]], device: Device) -> None:
        super().__init__("tensorrt", config, {})
        self._device, self._contexts = device, dict(contexts)
        self.frames, self.actions = (
            Ring(config.layers, config.heads, config.head_dim, config.history_slots, ring.tokens,
                 sinks=config.sink_slots, zeros=lambda shape: device.zeros(shape, torch.float32))
            for ring in (self.frames, self.actions))
        self.buffers: dict[tuple[str, str], Tensor] = {}
        self._places: dict[tuple[str, str], tuple[str, str]] = {}
        self._tables: dict[int, tuple[Tensor, Tensor]] = {}
        self._loops: dict[tuple[str, int, int], Callable[[], None] | None] = {}
        self._results = {spec.name: spec.outputs for spec in graph_specs(config)}
        self._read = {name for names in self._inputs.values() for name in names}
        self._make_buffers(shapes)
        self._bind()

    def branch(self) -> None:
        self._current, self._last = (
            {name: _kept(value) for name, value in arrays.items()} for arrays in (self._current, self._last))
        super().branch()

    def drop(self) -> None:
        super().drop()
        self._current, self._last = (
            {name: self._restored(name, value) for name, value in arrays.items()}
            for arrays in (self._current, self._last))

    def _restored(self, name: str, value: Any) -> Any:
        """A tensor kept aside, back in its buffer."""
        if isinstance(value, Tensor):
            buffer = self.buffers["", name]
            buffer.copy_(value)
            return buffer
        return value

    def _run(self, graph: str, known: Arrays) -> Arrays:
        self._fill(graph, known)
        self._enqueue(graph, 0)
        stepped = {name: self._host(self.buffers[self._places[graph, name]]) for name in self._results[graph]
                   if name.endswith("_next")}
        return {**self._collect(graph), **stepped}

    def _denoise(self, graph: str, variable: str, start: F32, steps: int, rope: F32, known: Arrays,
                 effort: Effort = WHOLE_PLAN) -> Arrays:
        if effort.target_KJ is not None and effort.weight_K is not None:
            fix = "use runtime torch, or another way to splice"
            raise RuntimeUnavailable(f"runtime {self.name}", "gives no gradient for guided inpainting", fix=fix)
        prefix = 0 if effort.known_DJ is None else len(effort.known_DJ)
        self._fill(graph, {**known, "rope": rope, variable: start}, skip=("s", "ds"))
        first, second = self.buffers["", variable], self.buffers["", f"{variable}_next"]
        if prefix:
            self._buffer("start", variable, first.shape).copy_(first)
            self._buffer("known", f"{variable}{prefix}", (prefix, first.shape[2])).copy_(torch.tensor(effort.known_DJ))

        def loop() -> None:
            for i, (s, _) in enumerate(levels(steps)):
                self._put_back((first, second)[i % 2], variable, prefix, s)
                self._set_level(graph, i, steps)
                self._enqueue(graph, i % 2)
            self._put_back((second, first)[(steps - 1) % 2], variable, prefix, 0.0)

        key = (graph, steps, prefix)
        if key not in self._loops:  # the first time as it is: libraries load kernels that a capture may not
            self._loops[key] = None
            loop()
        else:
            replay = self._loops[key]
            if replay is None:
                replay = self._loops[key] = self._device.capture(loop)
            replay()
        last = (second, first)[(steps - 1) % 2]
        return {**self._collect(graph), variable: self._host(last)}

    def _put_back(self, x: Tensor, variable: str, prefix: int, s: float) -> None:
        """Known steps of a chunk at noise level s."""
        if not prefix:
            return
        known, start = self.buffers["known", f"{variable}{prefix}"], self.buffers["start", variable]
        self._device.enqueue(lambda: x[:, :prefix].copy_((1 - s) * known + s * start[:, :prefix]))

    def _make_buffers(self, shapes: Mapping[str, Mapping[str, tuple[int, ...]]]) -> None:
        rings = {"past_k": self.frames.keys, "past_v": self.frames.values, "past_valid": self.frames.valid,
                 "executed_k": self.actions.keys, "executed_v": self.actions.values,
                 "executed_valid": self.actions.valid}
        for graph, tensors in shapes.items():
            for name, shape in tensors.items():
                own = name in OWN or (graph == "remember_actions" and name in ("executed_k", "executed_v"))
                place = (graph if own else "", name)
                self._places[graph, name] = place
                if not own and name in rings:
                    self.buffers[place] = rings[name]
                elif place not in self.buffers:
                    kind = torch.uint8 if name in ("canvas", "imagined") else torch.float32
                    self.buffers[place] = self._device.zeros(shape, kind)

    def _bind(self) -> None:
        """Give both contexts of every graph their addresses: the second reads what the first wrote, and back."""
        for (graph, name), place in self._places.items():
            variable = name.removesuffix("_next")
            crossed = f"{variable}_next" if name == variable else variable
            pair = ("", variable) in self.buffers and (graph, f"{variable}_next") in self._places
            for turn, context in enumerate(self._contexts[graph]):
                buffer = self.buffers["", crossed] if pair and turn else self.buffers[place]
                context.set_tensor_address(name, buffer.data_ptr())

    def _set_level(self, graph: str, i: int, steps: int) -> None:
        if steps not in self._tables:
            s, ds = (self._device.zeros((steps, ALIGNED), torch.float32) for _ in range(2))
            grid = torch.tensor(levels(steps), dtype=torch.float32)
            s[:, 0], ds[:, 0] = grid[:, 0], grid[:, 1]
            self._tables[steps] = s, ds
        context = self._contexts[graph][i % 2]
        for name, table in zip(("s", "ds"), self._tables[steps], strict=True):
            context.set_tensor_address(name, table[i].data_ptr())

    def _fill(self, graph: str, known: Mapping[str, Any], skip: tuple[str, ...] = ()) -> None:
        """Copy what lies elsewhere into the graph's buffers."""
        for name in self._inputs[graph]:
            buffer, value = self.buffers[self._places[graph, name]], None if name in skip else known[name]
            if value is not None and value is not buffer:
                buffer.copy_(value if isinstance(value, Tensor) else torch.from_numpy(np.array(value)))

    def _enqueue(self, graph: str, turn: int) -> None:
        if not self._contexts[graph][turn].execute_async_v3(self._device.stream()):
            raise RuntimeUnavailable("tensorrt", f"could not run {graph}", fix="see its messages above")

    def _collect(self, graph: str) -> Arrays:
        """Outputs: buffers that other graphs read, arrays of the rest."""
        out: dict[str, Any] = {}
        for name in self._results[graph]:
            buffer = self.buffers[self._places[graph, name]]
            if name.endswith("_next"):
                continue
            out[name] = buffer if name in self._read and name not in TO_HOST else self._host(buffer)
        return out

    def _host(self, buffer: Tensor) -> Any:
        self._device.wait()
        return buffer.cpu().numpy().copy()

    def _buffer(self, owner: str, name: str, shape: tuple[int, ...]) -> Tensor:
        if (owner, name) not in self.buffers:
            self.buffers[owner, name] = self._device.zeros(tuple(shape), torch.float32)
        return self.buffers[owner, name]


def _kept(value: Any) -> Any:
    """A copy of a tensor that the next observation would overwrite."""
    return value.clone() if isinstance(value, Tensor) else value
