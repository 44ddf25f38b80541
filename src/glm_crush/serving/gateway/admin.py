"""/admin/v1: applications, keys, usage and the audit log, for callers with the scope admin.

Above: `app.py`. Below: the stores. What a route changes holds in this process when the reply goes out, and in every
other within a poll.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from glm_crush.errors import ConfigError, InvalidParameterError
from glm_crush.serving.gateway.meter import MONEY_UNIT
from glm_crush.serving.gateway.records import KeyLimits
from glm_crush.serving.gateway.replies import Application, ApplicationList, AuditList, Key, KeyList, UsageList
from glm_crush.serving.gateway.views import application_view, key_view
from glm_crush.serving.json_http import StrictModel, json_response, read_request
from glm_crush.serving.openapi import Endpoint
from glm_crush.serving.routing import ApiRoute

if TYPE_CHECKING:
    from glm_crush.serving.gateway.build import GatewayPart

__all__ = ["admin_routes"]

_MOST_ROWS = 1000
_TEXT: dict[str, Any] = {"type": "string"}
_USAGE_QUERY = {"key_id": _TEXT, "from": _TEXT, "to": _TEXT}
_AUDIT_QUERY: dict[str, dict[str, Any]] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": _MOST_ROWS},
    "before": {"type": "integer", "minimum": 1, "maximum": 2**63 - 1},
    "key_id": _TEXT,
}


class ApplicationRequest(StrictModel):
    """A new application."""

    name: str = Field(json_schema_extra={"minLength": 1, "maxLength": 100})


class LimitsBody(StrictModel):
    """Limits of a key; what is left out is unlimited."""

    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    concurrency: int | None = Field(None, ge=1)
    tokens_per_day: int | None = Field(None, ge=1)
    tokens_per_month: int | None = Field(None, ge=1)
    money_per_day: float | None = Field(None, gt=0)
    money_per_month: float | None = Field(None, gt=0)

    def limits(self) -> KeyLimits:
        """The same as a value."""
        return KeyLimits(**self.model_dump())


class KeyRequest(StrictModel):
    """A new key of an application, which is named or given by its id."""

    application: str
    name: str = "default"
    scopes: list[str] | None = None
    models: list[str] | None = None
    limits: LimitsBody | None = None
    expires_at: int | None = None


class KeyChangeRequest(StrictModel):
    """What shall be different; what is left out stays."""

    name: str | None = None
    scopes: list[str] | None = None
    models: list[str] | None = None
    limits: LimitsBody | None = None
    expires_at: int | None = None


class RotateRequest(StrictModel):
    """How long the older secrets go on working."""

    overlap_seconds: float = Field(default=86_400.0, json_schema_extra={"minimum": 0, "maximum": 31_536_000})


def admin_routes(part: GatewayPart) -> list[ApiRoute]:
    """The routes; their requests find the database through the gateway."""
    admin = _Admin(part)
    keys, key = "/admin/v1/keys", "/admin/v1/keys/{key_id}"
    applications = "/admin/v1/applications"
    return [
        (
            Endpoint(
                "POST", applications, "Register an application.", ApplicationRequest, reply=Application, status=201
            ),
            admin.register,
        ),
        (Endpoint("GET", applications, "The applications.", reply=ApplicationList), admin.applications),
        (
            Endpoint("POST", keys, "Make a key; its secret is in this reply only.", KeyRequest, reply=Key, status=201),
            admin.create,
        ),
        (
            Endpoint(
                "GET", keys, "The keys, of all applications or of one.", reply=KeyList, query={"application": _TEXT}
            ),
            admin.keys,
        ),
        (
            Endpoint("POST", f"{key}/rotate", "A new secret for a key.", RotateRequest, reply=Key, status=201),
            admin.rotate,
        ),
        (Endpoint("POST", f"{key}/revoke", "End a key now.", reply=Key), admin.revoke),
        (Endpoint("GET", key, "One key.", reply=Key), admin.key),
        (Endpoint("PATCH", key, "Change rights or limits of a key.", KeyChangeRequest, reply=Key), admin.change),
        (Endpoint("DELETE", key, "End a key now.", reply=Key), admin.revoke),
        (
            Endpoint(
                "GET", "/admin/v1/usage", "Tokens and money by key, model and day.", reply=UsageList, query=_USAGE_QUERY
            ),
            admin.usage,
        ),
        (
            Endpoint("GET", "/admin/v1/audit", "The audit log, newest first.", reply=AuditList, query=_AUDIT_QUERY),
            admin.audit,
        ),
    ]


class _Admin:
    def __init__(self, part: GatewayPart) -> None:
        self._part = part

    async def register(self, http: Request) -> Response:
        request = await read_request(ApplicationRequest, http)
        keys, _ = await self._stores()
        return json_response(application_view(await keys.register(request.name)), status=201)

    async def applications(self, _: Request) -> Response:
        keys, _accounts = await self._stores()
        return _list([application_view(application) for application in await keys.applications()])

    async def create(self, http: Request) -> Response:
        request = await read_request(KeyRequest, http)
        keys, _ = await self._stores()
        key, secret = await keys.create(
            request.application,
            request.name,
            scopes=("*",) if request.scopes is None else tuple(request.scopes),
            models=tuple(request.models or ()),
            limits=None if request.limits is None else request.limits.limits(),
            expires_at=request.expires_at,
        )
        await self._part.keys_changed()
        return json_response(key_view(key, time.time(), secret.text), status=201)

    async def keys(self, http: Request) -> Response:
        keys, _ = await self._stores()
        wanted = http.query_params.get("application")
        application = None if wanted is None else (await keys.application(wanted)).id
        return _list([key_view(key, time.time()) for key in await keys.keys(application)])

    async def key(self, http: Request) -> Response:
        keys, _ = await self._stores()
        return json_response(key_view(await keys.key(http.path_params["key_id"]), time.time()))

    async def change(self, http: Request) -> Response:
        from glm_crush.serving.gateway.key_store import KeyChange

        request = await read_request(KeyChangeRequest, http)
        keys, _ = await self._stores()
        wanted = KeyChange(
            name=request.name,
            scopes=None if request.scopes is None else tuple(request.scopes),
            models=None if request.models is None else tuple(request.models),
            limits=None if request.limits is None else request.limits.limits(),
            expires_at=request.expires_at,
        )
        key = await keys.change(http.path_params["key_id"], wanted)
        await self._part.keys_changed()
        return json_response(key_view(key, time.time()))

    async def rotate(self, http: Request) -> Response:
        request = await read_request(RotateRequest, http) if await http.body() else RotateRequest()
        keys, _ = await self._stores()
        key, secret = await keys.rotate(http.path_params["key_id"], request.overlap_seconds)
        await self._part.keys_changed()
        return json_response(key_view(key, time.time(), secret.text), status=201)

    async def revoke(self, http: Request) -> Response:
        keys, _ = await self._stores()
        key = await keys.revoke(http.path_params["key_id"])
        await self._part.keys_changed()
        return json_response(key_view(key, time.time()))

    async def usage(self, http: Request) -> Response:
        await self._part.write_records()
        _, accounts = await self._stores()
        query = http.query_params
        rows = await accounts.usage(
            key_id=query.get("key_id"), first_day=query.get("from", ""), last_day=query.get("to", "9999")
        )
        return _list([{**row, "money": row["money"] / MONEY_UNIT} for row in rows])

    async def audit(self, http: Request) -> Response:
        await self._part.write_records()
        _, accounts = await self._stores()
        rows = await accounts.audit(
            limit=_integer(http, "limit", 100, 1, _MOST_ROWS) or 100,
            before=_integer(http, "before", None, 1, 2**63 - 1),
            key_id=http.query_params.get("key_id"),
        )
        return _list(rows)

    async def _stores(self) -> Any:
        if self._part.stores is None:
            raise ConfigError("this server was started without a database; there are no keys but api.key")
        return await self._part.stores.make()


def _list(rows: list[dict[str, Any]]) -> Response:
    return json_response({"object": "list", "data": rows})


def _integer(http: Request, name: str, default: int | None, low: int, high: int) -> int | None:
    text = http.query_params.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
        raise InvalidParameterError(f"{name} is {text!r:.40}; give a number in [{low}, {high}]", parameter=name)
    return int(text)
