"""The tools and resources that an MCP client sees.

Above: `part` (streamable HTTP) and `glm mcp` (stdio). Below: a backend, and the SDK's low-level server, which speaks
the specification of 2026-07-28 and the handshakes of 2025. A tool's failure is a result with `is_error`, as the
specification has it, so that the model that called it can read what was wrong; a tool that is not there is an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from typing import Any
from urllib.parse import unquote

import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError

from glm_crush.serving.mcp.backend import Answer, Backend

__all__ = ["mcp_server"]

_MODELS_URI = "glm://models"
_MODEL_TEMPLATE = "glm://models/{name}"
_MOST_COMPLETIONS = 100  # as the specification has it
_INSTRUCTIONS = (
    "Language models on this machine. `generate` writes text or JSON, `embed` turns texts into vectors, `rerank` "
    "orders documents by a query; the resource glm://models lists the models."
)
_STRING = {"type": "string"}
_MODEL = {"type": "string", "description": "Name of a model; left out: the default one."}


@dataclass(frozen=True)
class _Tool:
    """A tool: what it is for, what it takes, and how an answer becomes its result."""

    name: str
    description: str
    properties: Mapping[str, Any]
    required: tuple[str, ...]
    path: str
    request: Callable[[Mapping[str, Any]], dict[str, Any]]
    result: Callable[[Any], tuple[str, dict[str, Any]]]

    @property
    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": dict(self.properties),
            "required": list(self.required),
            "additionalProperties": False,
        }


def _generate_request(arguments: Mapping[str, Any]) -> dict[str, Any]:
    messages = [{"role": "user", "content": arguments["prompt"]}]
    if "system" in arguments:
        messages.insert(0, {"role": "system", "content": arguments["system"]})
    names = ("model", "max_tokens", "temperature", "seed", "stop")
    body: dict[str, Any] = {name: arguments[name] for name in names if name in arguments}
    if "json_schema" in arguments:
        form = {"name": "answer", "schema": arguments["json_schema"]}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    return body | {"messages": messages}


def _generate_result(body: Any) -> tuple[str, dict[str, Any]]:
    choice = body["choices"][0]
    text = choice["message"]["content"] or ""
    facts = {"model": body["model"], "finish_reason": choice["finish_reason"], "usage": body["usage"]}
    return text, {"text": text, **facts}


def _embed_result(body: Any) -> tuple[str, dict[str, Any]]:
    vectors = [row["embedding"] for row in body["data"]]
    facts = {"model": body["model"], "dimensions": len(vectors[0]) if vectors else 0}
    return json.dumps(facts | {"count": len(vectors)}), facts | {"embeddings": vectors}


def _rerank_result(body: Any) -> tuple[str, dict[str, Any]]:
    rows = [{"index": row["index"], "relevance_score": row["relevance_score"]} for row in body["results"]]
    return json.dumps(rows), {"results": rows}


_TOOLS = (
    _Tool(
        "generate",
        "Write text with a local language model, or JSON that follows a schema.",
        {
            "prompt": _STRING | {"description": "What to do."},
            "system": _STRING | {"description": "Instructions that stand before it."},
            "model": _MODEL,
            "max_tokens": {"type": "integer", "minimum": 1},
            "temperature": {"type": "number", "minimum": 0},
            "seed": {"type": "integer"},
            "stop": {"type": "array", "items": _STRING},
            "json_schema": {"type": "object", "description": "The reply is JSON of this schema."},
        },
        ("prompt",),
        "/v1/chat/completions",
        _generate_request,
        _generate_result,
    ),
    _Tool(
        "embed",
        "Turn texts into vectors whose cosines tell how alike they are.",
        {"texts": {"type": "array", "items": _STRING, "minItems": 1}, "model": _MODEL},
        ("texts",),
        "/v1/embeddings",
        lambda arguments: {"input": arguments["texts"], "model": arguments.get("model", "default")},
        _embed_result,
    ),
    _Tool(
        "rerank",
        "Order documents by how well they answer a query, the best first.",
        {
            "query": _STRING,
            "documents": {"type": "array", "items": _STRING, "minItems": 1},
            "top_n": {"type": "integer", "minimum": 1},
            "model": _MODEL,
        },
        ("query", "documents"),
        "/v1/rerank",
        lambda arguments: {"model": "default", **arguments},
        _rerank_result,
    ),
)


def mcp_server(backend: Backend) -> Server[Any]:
    """A server whose tools ask `backend`."""
    tools = {tool.name: tool for tool in _TOOLS}

    async def list_tools(_: Any, __: Any) -> types.ListToolsResult:
        read_only = types.ToolAnnotations(read_only_hint=True, open_world_hint=False)
        return types.ListToolsResult(
            tools=[
                types.Tool(
                    name=tool.name, description=tool.description, input_schema=tool.schema, annotations=read_only
                )
                for tool in _TOOLS
            ]
        )

    async def call_tool(_: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        tool = tools.get(params.name)
        if tool is None:
            raise _not_there(f"there is no tool {params.name[:200]!r}; there is {', '.join(tools)}")
        arguments = params.arguments or {}
        unknown = sorted(set(arguments) - set(tool.properties))
        missing = [name for name in tool.required if name not in arguments]
        if unknown or missing:
            wrong = [f"unknown: {', '.join(unknown)}"] * bool(unknown) + [f"missing: {', '.join(missing)}"] * bool(
                missing
            )
            return _failed(f"{tool.name} takes {', '.join(tool.properties)}; {'; '.join(wrong)}")
        answer = await backend.post(tool.path, tool.request(arguments))
        if answer.status != 200:
            return _failed(_reason(answer))
        text, structured = tool.result(answer.body)
        return types.CallToolResult(content=[types.TextContent(text=text)], structured_content=structured)

    async def list_resources(_: Any, __: Any) -> types.ListResourcesResult:
        return types.ListResourcesResult(
            resources=[
                types.Resource(
                    uri=_MODELS_URI, name="models", description="The models served.", mime_type="application/json"
                )
            ]
        )

    async def list_templates(_: Any, __: Any) -> types.ListResourceTemplatesResult:
        template = types.ResourceTemplate(
            uri_template=_MODEL_TEMPLATE, name="model", description="One model.", mime_type="application/json"
        )
        return types.ListResourceTemplatesResult(resource_templates=[template])

    async def models() -> dict[str, Any]:
        answer = await backend.models()
        if answer.status != 200:
            raise _not_there(_reason(answer))
        return {str(card["id"]): card for card in answer.body["data"]}

    async def read_resource(_: Any, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        uri = str(params.uri)
        cards = await models()
        name = unquote(uri.removeprefix(f"{_MODELS_URI}/"))
        if uri == _MODELS_URI:
            found: Any = {"object": "list", "data": list(cards.values())}
        elif name in cards and uri != name:
            found = cards[name]
        else:
            raise _not_there(f"there is no resource {uri[:200]!r}; there is {_MODELS_URI} and {_MODEL_TEMPLATE}")
        return types.ReadResourceResult(
            contents=[types.TextResourceContents(uri=uri, mime_type="application/json", text=json.dumps(found))]
        )

    async def complete(_: Any, params: types.CompleteRequestParams) -> types.CompleteResult:
        reference = params.ref
        if not isinstance(reference, types.ResourceTemplateReference) or reference.uri != _MODEL_TEMPLATE:
            raise _not_there(f"only the argument of the resource template {_MODEL_TEMPLATE} can be completed")
        names = [name for name in await models() if name.startswith(params.argument.value)]
        completion = types.Completion(
            values=names[:_MOST_COMPLETIONS], total=len(names), has_more=len(names) > _MOST_COMPLETIONS
        )
        return types.CompleteResult(completion=completion)

    return Server(
        "glm-crush",
        version=installed_version("glm-crush"),
        title="GLM-Crush",
        instructions=_INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_list_resource_templates=list_templates,
        on_read_resource=read_resource,
        on_completion=complete,
    )


def _failed(reason: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=reason)], is_error=True)


def _reason(answer: Answer) -> str:
    error = answer.body.get("error") if isinstance(answer.body, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return str(message or f"status {answer.status}")


def _not_there(message: str) -> MCPError:
    return MCPError(code=types.INVALID_PARAMS, message=message)
