"""The async client behind the face of the sync one, so that every test of a method runs for both."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

from glm_crush.client.bind import AsyncGroup

__all__ = ["Waiting"]


class Waiting:
    """Waits for whatever the wrapped object's methods return, in a loop of its own."""

    def __init__(self, wrapped: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._wrapped = wrapped
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return self._waited(getattr(self._wrapped, name))

    def __enter__(self) -> Waiting:
        return Waiting(self._loop.run_until_complete(self._wrapped.__aenter__()), self._loop)

    def __exit__(self, *error: Any) -> None:
        self._loop.run_until_complete(self._wrapped.__aexit__(*error))

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return self._loop.run_until_complete(anext(self._wrapped))
        except StopAsyncIteration:
            raise StopIteration from None

    def _waited(self, value: Any) -> Any:
        if inspect.isawaitable(value):
            return self._loop.run_until_complete(asyncio.wait_for(value, 60))
        if hasattr(value, "__aenter__") or hasattr(value, "__anext__") or isinstance(value, AsyncGroup):
            return Waiting(value, self._loop)
        if inspect.ismethod(value):
            return lambda *args, **kwargs: self._waited(value(*args, **kwargs))
        return value
