"""Every random mask, from one counter-based generator: Philox4x32-10.

J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3",
SC 2011, section 4.4 (Philox), and the Random123 library's known answers, against which it is
tested.

An element's fate depends on (key, stream, t, b, unit) and on nothing else: not on the number of
steps, rows or threads, nor on the order in which anything is computed. It is word unit % 4 of
philox((unit // 4, b, t, stream), key); an event of probability p happens where that word is less
than round(p * 2**32). The streams:

    0  dropout between layers: the element is dropped
    1  recurrent dropout, with t = 0: the unit of h is dropped, the same at every step
    2  zoneout of h: the unit keeps its old value       3  zoneout of c
    4  DropConnect, with t = 0, b the row and unit the column of w_hh: the weight is dropped
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

# 32 bits each: ints, or arrays of uint64, so that a product's upper half is not lost
Words = Any

BETWEEN_LAYERS, RECURRENT, ZONEOUT_H, ZONEOUT_C, WEIGHT = range(5)

_ROUNDS = 10
_LOW = 0xFFFFFFFF
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85

_COUNTERS_AT_ONCE = (
    1 << 13
)  # the working arrays of a block (about 10 of 64 KiB) stay in the L2 cache


def philox(
    counter: tuple[Words, Words, Words, Words], key: int
) -> tuple[Words, Words, Words, Words]:
    """Philox4x32-10: four 32-bit words for each counter of four 32-bit words, under a 64-bit key.

    The four counters are ints, or arrays that are broadcast against each other.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key & _LOW, key >> 32
    for _ in range(_ROUNDS):
        product0, product1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (product1 >> 32) ^ c1 ^ k0,
            product1 & _LOW,
            (product0 >> 32) ^ c3 ^ k1,
            product0 & _LOW,
        )
        k0, k1 = (k0 + _KEY_STEPS[0]) & _LOW, (k1 + _KEY_STEPS[1]) & _LOW
    return c0, c1, c2, c3


def layer_key(seed: int, call: int, layer: int, direction: int = 0) -> int:
    """The 64-bit key of one layer in one call: two words of philox under the seed."""
    low, high, _, _ = philox((call & _LOW, call >> 32, layer, direction), seed)
    key: int = low | high << 32
    return key


def happens(shape: tuple[int, int, int], p: float, key: int, stream: int) -> npt.NDArray[np.bool_]:
    """Where an event of probability p happens, for t, b, unit below `shape`."""
    steps, batch, units = shape
    blocks = -(-units // 4)
    block = np.arange(blocks, dtype=np.uint64)
    row = np.arange(batch, dtype=np.uint64)[:, None]
    which = np.array(stream, np.uint64)
    threshold = np.uint64(round(p * 2**32))

    result = np.empty(shape, bool)
    stride = max(1, _COUNTERS_AT_ONCE // max(1, batch * blocks))
    for start in range(0, steps, stride):
        stop = min(start + stride, steps)
        time = np.arange(start, stop, dtype=np.uint64)[:, None, None]
        words = np.stack(philox((block, row, time, which), key), axis=-1)
        result[start:stop] = words.reshape(stop - start, batch, 4 * blocks)[..., :units] < threshold
    return result


def kept(shape: tuple[int, int, int], p: float, key: int, stream: int) -> npt.NDArray[Any]:
    """Inverted dropout: 0 with probability p, else 1 / (1 - p)."""
    scale = 1.0 / (1.0 - p) if p < 1.0 else 0.0
    return np.where(happens(shape, p, key, stream), 0.0, scale)
