"""The client that waits in the calling thread.

Above: users' programs, the command line. Below: one binding for each request; `async_client` is its twin, and a test
holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from glm_crush.client.batch_result import BatchResult
from glm_crush.client.bind import SyncGroup, sync_flow, sync_method, sync_pages, sync_stream
from glm_crush.client.connect import ConnectedClient
from glm_crush.client.log_feed import Level, LogFeed
from glm_crush.client.stream import Stream
from glm_crush.client.sync_transport import SyncTransport
from glm_crush.client.wire import ConnectionOptions

__all__ = ["Client"]


class Files(SyncGroup):
    """Files on the server."""

    upload = sync_flow(files.upload)
    list = sync_pages(files.list_files)
    get = sync_method(files.get)
    content = sync_method(files.content)
    lines = sync_stream(files.lines)
    delete = sync_method(files.delete)


class Batches(SyncGroup):
    """Many requests that are run when nobody waits."""

    submit = sync_flow(batches.submit)
    create = sync_method(batches.create)
    list = sync_pages(batches.list_batches)
    get = sync_method(batches.get)
    cancel = sync_method(batches.cancel)
    wait = sync_flow(batches.wait)

    def results(self, batch: batches.Batch | str) -> Iterator[BatchResult]:
        """What became of each request: those that succeeded, then those that did not, in the order of the input."""
        known = self.get(batch) if isinstance(batch, str) else batch
        for call in batches.result_calls(known):
            with Stream(self._transport, call) as results:
                yield from results


class Responses(SyncGroup):
    """Replies that the server keeps; `Client.respond` makes them."""

    get = sync_method(responses.get)
    wait = sync_flow(responses.wait)
    follow = sync_stream(responses.follow)
    cancel = sync_method(responses.cancel)
    delete = sync_method(responses.delete)
    input_items = sync_pages(responses.input_items)
    count_input = sync_method(responses.count_input)


class Models(SyncGroup):
    """The models of the server."""

    list = sync_method(models.list_models)
    get = sync_method(models.get)
    running = sync_method(models.running)
    loaded = sync_method(models.loaded)
    state = sync_method(models.state)
    load = sync_method(models.load)
    unload = sync_method(models.unload)
    pin = sync_method(models.pin)
    unpin = sync_method(models.unpin)
    load_adapter = sync_method(models.load_adapter)
    unload_adapter = sync_method(models.unload_adapter)


class Applications(SyncGroup):
    """Who uses the server."""

    register = sync_method(gateway.register)
    list = sync_method(gateway.applications)


class Keys(SyncGroup):
    """What applications may do, and how much of it."""

    create = sync_method(gateway.create_key)
    list = sync_method(gateway.list_keys)
    get = sync_method(gateway.get_key)
    change = sync_method(gateway.change_key)
    rotate = sync_method(gateway.rotate_key)
    revoke = sync_method(gateway.revoke_key)


class Cache(SyncGroup):
    """The server's response cache."""

    state = sync_method(operations.cache_state)
    clear = sync_method(operations.clear_cache)


class Client(ConnectedClient[SyncTransport], SyncGroup):
    """A server of models, as Python methods.

        with Client() as client:
            print(client.chat("Why is the sky blue?").content)

    May be used from several threads. Every error is a GlmError; what the server refuses has the class that it would
    have in the server.

    Attributes:
        files, batches, responses, models, applications, keys, cache: groups of methods.
    """

    @staticmethod
    def _connect(options: ConnectionOptions) -> SyncTransport:
        return SyncTransport(options)

    def _use(self, transport: SyncTransport) -> None:
        SyncGroup.__init__(self, transport)
        self.files = Files(transport)
        self.batches = Batches(transport)
        self.responses = Responses(transport)
        self.models = Models(transport)
        self.applications = Applications(transport)
        self.keys = Keys(transport)
        self.cache = Cache(transport)

    chat = sync_method(chats.chat)
    chat_as = sync_method(chats.chat_as)
    stream_chat = sync_stream(chats.stream_chat)
    complete = sync_method(completions.complete)
    stream_complete = sync_stream(completions.stream_complete)
    respond = sync_method(responses.respond)
    stream_respond = sync_stream(responses.stream_respond)
    embed = sync_method(embeddings.embed)
    rerank = sync_method(reranking.rerank)
    score = sync_method(reranking.score)
    moderate = sync_method(moderations.moderate)
    tokenize = sync_method(tokens.tokenize)
    detokenize = sync_method(tokens.detokenize)
    render = sync_method(tokens.render)
    render_completion = sync_method(tokens.render_completion)
    usage = sync_method(gateway.usage)
    audit = sync_method(gateway.audit)
    settings = sync_method(operations.settings)
    reload_settings = sync_method(operations.reload_settings)
    stop_server = sync_method(operations.stop_server)
    health = sync_method(server.health)
    ready = sync_method(server.ready)
    version = sync_method(server.version)
    load = sync_method(server.load)
    metrics = sync_method(server.metrics)
    request = sync_method(server.request)

    def logs(self, level: Level = "info", *, recent: int = 0) -> LogFeed:
        """The server's log from now on, after so many lines of what it wrote before; see `LogFeed`."""
        return LogFeed(self._transport.options, level, recent)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
