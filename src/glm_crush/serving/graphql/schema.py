"""The schema: what may be asked, and which resolver answers.

Above: the executor, and the page `docs/apis/schema.graphql`, which is generated from here. Below: the resolvers, one
module for each matter. Generation is a mutation: it costs, it is drawn, and clients send queries again and keep their
results as they please. Its stream is a subscription of the same name. Fields of the root may be null, so that what one
of them is refused does not take the results of the others with it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import date
from functools import cache
from typing import TYPE_CHECKING, Annotated

import strawberry
from strawberry.schema.config import StrawberryConfig

from glm_crush.serving.graphql import administration as admin
from glm_crush.serving.graphql import generation, vectors
from glm_crush.serving.graphql.context import OperationContext
from glm_crush.serving.graphql.inputs import ChatInput, CompletionInput, EmbeddingInput, RerankInput
from glm_crush.serving.graphql.outputs import (
    ChatDelta,
    ChatReply,
    Completion,
    CompletionDelta,
    Embeddings,
    Model,
    Ranking,
)
from glm_crush.serving.graphql.scalars import SCALARS, BigInt, TokenIds

if TYPE_CHECKING:
    from graphql import GraphQLSchema

__all__ = ["WORKING_FIELDS", "graphql_schema", "schema_text"]

WORKING_FIELDS = frozenset({"chat", "complete", "embed", "rerank"})
"""Fields of the root that compute; the others only look something up."""

Info = strawberry.Info[OperationContext, None]
_MODEL = Annotated[str | None, strawberry.argument(name="model", description="Left out: the default one.")]


@strawberry.type(description="What can be asked again and again.")
class Query:
    """Models, vectors and rankings; for administrators, applications, keys and records."""

    @strawberry.field(description="The models served.")
    async def models(self, info: Info) -> list[Model] | None:
        await info.context.begin("models", "models")
        return vectors.list_models(info.context)

    @strawberry.field(description="Vectors of texts.")
    async def embed(
        self, info: Info, given: Annotated[EmbeddingInput, strawberry.argument(name="input")]
    ) -> Embeddings | None:
        await info.context.begin("embed", "embed")
        return await vectors.embed(info.context, given)

    @strawberry.field(description="Documents in the order in which they answer a query.")
    async def rerank(
        self, info: Info, given: Annotated[RerankInput, strawberry.argument(name="input")]
    ) -> Ranking | None:
        await info.context.begin("embed", "rerank")
        return await vectors.rerank(info.context, given)

    @strawberry.field(description="Token ids of a text as a prompt.")
    async def tokenize(self, info: Info, text: str, model: _MODEL = None) -> TokenIds | None:
        await info.context.begin("tokenize", "tokenize")
        return await vectors.tokenize(info.context, text, model)

    @strawberry.field(description="The text of token ids.")
    async def detokenize(self, info: Info, token_ids: list[int], model: _MODEL = None) -> str | None:
        await info.context.begin("tokenize", "detokenize")
        return await vectors.detokenize(info.context, token_ids, model)

    @strawberry.field(description="The applications, oldest first. Needs the scope admin.")
    async def applications(self, info: Info) -> list[admin.Application] | None:
        await info.context.begin("admin", "applications")
        return [admin.application_of(found) for found in await info.context.accounts.applications()]

    @strawberry.field(description="The keys, of all applications or of one (name or id). Needs the scope admin.")
    async def keys(self, info: Info, application: str | None = None) -> list[admin.Key] | None:
        await info.context.begin("admin", "keys")
        return [admin.key_of(found) for found in await info.context.accounts.keys(application)]

    @strawberry.field(description="One key, by its id or the public part of a secret. Needs the scope admin.")
    async def key(self, info: Info, id: strawberry.ID) -> admin.Key | None:  # noqa: A002 (the schema's name)
        await info.context.begin("admin", "key")
        return admin.key_of(await info.context.accounts.key(id))

    @strawberry.field(description="Tokens and money by key, model and day. Needs the scope admin.")
    async def usage(
        self,
        info: Info,
        key_id: strawberry.ID | None = None,
        first_day: Annotated[date | None, strawberry.argument(name="from")] = None,
        last_day: Annotated[date | None, strawberry.argument(name="to")] = None,
    ) -> list[admin.UsageRow] | None:
        await info.context.begin("admin", "usage")
        return await admin.usage_rows(info.context, key_id, first_day, last_day)

    @strawberry.field(description="The audit log, newest first; before: an id of the page before. Needs admin.")
    async def audit_log(
        self, info: Info, first: int = 100, before: BigInt | None = None, key_id: strawberry.ID | None = None
    ) -> list[admin.AuditEntry] | None:
        await info.context.begin("admin", "auditLog")
        return await admin.audit_entries(info.context, first, before, key_id)


@strawberry.type(description="What costs or changes something.")
class Mutation:
    """Generation; for administrators, applications and keys."""

    @strawberry.mutation(description="Answer a conversation.")
    async def chat(
        self, info: Info, given: Annotated[ChatInput, strawberry.argument(name="input")]
    ) -> ChatReply | None:
        await info.context.begin("generate", "chat")
        return await generation.chat(info.context, given)

    @strawberry.mutation(description="Go on with a text.")
    async def complete(
        self, info: Info, given: Annotated[CompletionInput, strawberry.argument(name="input")]
    ) -> Completion | None:
        await info.context.begin("generate", "complete")
        return await generation.complete(info.context, given)

    @strawberry.mutation(description="Register an application. Needs the scope admin.")
    async def register_application(self, info: Info, name: str) -> admin.Application | None:
        await info.context.begin("admin", "registerApplication")
        return admin.application_of(await info.context.accounts.register(name))

    @strawberry.mutation(description="Make a key. Needs the scope admin.")
    async def create_key(
        self, info: Info, given: Annotated[admin.CreateKeyInput, strawberry.argument(name="input")]
    ) -> admin.NewKey | None:
        await info.context.begin("admin", "createKey")
        return await admin.create_key(info.context, given)

    @strawberry.mutation(description="Change rights or limits of a key. Needs the scope admin.")
    async def change_key(
        self,
        info: Info,
        id: strawberry.ID,  # noqa: A002 (the schema's name)
        given: Annotated[admin.KeyChangeInput, strawberry.argument(name="input")],
    ) -> admin.Key | None:
        await info.context.begin("admin", "changeKey")
        return await admin.change_key(info.context, id, given)

    @strawberry.mutation(description="A new secret for a key; the older ones work on for so long. Needs admin.")
    async def rotate_key(
        self,
        info: Info,
        id: strawberry.ID,  # noqa: A002 (the schema's name)
        overlap_seconds: float = 86_400.0,
    ) -> admin.NewKey | None:
        await info.context.begin("admin", "rotateKey")
        return admin.new_key(*await info.context.accounts.rotate_key(id, overlap_seconds))

    @strawberry.mutation(description="End a key now. Needs the scope admin.")
    async def revoke_key(self, info: Info, id: strawberry.ID) -> admin.Key | None:  # noqa: A002 (the schema's name)
        await info.context.begin("admin", "revokeKey")
        return admin.key_of(await info.context.accounts.revoke_key(id))


@strawberry.type(description="What comes piece by piece.")
class Subscription:
    """Generation as it is written."""

    @strawberry.subscription(description="Answer a conversation as it is written.")
    async def chat(
        self, info: Info, given: Annotated[ChatInput, strawberry.argument(name="input")]
    ) -> AsyncGenerator[ChatDelta, None]:
        await info.context.begin("generate", "chat")
        deltas = generation.stream_chat(info.context, given)
        try:
            async for delta in deltas:
                yield delta
        finally:
            await deltas.aclose()

    @strawberry.subscription(description="Go on with a text as it is written.")
    async def complete(
        self, info: Info, given: Annotated[CompletionInput, strawberry.argument(name="input")]
    ) -> AsyncGenerator[CompletionDelta, None]:
        await info.context.begin("generate", "complete")
        deltas = generation.stream_complete(info.context, given)
        try:
            async for delta in deltas:
                yield delta
        finally:
            await deltas.aclose()


def _schema() -> strawberry.Schema:
    config = StrawberryConfig(scalar_map=SCALARS)
    return strawberry.Schema(query=Query, mutation=Mutation, subscription=Subscription, config=config)


@cache
def graphql_schema() -> GraphQLSchema:
    """The schema for graphql-core, which executes it."""
    return _schema()._schema  # Strawberry has no public name for what it hands to graphql-core itself


def schema_text() -> str:
    """The schema in its own language."""
    return _schema().as_str() + "\n"
