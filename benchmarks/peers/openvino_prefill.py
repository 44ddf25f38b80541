"""Measure OpenVINO GenAI in process; runs in the peers' environment and prints one JSON object.

    $PEERS/venv/bin/python openvino_prefill.py MODEL_DIR --backend SDPA|PA [--tokens 512] [--generate 0] [--repeat 5]

Prefill is the time from the call to the first token of a prompt of random ids; every prompt is another one, so no
prefix cache helps. With `--generate N`, decode is measured too, as N tokens over the rest of the time.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import openvino
import openvino_genai


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--backend", choices=("SDPA", "PA"), default="SDPA")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--generate", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    options = {"INFERENCE_NUM_THREADS": arguments.threads, "PERFORMANCE_HINT": "LATENCY"}
    pipeline = openvino_genai.LLMPipeline(arguments.model, "CPU", ATTENTION_BACKEND=arguments.backend, **options)
    generator = np.random.default_rng(time.time_ns())

    def seconds(num_tokens: int, new_tokens: int) -> float:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.do_sample, config.ignore_eos = new_tokens, False, True
        prompt = openvino.Tensor(generator.integers(10, 40000, (1, num_tokens)).astype(np.int64))
        start = time.perf_counter()
        pipeline.generate(prompt, config)
        return time.perf_counter() - start

    seconds(arguments.tokens, 1)
    prefill, decode = [], []
    for _ in range(arguments.repeat):
        first = seconds(arguments.tokens, 1)
        prefill.append(arguments.tokens / first)
        if arguments.generate:
            start = seconds(1, 1)
            decode.append(arguments.generate / (seconds(1, arguments.generate + 1) - start))
    print(json.dumps({"prefill": prefill, "decode": decode}))


if __name__ == "__main__":
    main()
