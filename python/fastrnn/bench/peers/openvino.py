"""OpenVINO: the ONNX model compiled for the latency of one request."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..problem import Array, Problem, Run, Unsupported
from . import onnx_graph


class OpenVino:
    name = "openvino"

    def __init__(self, threads: int) -> None:
        import_module("onnx")  # which builds the model
        self._openvino: Any = import_module("openvino")
        self.version = str(self._openvino.__version__).partition("-")[0]
        self._core = self._openvino.Core()
        self._settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",  # or it may compute in bfloat16
        }

    def prepare(self, problem: Problem, mode: str) -> Run:
        if mode == "train":
            raise Unsupported("does not train")
        if problem.case.float64:
            raise Unsupported("computes float64 in float32")
        model = self._core.read_model(onnx_graph.model(problem))
        request = self._core.compile_model(model, "CPU", self._settings).create_infer_request()
        for name, array in onnx_graph.inputs(problem).items():
            request.set_tensor(name, self._openvino.Tensor(array, shared_memory=False))

        def infer() -> Any:
            request.infer()
            return request

        def to_numpy(request: Any) -> list[Array]:
            array = request.get_output_tensor(0).data
            return [array[0] if problem.case.step else array]

        return Run(infer, to_numpy)
