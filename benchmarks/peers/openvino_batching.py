"""OpenVINO GenAI's continuous-batching pipeline as a process: one workload a line in, its times out, as JSON.

    $PEERS/venv/bin/python openvino_batching.py MODEL_DIR --threads 2

As many requests as there are clients are in flight. A request's first token counts from `add_request` to the end of the
step that gave it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from typing import Any

import numpy as np
import openvino
import openvino_genai as genai


def play(pipeline: Any, numbers: Any, order: dict[str, Any]) -> dict[str, Any]:
    """Run one workload."""
    config = genai.GenerationConfig()
    config.max_new_tokens, config.do_sample, config.ignore_eos = order["output_tokens"], False, True
    todo = [openvino.Tensor(np.array([prompt], np.int64)) for prompt in order["prompts"]][::-1]
    live: list[list[Any]] = []  # handle, start, last arrival
    first_token, total, gaps, tokens = [], [], [], 0
    begin = time.perf_counter()
    while todo or live:
        while todo and len(live) < order["clients"]:
            start = time.perf_counter()
            live.append([pipeline.add_request(next(numbers), todo.pop(), config), start, None])
        pipeline.step()
        now = time.perf_counter()
        for request in list(live):
            handle, start, last = request
            count = 0
            while handle.can_read():
                count += sum(len(output.generated_ids) for output in handle.read().values())
            if count:
                (first_token if last is None else gaps).append(now - (start if last is None else last))
                request[2] = now
                tokens += count
            if handle.get_status() != genai.GenerationStatus.RUNNING:
                total.append(now - start)
                live.remove(request)
    wall = time.perf_counter() - begin
    return {"wall": wall, "output_tokens": tokens, "first_token": first_token, "total": total, "gaps": gaps}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = 2
    scheduler.max_num_seqs = 64
    scheduler.max_num_batched_tokens = 512
    scheduler.enable_prefix_caching = True
    options = {"INFERENCE_NUM_THREADS": arguments.threads}
    pipeline = genai.ContinuousBatchingPipeline(arguments.model, scheduler, "CPU", options)
    numbers = itertools.count()
    for line in sys.stdin:
        print(json.dumps(play(pipeline, numbers, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
