"""GET /, /api/tags, /api/ps, /api/version, POST /api/show: which models there are, and what they are.

Above: the routes. Below: the served models and the store.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib.metadata import version as installed_version
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from glm_crush.errors import ModelNotFoundError
from glm_crush.serving.json_http import json_response, read_request
from glm_crush.serving.model_alias import ModelAlias
from glm_crush.serving.model_details import ModelDetails
from glm_crush.serving.ollama.names import given_name, known_encoder, known_name
from glm_crush.serving.ollama.protocol import ShowRequest
from glm_crush.serving.served_encoder import ServedEncoder
from glm_crush.serving.served_model import ServedModel
from glm_crush.serving.served_models import ServedModels
from glm_crush.weights.store import ModelStore, StoredModel

__all__ = ["Catalogue"]


class Catalogue:
    """The routes that show models: those that are served, and those that are stored."""

    def __init__(self, models: ServedModels, store: ModelStore | None) -> None:
        self._models = models
        self._store = store

    async def tags(self, _: Request) -> Response:
        """Every model: the served ones first, then what else the store has."""
        served = [*self._models, *self._models.encoders]
        names = {model.name for model in served}
        stored = [] if self._store is None else [model for model in self._store.list() if model.name not in names]
        rows = [_row(model) for model in served] + [_stored_row(model) for model in stored]
        return json_response({"models": rows})

    async def ps(self, _: Request) -> Response:
        """The models that are loaded, with what they take of the memory and when they go; adapters go with theirs."""
        pool = self._models.pool
        rows = []
        for resident in pool.residents():
            for model in [resident.served, *(view for view in resident.views.values() if view.adapter is not None)]:
                length = model.context_length if isinstance(model, ServedModel) else model.encoder.max_length
                row = _row(model) | {"size": resident.num_bytes, "context_length": length, "size_vram": 0}
                rows.append(row | {"expires_at": _expiry(pool.expires_in(resident.name))})
        return json_response({"models": rows})

    async def alive(self, _: Request) -> Response:
        """That the server runs."""
        return PlainTextResponse("GLM-Crush is running")

    async def version(self, _: Request) -> Response:
        """The installed version, ours."""
        return json_response({"version": installed_version("glm-crush")})

    async def show(self, http: Request) -> Response:
        """One model: details, template, parameters, what it can do."""
        request = await read_request(ShowRequest, http)
        name = known_name(self._models, given_name(request.model, request.name))
        alias = self._models.aliases.get(name) if self._models.is_alias(name) else None
        if name in (model.name for model in self._models):
            model = await self._models.find(name)
            return json_response(_shown(model, alias, verbose=bool(request.verbose)))
        encoder_name = known_encoder(self._models, name)
        for encoder in self._models.encoders:
            if encoder.name == encoder_name:
                return json_response(_shown_encoder(encoder, verbose=bool(request.verbose)))
        known = name if alias is None else alias.base
        if self._store is not None and any(model.name == known for model in self._store.list()):
            stored = self._store.show(known)
            body = {
                "modelfile": f"FROM {stored.source}\n",
                "parameters": "",
                "template": "",
                "details": _stored_details(stored),
                "model_info": {},
                "capabilities": [],
                "modified_at": _time(stored.modified),
            }
            return json_response(body | ({} if alias is None else _alias_fields(alias)))
        raise ModelNotFoundError(f"model {name!r:.100} not found; there is {', '.join(self._models.names())}")


def _row(model: ServedModel | ServedEncoder) -> dict[str, Any]:
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": _time(datetime.fromtimestamp(model.created, UTC)),
        "size": model.details.size_bytes,
        "digest": model.details.digest,
        "details": _details(model),
    }


def _details(model: ServedModel | ServedEncoder) -> dict[str, Any]:
    details = model.details
    return {
        "parent_model": "",
        "format": "glm",
        "family": details.family,
        "families": [details.family],
        "parameter_size": _parameter_size(details.num_parameters),
        "quantization_level": details.weight_format,
    }


def _stored_row(model: StoredModel) -> dict[str, Any]:
    digest = min((file.sha256 for file in model.files), default="")
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": _time(model.modified),
        "size": model.bytes,
        "digest": digest,
        "details": _stored_details(model),
    }


def _stored_details(model: StoredModel) -> dict[str, Any]:
    """What is known without opening it."""
    return {
        "parent_model": "",
        "format": model.format,
        "family": "",
        "families": [],
        "parameter_size": "",
        "quantization_level": "",
    }


def _shown(model: ServedModel, alias: ModelAlias | None, *, verbose: bool) -> dict[str, Any]:
    body: dict[str, Any] = {
        "modelfile": f"FROM {model.name}\n",
        "parameters": "",
        "template": model.details.chat_template or "",
        "details": _details(model),
        "model_info": _model_info(model.details, model.context_length, verbose=verbose),
        "capabilities": _capabilities(model),
        "modified_at": _time(datetime.fromtimestamp(model.created, UTC)),
    }
    if alias is None:
        return body
    return body | _alias_fields(alias) | {"details": _details(model) | {"parent_model": alias.base}}


def _alias_fields(alias: ModelAlias) -> dict[str, Any]:
    """What an alias says beside, or in the place of, its model."""
    body: dict[str, Any] = {
        "modelfile": _modelfile(alias),
        "parameters": "\n".join(f"{name} {value}" for name, values in alias.options.items() for value in _each(values)),
        "modified_at": alias.created.replace("+00:00", "Z"),
    }
    body |= {"template": alias.template} if alias.template else {}
    body |= {"system": alias.system} if alias.system else {}
    body |= {"license": "\n".join(alias.license)} if alias.license else {}
    return body | ({"messages": list(alias.messages)} if alias.messages else {})


def _shown_encoder(encoder: ServedEncoder, *, verbose: bool) -> dict[str, Any]:
    return {
        "modelfile": f"FROM {encoder.name}\n",
        "parameters": "",
        "template": "",
        "details": _details(encoder),
        "model_info": _model_info(encoder.details, encoder.encoder.max_length, verbose=verbose),
        "capabilities": ["embedding"] if encoder.task == "embed" else ["rerank" if encoder.is_reranker else "classify"],
        "modified_at": _time(datetime.fromtimestamp(encoder.created, UTC)),
    }


def _capabilities(model: ServedModel) -> list[str]:
    """Ollama's words; tools and forms need a chat template or none, thinking needs the tags."""
    replies = model.replies
    known = ["completion"]
    if replies is not None:
        known.append("tools")
        known += ["thinking"] if replies.markers.can_reason else []
    return known


