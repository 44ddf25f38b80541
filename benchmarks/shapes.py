"""N5 and N6: the random-weight shapes in 4-bit against llama.cpp Q4_0: prefill, decode, decode at depth 4,096.

`dense-1.5b` is bound by memory and shows the share of the physical limit (N6: 88 % of the bandwidth, 68 % of the int8
peak); `glm4moe-small` has the architecture of GLM-4.6 (N5).
"""

from __future__ import annotations

from functools import partial

from harness import arguments, compare, print_header
from peers.engines import Llama, Ours, Task
from peers.model_shapes import cost
from peers.paths import model
from roofline import measure

TASKS = {
    "prefill": Task(prompt_tokens=512),
    "decode": Task(generate_tokens=64),
    "deep": Task(generate_tokens=32, depth=4096),
}
TARGETS = {
    "dense-1.5b": {"prefill": 2.6, "decode": 1.7, "deep": 2.6},
    "glm4moe-small": {"prefill": 4.5, "decode": 1.9, "deep": 2.0},
}


def main() -> None:
    """Print the figures of the chosen shapes."""
    parser = arguments(__doc__)
    parser.add_argument("--task", choices=TASKS, action="append", help="default: all; `deep` takes minutes a round")
    parser.add_argument("shapes", nargs="*", metavar="|".join(TARGETS), help="default: both")
    options = parser.parse_args()
    print_header("N5, N6: random-weight shapes, 4-bit")
    for shape in options.shapes or TARGETS:
        print(f"## {shape}\n")
        file = model(f"{shape}-q4_0.gguf")
        for name in options.task or TASKS:
            task, target = TASKS[name], TARGETS[shape][name]
            ours = Ours(file, "q4", options.threads, kv_dtype="int8")  # as served by default
            limit = partial(_limit, shape, task, options.threads)
            compare(ours, Llama(file, options.threads).settings(), task, options.rounds, limit).report(target)


def _limit(shape: str, task: Task, threads: int) -> float:
    machine = measure(threads)
    if task.prompt_tokens:
        return machine.int8_operations_per_second / cost(shape).prefill_operations()
    return machine.bytes_per_second / cost(shape).decode_bytes("q4", task.depth, "int8")


if __name__ == "__main__":
    main()
