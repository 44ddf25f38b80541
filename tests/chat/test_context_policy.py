"""Conversations longer than the context: what stays, what goes, and what the caller is told. A word is a token."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_crush.chat.context_fit import fit_conversation, run_at_once
from glm_crush.chat.context_policy import (
    ContextPolicy,
    Fitted,
    cut_middle,
    reply_reserve,
    split_turns,
    truncate,
    window,
)
from glm_crush.chat.conversation_summary import SummaryCache
from glm_crush.errors import ContextLengthError
from glm_crush.types import Message

pytestmark = pytest.mark.requirement("E9")


def words(messages: Sequence[Message]) -> int:
    return sum(len(str(message["content"]).split()) for message in messages)


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


SYSTEM: Message = {"role": "system", "content": "be brief"}


def conversation(num_turns: int, words_each: int = 5) -> list[Message]:
    """A system message of 2 words, turns of a question and an answer, and a last question."""
    messages = [SYSTEM]
    for turn in range(num_turns):
        messages += [user(" ".join([f"q{turn}"] * words_each)), assistant(" ".join([f"a{turn}"] * words_each))]
    return [*messages, user("last question")]


def first_words(fitted: Fitted) -> list[str]:
    return [str(message["content"]).split()[0] for message in fitted.messages]


def test_what_fits_is_left_alone() -> None:
    messages = conversation(3)
    assert truncate(messages, words, 34 + 10, 10) == window(messages, words, 44, 10) == Fitted(messages)


def test_truncating_leaves_out_as_few_of_the_oldest_turns_as_will_do() -> None:
    fitted = truncate(conversation(4), words, 40, 10)  # 44 words and 10 for the reply
    assert first_words(fitted) == ["be", "q2", "a2", "q3", "a3", "last"]
    assert fitted.note is not None
    assert (fitted.note.dropped, fitted.note.num_tokens_before, fitted.note.num_tokens) == ((1, 2, 3, 4), 44, 24)
    assert fitted.note.describe() == "truncate: 44 tokens became 24, messages 1 to 4 left out"


def test_a_last_question_that_is_too_long_itself_loses_its_middle() -> None:
    question = " ".join(f"word{i}" for i in range(100))
    fitted = truncate([SYSTEM, user("old"), assistant("old"), user(question)], words, 60, 10)
    text = str(fitted.messages[-1]["content"])
    assert words(fitted.messages) <= 50
    assert text.startswith("word0 word1")
    assert text.endswith("word98 word99")
    assert "characters left out ...]" in text
    assert fitted.note is not None
    assert (fitted.note.dropped, fitted.note.shortened) == ((1, 2), 3)


def test_a_system_message_is_never_cut() -> None:
    with pytest.raises(ContextLengthError, match="have 102 tokens and 10 are kept for the reply; the context holds 60"):
        truncate([{"role": "system", "content": "x " * 100}, user("last question")], words, 60, 10)


def test_a_call_stays_with_its_result_and_its_question() -> None:
    messages: list[Message] = [
        user("old question"),
        {"role": "assistant", "content": "call", "tool_calls": [{"function": {"name": "f"}}]},
        {"role": "tool", "content": "result " * 20},
        assistant("old answer"),
        user("new question"),
    ]
    assert split_turns(messages) == ([], [messages[:4], messages[4:]])
    assert truncate(messages, words, 20, 5).messages == messages[4:]


def test_the_window_stands_still_for_some_turns_and_then_jumps() -> None:
    starts = [
        next(word for word in first_words(window(conversation(n), words, 120, 10)) if word.startswith("q"))
        for n in range(10, 20)
    ]
    assert starts == ["q0", "q4", "q4", "q4", "q4", "q8", "q8", "q8", "q8", "q12"]


def test_the_window_does_not_cut_a_message() -> None:
    with pytest.raises(ContextLengthError, match="System messages and the last turn have 32 tokens"):
        window([SYSTEM, user("x " * 30)], words, 30, 5)


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    context=st.integers(30, 120),
    policy=st.sampled_from(["truncate", "window"]),
)
def test_what_comes_out_fits_and_ends_with_the_last_question(
    lengths: list[int], context: int, policy: ContextPolicy
) -> None:
    messages = [SYSTEM, *(turn for n in lengths for turn in (user("q " * n), assistant("a " * n))), user("the end")]
    fitted = (truncate if policy == "truncate" else window)(messages, words, context, 10)
    assert words(fitted.messages) <= context - 10
    assert (fitted.messages[0], fitted.messages[-1]) == (SYSTEM, user("the end"))
    assert fitted.messages[1]["role"] == "user"
    dropped = () if fitted.note is None else fitted.note.dropped
    assert [m for i, m in enumerate(messages) if i not in dropped] == fitted.messages
    if policy == "truncate" and dropped:  # one turn less would not have fitted
        assert words(fitted.messages) + words(messages[dropped[-1] - 1 : dropped[-1] + 1]) > context - 10


def test_a_text_keeps_its_beginning_and_its_end() -> None:
    assert cut_middle("abcdefghij", 5) == "abc\n[... 5 characters left out ...]\nij"
    assert cut_middle("abc", 3) == "abc"
    assert cut_middle("abc", 0) == "\n[... 3 characters left out ...]\n"


def test_room_is_kept_for_the_reply() -> None:
    assert [reply_reserve(1000, None), reply_reserve(32_768, None), reply_reserve(1000, 7)] == [250, 1024, 7]
    assert reply_reserve(1000, 4096) == 250  # no limit: the reply ends where the context does


class Model:
    """Summarises by the first words of what it is told; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def generate(self, messages: Sequence[Message], max_tokens: int) -> str:
        text = str(messages[0]["content"])
        self.asked.append(text)
        lines = text.split('"""')[1].splitlines()
        before = text.split("so far:\n")[1].split("\n\n")[0] + " " if "so far:\n" in text else ""
        return before + "+".join(line.split()[1] for line in lines if line.startswith("User:"))


