"""How fast this machine can read: the bound on decoding, measured in a second."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

__all__ = ["measure_bandwidth"]

_LARGEST_BUFFER = 2**30
_SMALLEST_BUFFER = 2**20
_SECONDS = 0.6


def measure_bandwidth(num_bytes: int, threads: int) -> float:
    """Bytes per second at which `threads` threads read a buffer of `num_bytes`, the best of repeated passes.

    The size matters: a model that fits the last-level cache is read from there. Buffers above 1 GiB are not measured,
    memory is no slower for them.
    """
    import numpy as np
    import numpy.typing as npt

    size = min(max(num_bytes, _SMALLEST_BUFFER), _LARGEST_BUFFER)
    parts = [np.ones(size // threads // 8, dtype=np.float64) for _ in range(threads)]

    def read(part: npt.NDArray[np.float64]) -> float:
        return float(np.dot(part, part))  # one stream of loads; the fused multiply-adds are faster than any memory

    best = 0.0
    deadline = time.perf_counter() + _SECONDS
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, parts))  # first touch
        while time.perf_counter() < deadline:
            started = time.perf_counter()
            list(pool.map(read, parts))
            best = max(best, size / (time.perf_counter() - started))
    return best
