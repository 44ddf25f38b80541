"""The gRPC server: methods wired to the services, each call admitted by the gateway, errors as statuses.

Above: `part`. Below: grpcio's asyncio server, in the event loop of the HTTP server; cancellation and deadlines of
clients cancel the method's task, and with it the generation.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from glm_crush.errors import ConfigError
from glm_crush.serving.errors import error_reply
from glm_crush.serving.gateway.admission import acting
from glm_crush.serving.gateway.gateway import Credentials, Gateway, key_in
from glm_crush.serving.grpc import glm_crush_pb2 as pb
from glm_crush.serving.grpc.services import GenerationService, ModelsService
from glm_crush.serving.served_models import ServedModels

__all__ = ["GrpcServer"]

_log = logging.getLogger("glm_crush.serving")
_CANCELLED = 499
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_PACKAGE = "glm_crush.v1"
Context = Any  # grpc.aio.ServicerContext, which is generic only for type checkers


class GrpcServer:
    """Serves `glm_crush.proto`, health and reflection on one port.

    Args:
        address: host:port. max_message_bytes: of requests. certificate: key and chain in PEM; None = without TLS.

    Raises:
        ConfigError: the port is taken, or the address does not exist here.
    """

    def __init__(
        self,
        models: ServedModels,
        gateway: Gateway,
        address: str,
        *,
        max_message_bytes: int,
        certificate: tuple[bytes, bytes] | None = None,
    ) -> None:
        self._gateway = gateway
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.so_reuseport", 0),
                ("grpc.max_concurrent_streams", 1000),
            ]
        )
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        generation, catalogue = GenerationService(models), ModelsService(models)
        whole: dict[str, Any] = {"Chat": generation.chat, "Complete": generation.complete}
        streamed: dict[str, Any] = {"StreamChat": generation.stream_chat, "StreamComplete": generation.stream_complete}
        self._add("Generation", "generate", whole, streamed)
        self._add("Models", "models", {"List": catalogue.list}, {})
        self._add("Models", "tokenize", {"Tokenize": catalogue.tokenize, "Detokenize": catalogue.detokenize}, {})
        self._services = [service.full_name for service in pb.DESCRIPTOR.services_by_name.values()]
        names = [*self._services, reflection.SERVICE_NAME, health.SERVICE_NAME]
        reflection.enable_server_reflection(names, self._server)
        try:
            if certificate is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, grpc.ssl_server_credentials([certificate]))
        except RuntimeError as error:
            raise ConfigError(
                f"gRPC cannot listen on {address}; stop what listens there or choose another with --grpc-port"
            ) from error

    async def start(self) -> None:
        """Take calls."""
        await self._server.start()
        for service in ("", *self._services):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace_seconds: float) -> None:
        """Say that we are leaving, let running calls finish within the time, then end them."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_seconds)

    def _add(self, service: str, scope: str, whole: dict[str, Any], streamed: dict[str, Any]) -> None:
        descriptor = pb.DESCRIPTOR.services_by_name[service]
        handlers = {}
        for name, function in {**whole, **streamed}.items():
            method = descriptor.methods_by_name[name]
            path = f"GRPC /{_PACKAGE}.{service}/{name}"
            wrap, make = (
                (self._unary, grpc.unary_unary_rpc_method_handler)
                if name in whole
                else (self._stream, grpc.unary_stream_rpc_method_handler)
            )
            handlers[name] = make(
                wrap(function, path, scope),
                request_deserializer=getattr(pb, method.input_type.name).FromString,
                response_serializer=getattr(pb, method.output_type.name).SerializeToString,
            )
        generic = grpc.method_handlers_generic_handler(f"{_PACKAGE}.{service}", handlers)
        self._server.add_generic_rpc_handlers((generic,))

    def _unary(self, function: Callable[[Any], Awaitable[Any]], path: str, scope: str) -> Callable[..., Any]:
        async def handle(request: Any, context: Context) -> Any:
            async with self._admitted(context, path, scope):
                return await function(request)

        return handle

    def _stream(
        self, function: Callable[[Any], AsyncGenerator[Any, None]], path: str, scope: str
    ) -> Callable[..., Any]:
        async def handle(request: Any, context: Context) -> AsyncGenerator[Any, None]:
            async with self._admitted(context, path, scope):
                replies = function(request)
                try:
                    async for reply in replies:
                        yield reply
                finally:
                    await replies.aclose()

        return handle

    @asynccontextmanager
    async def _admitted(self, context: Context, path: str, scope: str) -> AsyncGenerator[None, None]:
        """Run a call on behalf of its key; what it raises ends the call with a status."""
        request_id = f"req_{uuid.uuid4().hex}"
        status = _CANCELLED
        admission = None
        try:
            admission = await self._gateway.admit(_credentials(context), path, scope=scope, request_id=request_id)
            with acting(admission):
                yield
            status = 200
        except Exception as error:
            if isinstance(error, grpc.RpcError | grpc.aio.AbortError):
                raise
            reply = error_reply(error)
            status = reply.status
            if status == 500:
                _log.error("request %s failed", request_id, exc_info=error)
            trailing = [("request-id", request_id), ("code", reply.code or "")]
            trailing += [(name.lower(), value) for name, value in reply.headers.items()]
            await context.abort(_CODES.get(status, grpc.StatusCode.INTERNAL), reply.message, tuple(trailing))
        finally:
            if admission is not None:
                admission.close(status)


def _credentials(context: Context) -> Credentials:
    sent = context.invocation_metadata() or ()
    metadata = {name.encode(): value.encode() for name, value in sent if isinstance(value, str)}
    return Credentials(key_in(metadata), _address(context.peer()))


def _address(peer: str) -> str | None:
    """The address in `ipv4:127.0.0.1:5000` or `ipv6:%5B::1%5D:5000`."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return None
    return rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")
