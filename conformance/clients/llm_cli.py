"""The `llm` command: models of extra-openai-models.yaml, prompts, streams, chats, schemas, embeddings, tools."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from checks import Checks, target

TARGET = target()
FOLDER = Path(tempfile.mkdtemp(prefix="glm-conformance-llm-"))
LLM = str(Path(sys.executable).with_name("llm"))
SCHEMA = {
    "type": "object",
    "properties": {"yes": {"type": "boolean"}},
    "required": ["yes"],
    "additionalProperties": False,
}
checks = Checks()
check = checks.check
(FOLDER / "extra-openai-models.yaml").write_text(
    f"""
- {{model_id: local, model_name: "{TARGET["model"]}", api_base: "{TARGET["url"]}/v1", supports_schema: true}}
- {{model_id: plain, model_name: "{TARGET["model"]}", api_base: "{TARGET["url"]}/v1", completion: true}}
- {{model_id: glm, model_name: "{TARGET["glm_model"]}", api_base: "{TARGET["glm_url"]}/v1", supports_tools: true}}
"""
)


def llm(*arguments: str, stdin: str = "") -> str:
    """What the command prints."""
    environment = os.environ | {"LLM_USER_PATH": str(FOLDER), "OPENAI_API_KEY": "none"}
    done = subprocess.run([LLM, *arguments], input=stdin, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-300:]
    return done.stdout


@check("a prompt is answered, streamed or not")
def _() -> None:
    options = ("-m", "local", "-o", "max_tokens", "8", "-o", "temperature", "0", "-s", "Be brief.")
    whole = llm("Say hello.", *options, "--no-stream")
    assert whole.strip()
    assert llm("Say hello.", *options) == whole


@check("a completion model takes a prompt from standard input")
def _() -> None:
    assert llm("-m", "plain", "-o", "max_tokens", "5", stdin="One two three").strip()


@check("`--schema` gives JSON of that schema")
def _() -> None:
    text = llm("Yes?", "-m", "local", "--schema", json.dumps(SCHEMA), "-o", "max_tokens", "60")
    assert isinstance(json.loads(text)["yes"], bool)


@check("a conversation goes on with `-c`, and usage is logged")
def _() -> None:
    llm("My name is Ana.", "-m", "local", "-o", "max_tokens", "4", "-o", "temperature", "0")
    llm("And yours?", "-c", "-o", "max_tokens", "4", "-o", "temperature", "0")
    rows = json.loads(llm("logs", "--json", "-n", "2"))
    assert [row["output_tokens"] for row in rows] == [4, 4]
    assert rows[0]["conversation_id"] == rows[1]["conversation_id"]


@check("tools are offered to a model that has them")
def _() -> None:
    llm("What time is it?", "-m", "glm", "-T", "llm_time", "-o", "max_tokens", "8", "--no-stream")


checks.run()
