"""A chunk of a Wan-size model by stage, against the machine's roofline: `starry bench model --preset NAME`.

Weights are random: only shapes matter to times. Memory bandwidth and matrix rate are measured in the same run. A
stage's bound is the larger of its bytes over the bandwidth and its operations over the matrix rate; bytes are the
weights it reads and the keys and values it looks at, operations are counted while it runs. `wan/chunk` is observe,
commit and all denoising steps; its `baseline` is the sum of the bounds, and its bar is 1.6 times that on a GPU.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from starry_ros.errors import ConfigError, RuntimeUnavailable
from starry_ros.report import bench_row
from starry_ros.types import Record
from starry_ros.wam.inspect import build_on_meta, parameters
from starry_ros.wam.memory import plan_memory, readable, require_memory, token_numbers
from starry_ros.wam.wan.adapter import same_names
from starry_ros.wam.wan.chunk import ChunkNoise
from starry_ros.wam.wan.config import WAN_PRESETS, WanConfig
from starry_ros.wam.wan.decoding import ChunkDecoder
from starry_ros.wam.wan.load import random_model
from starry_ros.wam.wan.model import WanModel
from starry_ros.wam.wan.streams import Block
from starry_ros.wam.wan.vae import VaeConfig, WanVae

MS_PER_S = 1e3
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WARM_UP = 3
COMPILED_SHAPES = 64
"""Kinds of passes that torch.compile may meet: streams, regions, with and without a sentence."""
_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def run(preset: str, device: str, dtype: str = "bfloat16", history_latents: int = 24, rounds: int = 20,
        compiled: bool = False) -> list[Record]:
    """All rows. Raises ConfigError on an unknown preset, RuntimeUnavailable without the device or the memory."""
    if preset not in WAN_PRESETS:
        raise ConfigError("preset", "is not of Wan's size", got=preset, expected=sorted(WAN_PRESETS))
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise RuntimeUnavailable(device, "is not on this machine", fix="run where there is an NVIDIA GPU and a CUDA "
                                 "build of PyTorch, or give --device cpu and a small --preset")
    config = WAN_PRESETS[preset]
    config = dataclasses.replace(config, history_chunks=max(1, history_latents // config.chunk_latents))
    return measure(config, device, TYPES[dtype], rounds, VaeConfig(), compiled)


@torch.inference_mode()
def measure(config: WanConfig, device: str, dtype: torch.dtype, rounds: int, vae: VaeConfig | None,
            compiled: bool = False) -> list[Record]:
    """The rows of `run` for a shape."""
    size = torch.finfo(dtype).bits // 8
    plan = plan_memory(config, parameters(build_on_meta(config)), size)
    require_memory(plan, device, config.name)
    rate, bandwidth = matrix_rate(device, dtype), copy_bandwidth(device)
    model = random_model(config, dtype, device)
    bench = _Chunk(config, model, device)
    stages = bench.stages()
    flops = {name: _operations(stage.run) for name, stage in stages.items()}
    if compiled:  # after counting: nothing is counted inside compiled code
        _compile(model)
    conditions: dict[str, Any] = {
        "device": _name(device), "type": str(dtype).removeprefix("torch."), "warm_up": WARM_UP, "rounds": rounds,
        "compiled": compiled, "memory": str(plan),
    }
    rows = [bench_row("wan/bandwidth", bandwidth / 1e9, "GB/s", **conditions),
            bench_row("wan/matrix_rate", rate / 1e12, "TFLOP/s", **conditions)]
    bound_s = 0.0
    for name, stage in stages.items():
        taken_s = _timed(_graphed(stage.run, device) if stage.fixed else stage.run, device, rounds)
        bound = max(stage.bytes / bandwidth, flops[name] / rate)
        bound_s += stage.times * bound
        rows.append(_stage_row(name, taken_s, bound, stage, flops[name], bandwidth, rate))
    taken_s = _timed(bench.chunk, device, rounds)
    over = _ms(taken_s, 50) / (MS_PER_S * bound_s)
    rows.append(bench_row("wan/chunk", _ms(taken_s, 50), "ms", MS_PER_S * bound_s, p95=_ms(taken_s, 95),
                          over_roofline=over if device.startswith("cuda") else None, **conditions))
    return rows if vae is None else [*rows, *_vae_rows(vae, config, device, dtype, rounds)]


def _compile(model: WanModel) -> None:
    import torch._dynamo.config as dynamo

    dynamo.recompile_limit = COMPILED_SHAPES
    for block in (block for name in ("video", "value", "action") for block in model.stream_of(name).blocks):
        block.compile()


@dataclasses.dataclass(frozen=True)
class Stage:
    """One pass: how to run it, how often a chunk does, how many tokens it has and how many bytes it must read.

    A `fixed` one touches nothing but the device: it is timed as a CUDA graph, as the chunk runs it.
    """

    run: Callable[[], object]
    times: int
    tokens: int
    bytes: int
    fixed: bool = True


class _Chunk:
    """A runtime with a full history, and its passes one by one."""

    def __init__(self, config: WanConfig, model: WanModel, device: str) -> None:
        self.config, self.model = config, model
        self.runtime = ChunkDecoder(model, capture=True)
        self._draw = torch.Generator(device).manual_seed(0)
        self._device, self._frame = device, 0
        self._text = self._normal(config.text_tokens, config.text_width)
        self.runtime.set_text(self._text)
        self._latents = self._normal(1, config.chunk_tokens, config.token_width)
        self._done = self._normal(1, config.chunk_actions, config.joints)
        self._noise = ChunkNoise(self._latents, self._latents if config.value else None, self._done)
        for _ in range(config.history_chunks + 1):
            self.append()
        self.runtime.predict(self._noise)

    def append(self) -> None:
        """Move the current chunk into the history and encode the next."""
        if self._frame:
            self.runtime.commit()
        self._frame += self.config.chunk_latents
        self.runtime.observe(self._latents, self._done, self._frame)

    def chunk(self) -> None:
        """All that one chunk costs."""
        self.append()
        self.runtime.predict(self._noise)

    def stages(self) -> dict[str, Stage]:
        """Every kind of pass."""
        c, r, at = self.config, self.runtime, self.runtime.regions
        shared = c.action is None
        video = slice(0, at["future"].stop)
        see_action = [video, at["action"]] if shared else [slice(0, at["executed"].stop), at["current"], at["action"]]
        passes = {
            "append": (self.append, 1, c.chunk_tokens + c.chunk_actions, ("video", "action"), []),
            "video_step": (lambda: self._pass("video", c.chunk_tokens, "future", [video]),
                           c.video_steps + shared, c.chunk_tokens, ("video",), [video]),
            "action_step": (lambda: self._pass("action", c.chunk_actions, "action", see_action),
                            c.action_steps, c.chunk_actions, ("action",), see_action),
        }
        if c.value:
            see_value = [slice(at["past"].start, at["value"].stop)]
            passes["value_step"] = (lambda: self._pass("value", c.chunk_tokens, "value", see_value), c.value_steps,
                                    c.chunk_tokens, ("value",), see_value)
        stages = {}
        for name, (run, times, tokens, streams, seen) in passes.items():
            read = sum(self._weight_bytes(stream) for stream in streams)
            keys = sum(region.stop - region.start for region in seen) * 2 * token_numbers(c)
            stages[name] = Stage(run, times, tokens, read + keys * r.field.keys.element_size(), name != "append")
        return stages

    def _pass(self, name: str, tokens: int, place: str, see: list[slice]) -> Tensor:
        r, width = self.runtime, self.config.joints if name == "action" else self.config.token_width
        x = self._latents if name != "action" else self._done
        assert x.shape[1:] == (tokens, width)
        rope = r._inputs["actions" if name == "action" else "frames"]
        return r._pass(name, r._own(x), 0.5, rope, r.regions[place], tuple(see))

    def _weight_bytes(self, name: str) -> int:
        """Weights that a pass reads: those of a sentence's keys are read once an instruction."""
        stream, port = self.model.stream_of(name), self.model.port_of(name)
        total = sum(p.numel() * p.element_size() for module in (stream, port) for p in module.parameters())
        once: list[nn.Module] = [*stream.text_in]
        once += [part for block in stream.blocks if isinstance(block, Block) and block.text is not None
                 for part in (block.text.k, block.text.v)]
        return total - sum(p.numel() * p.element_size() for module in once for p in module.parameters())

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._draw, device=self._device)


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """Operations a second of a large square matrix product in that type."""
    n = 8192 if device.startswith("cuda") else 768
    a = torch.randn(n, n, device=device).to(dtype)
    return 2 * n**3 / float(np.min(_timed(lambda: a @ a, device, 10)))


