"""Names for served models with defaults of their own, and what is left of them after a restart."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from glm_crush.errors import ConfigError, InvalidParameterError
from glm_crush.serving.model_alias import ModelAlias, ModelAliases, model_of
from glm_crush.serving.served_model import ChatPrompt, ServedModel
from glm_crush.serving.served_models import ServedModels
from tests.serving.scripted import ByteCodec, ScriptedEngine

BRIEF: dict[str, Any] = {"name": "brief", "base": "first", "system": "Be brief.", "sampling": {"temperature": 0.5}}


def served(name: str = "first") -> ServedModel:
    return ServedModel(name=name, engine=ScriptedEngine(), codec=ByteCodec(), context_length=100, vocab_size=256)


def rendered(model: ServedModel, *messages: Any) -> str:
    return bytes(asyncio.run(model.encode_chat(ChatPrompt(messages)))).decode()


def test_aliases_outlive_the_process(tmp_path: Path) -> None:
    alias = ModelAlias(**BRIEF, messages=({"role": "user", "content": "a"},), license=("MIT",))
    ModelAliases(tmp_path).save(alias)
    again = ModelAliases(tmp_path)
    assert again.all() == [alias]
    assert again.remove("brief")
    assert not again.remove("brief")
    assert ModelAliases(tmp_path).all() == []


def test_a_name_with_slashes_and_a_tag_is_one_file_in_the_folder(tmp_path: Path) -> None:
    ModelAliases(tmp_path).save(ModelAlias(name="me/mine:8b", base="first"))
    assert [path.parent for path in tmp_path.rglob("*.json")] == [tmp_path]
    with pytest.raises(InvalidParameterError):
        ModelAliases(tmp_path).save(ModelAlias(name="../mine", base="first"))


def test_a_file_that_is_no_alias_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_text('{"name": "odd"}')
    with pytest.raises(ConfigError, match=r"odd\.json is not an alias"):
        ModelAliases(tmp_path)


def test_a_system_message_of_the_request_takes_the_place_of_the_aliass() -> None:
    model = model_of(ModelAlias(**BRIEF, messages=({"role": "user", "content": "a"},)), served())
    hi = {"role": "user", "content": "Hi"}
    assert rendered(model, hi) == "system:Be brief.|user:a|user:Hi|assistant:"
    assert rendered(model, {"role": "system", "content": "Sing."}, hi) == "system:Sing.|user:a|user:Hi|assistant:"
    assert model.default_params.temperature == 0.5


def test_an_alias_shortens_the_context_and_never_lengthens_it() -> None:
    lengths = [model_of(ModelAlias(**BRIEF, context_length=n), served()).context_length for n in (50, 500)]
    assert lengths == [50, 100]


def test_aliases_of_served_models_are_served_and_count_as_their_users() -> None:
    aliases = ModelAliases()
    aliases.save(ModelAlias(**BRIEF))
    aliases.save(ModelAlias(name="lost", base="gone"))
    aliases.save(ModelAlias(name="first", base="second"))
    models = ServedModels([served(), served("second")], aliases)
    assert models.names() == ["first", "second", "brief"]
    assert [model.name for model in models] == models.names()
    assert asyncio.run(models.find("first")).preface == ()

    async def users() -> int:
        async with models.use("brief"), models.use("first"):
            return models.num_users("first")

    assert asyncio.run(users()) == 2
