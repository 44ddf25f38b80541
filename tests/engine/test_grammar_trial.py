"""Grammars that would take the server's time or memory: refused, whatever their form, and no other notices."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from glm_crush.engine.grammar import GrammarCompiler
from glm_crush.errors import InvalidParameterError
from glm_crush.types import StructuredOutput
from tests.engine.grammar_models import EOS, GLM_VOCAB_SIZE, IDS, UNFOLDS, tokenizer_definition

pytestmark = pytest.mark.requirement("E2", "S7")

OPTIONAL = StructuredOutput.regex("".join(f"(a{number})?" for number in range(20_000)))
WIDE = StructuredOutput.json_schema(
    {"type": "object", "properties": {f"p{number}": {"type": "integer"} for number in range(9_000)}}
)


@pytest.fixture
def grammars() -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(tokenizer_definition, vocab_size=GLM_VOCAB_SIZE, eos_token_ids=EOS, max_seconds=0.25)
    yield compiler
    compiler.close()


@pytest.mark.parametrize("structured", [UNFOLDS, OPTIONAL, WIDE], ids=["unfolds", "optional", "wide"])
def test_what_takes_too_much_is_refused_with_the_numbers(
    grammars: GrammarCompiler, structured: StructuredOutput
) -> None:
    with pytest.raises(InvalidParameterError) as caught:
        grammars.check(structured)
    message = str(caught.value)
    assert f"its grammar has {len(structured.grammar)} characters, and compiling it took more " in message
    assert "than 0.25 s of processor time" in message or "memory than 128 MiB" in message
    assert "give one that is smaller" in message
    assert caught.value.parameter == "structured"
    grammars.check(StructuredOutput.choice(["yes"]))


def test_memory_is_bounded_too() -> None:
    compiler = GrammarCompiler(tokenizer_definition, vocab_size=GLM_VOCAB_SIZE, eos_token_ids=EOS, max_seconds=5.0)
    with pytest.raises(InvalidParameterError, match="compiling it took more memory than 128 MiB; give one"):
        compiler.check(UNFOLDS)
    compiler.close()


@pytest.mark.parametrize(
    "structured",
    [
        StructuredOutput.json_schema(
            {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(300)}}
        ),
        StructuredOutput.choice([f"choice number {number}" for number in range(3_000)]),
        StructuredOutput.lark(f'start: <[{IDS["<tool_call>"]}]> "a" <tool_call> /b+/ <[{IDS["</tool_call>"]}]>'),
        StructuredOutput.regex("(a|b)*a(a|b){30}"),
        StructuredOutput.json_object(),
    ],
    ids=["schema", "choices", "tags", "states", "json"],
)
def test_what_people_send_is_compiled(grammars: GrammarCompiler, structured: StructuredOutput) -> None:
    grammars.check(structured)
    assert grammars.is_compiled(structured)


def test_what_is_wrong_is_said_as_it_was(grammars: GrammarCompiler) -> None:
    with pytest.raises(InvalidParameterError, match=r"(?s)the regular expression cannot be used: .*unclosed group"):
        grammars.check(StructuredOutput.regex("("))


def test_one_that_deep_is_compiled(grammars: GrammarCompiler) -> None:
    rules = "\n".join(f"a{number}: a{number + 1}" for number in range(2_000))
    grammars.check(StructuredOutput.lark(f'start: a0\n{rules}\na2000: "end"'))


def test_nothing_is_left_behind(grammars: GrammarCompiler) -> None:
    before = len(os.listdir("/proc/self/fd"))
    compiler = GrammarCompiler(tokenizer_definition, vocab_size=GLM_VOCAB_SIZE, eos_token_ids=EOS, max_seconds=0.05)
    with pytest.raises(InvalidParameterError):
        compiler.check(UNFOLDS)
    compiler.check(StructuredOutput.choice(["yes"]))
    compiler.close()
    assert len(os.listdir("/proc/self/fd")) == before
