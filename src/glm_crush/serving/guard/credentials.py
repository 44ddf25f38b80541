"""Rules for secrets: keys and tokens of known shapes, private keys, passwords in assignments and addresses.

Above: policies. Below: span rules.
"""

from __future__ import annotations

import base64
import re

from glm_crush.serving.guard.checksums import entropy
from glm_crush.serving.guard.rule import SpanRule, span_rule
from glm_crush.serving.guard.tails import TailOf, TailUntil

__all__ = ["credential_rules"]

_LEAST_BITS = 2.75  # per character: below it is a word or a pattern
_PLACEHOLDER = re.compile(
    r"(?i)^(?:x{4,}|\*{3,}|\.{3,}|your|my_?|<|\$|\{|%|example|changeme|placeholder|redacted|none|null|true|false|os\.|"
    r"process\.|getenv|env|self\.|config|settings)"
)
_TOKEN = TailOf.characters(r"A-Za-z0-9_\-")
_JWT_HEADS = ('{"alg"', '{"typ"', '{"kid"', '{"enc"', '{"cty"', '{"jku"', '{"x5')
_LARGEST_KEY = 16_384


def _looks_random(text: str) -> int | None:
    """Random text mixes kinds of characters; words joined by hyphens do not."""
    body = text[3:]
    return len(text) if any(c.isdigit() or c.isupper() for c in body) and entropy(body) > _LEAST_BITS else None


def _assigned(text: str) -> int | None:
    """What an assignment gives, if it looks like a secret and not like a word, a call or a place-holder."""
    value = text.rstrip(").]}>")
    if len(value) < 8 or _PLACEHOLDER.search(value) or value.endswith("(") or "(" in value[:-1]:
        return None
    kinds = [str.isdigit, str.isalpha, lambda character: not character.isalnum()]
    num_kinds = sum(any(map(is_kind, value)) for is_kind in kinds)
    return len(value) if num_kinds >= 2 and entropy(value) > _LEAST_BITS else None


def _jwt(text: str) -> int | None:
    head = text.partition(".")[0][:20]
    try:
        decoded = base64.urlsafe_b64decode(head).decode("latin-1")
    except ValueError:
        return None
    return len(text) if decoded.replace(" ", "").startswith(_JWT_HEADS) else None


def credential_rules() -> list[SpanRule]:
    """All of them; where two find something at the same place, the earlier one has it."""
    return [*_keys(), *_tokens(), *_others()]


def _keys() -> list[SpanRule]:
    end = re.compile(r"-----END [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----")
    return [
        span_rule(
            "secrets.private_key",
            r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----",
            label="[PRIVATE-KEY]",
            tail=TailUntil(end, 64, _LARGEST_KEY),
            before="",
            after="",
            needs=("private key",),
        ),
        span_rule("secrets.glm_key", r"glm_[A-Za-z0-9]{8}_[A-Za-z0-9]{43}", label="[API-KEY]", needs=("glm_",)),
    ]


def _tokens() -> list[SpanRule]:
    word = r"[A-Za-z0-9_\-]"
    shapes = [
        ("openai_key", rf"sk-{word}{{20}}", "sk-"),
        ("aws_key", r"(?:AKIA|ASIA)[A-Z2-7]{16}", "IA"),
        ("github_token", r"gh[pousr]_[A-Za-z0-9]{36}", "gh"),
        ("github_token", r"github_pat_[A-Za-z0-9_]{22}", "github_pat_"),
        ("gitlab_token", rf"glpat-{word}{{20}}", "glpat-"),
        ("slack_token", r"xox[abeprs]-[A-Za-z0-9\-]{10}", "xox"),
        ("google_key", rf"AIza{word}{{35}}", "AIza"),
        ("stripe_key", r"[rs]k_(?:live|test)_[A-Za-z0-9]{16}", "k_"),
        ("huggingface_token", r"hf_[A-Za-z0-9]{30}", "hf_"),
        ("npm_token", r"npm_[A-Za-z0-9]{36}", "npm_"),
        ("pypi_token", rf"pypi-AgEI{word}{{16}}", "pypi-"),
        ("telegram_token", r"\d{8,10}:[A-Za-z0-9_\-]{35}", ":"),
    ]
    rules = [
        span_rule(
            f"secrets.{kind}",
            body,
            label="[API-KEY]",
            check=_looks_random if kind == "openai_key" else None,
            tail=None if kind in ("aws_key", "telegram_token") else _TOKEN,
            after=r"A-Za-z\d_" if kind in ("aws_key", "telegram_token") else "",
            needs=(literal.lower(),),
        )
        for kind, body, literal in shapes
    ]
    jwt = span_rule(
        "secrets.jwt",
        rf"eyJ{word}{{17}}",
        check=_jwt,
        tail=TailOf.characters(r"A-Za-z0-9_\-."),
        after="",
        needs=("eyj",),
    )
    return [*rules, jwt]


def _others() -> list[SpanRule]:
    words = (
        r"(?:api[_\- ]?key|secret(?:[_\- ]?(?:access[_\- ]?)?key)?|(?:access|auth|bearer|refresh)[_\- ]?token|token|"
        r"password|passwd|passphrase|pwd|senha|palavra[\- ]passe|chave secreta|密码|口令|密钥)"
    )
    return [
        span_rule(
            "secrets.assignment",
            r"""[^\s"'`,;]{8,128}""",
            context=words + r"""["'`]?[ ]{0,3}(?:=>|[=:：]|is |é |是)[ ]{0,3}["'`]?""",
            label="[SECRET]",
            check=_assigned,
            before="A-Za-z",
            after="",
            ignore_case=True,
            needs=("key", "secret", "token", "pass", "pwd", "senha", "chave", "密码", "口令", "密钥"),
        ),
        span_rule(
            "secrets.url_password",
            r"[^\s:/@]{3,64}",
            context=r"[A-Za-z][A-Za-z0-9+\-]{1,15}://[^\s:/@]{1,64}:",
            label="[SECRET]",
            after=r"^@",
            needs=("://",),
        ),
    ]
