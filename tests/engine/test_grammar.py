"""Replies under a grammar: always what was asked for, whatever the model would rather say."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm_crush.engine.prompt_lookup import PromptLookup
from glm_crush.errors import EngineError, InvalidParameterError
from glm_crush.tokenizer.detokenizer import IncrementalDetokenizer
from glm_crush.types import SamplingParams, StructuredOutput
from tests.chat.glm_tokens import GLM_VOCAB_SIZE
from tests.engine.drafters import KnownReplies
from tests.engine.grammar_models import COMPILER, IDS, THINK, TOKENIZER, compiler, engine, noise, reply, wants
from tests.engine.scripted import ScriptedExecutor, make_engine, run

pytestmark = pytest.mark.requirement("E2")

CITY = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}, "n": {"type": "integer"}}}
CITY |= {"required": ["city", "n"], "additionalProperties": False}


@given(st.integers(0, 2**32))
def test_a_reply_is_always_what_the_schema_says(seed: int) -> None:
    output = reply(StructuredOutput.json_schema(CITY), seed=seed, temperature=2.0)
    if output.finish_reason == "stop":
        value = json.loads(output.text)
        assert value["city"] in ("Rome", "Oslo")
        assert type(value["n"]) is int


@pytest.mark.parametrize(
    ("structured", "wanted", "text"),
    [
        (StructuredOutput.json_schema(CITY), 'Sure! {"city"', r'\{"city": "(Rome|Oslo)", "n": -?\d+.*'),
        (StructuredOutput.json_schema(CITY), '{"city": "Oslo", "n": 12}!', r'\{"city": "Oslo", "n": 12\}'),
        (StructuredOutput.regex(r"[ab]{3}-\d"), "I think", r"[ab]{3}-\d"),
        (StructuredOutput.choice(["yes", 'n"o']), 'n"o way', 'n"o'),
        (StructuredOutput.lark('start: "a"+ "b"'), "aaab and more", "aaab"),
    ],
)
def test_each_kind_of_grammar_holds_and_ends_the_reply(structured: StructuredOutput, wanted: str, text: str) -> None:
    output = reply(structured, wants(wanted), temperature=0.0)
    assert re.fullmatch(text, output.text), output.text


def test_a_complete_grammar_ends_the_reply_without_another_step_and_whatever_else_was_asked() -> None:
    structured = StructuredOutput.choice(["yes", "no"])
    output = reply(structured, wants("yes"), temperature=0.0, ignore_eos=True, min_tokens=50)
    assert (output.text, len(output.token_ids), output.finish_reason) == ("yes", 3, "stop")


def test_where_the_grammar_may_go_on_any_end_of_text_token_ends_it() -> None:
    output = reply(StructuredOutput.regex("(ab)+"), wants("abab"), temperature=0.0)
    assert (output.text, output.token_ids[-1], output.finish_reason) == ("abab", IDS["<|user|>"], "stop")


@pytest.mark.parametrize("end", ["<|endoftext|>", "<|user|>", "<|observation|>"])
def test_each_end_of_text_token_of_a_model_ends_a_free_reply(end: str) -> None:
    output = run(engine(wants(f"Hello{end}made up")), ([5], SamplingParams(temperature=0.0, max_tokens=60)))[0].outputs[
        0
    ]
    assert (output.text, output.finish_reason) == ("Hello", "stop")


def test_the_reasoning_is_free_and_the_grammar_holds_after_it() -> None:
    structured = StructuredOutput(kind="regex", grammar="yes|no", begins="after_reasoning", think_token_ids=THINK)
    assert reply(structured, wants("Hm, so. </think>maybe"), temperature=0.0).text[:16] == "Hm, so. </think>"
    assert reply(structured, wants("Hm.</think>no"), temperature=0.0).text == "Hm.</think>no"


def test_the_reply_cannot_end_inside_the_reasoning() -> None:
    structured = StructuredOutput(kind="regex", grammar="yes|no", begins="after_reasoning", think_token_ids=THINK)
    output = reply(structured, wants("Hm."), temperature=0.0, max_tokens=20)
    assert (len(output.token_ids), output.finish_reason) == (20, "length")


@pytest.mark.parametrize("wanted", ["<think>a</think>no", "no"])
def test_a_model_that_may_reason_decides_by_its_first_token(wanted: str) -> None:
    structured = StructuredOutput(kind="regex", grammar="yes|no", begins="open", think_token_ids=THINK)
    assert reply(structured, wants(wanted), temperature=0.0).text == wanted


@pytest.mark.parametrize(
    ("begins", "thought"), [("after_reasoning", "Hm, so. "), ("open", "<think>Hm, so. "), ("at_call", "Hm, so. ")]
)
def test_reasoning_ends_after_as_many_tokens_as_it_may_have(begins: Any, thought: str) -> None:
    structured = StructuredOutput(
        kind="regex",
        grammar="yes|no",
        begins=begins,
        think_token_ids=THINK,
        reasoning="begun" if begins == "at_call" else "no",
        max_reasoning_tokens=3,
    )
    output = reply(structured, wants(thought + "well</think>no"), temperature=0.0, max_tokens=20)
    tokens = [token for token in output.token_ids if token != THINK[0]]
    assert tokens.index(THINK[1]) == 3


def test_free_text_after_bounded_reasoning_is_free_and_may_end() -> None:
    structured = replace(StructuredOutput.anything(), think_token_ids=THINK, reasoning="open", max_reasoning_tokens=50)
    assert reply(structured, wants("<think>a</think>What?"), temperature=0.0).text == "<think>a</think>What?"
    assert reply(structured, wants("What?"), temperature=0.0).text == "What?"


def call_grammar(**options: Any) -> StructuredOutput:
    grammar = f'start: <[{IDS["<tool_call>"]}]> ("f" | "g") <[{IDS["</tool_call>"]}]>'
    return StructuredOutput(kind="lark", grammar=grammar, begins="at_call", call_token_id=IDS["<tool_call>"], **options)


def test_a_free_reply_is_held_to_the_grammar_from_its_call_on_and_free_after_it() -> None:
    text = "Well<tool_call>f</tool_call> and<tool_call>g</tool_call>."
    assert reply(call_grammar(ends_reply=False), wants(text), temperature=0.0).text == text
    assert reply(call_grammar(), wants(text), temperature=0.0).text == "Well<tool_call>f</tool_call>"
    wrong = reply(call_grammar(), wants("<tool_call>hello"), temperature=0.0).text
    assert wrong in ("<tool_call>f</tool_call>", "<tool_call>g</tool_call>")
    assert reply(call_grammar(), wants("No call."), temperature=0.0).text == "No call."


def test_tags_never_come_up_inside_a_string() -> None:
    output = reply(StructuredOutput.json_schema({"type": "string", "minLength": 3}), wants('"<think>'), temperature=0.0)
    assert not set(output.token_ids[:4]) & set(THINK)


def test_constrained_and_free_requests_share_steps_and_come_out_as_alone() -> None:
    structured = StructuredOutput.json_schema(CITY)
    constrained = SamplingParams(structured=structured, seed=1, max_tokens=60)
    free = SamplingParams(seed=2, max_tokens=60, prompt_logprobs=1)
    alone = [run(engine(), request)[0].outputs[0] for request in (([5], constrained), ([6, 7, 8], free))]
    shared = engine(max_decode_steps=8)
    together = [output.outputs[0] for output in run(shared, ([5], constrained), ([6, 7, 8], free))]
    assert [output.token_ids for output in together] == [output.token_ids for output in alone]


def test_a_preempted_reply_goes_on_in_its_grammar() -> None:
    params = SamplingParams(structured=StructuredOutput.regex("[ab]{20}c"), seed=3, max_tokens=30)
    small = make_engine(
        executor=ScriptedExecutor(logits=noise, vocab_size=GLM_VOCAB_SIZE, num_blocks=10),
        vocab_size=GLM_VOCAB_SIZE,
        num_blocks=10,
        grammars=COMPILER,
        make_detokenizer=lambda prompt, skip: IncrementalDetokenizer(TOKENIZER, skip_special_tokens=skip),
    )
    texts = [output.outputs[0].text for output in run(small, ([5], params), ([6], params), ([7], params))]
    assert small.metrics.num_preemptions > 0
    assert all(re.fullmatch("[ab]{20}c", text) for text in texts)


def test_several_replies_of_one_call_each_have_their_own_state() -> None:
    params = SamplingParams(structured=StructuredOutput.regex("[a-z]{4}"), seed=3, n=3, max_tokens=60)
    texts = [output.text for output in run(engine(), ([5], params))[0].outputs]
    assert all(re.fullmatch("[a-z]{4}", text) for text in texts)
    assert len(set(texts)) > 1


@pytest.mark.parametrize(
    ("structured", "problem"),
    [
        (StructuredOutput.json_schema({"type": "nonsense"}), "the JSON schema cannot be used: Invalid type: nonsense"),
        (StructuredOutput.json_schema({"not": {}}), 'the JSON schema cannot be used: Unimplemented keys: ["not"]'),
        (StructuredOutput.regex("a(b"), "the regular expression cannot be used: .*unclosed group"),
        (StructuredOutput.json_schema({"$ref": "#"}), "the JSON schema cannot be used: NoExtension"),
        (StructuredOutput.json_schema(False), "the JSON schema cannot be used: "),
        (StructuredOutput.regex("(" * 5000 + "a" + ")" * 5000), "the regular expression cannot be used: "),
        (StructuredOutput.lark("start: foo"), 'the grammar cannot be used: .*unknown name: "foo"'),
    ],
)
def test_a_grammar_that_cannot_be_enforced_is_refused_with_the_reason(structured: Any, problem: str) -> None:
    with pytest.raises(InvalidParameterError) as caught:
        engine().add_request([5], SamplingParams(structured=structured))
    assert re.match(problem.replace("[", r"\["), str(caught.value), re.DOTALL), str(caught.value)
    assert caught.value.parameter == "structured"


def test_a_wide_schema_is_no_trouble() -> None:
    wide = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(1000)}}
    assert reply(StructuredOutput.json_schema(wide), wants('{"p7": "x"}'), temperature=0.0).text == '{"p7": "x"}'


def test_a_grammar_is_compiled_once_while_it_is_in_use() -> None:
    subject = compiler()
    structured = StructuredOutput.regex("a{1,5}")
    first, second = subject.start(structured), subject.start(structured)
    first.accept(TOKENIZER.encode("a")[0])
    assert first._compiled is second._compiled
    for number in range(100):
        subject.check(StructuredOutput.regex(f"b{{{number + 1}}}"))
    assert len(subject._compiled) == 64


@pytest.mark.parametrize("vocab_size", [283, 287, 288, 289, 320])
def test_masks_fit_vocabularies_of_any_size(vocab_size: int) -> None:
    state = compiler(vocab_size).start(StructuredOutput.choice(["b"]))
    mask = np.full((vocab_size + 31) // 32, 0xFFFFFFFF, np.uint32)
    state.fill(mask)
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    assert np.flatnonzero(bits).tolist() == TOKENIZER.encode("b")


def test_what_is_no_choice_or_no_json_is_refused() -> None:
    for choices in ([], [""], "yes"):
        with pytest.raises(InvalidParameterError, match="give a list of texts"):
            StructuredOutput.choice(choices)
    with pytest.raises(InvalidParameterError, match="is not JSON"):
        StructuredOutput.json_schema({"const": float("nan")})


def test_an_engine_without_grammars_refuses_them() -> None:
    with pytest.raises(InvalidParameterError, match="has no grammars"):
        make_engine().add_request([5], SamplingParams(structured=StructuredOutput.json_object()))


def test_a_reply_whose_every_token_is_excluded_ends_alone_with_an_error() -> None:
    every = [*range(GLM_VOCAB_SIZE)]
    stuck = SamplingParams(structured=StructuredOutput.choice(["a"]), stop_token_ids=every, min_tokens=1, max_tokens=9)
    subject = engine()
    subject.add_request([5], stuck)
    fine = subject.add_request([6], SamplingParams(structured=StructuredOutput.choice(["b"]), max_tokens=9))
    deltas = [delta for _ in range(4) for delta in subject.step()]
    assert [delta.request_id == fine for delta in deltas if delta.error is None] == [True]
    assert [type(delta.error) for delta in deltas if delta.error] == [EngineError]
    assert not subject.has_unfinished


@pytest.mark.requirement("E7")
@pytest.mark.parametrize(
    "structured",
    [
        StructuredOutput.json_schema(CITY),
        StructuredOutput.regex(r"(ab|ba)+c?"),
        replace(StructuredOutput.json_schema(CITY), begins="open", think_token_ids=THINK),
        replace(StructuredOutput.json_schema(CITY), begins="after_reasoning", think_token_ids=THINK),
        replace(
            StructuredOutput.lark(f'start: <[{IDS["<tool_call>"]}]> "x" <[{IDS["</tool_call>"]}]>'),
            begins="at_call",
            call_token_id=IDS["<tool_call>"],
            ends_reply=False,
        ),
    ],
    ids=["schema", "regex", "open", "after reasoning", "at call"],
)
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32), error=st.sampled_from([0.0, 0.3]))
def test_guesses_leave_replies_under_a_grammar_as_they_are(
    structured: StructuredOutput, seed: int, error: float
) -> None:
    def model(context: Sequence[int]) -> Any:
        row = noise(context)
        row[[THINK[0], THINK[1], IDS["<tool_call>"]]] += 5.0
        return row

    params = SamplingParams(structured=structured, seed=seed, temperature=1.5, max_tokens=40, logprobs=1)
    plain = run(engine(model), ([5], params))
    drafter = KnownReplies(plain, error=error, vocab_size=GLM_VOCAB_SIZE)
    guessing = engine(model, drafter=drafter, clock=lambda: 0.0)
    assert [output.outputs for output in run(guessing, ([5], params))] == [output.outputs for output in plain]
    if error == 0.0 and len(plain[0].outputs[0].token_ids) > 3:
        assert guessing.metrics.num_accepted_tokens == guessing.metrics.num_drafted_tokens > 0


@pytest.mark.requirement("E7")
def test_what_a_grammar_forces_is_guessed() -> None:
    """Keys and punctuation of a schema come in one step each, whoever guesses otherwise."""
    structured = StructuredOutput.json_schema(CITY)
    params = SamplingParams(structured=structured, seed=3, max_tokens=60)
    executor = ScriptedExecutor(logits=wants('{"city": "Oslo", "n": 7}'), vocab_size=GLM_VOCAB_SIZE)
    guessing = make_engine(
        executor=executor,
        vocab_size=GLM_VOCAB_SIZE,
        eos_token_ids=[IDS["<|user|>"]],
        grammars=COMPILER,
        drafter=PromptLookup(),
        max_draft_tokens=12,
        clock=lambda: 0.0,
    )
    [plain] = run(engine(wants('{"city": "Oslo", "n": 7}')), ([5], params))
    [output] = run(guessing, ([5], params))
    assert output.outputs[0].token_ids == plain.outputs[0].token_ids
    assert len(output.outputs[0].token_ids) == 23
    assert output.usage.rejected_prediction_tokens == 0
    assert len(executor.steps) <= 8


def test_a_guess_ends_where_the_grammar_forbids_it() -> None:
    state = COMPILER.start(StructuredOutput.regex("ab+c"))
    a, b, c, d = (TOKENIZER.encode(letter)[0] for letter in "abcd")
    assert [state.count_allowed(draft) for draft in ([a, b, c], [b], [a, c], [a, b, d, b], [a, b, c, c])] == [
        3,
        0,
        1,
        2,
        3,
    ]
    state.accept(a)
    assert state.count_allowed([b, b, c]) == 3
    masks = np.full((3, (GLM_VOCAB_SIZE + 31) // 32), 0xFFFFFFFF, np.uint32)
    state.fill_along(masks, [b, c])
    allowed = [[bool(mask[token // 32] >> token % 32 & 1) for token in (a, b, c)] for mask in masks]
    assert allowed[:2] == [[False, True, False], [False, True, True]]
    assert state.count_allowed([b]) == 1
