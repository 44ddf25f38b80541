"""Rules for private data in Portuguese, English and Chinese texts.

Above: policies. Below: span rules and check digits. Where a number has check digits they decide; where it has none, a
word before it or its usual punctuation has to. Names and addresses are guesses, and are off unless asked for by name.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

from glm_crush.serving.guard.checksums import (
    is_card,
    is_chinese_id,
    is_cnpj,
    is_cpf,
    is_iban,
    is_nif,
    is_rg,
    is_ssn,
)
from glm_crush.serving.guard.rule import SpanRule, span_rule

__all__ = ["pii_rules"]

_SEPARATORS = re.compile(r"[^0-9A-Za-z]")
_NUMBER = r"[ :.#：nNº°ªo\-]{0,6}"  # between a word such as "NIF" and the number
_LETTERS = "A-Za-zÀ-ÖØ-öø-ÿ"


def _whole(is_valid: Callable[[str], bool]) -> Callable[[str], int | None]:
    """All of the candidate, if it holds without what stands between its digits."""

    def check(text: str) -> int | None:
        return len(text) if is_valid(_compact(text)) else None

    return check


def _beginning(is_valid: Callable[[str], bool], lengths: tuple[int, ...]) -> Callable[[str], int | None]:
    """The longest beginning of the candidate that holds and ends where a group of characters does."""

    def check(text: str) -> int | None:
        places = [place for place, character in enumerate(text) if character.isalnum()]
        for length in lengths:
            if length > len(places):
                continue
            end = places[length - 1] + 1
            if (end == len(text) or not text[end].isalnum()) and is_valid(_compact(text[:end])):
                return end
        return None

    return check


def _compact(text: str) -> str:
    compact = _SEPARATORS.sub("", text)
    # Digits of other scripts are digits: 138 is 138.
    return compact if compact.isascii() and compact else "".join(_plain(c) for c in text if c.isalnum())


def _plain(character: str) -> str:
    return str(int(character)) if character.isdecimal() else character


def _email(text: str) -> int | None:
    local = text.partition("@")[0]
    return None if local.startswith(".") or local.endswith(".") or ".." in text else len(text)


def _ip(text: str) -> int | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if address.is_loopback or address.is_unspecified or (address.version == 6 and text.count(":") < 3):
        return None  # 127.0.0.1 names nobody; a::b is more often a scope of a program
    return len(text)


def _international(text: str) -> int | None:
    return len(text) if 8 <= len(_compact(text)) <= 15 else None


_NO_BRAZIL_AREAS = frozenset(
    [
        "20",
        "23",
        "25",
        "26",
        "29",
        "30",
        "36",
        "39",
        "40",
        "50",
        "52",
        "56",
        "57",
        "58",
        "59",
        "60",
        "70",
        "72",
        "76",
        "78",
        "80",
        "90",
    ]
)


def _brazil(text: str) -> int | None:
    digits = _compact(text)
    return len(text) if digits[:2] >= "11" and digits[:2] not in _NO_BRAZIL_AREAS else None


def _north_america(text: str) -> int | None:
    digits = _compact(text).removeprefix("1")
    return len(text) if len(digits) == 10 and digits[0] in "23456789" and digits[3] in "23456789" else None


_SURNAMES = frozenset(
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何林罗高郑梁谢宋唐许韩冯邓曹彭曾肖田董潘袁蔡蒋余于杜叶程魏苏吕丁任卢姚沈钟姜崔谭陆"
    "汪范石廖贾韦付方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱严覃武戴莫孔向汤"
)


def _chinese_name(text: str) -> int | None:
    return len(text) if text[0] in _SURNAMES else None


def pii_rules() -> list[SpanRule]:
    """All of them; where two find something at the same place, the earlier one has it."""
    return [*_numbers(), *_network(), *_phones(), *_passports(), *_guesses()]


def _numbers() -> list[SpanRule]:
    iban_lengths = tuple(range(32, 14, -1))
    return [
        span_rule(
            "pii.iban",
            r"[A-Z]{2}\d{2}(?:[ ]?[A-Z0-9]{4}){2,7}(?:[ ]?[A-Z0-9]{1,3})?",
            check=_beginning(is_iban, iban_lengths),
        ),
        span_rule(
            "pii.card",
            r"\d{4}(?:[ \-]?\d{4}){2}(?:[ \-]?\d{1,4}){1,2}|\d{4}[ \-]\d{6}[ \-]\d{4,5}",
            check=_beginning(is_card, (19, 18, 17, 16, 15, 14, 13)),
            before=r"A-Za-z\d_.+",
            after=r"A-Za-z\d_",
        ),
        span_rule("pii.cn_id", r"\d{17}[\dXx]", check=_whole(is_chinese_id), label="[CN-ID]"),
        span_rule("pii.cnpj", r"\d{2}\.?\d{3}\.?\d{3}/?\d{4}\-?\d{2}", check=_whole(is_cnpj)),
        span_rule("pii.cnpj", r"[A-Z0-9]{2}\.[A-Z0-9]{3}\.[A-Z0-9]{3}/[A-Z0-9]{4}\-\d{2}", check=_whole(is_cnpj)),
        span_rule("pii.cpf", r"\d{3}\.?\d{3}\.?\d{3}[\-.]?\d{2}", check=_whole(is_cpf)),
        span_rule(
            "pii.rg",
            r"\d{1,2}\.?\d{3}\.?\d{3}\-?[\dXx]",
            context=rf"(?:RG|R\.G\.|registro geral|carteira de identidade){_NUMBER}",
            needs=("rg", "r.g.", "registro geral", "carteira de identidade"),
            ignore_case=True,
        ),
        span_rule("pii.rg", r"\d{2}\.\d{3}\.\d{3}\-[\dXx]", check=_whole(is_rg)),
        span_rule(
            "pii.nif",
            r"[12356789]\d{2}[ .]?\d{3}[ .]?\d{3}",
            context=rf"(?:NIF|NIPC|contribuinte|VAT){_NUMBER}(?:PT[ ]?)?",
            needs=("nif", "nipc", "contribuinte", "vat"),
            check=_whole(is_nif),
            ignore_case=True,
        ),
        span_rule(
            "pii.nif",
            r"PT[ ]?[12356789]\d{8}",
            check=_whole(lambda text: is_nif(text.removeprefix("PT"))),
            needs=("pt",),
        ),
        span_rule("pii.ssn", r"\d{3}\-\d{2}\-\d{4}", check=_whole(is_ssn), before=r"A-Za-z\d_\-", after=r"A-Za-z\d_\-"),
        span_rule(
            "pii.ssn",
            r"\d{3}[ ]?\d{2}[ ]?\d{4}",
            context=r"(?:SSN|social security(?: number| no\.?)?)[ :#]{0,4}(?:is )?",
            needs=("ssn", "social security"),
            check=_whole(is_ssn),
            ignore_case=True,
        ),
    ]


def _network() -> list[SpanRule]:
    return [
        span_rule(
            "pii.email",
            rf"[{_LETTERS}0-9._%+\-]{{1,64}}@(?:[A-Za-z0-9\-]{{1,63}}\.){{1,4}}[A-Za-z]{{2,24}}",
            check=_email,
            before=rf"{_LETTERS}0-9._%+\-",
            after="A-Za-z0-9",
            needs=("@",),
        ),
        span_rule("pii.ip", r"\d{1,3}(?:\.\d{1,3}){3,5}", check=_ip, before=r"A-Za-z\d_.\-", after=r"A-Za-z\d_"),
        span_rule(
            "pii.ip",
            r"[0-9A-Fa-f]{1,4}(?::{1,2}[0-9A-Fa-f]{1,4}){3,7}",
            check=_ip,
            before=r"A-Za-z\d_:.",
            after=r"A-Za-z\d_:",
            needs=(":",),
        ),
    ]


def _phones() -> list[SpanRule]:
    """Brazil, Portugal, the United States, the United Kingdom and China; and any number with its country's."""

    def phone(body: str, check: Callable[[str], int | None] | None = None) -> SpanRule:
        return span_rule("pii.phone", body, check=check, before=r"A-Za-z\d_+/.\-")

    words: tuple[str, ...] = (
        "phone",
        "mobile",
        "cell",
        "call",
        "tel",
        "telefone",
        "telemóvel",
        "celular",
        "whatsapp",
        "tlm",
        "fax",
    )
    words = (*words, "contacto", "contato", "电话", "手机")
    spoken = span_rule(
        "pii.phone",
        r"\(?\d{2,4}\)?(?:[ .\-]?\d{2,5}){2,3}",
        context=rf"(?:{'|'.join(words)})(?: number| me at| us at| no|号码)?[ :.：nNº°]{{0,4}}(?:is |é o |é |是)?",
        check=_international,
        ignore_case=True,
        needs=words,
    )
    return [
        phone(r"\+[1-9]\d{0,2}(?:[ .\-]?\(?\d{1,4}\)?){2,5}\d{0,4}", _international),
        phone(r"1[3-9]\d[ \-]?\d{4}[ \-]?\d{4}"),
        phone(r"0\d{2,3}\-\d{7,8}"),
        phone(r"\(\d{2}\)[ ]?9?\d{4}[ \-]?\d{4}", _brazil),
        phone(r"\d{2}[ ]9?\d{4}\-\d{4}", _brazil),
        phone(r"(?:1[ .\-])?(?:\(\d{3}\)[ ]?|\d{3}[ .\-])\d{3}[ .\-]\d{4}", _north_america),
        phone(r"9[1236]\d[ ]\d{3}[ ]\d{3}"),
        phone(r"2\d{2}[ ]\d{3}[ ]\d{3}"),
        phone(r"07\d{3}[ ]?\d{3}[ ]?\d{3}"),
        phone(r"0\d{2,4}[ ]\d{3,4}[ ]\d{3,4}"),
        spoken,
    ]


