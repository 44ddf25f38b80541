"""The guard: how often its rules are right on a labelled set, what a text costs, and how much of a stream is held back.

    guard.py                      rules alone; peer: one expression for e-mail addresses over the same text

The labelled texts are `data/guard_texts.toml`. The peer is the least that any filter in Python costs.
"""

from __future__ import annotations

import re
import statistics
import time
import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from glm_crush.guard_settings import GuardSettings
from glm_crush.serving.guard.build import build_guard
from glm_crush.serving.guard.filters import Filters
from glm_crush.serving.guard.injection import Injections
from glm_crush.serving.guard.policy import parse_actions
from harness import arguments, print_header

TEXTS = Path(__file__).parent / "data" / "guard_texts.toml"
POLICY = "pii=redact, secrets=redact, hidden=redact"
SAMPLES = {
    "English prose": "The quick brown fox jumps over the lazy dog, and then it sleeps until the evening comes. ",
    "Portuguese prose": "A raposa castanha salta por cima do cão preguiçoso, e depois dorme até à noite. ",
    "Chinese prose": "敏捷的棕色狐狸跳过了懒狗，然后一直睡到晚上。今天天气很好，我们去公园散步。",
    "code": "for i in range(10):\n    total += values[i] * 0.25  # see issue 1234\n    print(f'{i}: {total}')\n",
    "numbers": "12.5, 340, 7781.25, 99, 1024, 3.14159, 2026-11-22, 10:45, 1/3, 55.0, 8192\n",
    "full of findings": "ana@example.com, CPF 529.982.247-25, +55 11 91234-5678, 4111 1111 1111 1111; ",
}
TOKEN_CHARACTERS = 4


def seconds_of(call: Callable[[], object], rounds: int) -> float:
    """The median time of a call."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def print_quality(filters: Filters, injections: Injections, threshold: float) -> None:
    """Precision and recall of each group of rules: one decision for each text and rule."""
    right, wrong, missed = Counter[str](), Counter[str](), Counter[str]()
    texts = tomllib.loads(TEXTS.read_text(encoding="utf-8"))["text"]
    for entry in texts:
        wanted = set(entry["found"])
        rules = {rule for rule, _ in filters.apply(entry["text"]).found}
        found = {rule if rule.startswith("pii") else "secrets" for rule in rules}
        if injections.score(entry["text"]).score >= threshold:
            found.add("injection")
        for rule in wanted | found:
            counter = right if rule in wanted & found else wrong if rule in found else missed
            counter[rule.partition(".")[0]] += 1
        if found != wanted:
            print(f"  missed {sorted(wanted - found)} wrong {sorted(found - wanted)}: {entry['text'][:60]!r}")
    print(f"\n{len(texts)} texts, of which {sum(not entry['found'] for entry in texts)} hold nothing\n")
    print(f"{'':12}{'precision':>10}{'recall':>10}")
    for group in ("pii", "secrets", "injection"):
        precision = right[group] / max(1, right[group] + wrong[group])
        recall = right[group] / max(1, right[group] + missed[group])
        counts = f"{right[group]} right, {wrong[group]} wrong, {missed[group]} missed"
        print(f"{group:12}{precision:10.2f}{recall:10.2f}   ({counts})")


def print_speed(filters: Filters, injections: Injections, rounds: int) -> None:
    """Time of 1,000 characters whole, and of a token of a stream, for each kind of text."""
    email = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
    columns = ("us/1,000", "MB/s", "us/token", "held", "injection", "e-mail", "ratio")
    units = ("whole", "whole", "stream", "mean, most", "us/1,000", "us/1,000", "")
    for titles in (columns, units):
        print(f"{'':18}" + "".join(f"{title:>11}" for title in titles))
    for name, sentence in SAMPLES.items():
        text = (sentence * (20_000 // len(sentence) + 1))[:20_000]
        whole = seconds_of(lambda text=text: filters.apply(text), rounds)
        score = seconds_of(lambda text=text: injections.score(text), rounds)
        peer = seconds_of(lambda text=text: email.sub("[EMAIL]", text), rounds)
        held: list[int] = []

        def stream(text: str = text, held: list[int] = held) -> None:
            flow = filters.begin()
            for start in range(0, len(text), TOKEN_CHARACTERS):
                flow.push(text[start : start + TOKEN_CHARACTERS])
                held.append(flow.num_held)
            flow.push("", final=True)

        streamed = seconds_of(stream, rounds)
        thousands, tokens = len(text) / 1000, len(text) / TOKEN_CHARACTERS
        megabytes = len(text.encode()) / 1e6
        figures = (
            f"{whole / thousands * 1e6:.0f}",
            f"{megabytes / whole:.1f}",
            f"{streamed / tokens * 1e6:.1f}",
            f"{statistics.mean(held):.1f}, {max(held)}",
            f"{score / thousands * 1e6:.0f}",
            f"{peer / thousands * 1e6:.1f}",
            f"{whole / peer:.1f}",
        )
        print(f"{name:18}" + "".join(f"{figure:>11}" for figure in figures))


def main() -> None:
    """Quality, then speed."""
    parser = arguments(__doc__, rounds=9)
    options = parser.parse_args()
    print_header("guard: private data, secrets, injection")
    settings = GuardSettings()
    built = build_guard(settings)
    filters = Filters(parse_actions(POLICY, built.book, "input"), built.book)
    print_quality(filters, built.injections, settings.injection_threshold)
    print_speed(filters, built.injections, options.rounds)


if __name__ == "__main__":
    main()
