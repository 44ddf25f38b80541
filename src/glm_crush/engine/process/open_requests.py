"""All requests that have been taken and have not ended, and what becomes of them when a child dies.

Above: the supervisor, whose thread alone uses this. Knows neither processes nor sockets: each method returns what is
to be handed out.
"""

from __future__ import annotations

from collections.abc import Iterable

from glm_crush.engine.output import RequestDelta
from glm_crush.engine.process.open_request import OpenRequest
from glm_crush.engine.stream import Delivery, TokenStream
from glm_crush.errors import EngineError, InvalidParameterError, OverloadedError

__all__ = ["OpenRequests"]

_SUSPECT_AFTER = 2  # deaths: the request may be their reason, and so may those that ran beside it
_MAX_RUNS = 6  # whoever's fault it is


class OpenRequests:
    """Requests by id, in order of arrival.

    A request that two children have died under is a suspect. A child is given one suspect at a time, until that one has
    begun: if it dies once more, it is known why, and the others are not given up with it.
    """

    def __init__(self) -> None:
        self._suspect: OpenRequest | None = None  # the one that the child has and that has not begun
        self._requests: dict[str, OpenRequest] = {}
        self._unsent: dict[str, OpenRequest] = {}  # those that no child has

    @property
    def num_unsent(self) -> int:
        return len(self._unsent)

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: OpenRequest) -> list[Delivery]:
        """Take a request; one whose id is in use is refused."""
        request_id = request.submit.request_id
        if request_id in self._requests:
            error = InvalidParameterError(
                f"request_id {request_id!r} is in use; choose another", parameter="request_id"
            )
            return [(request.stream, None, error)]
        self._requests[request_id] = request
        self._unsent[request_id] = request
        return []

    def remove(self, request: OpenRequest) -> bool:
        """Forget a request; whether a child has it."""
        request_id = request.submit.request_id
        if self._requests.get(request_id) is not request:
            return False  # it has ended, or another has its id
        del self._requests[request_id]
        self._clear(request)
        return self._unsent.pop(request_id, None) is None

    def of_streams(self, streams: Iterable[TokenStream]) -> list[OpenRequest]:
        """The requests of some streams."""
        wanted = set(map(id, streams))
        return [request for request in self._requests.values() if id(request.stream) in wanted]

    def take_unsent(self, now: float) -> list[OpenRequest]:
        """Those to send to the child now, in order; from now on it has them."""
        requests: list[OpenRequest] = []
        for request in list(self._unsent.values()):
            if request.num_runs >= _SUSPECT_AFTER:
                if self._suspect is not None:
                    continue
                self._suspect = request
            del self._unsent[request.submit.request_id]
            request.num_runs += 1
            request.start_again(now)
            requests.append(request)
        return requests

    def absorb(self, deltas: Iterable[RequestDelta]) -> list[Delivery]:
        """What a step of the child gives to whom; deltas of requests that are gone are for nobody."""
        deliveries: list[Delivery] = []
        for delta in deltas:
            request = self._requests.get(delta.request_id)
            if request is None:
                continue
            self._clear(request)
            try:
                new = request.absorb(delta)
            except EngineError as error:
                deliveries.append((request.stream, None, error))
                self.remove(request)
                continue
            if new is not None:
                deliveries.append((request.stream, new, None))
            if request.num_open == 0:
                del self._requests[delta.request_id]
        return deliveries

    def refuse(self, request_id: str, error: Exception) -> list[Delivery]:
        """The child does not take this one."""
        request = self._requests.get(request_id)
        if request is None:
            return []
        self.remove(request)
        return [(request.stream, None, error)]

    def after_death(self, reason: str, *, patience_until: float) -> list[Delivery]:
        """The child is gone: replies that cannot be gone on with end, all others are unsent again.

        What it had may wait until `patience_until`. The others have waited already: an engine that dies whenever it
        loads must not keep them for ever.
        """
        deliveries: list[Delivery] = []
        for request in list(self._requests.values()):
            if request is self._suspect or request.num_runs >= _MAX_RUNS:
                why = (
                    f"{reason}, as {request.num_runs - 1} before it did with this request; change it or send it later."
                )
            elif request.begun and not request.resume:
                why = f"{reason} in the middle of the reply; send the request again."
            else:
                if request.submit.request_id not in self._unsent:
                    request.patience_until = patience_until
                continue
            deliveries.append((request.stream, None, EngineError(why)))
            self.remove(request)
        self._suspect = None
        self._unsent = dict(self._requests)
        return deliveries

    def expire(self, now: float, *, retry_after_seconds: float) -> list[Delivery]:
        """Refuse those that have waited for a child for too long."""
        deliveries: list[Delivery] = []
        for request in [request for request in self._unsent.values() if request.patience_until <= now]:
            error = OverloadedError(
                "the engine is being started again and has not come back in time; try again later",
                retry_after_seconds=retry_after_seconds,
            )
            deliveries.append((request.stream, None, error))
            self.remove(request)
        return deliveries

    def _clear(self, request: OpenRequest) -> None:
        if request is self._suspect:
            self._suspect = None

    def end_all(self, error: EngineError) -> list[Delivery]:
        """Nobody will answer any of them."""
        streams = [request.stream for request in self._requests.values()]
        self._requests.clear()
        self._unsent.clear()
        return [(stream, None, error) for stream in streams]
