"""The layouts: one entry a framework, as its documentation or its source has it."""

from __future__ import annotations

from dataclasses import dataclass

from .biases import BiasRule, CandidateApart, Joined, One, Two
from .direction import GATES
from .form import Arrangement, Form
from .stacks import Flat, InNames, InTorchNames, OnAxis, OneDnn, Stack


@dataclass(frozen=True)
class Layout:
    """A framework's forms, by kind of cell, and how it keeps several of them."""

    name: str
    forms: dict[str, Form]
    stack: Stack


def _layout(name: str, *forms: Form, stack: Stack | None = None) -> Layout:
    return Layout(name, {form.kind: form for form in forms}, stack or InNames())


def _torch() -> Layout:
    return _layout(
        "torch", *_two_biases("weight_ih", "weight_hh", "bias_ih", "bias_hh"), stack=InTorchNames()
    )


def _two_biases(ih: str, hh: str, b_ih: str, b_hh: str) -> list[Form]:
    return [Form(kind, order, ih, hh, Two(b_ih, b_hh, len(order))) for kind, order in GATES.items()]


def _cudnn(name: str) -> Layout:
    forms = _two_biases("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return _layout(name, *[f for f in forms if f.kind != "gru_reset_before"], stack=Flat())


def _onnx() -> Layout:
    orders = {"lstm": "iofg", "gru": "zrn", "gru_reset_before": "zrn", "rnn": "h"}
    forms = [
        Form(kind, order, "W", "R", Joined("B", len(order), stacked=False))
        for kind, order in orders.items()
    ]
    return _layout("onnx", *forms, stack=OnAxis())


def _keras(name: str, rnn: bool) -> Layout:
    def form(kind: str, order: str, bias: BiasRule) -> Form:
        return Form(kind, order, "kernel", "recurrent_kernel", bias, transposed=True)

    forms = [
        form("lstm", "ifgo", One("bias", 4)),
        form("gru", "zrn", Joined("bias", 3, stacked=True)),
        form("gru_reset_before", "zrn", One("bias", 3)),
        form("rnn", "h", One("bias", 1)),
    ]
    return _layout(name, *(forms if rnn else forms[:3]))


def _flax() -> Layout:
    def form(kind: str, order: str, bias: BiasRule) -> Form:
        return Form(kind, order, "dense_i.kernel", "dense_h.kernel", bias, transposed=True)

    return _layout(
        "flax",
        form("lstm", "ifgo", One("dense_h.bias", 4)),
        form("gru", "rzn", One("dense_i.bias", 3, inside=True)),
        form("rnn", "h", One("dense_i.bias", 1)),
    )


def _flax_lstm_cell() -> Layout:
    parts = Arrangement(
        {
            "i": tuple((f"{name}.kernel", 1) for name in ("ii", "if_", "ig", "io")),
            "h": tuple((f"h{gate}.kernel", 1) for gate in "ifgo"),
            "bias": tuple((f"h{gate}.bias", 1) for gate in "ifgo"),
        }
    )
    return _layout(
        "flax_lstm_cell",
        Form("lstm", "ifgo", "i", "h", One("bias", 4), transposed=True, arrangement=parts),
    )


def _haiku() -> Layout:
    return _layout(
        "haiku",
        Form("lstm", "igfo", "w", "w", One("b", 4), transposed=True, extra=("f", 1.0), biased=True),
        Form(
            "gru_reset_before",
            "zrn",
            "w_i",
            "w_h",
            One("b", 3),
            transposed=True,
            inverted=True,
            biased=True,
        ),
        Form(
            "rnn",
            "h",
            "input_to_hidden.w",
            "hidden_to_hidden.w",
            One("input_to_hidden.b", 1),
            transposed=True,
            biased=True,
        ),
    )


def _equinox() -> Layout:
    return _layout(
        "equinox",
        Form("lstm", "ifgo", "weight_ih", "weight_hh", One("bias", 4)),
        Form("gru", "rzn", "weight_ih", "weight_hh", CandidateApart("bias", "bias_n")),
    )


def _mlx() -> Layout:
    return _layout(
        "mlx",
        Form("lstm", "ifgo", "Wx", "Wh", One("bias", 4)),
        Form("gru", "rzn", "Wx", "Wh", CandidateApart("b", "bhn")),
        Form("rnn", "h", "Wxh", "Whh", One("bias", 1)),
    )


def _onednn() -> Layout:
    def form(kind: str, order: str, bias: BiasRule) -> Form:
        return Form(
            kind, order, "weights_layer", "weights_iter", bias, transposed=True, biased=True
        )

    return _layout(
        "onednn",
        form("lstm", "ifgo", One("bias", 4)),
        form("gru", "zrn", CandidateApart("bias")),
        form("gru_reset_before", "zrn", One("bias", 3)),
        form("rnn", "h", One("bias", 1)),
        stack=OneDnn(),
    )


def _openvino() -> Layout:
    return _layout(
        "openvino",
        Form("lstm", "figo", "W", "R", One("B", 4), biased=True),
        Form("gru", "zrn", "W", "R", CandidateApart("B"), biased=True),
        Form("gru_reset_before", "zrn", "W", "R", One("B", 3), biased=True),
        Form("rnn", "h", "W", "R", One("B", 1), biased=True),
        stack=OnAxis(),
    )


def _haste() -> Layout:
    return _layout(
        "haste",
        Form(
            "lstm",
            "igfo",
            "kernel",
            "recurrent_kernel",
            One("bias", 4),
            transposed=True,
            biased=True,
        ),
        Form(
            "gru",
            "zrn",
            "kernel",
            "recurrent_kernel",
            Two("bias", "recurrent_bias", 3),
            transposed=True,
            biased=True,
        ),
    )


def _ncnn() -> Layout:
    names = "weight_xc", "weight_hc"
    return _layout(
        "ncnn",
        Form("lstm", "ifog", *names, One("bias_c", 4), biased=True),
        Form("gru", "rzn", *names, CandidateApart("bias_c"), biased=True),
        Form("rnn", "h", *names, One("bias_c", 1), biased=True),
        stack=OnAxis(),
    )


def _tf1() -> Layout:
    gru = Arrangement(
        {
            "kernel": (("gates/kernel", 2), ("candidate/kernel", 1)),
            "bias": (("gates/bias", 2), ("candidate/bias", 1)),
        }
    )
    return _layout(
        "tf1",
        Form(
            "lstm",
            "igfo",
            "kernel",
            "kernel",
            One("bias", 4),
            transposed=True,
            extra=("f", 1.0),
            biased=True,
        ),
        Form(
            "gru_reset_before",
            "rzn",
            "kernel",
            "kernel",
            One("bias", 3),
            transposed=True,
            biased=True,
            arrangement=gru,
        ),
        Form("rnn", "h", "kernel", "kernel", One("bias", 1), transposed=True, biased=True),
    )


def _webnn() -> Layout:
    orders = {"lstm": "iofg", "gru": "zrn", "gru_reset_before": "zrn"}
    return _layout(
        "webnn",
        *[
            Form(kind, order, "weight", "recurrentWeight", Two("bias", "recurrentBias", len(order)))
            for kind, order in orders.items()
        ],
        stack=OnAxis(),
    )


LAYOUTS = {
    layout.name: layout
    for layout in (
        _torch(),
        _cudnn("cudnn"),
        _cudnn("jax"),
        _onnx(),
        _keras("keras", rnn=True),
        _flax(),
        _flax_lstm_cell(),
        _haiku(),
        _equinox(),
        _mlx(),
        _onednn(),
        _openvino(),
        _haste(),
        _ncnn(),
        _keras("rtneural", rnn=False),
        _tf1(),
        _webnn(),
    )
}
