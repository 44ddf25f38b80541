"""`LLM` from a checkpoint on disk to text, on tiny random models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from glm_crush import LLM, SamplingParams
from glm_crush.errors import ConfigError, ContextLengthError, EngineError, InvalidParameterError, ModelError
from tests.engine.scripted import greedy, sampled
from tests.engine.tiny_model import make_llm, make_reference_executor
from tests.models.tiny import tiny_checkpoint
from tests.tokenizer.small_tokenizers import as_bytes, sentencepiece

PROMPTS = [[5, 6, 7], list(range(10, 35)), [3], [9] * 17]


@pytest.fixture
def llm(tmp_path: Path) -> Iterator[LLM]:
    with make_llm(tmp_path) as llm:
        yield llm


def test_texts_token_ids_and_lists_of_them_are_prompts(llm):
    text = "hello"
    ids = llm.codec.encode(text)
    [from_text] = llm.generate(text, greedy(4))
    [from_ids] = llm.generate(ids, greedy(4))
    both = llm.generate([text, ids], greedy(4))
    assert from_text.prompt_token_ids == tuple(ids)
    assert [from_ids.outputs, both[0].outputs, both[1].outputs] == [from_text.outputs] * 3


def test_each_prompt_can_have_its_own_parameters(llm):
    outputs = llm.generate(PROMPTS[:2], [greedy(2), greedy(3)])
    assert [output.usage.completion_tokens for output in outputs] == [2, 3]
    with pytest.raises(InvalidParameterError, match="1 params for 2 prompts"):
        llm.generate(PROMPTS[:2], [greedy()])


def test_text_is_the_decoded_tokens(llm):
    [output] = llm.generate("hello", sampled(20, seed=1, ignore_eos=True))
    reply = output.outputs[0]
    assert reply.text == llm.loaded.tokenizer.decode(reply.token_ids)


@pytest.mark.requirement("M4")
def test_a_sentencepiece_reply_continues_the_prompts_text(tmp_path):
    path = tiny_checkpoint("llama", tmp_path, vocab_size=512)
    (path / "tokenizer.json").write_bytes(as_bytes(sentencepiece()))
    with LLM(path, kv_cache_tokens=64, make_executor=make_reference_executor) as llm:
        [spaced] = llm.loaded.tokenizer.encode("dog")
        [output] = llm.generate("see", greedy(2, logit_bias={spaced: 100.0}, ignore_eos=True))
    assert llm.loaded.tokenizer.id_to_token(spaced) == "\u2581dog"
    assert output.outputs[0].text == " dog dog"


@pytest.mark.requirement("M5")
def test_a_glm_checkpoint_without_a_template_gets_ours(tmp_path):
    path = tiny_checkpoint("glm4_moe", tmp_path)
    (path / "tokenizer_config.json").write_text("{}")
    with LLM(path, kv_cache_tokens=64, make_executor=make_reference_executor) as llm:
        ids = llm.codec.render([{"role": "user", "content": "hi"}])
        assert llm.codec.decode(ids) == "[gMASK]<sop><|user|>\nhi<|assistant|>"


@pytest.mark.requirement("E8")
@pytest.mark.parametrize("family", ["llama", "glm4_moe", "gemma3", "glm4_moe_lite"])
@pytest.mark.parametrize("executor", [make_reference_executor, None], ids=["reference", "native"])
def test_alone_batched_and_chunked_runs_give_the_same_tokens(tmp_path, family, executor):
    params = [
        greedy(6),
        sampled(6, seed=1, logprobs=1),
        sampled(6, seed=2, top_k=5, repetition_penalty=1.2, prompt_logprobs=0),
        sampled(6, seed=3, n=2),
    ]
    with make_llm(tmp_path, family=family, make_executor=executor) as llm:
        alone = [replies(llm, [prompt], [p])[0] for prompt, p in zip(PROMPTS, params, strict=True)]
        together = replies(llm, PROMPTS, params)
    small = {"max_num_batched_tokens": 7, "max_num_seqs": 3, "kv_cache_tokens": 80, "threads": 2}
    with make_llm(tmp_path, family=family, make_executor=executor, **small) as llm:
        chunked = replies(llm, PROMPTS, params)
    assert together == alone
    assert chunked == alone


@pytest.mark.requirement("E8")
@pytest.mark.parametrize("weight_format", ["q4", "q8", "bf16", "f32"])
def test_the_native_executor_gives_the_same_numbers_whatever_runs_beside_and_however_it_is_cut(tmp_path, weight_format):
    """Logprobs equal to the last bit: every row is summed in one fixed order."""
    params = SamplingParams(temperature=0.0, max_tokens=6, logprobs=3, prompt_logprobs=3)
    runs = []
    for options in ({}, {"max_num_batched_tokens": 7, "max_num_seqs": 3}, {"threads": 1}, {"kv_cache_tokens": 64}):
        with make_llm(tmp_path, make_executor=None, weight_format=weight_format, **options) as llm:
            runs.append([(output.outputs, output.prompt_logprobs) for output in llm.generate(PROMPTS, params)])
            runs.append([(o.outputs, o.prompt_logprobs) for prompt in PROMPTS for o in llm.generate([prompt], params)])
    assert all(run == runs[0] for run in runs)


def replies(llm: LLM, prompts: list[list[int]], params: list[SamplingParams]) -> list[list[tuple[int, ...]]]:
    return [[reply.token_ids for reply in output.outputs] for output in llm.generate(prompts, params)]


def test_chat_renders_the_template_and_stream_gives_the_same_reply(llm):
    messages = [{"role": "user", "content": "hi"}]
    output = llm.chat(messages, greedy(5))
    assert output.prompt_token_ids == tuple(llm.codec.render(messages))
    deltas = list(llm.stream(messages, greedy(5)))
    assert "".join(delta.text for delta in deltas) == output.outputs[0].text
    assert deltas[-1].finish_reason == output.outputs[0].finish_reason


def test_streaming_a_plain_prompt_matches_generate(llm):
    [output] = llm.generate("hello", greedy(5))
    assert "".join(delta.text for delta in llm.stream("hello", greedy(5))) == output.outputs[0].text


def test_without_parameters_the_models_own_defaults_fill_the_context(llm):
    assert llm.default_params == SamplingParams(max_tokens=None)
    [output] = llm.generate([5, 6], SamplingParams(max_tokens=None, ignore_eos=True))
    assert output.usage.completion_tokens == 46


@pytest.mark.requirement("E9")
def test_a_prompt_beyond_the_context_is_refused_with_the_numbers(llm):
    with pytest.raises(ContextLengthError, match=r"The prompt has 70 tokens .* the context holds 48"):
        llm.generate([1] * 70)


def test_options_that_cannot_be_name_themselves(tmp_path):
    with pytest.raises(ConfigError, match="weight_format"):
        make_llm(tmp_path, weight_format="q5")
    with pytest.raises(ConfigError, match="max_num_batched_tokens is 4 and max_num_seqs 8"):
        make_llm(tmp_path, max_num_batched_tokens=4, max_num_seqs=8)
    with pytest.raises(ConfigError, match="the context length is set to 100000"):
        make_llm(tmp_path, max_context=100_000)


def test_a_model_that_does_not_exist_is_a_model_error():
    with pytest.raises(ModelError):
        LLM("no/such/model")


def test_a_closed_model_says_so(tmp_path):
    llm = make_llm(tmp_path)
    llm.close()
    with pytest.raises(EngineError, match="closed"):
        llm.generate("hello")


def test_the_second_load_uses_the_packed_file(tmp_path, glm_home):
    make_llm(tmp_path).close()
    [packed] = (glm_home / "packed").iterdir()
    written = packed.stat().st_mtime_ns
    with LLM(packed, kv_cache_tokens=64, make_executor=make_reference_executor) as llm:
        assert llm.generate("hello", greedy(1))[0].usage.completion_tokens == 1
    make_llm(tmp_path).close()
    assert packed.stat().st_mtime_ns == written


def test_generation_config_gives_the_defaults(tmp_path):
    path = tiny_checkpoint("llama", tmp_path)
    (path / "generation_config.json").write_text('{"temperature": 0.6, "top_p": 0.95, "top_k": 20, "eos_token_id": 3}')
    with LLM(path, make_executor=make_reference_executor) as llm:
        assert llm.default_params == SamplingParams(temperature=0.6, top_p=0.95, top_k=20, max_tokens=None)
