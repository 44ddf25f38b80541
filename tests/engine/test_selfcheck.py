"""The self-check passes on a sound engine and names the token where an unsound one differs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from glm_crush.config import CrushSettings
from glm_crush.engine.build import build_engine
from glm_crush.engine.selfcheck import WAYS, selfcheck
from glm_crush.models.loader import LoadedModel, load_model
from tests.models.tiny import tiny_checkpoint

pytestmark = pytest.mark.requirement("E8")

SETTINGS = CrushSettings(threads=2)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp("tiny")
    return load_model(
        tiny_checkpoint("llama", folder, max_position_embeddings=256), cache_dir=folder / "packed", weight_format="q8"
    )


def test_every_way_gives_the_same_tokens_and_shows_that_it_was_taken(loaded: LoadedModel) -> None:
    results = list(selfcheck(loaded, SETTINGS))
    assert [result.way.name for result in results] == [way.name for way in WAYS]
    assert [(result.difference, bool(result.evidence)) for result in results] == [("", True)] * len(WAYS)


class Wobbling:
    """An executor whose logits depend on how many tokens share a step."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def test_an_engine_whose_tokens_depend_on_the_batch_is_found_out(loaded: LoadedModel) -> None:
    def unsound(loaded: LoadedModel, settings: CrushSettings, cache: Any) -> Any:
        executor = build_engine(loaded, settings).executor
        plain_sample = executor.forward_sample

        class Unsound(Wobbling):
            def forward_sample(self, batch: Any, *rest: Any, **named: Any) -> Any:
                result = plain_sample(batch, *rest, **named)
                if len(batch.context_lens) > 1:
                    ids = np.array(result.token_ids)
                    ids[0] = (ids[0] + 1) % 50
                    result = replace(result, token_ids=ids)
                return result

        return Unsound(executor)

    batched = [way for way in WAYS if way.name == "batched"]
    (result,) = selfcheck(loaded, SETTINGS, ways=batched, make_executor=unsound)
    assert not result.passed
    assert result.difference.startswith("request ")
