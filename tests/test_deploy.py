"""What deploy/ holds fits the program: its variables are settings, its commands exist, its YAML is YAML."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from glm_crush.cli.main import app
from glm_crush.config import load_settings
from glm_crush.errors import ConfigError

pytestmark = pytest.mark.requirement("O3")

DEPLOY = Path(__file__).parent.parent / "deploy"
CHART = DEPLOY / "helm" / "glm-crush"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file() and path.suffix != ".json")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_variable_is_a_setting(path: Path) -> None:
    for name in set(re.findall(r"\bGLM_[A-Z_]+", path.read_text())) - {"GLM_HOME"}:
        values = {"GLM_OBSERVABILITY_LOG_FORMAT": "json", "GLM_CRUSH_MAX_NUM_SEQS": "64"}
        settings = load_settings(environ={name: values.get(name, "text")})
        assert settings.origins, f"{path.name}: {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_command_exists(path: Path) -> None:
    verbs = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    found = set(re.findall(r"\bglm (serve|pull|\w+)$", path.read_text(), re.MULTILINE))
    found |= set(re.findall(r'"glm", "(\w+)"', path.read_text()))
    assert found <= verbs


def test_the_unit_lets_requests_finish_before_it_kills() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "systemd" / "glm-crush.service")
    assert float(unit["Service"]["TimeoutStopSec"]) > load_settings(environ={}).api.shutdown_timeout_seconds


@pytest.mark.parametrize("name", ["Chart.yaml", "values.yaml"])
def test_the_chart_reads_as_yaml(name: str) -> None:
    assert yaml.safe_load((DEPLOY / "helm" / "glm-crush" / name).read_text())


@pytest.mark.parametrize("name", ["statefulset.yaml", "service.yaml"])
def test_a_template_is_yaml_once_its_values_are_in(name: str) -> None:
    text = (DEPLOY / "helm" / "glm-crush" / "templates" / name).read_text()
    values = yaml.safe_load((DEPLOY / "helm" / "glm-crush" / "values.yaml").read_text())
    for key in re.findall(r"\.Values\.([\w.]+)", text):
        place = values
        for part in key.split("."):
            place = place[part]  # every value that a template asks for has a default
    blocks = re.sub(r"^\s*\{\{-? (?:range|end|with).*\}\}\n", "", text, flags=re.MULTILINE)
    blocks = blocks.replace("{{ . }}", "x").replace("{{- toYaml .Values.resources | nindent 12 }}", "{}")
    assert yaml.safe_load(re.sub(r"\{\{[^}]*\}\}", "1", blocks))["metadata"]


def rendered(*arguments: str) -> list[dict[str, Any]]:
    """What helm makes of the chart."""
    program = shutil.which("helm")
    if program is None:
        pytest.skip("helm is not installed")
    done = subprocess.run([program, "template", "glm-crush", CHART, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def test_helm_gives_settings_to_the_pull_and_to_the_server() -> None:
    (pods,) = [each for each in rendered("--set", "settings.GLM_STORE_HUB_ENDPOINT=x") if each["kind"] == "StatefulSet"]
    spec = pods["spec"]["template"]["spec"]
    for container in (*spec["initContainers"], *spec["containers"]):
        assert {"name": "GLM_STORE_HUB_ENDPOINT", "value": "x"} in container["env"]


def test_pods_get_no_variables_that_look_like_settings() -> None:
    # A service called glm-crush would be announced as GLM_CRUSH_PORT and so on, and the server refuses unknown names.
    with pytest.raises(ConfigError, match="unknown environment variable GLM_CRUSH_PORT"):
        load_settings(environ={"GLM_CRUSH_PORT": "tcp://10.0.0.1:4600"})
    assert "enableServiceLinks: false" in (CHART / "templates" / "statefulset.yaml").read_text()


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd is not installed")
    unit = (DEPLOY / "systemd" / "glm-crush.service").read_text().replace("/opt/glm-crush/bin/glm", "/bin/true")
    (tmp_path / "glm-crush.service").write_text(unit)
    done = subprocess.run([program, "verify", str(tmp_path / "glm-crush.service")], capture_output=True, text=True)
    assert "Unknown" not in done.stderr
    assert done.returncode == 0, done.stderr
