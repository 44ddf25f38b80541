"""The engine's refusals in the client's words.

Above: the protocol adapters. Below: the errors. The engine says `prompt` and `structured`; each protocol, and each of
its routes, calls them something else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from glm_crush.errors import RequestError

__all__ = ["client_names"]


@contextmanager
def client_names(*, prompt: str, form: str) -> Iterator[None]:
    """Refusals that are raised in the block name what the client sent.

    Args:
        prompt: what the request calls the prompt.
        form: what it calls the form of the reply.
    """
    try:
        yield
    except RequestError as error:
        if error.parameter == "prompt":
            error.parameter = prompt
        elif error.parameter == "structured":
            error.parameter = form
            error.args = (f"{form}: {error}",)
        raise
