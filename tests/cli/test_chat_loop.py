"""The chat loop on a scripted backend: lines, commands, interruption, errors."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pytest

from glm_crush.cli.chat_commands import COMMANDS, ChatCommands
from glm_crush.cli.chat_loop import chat_loop
from glm_crush.cli.conversation import Conversation
from glm_crush.cli.sampling_options import SETTABLE
from glm_crush.errors import EngineError
from tests.cli.scripted_backend import ScriptedBackend


def talk(
    lines: Sequence[str | type[BaseException]], tmp_path: Path, backend: ScriptedBackend | None = None
) -> tuple[str, ScriptedBackend, Conversation]:
    """Type the lines (an exception stands for its key), then Ctrl-D; returns what was printed as replies."""
    backend = backend or ScriptedBackend()
    conversation = Conversation(backend.default_params)
    out = io.StringIO()
    pending = iter(lines)

    def read_line(_: str) -> str:
        line = next(pending, EOFError)
        if isinstance(line, str):
            return line
        raise line

    chat_loop(backend, conversation, ChatCommands(conversation, backend, tmp_path / "chats"), read_line, out)
    return out.getvalue(), backend, conversation


def contents(conversation: Conversation) -> list[object]:
    return [message["content"] for message in conversation.messages]


def test_every_turn_carries_the_conversation_so_far(tmp_path: Path) -> None:
    output, backend, _ = talk(["one", "two"], tmp_path)
    assert output == "you said one\nyou said two\n"
    assert [message["content"] for message in backend.turns[1].messages] == ["one", "you said one", "two"]


def test_empty_lines_are_skipped_and_bye_leaves(tmp_path: Path) -> None:
    assert talk(["", "  ", "/bye", "never"], tmp_path)[0] == ""


def test_three_quotes_begin_and_end_a_message_of_several_lines(tmp_path: Path) -> None:
    assert contents(talk(['"""a', "b", 'c"""'], tmp_path)[2])[0] == "a\nb\nc"
    assert contents(talk(['"""', "a", '"""'], tmp_path)[2])[0] == "a"


def test_ctrl_c_at_the_prompt_goes_on_and_in_a_reply_keeps_what_came(tmp_path: Path) -> None:
    backend = ScriptedBackend(interrupt_after=2)
    output, _, conversation = talk([KeyboardInterrupt, "one"], tmp_path, backend)
    assert output == "you said\n"
    assert contents(conversation) == ["one", "you said"]


def test_an_error_ends_the_turn_and_takes_the_question_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    backend = ScriptedBackend(error=EngineError("out of order"))
    _, _, conversation = talk(["one", "/clear"], tmp_path, backend)
    assert conversation.messages == []
    assert "error: out of order" in capsys.readouterr().err


def test_verbose_shows_counts_and_rates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    talk(["/verbose", "one"], tmp_path)
    shown = capsys.readouterr().err
    assert "3 tokens (1 cached)" in shown
    assert "eval rate:            4.0 tokens/s" in shown


def test_an_unknown_command_is_an_error_that_says_where_to_look(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    talk(["/dance"], tmp_path)
    assert "there is no command /dance; /? lists" in capsys.readouterr().err


def test_help_lists_every_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    talk(["/?"], tmp_path)
    shown = capsys.readouterr().err
    assert all(command.usage in shown for command in COMMANDS)


def test_retry_answers_the_last_message_again(tmp_path: Path) -> None:
    _, backend, conversation = talk(["one", "/retry"], tmp_path)
    assert [list(turn.messages) for turn in backend.turns] == [[{"role": "user", "content": "one"}]] * 2
    assert contents(conversation) == ["one", "you said one"]


def test_settings_reach_the_next_turn(tmp_path: Path) -> None:
    lines = ["/set parameter temperature 0.2", "/set parameter num_predict 9", "/system be brief", "/nothink", "hi"]
    turn = talk(lines, tmp_path)[1].turns[0]
    assert (turn.params.temperature, turn.params.max_tokens, turn.thinking) == (0.2, 9, False)
    assert turn.messages[0] == {"role": "system", "content": "be brief"}


def test_without_history_every_message_stands_alone(tmp_path: Path) -> None:
    assert len(talk(["/set nohistory", "one", "two"], tmp_path)[1].turns[1].messages) == 1


def test_clear_forgets_the_messages_but_not_the_system_prompt(tmp_path: Path) -> None:
    _, backend, _ = talk(["/system S", "one", "/clear", "two"], tmp_path)
    assert [message["content"] for message in backend.turns[1].messages] == ["S", "two"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/set parameter temprature 1", "did you mean temperature"),
        ("/set parameter temperature hot", "temperature is 'hot'; give a number"),
        ("/set parameter top_p 7", "top_p is 7"),
        ("/set", "say what to set"),
        ("/show nonsense", "there is nothing to show"),
        ("/retry", "there is nothing to retry"),
        ("/save", "give the chat a name"),
        ("/save ../x", "is not a name for a chat"),
        ("/load", "name a saved chat"),
        ("/load missing", "there is no saved chat 'missing'; saved chats: none yet"),
    ],
)
def test_a_misused_command_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    talk([line], tmp_path)
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_parameters_shown_are_those_that_can_be_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    talk(["/set parameter seed 7", "/set parameter stop END", "/show parameters"], tmp_path)
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().err.splitlines() if line.startswith("  "))
    assert set(rows) == set(SETTABLE)
    assert {name: rows[name].strip() for name in ("temperature", "seed", "max_tokens", "stop")} == {
        "temperature": "0.7",
        "seed": "7  (set here)",
        "max_tokens": "unset",
        "stop": "'END'  (set here)",
    }


@pytest.mark.parametrize("line", ["/show", "/show model", "/show parameters", "/show system", "/show messages"])
def test_show_prints_what_is_set(tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str) -> None:
    talk(["/system S", "hi", line], tmp_path)
    assert len(capsys.readouterr().err.strip()) > 0


def test_a_saved_chat_is_gone_on_with(tmp_path: Path) -> None:
    talk(["/system S", "/set parameter stop END", "one", "/save mine"], tmp_path)
    _, backend, conversation = talk(["/load mine", "two"], tmp_path)
    assert [message["content"] for message in backend.turns[0].messages] == ["S", "one", "you said one", "two"]
    assert list(conversation.params.stop) == ["END"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"messages": [{"role": "robot", "content": "x"}]}', "\x00"])
def test_a_file_that_is_no_chat_is_refused_and_nothing_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    (tmp_path / "chats").mkdir()
    (tmp_path / "chats" / "bad.json").write_text(content)
    _, _, conversation = talk(["one", "/load bad"], tmp_path)
    assert contents(conversation) == ["one", "you said one"]
    assert "this is not a saved chat" in capsys.readouterr().err
