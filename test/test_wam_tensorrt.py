"""TensorRT: the runner's logic on a stand-in engine, engine names, and the names that every supported version has.

No test here is evidence about TensorRT itself: nothing in it runs.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn
from wam_kit import CONFIG, make_canvas, make_checkpoint

from starry_ros.errors import RuntimeUnavailable
from starry_ros.wam.checkpoint import Checkpoint
from starry_ros.wam.graph_files import GraphFiles
from starry_ros.wam.portable import portable
from starry_ros.wam.runtimes import trt_engine
from starry_ros.wam.runtimes.base import Effort, Noise
from starry_ros.wam.runtimes.graphs import GraphSpec, build_graphs, graph_specs
from starry_ros.wam.runtimes.runner import GraphRunner
from starry_ros.wam.runtimes.tensorrt_runtime import TensorRtRunner, check_shapes
from starry_ros.wam.runtimes.torch_runtime import torch_runtime
from starry_ros.wam.runtimes.trt_engine import API_USED, engine_name, load_engines, network_flags, precision_flags

SURFACES = Path(__file__).parent / "data" / "tensorrt_surfaces.json"
BOUNDARY = 256
OPERATORS = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip
    Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout
    Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gemm GlobalAveragePool
    GlobalMaxPool Greater GreaterOrEqual HardSigmoid Identity InstanceNormalization IsNaN LayerNormalization
    LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max MaxPool Mean Min Mul Neg Not Or Pad Pow PRelu
    QuantizeLinear Range ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu
    Reshape Resize Round Scatter ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Sinh Size Slice Softmax
    Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh Tile TopK Transpose Unsqueeze Upsample Where
    Xor
"""
"""What onnx-tensorrt's docs/operators.md lists as supported, without control flow; LayerNormalization since 8.6."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class StandIn:
    """A device in main memory. While it captures, enqueued work is recorded with its addresses and not done."""

    def __init__(self) -> None:
        self.blocks: list[Tensor] = []
        self.recorded: list[Callable[[], object]] | None = None
        self.replays = 0

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        numbers = int(np.prod(shape)) + BOUNDARY
        raw = torch.full((numbers,), 77, dtype=dtype)  # what nobody wrote is no zero outside
        start = -raw.data_ptr() % BOUNDARY // raw.element_size()
        block = raw[start : start + int(np.prod(shape))].view(shape)
        block.zero_()
        self.blocks.append(block)
        return block

    def stream(self) -> int:
        return 5

    def wait(self) -> None:
        pass

    def enqueue(self, work: Callable[[], object]) -> None:
        if self.recorded is None:
            work()
        else:
            self.recorded.append(work)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self.recorded = []
        work()
        recorded, self.recorded = self.recorded, None

        def replay() -> None:
            self.replays += 1
            for step in recorded:
                step()

        return replay

    def at(self, address: int, shape: tuple[int, ...]) -> Tensor:
        """The memory at an address, which must lie in one block and on a boundary."""
        assert address % BOUNDARY == 0
        for block in self.blocks:
            offset = address - block.data_ptr()
            if 0 <= offset < max(1, block.nbytes):
                flat = block.view(-1)[offset // block.element_size() :]
                return flat[: int(np.prod(shape))].view(shape)
        raise AssertionError("address of no buffer")


class StandInContext:
    """Runs a graph's module on what its addresses point to."""

    def __init__(self, spec: GraphSpec, outputs: dict[str, tuple[int, ...]], graph: nn.Module, device: StandIn) -> None:
        self.shapes, self.spec, self.graph, self.device = {**spec.inputs, **outputs}, spec, graph, device
        self.addresses: dict[str, int] = {}

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert name in self.shapes
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 5
        assert set(self.addresses) == set(self.shapes)
        found = {name: self.device.at(address, self.shapes[name]) for name, address in self.addresses.items()}
        written = {name: found[name].data_ptr() for name in self.spec.outputs}
        assert len(set(written.values())) == len(written)
        assert not set(written.values()) & {found[name].data_ptr() for name in self.spec.inputs}

        def work() -> None:
            with torch.inference_mode():
                results = self.graph(*(found[name].clone() for name in self.spec.inputs))
            results = results if isinstance(results, tuple) else (results,)
            for name, result in zip(self.spec.outputs, results, strict=True):
                found[name].copy_(result)

        self.device.enqueue(work)
        return True