def _model_info(details: ModelDetails, context_length: int, *, verbose: bool) -> dict[str, Any]:
    """GGUF's names for the numbers of the config; `verbose` adds all of it."""
    info: dict[str, Any] = {
        "general.architecture": details.family,
        "general.parameter_count": details.num_parameters,
        f"{details.family}.context_length": context_length,
    }
    names = {
        "embedding_length": "hidden_size",
        "block_count": "num_hidden_layers",
        "feed_forward_length": "intermediate_size",
        "attention.head_count": "num_attention_heads",
        "attention.head_count_kv": "num_key_value_heads",
        "vocab_size": "vocab_size",
    }
    for ours, theirs in names.items():
        if details.config.get(theirs) is not None:
            info[f"{details.family}.{ours}"] = details.config[theirs]
    return info | {f"config.{name}": value for name, value in details.config.items()} if verbose else info


def _modelfile(alias: ModelAlias) -> str:
    lines = [f"FROM {alias.base}"]
    lines += [f'TEMPLATE """{alias.template}"""'] if alias.template else []
    lines += [f'SYSTEM """{alias.system}"""'] if alias.system else []
    lines += [f"PARAMETER {name} {value}" for name, values in alias.options.items() for value in _each(values)]
    lines += [f"MESSAGE {message.get('role')} {message.get('content')}" for message in alias.messages]
    lines += [f'LICENSE """{text}"""' for text in alias.license]
    return "\n".join(lines) + "\n"


def _each(values: object) -> list[object]:
    return list(values) if isinstance(values, (list, tuple)) else [values]


def _parameter_size(num_parameters: int) -> str:
    billions = num_parameters / 1e9
    return f"{billions:.1f}B" if billions >= 1 else f"{num_parameters / 1e6:.2f}M"


def _expiry(seconds: float | None) -> str:
    """When a model goes if nobody asks for it; never is a long time."""
    if seconds is None:
        return _time(datetime(9999, 12, 31, tzinfo=UTC))
    return _time(datetime.now(UTC) + timedelta(seconds=seconds))


def _time(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
