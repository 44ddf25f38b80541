"""GLM prompts, character by character. The vectors are those of the format's description."""

from __future__ import annotations

from typing import Any

import pytest

from glm_crush.chat.builtin_templates import builtin_template, builtin_template_name, chat_template_for
from glm_crush.chat.template import ChatTemplate
from glm_crush.errors import TemplateError

pytestmark = pytest.mark.requirement("M5")
OLD = {name: ChatTemplate(builtin_template(name)) for name in ("glm45", "glm46")}
NEW = ChatTemplate(builtin_template("glm47"))
OLD_NAMES = pytest.mark.parametrize("name", sorted(OLD))


def call(arguments: str | None = '{"s": "x y", "n": 3}', name: str = "f") -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str | None, reasoning: str | None = None, *calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": text, "reasoning_content": reasoning, "tool_calls": list(calls)}


def tool(text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": "call_1", "content": text}


VECTOR = [
    {"role": "system", "content": "SYS"},
    user("U1"),
    assistant("A1", "R1"),
    user("U2"),
    assistant(None, "R2", call()),
    tool("T1"),
]


@OLD_NAMES
def test_the_vector_of_glm_46(name: str) -> None:
    assert OLD[name].render(VECTOR) == (
        "[gMASK]<sop><|system|>\nSYS<|user|>\nU1<|assistant|>\n<think></think>\nA1<|user|>\nU2<|assistant|>\n"
        "<think>R2</think>\n<tool_call>f\n<arg_key>s</arg_key>\n<arg_value>x y</arg_value>\n<arg_key>n</arg_key>\n"
        "<arg_value>3</arg_value>\n</tool_call><|observation|>\n<tool_response>\nT1\n</tool_response><|assistant|>"
    )


def test_the_vector_of_glm_47() -> None:
    assert NEW.render(VECTOR) == (
        "[gMASK]<sop><|system|>SYS<|user|>U1<|assistant|></think>A1<|user|>U2<|assistant|><think>R2</think>"
        "<tool_call>f<arg_key>s</arg_key><arg_value>x y</arg_value><arg_key>n</arg_key><arg_value>3</arg_value>"
        "</tool_call><|observation|><tool_response>T1</tool_response><|assistant|><think>"
    )


@OLD_NAMES
def test_thinking_off_marks_every_user_message_once_and_opens_the_reply_with_empty_thoughts(name: str) -> None:
    conversation = [user("a"), assistant("b"), user("c /nothink"), assistant("d"), user("e")]
    assert OLD[name].render(conversation, enable_thinking=False) == (
        "[gMASK]<sop><|user|>\na/nothink<|assistant|>\n<think></think>\nb<|user|>\nc /nothink<|assistant|>\n"
        "<think></think>\nd<|user|>\ne/nothink<|assistant|>\n<think></think>"
    )


def test_thinking_off_in_glm_47_only_closes_the_thoughts() -> None:
    assert NEW.render([user("a")], enable_thinking=False) == "[gMASK]<sop><|user|>a<|assistant|></think>"
    assert NEW.render([user("a")], enable_thinking=True) == "[gMASK]<sop><|user|>a<|assistant|><think>"


def test_glm_47_keeps_past_thoughts_when_clearing_is_off() -> None:
    conversation = [user("a"), assistant("b", "why"), user("c")]
    kept = NEW.render(conversation, clear_thinking=False)
    assert kept == "[gMASK]<sop><|user|>a<|assistant|><think>why</think>b<|user|>c<|assistant|><think>"
    assert NEW.render(conversation, clear_thinking=True) == NEW.render(conversation)
    assert "why" not in NEW.render(conversation)


def test_thoughts_are_cut_out_of_content_when_the_field_is_absent() -> None:
    turn = {"role": "assistant", "content": "<think>because\n</think>\n\nso"}
    assert NEW.render([user("a"), turn], add_generation_prompt=False).endswith("<|assistant|><think>because</think>so")


def test_thoughts_of_a_tool_loop_are_kept_also_when_two_user_messages_are_equal() -> None:
    conversation = [user("go"), assistant("x", "old"), user("go"), assistant(None, "new", call("{}")), tool("t")]
    text = NEW.render(conversation)
    assert "old" not in text
    assert "<think>new</think>" in text


@OLD_NAMES
def test_adjacent_tool_results_share_one_observation(name: str) -> None:
    conversation = [user("a"), assistant("", None, call("{}"), call("{}", "g")), tool("1"), tool("2")]
    assert (
        OLD[name]
        .render(conversation)
        .endswith(
            "\n<think></think>\n<tool_call>f\n</tool_call>\n<tool_call>g\n</tool_call>"
            "<|observation|>\n<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response><|assistant|>"
        )
    )


@OLD_NAMES
def test_a_string_argument_is_raw_and_anything_else_is_json(name: str) -> None:
    arguments = '{"s": "a \\"b\\" <é>", "o": {"k": [1, "é"]}, "b": true, "z": null}'
    text = OLD[name].render([user("a"), assistant(None, None, call(arguments))], add_generation_prompt=False)
    assert '<arg_value>a "b" <é></arg_value>' in text
    assert '<arg_value>{"k": [1, "é"]}</arg_value>' in text
    assert "<arg_value>true</arg_value>" in text
    assert "<arg_value>null</arg_value>" in text


@OLD_NAMES
def test_arguments_that_are_missing_are_no_arguments(name: str) -> None:
    text = OLD[name].render([user("a"), assistant(None, None, call(None))], add_generation_prompt=False)
    assert text.endswith("\n<tool_call>f\n</tool_call>")


@pytest.mark.parametrize("template", [*OLD.values(), NEW])
def test_tools_are_listed_one_json_object_per_line_before_the_users_system_message(template: ChatTemplate) -> None:
    tools = [{"type": "function", "function": {"name": name, "description": "é"}} for name in ("f", "g")]
    text = template.render([{"role": "system", "content": "SYS"}, user("a")], tools)
    assert text.startswith("[gMASK]<sop><|system|>\n# Tools\n\n")
    assert (
        "\n<tools>\n"
        '{"type": "function", "function": {"name": "f", "description": "é"}}\n'
        '{"type": "function", "function": {"name": "g", "description": "é"}}\n'
        "</tools>\n\n"
    ) in text
    assert "</tool_call><|system|>" in text


def test_a_model_type_has_the_template_of_its_family() -> None:
    assert builtin_template_name("glm4_moe") == "glm45"
    assert builtin_template_name("glm4_moe_lite") == "glm47"
    assert builtin_template_name("llama") is None
    with pytest.raises(TemplateError, match="no built-in chat template 'glm3'"):
        builtin_template("glm3")


def test_a_checkpoint_uses_its_own_template_and_ours_only_when_it_has_none() -> None:
    own = chat_template_for("{{ bos_token }}", {"bos_token": "<s>"}, "glm4_moe")
    ours = chat_template_for(None, {}, "glm4_moe_lite")
    assert own is not None
    assert ours is not None
    assert own.render([user("a")]) == "<s>"
    assert ours.render([user("a")]) == "[gMASK]<sop><|user|>a<|assistant|><think>"
    assert chat_template_for(None, {}, "llama") is None
