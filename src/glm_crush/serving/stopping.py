"""POST /admin/v1/stop: the server ends as SIGTERM ends it, at once or when load balancers have looked elsewhere.

Above: the composition root, and `http_server.py`, which does the stopping. Below: nothing of the protocols.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import TypedDict

from glm_crush.errors import InvalidParameterError
from glm_crush.serving.json_http import StrictModel, json_response, read_request
from glm_crush.serving.openapi import Endpoint
from glm_crush.serving.part import ServerPart
from glm_crush.serving.routing import ApiRoute

__all__ = ["StopRequest", "Stopping"]

_LONGEST_DELAY = 3600.0

_log = logging.getLogger("glm_crush.serving")


class StopRequest(StrictModel):
    """When to begin: until then requests are answered as ever, and /ready says 503."""

    delay_seconds: float = Field(default=0.0, json_schema_extra={"minimum": 0, "maximum": _LONGEST_DELAY})


class Stop(TypedDict):
    """What is going to happen: from when on no connection is taken, and how long what runs then may go on."""

    object: str
    delay_seconds: float
    shutdown_timeout_seconds: float


class Stopping(ServerPart):
    """Knows whether the server is about to end.

    Args:
        shutdown_timeout_seconds: how long running requests may finish.
    """

    def __init__(self, shutdown_timeout_seconds: float) -> None:
        self.is_stopping = False
        self._timeout = shutdown_timeout_seconds
        self._stop: Callable[[], None] | None = None
        self._stops_at = math.inf

    def stop_with(self, stop: Callable[[], None]) -> None:
        """What begins the stop; called once, when the server runs."""
        self._stop = stop

    def routes(self) -> Sequence[ApiRoute]:
        """For administrators."""
        endpoint = Endpoint(
            "POST",
            "/admin/v1/stop",
            "Stop the server; what runs may end first.",
            StopRequest,
            optional_body=True,
            reply=Stop,
            status=202,
        )
        return [(endpoint, self._begin)]

    def drain(self) -> None:
        """The server has begun to stop, whoever told it to."""
        self.is_stopping = True

    async def _begin(self, http: Request) -> Response:
        request = await read_request(StopRequest, http) if await http.body() else StopRequest()
        if not 0 <= request.delay_seconds <= _LONGEST_DELAY:
            raise InvalidParameterError(
                f"delay_seconds is {request.delay_seconds}; give a number in [0, {_LONGEST_DELAY:.0f}]",
                parameter="delay_seconds",
            )
        assert self._stop is not None, "routes are called when the server runs"
        loop = asyncio.get_running_loop()
        wanted = loop.time() + request.delay_seconds
        if wanted < self._stops_at:
            self._stops_at = wanted
            loop.call_later(request.delay_seconds, self._stop)
        self.is_stopping = True
        delay = max(0.0, self._stops_at - loop.time())
        _log.warning("an administrator stops the server, in %.0f s", delay)
        facts = {"object": "stop", "delay_seconds": round(delay, 3), "shutdown_timeout_seconds": self._timeout}
        return json_response(facts, status=202)
