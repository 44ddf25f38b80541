"""The client that waits in the event loop.

Above: users' programs. Below: one binding for each request; `client` is its twin, and a test holds the two together.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from glm_crush.client import (
    batches,
    chats,
    completions,
    embeddings,
    files,
    gateway,
    models,
    moderations,
    operations,
    reranking,
    responses,
    server,
    tokens,
)
from glm_crush.client.async_transport import AsyncTransport
from glm_crush.client.batch_result import BatchResult
from glm_crush.client.bind import AsyncGroup, async_flow, async_method, async_pages, async_stream
from glm_crush.client.connect import ConnectedClient
from glm_crush.client.log_feed import AsyncLogFeed, Level
from glm_crush.client.stream import AsyncStream
from glm_crush.client.wire import ConnectionOptions

__all__ = ["AsyncClient"]


class Files(AsyncGroup):
    """Files on the server."""

    upload = async_flow(files.upload)
    list = async_pages(files.list_files)
    get = async_method(files.get)
    content = async_method(files.content)
    lines = async_stream(files.lines)
    delete = async_method(files.delete)


class Batches(AsyncGroup):
    """Many requests that are run when nobody waits."""

    submit = async_flow(batches.submit)
    create = async_method(batches.create)
    list = async_pages(batches.list_batches)
    get = async_method(batches.get)
    cancel = async_method(batches.cancel)
    wait = async_flow(batches.wait)

    async def results(self, batch: batches.Batch | str) -> AsyncIterator[BatchResult]:
        """What became of each request: those that succeeded, then those that did not, in the order of the input."""
        known = await self.get(batch) if isinstance(batch, str) else batch
        for call in batches.result_calls(known):
            async with AsyncStream(self._transport, call) as results:
                async for result in results:
                    yield result


class Responses(AsyncGroup):
    """Replies that the server keeps; `AsyncClient.respond` makes them."""

    get = async_method(responses.get)
    wait = async_flow(responses.wait)
    follow = async_stream(responses.follow)
    cancel = async_method(responses.cancel)
    delete = async_method(responses.delete)
    input_items = async_pages(responses.input_items)
    count_input = async_method(responses.count_input)


class Models(AsyncGroup):
    """The models of the server."""

    list = async_method(models.list_models)
    get = async_method(models.get)
    running = async_method(models.running)
    loaded = async_method(models.loaded)
    state = async_method(models.state)
    load = async_method(models.load)
    unload = async_method(models.unload)
    pin = async_method(models.pin)
    unpin = async_method(models.unpin)
    load_adapter = async_method(models.load_adapter)
    unload_adapter = async_method(models.unload_adapter)


class Applications(AsyncGroup):
    """Who uses the server."""

    register = async_method(gateway.register)
    list = async_method(gateway.applications)


class Keys(AsyncGroup):
    """What applications may do, and how much of it."""

    create = async_method(gateway.create_key)
    list = async_method(gateway.list_keys)
    get = async_method(gateway.get_key)
    change = async_method(gateway.change_key)
    rotate = async_method(gateway.rotate_key)
    revoke = async_method(gateway.revoke_key)


class Cache(AsyncGroup):
    """The server's response cache."""

    state = async_method(operations.cache_state)
    clear = async_method(operations.clear_cache)


class AsyncClient(ConnectedClient[AsyncTransport], AsyncGroup):
    """A server of models, as Python methods.

        async with AsyncClient() as client:
            print((await client.chat("Why is the sky blue?")).content)

    Belongs to one event loop. Every error is a GlmError; what the server refuses has the class that it would
    have in the server.

    Attributes:
        files, batches, responses, models, applications, keys, cache: groups of methods.
    """

    @staticmethod
    def _connect(options: ConnectionOptions) -> AsyncTransport:
        return AsyncTransport(options)

    def _use(self, transport: AsyncTransport) -> None:
        AsyncGroup.__init__(self, transport)
        self.files = Files(transport)
        self.batches = Batches(transport)
        self.responses = Responses(transport)
        self.models = Models(transport)
        self.applications = Applications(transport)
        self.keys = Keys(transport)
        self.cache = Cache(transport)

    chat = async_method(chats.chat)
    chat_as = async_method(chats.chat_as)
    stream_chat = async_stream(chats.stream_chat)
    complete = async_method(completions.complete)
    stream_complete = async_stream(completions.stream_complete)
    respond = async_method(responses.respond)
    stream_respond = async_stream(responses.stream_respond)
    embed = async_method(embeddings.embed)
    rerank = async_method(reranking.rerank)
    score = async_method(reranking.score)
    moderate = async_method(moderations.moderate)
    tokenize = async_method(tokens.tokenize)
    detokenize = async_method(tokens.detokenize)
    render = async_method(tokens.render)
    render_completion = async_method(tokens.render_completion)
    usage = async_method(gateway.usage)
    audit = async_method(gateway.audit)
    settings = async_method(operations.settings)
    reload_settings = async_method(operations.reload_settings)
    stop_server = async_method(operations.stop_server)
    health = async_method(server.health)
    ready = async_method(server.ready)
    version = async_method(server.version)
    load = async_method(server.load)
    metrics = async_method(server.metrics)
    request = async_method(server.request)

    def logs(self, level: Level = "info", *, recent: int = 0) -> AsyncLogFeed:
        """The server's log from now on, after so many lines of what it wrote before; see `AsyncLogFeed`."""
        return AsyncLogFeed(self._transport.options, level, recent)

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()
