"""Characters that nobody sees and models read: a rule that finds them, and plain text for rules about words.

Above: the policies, the injection rules. Below: span rules. Joiners stay where scripts and emoji need them.
"""

from __future__ import annotations

import re
import unicodedata

from glm_crush.serving.guard.rule import SpanRule, span_rule

__all__ = ["hidden_rules", "plain_text"]

# Zero-width space, word joiner and invisible operators, no-break mark, soft hyphen, directions, tags.
_HIDDEN = "\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\U000e0000-\U000e007f"
_JOINERS = "\u200c\u200d"
_REMOVED = re.compile(f"[{_HIDDEN}{_JOINERS}\ufe00-\ufe0f]")
_MARKS = re.compile("[\u0300-\u036f]")  # accents

# Letters of other scripts that look like Latin ones (a part of Unicode's confusables, in lower case).
_LOOKALIKES = str.maketrans(
    "аеорсухіјѕԁһӏԛԝкмтвнпгαβεικνορτυχγωаеıℓ∣｜",
    "aeopcyxijsdhlqwkmtbhnrabeiknoptuxywaeilll",
)


def hidden_rules() -> list[SpanRule]:
    """The rule `hidden`; what it redacts is left out."""
    latin = "A-Za-z0-9 "
    return [
        span_rule("hidden", f"[{_HIDDEN}]{{1,64}}", label="", before="", after=""),
        span_rule(
            "hidden",
            f"[{_JOINERS}]{{1,8}}",
            label="",
            context=f"[{latin}]",
            before="",
            after=f"^{latin}",
            needs=tuple(_JOINERS),
        ),
    ]


def plain_text(text: str) -> str:
    """The text as a reader takes it: compatibility forms and lookalikes folded, nothing hidden, no accents, lower case.

    Spaces and line breaks are one space each.
    """
    folded = _REMOVED.sub("", unicodedata.normalize("NFKC", text)).lower().translate(_LOOKALIKES)
    if not folded.isascii():
        folded = unicodedata.normalize("NFC", _MARKS.sub("", unicodedata.normalize("NFD", folded)))
    return " ".join(folded.split())
