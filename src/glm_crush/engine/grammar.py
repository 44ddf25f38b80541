"""Grammars: which tokens a reply may go on with, so that it is what its request demands, to the letter.

Above: the engine, which compiles a request's grammar before it is queued, and the sampler, which draws under the mask.
Below: `grammar_library`, with llguidance, which keeps a parser over bytes and walks the vocabulary's trie. Tags and
special tokens never spell text here: only a grammar that names their ids lets them through.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from copy import copy
from enum import Enum, auto
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from glm_crush.errors import InvalidParameterError
from glm_crush.types import StructuredOutput

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

    from glm_crush.engine.grammar_trial import GrammarTrial

__all__ = ["GrammarCompiler", "GrammarState", "check_structured"]

_MAX_COMPILED = 64

UInt32 = npt.NDArray[np.uint32]


class _Phase(Enum):
    FREE = auto()  # any text, until the token that begins the grammar
    REASONING = auto()  # any text that does not end the reply
    OPEN = auto()  # the grammar, or the token that begins the reasoning
    GRAMMAR = auto()
    COMPLETE = auto()


_FIRST_PHASE = {
    "now": _Phase.GRAMMAR,
    "after_reasoning": _Phase.REASONING,
    "open": _Phase.OPEN,
    "at_call": _Phase.FREE,
}


class GrammarState:
    """Where one reply stands in its grammar."""

    def __init__(self, structured: StructuredOutput, compiled: LLMatcher, eos_token_ids: Sequence[int]) -> None:
        self._structured = structured
        self._compiled = compiled
        self._eos_token_ids = eos_token_ids
        self._matcher = compiled.deep_copy()
        self._phase = _FIRST_PHASE[structured.begins]
        if structured.reasoning == "begun":
            self._phase = _Phase.REASONING
        self._num_reasoning_tokens = 0

    @property
    def is_complete(self) -> bool:
        """Nothing more may come: the reply ends here."""
        return self._phase is _Phase.COMPLETE

    @property
    def constrains(self) -> bool:
        """Whether the next token's mask excludes anything."""
        return self._phase is not _Phase.FREE

    @property
    def error(self) -> str | None:
        """Why the grammar cannot go on, if it cannot; every mask is empty then."""
        from glm_crush.engine.grammar_library import without_state  # as in `GrammarCompiler`

        return without_state(self._matcher.get_error()) or None

    def fill(self, mask: UInt32) -> None:
        """Set the bits of the tokens that may come next.

        Args:
            mask: uint32 `[ceil(vocab / 32)]`, all bits set; written.
        """
        if self._phase is _Phase.REASONING:
            limit = self._structured.max_reasoning_tokens
            if limit is not None and self._num_reasoning_tokens >= limit and self._structured.think_token_ids:
                mask[:] = 0
                _set(mask, self._structured.think_token_ids[1])
            for token_id in self._eos_token_ids:
                _clear(mask, token_id)
        elif self._phase in (_Phase.OPEN, _Phase.GRAMMAR):
            # One word more than ours where the vocabulary is a multiple of 32.
            allowed = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)[: len(mask)]
            mask[:] = 0 if self._matcher.is_error() else allowed
            if self._phase is _Phase.OPEN and self._structured.think_token_ids is not None:
                _set(mask, self._structured.think_token_ids[0])

    def fill_along(self, masks: UInt32, drafts: Sequence[int]) -> None:
        """`fill` a mask for the next token and one for the token after each draft, as if the drafts before had come.

        Args:
            masks: uint32 `[1 + len(drafts), ceil(vocab / 32)]`, all bits set; written.
            drafts: tokens that `count_allowed` lets through.
        """
        state = self._fork() if drafts else self
        for mask, token_id in zip(masks, (*drafts, None), strict=True):
            if state.constrains:
                state.fill(mask)
            if token_id is not None:
                state.accept(token_id)

    def count_allowed(self, drafts: Sequence[int]) -> int:
        """How many of the drafts may come next, one after the other."""
        state = self._fork()
        for count, token_id in enumerate(drafts):
            if state.is_complete or not state._allows(token_id):
                return count
            state.accept(token_id)
        return len(drafts)

    def forced(self) -> list[int]:
        """Tokens that nearly certainly come next: the grammar leaves one text only, though it may be cut otherwise."""
        if self._phase is not _Phase.GRAMMAR:
            return []
        return [int(token_id) for token_id in self._fork()._matcher.compute_ff_tokens()]

    def accept(self, token_id: int) -> None:
        """Go on by a token that was drawn under the mask."""
        think, end_think = self._structured.think_token_ids or (-1, -1)
        may_reason = self._phase is _Phase.OPEN or (self._phase is _Phase.FREE and self._structured.reasoning == "open")
        if may_reason and token_id == think:
            self._phase = _Phase.REASONING
        elif self._phase is _Phase.REASONING and token_id == end_think:
            self._phase = _Phase.FREE if self._structured.begins == "at_call" else _Phase.GRAMMAR
        elif self._phase in (_Phase.FREE, _Phase.REASONING):
            self._num_reasoning_tokens += self._phase is _Phase.REASONING
            if token_id == self._structured.call_token_id:
                self._advance(token_id)
        elif self._phase is not _Phase.COMPLETE:
            self._advance(token_id)

    def _fork(self) -> GrammarState:
        """The same state, to go on by tokens that may not come."""
        fork = copy(self)
        fork._matcher = self._matcher.deep_copy()
        return fork

    def _allows(self, token_id: int) -> bool:
        """Whether `fill` leaves the token's bit set."""
        if self._phase is _Phase.REASONING:
            return token_id not in self._eos_token_ids
        if self._phase is _Phase.OPEN and token_id == (self._structured.think_token_ids or (None,))[0]:
            return True
        return self._phase is _Phase.FREE or self._matcher.validate_tokens([token_id]) == 1

    def _advance(self, token_id: int) -> None:
        self._phase = _Phase.GRAMMAR
        self._matcher.consume_token(token_id)
        if not self._matcher.is_stopped() or self._matcher.is_error():
            return
        if self._structured.ends_reply:
            self._phase = _Phase.COMPLETE
        else:
            self._phase = _Phase.FREE
            self._matcher = self._compiled.deep_copy()


