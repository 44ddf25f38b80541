"""N2: prefill of 512 tokens, SmolLM2-135M 4-bit, against the best of llama.cpp and OpenVINO GenAI.

OpenVINO runs its int4 and int8 exports with both of its attention backends; llama.cpp runs Q4_0 and Q8_0. The fastest
of them all is the peer. The limit is the peak of int8 dot products over the operations of the matrix products.
"""

from __future__ import annotations

from harness import arguments, compare, print_header
from peers.engines import Engine, Llama, OpenVino, Ours, Task
from peers.model_shapes import cost
from peers.paths import model
from roofline import measure

TASK = Task(prompt_tokens=512)
TARGET = 1.4


def main() -> None:
    """Print the figure."""
    options = arguments(__doc__).parse_args()
    print_header("N2: prefill of 512 tokens, SmolLM2-135M")
    peers: list[Engine] = []
    for weights in ("int4", "int8"):
        peers += OpenVino(model(f"ov-{weights}"), options.threads).settings()
    for quant in ("q4_0", "q8_0"):
        peers += Llama(model(f"smollm2-{quant}.gguf"), options.threads).settings()
    operations = cost("smollm2-135m").prefill_operations()
    ours = Ours(model("smollm2-q4_0.gguf"), "q4", options.threads)

    def limit() -> float:
        return measure(options.threads).int8_operations_per_second / operations

    compare(ours, peers, TASK, options.rounds, limit).report(TARGET)


if __name__ == "__main__":
    main()
