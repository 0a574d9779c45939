"""The graphs on OpenVINO's CPU plugin."""

from __future__ import annotations

from typing import Any

from starry_ros.errors import RuntimeUnavailable
from starry_ros.wam.checkpoint import Checkpoint
from starry_ros.wam.graph_files import GraphFiles, one_line, staged
from starry_ros.wam.runtimes.graphs import GraphSpec, graph_specs
from starry_ros.wam.runtimes.runner import Arrays, Engine, GraphRunner

INSTALL_HINT = "pip install openvino"


def openvino_runtime(checkpoint: Checkpoint, graphs: GraphFiles, threads: int = 1) -> GraphRunner:
    """A runner over one compiled model a graph. Raises RuntimeUnavailable if the library is absent or refuses one."""
    try:
        import openvino
    except ImportError as error:
        raise RuntimeUnavailable("openvino", f"cannot be imported: {error}", fix=INSTALL_HINT) from error
    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # it would choose bfloat16 or float16 where the processor has them
        "ENABLE_CPU_PINNING": False,  # several processes would pin to the same core
    }
    engines: dict[str, Engine] = {}
    with staged(checkpoint, graphs) as folder:
        for spec in graph_specs(checkpoint.config):
            try:
                compiled = core.compile_model(str(folder / f"{spec.name}.onnx"), "CPU", settings)
            except RuntimeError as error:
                raise RuntimeUnavailable("openvino", f"refuses graph {spec.name}: {one_line(error)}",
                                         fix="export the model again with `starry export`") from error
            engines[spec.name] = _engine(compiled, spec)
    return GraphRunner("openvino", checkpoint.config, engines)


def _engine(compiled: Any, spec: GraphSpec) -> Engine:
    request = compiled.create_infer_request()
    outputs = [(name, compiled.output(name)) for name in spec.outputs]

    def run(arrays: Arrays) -> Arrays:
        results = request.infer(arrays, share_inputs=True)
        return {name: results[output] for name, output in outputs}

    return run
