"""One admitted request: what it may do, what it has reserved, what it used.

Above: every protocol adapter. Below: `limits.py`, `ledger.py`. The admission of a request is found by what runs on its
behalf through a context variable, which follows it into tasks: so the engine's door (`metered_engine.py`) can meter
every adapter, also those that do not know of it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from glm_crush.errors import AccessDeniedError, QuotaError, RateLimitError
from glm_crush.serving.gateway.headers import duration
from glm_crush.serving.gateway.ledger import AuditEntry, UsageCell
from glm_crush.serving.gateway.limits import Charge, LimitReached, LimitState
from glm_crush.serving.gateway.meter import MONEY_UNIT
from glm_crush.serving.gateway.scopes import check_scope
from glm_crush.types import Usage

if TYPE_CHECKING:
    from glm_crush.serving.gateway.books import Books
    from glm_crush.serving.gateway.records import Grant

__all__ = ["Admission", "Reservation", "acting", "acting_for_server", "current_admission", "findings_line"]

_LONGEST_ROUTE = 200  # of the records
_NOTHING = Usage(prompt_tokens=0, completion_tokens=0, cached_tokens=0)
_CURRENT: ContextVar[Admission | None] = ContextVar("glm_admission", default=None)


def current_admission() -> Admission | None:
    """The admission on whose behalf the caller runs; None outside of the server."""
    return _CURRENT.get()


@contextmanager
def acting(admission: Admission | None) -> Iterator[None]:
    """Run a block, and the tasks it starts, on behalf of an admission; None = the server itself, which pays nothing."""
    token = _CURRENT.set(admission)
    try:
        yield
    finally:
        _CURRENT.reset(token)


@contextmanager
def acting_for_server() -> Iterator[None]:
    """Run a block, and the tasks it starts, on behalf of the server itself: nothing of it is metered."""
    token = _CURRENT.set(None)
    try:
        yield
    finally:
        _CURRENT.reset(token)


class Admission:
    """A request that was let in; ends with `close`, exactly once.

    Attributes:
        grant: what it may do. tenant: see `Grant`. cache_salt: keeps its prefixes apart from other tenants'; empty =
            shared. limits: the limits charged so far, as they were then, for headers. findings: of the guard, such as
        `input:pii.email=redact`, with how many there were.
    """

    def __init__(self, grant: Grant, books: Books, *, route: str, request_id: str, address: str | None) -> None:
        self.grant = grant
        self.limits: dict[str, LimitState] = {}
        self.findings: Counter[str] = Counter()
        self._books = books
        self._route = route
        self._request_id = request_id
        self._address = address
        self._started = time.perf_counter()
        self._usage = _NOTHING
        self._model: str | None = None
        self._slots: Sequence[Charge] = ()
        self._open_parts = 1  # the request itself and its reservations; the slot is held by all of them
        self._closed = False

    @property
    def tenant(self) -> str:
        return self.grant.tenant

    @property
    def cache_salt(self) -> str:
        return self.grant.tenant if self._books.isolates_tenants else ""

    @property
    def shares_prefixes(self) -> bool:
        """Whether it sees in the engine's cache what others, who are not its own, have asked."""
        grant = self.grant
        return grant.key_id is not None and "admin" not in grant.scopes and not self._books.isolates_tenants

    async def begin(self, *, holds_slot: bool = False) -> None:
        """Charge the request itself.

        Args:
            holds_slot: it is part of a request that counts among those at the same time already.

        Raises:
            RateLimitError: too many in the last minute, or at the same time.
        """
        limits = self.grant.limits
        if limits is not None:
            charges = self._books.meter.request_charges(limits)
            if holds_slot:
                charges = [charge for charge in charges if charge.kind != "slots"]
            await self._take(charges)
            self._slots = [charge for charge in charges if charge.kind == "slots"]

    async def begin_another(self, scope: str, name: str, *, is_first: bool) -> None:
        """Begin one of several things that the request asks for; it stands in the records as part of the route.

        Args:
            scope: the group it belongs to.
            name: what it is.
            is_first: `begin` has charged it already; the others count as requests too, within the same slot.

        Raises:
            AccessDeniedError: the key is not for it. RateLimitError: too many in the last minute.
        """
        self._route = f"{self._route} {name}"[:_LONGEST_ROUTE]
        check_scope(self.grant, scope, name)
        limits = self.grant.limits
        if limits is not None and not is_first:
            charges = self._books.meter.request_charges(limits)
            await self._take([charge for charge in charges if charge.kind != "slots"])

    def note(self, finding: str) -> None:
        """Note a finding of the guard, for the reply's headers and the audit log."""
        self.findings[finding] += 1

    def check_model(self, model: str) -> None:
        """Note the model that is asked, and refuse one that the key is not for.

        Raises:
            AccessDeniedError: it is not.
        """
        self._model = model
        if not self.grant.allows_model(model):
            raise AccessDeniedError(
                f"this key may not use the model {model!r:.80}; it is for {', '.join(self.grant.models)}"
            )

    async def reserve(self, model: str, prompt_tokens: int, max_completion_tokens: int | None) -> Reservation:
        """Charge the most a generation can use; settle what it returns when the use is known.

        Args:
            model: what generates.
            prompt_tokens: known.
            max_completion_tokens: of all replies together; None = no limit; `unlimited_reply_tokens` then.

        Raises:
            AccessDeniedError: the model is not for this key.
            RateLimitError, QuotaError: it does not fit now.
        """
        self.check_model(model)
        limits = self.grant.limits
        if max_completion_tokens is None:
            max_completion_tokens = self._books.unlimited_reply_tokens
        most = Usage(prompt_tokens=prompt_tokens, completion_tokens=max_completion_tokens, cached_tokens=0)
        charges = [] if limits is None else self._books.meter.token_charges(limits, most)
        await self._take(charges)
        self._open_parts += 1
        return Reservation(self, model, charges)

    def close(self, status: int) -> None:
        """The reply is out, or will never be: give back the slot and note the request."""
        assert not self._closed, "an admission is closed once"
        self._closed = True
        self._release_part()
        self._record(status, self._usage)

    def settled(self, model: str, charges: Sequence[Charge], usage: Usage) -> None:
        """Called by a reservation: correct the counters and add up."""
        books, key_id, limits = self._books, self.grant.key_id, self.grant.limits
        if limits is not None and key_id is not None:
            actual = {charge.name: charge for charge in books.meter.token_charges(limits, usage)}
            # Charged to the window in which it was reserved, also if midnight has passed.
            books.limits.settle(key_id, [c._replace(cost=actual[c.name].cost - c.cost) for c in charges])
        if key_id is not None and usage != _NOTHING:
            books.ledger.use(UsageCell(key_id, model, books.day()), usage, books.meter.prices.cost(usage))
        self._usage = _sum(self._usage, usage)
        self._release_part()
        if self._closed and usage != _NOTHING:
            self._record(200, usage)  # went on after its reply, as batches and background responses do

    def _release_part(self) -> None:
        self._open_parts -= 1
        if self._open_parts == 0 and self._slots and self.grant.key_id is not None:
            self._books.limits.settle(self.grant.key_id, [slot._replace(cost=-slot.cost) for slot in self._slots])

    async def _take(self, charges: Sequence[Charge]) -> None:
        if not charges or self.grant.key_id is None:
            return
        try:
            states = await self._books.limits.take(self.grant.key_id, charges)
        except LimitReached as reached:
            self.limits[reached.state.name] = reached.state
            raise _refusal(reached) from None
        self.limits.update((state.name, state) for state in states)

    def _record(self, status: int, usage: Usage) -> None:
        if not self._books.audits(self.grant):
            return
        self._books.ledger.record(
            AuditEntry(
                time=self._books.now(),
                request_id=self._request_id,
                tenant=self.grant.tenant,
                key_id=self.grant.key_id,
                address=self._address,
                route=self._route,
                model=self._model,
                status=status,
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                cached_tokens=usage.cached_tokens,
                duration_ms=round((time.perf_counter() - self._started) * 1000),
                guard=findings_line(self.findings) or None,
            )
        )


