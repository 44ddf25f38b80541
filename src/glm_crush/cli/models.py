"""From a name to a model that is ready: found in the store, fetched if it is the default, packed, loaded.

Above: the verbs that run models. Below: the store, the loader, the engine. Progress is shown on standard error.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glm_crush.errors import GlmError, ModelNotFoundError

if TYPE_CHECKING:
    from glm_crush.chat.prompt_codec import PromptCodec
    from glm_crush.config import Settings
    from glm_crush.engine.sync_engine import SyncEngine
    from glm_crush.models.loader import LoadedModel
    from glm_crush.models.sentence import SentenceConfig
    from glm_crush.types import SamplingParams
    from glm_crush.weights.store import ModelStore, StoredModel

__all__ = [
    "OpenModel",
    "find_model",
    "is_model",
    "load_packed",
    "open_model",
    "open_store",
    "read_text",
    "stored_as_json",
]

_SCHEMES = ("hf:", "pypi:", "http://", "https://")


@dataclass(frozen=True, kw_only=True)
class OpenModel:
    """A model in this process."""

    name: str
    loaded: LoadedModel
    engine: SyncEngine
    executor: Any
    codec: PromptCodec
    default_params: SamplingParams
    max_context: int
    load_seconds: float


def open_store(settings: Settings) -> ModelStore:
    """The model store of these settings, with the sources they name."""
    from glm_crush.config import pip_environment
    from glm_crush.weights.store import ModelStore, SourceSettings

    sources = SourceSettings(
        hub_endpoint=settings.store.hub_endpoint,
        hub_token=settings.store.hub_token,
        package_index=settings.store.package_index,
        environ=pip_environment(),
    )
    return ModelStore(settings.store.home, sources)


def is_model(settings: Settings, word: str) -> bool:
    """Whether a word names a model: stored, known by alias, a path, or something to fetch."""
    from glm_crush.weights.aliases import ALIASES

    if word in ALIASES or word.startswith(_SCHEMES):
        return True
    try:
        open_store(settings).resolve(word)
    except GlmError:
        return False
    return True


def find_model(settings: Settings, name: str) -> Path:
    """The path of a model. The default models, and names that say where they come from, are fetched when missing.

    Raises:
        ModelNotFoundError: there is no such name and no such path.
        DownloadError: it could not be fetched.
    """
    from glm_crush.cli.pull import fetch
    from glm_crush.config import DEFAULT_MODEL
    from glm_crush.encoder_settings import DEFAULT_EMBEDDING_MODEL

    try:
        return open_store(settings).resolve(name)
    except ModelNotFoundError:
        if name not in (DEFAULT_MODEL, DEFAULT_EMBEDDING_MODEL) and not name.startswith(_SCHEMES):
            raise
    return fetch(settings, name).path


def load_packed(
    settings: Settings, path: Path, *, weight_format: str | None = None, sentence: SentenceConfig | None = None
) -> LoadedModel:
    """The loaded model; packs it first, with a progress bar, if that has not been done.

    Args:
        settings: home folder and weights.
        path: the model.
        weight_format: None = as the settings say for models that generate.
        sentence: see `load_model`.

    Raises:
        ModelError: the files cannot be used.
    """
    from glm_crush.cli.console import transfer_bar
    from glm_crush.models.loader import load_model

    with transfer_bar("packing") as progress:
        return load_model(
            path,
            cache_dir=settings.store.home / "packed",
            weight_format=weight_format or settings.crush.weight_format,
            progress=lambda done, total: progress(path.name, done, total),
            sentence=sentence,
        )


@contextmanager
def open_model(settings: Settings, name: str) -> Iterator[OpenModel]:
    """A model ready to answer, closed at the end.

    Raises:
        ModelError, DownloadError, ConfigError: it cannot be used here.
    """
    from glm_crush.chat.prompt_codec import PromptCodec
    from glm_crush.engine.build import build_engine
    from glm_crush.engine.build_drafter import load_draft_model
    from glm_crush.engine.sampling_defaults import sampling_defaults
    from glm_crush.engine.sync_engine import SyncEngine

    path = find_model(settings, name)
    started = time.perf_counter()
    loaded = load_packed(settings, path)
    built = build_engine(
        loaded, settings.crush, max_context=settings.model.context_length, draft=load_draft_model(settings)
    )
    engine = SyncEngine(built.engine, max_in_flight=1)
    try:
        yield OpenModel(
            name=name,
            loaded=loaded,
            engine=engine,
            executor=built.executor,
            codec=PromptCodec.for_model(loaded),
            default_params=sampling_defaults(loaded.generation_config),
            max_context=built.cache.max_context,
            load_seconds=time.perf_counter() - started,
        )
    finally:
        engine.close()


def stored_as_json(model: StoredModel) -> dict[str, Any]:
    """What `--json` prints of a stored model."""
    return {
        "name": model.name,
        "source": model.source,
        "format": model.format,
        "path": str(model.path),
        "bytes": model.bytes,
        "modified": model.modified.isoformat(timespec="seconds"),
        "linked": model.linked,
        "files": {file.path: file.sha256 for file in model.files},
    }


def read_text(path: Path) -> str:
    """A text file, or standard input for `-`.

    Raises:
        GlmError: it cannot be read or is not UTF-8.
    """
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GlmError(f"{path}: cannot be read as UTF-8 text: {error}") from error
