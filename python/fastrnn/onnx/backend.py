"""ONNX's common interface of its backends (onnx.backend.base)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from onnx.backend import base

from .graph import Model


class PreparedModel(base.BackendRep):
    """What :meth:`Backend.prepare` gives."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """inputs: arrays in the model's order, or by name, or the only one."""
        names = list(self._model.inputs)
        if isinstance(inputs, Mapping):
            feeds = dict(inputs)
        else:
            given = inputs if isinstance(inputs, Sequence) else [inputs]
            if len(given) != len(names):
                raise ValueError(
                    f"fastrnn.onnx: the model has {len(names)} inputs ({', '.join(names)}), got "
                    f"{len(given)}"
                )
            feeds = dict(zip(names, given, strict=True))
        return tuple(self._model.run(feeds).values())


class Backend(base.Backend):
    """Models of recurrent layers and what stands around them, on the CPU."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether :meth:`prepare` takes it."""
        try:
            cls.prepare(model, device)
        except (ValueError, TypeError):
            return False
        return True

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> PreparedModel:
        if not cls.supports_device(device):
            raise ValueError(f"fastrnn.onnx: the device must be 'CPU', got {device!r}")
        return PreparedModel(Model(model))

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Any = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """One node alone; ``opset_version`` names its opset, the newest otherwise."""
        to_type = onnx.helper.np_dtype_to_tensor_dtype
        names = [name for name in node.input if name]
        declared = [
            onnx.helper.make_tensor_value_info(name, to_type(a.dtype), a.shape)
            for name, a in zip(names, inputs, strict=True)
        ]
        undefined = onnx.TensorProto.FLOAT  # nothing here depends on it
        outputs = [
            onnx.helper.make_tensor_value_info(name, undefined, None)
            for name in node.output
            if name
        ]
        graph = onnx.helper.make_graph([node], "node", declared, outputs)
        version = kwargs.get("opset_version", onnx.defs.onnx_opset_version())
        imports = [onnx.helper.make_opsetid("", version)]
        return cls.run_model(onnx.helper.make_model(graph, opset_imports=imports), inputs, device)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """The CPU alone."""
        return device.partition(":")[0] == "CPU"
