"""/admin/v1: applications, keys, usage and the audit log, for callers with the scope admin.

Above: `app.py`. Below: `accounts.py`, which does it.
"""

from __future__ import annotations

import time
from typing import Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from glm_crush.errors import InvalidParameterError
from glm_crush.serving.gateway.accounts import MOST_ROWS, Accounts
from glm_crush.serving.gateway.records import KeyLimits
from glm_crush.serving.gateway.replies import Application, ApplicationList, AuditList, Key, KeyList, UsageList
from glm_crush.serving.gateway.views import application_view, key_view
from glm_crush.serving.json_http import StrictModel, json_response, read_request
from glm_crush.serving.openapi import Endpoint
from glm_crush.serving.routing import ApiRoute

__all__ = ["LimitsBody", "admin_routes"]

_TEXT: dict[str, Any] = {"type": "string"}
_USAGE_QUERY = {"key_id": _TEXT, "from": _TEXT, "to": _TEXT}
_AUDIT_QUERY: dict[str, dict[str, Any]] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": MOST_ROWS},
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


def admin_routes(accounts: Accounts) -> list[ApiRoute]:
    """The routes over what administrators do."""
    admin = _Admin(accounts)
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
    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    async def register(self, http: Request) -> Response:
        request = await read_request(ApplicationRequest, http)
        return json_response(application_view(await self._accounts.register(request.name)), status=201)

    async def applications(self, _: Request) -> Response:
        return _list([application_view(application) for application in await self._accounts.applications()])

    async def create(self, http: Request) -> Response:
        request = await read_request(KeyRequest, http)
        key, secret = await self._accounts.create_key(
            request.application,
            request.name,
            scopes=request.scopes,
            models=request.models,
            limits=None if request.limits is None else request.limits.limits(),
            expires_at=request.expires_at,
        )
        return json_response(key_view(key, time.time(), secret), status=201)

    async def keys(self, http: Request) -> Response:
        found = await self._accounts.keys(http.query_params.get("application"))
        return _list([key_view(key, time.time()) for key in found])

    async def key(self, http: Request) -> Response:
        return json_response(key_view(await self._accounts.key(http.path_params["key_id"]), time.time()))

    async def change(self, http: Request) -> Response:
        request = await read_request(KeyChangeRequest, http)
        key = await self._accounts.change_key(
            http.path_params["key_id"],
            name=request.name,
            scopes=request.scopes,
            models=request.models,
            limits=None if request.limits is None else request.limits.limits(),
            expires_at=request.expires_at,
        )
        return json_response(key_view(key, time.time()))

    async def rotate(self, http: Request) -> Response:
        request = await read_request(RotateRequest, http) if await http.body() else RotateRequest()
        key, secret = await self._accounts.rotate_key(http.path_params["key_id"], request.overlap_seconds)
        return json_response(key_view(key, time.time(), secret), status=201)

    async def revoke(self, http: Request) -> Response:
        key = await self._accounts.revoke_key(http.path_params["key_id"])
        return json_response(key_view(key, time.time()))

    async def usage(self, http: Request) -> Response:
        query = http.query_params
        rows = await self._accounts.usage(
            key_id=query.get("key_id"), first_day=query.get("from"), last_day=query.get("to")
        )
        return _list(rows)

    async def audit(self, http: Request) -> Response:
        rows = await self._accounts.audit(
            limit=_integer(http, "limit", 100, 1, MOST_ROWS) or 100,
            before=_integer(http, "before", None, 1, 2**63 - 1),
            key_id=http.query_params.get("key_id"),
        )
        return _list(rows)


def _list(rows: list[dict[str, Any]]) -> Response:
    return json_response({"object": "list", "data": rows})


def _integer(http: Request, name: str, default: int | None, low: int, high: int) -> int | None:
    text = http.query_params.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
        raise InvalidParameterError(f"{name} is {text!r:.40}; give a number in [{low}, {high}]", parameter=name)
    return int(text)
