"""From a model folder to a session: the choice of a runtime, and the one way a session is built.

`auto` takes the first of AUTO_ORDER that is installed, has exported graphs, and gives on this machine what PyTorch
gives; else PyTorch itself. Nothing is exported here: that takes most of a minute, see `starry export`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
from pathlib import Path

import numpy as np
import torch

from starry_ros.errors import ConfigError, RuntimeUnavailable
from starry_ros.robot_spec import RobotSpec
from starry_ros.types import F32, Record
from starry_ros.wam.checkpoint import Checkpoint, load_checkpoint
from starry_ros.wam.choices import CACHES, RUNTIMES
from starry_ros.wam.gasam import example_scene
from starry_ros.wam.geometry import GeometryExpert
from starry_ros.wam.graph_files import GraphFiles, find_graphs
from starry_ros.wam.memory import plan_memory, require_memory
from starry_ros.wam.options import GeometryConfig
from starry_ros.wam.runtimes import onnx_runtime, openvino_runtime, tensorrt_runtime, trt_engine
from starry_ros.wam.runtimes.base import Noise
from starry_ros.wam.runtimes.runner import GraphRunner
from starry_ros.wam.runtimes.torch_runtime import torch_runtime
from starry_ros.wam.session import Session, SessionConfig
from starry_ros.wam.text import load_text_encoder
from starry_ros.wam.wan.open import is_public, open_public

DEFAULTS = SessionConfig()
AUTO_ORDER = ("onnxruntime", "openvino")
LARGEST_DIFFERENCE = 1e-3
"""What a runtime may differ from PyTorch, in model units (standard deviations) and value-map heights."""

_INSTALL_HINTS = {"onnxruntime": onnx_runtime.INSTALL_HINT, "openvino": openvino_runtime.INSTALL_HINT,
                  "tensorrt": trt_engine.INSTALL_HINT}
_log = logging.getLogger(__name__)


def load_session(
    model_dir: Path, spec: RobotSpec, runtime: str = "auto", config: SessionConfig = DEFAULTS, threads: int = 1,
    *, scene: bool = False, geometry: str | None = None, cache: str = "auto", guided: bool = False,
) -> Session:
    """A session of the model in a folder, for a robot. Sets PyTorch's threads for this process.

    `scene` says that the caller gives depth, cameras and hands to a model that needs them; `geometry` overrides what
    weighs the actions' attention; `cache` is the type of the history (see `CACHES`). `guided` says that plans are
    spliced by guided inpainting: `auto` then is PyTorch, which alone gives its gradient. Raises CheckpointError on a
    model that does not fit, ConfigError on an unknown runtime, a cache it does not have, or where nobody gives the
    scene, RuntimeUnavailable on a runtime that this machine lacks, and on too little memory.

    A folder of public weights with a `serving.json` opens as a model of Wan's size (`wan.open`), on PyTorch alone.
    """
    torch.set_num_threads(threads)
    runtime = "torch" if guided and runtime == "auto" else runtime
    if is_public(model_dir):
        return open_public(model_dir, spec, runtime, config, cache=cache)
    checkpoint = load_checkpoint(model_dir, spec)
    if geometry is not None:
        checkpoint = choose_geometry(checkpoint, geometry)
    if checkpoint.config.needs_scene and not scene:
        raise ConfigError(str(model_dir), "needs depth, cameras and hands, which nobody gives here",
                          fix="use a model that sees colour alone")
    device = "cuda" if runtime == "torch" and torch.cuda.is_available() else "cpu"
    half = _half_history(runtime, cache)
    plan = plan_memory(checkpoint.config, checkpoint.parameters, cache_bytes=2 if half else 4)
    _log.info("%s on %s needs %s", checkpoint.config.name, device, plan)
    require_memory(plan, device, f"model {model_dir}")
    engine = reference(checkpoint, half) if half else choose_runtime(runtime, checkpoint, model_dir, threads)
    texts = load_text_encoder(checkpoint.text_encoder, checkpoint.config.text_tokens)
    return Session(engine, checkpoint.stats, texts, spec, checkpoint.layout_hash, config)


def _half_history(runtime: str, cache: str) -> bool:
    """Whether the history is kept in float16. Raises ConfigError on a type that this runtime does not keep it in."""
    if cache in ("auto", "float32"):
        return False
    if cache not in CACHES or (runtime, cache) != ("torch", "float16"):
        raise ConfigError("cache", f"runtime {runtime} does not keep the history of this model so", got=cache,
                          expected="auto or float32; with runtime torch also float16",
                          fix="choose runtime torch and cache float16; models of Wan's size take every type")
    return True


def choose_geometry(checkpoint: Checkpoint, mode: str) -> Checkpoint:
    """The same weights with another mode of geometry-aware attention.

    A model without a geometry part can use what is measured; raises ConfigError if it should predict.
    """
    config, weights = checkpoint.config, dict(checkpoint.model)
    if config.geometry is not None:
        return dataclasses.replace(checkpoint, config=dataclasses.replace(
            config, geometry=dataclasses.replace(config.geometry, mode=mode)))
    if mode == "predicted":
        raise ConfigError("geometry", "this model has no geometry expert", got=mode, expected="off, measured",
                          fix="train one with `starry train --init MODEL --geometry predicted --only-geometry`")
    config = dataclasses.replace(config, geometry=GeometryConfig(mode=mode))
    unused = GeometryExpert(config).state_dict()
    weights |= {f"geometry.{name}": value for name, value in unused.items()}
    return dataclasses.replace(checkpoint, config=config, model=weights)


def choose_runtime(name: str, checkpoint: Checkpoint, model_dir: Path, threads: int = 1) -> GraphRunner:
    """The runtime of that name, checked against PyTorch; `auto` takes the fastest that passes."""
    if name not in RUNTIMES:
        raise ConfigError("runtime", "is unknown", got=repr(name), expected=", ".join(RUNTIMES))
    if name == "torch":
        return reference(checkpoint)
    if name != "auto":
        return graph_runtime(name, checkpoint, model_dir, threads)
    return _fastest(checkpoint, model_dir, threads)


def _fastest(checkpoint: Checkpoint, model_dir: Path, threads: int) -> GraphRunner:
    """The first of AUTO_ORDER that is installed and can be used, else PyTorch. Warns with what to do about it."""
    candidates = [name for name in available() if name != "torch"]
    if candidates and find_graphs(model_dir, checkpoint) is None:
        _log.warning("%s", _not_exported("auto", model_dir))
        candidates = []
    for candidate in candidates:
        try:
            return graph_runtime(candidate, checkpoint, model_dir, threads)
        except RuntimeUnavailable as error:
            _log.warning("%s", error)
    return reference(checkpoint)


def available() -> tuple[str, ...]:
    """Names of the runtimes whose libraries are installed, the reference last."""
    return (*(name for name in AUTO_ORDER if importlib.util.find_spec(name) is not None), "torch")


def reference(checkpoint: Checkpoint, half_history: bool = False) -> GraphRunner:
    """PyTorch: on the GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch_runtime(checkpoint.build_model(), checkpoint.autoencoder, device, half_history)


