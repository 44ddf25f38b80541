"""MCP clients of both generations, over HTTP and stdio, find the tools and use them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import ResourceTemplateReference

from glm_crush.config import ApiSettings, StorageSettings
from glm_crush.guard_settings import GuardSettings
from glm_crush.serving.app import create_app
from glm_crush.serving.guard.part import GuardPart
from glm_crush.serving.mcp.part import McpPart
from glm_crush.serving.part import ServerPart
from glm_crush.serving.served_model import ServedModel
from glm_crush.serving.served_models import ServedModels
from glm_crush.storage.lazy import LazyDatabase
from glm_crush.types import SamplingParams
from tests.serving.scripted import ByteCodec, ScriptedEngine

pytestmark = pytest.mark.requirement("S4")


@asynccontextmanager
async def serving(
    engine: ScriptedEngine,
    *,
    database: LazyDatabase | None = None,
    guard: GuardSettings | None = None,
    **settings: Any,
) -> AsyncIterator[str]:
    model = ServedModel(
        name="scripted",
        engine=engine,
        codec=ByteCodec(),
        context_length=1000,
        vocab_size=256,
        default_params=SamplingParams(temperature=0.7),
    )
    models = ServedModels([model])
    parts: list[ServerPart] = [McpPart(models, max_body_bytes=100_000)]
    if guard is not None:
        parts.append(GuardPart(models, guard))
    app = create_app(models, ApiSettings(**settings), database=database, parts=parts)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", ws="none"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


def with_client(engine: ScriptedEngine, work: Callable[[Client], Awaitable[Any]], mode: str, **settings: Any) -> Any:
    async def run() -> Any:
        async with serving(engine, **settings) as url, Client(f"{url}/mcp", mode=mode) as client:  # type: ignore[arg-type]
            return await work(client)

    return asyncio.run(run())


def command(url: str) -> StdioServerParameters:
    """What a desktop client's configuration says."""
    glm = str(Path(sys.executable).parent / "glm")
    return StdioServerParameters(command=glm, args=["mcp", "--url", url], env=dict(os.environ))


MODES = pytest.mark.parametrize("mode", ["auto", "legacy"])


@MODES
def test_a_client_lists_the_tools_with_their_schemas(mode: str) -> None:
    async def work(client: Client) -> Any:
        return (await client.list_tools()).tools

    tools = with_client(ScriptedEngine(), work, mode)
    assert [tool.name for tool in tools] == ["generate", "embed", "rerank"]
    assert tools[0].input_schema["required"] == ["prompt"]


@MODES
def test_generate_writes_text_and_says_how(mode: str) -> None:
    engine = ScriptedEngine()

    async def work(client: Client) -> Any:
        return await client.call_tool("generate", {"prompt": "hi", "system": "be brief", "max_tokens": 3, "seed": 1})

    result = with_client(engine, work, mode)
    assert not result.is_error
    assert result.content[0].text == "Hel"
    assert result.structured_content["finish_reason"] == "length"
    assert engine.prompts == ["system:be brief|user:hi|assistant:"]
    assert engine.params[0].seed == 1


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("generate", {}, "missing: prompt"),
        ("generate", {"prompt": "x", "colour": 1}, "unknown: colour"),
        ("generate", {"prompt": "x", "temperature": -1}, "temperature"),
        ("generate", {"prompt": "x", "model": "nope"}, "nope"),
        ("generate", {"prompt": "x" * 2000}, "1000"),
    ],
    ids=["missing", "unknown", "value", "model", "long"],
)
def test_what_is_wrong_is_a_result_that_says_so(name: str, arguments: dict[str, Any], words: str) -> None:
    async def work(client: Client) -> Any:
        return await client.call_tool(name, arguments)

    result = with_client(ScriptedEngine(), work, "auto")
    assert result.is_error
    assert words in result.content[0].text


@MODES
def test_a_tool_that_is_not_there_is_an_error_of_the_protocol(mode: str) -> None:
    async def work(client: Client) -> Any:
        with pytest.raises(MCPError, match="there is no tool 'dance'; there is generate") as caught:
            await client.call_tool("dance", {})
        return caught.value.error.code

    assert with_client(ScriptedEngine(), work, mode) == -32602


@MODES
@pytest.mark.requirement("S7")
def test_the_guard_sees_what_a_tool_is_asked_and_what_it_answers(mode: str) -> None:
    engine = ScriptedEngine(script=lambda _: "Write to ana@example.com today.")

    async def work(client: Client) -> Any:
        told = await client.call_tool("generate", {"prompt": "I am eva@example.org"})
        refused = await client.call_tool("generate", {"prompt": "my key is AKIAIOSFODNN7EXAMPLE"})
        return told.content[0].text, refused.is_error, refused.content[0].text

    guard = GuardSettings(input="pii=redact, secrets=block", output="pii=redact")
    told, is_error, words = with_client(engine, work, mode, guard=guard)
    assert told == "Write to [EMAIL] today."
    assert engine.prompts == ["user:I am [EMAIL]|assistant:"]
    assert is_error
    assert "secrets.aws_key" in words