def summarised(
    model: Model, messages: Sequence[Message], cache: SummaryCache, context: int = 120, **more: str
) -> Fitted:
    return run_at_once(
        fit_conversation(
            messages,
            "summarise",
            words,
            context_length=context,
            max_tokens=10,
            generate=model.generate,
            cache=cache,
            **more,
        )
    )


def test_older_turns_are_replaced_by_a_summary_behind_the_system_message() -> None:
    model = Model()
    fitted = summarised(model, conversation(11), SummaryCache())
    assert fitted.messages[0]["content"] == "be brief\n\nSummary of the conversation so far:\nq0+q1+q2+q3"
    assert first_words(fitted)[1:3] == ["q4", "a4"]
    assert fitted.note is not None
    assert (fitted.note.dropped, fitted.note.summary) == (tuple(range(1, 9)), "q0+q1+q2+q3")
    assert fitted.note.describe().endswith("messages 1 to 8 summarised")
    assert words(fitted.messages) <= 110


def test_a_summary_is_made_once_and_the_next_one_goes_on_from_it() -> None:
    model, cache = Model(), SummaryCache()
    summaries = []
    for num_turns in range(11, 19):
        note = summarised(model, conversation(num_turns), cache).note
        summaries.append(note and note.summary)
    assert len(model.asked) == len(set(summaries)) == 3
    assert summaries[-1] == "q0+q1+q2+q3 q4+q5+q6+q7 q8+q9+q10+q11"
    assert "q0 q0" not in model.asked[1]  # each turn is read once


def test_conversations_of_another_salt_and_with_another_beginning_share_no_summary() -> None:
    model, cache = Model(), SummaryCache()
    summarised(model, conversation(11), cache)
    summarised(model, conversation(11), cache, salt="other")
    summarised(model, [SYSTEM, user("hello"), assistant("hi"), *conversation(11)[1:]], cache)
    assert len(model.asked) == 3
    summarised(model, conversation(11), cache)
    assert len(model.asked) == 3


def test_without_a_system_message_the_summary_is_one() -> None:
    fitted = summarised(Model(), conversation(11)[1:], SummaryCache())
    assert fitted.messages[0] == {"role": "system", "content": "Summary of the conversation so far:\nq0+q1+q2+q3"}


def test_turns_too_long_to_be_read_at_once_are_summarised_by_their_ends() -> None:
    model = Model()
    messages = [user("start " + "x " * 300 + "end"), assistant("a"), user("last question")]
    fitted = summarised(model, messages, SummaryCache())
    assert "characters left out" in model.asked[0]
    assert words([user(model.asked[0])]) <= 120
    assert [message["role"] for message in fitted.messages] == ["system", "user"]


def test_summaries_used_longest_ago_give_way() -> None:
    cache = SummaryCache(max_entries=2)
    cache.put("a", "1")
    cache.put("b", "2")
    assert cache.get("a") == "1"
    cache.put("c", "3")
    assert [cache.get(key) for key in "abc"] == ["1", None, "3"]


def test_a_context_too_small_for_the_instructions_is_an_error_that_names_the_policy() -> None:
    messages = [user("x " * 30), assistant("a"), user("last question")]
    fitting = fit_conversation(
        messages,
        "summarise",
        words,
        context_length=40,
        max_tokens=10,
        generate=Model().generate,
        cache=SummaryCache(),
    )
    with pytest.raises(ContextLengthError, match="Choose another context_policy") as caught:
        run_at_once(fitting)
    assert caught.value.parameter == "context_policy"


def test_a_last_turn_that_does_not_fit_is_refused_before_anybody_is_asked() -> None:
    model = Model()
    with pytest.raises(ContextLengthError, match="the context holds 120"):
        summarised(model, [*conversation(11)[:-1], user("x " * 200)], SummaryCache())
    assert model.asked == []
