"""Grammars that go deeper than a thread's usual stack: compiled, not the end of the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from glm_crush.engine import grammar_library
from glm_crush.errors import InvalidParameterError
from glm_crush.types import StructuredOutput
from tests.engine.grammar_models import COMPILER, compiler

pytestmark = pytest.mark.requirement("E2")

ROOT = Path(__file__).parents[2]

# In a process of its own: it crashed.
PROGRAM = """
from glm_crush.types import StructuredOutput
from tests.engine.grammar_models import reply

DEPTH = 6000
names = [f"a{number}" for number in range(DEPTH)]
chain = {name: {"$ref": f"#/$defs/{after}"} for name, after in zip(names, names[1:])}
schema = {"$defs": {**chain, names[-1]: {"enum": ["end"]}}, "$ref": "#/$defs/a0"}
rules = "\\n".join(f"{name}: {after}" for name, after in zip(names, names[1:]))
for structured in (
    StructuredOutput.json_schema(schema),
    StructuredOutput.lark(f"start: a0\\n{rules}\\n{names[-1]}: \\"end\\""),
    StructuredOutput.lark(f"start: A0\\n{rules.upper()}\\n{names[-1].upper()}: \\"end\\""),
):
    print(reply(structured, temperature=0.0).text)
"""


def test_a_long_chain_of_references_is_compiled():
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ['"end"', "end", "end"]


def test_a_grammar_longer_than_any_stack_is_refused():
    with pytest.raises(InvalidParameterError, match="it has 524289 characters; at most 524288 can be compiled"):
        COMPILER.check(StructuredOutput.regex("a" * (2**19 + 1)))


def test_a_panic_of_the_library_is_a_refusal(monkeypatch: pytest.MonkeyPatch):
    class Panic(BaseException):
        pass

    def panic(*_: object) -> None:
        raise Panic("index out of bounds")

    monkeypatch.setattr(grammar_library, "_in_llguidance_form", panic)
    with pytest.raises(InvalidParameterError, match="cannot be used: Panic: index out of bounds"):
        compiler().check(StructuredOutput.regex("b"))