class Reservation:
    """Tokens charged in advance."""

    def __init__(self, admission: Admission, model: str, charges: Sequence[Charge]) -> None:
        self._admission = admission
        self._model = model
        self._charges = charges
        self._settled = False

    def settle(self, usage: Usage) -> None:
        """Charge what was used instead; a second call does nothing."""
        if not self._settled:
            self._settled = True
            self._admission.settled(self._model, self._charges, usage)

    def cancel(self) -> None:
        """Nothing was used."""
        self.settle(_NOTHING)


def findings_line(findings: Counter[str]) -> str:
    """The guard's findings in one line, for headers and the audit log: what was found how often, never what it was."""
    return ", ".join(f"{name};n={count}" for name, count in findings.items())


def _sum(a: Usage, b: Usage) -> Usage:
    return Usage(
        prompt_tokens=a.prompt_tokens + b.prompt_tokens,
        completion_tokens=a.completion_tokens + b.completion_tokens,
        cached_tokens=a.cached_tokens + b.cached_tokens,
    )


_WORDS = {
    "requests_per_minute": "requests per minute",
    "tokens_per_minute": "tokens per minute",
    "concurrency": "requests at the same time",
    "tokens_per_day": "tokens per day",
    "tokens_per_month": "tokens per month",
    "money_per_day": "of money per day",
    "money_per_month": "of money per month",
}


def _refusal(reached: LimitReached) -> RateLimitError:
    """The error for a caller: the limit, what is used, what was asked for, and when to come back."""
    charge = reached.charge
    is_money = charge.name.startswith("money")
    amounts = (charge.limit, reached.used, charge.cost)
    limit, used, cost = (f"{amount / MONEY_UNIT:.6g}" if is_money else f"{amount}" for amount in amounts)
    what = f"this key may use {limit} {_WORDS[charge.name]}"
    if reached.retry_after_seconds is None:
        return RateLimitError(
            f"{what}, and this request may need {cost}; send less, lower max_tokens or ask for a higher limit",
            retry_after_seconds=None,
        )
    message = f"{what}; {used} are used and this request may need {cost}"
    if charge.kind == "budget":
        return QuotaError(
            f"{message}; the budget begins again in {duration(reached.retry_after_seconds)}",
            retry_after_seconds=reached.retry_after_seconds,
        )
    return RateLimitError(
        f"{message}; try again in {duration(reached.retry_after_seconds)}",
        retry_after_seconds=reached.retry_after_seconds,
    )
