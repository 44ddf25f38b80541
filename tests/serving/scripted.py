"""Fixtures: a server on a loopback port over a scripted model: one byte is one token, replies come from a script."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import uvicorn

from glm_crush.config import ApiSettings
from glm_crush.engine.output import RequestDelta, RequestStats
from glm_crush.errors import ContextLengthError
from glm_crush.serving.app import create_app
from glm_crush.serving.part import ServerPart
from glm_crush.serving.served_encoder import ServedEncoders
from glm_crush.serving.served_model import ServedModel
from glm_crush.serving.served_models import ServedModels
from glm_crush.storage.lazy import LazyDatabase
from glm_crush.types import CacheReport, Message, SamplingParams, TokenLogprobs


class ByteCodec:
    """One UTF-8 byte is one token; a conversation is `role:content|` pairs and `assistant:`."""

    chat_template = "role:content|"

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return list(text.encode())

    def decode(self, token_ids: Sequence[int]) -> str:
        return bytes(token_ids).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id])

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool, **variables: Any) -> list[int]:
        text = "".join(f"{message['role']}:{message['content']}|" for message in messages)
        text += "".join(f"{name}={value}|" for name, value in sorted(variables.items()))
        return self.encode(text + ("assistant:" if add_generation_prompt else ""))


@dataclass
class ScriptedEngine:
    """Answers every prompt with `script(prompt)`, one character at a time; remembers what it was asked.

    Attributes:
        fail_after: characters after which the engine dies. hold_after: after which it waits for `release`.
        cached: what it says of its prefix cache at the end of each reply. explains_cache: whether replies tell.
    """

    script: Callable[[str], str] = lambda prompt: "Hello"
    fail_after: int | None = None
    hold_after: int | None = None
    refuse: Exception | None = None
    context_length: int = 1000
    cached: CacheReport | None = None
    explains_cache: bool = False
    is_alive: bool = True
    prompts: list[str] = field(default_factory=list)
    params: list[SamplingParams] = field(default_factory=list)
    priorities: list[int] = field(default_factory=list)
    salts: list[str] = field(default_factory=list)
    closed: threading.Event = field(default_factory=threading.Event)
    holding: threading.Event = field(default_factory=threading.Event)

    async def submit(
        self,
        request_id: str,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        *,
        priority: int = 0,
        cache_salt: str = "",
        tenant: str = "",
        resume: bool = False,
    ) -> AsyncGenerator[RequestDelta, None]:
        self.salts.append(cache_salt)
        if self.refuse is not None:
            raise self.refuse
        if len(prompt_token_ids) > self.context_length:
            raise ContextLengthError(
                f"the prompt has {len(prompt_token_ids)} tokens; the context holds 1000", parameter="prompt"
            )
        prompt = bytes(prompt_token_ids).decode()
        self.prompts.append(prompt)
        self.params.append(params)
        self.priorities.append(priority)
        text = self.script(prompt)
        limit = min(len(text), params.max_tokens or len(text))
        try:
            for position, character in enumerate(text[:limit]):
                await asyncio.sleep(0)
                if position == self.fail_after:
                    raise RuntimeError("secret internals")
                if position == self.hold_after:
                    self.holding.set()
                    await asyncio.Event().wait()
                reason = None if position < limit - 1 else ("stop" if limit == len(text) else "length")
                for index in range(params.n):
                    delta = self._delta(request_id, index, character, reason, params)
                    if position == 0 and params.prompt_logprobs is not None:
                        scored = (None, *(TokenLogprobs(token, -2.0, ()) for token in prompt_token_ids[1:]))
                        delta = replace(delta, prompt_logprobs=scored)
                    if reason is not None and self.cached is not None:
                        found = self.cached.num_cached_tokens
                        stats = RequestStats(len(prompt_token_ids), limit, 0, 0.0, 0.0, 0.1, found, self.cached)
                        delta = replace(delta, stats=stats)
                    yield delta
        finally:
            self.closed.set()

    @staticmethod
    def _delta(request_id: str, index: int, character: str, reason: Any, params: SamplingParams) -> RequestDelta:
        logprobs = None
        if params.logprobs is not None:
            top = ((65, -0.5), (66, float("-inf")))[: params.logprobs]
            logprobs = (TokenLogprobs(ord(character), -1.0, top),)
        return RequestDelta(request_id, index, (ord(character),), character, logprobs, reason)


def scripted_model(engine: ScriptedEngine) -> ServedModel:
    """The engine as a model called `scripted`."""
    return ServedModel(
        name="scripted",
        engine=engine,
        codec=ByteCodec(),
        context_length=1000,
        vocab_size=256,
        default_params=SamplingParams(temperature=0.7),
        created=1_700_000_000,
        explains_cache=engine.explains_cache,
    )


@dataclass(frozen=True)
class RunningServer:
    url: str
    engine: ScriptedEngine
    stop: Callable[[], None] = lambda: None
    server: Any = None  # uvicorn's, of a server that is the test's own


class CurrentApp:
    """The application of the running test; one socket serves all tests, since starting one takes a while."""

    def __init__(self) -> None:
        self.app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


@pytest.fixture(scope="session")
def loopback_server() -> Iterator[tuple[str, CurrentApp]]:
    current = CurrentApp()
    server = uvicorn.Server(uvicorn.Config(current, host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    started = threading.Event()
    startup = server.startup

    async def startup_and_tell(sockets: Any = None) -> None:
        await startup(sockets)
        started.set()

    server.startup = startup_and_tell  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert started.wait(20)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}", current
    server.should_exit = server.force_exit = True
    thread.join(20)


@pytest.fixture
def start_server(loopback_server: tuple[str, CurrentApp]) -> Iterator[Callable[..., RunningServer]]:
    """Serve a scripted engine; keyword arguments go to `ApiSettings`, or to `create_app`."""
    url, current = loopback_server
    databases: list[LazyDatabase] = []

    def start(
        engine: ScriptedEngine | None = None,
        *,
        database: LazyDatabase | None = None,
        encoders: ServedEncoders | None = None,
        parts: Callable[[ServedModels], Sequence[ServerPart]] = lambda models: (),
        **settings: Any,
    ) -> RunningServer:
        engine = engine or ScriptedEngine()
        models = ServedModels([scripted_model(engine)], encoders=encoders)
        current.app = create_app(models, ApiSettings(**settings), database=database, parts=parts(models))
        if database is not None:
            databases.append(database)
        return RunningServer(url, engine)

    yield start
    for database in databases:
        asyncio.run(database.close())


@pytest.fixture
def scripted_engine() -> type[ScriptedEngine]:
    return ScriptedEngine