def copy_bandwidth(device: str) -> float:
    """Bytes a second, read and written together, of a copy far larger than any cache."""
    source = torch.empty(2**30 if device.startswith("cuda") else 2**27, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / float(np.min(_timed(lambda: target.copy_(source), device, 10)))


def _timed(work: Callable[[], object], device: str, rounds: int) -> list[float]:
    """Seconds of each round, after a warm-up."""
    taken = []
    for i in range(WARM_UP + rounds):
        _wait(device)
        start_s = time.perf_counter()
        work()
        _wait(device)
        if i >= WARM_UP:
            taken.append(time.perf_counter() - start_s)
    return taken


def _graphed(work: Callable[[], object], device: str) -> Callable[[], object]:
    """The same work as one CUDA graph: what is timed is the device, not the launching of its kernels."""
    if not device.startswith("cuda"):
        return work
    work()
    _wait(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _operations(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False, custom_mapping={_CPU_ATTENTION: _attention_operations}) as counter:
        work()
    return int(counter.get_total_flops())


def _attention_operations(q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], *_: object,
                          **__: object) -> int:
    """Both products of attention, from the shapes [B, H, N, P]: PyTorch counts them on GPUs only."""
    return 2 * q[0] * q[1] * q[2] * k[2] * (q[3] + v[3])


def _stage_row(name: str, taken_s: list[float], bound_s: float, stage: Stage, flops: int, bandwidth: float,
               rate: float) -> Record:
    median_s = float(np.median(taken_s))
    return bench_row(
        f"wan/{name}", _ms(taken_s, 50), "ms", MS_PER_S * bound_s, p95=_ms(taken_s, 95), times_a_chunk=stage.times,
        tokens=stage.tokens, bytes=stage.bytes, gflop=flops / 1e9,
        share_of_bandwidth=stage.bytes / median_s / bandwidth, share_of_matrix_rate=flops / median_s / rate)


def _vae_rows(c: VaeConfig, config: WanConfig, device: str, dtype: torch.dtype, rounds: int) -> list[Record]:
    """Encoding and decoding one chunk of frames, in the stream."""
    with torch.device("meta"):
        vae = WanVae(c)
    draw = torch.Generator(device).manual_seed(0)
    vae.load_state_dict({name: 0.02 * torch.randn(source.shape, device=device, generator=draw).to(dtype)
                         for name, source in same_names(vae).items()}, assign=True)
    frames = torch.zeros(1, 3, 4 * config.chunk_latents, config.canvas_height_px, config.canvas_width_px,
                         device=device, dtype=dtype)
    coded: dict[nn.Module, Tensor] = {}
    drawn: dict[nn.Module, Tensor] = {}
    z = torch.cat([vae.encode(frames[:, :, :1], coded), vae.encode(frames, coded)], dim=2)
    vae.decode(z[:, :, :1], drawn)
    rows = []
    for name, work in (("encode", lambda: vae.encode(frames, dict(coded))),
                       ("decode", lambda: vae.decode(z[:, :, 1:], dict(drawn)))):
        taken_s = _timed(work, device, rounds)
        rows.append(bench_row(f"wan/{name}", _ms(taken_s, 50), "ms", p95=_ms(taken_s, 95),
                              gflop=_operations(work) / 1e9))
    return rows


def _ms(taken_s: list[float], percent: float) -> float:
    return MS_PER_S * float(np.percentile(taken_s, percent))


def _name(device: str) -> str:
    if device.startswith("cuda"):
        memory = torch.cuda.get_device_properties(device).total_memory
        return f"{torch.cuda.get_device_name(device)}, {readable(memory)}"
    return f"{torch.get_num_threads()} thread(s) of the processor"
