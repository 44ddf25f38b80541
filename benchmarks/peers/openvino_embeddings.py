"""Measure OpenVINO on an embedding model; runs in the peers' environment and prints one JSON object.

    $PEERS/venv/bin/python openvino_embeddings.py MODEL_DIR --threads 2 --batch 32 < TOKEN_IDS

Standard input has one JSON list of token ids a line. Texts are sorted by length and padded within a batch, as
sentence-transformers does it, then pooled (mean) and normalised with NumPy. Tokenising is not part of it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import numpy as np
import openvino


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=1.0)
    arguments = parser.parse_args()
    texts = [json.loads(line) for line in sys.stdin]
    hint = "LATENCY" if arguments.batch == 1 else "THROUGHPUT"
    options = {"INFERENCE_NUM_THREADS": arguments.threads, "PERFORMANCE_HINT": hint, "NUM_STREAMS": 1}
    compiled = openvino.Core().compile_model(f"{arguments.model}/openvino_model.xml", "CPU", options)
    request = compiled.create_infer_request()
    names = {name for port in compiled.inputs for name in port.names}

    def embed(batch: list[list[int]]) -> np.ndarray:
        width = max(map(len, batch))
        ids = np.zeros((len(batch), width), np.int64)
        mask = np.zeros_like(ids)
        for row, text in enumerate(batch):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1
        inputs = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in names:
            inputs["token_type_ids"] = np.zeros_like(ids)
        hidden = request.infer(inputs)[0]
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    order = sorted(texts, key=len)
    batches = [order[start : start + arguments.batch] for start in range(0, len(order), arguments.batch)]
    for batch in batches:
        embed(batch)
    speeds = []
    deadline = time.perf_counter() + arguments.seconds
    while not speeds or time.perf_counter() < deadline:
        start = time.perf_counter()
        for batch in batches:
            embed(batch)
        speeds.append(len(texts) / (time.perf_counter() - start))
    first = embed([texts[0]])[0]
    print(json.dumps({"texts_per_second": float(np.median(speeds)), "first": first.tolist()}))


if __name__ == "__main__":
    main()
