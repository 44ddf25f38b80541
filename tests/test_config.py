"""Configuration: where values come from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_crush.config import Settings, load_settings, pip_environment
from glm_crush.errors import ConfigError


def load(
    tmp_path: Path, *, file: str | None = None, environ: dict[str, str] | None = None, **flags: object
) -> Settings:
    if file is not None:
        (tmp_path / "config.toml").write_text(file)
    environ = {"GLM_HOME": str(tmp_path), **(environ or {})}
    return load_settings(environ=environ, flags={key.replace("__", "."): value for key, value in flags.items()})


def test_without_any_source_every_value_is_the_default(tmp_path: Path) -> None:
    settings = load_settings(environ={"GLM_HOME": str(tmp_path)})
    assert settings.api.port == 4600
    assert settings.api.host == "127.0.0.1"
    assert settings.model.name == "smollm2:135m"
    assert settings.crush.weight_format == "auto"
    assert settings.crush.threads is None


def test_home_defaults_to_a_folder_of_the_user() -> None:
    assert load_settings(environ={}).store.home == Path("~/.glm-crush").expanduser()


def test_file_beats_default_environment_beats_file_and_flag_beats_environment(tmp_path: Path) -> None:
    file = "[api]\nport = 1\nhost = '127.0.0.2'\n[crush]\nthreads = 3\n"
    settings = load(tmp_path, file=file, environ={"GLM_API_PORT": "2", "GLM_CRUSH_THREADS": "4"}, api__port=5)
    assert (settings.api.host, settings.crush.threads, settings.api.port) == ("127.0.0.2", 4, 5)


def test_the_origin_of_every_value_is_kept(tmp_path: Path) -> None:
    settings = load(tmp_path, file="[api]\nhost = '127.0.0.2'", environ={"GLM_CRUSH_THREADS": "4"}, api__port=5)
    origins = {setting.key: setting.origin for setting in settings.describe()}
    assert origins["api.host"] == str(tmp_path / "config.toml")
    assert origins["crush.threads"] == "environment GLM_CRUSH_THREADS"
    assert origins["api.port"] == "flag"
    assert origins["store.home"] == "environment GLM_HOME"
    assert origins["crush.kv_dtype"] == "default"


def test_a_flag_that_was_not_given_changes_nothing(tmp_path: Path) -> None:
    settings = load(tmp_path, environ={"GLM_API_PORT": "2"}, api__port=None)
    assert settings.api.port == 2


@pytest.mark.parametrize(("text", "tokens"), [("4096", 4096), ("16k", 16384), ("1.5K", 1536), ("1M", 1048576)])
def test_sizes_may_be_written_with_a_suffix(tmp_path: Path, text: str, tokens: int) -> None:
    assert load(tmp_path, environ={"GLM_CRUSH_KV_CACHE_TOKENS": text}).crush.kv_cache_tokens == tokens


def test_none_unsets_an_optional_value(tmp_path: Path) -> None:
    assert load(tmp_path, file="[crush]\nthreads = 3", crush__threads="none").crush.threads is None


@pytest.mark.parametrize(("text", "value"), [("false", False), ("off", False), ("True", True), ("on", True)])
def test_a_switch_is_written_true_or_false(tmp_path: Path, text: str, value: bool) -> None:
    assert load(tmp_path, environ={"GLM_CRUSH_PREFIX_CACHE": text}).crush.prefix_cache is value
    assert load(tmp_path, file=f"[crush]\nprefix_cache = {str(value).lower()}").crush.prefix_cache is value


def test_variables_of_the_hub_are_honoured_but_ours_win(tmp_path: Path) -> None:
    environ = {"HF_ENDPOINT": "http://a", "HF_TOKEN": "b", "GLM_STORE_HUB_ENDPOINT": "http://c"}
    settings = load(tmp_path, environ=environ)
    assert (settings.store.hub_endpoint, settings.store.hub_token) == ("http://c", "b")


def test_only_what_pip_itself_reads_is_handed_on_for_pip() -> None:
    environ = {"PIP_INDEX_URL": "http://a", "HOME": "/root", "SECRET": "x"}
    assert pip_environment(environ) == {"PIP_INDEX_URL": "http://a", "HOME": "/root"}


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("[crush]\nthread = 1", "unknown option 'crush.thread'.*did you mean 'crush.threads'"),
        ("[apii]\nport = 1", r"unknown section \[apii\]; did you mean 'api'"),
        ("api = 1", r"api is 1; write it as a \[api\] table"),
        ("[api]\nport = ", "cannot be read as TOML"),
        ("[api]\nport = -1", "api.port is -1 .*a whole number of at least 0"),
        ("[api]\nport = true", "api.port is True"),
        ("[api]\nport = 1.5", "api.port is 1.5"),
        ("[api]\nhost = 5", "api.host is 5 .*give text"),
        ("[crush]\nweight_format = 'q5'", "crush.weight_format is 'q5' .*auto, q4, q8, bf16, f32"),
        ("[crush]\nprefix_cache = 1", "crush.prefix_cache is 1 .*give true or false"),
        ("[crush]\nthreads = 0", "crush.threads is 0 .*at least 1"),
    ],
)
def test_what_is_unknown_or_malformed_in_the_file_is_refused(tmp_path: Path, file: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, file=file)


def test_the_error_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.toml"):
        load(tmp_path, file="[crush]\nthreads = 'many'")


def test_a_configuration_file_that_was_asked_for_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such configuration file"):
        load_settings(config_path=tmp_path / "no.toml", environ={})


@pytest.mark.parametrize("variable", ["GLM_API_PROT", "GLM_CRUSH_SPEED", "GLM_HOM"])
def test_a_misspelt_variable_of_ours_is_refused(tmp_path: Path, variable: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown environment variable {variable}"):
        load(tmp_path, environ={variable: "1"})


def test_variables_of_other_software_with_our_prefix_are_left_alone(tmp_path: Path) -> None:
    assert load(tmp_path, environ={"GLM_INCLUDE_DIR": "/usr"}).api.port == 4600


def test_an_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    assert load(tmp_path, environ={"GLM_API_PORT": ""}).api.port == 4600


def test_every_setting_is_documented_and_secrets_are_marked(tmp_path: Path) -> None:
    described = list(load(tmp_path).describe())
    assert all(len(setting.help) > 10 for setting in described)
    assert {setting.key for setting in described if setting.secret} == {
        *("api.key", "gateway.hash_key", "gateway.redis_url", "store.hub_token", "storage.url"),
    }


@given(st.text(max_size=20))
def test_any_text_for_a_number_is_a_number_or_a_config_error(text: str) -> None:
    try:
        settings = load_settings(environ={"GLM_HOME": "/nonexistent"}, flags={"api.port": text})
    except ConfigError:
        return
    assert settings.api.port >= 0
