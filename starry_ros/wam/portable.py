"""Exported graphs in operators that every engine reads, TensorRT's parser the pickiest.

The exporter writes some operators that lie outside the parser's table; each has an exact equal inside it:

    SplitToSequence, SequenceAt   a Slice for each part that is used
    CastLike                      a Cast to the type that is like
    Reciprocal                    a division
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np


def portable(data: bytes) -> bytes:
    """An ONNX model rewritten, weights untouched. Raises ValueError on a sequence whose parts are not known."""
    import onnx

    model = onnx.load_from_string(data)
    graph = model.graph
    types = _types(model)
    made = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    names = (f"portable_{i}" for i in itertools.count())
    nodes = []

    def constant(array: Any) -> str:
        name = next(names)
        graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        return name

    def number(name: str) -> Any:
        if name in constants:
            return onnx.numpy_helper.to_array(constants[name])
        node = made[name]
        if node.op_type != "Constant":
            raise ValueError(f"{name} is no constant")
        return np.asarray(onnx.helper.get_attribute_value(node.attribute[0])
                          if node.attribute[0].name != "value" else onnx.numpy_helper.to_array(node.attribute[0].t))

    for node in graph.node:
        if node.op_type == "SplitToSequence":
            continue
        if node.op_type == "SequenceAt":
            split = made[node.input[0]]
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in split.attribute}
            if attributes.get("keepdims", 1) != 1:
                raise ValueError(f"{split.name} drops its axis")
            start, end = _span(number(split.input[1]), int(number(node.input[1])))
            places = [constant(np.array([value], np.int64)) for value in (start, end, attributes.get("axis", 0))]
            nodes.append(onnx.helper.make_node("Slice", [split.input[0], *places], list(node.output), node.name))
        elif node.op_type == "CastLike":
            nodes.append(onnx.helper.make_node("Cast", [node.input[0]], list(node.output), node.name,
                                               to=types[node.input[1]]))
        elif node.op_type == "Reciprocal":
            one = constant(np.ones((), np.float32))
            nodes.append(onnx.helper.make_node("Div", [one, node.input[0]], list(node.output), node.name))
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    out: bytes = model.SerializeToString()
    return out


def _span(split: Any, part: int) -> tuple[int, int]:
    """First and last element of a part: of equal parts, or of parts of given sizes."""
    if split.ndim == 0:
        return part * int(split), (part + 1) * int(split)
    ends = np.cumsum(split)
    return int(ends[part] - split[part]), int(ends[part])


def _types(model: Any) -> dict[str, int]:
    """Element type of every value."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return {**types, **{tensor.name: tensor.data_type for tensor in inferred.initializer}}
