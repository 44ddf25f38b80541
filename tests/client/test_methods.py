"""Every method of both clients against a real server with tiny models."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from glm_crush.client import BatchRequest, ChatDelta, call_functions
from glm_crush.config import StorageSettings
from glm_crush.errors import DeadlineError, InvalidParameterError, ModelNotFoundError, RecordNotFoundError
from glm_crush.storage.lazy import LazyDatabase

pytestmark = pytest.mark.requirement("S11")


class Answer(BaseModel):
    colour: Literal["red", "green"]
    sure: bool


@dataclass
class Flag:
    on: bool


def set_flag(on: bool, colour: Literal["red", "green"]) -> str:
    """Sets a flag."""
    return f"{colour} is {on}"


# --- chats and completions ---


def test_a_text_or_messages_are_answered_with_text_counts_and_reason(client: Any) -> None:
    reply = client.chat("Hi", model="plain", max_tokens=5, seed=1)
    again = client.chat([{"role": "user", "content": "Hi"}], model="plain", max_tokens=5, seed=1)
    assert (reply.model, reply.finish_reason, reply.usage.completion_tokens) == ("plain", "length", 5)
    assert reply.content == again.content != ""
    assert reply.as_message() == {"role": "assistant", "content": reply.content}


def test_several_replies_come_with_the_scores_of_their_tokens(client: Any) -> None:
    reply = client.chat("Hi", model="plain", max_tokens=3, seed=1, n=2, logprobs=True, top_logprobs=2)
    assert [choice.index for choice in reply.choices] == [0, 1]
    for choice in reply.choices:
        assert len(choice.scores) == 3
        assert len(choice.scores[0].top_logprobs) == 2
        assert choice.scores[0].logprob < 0


@pytest.mark.parametrize("options", [{}, {"n": 2}, {"logprobs": True, "top_logprobs": 1}])
def test_a_stream_adds_up_to_the_reply(client: Any, options: Any) -> None:
    asked = {"model": "plain", "max_tokens": 6, "seed": 4, **options}
    whole = client.chat("Hi", **asked)
    with client.stream_chat("Hi", **asked) as stream:
        deltas = list(stream)
    assert all(isinstance(delta, ChatDelta) for delta in deltas)
    assert stream.reply.usage == whole.usage or stream.reply.usage.completion_tokens == whole.usage.completion_tokens
    for streamed, choice in zip(stream.reply.choices, whole.choices, strict=True):
        assert (streamed.content, streamed.finish_reason) == (choice.content, choice.finish_reason)
        assert streamed.scores == choice.scores
        text = "".join(delta.content for delta in deltas if delta.index == choice.index)
        assert text == choice.content


def test_a_stream_tells_how_far_the_prompt_has_been_read(client: Any) -> None:
    for stream in (
        client.stream_chat("a b c " * 300, model="plain", max_tokens=2, seed=1, return_progress=True),
        client.stream_complete("d e f " * 300, model="plain", max_tokens=2, seed=1, return_progress=True),
    ):
        with stream:
            told = [delta.progress for delta in stream if delta.progress is not None]
        assert told
        assert told[-1].processed == told[-1].total == stream.reply.usage.prompt_tokens
        assert stream.reply.usage.completion_tokens == 2


def test_reasoning_comes_in_a_field_of_its_own_whole_and_streamed(client: Any) -> None:
    asked = {"model": "glm47", "max_tokens": 40, "seed": 3, "thinking": True}
    whole = client.chat("Hi", **asked)
    with client.stream_chat("Hi", **asked) as stream:
        reasoning = "".join(delta.reasoning for delta in stream)
    assert whole.reasoning == reasoning == stream.reply.reasoning != ""
    assert whole.as_message()["reasoning_content"] == reasoning
    assert client.chat("Hi", **asked | {"thinking": False}).reasoning == ""


@pytest.mark.parametrize("form", [Answer, Flag])
def test_a_reply_can_be_a_value_of_a_type(client: Any, form: Any) -> None:
    value = client.chat_as(form, "Red or green?", model="glm45", max_tokens=150, seed=3, thinking=False)
    assert isinstance(value, form)


def test_a_value_that_is_cut_says_which_limit_to_raise(client: Any) -> None:
    with pytest.raises(InvalidParameterError, match=r"cut after 3 tokens.*raise max_tokens") as caught:
        client.chat_as(Answer, "Red or green?", model="glm45", max_tokens=3, seed=3, thinking=False)
    assert caught.value.parameter == "max_tokens"


def test_functions_are_tools_whose_calls_are_answered(client: Any) -> None:
    asked: dict[str, Any] = {"model": "glm45", "max_tokens": 150, "seed": 3, "thinking": False}
    asked |= {"tools": [set_flag], "tool_choice": "required", "parallel_tool_calls": False}
    reply = client.chat("Set it", **asked)
    [call] = reply.tool_calls
    with client.stream_chat("Set it", **asked) as stream:
        list(stream)
    [streamed] = stream.reply.tool_calls
    assert (streamed.name, streamed.arguments) == (call.name, call.arguments) == ("set_flag", call.arguments)
    arguments = call.parsed()
    [answer] = call_functions(reply.tool_calls, [set_flag])
    assert answer == {"role": "tool", "tool_call_id": call.id, "content": f"{arguments['colour']} is {arguments['on']}"}
    messages = [{"role": "user", "content": "Set it"}, reply.as_message(), answer]
    assert client.chat(messages, model="glm45", max_tokens=3, thinking=False).usage.completion_tokens == 3


def test_prompts_are_completed_whole_and_streamed(client: Any) -> None:
    asked = {"model": "plain", "max_tokens": 4, "seed": 2, "logprobs": 1}
    whole = client.complete(["One", "Two"], **asked)
    with client.stream_complete(["One", "Two"], **asked) as stream:
        deltas = list(stream)
    assert len(whole.texts) == 2
    assert whole.text == whole.texts[0]
    assert stream.reply.texts == whole.texts
    assert stream.reply.choices[0].logprobs == whole.choices[0].logprobs
    assert "".join(delta.text for delta in deltas if delta.index == 1) == whole.texts[1]


# --- responses ---


def test_a_response_is_kept_and_goes_on_from_the_one_before(client: Any) -> None:
    first = client.respond("Why?", model="plain", max_output_tokens=4, seed=1)
    second = client.respond("And?", model="plain", previous_response_id=first.id, max_output_tokens=4, seed=1)
    assert first.status == "incomplete"
    assert first.text != ""
    assert first.usage.output_tokens == 4
    assert client.responses.get(second.id).text == second.text
    assert [item["role"] for item in client.responses.input_items(second.id, order="asc", page_size=1)] == [
        "user",
        "assistant",
        "user",
    ]
    assert client.responses.delete(first.id).deleted
    with pytest.raises(RecordNotFoundError, match=first.id):
        client.responses.get(first.id)


def test_the_prompt_of_a_response_is_counted_without_an_answer(client: Any) -> None:
    first = client.respond("Why?", model="plain", max_output_tokens=4, seed=1)
    second = client.respond("And?", model="plain", previous_response_id=first.id, max_output_tokens=4)
    asked = {"model": "plain", "previous_response_id": first.id}
    assert client.responses.count_input("Why?", model="plain") == first.usage.input_tokens
    assert client.responses.count_input("And?", **asked) == second.usage.input_tokens > first.usage.input_tokens
    for option in ({"stream": True}, {"max_output_tokens": 4}, {"truncation": "auto", "conversation": "c"}):
        with pytest.raises(InvalidParameterError) as caught:
            client.responses.count_input("Why?", model="plain", extra=option)
        assert caught.value.parameter in option


def test_a_response_streams_and_adds_up(client: Any) -> None:
    with client.stream_respond("Why?", model="plain", max_output_tokens=4, seed=1) as stream:
        text = "".join(event.text for event in stream)
    assert stream.reply.text == text == client.respond("Why?", model="plain", max_output_tokens=4, seed=1).text


def test_a_response_in_the_background_is_waited_for_and_followed(client: Any) -> None:
    begun = client.respond("Why?", model="plain", background=True, max_output_tokens=4, seed=1)
    assert begun.is_working
    done = client.responses.wait(begun.id, poll_seconds=0.01)
    assert (done.status, done.usage.output_tokens) == ("incomplete", 4)
    with client.stream_respond("Why?", model="plain", background=True, max_output_tokens=4, seed=1) as stream:
        first = next(stream)
    with client.responses.follow(stream.reply.id, after=first.sequence_number) as rest:
        numbers = [event.sequence_number for event in rest]
    assert numbers[0] == first.sequence_number + 1
    assert rest.reply.text == done.text


def test_a_response_in_the_background_is_cancelled(
    open_client: Any, start_server: Any, scripted_engine: Any, glm_home: Path
) -> None:
    server = start_server(scripted_engine(hold_after=1), database=LazyDatabase(StorageSettings(), glm_home))
    client = open_client(server.url)
    begun = client.respond("Why?", background=True)
    assert server.engine.holding.wait(10)
    with pytest.raises(DeadlineError, match="wait again"):
        client.responses.wait(begun.id, timeout_seconds=0)
    assert client.responses.cancel(begun.id).status == "cancelled"
    assert server.engine.closed.wait(10)


def test_a_response_is_held_to_a_schema_and_calls_functions(client: Any) -> None:
    asked: dict[str, Any] = {"model": "glm45", "max_output_tokens": 150, "seed": 3, "reasoning": {"effort": "none"}}
    held = client.respond("Red?", json_schema=Answer.model_json_schema() | {"additionalProperties": False}, **asked)
    Answer.model_validate_json(held.text)
    called = client.respond("Set it", tools=[set_flag], tool_choice="required", parallel_tool_calls=False, **asked)
    assert [call.name for call in called.tool_calls] == ["set_flag"]


# --- vectors, tokens, judgements ---


def test_texts_become_vectors_of_the_wanted_length(client: Any) -> None:
    reply = client.embed(["one", "two"], dimensions=4)
    assert [len(vector) for vector in reply.vectors] == [4, 4]
    assert reply.usage.prompt_tokens > 0
    assert client.embed("one", dimensions=4).vectors[0] == pytest.approx(reply.vectors[0], abs=1e-6)


def test_documents_are_ranked_and_pairs_scored(client: Any) -> None:
    documents = ["alpha", "beta", "gamma"]
    ranking = client.rerank("alpha", documents, top_n=2)
    assert len(ranking.results) == 2
    assert ranking.results[0].text == documents[ranking.results[0].index] == "alpha"
    scores = client.score("alpha", documents)
    assert scores.scores[0] == pytest.approx(ranking.results[0].relevance_score, abs=1e-6)
    assert scores.method == "cosine"


def test_text_becomes_tokens_and_tokens_text(client: Any) -> None:
    tokens = client.tokenize("Hello", model="plain", spell=True)
    assert tokens.count == len(tokens.tokens) == len(tokens.token_strs)
    assert client.detokenize(tokens.tokens, model="plain") == "Hello"
    messages = [{"role": "user", "content": "Hello"}]
    rendered = client.render(messages, model="plain", max_tokens=7)
    assert rendered.token_ids == client.tokenize(messages, model="plain").tokens
    assert rendered.sampling_params["max_tokens"] == 7
    [completion] = client.render_completion("Hello", model="plain")
    assert completion.prompt.endswith("Hello")


def test_texts_are_judged(client: Any) -> None:
    judged = client.moderate(["HEY YOU", "hello"])
    assert [result.flagged for result in judged.results] == [True, False]
    assert judged.flagged
    assert judged.results[0].categories["hate"] is None


# --- files and batches ---


@pytest.mark.parametrize("kind", ["path", "text path", "bytes", "open file"])
def test_a_file_goes_up_and_comes_down(client: Any, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"one\xff\n")
    source: Any = {"path": path, "text path": str(path), "bytes": b"one\xff\n", "open file": io.BytesIO(b"one\xff\n")}
    file = client.files.upload(source[kind], filename="n.txt", expires_after_seconds=3600)
    assert (file.filename, file.bytes, file.purpose) == ("n.txt", 5, "user_data")
    assert file.expires_at == file.created_at + 3600
    assert client.files.get(file.id) == file
    assert client.files.content(file.id) == b"one\xff\n"
    assert client.files.delete(file.id).deleted
    with pytest.raises(RecordNotFoundError):
        client.files.content(file.id)


def test_lists_come_page_by_page(client: Any) -> None:
    made = [client.files.upload(b"x", filename=f"{number}").id for number in range(5)]
    assert [file.id for file in client.files.list(page_size=2, order="asc")] == made
    assert [file.id for file in client.files.list(purpose="batch")] == []


def test_requests_are_run_as_a_batch_and_found_again_by_their_names(client: Any) -> None:
    requests = [BatchRequest.chat(name, "Hi", model="plain", max_tokens=3, seed=1) for name in ("a", "b")]
    requests.append(BatchRequest.chat("bad", "Hi", model="plain", top_p=3.0))
    batch = client.batches.submit(iter(requests), metadata={"for": "test"})
    seen: list[int] = []
    done = client.batches.wait(batch.id, poll_seconds=0.01, progress=lambda b: seen.append(b.request_counts.done))
    assert (done.status, done.request_counts.completed, done.request_counts.failed) == ("completed", 2, 1)
    assert seen == sorted(seen)
    assert seen[-1] == 3
    results = {result.custom_id: result for result in client.batches.results(batch.id)}
    alone = client.chat("Hi", model="plain", max_tokens=3, seed=1)
    assert results["a"].as_chat().content == results["b"].as_chat().content == alone.content
    assert isinstance(results["bad"].failure, InvalidParameterError)
    with pytest.raises(InvalidParameterError, match="top_p"):
        results["bad"].as_chat()
    assert client.batches.get(batch.id).metadata == {"for": "test"}
    assert [found.id for found in client.batches.list()] == [batch.id]


def test_prompts_and_texts_are_run_as_batches_too(client: Any) -> None:
    batch = client.batches.submit([BatchRequest.complete("c", "One", model="plain", max_tokens=2)])
    done = client.batches.wait(batch.id, poll_seconds=0.01)
    [result] = client.batches.results(done)
    assert result.as_completion().usage.completion_tokens == 2
    batch = client.batches.submit([BatchRequest.embed("e", ["one", "two"])])
    [result] = client.batches.results(client.batches.wait(batch.id, poll_seconds=0.01))
    assert len(result.body["data"]) == 2


def test_a_batch_with_a_wrong_line_says_which(client: Any) -> None:
    same = [BatchRequest.chat("a", "Hi"), BatchRequest.chat("a", "Hi")]
    done = client.batches.wait(client.batches.submit(same).id, poll_seconds=0.01)
    assert done.status == "failed"
    assert done.problems == ("line 2: custom_id was given before; give each once",)
    assert list(client.batches.results(done)) == []


def test_a_batch_is_for_one_endpoint_and_has_requests(client: Any) -> None:
    with pytest.raises(InvalidParameterError, match="no requests"):
        client.batches.submit([])
    with pytest.raises(InvalidParameterError, match="make a batch for each"):
        client.batches.submit([BatchRequest.chat("a", "Hi"), BatchRequest.complete("b", "Hi")])


# --- models and the server ---


def test_models_are_listed_with_what_they_can_do(client: Any) -> None:
    names = [model.id for model in client.models.list()]
    assert names == ["glm45", "glm47", "plain", "vectors"]
    assert client.models.get("glm45").capabilities["tools"]
    assert client.models.get("vectors").dimensions is not None
    with pytest.raises(ModelNotFoundError, match="other/model"):
        client.models.get("other/model")


def test_the_server_says_how_it_is(client: Any) -> None:
    assert client.health()
    ready = client.ready()
    assert ready.is_ready
    assert set(ready.models) == {"glm45", "glm47", "plain", "vectors"}
    assert client.load().models["plain"].running == 0
    assert "vllm:num_requests_running" in client.metrics()
    assert client.version()[0].isdigit()


def test_keys_are_made_changed_rotated_and_revoked(client: Any) -> None:
    shop = client.applications.register("shop")
    key = client.keys.create("shop", name="web", scopes=["generate"], limits={"requests_per_minute": 60})
    assert key.application_id == shop.id
    assert key.key.startswith("glm_")
    assert client.keys.get(key.id).key is None
    assert client.keys.change(key.id, limits={"concurrency": 2}).limits == {"concurrency": 2}
    assert client.keys.rotate(key.id, overlap_seconds=0).key not in (None, key.key)
    assert client.keys.revoke(key.id).status == "revoked"
    assert [found.id for found in client.keys.list(application="shop")] == [key.id]
    assert [found.name for found in client.applications.list()] == ["shop"]


def test_what_a_key_used_is_counted_and_recorded(client: Any, open_client: Any, server: str) -> None:
    client.applications.register("shop")
    key = client.keys.create("shop")
    open_client(server, key.key).chat("Hi", model="plain", max_tokens=2)
    [row] = client.usage(key_id=key.id)
    assert (row.model, row.requests, row.completion_tokens) == ("plain", 1, 2)
    assert client.usage(first_day="2999-01-01") == ()
    [entry] = client.audit(key_id=key.id, limit=5)
    assert (entry.route, entry.status, entry.completion_tokens) == ("POST /v1/chat/completions", 200, 2)
    assert client.audit(before=entry.id, key_id=key.id) == ()


def test_the_response_cache_is_looked_at_and_cleared(client: Any) -> None:
    asked = {"model": "plain", "max_tokens": 2, "temperature": 0}
    assert client.chat("Hi", **asked).content == client.chat("Hi", **asked).content
    state = client.cache.state()
    assert (state.entries, state.outcomes["miss"], state.outcomes["hit"], state.epoch) == (1, 1, 1, 0)
    assert client.cache.clear() == 1
    client.chat("Hi", **asked)
    state = client.cache.state()
    assert (state.outcomes["miss"], state.outcomes["hit"], state.epoch) == (2, 1, 1)


def test_settings_are_looked_at_and_read_again(client: Any) -> None:
    settings = {setting.key: setting for setting in client.settings()}
    assert (settings["crush.threads"].value, settings["crush.threads"].live) == (1, False)
    assert settings["gateway.audit"].live
    reloaded = client.reload_settings()
    assert (reloaded.applied, reloaded.needs_restart, reloaded.failed) == (("gateway.audit",), ("crush.threads",), {})


def test_the_log_is_heard_live(client: Any) -> None:
    with client.logs("warning") as lines:
        logging.getLogger("glm_crush.test").info("not this")
        logging.getLogger("glm_crush.test").warning("but this", extra={"request_id": "r1"})
        line = next(lines)
    assert (line.level, line.message, line.request_id, line.lost) == ("warning", "but this", "r1", 0)