def _passports() -> list[SpanRule]:
    return [
        span_rule(
            "pii.passport",
            r"[A-Z]{0,2}\d{6,9}",
            context=r"(?:passport|passaporte|护照)(?: number| no\.?| nº| n\.º| n°|号码|号)?[ :：#]{0,3}(?:is |é |是)?",
            needs=("passport", "passaporte", "护照"),
            ignore_case=True,
        )
    ]


def _guesses() -> list[SpanRule]:
    word = rf"[A-ZÀ-ÖØ-Þ][{_LETTERS}'’\-]{{1,30}}"
    name = rf"{word}(?: (?:d[aeo]s? )?{word}){{0,3}}"
    street = (
        r"(?:Rua|Avenida|Av\.|Travessa|Praça|Praceta|Alameda|Rodovia|Estrada|Largo) "
        rf"(?:[{_LETTERS}.'\-]{{1,20}}[ ,]{{1,2}}){{1,6}}(?:n\.?º ?)?\d{{1,5}}"
    )
    kinds = "Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Court|Ct|Square|Way"
    speaks = ("my name is", "I am called", "meu nome é", "chamo-me", "me chamo")
    rules = [
        ("pii.name", name, "(?:[Mm]y name is|I am called|[Mm]eu nome é|[Cc]hamo-me|[Mm]e chamo) ", speaks),
        ("pii.name", name, r"(?:Mr|Mrs|Ms|Dr|Prof|Sr|Sra|Dra)\. ", ("r. ", "s. ", "f. ", "a. ")),
        ("pii.address", street, "", ("rua ", "av", "travessa", "pra", "alameda", "rodovia", "estrada", "largo")),
        ("pii.address", rf"\d{{1,5}} (?:{word} ){{1,3}}(?:{kinds})", "", tuple(kinds.lower().split("|"))),
        ("pii.address", r"\d{5}\-\d{3}", r"CEP[ :]{0,3}", ("cep",)),
        ("pii.address", r"[一-鿿]{1,8}(?:路|街|大道|巷|胡同)\d{1,5}号", r"[省市区县镇]", ("号",)),
    ]
    chinese = span_rule(
        "pii.name",
        "[一-鿿]{2,3}",
        context="(?:我叫|我的名字是|姓名[:：])",
        check=_chinese_name,
        is_guess=True,
        after="",
        needs=("我叫", "我的名字是", "姓名"),
    )
    return [
        *(
            span_rule(kind, body, context=context, is_guess=True, needs=tuple(map(str.lower, needs)))
            for kind, body, context, needs in rules
        ),
        chinese,
    ]
