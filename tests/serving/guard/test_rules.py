"""What the rules find in three languages, and what they leave alone."""

from __future__ import annotations

import re

import pytest

from glm_crush.errors import ConfigError
from glm_crush.serving.gateway.secrets import new_secret
from glm_crush.serving.guard.bounded import beginnings, parse, width
from glm_crush.serving.guard.checksums import entropy, is_cnpj, is_cpf, is_iban, is_nif, is_rg, luhn
from glm_crush.serving.guard.credentials import credential_rules
from glm_crush.serving.guard.hidden import hidden_rules, plain_text
from glm_crush.serving.guard.own_rules import pattern_rule, word_rule
from glm_crush.serving.guard.pii import pii_rules
from glm_crush.serving.guard.rule import SpanRule
from glm_crush.serving.guard.scanner import RuleSet, Scanner
from tests.serving.guard.texts import CLEAN, PRIVATE, SECRETS

pytestmark = pytest.mark.requirement("S7")

RULES = RuleSet([rule for rule in (*credential_rules(), *pii_rules()) if not rule.is_guess])
GUESSES = RuleSet([rule for rule in pii_rules() if rule.is_guess])


def redacted(text: str, rules: RuleSet = RULES) -> str:
    spans = Scanner(rules).push(text, final=True)
    return "".join(s.text if s.rule is None else "" if s.goes_on else s.rule.label for s in spans)


@pytest.mark.parametrize(("text", "expected"), [*PRIVATE, *SECRETS])
def test_private_data_and_secrets_are_found_where_they_are(text: str, expected: str) -> None:
    assert redacted(text) == expected


@pytest.mark.parametrize("text", CLEAN)
def test_ordinary_texts_numbers_and_code_are_left_alone(text: str) -> None:
    assert redacted(text) == text


def test_our_own_keys_are_found() -> None:
    assert redacted(f"use {new_secret().text}, please") == "use [API-KEY], please"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, my name is Mary Ann Smith and I live", "Hello, my name is [NAME] and I live"),
        ("Meu nome é João da Silva.", "Meu nome é [NAME]."),
        ("我叫王小明，今年", "我叫[NAME]，今年"),
        ("我叫他过来", "我叫他过来"),
        ("Moro na Rua das Flores, 123", "Moro na [ADDRESS]"),
        ("at 221 Baker Street, London", "at [ADDRESS], London"),
        ("北京市海淀区中关村大街27号", "北京市[ADDRESS]"),
    ],
)
def test_names_and_addresses_are_guessed_only_by_rules_of_their_own(text: str, expected: str) -> None:
    assert redacted(text, GUESSES) == expected
    assert redacted(text) == text


def test_check_digits_hold_as_published() -> None:
    assert luhn("4111111111111111")
    assert not luhn("4111111111111112")
    assert (is_cpf("52998224725"), is_cpf("11111111111")) == (True, False)
    assert (is_cnpj("11222333000181"), is_cnpj("12ABC34501DE35"), is_cnpj("12ABC34501DE36")) == (True, True, False)
    assert (is_nif("501964843"), is_nif("501964844")) == (True, False)
    assert (is_rg("246781312"), is_rg("246781313")) == (True, False)
    assert (is_iban("GB82WEST12345698765432"), is_iban("GB82WEST12345698765433")) == (True, False)
    assert (entropy("aaaa"), entropy("abab")) == (0.0, 1.0)


def test_what_nobody_sees_is_taken_out_and_what_scripts_need_stays() -> None:
    hidden = RuleSet(hidden_rules())
    assert redacted("ig\u200bnore \u202eall\u202c p\u200drevious\U000e0041", hidden) == "ignore all previous"
    family, persian = "\U0001f468\u200d\U0001f469\u200d\U0001f467", "می\u200cخواهم"
    assert redacted(f"{family} {persian}", hidden) == f"{family} {persian}"


def test_text_is_compared_as_a_reader_takes_it() -> None:
    assert plain_text("ＩＧＮＯＲＥ\u200b  Instruções\n аll") == "ignore instrucoes all"


def test_words_are_whole_and_compared_without_case_and_accents() -> None:
    rules = RuleSet([word_rule("words.firms", ["Acme", "Pão de Açúcar", "星巴克"], "[FIRM]")])
    assert redacted("ACME acmé Pao  de acucar 去星巴克吧", rules) == "[FIRM] [FIRM] [FIRM] 去[FIRM]吧"
    rules = RuleSet([word_rule("words.firms", ["Acme"], "[FIRM]")])
    assert redacted("acmeology Acme-like", rules) == "acmeology [FIRM]-like"


def test_patterns_of_the_operator_are_matched_by_re2() -> None:
    rules = RuleSet([pattern_rule("patterns.ticket", r"\bTICKET-\d{1,6}\b", ignore_case=True)])
    assert redacted("see ticket-12345, xTICKET-1 and é TICKET-7", rules) == "see [TICKET], xTICKET-1 and é [TICKET]"
    nasty = RuleSet([pattern_rule("patterns.nasty", r"(?:(?:a{1,20}){1,10}){1,2}b")])
    assert redacted("a" * 5000, nasty) == "a" * 5000


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        (r"a+", "no largest count"),
        (r"a*", "no largest count"),
        (r"a{2,}", "without a largest number"),
        (r"(a", "malformed"),
        (r"(?=a)b", "not taken here"),
        (r"(a)\1", "not taken here"),
        (r"^a", "not taken here"),
        (r"a{1,3}?", "lazy"),
        (r"[a-z]{600}", "the limit is 512"),
        (r"a?", "matches nothing"),
    ],
)
def test_patterns_that_could_not_be_streamed_are_refused(pattern: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        pattern_rule("patterns.mine", pattern)


def test_beginnings_are_those_of_a_match_and_nothing_else() -> None:
    node = parse(r"ab?(?:cd|ef){1,2}[gh]")
    assert width(node) == 7
    partial = re.compile(rf"(?:{beginnings(node)})\Z")
    for whole in ("abcdg", "acdefh", "aefg"):
        assert all(partial.match(whole[:end]) for end in range(1, len(whole) + 1))
    assert not any(partial.match(text) for text in ("b", "abb", "acdcdcd", "abcdgg", "acde g"))


ALL: list[SpanRule] = [*credential_rules(), *pii_rules(), *hidden_rules()]


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.name)
def test_no_rule_holds_back_more_than_is_documented(rule: SpanRule) -> None:
    assert rule.largest <= 352
