"""Engines over GLM's tokens and a scripted model, for replies under a grammar."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from glm_crush.engine.engine import Engine
from glm_crush.engine.grammar import GrammarCompiler
from glm_crush.tokenizer.detokenizer import IncrementalDetokenizer
from glm_crush.types import CompletionOutput, SamplingParams, StructuredOutput
from tests.chat.glm_tokens import GLM_VOCAB_SIZE, glm_tokenizer, glm_tokenizer_json
from tests.engine.scripted import ScriptedExecutor, make_engine, run

TOKENIZER = glm_tokenizer()
IDS = TOKENIZER.added_ids
EOS = [IDS["<|endoftext|>"], IDS["<|user|>"], IDS["<|observation|>"]]
# 200 characters that unfold to 130,000 optional letters.
UNFOLDS = StructuredOutput.lark(
    "start: A0\n" + "".join(f"A{i}: A{i + 1} A{i + 1}\n" for i in range(16)) + 'A16: "x"? "y"?'
)
THINK = (IDS["<think>"], IDS["</think>"])


def tokenizer_definition() -> bytes:
    return json.dumps(glm_tokenizer_json()).encode()


def compiler(vocab_size: int = GLM_VOCAB_SIZE) -> GrammarCompiler:
    return GrammarCompiler(tokenizer_definition, vocab_size=vocab_size, eos_token_ids=EOS)


COMPILER = compiler()


def noise(context: Sequence[int]) -> Any:
    return np.random.default_rng([*context]).normal(0, 3, GLM_VOCAB_SIZE).astype(np.float32)


def wants(text: str) -> Callable[[Sequence[int]], Any]:
    """A model that wants to write `text`, then to end its turn; the prompt is one token."""
    script = [*TOKENIZER.encode(text), IDS["<|user|>"]]

    def logits(context: Sequence[int]) -> Any:
        row = noise(context)
        row[script[min(len(context), len(script)) - 1]] += 60.0
        return row

    return logits


def engine(logits: Any = noise, **options: Any) -> Engine:
    return make_engine(
        executor=ScriptedExecutor(logits=logits, vocab_size=GLM_VOCAB_SIZE),
        vocab_size=GLM_VOCAB_SIZE,
        eos_token_ids=EOS,
        grammars=COMPILER,
        make_detokenizer=lambda prompt, skip: IncrementalDetokenizer(TOKENIZER, skip_special_tokens=skip),
        **options,
    )


def reply(structured: StructuredOutput, logits: Any = noise, **params: Any) -> CompletionOutput:
    return run(engine(logits), ([5], SamplingParams(structured=structured, **{"max_tokens": 90, **params})))[0].outputs[
        0
    ]
