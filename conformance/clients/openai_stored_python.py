"""The `openai` package against what the server keeps: responses, files, batches."""

from __future__ import annotations

import json
import time

import openai
from pydantic import BaseModel

from checks import Checks, target

TARGET = target()
MODEL, GLM = TARGET["model"], TARGET["glm_model"]
client = openai.OpenAI(base_url=f"{TARGET['url']}/v1", api_key="none", max_retries=0)
glm = openai.OpenAI(base_url=f"{TARGET['glm_url']}/v1", api_key="none", max_retries=0)
checks = Checks()
check = checks.check
PATIENCE_SECONDS = 60.0


class Answer(BaseModel):
    """What structured replies are parsed into."""

    yes: bool


def until_done(read, *running):
    """Ask again until the status is none of `running`."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (found := read()).status in running:
        assert time.monotonic() < deadline, f"still {found.status}"
        time.sleep(0.1)
    return found


@check("`responses.create`, `retrieve`, `input_items.list` and `delete`")
def _() -> None:
    made = client.responses.create(model=MODEL, input="Say hello.", max_output_tokens=20)
    assert made.output_text
    assert client.responses.retrieve(made.id).output_text == made.output_text
    assert [item.content[0].text for item in client.responses.input_items.list(made.id)] == ["Say hello."]
    client.responses.delete(made.id)
    try:
        client.responses.retrieve(made.id)
    except openai.NotFoundError:
        return
    raise AssertionError("a deleted response is still there")


@check("`previous_response_id` continues a conversation")
def _() -> None:
    first = client.responses.create(model=MODEL, input="My name is Ana.", max_output_tokens=8)
    alone = client.responses.create(model=MODEL, input="Who am I?", max_output_tokens=8)
    second = client.responses.create(model=MODEL, input="Who am I?", previous_response_id=first.id, max_output_tokens=8)
    assert second.previous_response_id == first.id
    assert second.usage.input_tokens > alone.usage.input_tokens


@check("`responses.stream` yields typed events in order and the final response")
def _() -> None:
    with client.responses.stream(model=MODEL, input="Say hello.", temperature=0, max_output_tokens=400) as stream:
        events = list(stream)
        final = stream.get_final_response()
    kinds = [event.type for event in events]
    assert (kinds[0], kinds[-1].split(".")[0]) == ("response.created", "response")
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == final.output_text
    assert [event.sequence_number for event in events] == sorted(event.sequence_number for event in events)


@check("`responses.parse` returns an object of the given class")
def _() -> None:
    parsed = client.responses.parse(model=MODEL, input="Yes?", text_format=Answer, max_output_tokens=60)
    assert isinstance(parsed.output_parsed, Answer)


@check("a response in the background is queued, completed, and can be cancelled")
def _() -> None:
    made = client.responses.create(model=MODEL, input="Hello.", max_output_tokens=16, background=True)
    assert made.status in ("queued", "in_progress", "completed", "incomplete")
    assert until_done(lambda: client.responses.retrieve(made.id), "queued", "in_progress").status in (
        "completed",
        "incomplete",
    )
    other = client.responses.create(model=MODEL, input="Count to 1000.", max_output_tokens=2000, background=True)
    assert client.responses.cancel(other.id).status == "cancelled"


@check("a required function is called in a response")
def _() -> None:
    tool = {
        "type": "function",
        "name": "weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Lisbon"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    }
    made = glm.responses.create(
        model=GLM,
        input="Weather?",
        tools=[tool],
        tool_choice="required",
        max_output_tokens=400,
        reasoning={"effort": "none"},
    )
    call = next(item for item in made.output if item.type == "function_call")
    assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Lisbon"})


@check("files: `create`, `list`, `retrieve`, `content`, `delete`")
def _() -> None:
    made = client.files.create(file=("a.jsonl", b'{"a": 1}\n'), purpose="batch")
    assert client.files.retrieve(made.id).bytes == 9
    assert made.id in {file.id for file in client.files.list()}
    assert client.files.content(made.id).read() == b'{"a": 1}\n'
    assert client.files.delete(made.id).deleted


@check("a batch runs, each line once, and its output and errors are files")
def _() -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    lines = [
        {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for number in range(3)
    ]
    lines[2]["body"] = {**body, "temperature": -1}
    text = "".join(json.dumps(line) + "\n" for line in lines).encode()
    file = client.files.create(file=("batch.jsonl", text), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"of": "conformance"}
    )
    done = until_done(lambda: client.batches.retrieve(batch.id), "validating", "in_progress", "finalizing")
    assert (done.status, done.request_counts.completed, done.request_counts.failed) == ("completed", 2, 1)
    rows = [json.loads(line) for line in client.files.content(done.output_file_id).text.splitlines()]
    assert {row["custom_id"] for row in rows} == {"line-0", "line-1"}
    wrong = [json.loads(line) for line in client.files.content(done.error_file_id).text.splitlines()]
    assert [row["custom_id"] for row in wrong] == ["line-2"]
    assert batch.id in {each.id for each in client.batches.list()}


@check("`moderations.create` answers with categories and scores")
def _() -> None:
    reply = client.moderations.create(input="A sunny day.")
    assert reply.results[0].flagged is False


checks.run()
