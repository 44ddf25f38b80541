"""Grammars as llguidance takes them, and its errors in our words. No other file imports the library, but for the
tokenizer of that process.

Above: `grammar`, which imports this when the first grammar comes, and the process that tries grammars out.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from concurrent.futures import Future

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from glm_crush.errors import InvalidParameterError
from glm_crush.types import StructuredOutput

__all__ = ["check_size", "compile_grammar", "load_tokenizer", "special_tokens", "stack_bytes", "without_state"]

_MAX_MESSAGE = 400
# The library goes down a grammar by recursion: a chain of references as long as the text allows takes some 500 bytes of
# stack for each byte of it, and a stack that is too short ends the process. Pages that nobody gets to take no memory.
_STACK_BYTES = 2**24
_STACK_BYTES_PER_CHARACTER = 1024
_MAX_CHARACTERS = 2**19
_STACK_SIZE = threading.Lock()  # held while it is set, which is for the whole process, until the thread has begun
_NOT_SPECIAL = re.compile(rb'"special"\s*:\s*false')


def load_tokenizer(definition: bytes, vocab_size: int, eos_token_ids: Sequence[int]) -> LLTokenizer:
    """The library's tokenizer for a tokenizer.json.

    Raises:
        InvalidParameterError: the library cannot use this one.
    """
    # GLM's tags are added tokens that are not special: as such they could come up inside a string.
    text = _NOT_SPECIAL.sub(b'"special":true', definition).decode()
    try:
        return LLTokenizer(text, n_vocab=vocab_size, eos_token=list(eos_token_ids))
    except Exception as error:  # the library raises plain exceptions
        raise InvalidParameterError(
            f"structured output is not possible with this model's tokenizer: {error}", parameter="structured"
        ) from error


def special_tokens(tokenizer: LLTokenizer) -> dict[int, bytes]:
    """The tokens that a grammar can name, by id."""
    ids = [token_id for token_id in range(tokenizer.vocab_size) if tokenizer.is_special_token(token_id)]
    texts = {token_id: tokenizer.decode_bytes([token_id]) for token_id in ids}
    return {token_id: text for token_id, text in texts.items() if text}


def stack_bytes(characters: int) -> int:
    """The stack that a grammar of so many characters may need."""
    return _STACK_BYTES + characters * _STACK_BYTES_PER_CHARACTER


def check_size(structured: StructuredOutput) -> None:
    """Raises InvalidParameterError for a grammar longer than any stack."""
    size = len(structured.grammar)
    if size > _MAX_CHARACTERS:
        raise _refusal(structured.kind, f"it has {size} characters; at most {_MAX_CHARACTERS} can be compiled")


def compile_grammar(tokenizer: LLTokenizer, structured: StructuredOutput) -> LLMatcher:
    """A matcher at the beginning of a grammar that is not too long.

    Raises:
        InvalidParameterError: the grammar is malformed, or uses what cannot be enforced; says what.
    """
    compiled: Future[LLMatcher] = Future()

    def compile_it() -> None:
        try:
            compiled.set_result(_compile(tokenizer, structured))
        except Exception as error:  # noqa: BLE001 - whoever asked is told
            compiled.set_exception(error)
        except BaseException as error:  # noqa: BLE001 - a panic of the library is no Exception
            compiled.set_exception(_refusal(structured.kind, f"{type(error).__name__}: {error}"))

    thread = threading.Thread(target=compile_it, name="glm-grammar", daemon=True)
    with _STACK_SIZE:
        threading.stack_size(stack_bytes(len(structured.grammar)))
        try:
            thread.start()
        finally:
            threading.stack_size(0)
    thread.join()
    return compiled.result()


def _compile(tokenizer: LLTokenizer, structured: StructuredOutput) -> LLMatcher:
    compiled = LLMatcher(tokenizer, _in_llguidance_form(structured), log_level=0, limits=_limits())
    if compiled.is_error():
        raise _refusal(structured.kind, compiled.get_error())
    first = compiled.deep_copy()
    first.compute_bitmask()  # some grammars show only now that nothing, or too much, can begin them
    if first.is_error():
        raise _refusal(structured.kind, first.get_error())
    return compiled


def _limits() -> LLParserLimits:
    """Ten times the library's for wide schemas: some 10 ms a token at the worst. Errors without the parser's state."""
    return LLParserLimits(max_items_in_row=20_000, step_max_items=200_000, verbose_errors=False)


def _in_llguidance_form(structured: StructuredOutput) -> str:
    try:
        if structured.kind == "json_schema":
            return LLMatcher.grammar_from_json_schema(
                structured.grammar,
                # One space after a comma or colon and no other: what models write, and they cannot get lost in it.
                defaults={"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "},
            )
        if structured.kind == "regex":
            return LLMatcher.grammar_from_regex(structured.grammar)
        return LLMatcher.grammar_from_lark(structured.grammar)
    except ValueError as error:
        raise _refusal(structured.kind, str(error)) from error


def _refusal(kind: str, message: str) -> InvalidParameterError:
    name = {"json_schema": "JSON schema", "regex": "regular expression", "lark": "grammar"}[kind]
    return InvalidParameterError(f"the {name} cannot be used: {without_state(message)}", parameter="structured")


def without_state(message: str) -> str:
    """The library's message without its place for the parser's state."""
    return message.replace("<non-verbose/>", "").strip()[:_MAX_MESSAGE]
