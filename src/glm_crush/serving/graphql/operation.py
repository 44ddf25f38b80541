"""One operation: from a request to its result or its results, whatever transport it came by.

Above: `http.py`, `connection.py`. Below: the document, the schema, graphql-core's executor. What is large is prepared
in a thread: coercing variables takes time that grows with them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from inspect import isawaitable, iscoroutine
from typing import Any, Literal

from graphql import DocumentNode, ExecutionResult, GraphQLSchema, get_operation_ast
from graphql.execution import (
    Executor,
    create_source_event_stream,
    execute_root_selection_set,
    map_source_to_response_event,
)

from glm_crush.graphql_settings import GraphqlSettings
from glm_crush.serving.graphql.context import OperationContext
from glm_crush.serving.graphql.document import read_document
from glm_crush.serving.graphql.errors import DocumentRefused, field_error, refusal
from glm_crush.serving.graphql.limits import variables_cost
from glm_crush.serving.graphql.schema import graphql_schema

__all__ = ["GraphqlRequest", "Operation", "Operations", "read_parameters"]

OperationKind = Literal["query", "mutation", "subscription"]

_LARGE = 20_000  # characters; less is prepared in a few milliseconds
_MOST_VALUES = 200_000  # in variables
_LONGEST_KEPT = 2000  # characters of documents that are kept as they were validated: clients send few, many times
_MOST_KEPT = 64


@dataclass(frozen=True)
class GraphqlRequest:
    """The parameters of a request; `size` is that of all of them, in characters or bytes."""

    query: str
    variables: Mapping[str, Any] = field(default_factory=dict)
    operation_name: str | None = None
    size: int = 0


def read_parameters(body: object, size: int) -> GraphqlRequest:
    """The request in a decoded JSON body, as GraphQL over HTTP and graphql-transport-ws have it.

    Raises:
        DocumentRefused: it has no document, or a parameter has a wrong type.
    """
    if isinstance(body, list):
        raise refusal("several operations in one request are not taken; send them one by one", "graphql_bad_request")
    if not isinstance(body, dict):
        raise refusal("the body must be a JSON object with `query`", "graphql_bad_request")
    query = body.get("query")
    if not isinstance(query, str):
        raise refusal("`query` must be a string that holds a GraphQL document", "graphql_bad_request")
    for name, kind, words in (
        ("variables", dict, "an object"),
        ("operationName", str, "a string"),
        ("extensions", dict, "an object"),
    ):
        if not isinstance(body.get(name), (kind, type(None))):
            raise refusal(f"`{name}` must be {words} or null", "graphql_bad_request")
    return GraphqlRequest(query, body.get("variables") or {}, body.get("operationName"), size)


class Operations:
    """Prepares operations over one schema."""

    def __init__(self, settings: GraphqlSettings) -> None:
        self._schema: GraphQLSchema = graphql_schema()
        self._settings = settings
        self._kept = lru_cache(_MOST_KEPT)(self._read)

    async def prepare(self, request: GraphqlRequest, context: OperationContext, request_id: str) -> Operation:
        """Everything that can be refused before anything runs is refused here.

        Raises:
            DocumentRefused: says why.
        """
        if request.size < _LARGE:
            return self._prepare(request, context, request_id)
        return await asyncio.to_thread(self._prepare, request, context, request_id)

    def _prepare(self, request: GraphqlRequest, context: OperationContext, request_id: str) -> Operation:
        read = self._kept if len(request.query) <= _LONGEST_KEPT else self._read
        document = read(request.query)
        if variables_cost(request.variables) > _MOST_VALUES:
            raise refusal(f"the variables hold more than {_MOST_VALUES} values; send fewer", "graphql_too_large")
        operation = get_operation_ast(document, request.operation_name)
        if operation is None:
            what = "several operations" if request.operation_name is None else "no operation of that name"
            raise refusal(f"the document holds {what}; name one in operationName", "graphql_bad_request")
        try:
            executor = Executor.build(
                self._schema,
                document,
                context_value=context,
                raw_variable_values=dict(request.variables),
                operation_name=request.operation_name,
                max_coercion_errors=20,
                hide_suggestions=not self._settings.introspection,
            )
        except RecursionError:
            raise refusal("the variables are nested too deeply", "graphql_bad_value") from None
        if isinstance(executor, list):
            raise DocumentRefused(executor, "graphql_bad_value")
        return Operation(executor, operation.operation.value, context, request_id, is_large=request.size >= _LARGE)

    def _read(self, text: str) -> DocumentNode:
        return read_document(self._schema, text, self._settings)


class Operation:
    """An operation that may run, once.

    Attributes:
        kind: of operation. context: what its fields have done so far.
    """

    def __init__(
        self,
        executor: Executor[Any],
        kind: OperationKind,
        context: OperationContext,
        request_id: str,
        *,
        is_large: bool = False,
    ) -> None:
        self.kind = kind
        self.context = context
        self._executor = executor
        self._request_id = request_id
        self._is_large = is_large

    async def result(self) -> dict[str, Any]:
        """The response of a query or a mutation."""
        return self._response(await self._begun(execute_root_selection_set))

    async def results(self) -> AsyncGenerator[dict[str, Any], None]:
        """The responses of any operation; closing the generator ends it.

        What ends a stream of a subscription early is the `errors` of a last response without data.
        """
        if self.kind != "subscription":
            yield await self.result()
            return
        source = await self._begun(create_source_event_stream)
        if isinstance(source, ExecutionResult):
            yield {"errors": self._errors(source)}
            return
        stream = map_source_to_response_event(self._executor, source)
        try:
            async for result in stream:
                yield self._response(result)
        except Exception as error:  # noqa: BLE001 - becomes the last response
            yield {"errors": [field_error(error, self._request_id)]}
        finally:
            await stream.aclose()

    async def _begun(self, begin: Callable[[Executor[Any]], Any]) -> Any:
        """What comes of beginning: arguments are read then, in a thread if they are many."""
        if not self._is_large:
            begun = begin(self._executor)
        else:
            beginning = asyncio.create_task(asyncio.to_thread(begin, self._executor))
            try:
                begun = await asyncio.shield(beginning)
            except asyncio.CancelledError:
                beginning.add_done_callback(_forget)
                raise
        return await begun if isawaitable(begun) else begun

    def _response(self, result: ExecutionResult) -> dict[str, Any]:
        errors = self._errors(result)
        return {**({"errors": errors} if errors else {}), "data": result.data}

    def _errors(self, result: ExecutionResult) -> list[dict[str, Any]]:
        return [field_error(error, self._request_id) for error in result.errors or ()]


def _forget(beginning: asyncio.Task[Any]) -> None:
    """What has begun in a thread, and is no more wanted, is never awaited."""
    if beginning.exception() is None and iscoroutine(beginning.result()):
        beginning.result().close()
