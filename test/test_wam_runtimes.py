"""Exported graphs and the runtimes over them: the plans of PyTorch, and refusal of every export that does not fit."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from wam_kit import CONFIG, make_canvas, make_checkpoint

from starry_ros.errors import ConfigError, RuntimeUnavailable, StarryError
from starry_ros.paths import model_dir, model_names
from starry_ros.ros import graph as ros_graph
from starry_ros.wam import export, graph_files, load
from starry_ros.wam.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from starry_ros.wam.choices import RUNTIMES
from starry_ros.wam.export import check_graphs, export_graphs
from starry_ros.wam.graph_files import GraphFiles, find_graphs, graph_names, read_graphs, writable_folder
from starry_ros.wam.load import AUTO_ORDER, build_graph_runtime, choose_runtime, reference
from starry_ros.wam.runtimes.base import Noise
from starry_ros.wam.runtimes.graphs import graph_specs
from starry_ros.wam.runtimes.runner import GraphRunner

LIMIT = 1e-4


@pytest.fixture(scope="module", autouse=True)
def _alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One thread, and a cache that nobody else writes to."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("tmp")))
        yield


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return make_checkpoint(seed=0)


@pytest.fixture(scope="module")
def exported(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with its graphs."""
    folder = tmp_path_factory.mktemp("models") / "narrow"
    save_checkpoint(folder, checkpoint)
    export_graphs(checkpoint, folder)
    return folder


@pytest.fixture(scope="module")
def graphs(exported: Path, checkpoint: Checkpoint) -> GraphFiles:
    found = read_graphs(exported, checkpoint)
    assert found is not None
    return found


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "narrow"))


