"""What the child does beside its steps, in threads of its own; what follows from it is done between two steps.

Above: the host. Grammars that are soon compiled do not wait for those that may not be, nor either for an adapter.
"""

from __future__ import annotations

import queue
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import MappingProxyType
from typing import Literal

from glm_crush.engine.process.wire import WireError

__all__ = ["Beside", "Lane", "error_of"]

Lane = Literal["short", "long", "adapter"]
# Among short grammars too there are some that take long.
_THREADS: Mapping[Lane, int] = MappingProxyType({"short": 4, "long": 1, "adapter": 1})
GoOn = Callable[[WireError | None], None]


class Beside:
    """Some threads for each lane, started when they are first needed.

    Attributes:
        bell: readable when there is something for `go_on`.
    """

    def __init__(self) -> None:
        self.bell, self._rope = socket.socketpair()
        self._done: queue.SimpleQueue[tuple[GoOn, WireError | None]] = queue.SimpleQueue()
        self._lanes: dict[Lane, ThreadPoolExecutor] = {}

    def start(self, lane: Lane, work: Callable[[], None], go_on: GoOn) -> Future[None]:
        """Do some work; `go_on` is told later what went wrong. It can be cancelled until it has begun."""

        def do_it() -> None:
            self._done.put((go_on, error_of(work)))
            self._rope.send(b"!")

        if lane not in self._lanes:
            self._lanes[lane] = ThreadPoolExecutor(_THREADS[lane], thread_name_prefix=f"glm-{lane}")
        return self._lanes[lane].submit(do_it)

    def go_on(self) -> None:
        """Go on with all that is done."""
        self.bell.recv(2**16)
        while not self._done.empty():
            go_on, error = self._done.get()
            go_on(error)

    def close(self) -> None:
        """Wait for what has begun; nothing else is done."""
        for lane in self._lanes.values():
            lane.shutdown(cancel_futures=True)
        self.bell.close()
        self._rope.close()


def error_of(work: Callable[[], None]) -> WireError | None:
    """What went wrong with some work, if anything did."""
    try:
        work()
    except Exception as caught:  # noqa: BLE001 - whoever asked is told
        return WireError.of(caught)
    return None
