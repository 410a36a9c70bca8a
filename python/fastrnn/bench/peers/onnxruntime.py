"""ONNX Runtime: a session with constant weights, results written through an I/O binding."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..problem import Array, Problem, Run, Unsupported
from . import onnx_graph


class OnnxRuntime:
    name = "onnxruntime"

    def __init__(self, threads: int) -> None:
        import_module("onnx")  # which builds the model
        self._ort: Any = import_module("onnxruntime")
        self.version = str(self._ort.__version__)
        self._threads = threads

    def prepare(self, problem: Problem, mode: str) -> Run:
        if mode == "train":
            raise Unsupported("does not train")
        if problem.case.float64:
            raise Unsupported("has no recurrent kernels in float64")
        ort = self._ort
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        session = ort.InferenceSession(
            onnx_graph.model(problem), options, providers=["CPUExecutionProvider"]
        )
        binding = session.io_binding()
        for name, array in onnx_graph.inputs(problem).items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        case = problem.case
        shape = [case.steps, case.batch, case.directions * case.hidden_size]
        y = ort.OrtValue.ortvalue_from_shape_and_type(shape, problem.x.dtype)
        binding.bind_ortvalue_output("y", y)

        def infer() -> Any:
            session.run_with_iobinding(binding)
            return y

        def to_numpy(y: Any) -> list[Array]:
            array = y.numpy()
            return [array[0] if case.step else array]

        return Run(infer, to_numpy)