def plans(runner: GraphRunner, count: int) -> list[tuple[np.ndarray, ...]]:
    """Actions, value map and imagined frame of plans 0.5 s apart, with another sentence half-way."""
    rng = np.random.default_rng(11)
    c, made = runner.config, []

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    for i in range(count):
        if i in (0, count // 2):
            runner.set_text(draw(c.text_tokens, c.text_width), np.float32(np.arange(c.text_tokens) < 3 + i))
        runner.observe(make_canvas(10**9 * (i + 1)).image_HWC, 1000 + 5 * i)
        noise = Noise(draw(1, c.frame_tokens, c.latent_token_width), draw(1, c.frame_tokens, c.value_token_width),
                      draw(1, c.chunk_steps, c.joints))
        prediction = runner.predict(noise, draw(c.joints))
        made.append((prediction.actions_KJ, prediction.map_EYX, prediction.landing_EV2, prediction.seen_EV,
                     runner.decode(prediction.latents).astype(np.float32) / 255))
        runner.commit(draw(c.history_actions, c.joints), np.float32(np.arange(c.history_actions) < 5))
    assert runner.frames.written == count
    return made


@pytest.mark.parametrize("name", AUTO_ORDER)
def test_a_runtime_gives_the_plans_of_torch_also_after_the_ring_has_wrapped(
    name: str, checkpoint: Checkpoint, graphs: GraphFiles
) -> None:
    count = 3 * CONFIG.history_slots + 1
    ours = plans(build_graph_runtime(name, checkpoint, graphs), count)
    theirs = plans(reference(checkpoint), count)
    worst = [max(float(np.abs(a[i] - b[i]).max()) for a, b in zip(ours, theirs, strict=True)) for i in range(5)]
    print(f"{name}: actions {worst[0]:.1e}, value map {worst[1]:.1e}, landing {worst[2]:.1e}, seen {worst[3]:.1e}")
    assert max(worst[:4]) < LIMIT
    assert worst[4] <= 1.01 / 255
    spread = np.std([actions for actions, *_ in theirs], axis=0)
    assert spread.min() > 100 * LIMIT, "plans that hardly differ would prove nothing"


def test_one_export_serves_other_weights_of_the_same_shape(graphs: GraphFiles) -> None:
    other = make_checkpoint(seed=1)
    actions, value = load.differences(build_graph_runtime("onnxruntime", other, graphs), reference(other))
    assert max(actions, value) < LIMIT
    assert max(load.differences(reference(other), reference(make_checkpoint(seed=0)))) > 0.1


def test_graphs_hold_no_weights_and_only_portable_operators(exported: Path, checkpoint: Checkpoint) -> None:
    stored = {name: tuple(value.shape) for name, value in checkpoint.tensors().items()}
    specs = {spec.name: spec for spec in graph_specs(CONFIG)}
    pointed = set()
    for name in graph_names(CONFIG):
        model = onnx.load(exported / f"{name}.onnx", load_external_data=False)
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
        assert not {node.op_type for node in model.graph.node} & {"If", "Loop", "Scan", "NonZero", "RandomNormal"}
        for tensor in model.graph.initializer:
            if tensor.name in stored:
                pointed.add(tensor.name)
                place = {entry.key: entry.value for entry in tensor.external_data}
                assert place["location"] == "model.safetensors"
                assert int(place["length"]) == 4 * np.prod(stored[tensor.name], dtype=int)
            else:
                assert len(tensor.raw_data) < 4096
        inputs = {value.name: value.type.tensor_type for value in model.graph.input}
        shapes = {key: tuple(size.dim_value for size in kind.shape.dim) for key, kind in inputs.items()}
        assert shapes == specs[name].inputs
        assert tuple(value.name for value in model.graph.output) == specs[name].outputs
        kinds = {key: kind.elem_type for key, kind in inputs.items()}
        assert kinds == {key: onnx.TensorProto.UINT8 if key == "canvas" else onnx.TensorProto.FLOAT for key in inputs}
        assert str(Path(__file__).parents[1]).encode() not in (exported / f"{name}.onnx").read_bytes()
    assert pointed == set(stored)
    onnx.checker.check_model(str(exported / "act.onnx"))


def test_auto_takes_the_first_runtime_that_is_installed_and_exported(exported: Path, checkpoint: Checkpoint) -> None:
    assert load.available() == (*AUTO_ORDER, "torch")
    assert choose_runtime("auto", checkpoint, exported).name == AUTO_ORDER[0]
    assert choose_runtime("onnxruntime", checkpoint, exported).name == "onnxruntime"
    assert choose_runtime("torch", checkpoint, exported).name.startswith("torch")


def test_auto_falls_back_to_torch_and_says_how_to_do_better(
    checkpoint: Checkpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert choose_runtime("auto", checkpoint, tmp_path).name.startswith("torch")
    (record,) = caplog.records
    assert f"starry export {tmp_path}" in record.getMessage()
    for name in AUTO_ORDER:
        with pytest.raises(RuntimeUnavailable, match="no exported graphs"):
            choose_runtime(name, checkpoint, tmp_path)


def test_a_missing_library_names_the_pip_line_and_auto_skips_it(
    exported: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(load.importlib.util, "find_spec", lambda name: None)
    for name in AUTO_ORDER:
        with pytest.raises(RuntimeUnavailable, match=f"pip install {name}"):
            choose_runtime(name, checkpoint, exported)
    assert choose_runtime("auto", checkpoint, exported).name.startswith("torch")
    assert not caplog.records


def test_an_unknown_runtime_lists_the_known_and_tensorrt_says_what_to_use(
    exported: Path, checkpoint: Checkpoint
) -> None:
    with pytest.raises(ConfigError, match=r"'tpu'.*auto, torch, onnxruntime, openvino"):
        choose_runtime("tpu", checkpoint, exported)
    with pytest.raises(RuntimeUnavailable, match=r"tensorrt: is not installed.*pip install tensorrt"):
        choose_runtime("tensorrt", checkpoint, exported)
    assert RUNTIMES == ros_graph.RUNTIMES


def test_a_runtime_that_computes_something_else_is_refused(
    exported: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = reference(make_checkpoint(seed=1))
    monkeypatch.setattr(load, "build_graph_runtime", lambda *_: wrong)
    with pytest.raises(RuntimeUnavailable, match="does not compute what PyTorch computes"):
        choose_runtime("onnxruntime", checkpoint, exported)
    assert choose_runtime("auto", checkpoint, exported).name.startswith("torch")
    assert "does not compute" in caplog.text


def test_runtimes_are_compared_on_an_episode_of_twenty_chunks(exported: Path, checkpoint: Checkpoint) -> None:
    rows = {row["runtime"]: row for row in load.compare_runtimes(checkpoint, exported, chunks=20)}
    assert {name: row["state"] for name, row in rows.items()} == {
        "onnxruntime": "ok", "openvino": "ok", "tensorrt": "absent"}
    assert all(max(rows[name]["actions"], rows[name]["value_map"]) < 1e-3 for name in AUTO_ORDER)
    assert "pip install tensorrt" in rows["tensorrt"]["reason"]


def test_a_damaged_or_foreign_export_is_not_used(copy: Path, checkpoint: Checkpoint) -> None:
    manifest = (copy / "export.json").read_text()
    graph = (copy / "act.onnx").read_bytes()
    edits = {"architecture": "0" * 16, "format_version": 0, "graphs": {}, "weights_header": None}
    for key, value in edits.items():
        record = json.loads(manifest)
        if value is None:
            del record[key]
        else:
            record[key] = value
        (copy / "export.json").write_text(json.dumps(record))
        assert read_graphs(copy, checkpoint) is None
    for text in ("", "[]", manifest[:-20]):
        (copy / "export.json").write_text(text)
        assert read_graphs(copy, checkpoint) is None
    (copy / "export.json").write_text(manifest)
    for data in (graph[:-1], graph[:-1] + bytes([graph[-1] ^ 1])):
        (copy / "act.onnx").write_bytes(data)
        assert read_graphs(copy, checkpoint) is None
    (copy / "act.onnx").unlink()
    assert read_graphs(copy, checkpoint) is None
    (copy / "act.onnx").write_bytes(graph)
    assert read_graphs(copy, checkpoint) is not None


def test_another_shape_of_model_does_not_take_this_export(exported: Path, checkpoint: Checkpoint) -> None:
    assert read_graphs(exported, dataclasses.replace(checkpoint, stats=make_checkpoint(3).stats)) is not None
    more_steps = dataclasses.replace(CONFIG, action_steps=9, name="renamed")
    assert read_graphs(exported, dataclasses.replace(checkpoint, config=more_steps)) is not None
    for change in ({"future_steps": 4}, {"history_slots": 3}, {"rope_period": 8192}):
        other = dataclasses.replace(checkpoint, config=dataclasses.replace(CONFIG, **change))
        assert read_graphs(exported, other) is None


def test_weights_that_lie_elsewhere_than_the_graphs_say_are_refused(
    checkpoint: Checkpoint, graphs: GraphFiles
) -> None:
    moved = dataclasses.replace(graphs, weights_header="0" * 64)
    with pytest.raises(RuntimeUnavailable, match="expect another weights file"):
        build_graph_runtime("onnxruntime", checkpoint, moved)


@pytest.mark.parametrize("name", AUTO_ORDER)
def test_a_graph_that_the_library_refuses_is_an_error_with_a_way_out(
    name: str, checkpoint: Checkpoint, graphs: GraphFiles
) -> None:
    broken = dataclasses.replace(graphs, files={**graphs.files, "act": graphs.files["act"][:1000]})
    with pytest.raises(RuntimeUnavailable, match=r"refuses graph act.*starry export"):
        build_graph_runtime(name, checkpoint, broken)


@pytest.mark.parametrize("name", AUTO_ORDER)
def test_a_graph_of_another_opset_is_refused(name: str, checkpoint: Checkpoint, graphs: GraphFiles) -> None:
    model = onnx.load_from_string(graphs.files["act"])
    assert graph_files.opsets(graphs.files["act"]) == [model.opset_import[0].version] == [graph_files.OPSET]
    model.opset_import[0].version = 21
    newer = dataclasses.replace(graphs, files={**graphs.files, "act": model.SerializeToString()})
    with pytest.raises(RuntimeUnavailable, match=r"graph act: is of another opset; got \[21\].*starry export"):
        build_graph_runtime(name, checkpoint, newer)


def test_a_folder_that_cannot_be_written_sends_the_export_to_the_cache_then_to_tmp(
    checkpoint: Checkpoint, graphs: GraphFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, cache, scratch = tmp_path / "file", tmp_path / "cache", tmp_path / "tmp"
    file.write_text("a folder cannot be made below a file")
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    assert writable_folder(tmp_path / "model", checkpoint) == tmp_path / "model"
    kept = writable_folder(file / "model", checkpoint)
    assert kept.is_relative_to(cache)
    assert find_graphs(file / "model", checkpoint) is None
    graph_files.write_graphs(kept, checkpoint, graphs.files, graphs.weights_header, {})
    found = find_graphs(file / "model", checkpoint)
    assert found is not None
    assert found.folder == kept
    (cache / "starry_ros").chmod(0o777)  # others could plant files there
    assert find_graphs(file / "model", checkpoint) is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    assert writable_folder(file / "model", checkpoint).is_relative_to(scratch)
    monkeypatch.setattr("tempfile.tempdir", str(file))
    with pytest.raises(StarryError, match=r"nowhere to write.*--out"):
        writable_folder(file / "model", checkpoint)


def test_an_export_is_checked_against_torch(
    exported: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "available", lambda: ("onnxruntime", "torch"))
    (row,) = check_graphs(checkpoint, exported)
    assert (row["runtime"], row["state"]) == ("onnxruntime", "ok")
    assert max(row["actions"], row["value_map"]) < LIMIT
    with pytest.raises(RuntimeUnavailable, match="holds no export"):
        check_graphs(checkpoint, exported / "absent")


@pytest.mark.parametrize("name", model_names())
def test_the_graphs_of_a_shipped_model_fit_its_weights(name: str) -> None:
    folder = model_dir(name)
    assert read_graphs(folder, load_checkpoint(folder)) is not None, f"run `starry export {name}`"
