"""Ollama's API through the real Ollama client: scripted replies for the shape, tiny models for the rest."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import ollama
import pytest

from glm_crush.config import ApiSettings
from glm_crush.errors import EngineError, OverloadedError
from glm_crush.serving.app import create_app

pytestmark = pytest.mark.requirement("S2")

HI: list[Any] = [{"role": "user", "content": "Hi"}]
FLAG = {
    "type": "function",
    "function": {
        "name": "set_flag",
        "description": "Sets a flag.",
        "parameters": {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]},
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}},
    "required": ["colour"],
    "additionalProperties": False,
}
GREEDY = {"top_k": 1, "num_predict": 60}
Start = Callable[..., Any]


def chat(server: Any, **options: Any) -> Any:
    """A reply, or the list of its parts."""
    with ollama.Client(server.url) as client:
        reply = client.chat(**{"model": "scripted", "messages": HI, **options})
        return list(reply) if options.get("stream") else reply


def post(server: Any, path: str, body: dict[str, Any]) -> httpx2.Response:
    return httpx2.post(f"{server.url}/api/{path}", json={"model": "scripted", **body}, timeout=20)


def lines(response: httpx2.Response) -> list[Any]:
    assert response.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in response.text.splitlines()]


def test_a_chat_has_a_message_a_reason_counts_and_durations(start_server: Start) -> None:
    server = start_server()
    reply = chat(server)
    assert (reply.model, reply.message.role, reply.message.content) == ("scripted", "assistant", "Hello")
    assert (reply.done, reply.done_reason) == (True, "stop")
    assert (reply.prompt_eval_count, reply.eval_count) == (18, 5)
    assert reply.total_duration >= reply.load_duration > 0
    assert server.engine.prompts == ["user:Hi|assistant:"]


def test_a_stream_is_lines_whose_last_says_why_it_ends(start_server: Start) -> None:
    got = lines(post(start_server(), "chat", {"messages": HI, "options": {"num_predict": 2}}))
    assert [line["message"] for line in got] == [
        {"role": "assistant", "content": "H"},
        {"role": "assistant", "content": "e"},
        {"role": "assistant", "content": ""},
    ]
    assert [line["done"] for line in got] == [False, False, True]
    assert (got[-1]["done_reason"], got[-1]["eval_count"]) == ("length", 2)
    assert all(line["created_at"].endswith("Z") for line in got)


def test_the_client_streams_and_so_does_the_async_one(start_server: Start) -> None:
    server = start_server()
    assert "".join(part.message.content for part in chat(server, stream=True)) == "Hello"

    async def run() -> tuple[str, str]:
        async with ollama.AsyncClient(server.url) as client:
            whole = await client.chat(model="scripted", messages=HI)
            stream = await client.generate(model="scripted", prompt="Hi", stream=True)
            return whole.message.content or "", "".join([part.response async for part in stream])

    assert asyncio.run(run()) == ("Hello", "Hello")


def test_generate_renders_a_prompt_and_gives_the_context_to_go_on_from(start_server: Start) -> None:
    server = start_server()
    with ollama.Client(server.url) as client:
        first = client.generate(model="scripted", prompt="Hi", system="Be brief.")
        client.generate(model="scripted", prompt="And?", context=first.context)
    assert (first.response, first.done_reason) == ("Hello", "stop")
    assert bytes(first.context).decode() == "system:Be brief.|user:Hi|assistant:Hello"
    assert server.engine.prompts[1] == "system:Be brief.|user:Hi|assistant:Hellouser:And?|assistant:"


def test_a_raw_prompt_is_taken_as_it_is(start_server: Start) -> None:
    server = start_server()
    with ollama.Client(server.url) as client:
        reply = client.generate(model="scripted", prompt="Once upon", raw=True)
    assert (reply.response, reply.context) == ("Hello", None)
    assert server.engine.prompts == ["Once upon"]


def test_without_prompt_or_messages_only_the_model_is_asked_for(start_server: Start) -> None:
    server = start_server()
    assert chat(server, messages=[]).done_reason == "load"
    assert post(server, "generate", {}).json()["done_reason"] == "load"
    assert server.engine.prompts == []


def test_a_last_message_of_the_assistant_begins_the_reply(start_server: Start) -> None:
    server = start_server()
    chat(server, messages=[*HI, {"role": "assistant", "content": "I am"}])
    assert server.engine.prompts == ["user:Hi|enable_thinking=False|prefill=I am|assistant:"]


def test_every_option_arrives_and_what_is_left_out_is_the_models_default(start_server: Start) -> None:
    server = start_server()
    options = {
        "temperature": 0.5,
        "top_k": 7,
        "top_p": 0.9,
        "min_p": 0.1,
        "typical_p": 0.8,
        "seed": 4,
        "repeat_penalty": 1.5,
        "repeat_last_n": -1,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
        "stop": ["END"],
        "num_predict": 3,
        "num_ctx": 900,
        "num_keep": 4,
        "num_gpu": 0,
        "mirostat": 0,
    }
    chat(server, options=options, keep_alive="5m")
    chat(server, options={"num_ctx": 100, "num_predict": -1})
    given, default = server.engine.params
    assert (given.temperature, given.top_k, given.top_p, given.min_p, given.typical_p) == (0.5, 7, 0.9, 0.1, 0.8)
    assert (given.repetition_penalty, given.presence_penalty, given.frequency_penalty) == (1.5, 0.5, 0.25)
    assert (given.seed, given.stop, given.max_tokens) == (4, ("END",), 3)
    assert (default.temperature, default.max_tokens) == (0.7, 82)


def test_repeat_last_n_of_0_turns_penalties_off(start_server: Start) -> None:
    server = start_server()
    chat(server, options={"repeat_penalty": 1.5, "repeat_last_n": 0})
    assert server.engine.params[0].repetition_penalty == 1.0


def test_a_chat_that_is_too_long_leaves_out_older_turns_if_it_may_and_says_so(start_server: Start) -> None:
    server = start_server()
    messages = [*[{"role": "user", "content": "a" * 40}, {"role": "assistant", "content": "b"}] * 3, *HI]
    body = {"messages": messages, "options": {"num_ctx": 100, "num_predict": 20}}
    refused = post(server, "chat", body)
    assert (refused.status_code, "num_ctx" in refused.json()["error"]) == (400, True)
    cut = post(server, "chat", body | {"truncate": True})
    assert cut.status_code == 200
    assert "truncate" in cut.headers["x-context"]
    assert len(server.engine.prompts[0]) <= 80
    assert server.engine.prompts[0].endswith("user:Hi|assistant:")


def test_logprobs_are_of_the_tokens_of_each_line(start_server: Start) -> None:
    body = {"messages": HI, "logprobs": True, "top_logprobs": 1, "options": {"num_predict": 1}}
    [first, last] = lines(post(start_server(), "chat", body))
    top = {"token": "A", "logprob": -0.5, "bytes": [65]}
    assert first["logprobs"] == [{"token": "H", "logprob": -1.0, "bytes": [72], "top_logprobs": [top]}]
    assert "logprobs" not in last


def test_messages_of_tools_arrive_with_their_names_and_calls(start_server: Start) -> None:
    server = start_server()
    call = {"function": {"name": "now", "arguments": {}}}
    messages = [*HI, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_name": "now", "content": "12"}]
    chat(server, messages=messages)
    assert server.engine.prompts == ["user:Hi|assistant:|tool:12|assistant:"]


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("chat", {"model": ..., "messages": HI}, "model is required"),
        ("chat", {"messages": "Hi"}, "messages is 'Hi'"),
        ("chat", {"messages": [{"role": "robot"}]}, "messages[0].role is 'robot'"),
        ("chat", {"messages": [{"role": "user", "content": "a", "images": ["AAAA"]}]}, "messages[0].images holds 1"),
        ("chat", {"messages": HI, "option": {}}, "did you mean options?"),
        ("chat", {"messages": HI, "options": {"temprature": 1}}, "options.temprature is not a parameter"),
        ("chat", {"messages": HI, "options": {"temperature": -1}}, "options.temperature is -1"),
        ("chat", {"messages": HI, "options": {"repeat_penalty": 0}}, "options.repeat_penalty is 0"),
        ("chat", {"messages": HI, "options": {"num_ctx": 2000}}, "served with a context of 1000"),
        ("chat", {"messages": HI, "options": {"num_ctx": 5}}, "the context holds 5"),
        ("chat", {"messages": HI, "options": {"mirostat": 2}}, "options.mirostat is 2"),
        ("chat", {"messages": HI, "options": {"num_thread": 4}}, "--threads"),
        ("chat", {"messages": HI, "options": {"num_gpu": 33}}, "options.num_gpu is 33"),
        ("chat", {"messages": HI, "options": {"repeat_last_n": 64}}, "options.repeat_last_n is 64"),
        ("chat", {"messages": HI, "format": "xml"}, "format is 'xml'"),
        ("chat", {"messages": HI, "format": {"type": "x"}}, "format"),
        ("chat", {"messages": HI, "think": True}, "scripted does not think in writing"),
        ("chat", {"messages": HI, "think": "high"}, "there are no levels of thinking"),
        ("chat", {"messages": HI, "keep_alive": "soon"}, "keep_alive is 'soon'"),
        ("chat", {"messages": HI, "keep_alive": 0}, "keep_alive is 0"),
        ("chat", {"messages": HI, "shift": True}, "shift is True"),
        ("generate", {"prompt": "a", "truncate": True}, "truncate is True"),
        ("chat", {"messages": HI, "top_logprobs": 2}, "set logprobs"),
        ("chat", {"messages": HI, "tools": [{"type": "x"}]}, "tools[0]"),
        ("generate", {"prompt": "a", "suffix": "b"}, "suffix is 'b'"),
        ("generate", {"prompt": "a", "images": ["AAAA"]}, "images holds 1"),
        ("generate", {"prompt": "a", "raw": True, "system": "b"}, "raw is true, and system is given"),
        ("generate", {"prompt": "a", "context": [256]}, "context holds the token id 256"),
        ("generate", {"prompt": "a", "template": "{{ .Prompt }}"}, "template"),
        ("generate", {"prompt": "a", "width": 64}, "width is 64"),
        ("show", {"model": "a", "name": "b"}, "give one"),
        ("show", {"model": ...}, "model is required"),
        ("pull", {"model": "https://example.org/m.gguf"}, "from hf: and pypi: names"),
        ("pull", {"model": "/etc"}, "from hf: and pypi: names"),
        ("pull", {"model": "x", "insecure": True}, "insecure is True"),
        ("pull", {"model": "x"}, "no store"),
        ("create", {"model": "mine"}, "from is required"),
        ("create", {"model": "scripted", "from": "scripted"}, "scripted is a model already"),
        ("create", {"model": "a b", "from": "scripted"}, "is not a model name"),
        ("create", {"model": "mine", "from": "scripted", "parameters": {"top_k": "x"}}, "top_k is 'x'"),
        ("create", {"model": "mine", "from": "scripted", "parameters": {"top_p": 3}}, "options.top_p is 3"),
        ("create", {"model": "mine", "from": "scripted", "files": {"a": "b"}}, "files is"),
        ("create", {"model": "mine", "from": "scripted", "quantize": "q4_K_M"}, "quantize is 'q4_K_M'"),
        ("copy", {"model": ..., "source": "scripted", "destination": "scripted"}, "is a model already"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(
    start_server: Start, path: str, body: dict[str, Any], words: str
) -> None:
    body = {name: value for name, value in {"model": "scripted", **body}.items() if value is not ...}
    response = httpx2.post(f"{start_server().url}/api/{path}", json=body, timeout=20)
    assert response.status_code == 400, response.text
    assert list(response.json()) == ["error"]
    assert words in response.json()["error"]


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"refuse": OverloadedError("full", retry_after_seconds=2)}, 503),
        ({"refuse": EngineError("stopped")}, 503),
        ({"refuse": RuntimeError("secret internals")}, 500),
    ],
)
def test_every_failure_has_ollamas_shape(start_server: Start, scripted_engine: Any, options: Any, status: int) -> None:
    for stream in (False, True):
        response = post(start_server(scripted_engine(**options)), "chat", {"messages": HI, "stream": stream})
        assert response.status_code == status
        assert list(response.json()) == ["error"]
        assert "secret" not in response.text


def test_an_unknown_model_is_the_clients_404(start_server: Start) -> None:
    server = start_server()
    with ollama.Client(server.url) as client:
        for call in (lambda: client.chat("other", HI), lambda: client.show("other")):
            with pytest.raises(ollama.ResponseError) as caught:
                call()
            assert caught.value.status_code == 404
    assert httpx2.get(f"{server.url}/api/nothing").json() == {"error": "there is no such path here; see /docs"}


def test_a_stream_that_fails_ends_in_a_line_with_the_error(start_server: Start, scripted_engine: Any) -> None:
    got = lines(post(start_server(scripted_engine(fail_after=2)), "chat", {"messages": HI}))
    assert list(got[-1]) == ["error"]
    with pytest.raises(ollama.ResponseError):
        chat(start_server(scripted_engine(fail_after=2)), stream=True)


def test_a_client_that_goes_away_ends_its_generation(start_server: Start, scripted_engine: Any) -> None:
    engine = scripted_engine(hold_after=1)
    server = start_server(engine)
    body = {"model": "scripted", "messages": HI}
    with httpx2.stream("POST", f"{server.url}/api/chat", json=body, timeout=20) as response:
        assert next(response.iter_lines())
    assert engine.closed.wait(20)


def test_the_server_says_that_it_runs_as_ollamas_command_asks_first(start_server: Start) -> None:
    server = start_server()
    assert httpx2.head(server.url).status_code == 200
    assert "is running" in httpx2.get(server.url).text


def test_latest_is_the_name_without_it(start_server: Start) -> None:
    reply = chat(start_server(), model="scripted:latest")
    assert (reply.model, reply.message.content) == ("scripted:latest", "Hello")


@pytest.fixture
def api(glm_models: Any, loopback_server: Any) -> Iterator[ollama.Client]:
    url, current = loopback_server
    current.app = create_app(glm_models, ApiSettings())
    with ollama.Client(url) as client:
        yield client


MODELS = pytest.mark.parametrize("model", ["glm45", "glm47", "plain"])


@MODELS
@pytest.mark.parametrize("format_", ["json", SCHEMA])
def test_a_format_is_kept_streamed_or_not(api: ollama.Client, model: str, format_: Any) -> None:
    options: Any = {"model": model, "messages": HI, "format": format_, "options": GREEDY, "think": False}
    whole = api.chat(**options)
    streamed = "".join(part.message.content or "" for part in api.chat(**options, stream=True))
    assert streamed == whole.message.content
    if whole.done_reason == "stop":
        assert isinstance(json.loads(streamed), dict)


def test_thinking_is_apart_in_chats_and_prompts_streamed_or_not(api: ollama.Client) -> None:
    options: Any = {"model": "glm47", "options": {**GREEDY, "num_predict": 20}, "think": True}
    whole = api.chat(messages=HI, **options).message
    assert whole.thinking
    parts = list(api.chat(messages=HI, **options, stream=True))
    assert "".join(part.message.thinking or "" for part in parts) == whole.thinking
    assert api.generate(prompt="Hi", **options).thinking == whole.thinking
    assert api.chat(messages=HI, **{**options, "think": False}).message.thinking is None


def test_a_call_is_one_whole_piece_streamed_or_not(api: ollama.Client) -> None:
    # What a random model writes is a call when nothing else may come: the format's answer or a call.
    options: Any = {"model": "glm47", "messages": HI, "tools": [FLAG], "think": False}
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    seen = set()
    for seed in range(12):
        options["options"] = {"seed": seed, "num_predict": 100}
        whole = api.chat(**options, format=schema).message
        parts = list(api.chat(**options, format=schema, stream=True))
        calls = [call for part in parts for call in part.message.tool_calls or ()]
        assert [c.function for c in calls] == [c.function for c in whole.tool_calls or ()]
        seen |= {call.function.name for call in calls}
    assert seen == {"set_flag"}


def test_models_are_listed_shown_and_said_to_be_loaded(api: ollama.Client) -> None:
    [glm45, _, plain] = api.list().models
    assert (glm45.model, plain.model) == ("glm45", "plain")
    assert glm45.details.family == "glm4_moe"
    assert plain.size > 0
    assert len(plain.digest) == 64
    shown = api.show("glm45")
    assert shown.capabilities == ["completion", "tools", "thinking"]
    assert shown.modelinfo["general.architecture"] == "glm4_moe"
    assert shown.modelinfo["glm4_moe.context_length"] == 4096
    assert shown.modelinfo["general.parameter_count"] > 10_000
    assert [model.context_length for model in api.ps().models] == [4096] * 3


def test_an_alias_has_defaults_of_its_own_and_lives_until_it_is_deleted(api: ollama.Client) -> None:
    parameters = {"temperature": 0, "num_predict": 4, "num_ctx": 512, "stop": ["x"]}
    created = api.create(model="brief", from_="plain", system="Be brief.", parameters=parameters, stream=True)
    assert [part.status for part in created][-1] == "success"
    api.copy("brief", "brief2:latest")
    api.create(model="brief3", from_="brief", system="Be loud.")
    plain = api.chat(model="plain", messages=[{"role": "system", "content": "Be brief."}, *HI], options=parameters)
    for name in ("brief", "brief2"):
        reply = api.chat(model=name, messages=HI)
        assert reply.message.content == plain.message.content
        assert (reply.eval_count, reply.prompt_eval_count) == (4, plain.prompt_eval_count)
    shown = api.show("brief3")
    assert 'SYSTEM """Be loud."""' in shown.modelfile
    assert "temperature 0.0\nstop x" in shown.parameters or "stop x" in shown.parameters
    assert {"brief", "brief2:latest", "brief3"} <= {model.model for model in api.list().models}
    assert api.show("brief").modelinfo["llama.context_length"] == 512
    for name in ("brief", "brief2", "brief3"):
        api.delete(name)
        with pytest.raises(ollama.ResponseError, match="not served here"):
            api.chat(model=name, messages=HI)
    with pytest.raises(ollama.ResponseError, match="is being served"):
        api.delete("plain")


def test_an_alias_may_have_a_template_and_examples(api: ollama.Client) -> None:
    template = "{% for m in messages %}{{ m.content }};{% endfor %}"
    examples: Any = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    api.create(model="own", from_="plain", template=template, messages=examples)
    reply = api.generate(model="own", prompt="c", options=GREEDY)
    raw = api.generate(model="plain", prompt="a;b;c;", raw=True, options=GREEDY)
    assert reply.response == raw.response
    assert api.show("own").template == template
    api.delete("own")
    with pytest.raises(ollama.ResponseError, match="no Jinja template"):
        api.create(model="own", from_="plain", template="{% if %}")