def stand_in_runner(checkpoint: Checkpoint) -> tuple[TensorRtRunner, StandIn]:
    device, contexts, shapes = StandIn(), {}, {}
    graphs = build_graphs(checkpoint.build_model(), checkpoint.autoencoder)
    for spec in graph_specs(checkpoint.config):
        example = [torch.zeros(shape, dtype=torch.uint8 if name == "canvas" else torch.float32)
                   for name, shape in spec.inputs.items()]
        with torch.inference_mode():
            results = graphs[spec.name](*example)
        results = results if isinstance(results, tuple) else (results,)
        outputs = {name: tuple(result.shape) for name, result in zip(spec.outputs, results, strict=True)}
        contexts[spec.name] = tuple(StandInContext(spec, outputs, graphs[spec.name], device) for _ in range(2))
        shapes[spec.name] = {**spec.inputs, **outputs}
    return TensorRtRunner(checkpoint.config, contexts, shapes, device), device  # type: ignore[arg-type]


def episode(runner: GraphRunner) -> list[tuple[np.ndarray, ...]]:
    """Plans with wrap, a dropped branch, another sentence, an accepted branch and a committed prefix."""
    c, rng, made = runner.config, np.random.default_rng(3), []

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    for i in range(8):
        if i in (0, 4):
            runner.set_text(draw(c.text_tokens, c.text_width), np.float32(np.arange(c.text_tokens) < 3 + i))
        if i in (3, 6):
            runner.branch()
        runner.observe(make_canvas(10**9 * (i + 1)).image_HWC, 5 * i)
        noise = Noise(draw(1, c.frame_tokens, c.latent_token_width), draw(1, c.frame_tokens, c.value_token_width),
                      draw(1, c.chunk_steps, c.joints))
        effort = Effort(known_DJ=draw(3, c.joints)) if i in (2, 5, 7) else Effort()
        plan = runner.predict(noise, draw(c.joints), effort)
        made.append((plan.actions_KJ, plan.map_EYX, plan.landing_EV2, plan.seen_EV,
                     runner.decode(plan.latents).astype(np.float32) / 255, runner.latents()))
        runner.commit(draw(c.history_actions, c.joints), np.float32(np.arange(c.history_actions) < 5))
        if i == 3:
            runner.drop()
        if i == 6:
            runner.accept()
    return made


def test_the_runner_gives_torchs_plans_from_fixed_addresses_with_captured_loops() -> None:
    checkpoint = make_checkpoint()
    runner, device = stand_in_runner(checkpoint)
    blocks = len(device.blocks)
    ours = episode(runner)
    theirs = episode(torch_runtime(checkpoint.build_model(), checkpoint.autoencoder))
    for i, (mine, its) in enumerate(zip(ours, theirs, strict=True)):
        for a, b in zip(mine, its, strict=True):
            atol = 1.01 / 255 if a.ndim == 3 and a.shape[-1] == 3 else 1e-5
            np.testing.assert_allclose(a, b, atol=atol, err_msg=f"plan {i}")
    assert device.replays >= 3 * 6
    assert len(device.blocks) <= blocks + 6  # tables of levels and the committed prefix, made once
    assert runner.frames.written == 7


def test_guided_inpainting_is_refused_with_another_way() -> None:
    runner, _ = stand_in_runner(make_checkpoint())
    c = CONFIG
    runner.set_text(np.zeros((c.text_tokens, c.text_width), np.float32), np.ones(c.text_tokens, np.float32))
    runner.observe(make_canvas(1).image_HWC, 0)
    noise = Noise(*(np.zeros((1, *shape), np.float32) for shape in (
        (c.frame_tokens, c.latent_token_width), (c.frame_tokens, c.value_token_width), (c.chunk_steps, c.joints))))
    effort = Effort(target_KJ=np.zeros((c.chunk_steps, c.joints), np.float32),
                    weight_K=np.ones(c.chunk_steps, np.float32))
    with pytest.raises(RuntimeUnavailable, match="no gradient for guided inpainting"):
        runner.predict(noise, np.zeros(c.joints, np.float32), effort)


# ---- engines ------------------------------------------------------------------------------------------------------


