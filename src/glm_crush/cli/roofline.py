"""How fast this machine can read: the bound on decoding, measured in half a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

__all__ = ["measure_bandwidth"]

_LARGEST_BUFFER = 2**28
_SMALLEST_BUFFER = 2**20
_BYTES_PER_ROUND = 2**26
_SECONDS = 0.5
_FEWEST_ROUNDS = 2


def measure_bandwidth(num_bytes: int, threads: int, *, clock: Callable[[], float] = time.perf_counter) -> float:
    """Bytes per second at which `threads` threads read a buffer of `num_bytes`, the best of repeated rounds.

    The size matters: a model that fits the last-level cache is read from there. Buffers above 256 MiB are not measured,
    memory is no slower for them. Each thread sums an array of its own: one vector addition per load is faster than any
    memory, and unlike a dot product it goes through no library with threads of its own.
    """
    import numpy as np
    import numpy.typing as npt

    share = min(max(num_bytes, _SMALLEST_BUFFER), _LARGEST_BUFFER) // threads // 8
    parts = [np.ones(share, np.uint64) for _ in range(threads)]  # written here, so every page exists
    passes = max(1, _BYTES_PER_ROUND // (share * threads * 8))  # so that starting the threads does not count

    def read(part: npt.NDArray[np.uint64]) -> None:
        for _ in range(passes):
            np.add.reduce(part)

    fastest = float("inf")
    begun = clock()
    rounds = 0
    with ThreadPoolExecutor(threads) as pool:
        while True:
            started = clock()
            if rounds >= _FEWEST_ROUNDS and started - begun > _SECONDS:
                break
            list(pool.map(read, parts))
            fastest = min(fastest, clock() - started)
            rounds += 1
    return threads * share * 8 * passes / fastest
