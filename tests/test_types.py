"""Sampling parameters refuse what they cannot mean, by name."""

from __future__ import annotations

import pytest

from glm_crush.errors import InvalidParameterError
from glm_crush.types import SamplingParams


@pytest.mark.requirement("E1")
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperature", -0.1, r"temperature is -0.1; it must lie in \[0.0, 100.0\]"),
        ("temperature", float("nan"), "temperature is nan; give a number"),
        ("top_p", 0.0, r"top_p is 0.0; it must lie in \(0.0, 1.0\]"),
        ("top_p", True, "top_p is True; give a number"),
        ("top_k", 1.5, "top_k is 1.5; give a whole number"),
        ("top_k", "5", "top_k is '5'; give a number"),
        ("max_tokens", 0, "max_tokens is 0; it must lie in"),
        ("max_tokens", 2.0, "max_tokens is 2.0; give a whole number"),
        ("seed", 2**64, "seed is 18446744073709551616; it must lie in"),
        ("n", 0, "n is 0; it must lie in"),
        ("logprobs", 21, "logprobs is 21; it must lie in"),
        ("logit_bias", {5: 101}, r"logit_bias\[5\] is 101; it must lie in"),
        ("logit_bias", {"5": 1.0}, "logit_bias names token '5'; give token ids"),
        ("stop_token_ids", [2.0], "stop_token_ids names token 2.0; give token ids"),
        ("stop", ["a", ""], "stop contains an empty string"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_range(name, value, message):
    with pytest.raises(InvalidParameterError, match=message):
        SamplingParams(**{name: value})


def test_one_stop_string_may_stand_alone():
    assert SamplingParams(stop="END").stop == ("END",)
