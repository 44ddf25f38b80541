"""Texts embedded per second, and the time one text takes, beside OpenVINO.

    python benchmarks/embeddings.py [--rounds 5] [--formats f32 q8]

all-MiniLM-L6-v2 (`glm pull minilm`), mean pooling. Three loads, all with token ids ready: one text of 16 tokens at a
time; 256 texts of 8 to 64 tokens; 64 texts of 256 tokens. OpenVINO runs the same model with f32 and with int8 weights
(`benchmarks/peers/setup.py openvino embeddings` exports them), with several batch sizes, of which the fastest counts.
Ours and the peer run in turn; the ratio is taken within each round. The cosine to transformers' f32 result is in
docs/apis/embeddings.md.
"""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glm_crush import EmbeddingModel
from glm_crush.tokenizer.encoded_text import EncodedText
from harness import Spread, arguments, print_header
from peers.paths import VENV, model

SCRIPT = Path(__file__).parent / "peers" / "openvino_embeddings.py"
BATCHES = (1, 8, 32)


@dataclass(frozen=True)
class Load:
    """Token ids of some texts; `alone`: one at a time."""

    name: str
    texts: list[list[int]]
    alone: bool = False


def loads(vocab_size: int) -> list[Load]:
    """The three, from a fixed seed; ids are those of words."""
    random = np.random.default_rng(1)

    def text(length: int) -> list[int]:
        return [101, *(int(token) for token in random.integers(2000, vocab_size - 1000, length - 2)), 102]

    return [
        Load("one text of 16 tokens at a time", [text(16) for _ in range(16)], alone=True),
        Load("256 texts of 8 to 64 tokens", [text(int(length)) for length in random.integers(8, 65, 256)]),
        Load("64 texts of 256 tokens", [text(256) for _ in range(64)]),
    ]


def our_speed(embedder: EmbeddingModel, load: Load, seconds: float = 1.0) -> float:
    """Texts per second."""
    texts = [EncodedText(ids) for ids in load.texts]
    runner = embedder.encoder.runner
    groups = [[text] for text in texts] if load.alone else [texts]
    for group in groups:
        runner.run_all(group)
    speeds = []
    deadline = time.perf_counter() + seconds
    while not speeds or time.perf_counter() < deadline:
        start = time.perf_counter()
        for group in groups:
            runner.run_all(group)
        speeds.append(len(texts) / (time.perf_counter() - start))
    return float(np.median(speeds))


def peer_speed(weights: str, load: Load, threads: int, batch: int) -> tuple[float, list[float]]:
    """Texts per second of OpenVINO, and its first vector."""
    command = [VENV / "bin" / "python", SCRIPT, model(f"minilm-ov-{weights}"), "--threads", threads, "--batch", batch]
    lines = "\n".join(json.dumps(text) for text in load.texts)
    done = subprocess.run([str(part) for part in command], input=lines, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    return result["texts_per_second"], result["first"]


def main() -> None:
    """The command line."""
    parser = arguments(__doc__)
    parser.add_argument("--formats", nargs="+", default=["f32", "q8"])
    chosen = parser.parse_args()
    print_header("Embeddings: all-MiniLM-L6-v2")
    models = {fmt: EmbeddingModel("minilm", weight_format=fmt, threads=chosen.threads) for fmt in chosen.formats}
    first = next(iter(models.values()))
    for load in loads(first.encoder.vocab_size):
        tokens = sum(map(len, load.texts)) / len(load.texts)
        print(f"{load.name} ({tokens:.0f} tokens on average)")
        peers = {}
        for weights in ("fp32", "int8"):
            tried = {b: peer_speed(weights, load, chosen.threads, b)[0] for b in ((1,) if load.alone else BATCHES)}
            peers[weights] = max(tried, key=tried.__getitem__)
        for fmt, embedder in models.items():
            weights = "fp32" if fmt in ("f32", "bf16") else "int8"
            ours, theirs = [], []
            for number in range(chosen.rounds):
                for side in (0, 1) if number % 2 == 0 else (1, 0):
                    if side == 0:
                        ours.append(our_speed(embedder, load))
                    else:
                        theirs.append(peer_speed(weights, load, chosen.threads, peers[weights])[0])
            ratio = Spread.of([a / b for a, b in zip(ours, theirs, strict=True)])
            peer = f"OpenVINO {weights}, batch {peers[weights]}"
            unit = "texts/s"
            print(f"  ours {fmt:<5} {Spread.of(ours)} {unit}   {peer:<26} {Spread.of(theirs)} {unit}   ratio {ratio}")
        print(flush=True)


if __name__ == "__main__":
    main()
