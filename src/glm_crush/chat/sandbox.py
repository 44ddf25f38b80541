"""A Jinja environment in which a template can neither touch anything nor run for ever nor fill the memory.

Below it: jinja2's immutable sandbox (no attribute that starts with an underscore, no mutation), the budget and the
checks. Above it: `ChatTemplate`. It knows nothing of messages.

Chat templates come with checkpoints, that is from strangers. Each render has a budget, charged where work or text
arises: the parsed template is rewritten before it is compiled, so that every loop iteration, output, concatenation,
slice and long literal passes through a function here; calls, filters and operators pass through the sandbox anyway.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from glm_crush.chat.sandbox_budget import Budget
from glm_crush.chat.sandbox_checks import check_filter, check_format, check_method, check_operator
from glm_crush.errors import TemplateError

__all__ = ["ChatEnvironment"]

# What chat templates use; any other is "no filter named ..." when the template is compiled.
_FILTERS = frozenset(
    """
    abs batch capitalize center count d default dictsort e escape first float format groupby indent int items join
    last length list lower map max min reject rejectattr replace reverse round safe select selectattr slice sort
    string sum title trim truncate unique upper
    """.split()  # noqa: SIM905 easier to read than forty quoted strings
)
_MAX_RANGE = 100_000
_LONG_LITERAL = 16


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox. While a thread compiles or renders, its budget is in `local.budget`."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, names: Mapping[str, object], filters: Mapping[str, Callable[..., object]]) -> None:
        """Names and filters are added to (or replace) those of Jinja that chat templates use."""
        extensions = ["jinja2.ext.loopcontrols", _GenerationBlock]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions, cache_size=0)
        self.local = threading.local()
        known = {name: function for name, function in self.filters.items() if name in _FILTERS} | dict(filters)
        self.filters = {name: _charged(name, function) for name, function in known.items()}
        self.filters |= {"_iterate": _iterate, "_emit": _emit, "_concatenate": _concatenate, "_new": _new}
        self.globals = {"range": self._range, "dict": dict, "namespace": Namespace, **names}

    @property
    def budget(self) -> Budget:
        """The budget of what this thread is doing."""
        budget: Budget = self.local.budget
        return budget

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Apply an operator that can make much of little."""
        check_operator(operator, left, right, self.budget)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 as jinja2 has it
        """Make a call that stands in a template."""
        __self.budget.step()
        check_method(__obj, args, __self.budget)
        result = super().call(__context, __obj, *args, **kwargs)
        __self.budget.spend_result(result)
        return result

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Return what stands for `str.format` in a template."""
        safe_format = super().wrap_str_format(value)
        if safe_format is None:
            return None
        template = str(value.__self__)

        def checked(*args: Any, **kwargs: Any) -> str:
            check_format(template, (*args, *kwargs.values()), self.budget)
            return safe_format(*args, **kwargs)

        return checked

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template: nodes.Template = _Metering().visit(super()._parse(source, name, filename))
        template.set_environment(self)
        return template

    def _range(self, *args: int) -> range:
        numbers = range(*args)
        if len(numbers) > _MAX_RANGE:
            raise TemplateError(f"chat template asks for a range of {len(numbers)}; at most {_MAX_RANGE} is allowed")
        return numbers


class _Metering(NodeTransformer):
    """Puts a charge wherever work or text arises in a parsed template."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 as jinja2 has it
        self.generic_visit(node)
        node.iter = _through("_iterate", node.iter)
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.nodes = [_through("_emit", part) for part in node.nodes]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _through("_concatenate", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _through("_new", node) if isinstance(node.arg, nodes.Slice) else node

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _through("_new", node) if len(node.items) > _LONG_LITERAL else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _through("_new", node) if len(node.items) > _LONG_LITERAL else node


class _GenerationBlock(Extension):
    """`{% generation %}` marks what a model wrote, for training; rendering ignores the marks."""

    tags = {"generation"}  # noqa: RUF012 jinja2 declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        """Return the body alone, in a scope of its own."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _through(name: str, node: nodes.Node) -> nodes.Filter:
    if isinstance(node, nodes.TemplateData):
        node = nodes.Const(node.data, lineno=node.lineno)
    assert isinstance(node, nodes.Expr)
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _budget(context: Context) -> Budget:
    environment = context.environment
    assert isinstance(environment, ChatEnvironment)
    return environment.budget


# A filter that takes the context is never evaluated while compiling, so none of these runs without a budget.


@pass_context
def _iterate(context: Context, values: Iterable[Any]) -> Iterator[Any]:
    budget = _budget(context)
    for value in values:
        budget.step()
        yield value


@pass_context
def _emit(context: Context, value: Any) -> Any:
    _budget(context).spend_text(value)
    return value


@pass_context
def _concatenate(context: Context, values: list[Any]) -> str:
    for value in values:
        _budget(context).spend_text(value)
    return "".join([str(value) for value in values])


@pass_context
def _new(context: Context, value: Any) -> Any:
    _budget(context).spend_result(value)
    return value


def _charged(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, checked before and charged for its result."""
    wanted = getattr(getattr(function, "jinja_pass_arg", None), "name", None)

    @pass_context
    def charged(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        budget = _budget(context)
        budget.step()
        check_filter(name, value, (*args, *kwargs.values()), budget)
        passed = {"context": (context,), "eval_context": (context.eval_ctx,), "environment": (context.environment,)}
        result = function(*(passed[wanted] if wanted else ()), value, *args, **kwargs)
        budget.spend_result(result)
        return result

    return charged
