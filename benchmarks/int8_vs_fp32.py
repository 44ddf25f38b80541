"""N12: 8-bit weights against 32-bit ones, both in this engine: size of the packed weights, speed of decode and prefill.

SmolLM2-135M from its float16 GGUF file. Targets: at most 26 % of the size, at least 2.4 times the decode speed.
"""

from __future__ import annotations

from harness import arguments, compare, print_header
from peers.engines import Ours, Task, glm_bench
from peers.paths import model

MAX_SIZE = 0.26
MIN_SPEED = 2.4


def main() -> None:
    """Print size and speed."""
    options = arguments(__doc__).parse_args()
    print_header("N12: int8 against fp32, SmolLM2-135M")
    file = model("smollm2-f16.gguf")
    quick = ("--prompt-tokens", "1", "--generate-tokens", "1", "--repeat", "1")
    size = {name: glm_bench(file, "--weight-format", name, *quick)["weight_bytes"] for name in ("q8", "f32")}
    share = size["q8"] / size["f32"]
    met = "met" if share <= MAX_SIZE else "NOT met"
    print(
        f"size: {size['q8']:,} of {size['f32']:,} bytes, {100 * share:.2f} %; at most {100 * MAX_SIZE:.0f} %: {met}\n"
    )
    int8, fp32 = (Ours(file, name, options.threads) for name in ("q8", "f32"))
    for task in (Task(generate_tokens=128), Task(prompt_tokens=512)):
        compare(int8, [fp32], task, options.rounds).report(MIN_SPEED)


if __name__ == "__main__":
    main()
