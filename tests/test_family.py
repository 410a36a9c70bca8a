"""The features of the family on every CPU backend against the float64 reference: each alone, and
some thousand seeded combinations; threads, streaming and what is off.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from family import EVERY_ONE, Case, alone, combination
from tolerances import assert_close

import fastrnn
from fastrnn import reference

BACKENDS = [name for name in fastrnn.backends() if name != "cuda"]
DTYPES = (np.float32, np.float64)
COMBINATIONS = 400


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def threads() -> Any:
    before = fastrnn.get_num_threads()
    yield fastrnn.set_num_threads
    fastrnn.set_num_threads(before)


def check(case: Case, dtype: Any, backend: str) -> None:
    named, gradients = case.run(fastrnn, backend=backend)
    expected, expected_gradients = case.run(reference)
    assert named.keys() == expected.keys()
    for name, value in expected.items():
        assert named[name].dtype == dtype
        assert_close(named[name], value, dtype, "forward", name=f"{name} of {case.name}")
    assert gradients._fields == expected_gradients._fields
    # gradients of one call are compared with the largest of their kind: with few units a lone one
    # may be the difference of terms many times its size
    for name, value in zip(gradients._fields, expected_gradients, strict=True):
        got = getattr(gradients, name)
        label = f"{name} of {case.name}"
        assert_close(got, value, dtype, "gradient", name=label)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("cell", "feature"), EVERY_ONE, ids=["-".join(e) for e in EVERY_ONE])
def test_each_feature_matches_reference(cell: str, feature: str, dtype: Any, backend: str) -> None:
    for H in (7, 16, 33):
        check(alone(cell, feature, dtype, seed=H, H=H), dtype, backend)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("part", range(8))
def test_combinations_match_reference(part: int, dtype: Any, backend: str) -> None:
    for seed in range(part, COMBINATIONS, 8):
        check(combination(seed, dtype), dtype, backend)
