"""Whether a model can be run, found out before anything runs."""

from __future__ import annotations

from typing import Any

import onnx

from . import attributes, files
from .glue import GLUE

OLDEST = 7


def where(node: onnx.NodeProto) -> str:
    """How errors name a node: by its name, or the first of its outputs."""
    name = node.name or (f"of {node.output[0]}" if node.output else "without name")
    return f"fastrnn.onnx: node {name!r} ({node.op_type})"


def opset(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that the model is written in."""
    newest = onnx.defs.onnx_opset_version()
    versions = {i.version for i in model.opset_import if i.domain in ("", "ai.onnx")}
    if len(versions) != 1 or not OLDEST <= min(versions) <= newest:
        found = ", ".join(map(str, sorted(versions))) or "none"
        raise ValueError(
            f"fastrnn.onnx: the model's opset must be one of {OLDEST} to {newest}, got {found}"
        )
    return int(min(versions))


def verify(model: onnx.ModelProto) -> None:
    """ValueError for what cannot be run, or is no valid model."""
    try:
        _verify(model)
    except UnicodeDecodeError as error:
        raise ValueError(f"fastrnn.onnx: not a valid model: a name is not UTF-8: {error}") from None


def _verify(model: onnx.ModelProto) -> None:
    version = opset(model)
    if model.functions:
        names = ", ".join(f.name for f in model.functions)
        raise ValueError(
            f"fastrnn.onnx: functions of a model ({names}) are not supported: inline them with "
            "onnx.inliner.inline_local_functions"
        )
    if model.graph.sparse_initializer:
        raise ValueError("fastrnn.onnx: sparse initializers are not supported")
    for node in model.graph.node:
        _verify_node(node, version)
    for value in model.graph.input:
        if not value.type.HasField("tensor_type"):
            raise ValueError(f"fastrnn.onnx: input {value.name!r} must be a tensor")
    _verify_structure(model)


def values_of(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def _verify_node(node: onnx.NodeProto, version: int) -> None:
    op = node.op_type
    recurrent = op in attributes.OPERATORS
    if node.domain not in ("", "ai.onnx") or not (recurrent or op in GLUE):
        names = ", ".join(sorted([*attributes.OPERATORS, *GLUE]))
        raise ValueError(
            f"{where(node)}: the operator {f'{node.domain}.' if node.domain else ''}{op} is not "
            f"supported; supported are {names}"
        )
    try:
        schema = onnx.defs.get_schema(op, version, "")
    except onnx.defs.SchemaError:
        raise ValueError(f"{where(node)}: opset {version} has no {op}") from None
    for attribute in node.attribute:
        if attribute.name not in schema.attributes:
            names = ", ".join(sorted(schema.attributes)) or "none"
            raise ValueError(
                f"{where(node)}: attribute {attribute.name!r} is not supported in opset {version}; "
                f"it has {names}"
            )
        if attribute.ref_attr_name or attribute.HasField("sparse_tensor"):
            raise ValueError(
                f"{where(node)}: attribute {attribute.name!r} must be a value of its own"
            )
    for tensor in files.tensors(node):
        files.array(f"{where(node)}: a tensor in its attributes", tensor)
    if recurrent:
        attributes.checked(where(node), op, values_of(node))


def _verify_structure(model: onnx.ModelProto) -> None:
    """ONNX's own checks (order, names, arity, types of attributes), without the constants' data."""
    graph = model.graph
    light = onnx.ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.opset_import)
    light.graph.name = graph.name or "graph"
    light.graph.node.extend(graph.node)
    light.graph.input.extend(graph.input)
    for value in light.graph.input:
        value.type.tensor_type.shape.SetInParent()  # it may be unknown
    for value in graph.output:  # of which nothing but the name is used
        any_type = onnx.helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, [])
        light.graph.output.append(any_type)
    names = {value.name for value in graph.input}
    for tensor in graph.initializer:
        if tensor.name not in names:
            value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            light.graph.input.append(value)
    try:
        onnx.checker.check_model(light)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ValueError(f"fastrnn.onnx: not a valid model: {error}") from None
    if not graph.output:
        raise ValueError("fastrnn.onnx: the model has no output")
