"""Dropout between layers: the generator's known answers, the masks, inverted scaling."""

from __future__ import annotations

import numpy as np
import pytest

import fastrnn
from fastrnn.dropout import dropout_mask, layer_key, philox


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # Random123's kat_vectors, philox4x32 10
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers(counter, key, expected):
    words = philox(tuple(np.array([word], np.uint64) for word in counter), key[0] | key[1] << 32)
    assert tuple(int(word[0]) for word in words) == expected


def mask(shape=(9, 5, 13), p=0.3, **key):
    return dropout_mask(shape, p, np.float64, **{"seed": 1, "call": 2, "layer": 0} | key)


def test_a_mask_is_the_documented_function_of_its_key_and_place():
    whole = mask()
    for t, b, unit in ((0, 0, 0), (8, 4, 12), (3, 2, 7)):
        counter = tuple(np.array(word, np.uint64) for word in (unit // 4, b, t, 0))
        word = int(philox(counter, layer_key(1, 2, 0))[unit % 4])
        assert whole[t, b, unit] == (1 / 0.7 if word >= round(0.3 * 2**32) else 0.0)


def test_a_mask_does_not_depend_on_how_many_steps_rows_or_units_there_are():
    np.testing.assert_array_equal(mask((9, 5, 13))[:4, :2, :7], mask((4, 2, 7)))
    np.testing.assert_array_equal(mask((300, 8, 130))[:9, :5, :13], mask((9, 5, 13)))


@pytest.mark.parametrize("change", [{"seed": 2}, {"seed": 1 + 2**32}, {"call": 3}, {"layer": 1}])
def test_every_part_of_the_key_changes_the_mask(change):
    assert (mask() != mask(**change)).any()


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_a_share_p_is_dropped_and_the_mean_kept(p):
    values = mask((50, 40, 100), p)
    n = values.size
    dropped = int((values == 0).sum())
    assert abs(dropped - p * n) <= 5 * np.sqrt(n * p * (1 - p))
    assert set(np.unique(values)) <= {0.0, 1 / (1 - p) if p < 1 else 0.0}


def layer(**options):
    return fastrnn.LSTM(3, 8, 3, dropout=0.5, seed=1, dtype=np.float64, **options)


def test_rows_get_the_same_masks_in_a_batch_of_any_size():
    x = np.random.default_rng(0).standard_normal((6, 5, 3))
    whole, _ = layer().forward(x, training=True)
    part, _ = layer().forward(x[:, :2], training=True)
    np.testing.assert_array_equal(whole[:, :2], part)


def test_batch_first_draws_the_same_masks():
    x = np.random.default_rng(0).standard_normal((6, 5, 3))
    expected, _ = layer().forward(x, training=True)
    flipped, _ = layer(batch_first=True).forward(x.swapaxes(0, 1), training=True)
    np.testing.assert_array_equal(flipped.swapaxes(0, 1), expected)


def test_each_training_forward_draws_new_masks_and_inference_none():
    ours = layer()
    x = np.random.default_rng(0).standard_normal((6, 5, 3))
    first, second = (ours.forward(x, training=True)[0] for _ in range(2))
    assert (first != second).any()
    assert ours.dropout_calls == 2
    plain = fastrnn.LSTM(3, 8, 3, seed=1, dtype=np.float64)
    np.testing.assert_array_equal(ours.forward(x)[0], plain.forward(x)[0])
    assert ours.dropout_calls == 2


def test_the_last_level_is_not_dropped():
    y, _ = layer().forward(np.ones((6, 5, 3)), training=True)
    assert y.all()


def test_a_dropped_output_reaches_the_next_level_as_zero():
    ours = fastrnn.RNN(3, 8, 2, dropout=1.0, seed=1)
    x = np.ones((4, 2, 3), np.float32)
    y, _ = ours.forward(x, training=True)
    upper = fastrnn.RNN(8, 8, seed=1)
    upper.load_state_dict(
        {name.replace("_l1", "_l0"): v for name, v in ours.parameters.items() if "_l1" in name}
    )
    np.testing.assert_array_equal(y, upper.forward(np.zeros((4, 2, 8), np.float32))[0])