class GrammarCompiler:
    """Compiles grammars for one model; the last few are kept. Safe to use from several threads.

    Args:
        tokenizer_json: gives the tokenizer's definition, asked for when the first grammar comes.
        vocab_size: width of the model's logits.
        eos_token_ids: ids that end a reply.
        max_seconds: processor time that a grammar may take to be compiled; None = as much as it takes.
    """

    def __init__(
        self,
        tokenizer_json: Callable[[], bytes],
        *,
        vocab_size: int,
        eos_token_ids: Sequence[int],
        max_seconds: float | None = None,
    ) -> None:
        self._tokenizer_json = tokenizer_json
        self._vocab_size = vocab_size
        self._eos_token_ids = tuple(sorted(set(eos_token_ids)))
        self._max_seconds = max_seconds
        self._trial: GrammarTrial | None = None
        self._lock = threading.Lock()  # guards the trial's making and the two below
        self._tokenizer: LLTokenizer | None = None
        self._compiled: OrderedDict[tuple[str, str], LLMatcher] = OrderedDict()

    def is_compiled(self, structured: StructuredOutput) -> bool:
        """Whether `check` and `start` find it ready."""
        with self._lock:
            return (structured.kind, structured.grammar) in self._compiled

    def check(self, structured: StructuredOutput) -> None:
        """Compile a grammar, so that `start` is quick.

        Raises:
            InvalidParameterError: it is malformed, or uses something that cannot be enforced; says what.
        """
        self._compile(structured)

    def start(self, structured: StructuredOutput) -> GrammarState:
        """The state of a new reply under a grammar that `check` has let through."""
        return GrammarState(structured, self._compile(structured, is_tried=True), self._eos_token_ids)

    def close(self) -> None:
        """End what was started to try grammars out."""
        if self._trial is not None:
            self._trial.close()

    def _compile(self, structured: StructuredOutput, *, is_tried: bool = False) -> LLMatcher:
        # Imported here: a server that is asked for no grammar does without the library's 4 MB.
        from glm_crush.engine.grammar_library import check_size, compile_grammar, load_tokenizer, special_tokens
        from glm_crush.engine.grammar_trial import GrammarTrial

        check_size(structured)
        key = (structured.kind, structured.grammar)
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = load_tokenizer(self._tokenizer_json(), self._vocab_size, self._eos_token_ids)
                if self._max_seconds is not None:
                    specials = special_tokens(self._tokenizer)
                    self._trial = GrammarTrial(specials, self._vocab_size, max_seconds=self._max_seconds)
            compiled = self._compiled.get(key)
            if compiled is not None:
                self._compiled.move_to_end(key)
                return compiled
        # Outside the lock: nobody who has a grammar ready waits for another's.
        if self._trial is not None and not is_tried:
            self._trial.try_out(structured)
        compiled = compile_grammar(self._tokenizer, structured)
        with self._lock:
            self._compiled[key] = compiled
            if len(self._compiled) > _MAX_COMPILED:
                self._compiled.popitem(last=False)
        return compiled


def check_structured(structured: StructuredOutput | None, grammars: GrammarCompiler | None) -> None:
    """Raises InvalidParameterError when replies cannot be held to what a request demands."""
    if structured is None:
        return
    if grammars is None:
        raise InvalidParameterError("this engine has no grammars; leave structured out", parameter="structured")
    grammars.check(structured)


def _set(mask: UInt32, token_id: int) -> None:
    mask[token_id // 32] |= np.uint32(1 << token_id % 32)


def _clear(mask: UInt32, token_id: int) -> None:
    mask[token_id // 32] &= np.uint32(0xFFFFFFFF ^ (1 << token_id % 32))
