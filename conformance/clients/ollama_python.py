"""The `ollama` package against `/api`."""

from __future__ import annotations

import ollama
from pydantic import BaseModel, ConfigDict

from checks import Checks, target

TARGET = target()
MODEL, GLM = TARGET["model"], TARGET["glm_model"]
client = ollama.Client(host=TARGET["url"])
glm = ollama.Client(host=TARGET["glm_url"])
HI = [{"role": "user", "content": "Say hello."}]
SHORT = {"num_predict": 8, "temperature": 0}
checks = Checks()
check = checks.check


class Answer(BaseModel):
    """What structured replies are parsed into."""

    model_config = ConfigDict(extra="forbid")
    yes: bool


@check("`list`, `show` and `ps` name the model")
def _() -> None:
    assert MODEL in {model.model for model in client.list().models}
    assert client.show(MODEL).details.format
    assert MODEL in {model.model for model in client.ps().models}


@check("`chat` answers, and a stream's parts add up to it")
def _() -> None:
    whole = client.chat(MODEL, messages=HI, options=SHORT)
    parts = list(client.chat(MODEL, messages=HI, options=SHORT, stream=True))
    assert whole.done
    assert whole.eval_count == 8
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert [part.done for part in parts][-2:] == [False, True]


@check("`generate` answers, streams, and takes `raw`")
def _() -> None:
    whole = client.generate(MODEL, "One two three", options=SHORT, raw=True)
    parts = list(client.generate(MODEL, "One two three", options=SHORT, raw=True, stream=True))
    assert "".join(part.response for part in parts) == whole.response
    assert whole.done_reason == "length"


@check("`format` holds the reply to a JSON schema")
def _() -> None:
    reply = client.chat(MODEL, messages=HI, format=Answer.model_json_schema(), options={"num_predict": 60})
    Answer.model_validate_json(reply.message.content)


@check("tools given as Python functions are accepted")
def _() -> None:
    def weather(city: str) -> str:
        """The weather of a city.

        Args:
            city: which one.
        """
        return city

    reply = glm.chat(GLM, messages=HI, tools=[weather], options={"num_predict": 8})
    assert reply.done


@check("`think` splits what the model thinks from what it says")
def _() -> None:
    reply = glm.chat(GLM, messages=HI, think=True, options={"num_predict": 8})
    assert reply.message.thinking
    silent = glm.chat(GLM, messages=HI, think=False, options={"num_predict": 8})
    assert not silent.message.thinking


@check("`embed` gives a vector for each text")
def _() -> None:
    reply = client.embed(TARGET["embedding_model"], ["a cat", "a dog"])
    assert len(reply.embeddings) == 2
    assert len({len(vector) for vector in reply.embeddings}) == 1


@check("`create`, `copy` and `delete` of a model of one's own")
def _() -> None:
    client.create("poet", from_=MODEL, system="Rhyme.", parameters={"temperature": 0.1})
    client.copy("poet", "bard")
    assert {"poet", "bard"} <= {model.model.removesuffix(":latest") for model in client.list().models}
    assert client.chat("bard", messages=HI, options=SHORT).done
    client.delete("poet")
    client.delete("bard")


@check("`pull` of a model that is here reports progress and success")
def _() -> None:
    assert [part.status for part in client.pull(MODEL, stream=True)][-1] == "success"


@check("errors are `ResponseError` with the status")
def _() -> None:
    try:
        client.chat("nope", messages=HI)
    except ollama.ResponseError as error:
        assert error.status_code == 404
        assert "nope" in error.error
    else:
        raise AssertionError("a model that is not there answered")


checks.run()
