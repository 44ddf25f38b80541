"""Chat templates: what they are given, and what stops them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from glm_crush.chat.sandbox_budget import TemplateLimits
from glm_crush.chat.template import ChatTemplate
from glm_crush.errors import InvalidParameterError, TemplateError

pytestmark = pytest.mark.requirement("M5")
HELLO = [{"role": "user", "content": "hello"}]
SMALL = TemplateLimits(steps=20_000, work_chars=2_000_000, output_chars=100_000, seconds=60.0)


def render(source: str, messages: list[dict[str, Any]] | None = None, **kwargs: Any) -> str:
    return ChatTemplate(source, limits=SMALL).render(HELLO if messages is None else messages, **kwargs)


def test_blocks_leave_no_blank_lines() -> None:
    assert (
        render("{% for m in messages %}\n    {% if m %}\n{{ m.content }}\n    {% endif %}\n{% endfor %}") == "hello\n"
    )


def test_tojson_keeps_other_scripts_and_signs() -> None:
    assert render("{{ {'a': 'é<&>\"', 'b': [1, none, true]} | tojson }}") == '{"a": "é<&>\\"", "b": [1, null, true]}'
    assert render("{{ {'b': 1, 'a': 2} | tojson(indent=1, sort_keys=true) }}") == '{\n "a": 2,\n "b": 1\n}'


def test_special_tokens_of_the_config_can_be_printed() -> None:
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}, "pad_token": None}
    template = ChatTemplate("{{ bos_token }}|{{ eos_token }}|{{ pad_token }}", config)
    assert template.render(HELLO) == "<s>|</s>|"


def test_the_clock_is_the_one_given() -> None:
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", now=lambda: datetime(2026, 2, 3))
    assert template.render(HELLO) == "03 Feb 2026"


def test_loops_can_be_left_and_training_marks_are_ignored() -> None:
    body = "{% if i == 2 %}{% break %}{% endif %}{% generation %}{{ i }}{% endgeneration %}"
    assert render("{% for i in range(9) %}" + body + "{% endfor %}") == "01"


def test_loop_variables_work_through_the_metering() -> None:
    source = "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ '!' if loop.last else ',' }}{% endfor %}"
    assert render(source, HELLO * 3) == "1/3,2/3,3/3!"


def test_a_template_for_tools_is_used_when_there_are_tools() -> None:
    template = ChatTemplate([{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}])
    assert template.render(HELLO) == "plain"
    assert template.render(HELLO, [{"type": "function", "function": {"name": "f"}}]) == "tools"


def test_parts_of_content_become_text_and_missing_content_is_empty() -> None:
    source = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert render(source, [{"role": "user", "content": parts}, {"role": "assistant", "content": None}]) == "[ab][]"


def test_the_callers_messages_are_not_changed() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [{"role": "assistant", "content": None, "reasoning": "r", "tool_calls": [call]}]
    before = json.dumps(messages)
    source = "{{ messages[0].reasoning_content }}{{ messages[0].tool_calls[0].function.arguments.a }}"
    assert render(source, messages) == "r1"
    assert json.dumps(messages) == before


@pytest.mark.parametrize(
    ("message", "where"),
    [
        ({"content": "x"}, r"messages\[0\]\.role is None"),
        ({"role": "user", "content": 3}, r"messages\[0\]\.content is 3"),
        ({"role": "user", "content": [{"type": "image_url"}]}, r"content\[0\] is a part of type 'image_url'"),
        ({"role": "assistant", "tool_calls": [{"id": "x"}]}, r"tool_calls\[0\] is"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
            r"tool_calls\[0\]\.function\.arguments is not JSON",
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[]"}}]},
            r"arguments is \[\]; give a JSON object",
        ),
    ],
)
def test_a_malformed_message_is_the_callers_error_and_names_its_place(message: dict[str, Any], where: str) -> None:
    with pytest.raises(InvalidParameterError, match=where):
        render("{{ messages }}", [message])


def test_a_template_can_refuse() -> None:
    with pytest.raises(TemplateError, match="refused the messages: roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% if %}", "line 1"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ nothing.at.all }}", "UndefinedError"),
        ("{{ ''.__class__ }}{{ messages.__class__.__mro__ }}", "unsafe|not.*safe|undefined"),
        ("{{ messages.append(1) }}", "list.append|unsafe|not safely"),
        ("{{ messages | nonsense }}", "No filter named 'nonsense'"),
        ("{% include 'etc/passwd' %}", "failed"),
        ("{{ cycler }}{{ lipsum() }}", "UndefinedError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "too deeply"),
        ("{{ " + "(" * 5000 + ")" * 5000 + " }}", "too deeply|failed|line 1"),
    ],
)
def test_a_broken_template_is_an_error_that_says_what(source: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        render(source)


def _grow(expression: str, use: str = "") -> str:
    """A template that puts `expression` of `ns.x` into `ns.x`, sixty times."""
    loop = "{% for i in range(60) %}{% set ns.x = " + expression + " %}{% endfor %}"
    return "{% set ns = namespace(x='aa') %}" + loop + use


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(1000) %}" * 3 + "{% endfor %}" * 3,
        "{% set r = range(1000) %}" + "{% for i in r %}" * 3 + "{% endfor %}" * 3,
        "{% for i in range(1000) %}{% for j in range(1000) %}x{% endfor %}{% endfor %}",
        _grow("ns.x + ns.x"),
        _grow("ns.x ~ ns.x"),
        _grow("ns.x | replace('a', ns.x)"),
        _grow("ns.x.replace('', ns.x)"),
        _grow("ns.x.join([ns.x] * 9)"),
        _grow("([ns.x] * 9) | list", "{{ ns.x }}"),
        _grow("'%s%s' % (ns.x, ns.x)"),
        _grow("'{0}{0}'.format(ns.x)"),
        _grow("[ns.x, ns.x]", "{{ ns.x | tojson }}"),
        _grow("[ns.x, ns.x]", "{{ ns.x | string }}"),
        _grow("{'k': [ns.x, ns.x]}", "{{ ns.x | tojson(indent=8) }}"),
        "{{ 'a' * 1000000000 }}",
        "{{ ['a'] * 1000000000 }}",
        "{{ 10 ** 1000000000 }}",
        "{{ range(1000000000) | list }}",
        "{{ 'a'.ljust(1000000000) }}",
        "{{ 'a' | center(1000000000) }}",
        "{{ 'a' | indent(1000000000, true) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 1000000000) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ [1] | batch(1000000000, 'x') | list }}",
        "{{ (5).to_bytes(1000000000, 'big') }}",
        "{% set x %}{% for i in range(30000) %}" + "y" * 5000 + "{% endfor %}{% endset %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for i in range(9) recursive %}{{ loop(range(9)) }}{% endfor %}",
        "{% for i in range(30000) %}{% set x = messages[0].content[1:] %}{% endfor %}",
    ],
)
def test_a_template_that_would_not_end_or_fill_the_memory_is_stopped(source: str) -> None:
    with pytest.raises(TemplateError, match=r"needs more than|took more than|at most|not allowed|too deeply"):
        render(source)


def test_a_template_is_stopped_by_the_clock_too() -> None:
    limits = TemplateLimits(seconds=0.0)
    with pytest.raises(TemplateError, match="ran for more than 0 s"):
        ChatTemplate("{% for i in range(10) %}{{ i }}{% endfor %}", limits=limits).render(HELLO)


def test_output_and_source_have_limits() -> None:
    with pytest.raises(TemplateError, match="writes more than 100000 characters"):
        render("{{ messages[0].content }}", [{"role": "user", "content": "x" * 100_001}])
    with pytest.raises(TemplateError, match="has 1048577 characters; at most 1048576"):
        ChatTemplate("x" * (2**20 + 1))


def test_a_long_conversation_stays_far_from_the_limits() -> None:
    messages = [{"role": role, "content": "word " * 2000} for _ in range(100) for role in ("user", "assistant")]
    source = "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}{% endfor %}"
    assert len(ChatTemplate(source).render(messages)) == 100 * (9999 * 2 + 8 + 13)


def test_a_failed_render_leaves_the_template_usable() -> None:
    template = ChatTemplate("{{ raise_exception('no') if messages | length > 1 else messages[0].content }}")
    with pytest.raises(TemplateError):
        template.render(HELLO * 2)
    assert template.render(HELLO) == "hello"


def test_named_templates_need_a_default() -> None:
    with pytest.raises(TemplateError, match="a text called 'default' is needed"):
        ChatTemplate({"rag": "x"})
    with pytest.raises(TemplateError, match="line 1"):
        ChatTemplate("{% endfor %}").check()
