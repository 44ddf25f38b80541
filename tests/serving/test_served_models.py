"""Which model a request gets, and how long it holds it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from glm_crush.config import ApiSettings
from glm_crush.errors import ModelNotFoundError
from glm_crush.serving.app import create_app
from glm_crush.serving.served_model import ServedModel
from glm_crush.serving.served_models import ServedModels
from tests.serving.scripted import ByteCodec, ScriptedEngine


def served(name: str, engine: ScriptedEngine | None = None) -> ServedModel:
    return ServedModel(
        name=name, engine=engine or ScriptedEngine(), codec=ByteCodec(), context_length=100, vocab_size=256
    )


def found(models: ServedModels, name: str | None) -> str:
    return asyncio.run(models.find(name)).name


def test_no_name_and_default_are_the_first_model() -> None:
    models = ServedModels([served("first"), served("second")])
    assert models.names() == ["first", "second"]
    assert [found(models, name) for name in (None, "", "default", "second")] == ["first", "first", "first", "second"]


def test_a_model_that_is_called_default_is_found_by_its_name() -> None:
    assert found(ServedModels([served("first"), served("default")]), "default") == "default"


def test_an_unknown_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ModelNotFoundError, match="'third' is not served here; there is first, second"):
        found(ServedModels([served("first"), served("second")]), "third")


def test_without_any_model_the_refusal_says_how_to_serve_one() -> None:
    with pytest.raises(ModelNotFoundError, match="glm serve MODEL"):
        found(ServedModels(), None)


def test_a_model_counts_its_users_even_when_their_block_fails() -> None:
    async def run() -> list[int]:
        models = ServedModels([served("first")])
        counts = [models.num_users("first")]
        async with models.use("first"), models.use(None):
            counts.append(models.num_users("first"))
        with pytest.raises(RuntimeError):
            async with models.use("first"):
                raise RuntimeError
        return [*counts, models.num_users("first")]

    assert asyncio.run(run()) == [0, 2, 0]


def test_a_streamed_reply_holds_its_model_until_the_client_is_gone(loopback_server: Any) -> None:
    url, current = loopback_server
    engine = ScriptedEngine(hold_after=1)
    models = ServedModels([served("first", engine)])
    current.app = create_app(models, ApiSettings())
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
    with httpx2.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=20) as response:
        assert response.status_code == 200
        assert engine.holding.wait(20)
        assert models.num_users("first") == 1
    assert engine.closed.wait(20)
    httpx2.get(f"{url}/health")  # one more turn of the event loop
    assert models.num_users("first") == 0
