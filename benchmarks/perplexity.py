"""M3: perplexity of the packed 4-bit and 8-bit files against llama.cpp's own for the same GGUF file.

The text is the prose of Python's built-in help, which every machine with Python holds. The method is that of
llama-perplexity: chunks of 512 tokens, each from an empty cache, scored on their second half. Both sides see the same
chunks, so the difference is that of the arithmetic.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np

from harness import arguments, print_header
from peers.paths import ROOT, llama_tool, model

CONTEXT = 512
# `auto` keeps the 8-bit embedding of the Q4_1 file, as llama.cpp does.
FIGURES = (("q4", "smollm2-q4_0.gguf"), ("auto", "smollm2-q4_1.gguf"), ("q8", "smollm2-q8_0.gguf"))
TOLERANCE = 0.01


def text() -> str:
    """A few hundred thousand characters of English prose, the same for one version of Python."""
    return "\n\n".join(topics[name] for name in sorted(topics))


def our_perplexity(file: Path, weight_format: str, chunks: int, threads: int) -> float:
    """Perplexity by this engine."""
    from glm_crush.kernels.native import BLOCK_SIZE, Executor
    from glm_crush.kernels.program import ForwardBatch
    from glm_crush.models.loader import load_model

    loaded = load_model(file, cache_dir=ROOT / "packed", weight_format=weight_format)
    token_ids = np.asarray(loaded.tokenizer.encode(text()), np.int32)
    num_blocks = CONTEXT // BLOCK_SIZE
    executor = Executor(
        loaded.compiled.program, loaded.packed, num_threads=threads, num_blocks=num_blocks, max_tokens=CONTEXT
    )
    first = CONTEXT // 2
    negative_log_likelihood, count = 0.0, 0
    for chunk in range(chunks):
        ids = token_ids[chunk * CONTEXT : (chunk + 1) * CONTEXT]
        batch = ForwardBatch(
            token_ids=ids,
            positions=np.arange(CONTEXT, dtype=np.int32),
            query_start=np.array([0, CONTEXT], np.int32),
            context_lens=np.array([CONTEXT], np.int32),
            block_tables=np.arange(num_blocks, dtype=np.int32)[None],
            logit_rows=np.arange(first, CONTEXT - 1, dtype=np.int32),
        )
        logits = executor.forward(batch).astype(np.float64)
        targets = ids[first + 1 :]
        highest = logits.max(axis=1)
        log_sum = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))
        negative_log_likelihood += float((log_sum - logits[np.arange(len(targets)), targets]).sum())
        count += len(targets)
    return float(np.exp(negative_log_likelihood / count))


def llama_perplexity(file: Path, chunks: int, threads: int) -> float:
    """Perplexity by llama.cpp."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as words:
        words.write(text())
        words.flush()
        options = ("-c", str(CONTEXT), "-b", str(CONTEXT), "--chunks", str(chunks), "-t", str(threads))
        command = [llama_tool("llama-perplexity"), "-m", file, "-f", words.name, *options]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    found = re.search(r"Final estimate: PPL = ([0-9.]+)", done.stdout + done.stderr)
    if found is None:
        raise SystemExit(f"llama-perplexity printed no estimate (status {done.returncode}):\n{done.stderr[-2000:]}")
    return float(found[1])


def main() -> None:
    """Print each pair."""
    parser = arguments(__doc__)
    parser.add_argument("--chunks", type=int, default=40, help=f"chunks of {CONTEXT} tokens")
    options = parser.parse_args()
    print_header(f"Perplexity over {options.chunks} chunks of {CONTEXT} tokens")
    for weight_format, name in FIGURES:
        file = model(name)
        ours = our_perplexity(file, weight_format, options.chunks, options.threads)
        peer = llama_perplexity(file, options.chunks, options.threads)
        excess = ours / peer - 1
        met = "met" if excess <= TOLERANCE else "NOT met"
        pair = f"{ours:.4f}, llama.cpp {peer:.4f}: {100 * excess:+.2f} %"
        print(f"{name:<18} {weight_format:<4} {pair}, at most +1 %: {met}")


if __name__ == "__main__":
    main()
