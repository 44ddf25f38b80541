"""The door: from a credential and a route to an admission.

Above: the HTTP middleware, and every protocol that does not come by HTTP (gRPC, WebSocket messages, MCP over stdio).
Below: the ring of keys, the counters, the ledger. The hot path is one hash, one look-up and a few additions.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from glm_crush.errors import AccessDeniedError, AccessError, AuthenticationError, RateLimitError
from glm_crush.serving.gateway.admission import Admission
from glm_crush.serving.gateway.books import Books
from glm_crush.serving.gateway.guessing import GuessThrottle
from glm_crush.serving.gateway.headers import duration
from glm_crush.serving.gateway.key_ring import KeyRing
from glm_crush.serving.gateway.key_watch import KeyWatch
from glm_crush.serving.gateway.ledger import AuditEntry
from glm_crush.serving.gateway.records import Grant
from glm_crush.serving.gateway.scopes import check_scope, scope_of
from glm_crush.serving.gateway.secrets import SecretHasher, is_ours

__all__ = ["ANONYMOUS", "BOOTSTRAP_KEY_ID", "Credentials", "Gateway", "key_in"]

BOOTSTRAP_KEY_ID = "bootstrap"
ANONYMOUS = Grant(key_id=None, tenant="local", scopes=frozenset({"*"}))
_BOOTSTRAP = Grant(key_id=BOOTSTRAP_KEY_ID, tenant="operator", scopes=frozenset({"*", "admin"}))
_HOW = "send it as 'Authorization: Bearer KEY'"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a caller brings: a key (empty = none) and where it calls from."""

    key: bytes = b""
    address: str | None = None


def key_in(headers: Mapping[bytes, bytes]) -> bytes:
    """The key among the headers or metadata of a request, from either of those that clients use; empty if none."""
    given = headers.get(b"x-api-key")
    if given is None:
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() != b"bearer":
            return b""
    return given.strip()


class Gateway:
    """Decides about every request.

    Args:
        books: counters, prices and ledger.
        ring: the keys. watch: renews them; None = they are never looked up anywhere else.
        bootstrap_key: the operator's own key, `api.key`.
        requires_keys: whether callers without a key are refused.
        max_failures_per_minute: wrong keys an address may send.
    """

    def __init__(
        self,
        books: Books,
        *,
        ring: KeyRing | None = None,
        watch: KeyWatch | None = None,
        hasher: SecretHasher | None = None,
        bootstrap_key: str | None = None,
        requires_keys: bool = False,
        max_failures_per_minute: int = 20,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.books = books
        self.ring = KeyRing() if ring is None else ring
        self._watch = watch
        self._hasher = hasher or SecretHasher()
        self._throttle = GuessThrottle(max_failures_per_minute, clock)
        self.set_rules(bootstrap_key, requires_keys=requires_keys, max_failures_per_minute=max_failures_per_minute)

    def set_rules(self, bootstrap_key: str | None, *, requires_keys: bool, max_failures_per_minute: int) -> None:
        """Other rules from now on; see the constructor."""
        self._bootstrap = self._hasher.digest(bootstrap_key.encode()) if bootstrap_key else None
        self.requires_keys = requires_keys or bootstrap_key is not None
        self._throttle.per_minute = max_failures_per_minute

    async def admit(
        self,
        credentials: Credentials,
        route: str,
        model: str | None = None,
        estimate: int | None = None,
        *,
        scope: str | None = None,
        request_id: str = "",
    ) -> Admission:
        """Let a request in; the caller runs it inside `acting(admission)` and ends with `admission.close(status)`.

        Args:
            credentials: who asks.
            route: what is asked for, such as "POST /v1/chat/completions"; its path decides the scope.
            model: checked if given.
            estimate: tokens that must fit now if given; the engine's door charges them.
            scope: the group of a route that is no path.
            request_id: for the audit log.

        Raises:
            AuthenticationError, AccessDeniedError, RateLimitError: it may not, or not now.
            OverloadedError: limits or records cannot be kept now.
        """
        admission = await self.open(credentials, route, scope=scope, request_id=request_id)
        try:
            await admission.begin()
            if model is not None and estimate is not None:
                (await admission.reserve(model, estimate, 0)).cancel()
            elif model is not None:
                admission.check_model(model)
        except AccessError as error:
            admission.close(429 if isinstance(error, RateLimitError) else 403)
            raise
        except BaseException:
            admission.close(503)
            raise
        return admission

    async def open(
        self, credentials: Credentials, route: str, *, scope: str | None = None, request_id: str = ""
    ) -> Admission:
        """The first half of `admit`: who asks, and whether the route is open to them; nothing is charged yet.

        Raises:
            AuthenticationError, AccessDeniedError, RateLimitError, OverloadedError: see `admit`.
        """
        self.books.ledger.check_room()
        try:
            grant = await self.authenticate(credentials)
        except AuthenticationError:
            self._note_refusal(credentials, route, request_id)
            raise
        admission = Admission(grant, self.books, route=route, request_id=request_id, address=credentials.address)
        try:
            check_scope(grant, scope or scope_of(route.partition(" ")[2]), route)
        except AccessDeniedError:
            admission.close(403)
            raise
        return admission

    async def authenticate(self, credentials: Credentials) -> Grant:
        """What a caller may do.

        Raises:
            AuthenticationError: no key where one is needed, or a wrong one.
            RateLimitError: too many wrong ones from this address.
        """
        key, address = credentials.key, credentials.address
        expired = False
        if key:
            digest = self._hasher.digest(key)
            grant, expired = self.ring.find(digest, self.books.now())
            if grant is None and not expired and self._watch is not None and is_ours(key):
                await self._watch.refresh()
                grant, expired = self.ring.find(digest, self.books.now())
            if grant is not None:
                return grant
            wait = self._throttle.wait_seconds(address)
            if wait:
                raise RateLimitError(
                    f"too many wrong keys from {address}; try again in {duration(wait)}", retry_after_seconds=wait
                )
            if self._bootstrap is not None and hmac.compare_digest(digest, self._bootstrap):
                return _BOOTSTRAP
        if not self.requires_keys and not expired and not is_ours(key):
            return ANONYMOUS  # also with a word in place of a key, which some clients must be given
        if not key:
            raise AuthenticationError(f"no API key was sent; {_HOW}")
        self._throttle.failed(address)
        raise AuthenticationError(f"the API key {'has expired' if expired else 'is wrong'}; {_HOW}")

    async def grant_of(self, key_id: str | None) -> Grant:
        """What a key may do now, for work that it queued earlier.

        Raises:
            AuthenticationError: it has been revoked or has expired since.
            StorageError: keys have never been read, so that nobody can say.
        """
        if key_id is None:
            return ANONYMOUS
        if key_id == BOOTSTRAP_KEY_ID:
            return _BOOTSTRAP
        grant = self.ring.grant_of(key_id, self.books.now())
        if grant is None and self._watch is not None:
            await self._watch.refresh()  # nobody may have looked yet
            grant = self.ring.grant_of(key_id, self.books.now())
        if grant is None:
            raise AuthenticationError("the API key that queued this work has been revoked or has expired")
        return grant

    def _note_refusal(self, credentials: Credentials, route: str, request_id: str) -> None:
        if self.books.audit != "off":
            now, address = self.books.now(), credentials.address
            self.books.ledger.record(AuditEntry(now, request_id, None, None, address, route, None, 401, 0, 0, 0, 0))