def graph_runtime(name: str, checkpoint: Checkpoint, model_dir: Path, threads: int = 1) -> GraphRunner:
    """A runtime over exported graphs. Raises RuntimeUnavailable if it is not installed, not exported or not exact."""
    if importlib.util.find_spec(name) is None:
        raise _not_installed(name)
    graphs = find_graphs(model_dir, checkpoint)
    if graphs is None:
        raise _not_exported(name, model_dir)
    runner = build_graph_runtime(name, checkpoint, graphs, threads)
    actions, value = differences(runner, reference(checkpoint))
    if not max(actions, value) <= LARGEST_DIFFERENCE:
        raise RuntimeUnavailable(
            f"runtime {name}", "does not compute what PyTorch computes", got=f"{actions:.1e} actions, {value:.1e} map",
            expected=f"<= {LARGEST_DIFFERENCE:g}", fix=f"export again with `starry export {model_dir}`",
        )
    return runner


def _not_installed(name: str) -> RuntimeUnavailable:
    return RuntimeUnavailable(f"runtime {name}", "is not installed", expected=", ".join(available()),
                              fix=_INSTALL_HINTS[name])


def _not_exported(name: str, model_dir: Path) -> RuntimeUnavailable:
    return RuntimeUnavailable(f"runtime {name}", "has no exported graphs for this model", got=str(model_dir),
                              fix=f"starry export {model_dir}; until then PyTorch runs it, at half the speed")


