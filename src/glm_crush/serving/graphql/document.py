"""From the text of a document to one that may be executed: parsed, measured, validated.

Above: `operation.py`. Below: graphql-core. The order matters: a check is made only of what the checks before it have
bounded, for the rules of validation take time that grows with the square of the fields.
"""

from __future__ import annotations

from graphql import (
    DocumentNode,
    GraphQLError,
    GraphQLSchema,
    GraphQLSyntaxError,
    NoSchemaIntrospectionCustomRule,
    parse,
    specified_rules,
    validate,
)
from graphql.validation import MaxIntrospectionDepthRule

from glm_crush.graphql_settings import GraphqlSettings
from glm_crush.serving.graphql.errors import DocumentRefused, refusal
from glm_crush.serving.graphql.limits import document_cost
from glm_crush.serving.graphql.schema import WORKING_FIELDS

__all__ = ["read_document"]

_MOST_ERRORS = 20
_MOST_COMMENTS = 500


def read_document(schema: GraphQLSchema, text: str, settings: GraphqlSettings) -> DocumentNode:
    """The document in a text.

    Raises:
        DocumentRefused: no GraphQL, too large, or not of this schema.
    """
    try:
        document = parse(text, max_lexical_tokens=settings.max_document_tokens, max_comments=_MOST_COMMENTS)
        cost = document_cost(document, WORKING_FIELDS)
    except GraphQLSyntaxError as error:
        raise DocumentRefused([error], "graphql_parse_failed") from None
    except (GraphQLError, RecursionError):
        raise refusal("the document is nested too deeply", "graphql_too_large") from None
    if cost.depth > settings.max_depth:
        raise refusal(
            f"fields are nested {cost.depth} deep; this server takes {settings.max_depth} (graphql.max_depth)",
            "graphql_too_large",
        )
    if cost.complexity > settings.max_complexity:
        raise refusal(
            f"the document has a complexity of {cost.complexity}; this server takes {settings.max_complexity} "
            "(graphql.max_complexity): send several",
            "graphql_too_large",
        )
    rules = [*specified_rules, MaxIntrospectionDepthRule]
    if not settings.introspection:
        rules.append(NoSchemaIntrospectionCustomRule)
    errors = validate(schema, document, rules, max_errors=_MOST_ERRORS, hide_suggestions=not settings.introspection)
    if errors:
        raise DocumentRefused(errors, "graphql_validation_failed")
    return document
