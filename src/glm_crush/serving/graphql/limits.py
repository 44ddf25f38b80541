"""What documents and variables cost, before anything is done with them.

Above: `document.py`, `operation.py`. Below: graphql-core's syntax tree. Fields are counted with all fragments written
out, in a walk that visits each node once; what a fragment costs is kept, so that fragments of fragments, whose
written-out size doubles with each, are counted and never written out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionNode,
    SelectionSetNode,
)

__all__ = ["Cost", "document_cost", "variables_cost"]

_WORK = 50  # of a field that computes
_OBJECT = 20  # values that are read in the time of one object


@dataclass(frozen=True)
class Cost:
    """Fields, those that compute many times over, and how deep they are nested."""

    complexity: int = 0
    depth: int = 0


def document_cost(document: DocumentNode, working_fields: frozenset[str]) -> Cost:
    """The cost of everything in a document: also what does not run, since that is validated too."""
    counting = _Counting(document, working_fields)
    operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
    costs = [counting.of_root(operation.selection_set) for operation in operations]
    unused = [counting.of_fragment(name) for name in counting.fragments if not counting.is_known(name)]
    complexity = sum(cost.complexity for cost in [*costs, *unused])
    return Cost(complexity, max((cost.depth for cost in costs), default=0))


def variables_cost(variables: Any) -> int:
    """Values in variables, where an object counts as many: each takes microseconds until it is a request."""
    cost = 0
    open_: list[Any] = [variables]
    while open_:
        value = open_.pop()
        if isinstance(value, dict):
            cost += _OBJECT
            open_.extend(value.values())
        elif isinstance(value, list):
            cost += len(value)
            open_.extend(item for item in value if isinstance(item, (dict, list)))
    return cost


class _Counting:
    def __init__(self, document: DocumentNode, working_fields: frozenset[str]) -> None:
        self.fragments: Mapping[str, FragmentDefinitionNode] = {
            node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)
        }
        self._working = working_fields
        self._known: dict[str, Cost] = {}

    def of_root(self, selections: SelectionSetNode) -> Cost:
        return self._sum(selections.selections)

    def is_known(self, name: str) -> bool:
        return name in self._known

    def of_fragment(self, name: str) -> Cost:
        if name not in self._known:
            self._known[name] = Cost()  # a fragment within itself; the validation refuses it
            if name in self.fragments:
                self._known[name] = self._sum(self.fragments[name].selection_set.selections)
        return self._known[name]

    def _sum(self, selections: Iterable[SelectionNode]) -> Cost:
        costs = [self._of(selection) for selection in selections]
        return Cost(sum(cost.complexity for cost in costs), max((cost.depth for cost in costs), default=0))

    def _of(self, selection: SelectionNode) -> Cost:
        if isinstance(selection, FragmentSpreadNode):
            return self.of_fragment(selection.name.value)
        if isinstance(selection, InlineFragmentNode):
            return self._sum(selection.selection_set.selections)
        assert isinstance(selection, FieldNode)
        own = _WORK if selection.name.value in self._working else 1
        if selection.selection_set is None:
            return Cost(own, 1)
        inner = self._sum(selection.selection_set.selections)
        if selection.name.value.startswith("__"):  # how deep questions about the schema go has a rule of its own
            return Cost(own + inner.complexity, 1)
        return Cost(own + inner.complexity, 1 + inner.depth)
