"""`glm run`, `bench`, `perplexity` and `quantize` on a tiny model with the native engine."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from glm_crush.cli.main import app
from glm_crush.errors import ConfigError, GlmError, InvalidParameterError
from tests.models.tiny import tiny_checkpoint
from tests.models.tiny_adapter import tiny_adapter

Glm = Callable[..., Any]
TEXT = "the quick brown fox jumps over the lazy dog " * 40


def reply(glm: Glm, *arguments: str, stdin: str | None = None) -> Any:
    return json.loads(glm("run", *arguments, "--json", stdin=stdin).output)


def test_an_answer_has_text_counts_and_speed(glm: Glm, tiny_llama: Path) -> None:
    answer = reply(glm, str(tiny_llama), "hello", "--max-tokens", "5", "--seed", "1")
    assert answer["completion_tokens"] <= 5
    assert answer["prompt_tokens"] > 0
    assert answer["finish_reason"] in ("stop", "length")
    assert answer["elapsed_seconds"] >= answer["time_to_first_token_seconds"] > 0


def test_the_same_seed_gives_the_same_answer_streamed_or_not(glm: Glm, tiny_llama: Path) -> None:
    arguments = (str(tiny_llama), "hello", "--max-tokens", "8", "--seed", "7", "--temperature", "1")
    text = reply(glm, *arguments)["text"]
    assert reply(glm, *arguments)["text"] == text
    assert glm("run", *arguments).stdout.rstrip("\n") == text.rstrip("\n")
    assert glm("run", *arguments, "--no-stream").stdout.rstrip("\n") == text.rstrip("\n")


def test_an_answer_can_be_searched_for_with_beams(glm: Glm, tiny_llama: Path) -> None:
    arguments = (str(tiny_llama), "hello", "--max-tokens", "6")
    wide = reply(glm, *arguments, "--beams", "4", "--length-penalty", "0.5")
    assert wide == {**wide, "text": glm("run", *arguments, "--beams", "4", "--length-penalty", "0.5").stdout[:-1]}
    assert reply(glm, *arguments, "--beams", "1")["text"] == reply(glm, *arguments, "--temperature", "0")["text"]
    assert reply(glm, str(tiny_llama), "hello", "--beams", "2")["completion_tokens"] >= 1  # no limit but the context


def test_the_best_of_several_answers_is_shown_and_all_are_counted(glm: Glm, tiny_llama: Path) -> None:
    arguments = (str(tiny_llama), "hello", "--max-tokens", "4", "--temperature", "1")
    drawn = [reply(glm, *arguments, "--seed", str(seed)) for seed in (5, 6, 7)]
    best = reply(glm, *arguments, "--seed", "5", "--best-of", "3")
    assert best["text"] in [answer["text"] for answer in drawn]
    assert best["completion_tokens"] == sum(answer["completion_tokens"] for answer in drawn)
    with pytest.raises(InvalidParameterError, match="best_of is given with beam search"):
        glm("run", *arguments, "--best-of", "3", "--beams", "2")


def test_a_preset_samples_by_purpose(glm: Glm, tiny_llama: Path) -> None:
    arguments = (str(tiny_llama), "hello", "--max-tokens", "6", "--seed", "3")
    greedy = reply(glm, *arguments, "--temperature", "0")["text"]
    assert reply(glm, *arguments, "--preset", "code")["text"] == greedy
    creative = reply(glm, *arguments, "--temperature", "1", "--top-k", "50", "--top-p", "1")["text"]
    assert reply(glm, *arguments, "--preset", "creative")["text"] == creative
    with pytest.raises(InvalidParameterError, match="preset is 'loud'"):
        glm("run", *arguments, "--preset", "loud")


@pytest.mark.requirement("E9")
@pytest.mark.parametrize("policy", ["truncate", "window", "summarise"])
def test_a_chat_goes_on_beyond_the_context_where_a_policy_says_how(glm: Glm, tmp_path: Path, policy: str) -> None:
    model = tiny_checkpoint("llama", tmp_path, max_position_embeddings=768)
    words = ("chat", str(model), "--max-tokens", "8", "--seed", "1")
    lines = "\n".join(f"this is question {i} of a long conversation " * 4 for i in range(9))
    assert "the context holds" in glm(*words, stdin=lines).stderr
    talk = glm(*words, "--context-policy", policy, stdin=lines)
    assert "the context holds" not in talk.stderr
    assert f"{policy}: " in talk.stderr


def test_standard_input_goes_along_with_the_prompt(glm: Glm, tiny_llama: Path) -> None:
    options = ("--raw", "--max-tokens", "1")
    alone = reply(glm, str(tiny_llama), "hello", *options)["prompt_tokens"]
    both = reply(glm, str(tiny_llama), "hello", *options, stdin="and more")["prompt_tokens"]
    piped = reply(glm, str(tiny_llama), *options, stdin="hello")["prompt_tokens"]
    assert both > alone == piped


def test_a_system_prompt_and_the_template_lengthen_the_prompt(glm: Glm, tiny_llama: Path) -> None:
    options = (str(tiny_llama), "hello", "--max-tokens", "1")
    raw, plain = reply(glm, *options, "--raw"), reply(glm, *options)
    system = reply(glm, *options, "--system", "be brief")
    assert raw["prompt_tokens"] < plain["prompt_tokens"] < system["prompt_tokens"]


def test_verbose_shows_rates_on_standard_error(glm: Glm, tiny_llama: Path) -> None:
    result = glm("run", str(tiny_llama), "hello", "--max-tokens", "3", "--verbose")
    assert "prompt eval rate" in result.stderr
    assert " of 48 tokens" in result.stderr  # of the context
    assert "eval rate" not in result.stdout


@pytest.mark.requirement("E6")
def test_it_shows_where_a_prompt_left_what_an_earlier_run_has_kept(glm: Glm, tiny_llama: Path, tmp_path: Path) -> None:
    words = "one two three four five six seven "
    options = ("--raw", "--max-tokens", "1", "--prefix-store", str(tmp_path / "store"), "--explain-cache")
    first = glm("run", str(tiny_llama), words, *options)
    assert "0 of " in first.stderr
    second = glm("run", str(tiny_llama), words + "eight", *options)
    assert re.search(r"[1-9]\d+ of \d+ prompt tokens were cached; nobody had gone on with token", second.stderr)
    reply = json.loads(glm("run", str(tiny_llama), words, *options, "--json").stdout)
    assert reply["cache"]["reason"] == "complete"
    assert reply["cache"]["cached_tokens"] == reply["cached_tokens"] > 0


def test_a_model_alone_is_no_prompt(glm: Glm, tiny_llama: Path) -> None:
    result = glm("run", str(tiny_llama), check=False)
    assert result.exit_code == 2
    assert "glm chat" in result.stderr


def test_no_prompt_is_misuse_and_a_bad_value_names_its_parameter(glm: Glm, tiny_llama: Path) -> None:
    assert glm("run", check=False).exit_code == 2
    assert glm("run", str(tiny_llama), "x", "--raw", "--system", "y", check=False).exit_code == 2
    with pytest.raises(InvalidParameterError, match="top_p is 2"):
        glm("run", str(tiny_llama), "hello", "--top-p", "2")


def test_an_answer_can_be_held_to_a_schema(glm: Glm, tiny_llama: Path, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"enum": ["red", "green"]}')
    for options in ((), ("--raw",), ("--no-stream",)):
        answer = glm("run", str(tiny_llama), "hi", "--json-schema", str(schema), "--max-tokens", "12", *options).stdout
        assert json.loads(answer) in ("red", "green")


@pytest.mark.parametrize(("text", "problem"), [("{", "not JSON"), ("[1]", "give a JSON schema")])
def test_a_file_without_a_schema_is_refused(
    glm: Glm, tiny_llama: Path, tmp_path: Path, text: str, problem: str
) -> None:
    (tmp_path / "schema.json").write_text(text)
    with pytest.raises(GlmError, match=problem):
        glm("run", str(tiny_llama), "hi", "--json-schema", str(tmp_path / "schema.json"))


def test_bench_prints_one_json_object_with_these_keys(glm: Glm, tiny_llama: Path) -> None:
    arguments = "--prompt-tokens 20 --generate-tokens 4 --depth 8 --batch 3 --repeat 2 --weight-format q8 --threads 1"
    report = json.loads(glm("bench", str(tiny_llama), *arguments.split(), "--json").stdout)
    assert list(report) == [
        "model",
        "weight_format",
        "kv_dtype",
        "kernels",
        "threads",
        "prompt_tokens",
        "generate_tokens",
        "depth",
        "batch",
        "prefill_tokens_per_second",
        "decode_tokens_per_second",
        "load_seconds",
        "weight_bytes",
        "kv_cache_bytes",
        "peak_resident_bytes",
    ]
    assert (report["weight_format"], report["threads"], report["batch"]) == ("q8", 1, 3)
    for figure in ("prefill_tokens_per_second", "decode_tokens_per_second"):
        assert 0 < report[figure]["min"] <= report[figure]["median"] <= report[figure]["max"]
    assert report["weight_bytes"] > 0
    assert report["kv_cache_bytes"] > 0


def test_bench_prints_a_table_and_leaves_out_what_was_not_asked_for(glm: Glm, tiny_llama: Path) -> None:
    output = glm("bench", str(tiny_llama), "--prompt-tokens", "0", "--generate-tokens", "2", "--repeat", "1").stdout
    assert "decode" in output
    assert "prefill" not in output


def test_bench_refuses_a_depth_beyond_the_context(glm: Glm, tiny_llama: Path) -> None:
    with pytest.raises(ConfigError, match="context length"):
        glm("bench", str(tiny_llama), "--depth", "1000000", "--repeat", "1")


def test_perplexity_of_a_text(glm: Glm, tiny_llama: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    arguments = (str(tiny_llama), str(text), "--context", "32", "--windows", "3")
    result = json.loads(glm("perplexity", *arguments, "--json").stdout)
    assert result["perplexity"] > 1
    assert result["num_tokens"] == 3 * 15
    assert f"{result['perplexity']:.4f}" in glm("perplexity", *arguments).stdout


def test_perplexity_of_too_short_a_text_says_so(glm: Glm, tiny_llama: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("short")
    with pytest.raises(InvalidParameterError, match="one window takes 48"):
        glm("perplexity", str(tiny_llama), str(text))


@pytest.mark.requirement("M3")
def test_quantize_writes_a_packed_file_that_runs_and_reports_its_cost(
    glm: Glm, tiny_llama: Path, tmp_path: Path
) -> None:
    text, output = tmp_path / "text.txt", tmp_path / "tiny-q8.glm"
    text.write_text(TEXT * 10)
    arguments = ("--format", "q8", "--output", str(output), "--perplexity", str(text), "--windows", "1", "--json")
    report = json.loads(glm("quantize", str(tiny_llama), *arguments).stdout)
    assert report["output_bytes"] == output.stat().st_size
    assert report["perplexity"] == pytest.approx(report["source_perplexity"], rel=0.05)
    assert reply(glm, str(output), "hello", "--max-tokens", "2")["completion_tokens"] >= 1


def test_quantize_never_overwrites_unasked_and_wants_the_source(glm: Glm, tiny_llama: Path, tmp_path: Path) -> None:
    output = tmp_path / "tiny.glm"
    glm("quantize", str(tiny_llama), "--format", "bf16", "--output", str(output))
    with pytest.raises(ConfigError, match="exists; give another name"):
        glm("quantize", str(tiny_llama), "--format", "q8", "--output", str(output))
    with pytest.raises(ConfigError, match="packed already"):
        glm("quantize", str(output), "--format", "q8", "--output", str(tmp_path / "other.glm"))
    assert glm("quantize", "m", "--format", "q8", "--output", "x.bin", check=False).exit_code == 2


def test_a_bench_of_nothing_is_refused(glm: Glm, tiny_llama: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to measure; give --prompt-tokens"):
        glm("bench", str(tiny_llama), "--prompt-tokens", "0", "--generate-tokens", "0")


def test_run_answers_with_an_adapter(tmp_path: Path) -> None:
    path = tiny_checkpoint("llama", tmp_path)
    adapter = tiny_adapter(tmp_path / "adapter", path)
    common = ["run", str(path), "hello", "--raw", "--temperature", "0", "--max-tokens", "8", "--no-stream"]
    plain, changed, missing = (
        CliRunner().invoke(app, [*common, *extra])
        for extra in ([], ["--lora", str(adapter)], ["--lora", str(tmp_path / "none")])
    )
    assert (plain.exit_code, changed.exit_code) == (0, 0)
    assert plain.stdout != changed.stdout
    assert "is no folder" in str(missing.exception)
