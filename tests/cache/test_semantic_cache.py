"""A similar question gets a kept answer when that has proved right; else a new answer teaches whether it would have."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_crush.cache.semantic.cache import Lookup, SemanticBounds, SemanticCache, TextSpace
from glm_crush.cache.semantic.entry import Answer, SemanticEntry, numbers_in
from glm_crush.cache.semantic.index import SemanticIndex
from glm_crush.errors import StorageError

pytestmark = pytest.mark.requirement("S5")

SAME_WORDS, OTHER_WORDS = "It is Paris.", "The answer is another one."
LETTERS, DIGITS = "abcdefghij", "0123456789"  # numbers are compared apart, so texts say their cosines in letters


def words(cosine: float) -> str:
    """A question whose cosine to `words(1)` is this."""
    return f"q {cosine}".translate(str.maketrans(DIGITS, LETTERS))


def vector_of(text: str) -> np.ndarray:
    said = text.split()[1].translate(str.maketrans(LETTERS, DIGITS)) if text.startswith("q ") else "0"
    cosine = float(said)
    return np.array([cosine, np.sqrt(max(0.0, 1 - cosine**2)), 0.0], np.float32)


async def embed(text: str) -> TextSpace | None:
    return None if len(text) > 200 else TextSpace("space", vector_of(text))


class Asked:
    """A cache, and the answers that a model would give."""

    def __init__(self, *, bound: float = 0.05, similarity: float = 1.0, chance: float = 0.5, **options: Any) -> None:
        self.now = 0.0
        self.index = SemanticIndex(
            max_entries=options.pop("max_entries", 100),
            max_bytes=options.pop("max_bytes", 10**6),
            clock=lambda: self.now,
        )
        self.cache = SemanticCache(
            self.index,
            options.pop("embed", embed),
            SemanticBounds(error_bound=bound, answer_similarity=similarity, max_entries=100, ttl_seconds=100),
            chance=lambda: chance,
            clock=lambda: self.now,
            **options,
        )

    def look_up(self, question: str, *, tenant: str = "t", circumstances: str = "c") -> Lookup:
        found = asyncio.run(self.cache.look_up(tenant, circumstances, question))
        assert found is not None
        return found

    def ask(self, question: str, answer: str = SAME_WORDS, **where: str) -> Lookup:
        """Look a question up, and answer it if the cache does not."""
        found = self.look_up(question, **where)
        if not found.gives_answer:
            asyncio.run(self.cache.learn(found, f"key of {question}", answer))
        return found


def test_an_answer_is_given_to_similar_questions_when_it_has_proved_right_often_enough() -> None:
    asked = Asked(bound=0.05)
    given = [asked.ask(words(cosine)).gives_answer for cosine in (1, 0.9, 0.901, 0.902, 0.903)]
    assert given == [False, False, False, False, True]
    found = asked.look_up(words(0.904))
    assert (found.gives_answer, round(found.similarity, 4), found.risk < 0.05) == (True, 0.904, True)
    assert found.nearest is not None
    assert found.nearest.reply_key == f"key of {words(0.902)}"  # the newest that said the same


def test_an_answer_that_would_have_been_wrong_is_kept_beside_and_silences_the_first() -> None:
    asked = Asked(bound=0.05)
    for cosine in (1, 0.9, 0.901, 0.902):
        asked.ask(words(cosine))
    asked.cache._chance = lambda: 0.0  # computed all the same, as one in twenty is
    asked.ask(words(0.91), OTHER_WORDS)
    asked.cache._chance = lambda: 0.5
    assert [entry.reply_key for entry in asked.index.of_tenant("t")] == [
        f"key of {words(0.902)}",
        f"key of {words(0.91)}",
    ]
    found = asked.look_up(words(0.8))
    assert found.nearest is not None
    assert (found.nearest.reply_key, found.gives_answer) == (f"key of {words(0.91)}", False)


def test_one_answer_in_twenty_is_computed_all_the_same() -> None:
    asked = Asked(bound=0.05)
    for cosine in (1, 0.9, 0.901, 0.902):
        asked.ask(words(cosine))
    for chance, gives in ((0.049, False), (0.05, True)):
        asked.cache._chance = lambda chance=chance: chance
        assert asked.look_up(words(0.903)).gives_answer is gives


def test_the_same_words_again_need_no_proof_and_teach_nothing() -> None:
    asked = Asked(bound=0.05)
    asked.ask(words(1))
    assert asked.look_up(words(1)).gives_answer
    asyncio.run(asked.cache.learn(asked.look_up(words(1)), "new key", SAME_WORDS))
    (entry,) = asked.index.of_tenant("t")
    assert (entry.reply_key, entry.evidence.num_seen) == ("new key", 0)


@pytest.mark.parametrize("other", [{"tenant": "u"}, {"circumstances": "d"}])
def test_only_questions_of_one_tenant_under_the_same_circumstances_are_compared(other: dict[str, str]) -> None:
    asked = Asked()
    asked.ask(words(1))
    assert asked.look_up(words(0.9), **other).nearest is None


@pytest.mark.parametrize(
    ("question", "is_compared"),
    [
        ("How far is it to Rome in 3 days?", True),
        ("How far is it to Rome in 4 days?", False),
        ("How far is it to Rome in ３ days?", True),
        ("How far is it to Rome?", False),
        ("In 3 days, how far is Rome?", True),
    ],
)
def test_numbers_are_compared_as_they_are(question: str, is_compared: bool) -> None:
    asked = Asked()
    asked.ask("How far is Rome in 3 days?")
    assert (asked.look_up(question, tenant="t").nearest is not None) is is_compared


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("from 3 to 10.5 on 2026-11-22 at 14:30", ["3", "10.5", "2026-11-22", "14:30"]),
        ("共有３只羊", ["3"]),
        ("none", []),
    ],
)
def test_numbers_of_a_text(text: str, numbers: list[str]) -> None:
    assert numbers_in(text) == numbers


@pytest.mark.parametrize(
    ("one", "other", "least", "same"),
    [
        ("It is Paris.", "It  is\nParis.", 1.0, True),
        ("q b x", "q b y", 1.0, False),
        ("q b x", "q b y", 0.95, True),
        ("q b 1", "q b 2", 0.1, False),
    ],
    ids=["spaces", "words, strictly", "words, by their vectors", "numbers"],
)
def test_when_two_answers_say_the_same(one: str, other: str, least: float, same: bool) -> None:
    answers = [Answer.of(text, vector_of("q b")) for text in (one, other)]
    assert answers[0].is_same(answers[1], least) is same


def test_an_answer_too_long_for_the_model_is_the_same_only_word_by_word() -> None:
    long, longer = Answer.of("a " * 200, None), Answer.of("a " * 201, None)
    assert long.is_same(Answer.of("a " * 200, None), 0.5)
    assert not long.is_same(longer, 0.5)


def test_a_question_too_long_for_the_model_is_not_compared() -> None:
    assert asyncio.run(Asked().cache.look_up("t", "c", "x" * 201)) is None


def entry(name: str, tenant: str = "t", scope: str = "s", expires_at: float = 100.0) -> SemanticEntry:
    vector = np.array([1, 0, 0], np.float32)
    return SemanticEntry(name, scope, tenant, vector, f"key of {name}", Answer.of(name, vector), expires_at)


def test_the_least_recently_used_question_of_a_tenant_makes_room_and_no_other_tenants() -> None:
    index = SemanticIndex(max_entries=2, max_bytes=10**6, clock=lambda: 0.0)
    index.keep(entry("other", tenant="u"))
    a, b = entry("a"), entry("b")
    for kept in (a, b):
        index.keep(kept)
    index.touch(a)
    index.keep(entry("c"))
    assert [kept.entry_id for kept in index.of_tenant("t")] == ["a", "c"]
    assert len(list(index.of_tenant("u"))) == 1


def test_when_the_bytes_run_out_the_tenant_with_most_questions_gives_way() -> None:
    index = SemanticIndex(max_entries=10, max_bytes=3 * entry("a").num_bytes, clock=lambda: 0.0)
    index.keep(entry("other", tenant="u"))
    for name in "abc":
        index.keep(entry(name))
    assert [kept.entry_id for kept in index.of_tenant("t")] == ["b", "c"]
    assert index.num_bytes == 3 * entry("a").num_bytes


def test_a_question_is_gone_when_its_time_is_over() -> None:
    now = [0.0]
    index = SemanticIndex(max_entries=10, max_bytes=10**6, clock=lambda: now[0])
    index.keep(entry("a", expires_at=5.0))
    assert index.nearest("s", np.array([1, 0, 0], np.float32)) is not None
    now[0] = 5.0
    assert index.nearest("s", np.array([1, 0, 0], np.float32)) is None
    assert (len(index), index.num_bytes) == (0, 0)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("tu"), st.integers(0, 3))))
def test_what_is_counted_is_what_is_kept(steps: list[tuple[str, str, int]]) -> None:
    index = SemanticIndex(max_entries=3, max_bytes=5 * entry("a").num_bytes, clock=lambda: 0.0)
    for name, tenant, what in steps:
        known = index.get(tenant, name + tenant)
        if what < 2:
            index.keep(entry(name + tenant, tenant, scope=f"s{what}"))
        elif known is not None and what == 2:
            index.renew(known, "k", Answer.of("long", None), 50.0)
        elif known is not None:
            index.drop(known)
        kept = [*index.of_tenant("t"), *index.of_tenant("u")]
        assert index.num_bytes == sum(kept_entry.num_bytes for kept_entry in kept) <= 5 * entry("a").num_bytes
        assert max(len(list(index.of_tenant("t"))), len(list(index.of_tenant("u"))), 0) <= 3


class FailingStore:
    async def fail(self, *_: Any, **__: Any) -> Any:
        raise StorageError("down")

    load: Callable[..., Awaitable[Sequence[SemanticEntry]]] = fail
    put: Callable[..., Awaitable[None]] = fail
    add_evidence: Callable[..., Awaitable[None]] = fail
    clear: Callable[..., Awaitable[None]] = fail

    async def close(self) -> None: ...


def test_a_store_that_fails_is_counted_and_memory_goes_on() -> None:
    async def open_store() -> Any:
        return FailingStore()

    asked = Asked(bound=0.05, open_store=open_store)
    given = [asked.ask(words(cosine)).gives_answer for cosine in (1, 0.9, 0.901, 0.902, 0.903)]
    assert given == [False, False, False, False, True]
    assert asked.cache.num_store_failures == 1 + 4 + 3  # loaded once, four answers put, three comparisons