def library(version: str, flags: dict[str, int], creation: dict[str, int], log: list[str]) -> Any:
    """A stand-in module: builds and loads engines that remember what they were built from."""

    class Builder:
        def __init__(self, logger: object) -> None: ...

        def create_network(self, mask: int) -> SimpleNamespace:
            log.append(f"network {mask}")
            return SimpleNamespace()

        def create_builder_config(self) -> SimpleNamespace:
            return SimpleNamespace(set_flag=lambda flag: log.append(f"flag {flag}"),
                                   clear_flag=lambda flag: log.append(f"no flag {flag}"))

        def build_serialized_network(self, network: SimpleNamespace, config: object) -> bytes:
            return b"plan of " + network.source

    class OnnxParser:
        num_errors = 1

        def __init__(self, network: SimpleNamespace, logger: object) -> None:
            self.network = network

        def parse_from_file(self, path: str) -> bool:
            log.append(f"parse {Path(path).name}")
            self.network.source = Path(path).read_bytes()
            return self.network.source != b"broken"

        def get_error(self, i: int) -> str:
            return "no such operator"

    class Runtime:
        def __init__(self, logger: object) -> None: ...

        def deserialize_cuda_engine(self, plan: bytes) -> bytes | None:
            return plan if plan.startswith(b"plan of") else None

    logger = type("Logger", (), {"WARNING": 1, "__init__": lambda self, level: None})
    return SimpleNamespace(__version__=version, Builder=Builder, OnnxParser=OnnxParser, Runtime=Runtime, Logger=logger,
                           BuilderFlag=SimpleNamespace(**flags),
                           NetworkDefinitionCreationFlag=SimpleNamespace(**creation))


def ten(log: list[str]) -> Any:
    flags = {"FP16": 1, "BF16": 2, "FP8": 3, "TF32": 4}
    return library("10.3.0", flags, {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}, log)


def eleven(log: list[str]) -> Any:
    return library("11.4.0.106", {"TF32": 4}, {"STRONGLY_TYPED": 1}, log)


def test_versions_differ_in_flags_and_are_asked_for_what_they_have() -> None:
    assert network_flags(ten([]), weakly_typed=False) == 0b11
    assert network_flags(ten([]), weakly_typed=True) == 0b01
    assert network_flags(eleven([]), weakly_typed=False) == 0b10
    assert (precision_flags(ten([]), "fp16"), precision_flags(ten([]), "bf16")) == ((1,), (2,))
    assert precision_flags(ten([]), "fp32") == precision_flags(eleven([]), "fp32") == ()
    for trt, precision in ((eleven([]), "fp16"), (ten([]), "fp8"), (eleven([]), "int3")):
        with pytest.raises(RuntimeUnavailable, match=f"{precision}.*" if precision != "int3" else "no such precision"):
            precision_flags(trt, precision)


def test_an_engine_is_built_once_and_never_used_for_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trt_engine, "cache_folders", lambda checkpoint: (tmp_path / "onnx" / "x",))
    checkpoint, log = make_checkpoint(), []
    graphs = GraphFiles(tmp_path, {"act": b"graph 1"}, "")
    monkeypatch.setattr(trt_engine, "staged", staged_in(tmp_path, graphs))

    def engines(trt: Any, given: GraphFiles = graphs, made: Checkpoint = checkpoint, precision: str = "fp32",
                architecture: str = "sm87") -> int:
        monkeypatch.setattr(trt_engine, "staged", staged_in(tmp_path, given))
        before = len([line for line in log if line.startswith("parse")])
        found = load_engines(trt, made, given, precision, architecture)
        assert found == {"act": b"plan of " + given.files["act"]}
        return len([line for line in log if line.startswith("parse")]) - before

    assert [engines(ten(log)), engines(ten(log))] == [1, 0]
    others: list[dict[str, Any]] = [
        {"given": dataclasses.replace(graphs, files={"act": b"graph 2"})}, {"made": make_checkpoint(seed=1)},
        {"precision": "fp16"}, {"architecture": "sm120"}]
    assert [engines(ten(log), **other) for other in others] == [1] * 4
    assert engines(eleven(log)) == 1
    for path in (tmp_path / "tensorrt").glob("*.engine"):
        path.write_bytes(b"cut")
    assert [engines(ten(log)), engines(ten(log))] == [1, 0]
    with pytest.raises(RuntimeUnavailable, match=r"cannot read act\.onnx: no such operator"):
        engines(ten(log), dataclasses.replace(graphs, files={"act": b"broken"}))
    assert engine_name("act", b"g", checkpoint, "10.3.0", "sm87", "fp32").startswith("act-")


def staged_in(folder: Path, graphs: GraphFiles) -> Callable[..., Any]:
    import contextlib

    @contextlib.contextmanager
    def staged(*_: object) -> Any:
        for name, data in graphs.files.items():
            (folder / f"{name}.onnx").write_bytes(data)
        yield folder

    return staged


