"""How much a text looks like an attempt to talk a model out of its instructions, in three languages.

Above: policies. Below: plain text. Every sign has a weight, and the score is the chance that at least one of them is
right: 1 - (1 - a)(1 - b)...; each sign counts once. These are rules: they find what is written like known attempts, and
a determined attacker finds words that they do not know. Use them beside a guard model, not instead of one.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass

from glm_crush.serving.guard.hidden import hidden_rules, plain_text
from glm_crush.serving.guard.scanner import RuleSet

__all__ = ["InjectionScore", "Injections"]

_LONGEST = 200_000  # characters that are looked at, half from each end
_BASE64 = re.compile(r"(?<![A-Za-z0-9+/_\-])[A-Za-z0-9+/_\-]{24,4096}={0,2}")
_SPACED = re.compile(r"(?:\b\w[ .\-_*]){6,200}\w\b")


@dataclass(frozen=True, slots=True)
class InjectionScore:
    """A score in [0, 1] and the names of the signs that made it."""

    score: float
    signs: tuple[str, ...]


_EN_RULES = r"(?:instructions?|prompts?|rules|guidelines|directions|directives|constraints|restrictions|policies|programming)"
_EN_OLD = r"(?:previous|prior|above|earlier|preceding|initial|original|system|your|all|any|every|the|these|those|my|of)"
_PT_RULES = r"(?:instruc(?:oes|ao)|regras?|ordens|orientac(?:oes|ao)|diretrizes|restric(?:oes|ao)|comandos?|prompts?)"
_PT_OLD = r"(?:todas?|todos?|as|os|a|o|suas?|seus?|tuas?|teus?|minhas?|quaisquer|qualquer|das|dos|de|essas?|estas?|anteriores)"
_ZH_OLD = r"(?:之前|以前|前面|先前|以上|上面|上述|此前|原来|原有|所有|一切|全部|任何|系统|你|您|的){1,6}"
_ZH_RULES = r"(?:指令|指示|规则|提示词?|命令|设定|要求|限制|约束)"

# (sign, weight, pattern over plain text). Counts are bounded, so that a text costs time by its length alone.
_SIGNS: tuple[tuple[str, float, str], ...] = (
    ("override", 0.75, rf"\b(?:ignore|disregard|forget|override|bypass|neglect|skip|drop) (?:{_EN_OLD} ){{1,6}}{_EN_RULES}\b"),
    ("override", 0.75, r"\b(?:ignore|disregard|forget) (?:everything|anything|all|what) (?:\w{1,12} ){0,3}(?:above|before|previously|said|told)\b"),
    ("override", 0.75, rf"\b(?:ignor[ae]|ignorem|ignorar|esquec[ae]|esqueca|esquecer|desconsider[ae]|desconsiderar|desobedec[ae]|despreze) (?:{_PT_OLD} ){{0,4}}{_PT_RULES}\b"),
    ("override", 0.75, r"\b(?:ignor[ae]|esquec[ae]|desconsider[ae]) (?:tudo|o que) (?:\w{1,12} ){0,4}(?:acima|antes|anteriormente|disse|dito)\b"),
    ("override", 0.75, rf"(?:忽略|无视|忘记|忘掉|不要理会|不用管|抛开|跳过|绕过)(?:掉|了)?{_ZH_OLD}{_ZH_RULES}"),
    ("override", 0.6, r"\b(?:new|updated|real) (?:system )?instructions? ?:"),
    ("leak", 0.6, rf"\b(?:reveal|show|print|repeat|output|display|tell|give|leak|recite|dump|what (?:is|are|was|were)) (?:me |us )?(?:{_EN_OLD} |exact |full |hidden |secret |verbatim ){{1,5}}(?:prompt|instructions|system message)\b"),
    ("leak", 0.6, rf"\b(?:revel[ae]|mostr[ae]|imprim[ae]|repit[ae]|diga|escrev[ae]|exib[ae]|qual e) (?:-?me )?(?:{_PT_OLD} ){{0,3}}(?:prompt|instrucoes|mensagem) (?:do sistema|de sistema|inicia(?:l|is)|origina(?:l|is)|ocult[ao]s?|secret[ao]s?)\b"),
    ("leak", 0.6, r"(?:显示|输出|告诉我|透露|泄露|重复|打印|复述|说出)(?:一下)?(?:你|您)?的?(?:全部|完整|原始|初始|隐藏)?的?(?:系统)(?:提示词?|指令|消息|设定)"),
    ("persona", 0.55, r"\b(?:you are|act as|pretend (?:to be|you are)|behave as|roleplay as|from now on you are) (?:now )?(?:an? |the )?(?:\w{1,14} ){0,3}(?:dan|jailbroken|unrestricted|unfiltered|uncensored|evil|amoral|developer mode)\b"),
    ("persona", 0.55, r"\b(?:do anything now|developer mode (?:enabled|on)|jailbreak mode|god mode|no (?:ethical|moral|content) (?:restrictions|limits|guidelines|filters?))\b"),
    ("persona", 0.55, r"\b(?:finja|aja|comporte-se|voce (?:e|agora e)|a partir de agora voce e) (?:como |que e |ser )?(?:um[a]? )?(?:\w{1,14} ){0,3}(?:sem (?:restricoes|filtros?|limites|regras|censura)|dan|desbloquead[ao])\b"),
    ("persona", 0.55, r"(?:你现在是|现在开始你是|扮演|假装(?:你是|成)?)[^,。;!?，；！？]{0,12}(?:没有(?:任何)?(?:限制|约束|道德|过滤)|不受(?:任何)?(?:限制|约束)|越狱|dan)"),
    ("persona", 0.5, r"(?:开发者模式|越狱模式|无限制模式)"),
    ("no_rules", 0.5, r"\b(?:without|ignoring|bypassing|free of|not bound by) (?:any |all |your |the )?(?:safety|ethical|content|moral) (?:guidelines|filters?|restrictions|rules|policies|limits)\b"),
    ("no_rules", 0.5, r"\b(?:sem|burlando|contornando|ignorando) (?:nenhum[a]? |qualquer |quaisquer |as |os |suas |teus )?(?:filtros?|restricoes|regras|limites|diretrizes) (?:de |eticas?|morais|da )"),
    ("markup", 0.7, r"<\|(?:im_start|im_end|system|user|assistant|endoftext|begin_of_text|start_header_id|eot_id)\|>|\[/?inst\]|<</?sys>>|<(?:start_of_turn|end_of_turn)>|\[gmask\]|<sop>"),
    ("markup", 0.45, r"(?:^|[\n.!?。] ?|### ?|\")(?:system|assistant|sistema|assistente|系统|助手) ?(?:prompt|message|override|mensagem|提示)? ?[:：]"),
    ("exfiltrate", 0.5, r"\b(?:send|post|forward|email|upload|exfiltrate|envi[ae]|encaminh[ae]) (?:\w{1,14} ){0,6}(?:conversation|chat history|api keys?|passwords?|credentials|conversa|senhas?|credenciais) (?:\w{1,14} ){0,3}(?:to|para|via) \S{1,40}"),
    ("exfiltrate", 0.45, r"!\[[^\]]{0,40}\]\(https?://[^)\s]{1,80}[?&=][^)]{0,80}[{$<]"),
    ("secrecy", 0.3, r"\b(?:do not|don't|never) (?:tell|mention|inform|reveal|alert|notify)(?: this)?(?: to)? (?:the )?(?:user|human|anyone|operator)s?\b"),
    ("secrecy", 0.3, r"\bnao (?:cont[ae]|mencione|revele|avise|informe|diga)(?: isto| isso)? (?:a|ao|para o) (?:usuario|utilizador|humano)\b"),
    ("secrecy", 0.3, r"(?:不要|别|不得)(?:告诉|透露给|提醒|通知)(?:用户|任何人|人类)"),
)  # fmt: skip


class Injections:
    """Scores texts. Compiles its patterns once."""

    def __init__(self) -> None:
        self._signs = [(name, weight, re.compile(pattern)) for name, weight, pattern in _SIGNS]
        self._hidden = RuleSet(hidden_rules())

    def score(self, text: str) -> InjectionScore:
        """How much it looks like an attempt."""
        if len(text) > _LONGEST:
            text = f"{text[: _LONGEST // 2]}\n{text[-_LONGEST // 2 :]}"
        weights: dict[str, float] = {}
        for name, weight in self._found(plain_text(text)):
            weights[name] = max(weight, weights.get(name, 0.0))
        if not text.isascii() and sum(1 for _ in self._hidden.find(text, 0, len(text))) > 0:
            weights["hidden"] = 0.3
        for unwrapped in _unwrapped(text):
            for name, weight in self._found(plain_text(unwrapped)):
                weights[name] = max(weight, weights.get(name, 0.0))
                weights["wrapped"] = 0.4
        missed = 1.0
        for weight in weights.values():
            missed *= 1.0 - weight
        return InjectionScore(round(1.0 - missed, 4), tuple(sorted(weights)))

    def _found(self, plain: str) -> Iterator[tuple[str, float]]:
        for name, weight, pattern in self._signs:
            if pattern.search(plain):
                yield name, weight


def _unwrapped(text: str) -> Iterator[str]:
    """What base64 and letters with spaces between them hide."""
    for found in _BASE64.finditer(text):
        body = found[0].rstrip("=").translate(str.maketrans("-_", "+/"))
        try:
            decoded = base64.b64decode(body + "=" * (-len(body) % 4)).decode()
        except (binascii.Error, UnicodeDecodeError):
            continue
        if decoded.isprintable() or "\n" in decoded:
            yield decoded
    for found in _SPACED.finditer(text):
        # i g n o r e   a l l: single separators go, what is wider parts words
        yield re.sub(r"(?<=\w)[ .\-_*](?=\w)", "", found[0])
