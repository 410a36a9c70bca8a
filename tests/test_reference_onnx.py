"""The reference against ONNX Runtime (float32), which alone also runs reset-before GRUs with
lengths and backwards.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from shapes import CELLS, GATES, as_states, functions, make_case
from tolerances import assert_close

from fastrnn import reference

onnx = pytest.importorskip("onnx", reason="builds ONNX models")
ort = pytest.importorskip("onnxruntime", reason="compares with ONNX Runtime")

# ONNX's gates, as places in torch's order: i o f c of i f g o, z r h of r z n.
GATE_ORDER = {1: [0], 3: [1, 0, 2], 4: [0, 3, 1, 2]}
T, B, I, H = 8, 4, 5, 6


def onnx_forward(
    cell: str, x: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, **options: Any
) -> tuple[Any, tuple[Any, ...]]:
    """y and the final states by ONNX Runtime."""
    G = GATES[cell]

    def reordered(w: Any) -> Any:
        return w.reshape(G, H, *w.shape[1:])[GATE_ORDER[G]].reshape(w.shape)

    feeds = {
        "X": x,
        "W": reordered(w_ih)[np.newaxis],
        "R": reordered(w_hh)[np.newaxis],
        "B": np.concatenate([reordered(b_ih), reordered(b_hh)])[np.newaxis],
        "sequence_lens": options.get("lengths"),
        "initial_h": options.get("h0"),
        "initial_c": options.get("c0"),
    }
    if feeds["sequence_lens"] is not None:
        feeds["sequence_lens"] = feeds["sequence_lens"].astype(np.int32)
    for name in ("initial_h", "initial_c"):
        if feeds[name] is not None:
            feeds[name] = feeds[name][np.newaxis]
    attributes: dict[str, Any] = {"hidden_size": H}
    if options.get("reverse"):
        attributes["direction"] = "reverse"
    if cell.startswith("gru"):
        attributes["linear_before_reset"] = int(cell == "gru")
    if cell.startswith("rnn"):
        attributes["activations"] = [cell.removeprefix("rnn_").title()]
    given = {name: array for name, array in feeds.items() if array is not None}
    names = list(feeds)[: 7 if cell == "lstm" else 6]
    outputs = ["Y", "Y_h", *(["Y_c"] if cell == "lstm" else [])]
    node = onnx.helper.make_node(
        cell.split("_")[0].upper(),
        [name if name in given else "" for name in names],
        outputs,
        **attributes,
    )
    graph = onnx.helper.make_graph(
        [node],
        cell,
        [
            onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape
            )
            for name, a in given.items()
        ],
        [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            for name in outputs
        ],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8
    )
    threads = ort.SessionOptions()
    threads.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), threads, providers=["CPUExecutionProvider"]
    )
    y, *final = session.run(None, given)
    return y[:, 0], tuple(s[0] for s in final)


@pytest.mark.parametrize("state", [False, True], ids=["zero_state", "state"])
@pytest.mark.parametrize("lengths", [False, True], ids=["whole", "lengths"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("cell", CELLS)
def test_forward_matches_onnx_runtime(cell: str, reverse: bool, lengths: bool, state: bool) -> None:
    case = make_case(cell, T, B, I, H, np.float32, reverse=reverse, lengths=lengths, state=state)
    theirs_y, theirs = onnx_forward(cell, **case.inputs)
    y, final, _ = functions(reference, cell).forward(**case.inputs)
    assert_close(theirs_y, y, "float32", "forward", T, name="y")
    # Of a row of length 0 ONNX Runtime returns zeros for its final state, not the initial one.
    rows = case.inputs.get("lengths", np.full(B, T)) > 0
    for name, a, b in zip(("h_n", "c_n"), theirs, as_states(final), strict=False):
        assert_close(a[rows], b[rows], "float32", "forward", T, name=name)