def test_an_engine_with_other_tensors_is_refused() -> None:
    names = {"x": (1, 2), "y": (3,)}
    engine = SimpleNamespace(num_io_tensors=2, get_tensor_name=lambda i: list(names)[i],
                             get_tensor_shape=lambda name: names[name],
                             get_tensor_mode=lambda name: "in" if name == "x" else "out")
    trt = SimpleNamespace(TensorIOMode=SimpleNamespace(INPUT="in"))
    check_shapes(trt, engine, "g", {"x": (1, 2), "y": None})
    for wanted in ({"x": (1, 3), "y": None}, {"x": (1, 2)}, {"x": (1, 2), "y": None, "z": None}):
        with pytest.raises(RuntimeUnavailable, match="has other tensors"):
            check_shapes(trt, engine, "g", wanted)


def test_without_the_library_the_error_says_what_to_install() -> None:
    try:
        import tensorrt  # noqa: F401
    except ImportError:
        with pytest.raises(RuntimeUnavailable, match=r"cannot be imported.*pip install tensorrt"):
            trt_engine.load_library()


def test_every_name_used_exists_in_every_recorded_version() -> None:
    """`data/tensorrt_surfaces.json` lists what NVIDIA's Python bindings of these versions define."""
    surfaces = json.loads(SURFACES.read_text())
    assert sorted(surfaces) == ["10.13.3.9", "10.15.1.29", "10.3.0", "11.4.0.106"]
    for version, surface in surfaces.items():
        for owner, names in API_USED.items():
            assert not set(names) - set(surface[owner]), (version, owner)
        flags, creation = set(surface["BuilderFlag"]), set(surface["NetworkDefinitionCreationFlag"])
        assert "TF32" in flags
        assert "STRONGLY_TYPED" in creation
        ten_only = version.startswith("10.")
        assert ({"FP16", "BF16", "FP8"} <= flags) == ("EXPLICIT_BATCH" in creation) == ten_only


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "models").glob("*/*.onnx")),
                         ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_shipped_graph_is_what_tensorrts_parser_can_read(path: Path) -> None:
    """Opset 20 at most, operators of onnx-tensorrt's table, fixed shapes, no control flow, no wide numbers."""
    model = onnx.load(path, load_external_data=False)
    assert [(entry.domain, entry.version <= 20) for entry in model.opset_import] == [("", True)]
    operators = {node.op_type for node in model.graph.node}
    assert not operators - set(OPERATORS.split()), "not in the parser's table"
    assert not operators & {"If", "Loop", "Scan", "NonZero"}
    assert not model.functions
    for value in [*model.graph.input, *model.graph.output]:
        kind = value.type.tensor_type
        assert kind.elem_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8)
        assert all(size.HasField("dim_value") and size.dim_value > 0 for size in kind.shape.dim), value.name
    assert not any(tensor.data_type == onnx.TensorProto.DOUBLE for tensor in model.graph.initializer)


@pytest.mark.parametrize("split", [np.array(2, np.int64), np.array([1, 3], np.int64)])
def test_rewriting_a_graph_changes_its_operators_and_not_its_numbers(split: np.ndarray) -> None:
    constants = [onnx.numpy_helper.from_array(value, name) for name, value in (
        ("split", split), ("first", np.array(0, np.int64)), ("second", np.array(1, np.int64)),
        ("wide", np.array(3.0, np.float64)))]
    nodes = [
        helper.make_node("SplitToSequence", ["x", "split"], ["parts"], axis=-1),
        helper.make_node("SequenceAt", ["parts", "first"], ["a"]),
        helper.make_node("SequenceAt", ["parts", "second"], ["b"]),
        helper.make_node("CastLike", ["wide", "x"], ["three"]),
        helper.make_node("Reciprocal", ["a"], ["inverse"]),
        helper.make_node("Mul", ["b", "three"], ["tripled"]),
        helper.make_node("Concat", ["inverse", "tripled"], ["y"], axis=1),
    ]
    floats = onnx.TensorProto.FLOAT
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", floats, (2, 4))],
                              [helper.make_tensor_value_info("y", floats, (2, 4))], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    rewritten = onnx.load_from_string(portable(model.SerializeToString()))
    assert {node.op_type for node in rewritten.graph.node} == {"Slice", "Cast", "Div", "Mul", "Concat"}
    onnx.checker.check_model(rewritten)
    x = np.random.default_rng(0).uniform(1, 2, (2, 4)).astype(np.float32)
    before, after = (ReferenceEvaluator(m).run(None, {"x": x})[0] for m in (model, rewritten))
    np.testing.assert_array_equal(before, after)
