"""Whose turn it is: tenants that want more than there is get equal shares of it.

Virtual token counters (Sheng et al., "Fairness in Serving Large Language Models", OSDI '24): each tenant is charged for
what is computed for it, and the waiting tenant that was charged least goes next. Nobody is held back while others
want nothing, and nobody saves up a claim by being idle. Above: the scheduler, whose waiting queue this mirrors. This
module knows neither arrays nor blocks.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from operator import attrgetter

from glm_crush.engine.request import Request
from glm_crush.errors import ConfigError

__all__ = ["FairShare", "tenant_weights"]

_ORDER = attrgetter("order")
_DRAWN_TOKEN_COST = 2.0  # of a prompt's: it is computed beside few others
_MAX_IDLE_TENANTS = 1024


class FairShare:
    """Waiting requests by priority and tenant, and what each tenant has had.

    Args:
        weights: of tenants; one of weight 2 gets twice the share of one of weight 1, which is everybody else's.
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self._weights = dict(weights or {})
        self._queues: dict[int, dict[str, list[Request]]] = {}  # of each priority, by tenant, in order
        self._num_waiting: dict[str, int] = {}  # of tenants with any
        self._counters: dict[str, float] = {}
        self._last_to_leave = 0.0  # the counter of the tenant that last had nothing waiting any more

    def enter(self, request: Request) -> None:
        """A request waits from now on."""
        tenant = request.tenant
        if tenant not in self._num_waiting:
            self._lift(tenant)
        self._num_waiting[tenant] = self._num_waiting.get(tenant, 0) + 1
        insort(self._queues.setdefault(request.priority, {}).setdefault(tenant, []), request, key=_ORDER)

    def leave(self, request: Request) -> None:
        """A request waits no more."""
        tenant = request.tenant
        tenants = self._queues[request.priority]
        queue = tenants[tenant]
        position = bisect_left(queue, request.order, key=_ORDER)
        assert queue[position] is request
        del queue[position]
        if not queue:
            del tenants[tenant]
        if not tenants:
            del self._queues[request.priority]
        self._num_waiting[tenant] -= 1
        if not self._num_waiting[tenant]:
            del self._num_waiting[tenant]
            self._last_to_leave = self._counters[tenant]

    def in_turn(self) -> Iterator[Request]:
        """Waiting requests in the order in which they may start; what was yielded may leave before the next."""
        for priority in sorted(self._queues):
            tenants = self._queues[priority]
            num_passed: dict[str, int] = {}  # that did not leave
            while True:
                nexts = [
                    (self._counters[tenant], queue[num_passed.get(tenant, 0)].arrival, tenant)
                    for tenant, queue in tenants.items()
                    if num_passed.get(tenant, 0) < len(queue)
                ]
                if not nexts:
                    break
                tenant = min(nexts)[2]
                place = num_passed.get(tenant, 0)
                request = tenants[tenant][place]
                yield request
                queue = tenants.get(tenant, [])
                if place < len(queue) and queue[place] is request:
                    num_passed[tenant] = place + 1

    def charge_prompt(self, request: Request, num_tokens: int) -> None:
        """Prompt tokens are computed for a request."""
        self._charge(request.tenant, num_tokens)

    def charge_drawn(self, request: Request, num_tokens: int) -> None:
        """Tokens are drawn for a request."""
        self._charge(request.tenant, num_tokens * _DRAWN_TOKEN_COST)

    def check_integrity(self, waiting: list[Request]) -> None:
        """Assert that this is what waits."""
        mirrored = [r for tenants in self._queues.values() for queue in tenants.values() for r in queue]
        assert sorted(mirrored, key=_ORDER) == waiting
        assert sum(self._num_waiting.values()) == len(waiting)

    def _charge(self, tenant: str, cost: float) -> None:
        if len(self._counters) > 1:  # a tenant alone has nobody to share with
            self._counters[tenant] += cost / self._weights.get(tenant, 1.0)

    def _lift(self, tenant: str) -> None:
        """A tenant that comes back has no claim on the time when it wanted nothing."""
        if len(self._counters) > _MAX_IDLE_TENANTS:
            self._forget_idle()
        level = min((self._counters[other] for other in self._num_waiting), default=self._last_to_leave)
        self._counters[tenant] = max(level, self._counters.get(tenant, 0.0))

    def _forget_idle(self) -> None:
        """Counters at which a tenant would be lifted anyway say nothing; those above are kept."""
        level = min((self._counters[other] for other in self._num_waiting), default=self._last_to_leave)
        self._counters = {t: c for t, c in self._counters.items() if t in self._num_waiting or c > level}


def tenant_weights(text: str | None) -> dict[str, float]:
    """Weights from a setting such as `search=4, batch=0.5`.

    Raises:
        ConfigError: it is written differently, or a weight is not positive.
    """
    weights: dict[str, float] = {}
    for entry in (text or "").split(","):
        tenant, separator, number = (part.strip() for part in entry.partition("="))
        if not entry.strip():
            continue
        try:
            weights[tenant] = float(number)
        except ValueError:
            weights[tenant] = 0.0
        if not separator or not tenant or not 0 < weights[tenant] < float("inf"):
            raise ConfigError(f"tenant_weights holds {entry.strip()!r}; write a name and a positive number: 'search=4'")
    return weights