def build_graph_runtime(name: str, checkpoint: Checkpoint, graphs: GraphFiles, threads: int = 1) -> GraphRunner:
    """The runtime of that name over the given graphs, unchecked."""
    if name == "tensorrt":
        return tensorrt_runtime.tensorrt_runtime(checkpoint, graphs)
    build = {"onnxruntime": onnx_runtime.onnx_runtime, "openvino": openvino_runtime.openvino_runtime}[name]
    return build(checkpoint, graphs, threads)


def compare_runtimes(checkpoint: Checkpoint, model_dir: Path, chunks: int = 20, threads: int = 1) -> list[Record]:
    """One row a runtime: how far the actions and value maps of a seeded episode are from PyTorch's, or why unknown.

    `state` is ok, differs, or absent (not installed, not exported, refused), with the reason.
    """
    graphs, rows = find_graphs(model_dir, checkpoint), []
    for name in (name for name in RUNTIMES if name not in ("auto", "torch")):
        row: Record = {"runtime": name, "chunks": chunks, "actions": None, "value_map": None, "state": "absent",
                       "reason": ""}
        try:
            if importlib.util.find_spec(name) is None:
                raise _not_installed(name)
            if graphs is None:
                raise _not_exported(name, model_dir)
            runner = build_graph_runtime(name, checkpoint, graphs, threads)
            row["actions"], row["value_map"] = differences(runner, reference(checkpoint), chunks)
            row["state"] = "ok" if max(row["actions"], row["value_map"]) <= LARGEST_DIFFERENCE else "differs"
        except RuntimeUnavailable as error:
            row["reason"] = str(error)
        rows.append(row)
    return rows


def differences(runner: GraphRunner, other: GraphRunner, plans: int = 2) -> tuple[float, float]:
    """Largest difference of actions and of value maps over some plans with history. Leaves both runners reset."""
    ours, theirs = _plans(runner, plans), _plans(other, plans)
    gaps = np.array([[np.abs(mine - its).max() for mine, its in zip(a, b, strict=True)]
                     for a, b in zip(ours, theirs, strict=True)])
    return float(gaps[:, 0].max()), float(gaps[:, 1].max())


def _plans(runner: GraphRunner, plans: int) -> list[tuple[F32, F32]]:
    """Actions and value maps for seeded random sentence, canvases, states and executed actions."""
    c, rng = runner.config, np.random.default_rng(0)

    def draw(*shape: int) -> F32:
        return rng.standard_normal(shape, dtype=np.float32)

    runner.reset()
    runner.set_text(draw(c.text_tokens, c.text_width), np.ones(c.text_tokens, np.float32))
    made = []
    for i in range(plans):
        canvas = rng.integers(0, 256, (c.canvas_height_px, c.canvas_width_px, 3), dtype=np.uint8)
        runner.observe(canvas, i * c.history_actions)
        if c.gasam:
            runner.look(example_scene(c))
        noise = Noise(draw(1, c.frame_tokens, c.latent_token_width), draw(1, c.frame_tokens, c.value_token_width),
                      draw(1, c.chunk_steps, c.joints))
        prediction = runner.predict(noise, draw(c.joints))
        made.append((prediction.actions_KJ, prediction.map_EYX))
        runner.commit(draw(c.history_actions, c.joints), np.ones(c.history_actions, np.float32))
    runner.reset()
    return made
