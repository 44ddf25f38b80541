"""The pages name everything that is there, and nothing that is not."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import typer
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

from glm_crush import LLM, SamplingParams, errors
from glm_crush.cli.chat_commands import COMMANDS
from glm_crush.cli.main import app
from glm_crush.config import (
    FOREIGN_VARIABLES,
    SHORT_VARIABLES,
    ApiSettings,
    CacheSettings,
    GraphqlSettings,
    GuardSettings,
    ObservabilitySettings,
    Settings,
    StorageSettings,
    load_settings,
)
from glm_crush.error_codes import ERROR_CODES
from glm_crush.models.registry import FAMILIES
from glm_crush.serving.app import create_app
from glm_crush.serving.errors import error_reply
from glm_crush.serving.graphql.part import GraphqlPart
from glm_crush.serving.guard.part import GuardPart
from glm_crush.serving.mcp.part import McpPart
from glm_crush.serving.observability.part import Observability
from glm_crush.serving.observability.server_metrics import ServerMetrics
from glm_crush.serving.openai.protocol import ChatRequest, CompletionRequest
from glm_crush.serving.openai.responses.protocol import ResponseRequest
from glm_crush.serving.reloading.reloading import Reloading
from glm_crush.serving.response_cache.part import ResponseCache
from glm_crush.serving.served_models import ServedModels
from glm_crush.storage.lazy import LazyDatabase
from glm_crush.weights.formats import choose_format
from glm_crush.weights.gguf_blocks import GgufTensor
from glm_crush.weights.gguf_names import ARCHITECTURES
from glm_crush.weights.packed_size import FORMATS, panel_nbytes
from glm_crush.weights.source_tensor import DenseTensor
from tests.docs.blocks import PAGES, ROOT, Block, blocks_of

DOCS = ROOT / "docs"
ERROR_CLASSES = sorted(set(errors.__all__) - {"GlmError"})


def page(name: str) -> str:
    return (DOCS / name).read_text()


def table_rows(name: str) -> dict[str, list[str]]:
    """Rows of all tables of a page: first cell -> the other cells."""
    rows = (re.split(r"(?<!\\)\|", line)[1:-1] for line in page(name).splitlines() if line.startswith("|"))
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in rows}


def code_words(text: str) -> set[str]:
    return set(re.findall(r"`([^`\n]+)`", text))


# --- configuration ---


def setting_rows() -> Iterator[str]:
    for setting in Settings().describe():
        default = "unset" if setting.value is None else f"`{setting.value}`"
        if setting.key == "store.home":
            default = "`~/.glm-crush`"
        yield f"| `{setting.key}` | {default} | {setting.help} |"


@pytest.mark.parametrize("row", list(setting_rows()), ids=lambda row: row.split("`")[1])
def test_every_setting_stands_in_the_page_with_its_default_and_meaning(row: str) -> None:
    assert row in page("configuration.md").splitlines()


def test_the_page_names_no_setting_that_is_not_there() -> None:
    known = {f"`{setting.key}`" for setting in Settings().describe()}
    for name in ("model", "crush", "api", "gateway", "store", "storage"):
        mentioned = {word for word in table_rows("configuration.md") if word.startswith(f"`{name}.")}
        assert mentioned <= known


@pytest.mark.parametrize("variable", [*FOREIGN_VARIABLES, *SHORT_VARIABLES])
def test_every_variable_with_a_name_of_its_own_is_in_the_page(variable: str) -> None:
    key = {**FOREIGN_VARIABLES, **SHORT_VARIABLES}[variable]
    assert any(variable in row and key in row for row in page("configuration.md").splitlines())


def test_the_configuration_file_of_the_page_is_read(tmp_path: Path) -> None:
    [file] = [block for block in blocks_of(DOCS / "configuration.md") if block.language == "toml"]
    (tmp_path / "config.toml").write_text(file.text)
    settings = load_settings(environ={"GLM_HOME": str(tmp_path)})
    assert (settings.api.port, settings.crush.kv_cache_tokens) == (8000, 65536)


# --- command line ---


def test_every_verb_is_in_the_commands_page_and_the_operating_pages_name_no_other() -> None:
    verbs = {name for name, command in typer.main.get_command(app).commands.items() if not command.hidden}  # type: ignore[attr-defined]
    assert verbs == set(re.findall(r"^## glm (\w+)$", page("cli.md"), re.MULTILINE))
    for path in PAGES:
        for word in code_words(path.read_text()):
            match = re.match(r"glm ([a-z]+)", word)
            assert match is None or match[1] in verbs, f"{path.name}: {word}"


def test_every_command_of_a_chat_is_in_the_commands_page() -> None:
    rows = [line.replace("\\|", "|") for line in page("cli.md").splitlines()]
    for command in COMMANDS:
        assert f"| `{command.usage}` | {command.meaning} |" in rows


# --- server ---


def server_pages() -> str:
    """The page of the server and those of its further protocols and routes."""
    return (
        page("openai-server.md")
        + page("gateway.md")
        + "".join(path.read_text() for path in sorted((DOCS / "apis").glob("*.md")))
    )


def whole_app(database: LazyDatabase) -> Starlette:
    """A server with every part."""
    models = ServedModels()
    parts = [
        Observability(models, ObservabilitySettings()),
        ResponseCache(models, CacheSettings()),
        McpPart(models, max_body_bytes=1),
        GraphqlPart(models, GraphqlSettings()),
        GuardPart(models, GuardSettings()),
    ]
    reloading = Reloading(Settings(), Settings)
    return create_app(models, ApiSettings(), database=database, parts=parts, reloading=reloading)


def test_every_metric_is_in_the_page_of_monitoring_and_on_no_panel_that_does_not_exist() -> None:
    registry = ServerMetrics(ServedModels()).registry
    families = {family.name for family in registry.collect()}
    own = {name for name in families if name.startswith(("vllm:", "http_", "glm_"))}
    documented = set(re.findall(r"^\| `([\w:]+)` \|", page("apis/monitoring.md"), re.MULTILINE))
    assert own == documented
    dashboard = (ROOT / "deploy/grafana/glm-crush.json").read_text()
    asked = set(re.findall(r"\b((?:vllm:|http_|glm_)\w+?)(?:_total|_bucket)?[{\[,)]", dashboard))
    assert asked <= own


def test_every_route_is_in_a_page_of_the_server(tmp_path: Path) -> None:
    documented = set(re.findall(r"`(GET|POST|PUT|PATCH|DELETE) (/[^`]*)`", server_pages()))
    served = {
        (method, route.path.replace(":path", ""))  # type: ignore[attr-defined]
        for route in whole_app(LazyDatabase(StorageSettings(), tmp_path)).routes
        if not isinstance(route, WebSocketRoute)
        for method in route.methods - {"HEAD"}  # type: ignore[attr-defined]
    }
    assert documented == served


@pytest.mark.parametrize("field", sorted({*ChatRequest.model_fields, *CompletionRequest.model_fields}))
def test_every_request_parameter_is_in_the_server_page(field: str) -> None:
    assert f"`{field}`" in page("openai-server.md").split("## Parameters")[1].split("## Errors")[0]


@pytest.mark.parametrize("field", sorted(ResponseRequest.model_fields))
def test_every_parameter_of_responses_is_in_its_page(field: str) -> None:
    assert f"`{field}`" in page("apis/responses.md").split("## Parameters")[1]


@pytest.mark.parametrize("name", ERROR_CLASSES)
def test_every_error_class_is_in_the_python_page_and_its_status_in_the_server_page(name: str) -> None:
    assert f"`{name}`" in table_rows("python-api.md")
    reply = error_reply(getattr(errors, name)("message"))
    rows = re.findall(r"^\| ([\d, ]+) \| (?:`(\w+)`|none) \|", page("openai-server.md"), re.MULTILINE)
    assert any(str(reply.status) in statuses and (reply.code or "") == code for statuses, code in rows)


def test_every_error_code_of_the_server_is_in_its_page_and_no_other() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "src/glm_crush/serving").rglob("*.py"))
    codes = set(re.findall(r'code="(\w+)"', sources)) | {code for _, _, code in ERROR_CODES if code}
    codes.add(str(error_reply(RuntimeError()).code))
    assert codes == set(re.findall(r"^\| [\d, ]+ \| `(\w+)` \|", page("openai-server.md"), re.MULTILINE))


# --- Python ---


@pytest.mark.parametrize("field", fields(SamplingParams), ids=lambda field: field.name)
def test_every_sampling_parameter_is_in_the_python_page_with_its_default(field) -> None:
    default = field.default_factory() if callable(field.default_factory) else field.default
    assert table_rows("python-api.md")[f"`{field.name}`"][0] == str(default)


def test_every_argument_of_llm_is_in_the_python_page() -> None:
    arguments = set(inspect.signature(LLM).parameters) - {"model"}
    assert arguments <= {word.strip("`") for word in table_rows("python-api.md")}


# --- models ---


def test_every_family_is_in_the_models_page_with_its_architectures() -> None:
    rows = table_rows("models-and-formats.md")
    for family in FAMILIES:
        assert set(family.architectures) == code_words(rows[f"`{family.name}`"][1]), family.name
    named = {word for family in FAMILIES for word in code_words(rows[f"`{family.name}`"][2])}
    assert named == set(ARCHITECTURES)


@pytest.mark.parametrize("fmt", FORMATS)
def test_every_packed_format_is_in_the_models_page_with_its_bits_per_weight(fmt: str) -> None:
    """Of many columns, so that the one scale per row of q8 does not count."""
    cols = 1 << 20
    bits = panel_nbytes(fmt, cols) * 8 / (16 * cols)
    assert table_rows("models-and-formats.md")[f"`{fmt}`"][1] == f"{round(bits, 1):g}"


def test_the_formats_chosen_for_each_source_type_are_those_in_the_models_page() -> None:
    lines = page("models-and-formats.md").split("| type in the checkpoint |")[1].split("\n\n")[0].splitlines()[2:]
    assert len(lines) == 7
    for line in lines:
        names, *wanted = (cell.strip() for cell in line.split("|")[1:-1])
        for dtype in code_words(names):
            dense = dtype in ("F32", "F16", "BF16", "F64")
            tensor = DenseTensor("x", dtype, np.zeros((1, 32), np.float32)) if dense else gguf_tensor(dtype)
            chosen = [choose_format([tensor], weight_format) for weight_format in ("auto", "q4", "q8")]
            assert [f"`{fmt}`" for fmt in chosen] == wanted, dtype


def gguf_tensor(dtype: str) -> GgufTensor:
    return GgufTensor("x", dtype, (1, 256), np.zeros((1, 0), np.uint8))


# --- all pages ---


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), f"{path.name} links to {target}"
        if anchor:
            assert anchor in {anchor_of(heading) for heading in re.findall(r"^#+ (.+)$", linked.read_text(), re.M)}


def anchor_of(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_every_page_can_be_reached_from_the_index() -> None:
    linked = set(re.findall(r"\]\(([^)#\s]+)\)", page("index.md")))
    reachable = {(DOCS / target).resolve() for target in linked}
    decisions = DOCS / "decisions"
    reachable |= {decisions / name for name in re.findall(r"\]\(([^)\s]+)\)", page("decisions/README.md"))}
    assert set(DOCS.rglob("*.md")) - reachable == {DOCS / "index.md"}


def test_every_package_has_its_sentence_in_the_life_of_a_request() -> None:
    packages = {path.parent.name for path in (ROOT / "src" / "glm_crush").glob("*/__init__.py")}
    assert packages <= {word.strip("`/") for word in code_words(page("life-of-a-request.md"))}


def test_every_benchmark_is_in_the_benchmarks_page() -> None:
    scripts = {p.name for p in (ROOT / "benchmarks").glob("*.py")} - {"harness.py", "run_all.py"}
    assert scripts <= code_words(page("benchmarks.md"))


@pytest.mark.parametrize(
    "block", [b for path in PAGES for b in blocks_of(path) if b.excerpt_of], ids=lambda block: block.name
)
def test_an_excerpt_of_a_source_file_is_word_for_word_what_is_there(block: Block) -> None:
    assert block.text in block.excerpt_of.read_text(), f"{block.name} differs from {block.excerpt_of}"
