"""Time to the first token of a prompt after a restart, with and without a prefix store; and what storing costs.

    prefix_store.py [--rounds 3] [--prompt-tokens 1000 4000] [--kv-dtype int8]

Each time is that of an engine that has just been started: "fresh" computes the prompt, "storing" computes and stores
it, "restored" finds it on disk. The three replies must be equal. What is on disk is in the system's file cache, as
after a restart of the server and not of the machine; `--cold` drops it from there first.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
from pathlib import Path

from glm_crush import LLM, SamplingParams
from harness import Spread, arguments, print_header
from peers.paths import model

PARAMS = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)


def first_token(prompt: list[int], store: Path | None, options: argparse.Namespace) -> tuple[float, tuple[int, ...]]:
    """Seconds to the first token in an engine that has computed something else before, and the reply."""
    with LLM(
        model("smollm2-q4_0.gguf"),
        weight_format="q4",
        threads=options.threads,
        kv_dtype=options.kv_dtype,
        prefix_store=store,
        speculation="off",
    ) as llm:
        llm.generate([[5, 6, 7]], PARAMS)
        [output] = llm.generate([prompt], PARAMS)
    assert output.time_to_first_token_seconds is not None
    return output.time_to_first_token_seconds, output.outputs[0].token_ids


def drop_from_file_cache(folder: str) -> None:
    """Write everything out and forget it."""
    for path in Path(folder).rglob("blocks"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    """Print the three times for each length, and their ratios."""
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--prompt-tokens", type=int, nargs="+", default=[1000, 4000])
    parser.add_argument("--kv-dtype", default="int8", choices=("bf16", "int8", "f32"))
    parser.add_argument("--cold", action="store_true", help="read from the disk itself")
    options = parser.parse_args()
    print_header(f"Prefix store: first token after a restart, SmolLM2-135M 4-bit, {options.kv_dtype} cache")
    for length in options.prompt_tokens:
        times: dict[str, list[float]] = {"fresh": [], "storing": [], "restored": []}
        num_bytes = 0
        for number in range(options.rounds):
            rng = random.Random(number)
            prompt = [rng.randrange(1000, 20_000) for _ in range(length)]
            replies = set()
            with tempfile.TemporaryDirectory() as folder:
                for name in times:
                    if name == "restored" and options.cold:
                        drop_from_file_cache(folder)
                    seconds, reply = first_token(prompt, None if name == "fresh" else Path(folder), options)
                    times[name].append(seconds)
                    replies.add(reply)
                num_bytes = sum(path.stat().st_size for path in Path(folder).rglob("blocks"))
            if len(replies) != 1:
                raise SystemExit(f"the replies differ: {replies}")
        print(f"prompt of {length} tokens, {num_bytes / 1e6:.0f} MB on disk")
        for name, seconds_of in times.items():
            print(f"  {name:<9} {Spread.of([1e3 * seconds for seconds in seconds_of])} ms")
        faster = [fresh / restored for fresh, restored in zip(times["fresh"], times["restored"], strict=True)]
        cost = [storing / fresh for fresh, storing in zip(times["fresh"], times["storing"], strict=True)]
        print(f"  restored is {Spread.of(faster)}x as fast; storing takes {Spread.of(cost)}x the time", flush=True)


if __name__ == "__main__":
    main()
