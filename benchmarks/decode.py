"""N1: decode of one stream, SmolLM2-135M, against llama.cpp's fastest format.

128 tokens from an empty cache and 32 tokens behind 4,096 (with a bfloat16 and with an int8 cache), 4-bit against Q4_0
and 8-bit against Q8_0. Both engines read the same GGUF file; llama.cpp takes the faster of its f16 and q8_0 caches. The
limit is memory bandwidth over the bytes a token must read.
"""

from __future__ import annotations

from functools import partial

from harness import arguments, compare, print_header
from peers.engines import Llama, Ours, Task
from peers.model_shapes import cost
from peers.paths import model
from roofline import measure

FIGURES = (
    ("q4", "bf16", "smollm2-q4_0.gguf", Task(generate_tokens=128), 2.0),
    ("q4", "bf16", "smollm2-q4_0.gguf", Task(generate_tokens=32, depth=4096), 3.0),
    ("q4", "int8", "smollm2-q4_0.gguf", Task(generate_tokens=32, depth=4096), 3.0),
    ("q8", "bf16", "smollm2-q8_0.gguf", Task(generate_tokens=128), 1.9),
)


def main() -> None:
    """Print the figures."""
    options = arguments(__doc__).parse_args()
    print_header("N1: decode, SmolLM2-135M, one stream")
    for weight_format, kv_dtype, file, task, target in FIGURES:
        ours = Ours(model(file), weight_format, options.threads, kv_dtype)
        peers = Llama(model(file), options.threads).settings()
        read = cost("smollm2-135m").decode_bytes(weight_format, task.depth, kv_dtype)
        limit = partial(_limit, options.threads, read)
        compare(ours, peers, task, options.rounds, limit).report(target)


def _limit(threads: int, bytes_per_token: float) -> float:
    return measure(threads).bytes_per_second / bytes_per_token


if __name__ == "__main__":
    main()
