"""gRPC answers whole and streamed, tells its health, describes itself, and obeys keys, deadlines and cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from glm_crush.config import ApiSettings
from glm_crush.errors import ConfigError
from glm_crush.gateway_settings import GatewaySettings
from glm_crush.guard_settings import GuardSettings
from glm_crush.serving.app import create_app
from glm_crush.serving.grpc import glm_crush_pb2 as pb
from glm_crush.serving.grpc.part import GrpcPart
from glm_crush.serving.guard.part import GuardPart
from glm_crush.serving.served_model import ServedModel
from glm_crush.serving.served_models import ServedModels
from glm_crush.types import CacheReport, SamplingParams
from tests.serving.scripted import ByteCodec, ScriptedEngine

pytestmark = pytest.mark.requirement("S3")

HELLO = pb.ChatRequest(messages=[pb.Message(role="user", content="hi")])


class Client:
    """Calls methods by name, as a generated stub does."""

    def __init__(self, channel: Any, key: str | None) -> None:
        self.channel = channel
        self._metadata = () if key is None else (("authorization", f"Bearer {key}"),)

    def __call__(self, path: str, request: Any, *, streamed: bool = False, timeout: float | None = 20) -> Any:
        service, name = path.split("/")
        method = pb.DESCRIPTOR.services_by_name[service].methods_by_name[name]
        make = self.channel.unary_stream if streamed else self.channel.unary_unary
        call = make(
            f"/glm_crush.v1.{path}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=getattr(pb, method.output_type.name).FromString,
        )
        return call(request, timeout=timeout, metadata=self._metadata)


@asynccontextmanager
async def serving(
    engine: ScriptedEngine, *, client_key: str | None = None, guard: GuardSettings | None = None, **settings: Any
) -> AsyncIterator[Client]:
    model = ServedModel(
        name="scripted",
        engine=engine,
        codec=ByteCodec(),
        context_length=1000,
        vocab_size=256,
        default_params=SamplingParams(temperature=0.7),
    )
    models = ServedModels([model])
    ports: list[int] = []
    chosen = ApiSettings(**settings)
    part = GrpcPart(models, chosen, GatewaySettings(), 0, on_ready=ports.append)
    guards = [] if guard is None else [GuardPart(models, guard)]
    app = create_app(models, chosen, parts=[part, *guards])
    async with app.router.lifespan_context(app), grpc.aio.insecure_channel(f"127.0.0.1:{ports[0]}") as channel:
        yield Client(channel, client_key)


def run(engine: ScriptedEngine, work: Callable[[Client], Awaitable[Any]], **settings: Any) -> Any:
    async def whole() -> Any:
        async with serving(engine, **settings) as client:
            return await work(client)

    return asyncio.run(whole())


def status_of(engine: ScriptedEngine, path: str, request: Any, **settings: Any) -> tuple[Any, str]:
    async def work(client: Client) -> tuple[Any, str]:
        try:
            await client(path, request)
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""
        raise AssertionError("the call succeeded")

    result: tuple[Any, str] = run(engine, work, **settings)
    return result


def test_a_chat_is_answered_whole() -> None:
    reply = run(ScriptedEngine(), lambda client: client("Generation/Chat", HELLO))
    assert (reply.model, reply.content, reply.finish_reason) == ("scripted", "Hello", "stop")
    assert reply.usage.completion_tokens == 5


def test_a_chat_is_streamed_and_its_last_message_counts() -> None:
    async def work(client: Client) -> list[Any]:
        return [delta async for delta in client("Generation/StreamChat", HELLO, streamed=True)]

    deltas = run(ScriptedEngine(), work)
    assert "".join(delta.content for delta in deltas) == "Hello"
    assert [delta.finish_reason for delta in deltas] == ["", "", "", "", "stop"]
    assert deltas[-1].usage.completion_tokens == 5


@pytest.mark.requirement("E6")
def test_the_cached_part_of_a_prompt_is_counted_whole_and_streamed() -> None:
    async def work(client: Client) -> list[int]:
        chat = await client("Generation/Chat", HELLO)
        *_, chat_end = [delta async for delta in client("Generation/StreamChat", HELLO, streamed=True)]
        prompt = pb.CompleteRequest(prompt="a longer prompt")
        completion = await client("Generation/Complete", prompt)
        *_, completion_end = [delta async for delta in client("Generation/StreamComplete", prompt, streamed=True)]
        return [reply.usage.cached_tokens for reply in (chat, chat_end, completion, completion_end)]

    assert run(ScriptedEngine(cached=CacheReport(7, 7, "complete")), work) == [7, 7, 7, 7]


@pytest.mark.requirement("S7")
def test_the_guard_redacts_what_goes_in_and_what_comes_out_whole_and_streamed() -> None:
    engine = ScriptedEngine(script=lambda _: "Write to ana@example.com today.")
    asked = [pb.Message(role="user", content="I am eva@example.org")]

    async def work(client: Client) -> list[str]:
        chat = await client("Generation/Chat", pb.ChatRequest(messages=asked))
        stream = client("Generation/StreamChat", pb.ChatRequest(messages=asked), streamed=True)
        text = "".join([delta.content async for delta in stream])
        completion = await client(
            "Generation/Complete",
            pb.CompleteRequest(prompt="I am eva@example.org", sampling=pb.Sampling(max_tokens=64)),
        )
        return [chat.content, text, completion.text]

    guard = GuardSettings(input="pii=redact", output="pii=redact")
    assert run(engine, work, guard=guard) == ["Write to [EMAIL] today."] * 3
    assert engine.prompts == ["user:I am [EMAIL]|assistant:"] * 2 + ["I am [EMAIL]"]


@pytest.mark.requirement("S7")
def test_what_the_guard_blocks_is_an_invalid_argument_that_names_the_rule() -> None:
    engine = ScriptedEngine()
    request = pb.ChatRequest(messages=[pb.Message(role="user", content="my key is AKIAIOSFODNN7EXAMPLE")])
    code, details = status_of(engine, "Generation/Chat", request, guard=GuardSettings(input="secrets=block"))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "secrets.aws_key" in details
    assert "AKIA" not in details
    assert engine.prompts == []


def test_a_completion_takes_text_or_token_ids() -> None:
    engine = ScriptedEngine()

    async def work(client: Client) -> Any:
        await client("Generation/Complete", pb.CompleteRequest(prompt="abc", sampling=pb.Sampling(max_tokens=3)))
        return await client("Generation/Complete", pb.CompleteRequest(prompt_token_ids=[97, 98]))

    reply = run(engine, work)
    assert engine.prompts == ["abc", "ab"]
    assert engine.params[0].max_tokens == 3
    assert (reply.text, list(reply.token_ids)) == ("Hello", list(b"Hello"))


def test_sampling_reaches_the_engine_and_what_is_left_out_is_the_models_default() -> None:
    engine = ScriptedEngine()
    sampling = pb.Sampling(top_k=5, seed=7, stop=["x"], max_tokens=9)
    request = pb.ChatRequest(messages=HELLO.messages, sampling=sampling)
    run(engine, lambda client: client("Generation/Chat", request))
    params = engine.params[0]
    assert (params.top_k, params.seed, params.stop, params.max_tokens) == (5, 7, ("x",), 9)
    assert params.temperature == 0.7


def test_models_and_tokens() -> None:
    async def work(client: Client) -> tuple[Any, Any, Any]:
        listed = await client("Models/List", pb.ListModelsRequest())
        ids = await client("Models/Tokenize", pb.TokenizeRequest(text="hé"))
        return listed, ids, await client("Models/Detokenize", pb.DetokenizeRequest(token_ids=ids.token_ids))

    listed, ids, text = run(ScriptedEngine(), work)
    assert [(model.name, model.context_length) for model in listed.models] == [("scripted", 1000)]
    assert list(ids.token_ids) == [104, 195, 169]
    assert text.text == "hé"


@pytest.mark.parametrize(
    ("request_", "code", "words"),
    [
        (pb.ChatRequest(), grpc.StatusCode.INVALID_ARGUMENT, "messages"),
        (pb.ChatRequest(messages=HELLO.messages, model="nope"), grpc.StatusCode.NOT_FOUND, "nope"),
        (
            pb.ChatRequest(messages=HELLO.messages, sampling=pb.Sampling(temperature=-1)),
            grpc.StatusCode.INVALID_ARGUMENT,
            "temperature",
        ),
        (
            pb.ChatRequest(messages=HELLO.messages, form=pb.Form(json_schema="{")),
            grpc.StatusCode.INVALID_ARGUMENT,
            "json_schema",
        ),
        (
            pb.ChatRequest(messages=[pb.Message(role="user", content="x" * 2000)]),
            grpc.StatusCode.INVALID_ARGUMENT,
            "1000",
        ),
    ],
    ids=["no messages", "model", "value", "schema", "too long"],
)
def test_what_is_wrong_is_named(request_: Any, code: Any, words: str) -> None:
    found, details = status_of(ScriptedEngine(), "Generation/Chat", request_)
    assert found == code
    assert words in details


def test_a_failure_tells_no_internals() -> None:
    code, details = status_of(ScriptedEngine(fail_after=1), "Generation/Chat", HELLO)
    assert code == grpc.StatusCode.INTERNAL
    assert "secret internals" not in details


def test_a_key_is_needed_where_one_is_set() -> None:
    async def work(client: Client) -> tuple[Any, Any]:
        reply = await client("Generation/Chat", HELLO)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await Client(client.channel, "wrong")("Generation/Chat", HELLO)
        return reply, refused.value.code()

    reply, code = run(ScriptedEngine(), work, client_key="boot", key="boot")
    assert reply.content == "Hello"
    assert code == grpc.StatusCode.UNAUTHENTICATED


def test_a_deadline_ends_the_call_and_the_generation() -> None:
    engine = ScriptedEngine(hold_after=1)

    async def work(client: Client) -> Any:
        try:
            await client("Generation/Chat", HELLO, timeout=0.5)
        except grpc.aio.AioRpcError as error:
            assert await asyncio.to_thread(engine.closed.wait, 20)
            return error.code()
        raise AssertionError("no deadline")

    assert run(engine, work) == grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_cancelled_stream_ends_its_generation() -> None:
    engine = ScriptedEngine(hold_after=1)

    async def work(client: Client) -> str:
        call = client("Generation/StreamChat", HELLO, streamed=True)
        first = await call.read()
        call.cancel()
        assert await asyncio.to_thread(engine.closed.wait, 20)
        return str(first.content)

    assert run(engine, work) == "H"


def test_health_is_told_for_the_server_and_each_service() -> None:
    async def work(client: Client) -> list[int]:
        stub = health_pb2_grpc.HealthStub(client.channel)
        names = ["", "glm_crush.v1.Generation", "glm_crush.v1.Models"]
        return [(await stub.Check(health_pb2.HealthCheckRequest(service=name))).status for name in names]

    assert run(ScriptedEngine(), work) == [health_pb2.HealthCheckResponse.SERVING] * 3


def test_reflection_describes_the_services() -> None:
    async def work(client: Client) -> set[str]:
        stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        reply = await call.read()
        return {service.name for service in reply.list_services_response.service}

    assert {"glm_crush.v1.Generation", "glm_crush.v1.Models", "grpc.health.v1.Health"} <= run(ScriptedEngine(), work)


def test_a_taken_port_is_an_error_that_names_it() -> None:
    async def work() -> None:
        models = ServedModels([])
        first, settings = [], ApiSettings()
        part = GrpcPart(models, settings, GatewaySettings(), 0, on_ready=first.append)
        app = create_app(models, settings, parts=[part])
        async with app.router.lifespan_context(app):
            second = create_app(models, settings, parts=[GrpcPart(models, settings, GatewaySettings(), first[0])])
            async with second.router.lifespan_context(second):
                raise AssertionError("the port was given twice")

    with pytest.raises(ConfigError, match="--grpc-port"):
        asyncio.run(work())