@MODES
def test_each_model_is_a_resource_whose_name_is_completed(mode: str) -> None:
    async def work(client: Client) -> Any:
        templates = (await client.list_resource_templates()).resource_templates
        reference = ResourceTemplateReference(uri=templates[0].uri_template)
        completed = await client.complete(reference, {"name": "name", "value": "scr"})
        read = await client.read_resource("glm://models/scripted")
        with pytest.raises(MCPError, match="there is no resource 'glm://models/other'"):
            await client.read_resource("glm://models/other")
        return completed.completion.values, read.contents[0].text

    names, card = with_client(ScriptedEngine(), work, mode)
    assert names == ["scripted"]
    assert json.loads(card)["max_model_len"] == 1000


@MODES
def test_the_models_are_a_resource(mode: str) -> None:
    async def work(client: Client) -> Any:
        listed = await client.list_resources()
        return listed.resources[0].uri, await client.read_resource("glm://models")

    uri, read = with_client(ScriptedEngine(), work, mode)
    assert str(uri) == "glm://models"
    assert '"id": "scripted"' in read.contents[0].text


def test_a_key_is_needed_where_one_is_set() -> None:
    async def run() -> tuple[int, Any]:
        async with serving(ScriptedEngine(), key="boot") as url:
            async with httpx2.AsyncClient() as bare:
                refused = (await bare.post(f"{url}/mcp", json={})).status_code
            http = httpx2.AsyncClient(headers={"authorization": "Bearer boot"})
            async with http, Client(streamable_http_client(f"{url}/mcp", http_client=http)) as client:
                return refused, await client.call_tool("generate", {"prompt": "hi"})

    refused, result = asyncio.run(run())
    assert refused == 401
    assert result.content[0].text == "Hello"


@MODES
def test_a_tool_runs_on_behalf_of_the_key_that_called(mode: str, tmp_path: Path) -> None:
    async def run() -> Any:
        database = LazyDatabase(StorageSettings(), tmp_path)
        async with serving(ScriptedEngine(), database=database, key="boot") as url:
            boot = httpx2.AsyncClient(base_url=url, headers={"authorization": "Bearer boot"})
            async with boot:
                await boot.post("/admin/v1/applications", json={"name": "shop"})
                body = {"application": "shop", "models": ["other"]}
                key = (await boot.post("/admin/v1/keys", json=body)).json()["key"]
            http = httpx2.AsyncClient(headers={"authorization": f"Bearer {key}"})
            async with http, Client(streamable_http_client(f"{url}/mcp", http_client=http), mode=mode) as client:  # type: ignore[arg-type]
                return await client.call_tool("generate", {"prompt": "hi"})

    result = asyncio.run(run())
    assert result.is_error
    assert "may not use the model" in result.content[0].text


@MODES
def test_a_key_that_may_run_one_request_at_a_time_may_call_a_tool(mode: str, tmp_path: Path) -> None:
    async def run() -> Any:
        database = LazyDatabase(StorageSettings(), tmp_path)
        async with serving(ScriptedEngine(), database=database, key="boot") as url:
            boot = httpx2.AsyncClient(base_url=url, headers={"authorization": "Bearer boot"})
            async with boot:
                await boot.post("/admin/v1/applications", json={"name": "shop"})
                body = {"application": "shop", "limits": {"concurrency": 1}}
                key = (await boot.post("/admin/v1/keys", json=body)).json()["key"]
            http = httpx2.AsyncClient(headers={"authorization": f"Bearer {key}"})
            async with http, Client(streamable_http_client(f"{url}/mcp", http_client=http), mode=mode) as client:  # type: ignore[arg-type]
                return await client.call_tool("generate", {"prompt": "hi"})

    assert asyncio.run(run()).content[0].text == "Hello"


def test_a_desktop_client_starts_the_command_and_talks_over_stdio() -> None:
    async def run() -> Any:
        async with serving(ScriptedEngine()) as url, Client(stdio_client(command(url))) as client:
            return await client.call_tool("generate", {"prompt": "hi"})

    assert asyncio.run(run()).content[0].text == "Hello"


def test_a_server_that_is_not_there_is_named_with_the_remedy() -> None:
    async def run() -> Any:
        async with Client(stdio_client(command("http://127.0.0.1:9"))) as client:
            return await client.call_tool("generate", {"prompt": "hi"})

    result = asyncio.run(run())
    assert result.is_error
    assert "glm serve" in result.content[0].text
