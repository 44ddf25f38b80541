"""N6: the physical limits of this machine: memory read bandwidth and the peak of int8 dot products.

Every other benchmark prints its distance to these. A small C++ program measures them (`roofline.cpp`).
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness import arguments, print_header
from peers.model_shapes import SHAPES, cost
from peers.paths import ROOT


@dataclass(frozen=True)
class Limits:
    """What the machine can do at most."""

    bytes_per_second: float
    int8_operations_per_second: float


def measure(threads: int) -> Limits:
    """Measure the limits with `threads` threads (some seconds); builds the program when it is new."""
    source = Path(__file__).with_suffix(".cpp")
    program = ROOT / "roofline"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        ROOT.mkdir(parents=True, exist_ok=True)
        compiler = os.environ.get("CXX", "g++")
        flags = ("-O3", "-march=native", "-std=c++20", "-pthread")
        subprocess.run([compiler, *flags, source, "-o", program], check=True)
    printed = subprocess.run([program, str(threads)], check=True, capture_output=True, text=True).stdout
    return Limits(**json.loads(printed))


def main() -> None:
    """Print the limits, and what they allow for each shape."""
    options = arguments(__doc__).parse_args()
    print_header("Physical limits")
    for threads in sorted({1, options.threads}):
        limits = measure(threads)
        bandwidth, peak = limits.bytes_per_second / 1e9, limits.int8_operations_per_second / 1e12
        print(f"{threads} thread(s): memory read {bandwidth:.1f} GB/s, int8 dot products {peak:.2f} TOPS")
    print(f"\n{'at most, tokens/s':<18}{'decode q4':>12}{'decode q8':>12}{'q4 at 4096':>12}{'prefill':>12}")
    for shape in SHAPES:
        one = cost(shape)
        decodes = [one.decode_bytes("q4", 0), one.decode_bytes("q8", 0), one.decode_bytes("q4", 4096)]
        figures = [limits.bytes_per_second / read for read in decodes]
        figures.append(limits.int8_operations_per_second / one.prefill_operations())
        print(f"{shape:<18}" + "".join(f"{figure:12.0f}" for figure in figures))


if __name__ == "__main__":
    main()
