"""TensorRT engines of the exported graphs, for versions 10 and 11: built on the machine that runs them, kept by name.

An engine's name is a hash of the graph, the weights, the TensorRT version, the GPU's architecture and the precision:
what does not fit has another name, so a stale engine is never loaded. TensorRT is imported only when it is asked for.

Built against the API of the versions below, not run: no machine with the libraries was at hand.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

from starry_ros.errors import RuntimeUnavailable
from starry_ros.wam.checkpoint import Checkpoint
from starry_ros.wam.graph_files import GraphFiles, cache_folders, staged

INSTALL_HINT = "pip install tensorrt (its libraries come from NVIDIA's own index), on a machine with an NVIDIA GPU"
PRECISIONS = ("fp32", "fp16", "bf16", "fp8")
LEAST_VERSION, FIRST_UNTESTED = (10, 0), (12, 0)
API_USED = {
    "module": ("Builder", "Runtime", "OnnxParser", "Logger", "BuilderFlag", "NetworkDefinitionCreationFlag",
               "TensorIOMode", "__version__"),
    "Builder": ("create_network", "create_builder_config", "build_serialized_network"),
    "IBuilderConfig": ("set_flag", "clear_flag"),
    "OnnxParser": ("parse_from_file", "num_errors", "get_error"),
    "Runtime": ("deserialize_cuda_engine",),
    "ICudaEngine": ("create_execution_context", "num_io_tensors", "get_tensor_name", "get_tensor_shape",
                    "get_tensor_mode"),
    "IExecutionContext": ("set_tensor_address", "execute_async_v3"),
}
"""Names that every supported version has; those of one version only are asked for by getattr."""


def load_library() -> Any:
    """The tensorrt module. Raises RuntimeUnavailable where it is absent or of a version nobody has tried this with."""
    try:
        import tensorrt
    except ImportError as error:
        raise RuntimeUnavailable("tensorrt", f"cannot be imported: {error}", fix=INSTALL_HINT) from error
    version = tuple(int(part) for part in tensorrt.__version__.split(".")[:2])
    if not LEAST_VERSION <= version < FIRST_UNTESTED:
        raise RuntimeUnavailable("tensorrt", "has an unknown version", got=tensorrt.__version__,
                                 expected="10.x or 11.x", fix=INSTALL_HINT)
    return tensorrt


def engine_name(graph: str, data: bytes, checkpoint: Checkpoint, version: str, architecture: str,
                precision: str) -> str:
    """File name of an engine. Shapes are part of the graph, which has no free dimension."""
    digest = hashlib.sha256(data)
    for part in (checkpoint.weights_sha256 or weights_digest(checkpoint), version, architecture, precision):
        digest.update(b"\0" + part.encode())
    return f"{graph}-{digest.hexdigest()[:24]}.engine"


def weights_digest(checkpoint: Checkpoint) -> str:
    """SHA-256 of all weights, for a checkpoint that was never written."""
    digest = hashlib.sha256()
    for name, tensor in sorted(checkpoint.tensors().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def load_engines(trt: Any, checkpoint: Checkpoint, graphs: GraphFiles, precision: str,
                 architecture: str) -> dict[str, Any]:
    """Every graph's engine: from the user's cache, else built and put there, which takes minutes."""
    flags = precision_flags(trt, precision)
    folder = cache_folders(checkpoint)[0].parent.parent / "tensorrt"
    logger = trt.Logger(trt.Logger.WARNING)
    runtime, engines = trt.Runtime(logger), {}
    with staged(checkpoint, graphs) as place:
        for graph, data in graphs.files.items():
            path = folder / engine_name(graph, data, checkpoint, trt.__version__, architecture, precision)
            plan = path.read_bytes() if path.is_file() else None
            engine = None if plan is None else runtime.deserialize_cuda_engine(plan)
            if engine is None:
                plan = build(trt, logger, place / f"{graph}.onnx", flags)
                _store(path, plan)
                engine = runtime.deserialize_cuda_engine(plan)
            if engine is None:
                raise RuntimeUnavailable("tensorrt", f"cannot load its own engine of {graph}", got=str(path),
                                         fix="check that driver and TensorRT belong together")
            engines[graph] = engine
    return engines


def build(trt: Any, logger: Any, path: Path, flags: tuple[Any, ...]) -> bytes:
    """Parse a graph and build its engine. Raises RuntimeUnavailable with the parser's errors."""
    builder = trt.Builder(logger)
    network = builder.create_network(network_flags(trt, weakly_typed=bool(flags)))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise RuntimeUnavailable("tensorrt", f"cannot read {path.name}: {errors}",
                                 fix="export the model again with `starry export`")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default, and too coarse for parity with float32
    for flag in flags:
        config.set_flag(flag)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RuntimeUnavailable("tensorrt", f"cannot build an engine of {path.name}",
                                 fix="read its messages above; a smaller preset or precision fp32 may do")
    return bytes(plan)


def network_flags(trt: Any, weakly_typed: bool) -> int:
    """Bit mask for `create_network`: strongly typed wherever precision flags do not ask for the contrary.

    EXPLICIT_BATCH exists in version 10 alone, where it is the default too; version 11 is always strongly typed.
    """
    known = trt.NetworkDefinitionCreationFlag
    names = ("EXPLICIT_BATCH",) if weakly_typed else ("EXPLICIT_BATCH", "STRONGLY_TYPED")
    mask = 0
    for name in names:
        flag = getattr(known, name, None)
        mask |= 0 if flag is None else 1 << int(flag)
    return mask


def precision_flags(trt: Any, precision: str) -> tuple[Any, ...]:
    """Builder flags that let a version 10 choose narrower kernels. Raises RuntimeUnavailable where it cannot.

    Version 11 takes every type from the graph, and the exported graphs are float32. fp8 needs a graph with scales.
    """
    if precision not in PRECISIONS:
        raise RuntimeUnavailable("tensorrt", "knows no such precision", got=precision, expected=", ".join(PRECISIONS))
    if precision == "fp32":
        return ()
    flag = getattr(trt.BuilderFlag, precision.upper(), None)
    if flag is None or precision == "fp8":
        raise RuntimeUnavailable(
            "tensorrt", f"version {trt.__version__} cannot make a float32 graph run in {precision}",
            expected="fp32 (and fp16 or bf16 in version 10)", fix="use precision fp32",
        )
    return (flag,)


def _store(path: Path, plan: bytes) -> None:
    """Write whole or not at all; a cache that cannot be written is no error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, partial = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(plan)
        os.replace(partial, path)
    except OSError:
        return
