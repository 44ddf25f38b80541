"""The list of suites: what each one checks, and how it is started.

A client's suite is a script in `clients/`, run by the client's own interpreter; it prints a line for each check.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from conformance.environments import HERE, NodeEnvironment, PythonEnvironment
from conformance.outcomes import Check, SuiteReport, read_checks
from conformance.servers import ADMIN_KEY, EMBEDDING_MODEL, MODEL, RERANKER, TINY_GLM, Servers
from conformance.suite_mcp import PACKAGE as MCP_PACKAGE
from conformance.suite_mcp import run_mcp_suite
from conformance.suite_schemathesis import run_schemathesis

__all__ = ["SUITES", "Suite"]

_CLIENTS, _LLAMA_INDEX, _NODE = PythonEnvironment("clients"), PythonEnvironment("llama_index"), NodeEnvironment()
_PATIENCE_SECONDS = 600.0
_LANGCHAIN = ("langchain-openai", "langchain-anthropic", "langchain-ollama")
_MCP_SUBJECT = "`/mcp`: every scenario that the revision requires of servers"


@dataclass(frozen=True)
class Suite:
    """Something to run; `packages` are named with their versions, the first one's is the suite's."""

    title: str
    subject: str
    packages: tuple[str, ...]
    environment: PythonEnvironment | NodeEnvironment
    checks: Callable[[Servers], list[Check]]

    def run(self, servers: Servers) -> SuiteReport:
        """Every check of it."""
        versions = ", ".join(self.environment.version(package) for package in self.packages)
        return SuiteReport(self.title, versions, self.subject, self.checks(servers))


def _python(script: str, environment: PythonEnvironment = _CLIENTS) -> Callable[[Servers], list[Check]]:
    return lambda servers: _script([environment.python, HERE / "clients" / f"{script}.py"], servers)


def _node(script: str) -> Callable[[Servers], list[Check]]:
    def run(servers: Servers) -> list[Check]:
        # Packages are found from where a script lies.
        folder = _NODE.folder / "clients"
        folder.mkdir(exist_ok=True)
        for source in (HERE / "clients").glob("*.mjs"):
            shutil.copy(source, folder / source.name)
        return _script([_NODE.node, folder / f"{script}.mjs"], servers)

    return run


def _script(command: list[object], servers: Servers) -> list[Check]:
    target = {
        "url": servers.url, "glm_url": servers.glm_url, "grpc": servers.grpc, "keyed_url": servers.keyed_url,
        "key": ADMIN_KEY, "model": MODEL, "glm_model": TINY_GLM, "embedding_model": EMBEDDING_MODEL,
        "reranker": RERANKER,
    }  # fmt: skip
    done = subprocess.run(
        [*map(str, command), json.dumps(target)], capture_output=True, text=True, timeout=_PATIENCE_SECONDS
    )
    checks = read_checks(done.stdout.splitlines())
    if done.returncode != 0 or not checks:
        checks.append(Check("the script runs to its end", "failed", done.stderr.strip()[-300:]))
    return checks


def _mcp(revision: str) -> Callable[[Servers], list[Check]]:
    return lambda servers: run_mcp_suite(_NODE, servers.url, revision)


def _openapi(servers: Servers) -> list[Check]:
    return run_schemathesis(_CLIENTS, f"{servers.keyed_url}/openapi.json", ADMIN_KEY, max_examples=25)


def _graphql_schema(servers: Servers) -> list[Check]:
    return run_schemathesis(_CLIENTS, f"{servers.keyed_url}/graphql", ADMIN_KEY, max_examples=50, graphql=True)


def _where_graphql_is(checks: Callable[[Servers], list[Check]]) -> Callable[[Servers], list[Check]]:
    def run(servers: Servers) -> list[Check]:
        try:
            urllib.request.urlopen(f"{servers.url}/graphql")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return [Check("GraphQL", "not applicable", "this server has no `/graphql`")]
        return checks(servers)

    return run


SUITES: Mapping[str, Suite] = {
    "openai-python": Suite(
        "openai (Python)",
        "models, chat, completions, embeddings, tools, errors",
        ("openai",),
        _CLIENTS,
        _python("openai_python"),
    ),
    "openai-stored": Suite(
        "openai (Python), stored objects",
        "responses, files, batches, moderations",
        ("openai",),
        _CLIENTS,
        _python("openai_stored_python"),
    ),
    "openai-node": Suite(
        "openai (Node)",
        "the same with a second implementation; the tool runner",
        ("openai",),
        _NODE,
        _node("openai_node"),
    ),
    "anthropic-python": Suite(
        "anthropic (Python)",
        "`/v1/messages`: text, streams, tools, thinking, counting",
        ("anthropic",),
        _CLIENTS,
        _python("anthropic_python"),
    ),
    "anthropic-node": Suite(
        "@anthropic-ai/sdk (Node)",
        "the same with a second implementation",
        ("@anthropic-ai/sdk",),
        _NODE,
        _node("anthropic_node"),
    ),
    "ollama-python": Suite(
        "ollama (Python)",
        "`/api`: chat, generate, embed, create, copy, delete, pull",
        ("ollama",),
        _CLIENTS,
        _python("ollama_python"),
    ),
    "ollama-node": Suite(
        "ollama (Node)", "the same with a second implementation; aborts", ("ollama",), _NODE, _node("ollama_node")
    ),
    "ai-sdk": Suite(
        "Vercel AI SDK",
        "text, objects, tools, reasoning, embeddings",
        ("ai", "@ai-sdk/openai-compatible"),
        _NODE,
        _node("ai_sdk_node"),
    ),
    "llm": Suite(
        "llm (command)",
        "models of `extra-openai-models.yaml`: prompts, schemas, conversations, tools",
        ("llm",),
        _CLIENTS,
        _python("llm_cli"),
    ),
    "langchain": Suite(
        "LangChain",
        "`ChatOpenAI`, `ChatAnthropic`, `ChatOllama`, `OpenAIEmbeddings`",
        _LANGCHAIN,
        _CLIENTS,
        _python("langchain_clients"),
    ),
    "llama-index": Suite(
        "LlamaIndex",
        "`OpenAILike`: chat, completion, streams, functions",
        ("llama-index-llms-openai-like",),
        _LLAMA_INDEX,
        _python("llama_index_clients", _LLAMA_INDEX),
    ),
    "mcp-2025-11-25": Suite("MCP conformance, 2025-11-25", _MCP_SUBJECT, (MCP_PACKAGE,), _NODE, _mcp("2025-11-25")),
    "mcp-2026-07-28": Suite("MCP conformance, 2026-07-28", _MCP_SUBJECT, (MCP_PACKAGE,), _NODE, _mcp("2026-07-28")),
    "grpc": Suite(
        "gRPC",
        "health and reflection from the outside, a call by reflected types",
        ("grpcio-reflection", "grpcio-health-checking"),
        _CLIENTS,
        _python("grpc_standard"),
    ),
    "openapi": Suite(
        "schemathesis on `/openapi.json`",
        "requests made from the description: statuses, types, schemas, keys",
        ("schemathesis",),
        _CLIENTS,
        _openapi,
    ),
    "graphql-http": Suite(
        "graphql-http audits", "GraphQL over HTTP", ("graphql-http",), _NODE, _where_graphql_is(_node("graphql_http"))
    ),
    "graphql": Suite(
        "schemathesis on `/graphql`",
        "queries made from the schema",
        ("schemathesis",),
        _CLIENTS,
        _where_graphql_is(_graphql_schema),
    ),
}
