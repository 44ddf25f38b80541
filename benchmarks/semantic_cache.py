"""S5: the semantic cache on questions that people ask: hit rate, wrong answers, and the time of an answer over HTTP.

    python benchmarks/semantic_cache.py [--model minilm] [--languages en pt zh] [--questions 3000] [--rounds 3]

The questions are those of `data/paraphrases.toml`: 28 that are asked in four ways, each beside two that differ in a
word or a number and have another answer. Traffic asks them by Zipf's law, one in five a near miss, in further
variations (a greeting before, thanks behind, without capitals or marks), so that none is asked twice in the same
words: those are the exact cache's. Whether an answer is right is known, so nothing is generated. The peer is what other
caches do: one fixed similarity for all, helped by telling numbers apart as ours does. Last, `glm serve` answers over
HTTP: a question the model answers, the same again, and a similar one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import tempfile
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import numpy as np

from glm_crush import EmbeddingModel
from glm_crush.cache.semantic.cache import SemanticBounds, SemanticCache, TextSpace
from glm_crush.cache.semantic.entry import numbers_in
from glm_crush.cache.semantic.index import SemanticIndex
from harness import Spread, arguments, print_header
from peers.servers import glm_server

DATA = Path(__file__).parent / "data" / "paraphrases.toml"
BEFORE = {
    "en": ("", "Hello! ", "Quick question: ", "Could you help me? ", "Please tell me: ", "Hi there, "),
    "pt": ("", "Olá! ", "Uma pergunta: ", "Podem ajudar-me? ", "Por favor: ", "Bom dia, "),
    "zh": ("", "你好！", "请问，", "想问一下，", "麻烦您，", "您好，"),
}
BEHIND = {
    "en": ("", " Thanks!", " Thank you.", " I need it today.", " Short answer please."),
    "pt": ("", " Obrigado!", " Preciso disso hoje.", " Resposta curta, por favor.", " Agradeço desde já."),
    "zh": ("", "谢谢！", "请简短回答。", "今天就要知道。", "多谢。"),
}


@dataclass(frozen=True)
class Asked:
    """One question and the name of its answer."""

    text: str
    answer: str


@dataclass
class Tally:
    """What became of the questions."""

    num_asked: int = 0
    num_given: int = 0
    num_wrong: int = 0

    def add(self, *, given: bool, right: bool) -> None:
        """One question more."""
        self.num_asked += 1
        self.num_given += given
        self.num_wrong += given and not right

    def __str__(self) -> str:
        wrong = self.num_wrong / max(1, self.num_given)
        return f"given {self.num_given / self.num_asked:6.1%}   wrong among them {wrong:6.2%} ({self.num_wrong})"


def traffic(languages: list[str], num_questions: int, seed: int) -> list[Asked]:
    """Questions in the order in which they are asked, each in other words than all before."""
    chance = random.Random(seed)
    groups = [group for group in tomllib.loads(DATA.read_text())["group"] if group["language"] in languages]
    chance.shuffle(groups)
    weights = [1 / place for place in range(1, len(groups) + 1)]
    asked: dict[str, Asked] = {}
    for group in chance.choices(groups, weights, k=20 * num_questions):
        near = chance.random() < 0.2
        core = chance.choice(group["near" if near else "same"])
        text = chance.choice(BEFORE[group["language"]]) + core + chance.choice(BEHIND[group["language"]])
        if chance.random() < 0.3:
            text = text.lower().rstrip("?？!！.。")
        asked.setdefault(text, Asked(text, core if near else group["same"][0]))
        if len(asked) == num_questions:
            break
    return list(asked.values())


def embedded(model: EmbeddingModel, questions: list[Asked]) -> dict[str, np.ndarray]:
    """A vector of length 1 for each text."""
    texts = [question.text for question in questions]
    vectors = np.concatenate([model.embed(texts[start : start + 256]).vectors for start in range(0, len(texts), 256)])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return dict(zip(texts, vectors.astype(np.float32), strict=True))


async def learnt(questions: list[Asked], vectors: dict[str, np.ndarray], bound: float, seed: int) -> list[Tally]:
    """Our cache: a tally of the first half of the traffic and one of the second."""

    async def embed(text: str) -> TextSpace | None:
        vector = vectors.get(text)
        return None if vector is None else TextSpace("benchmark", vector)

    bounds = SemanticBounds(error_bound=bound, answer_similarity=1.0, max_entries=10_000, ttl_seconds=1e9)
    index = SemanticIndex(max_entries=10_000, max_bytes=2**30)
    cache = SemanticCache(index, embed, bounds, chance=random.Random(seed).random)
    tallies = [Tally(), Tally()]
    for number, question in enumerate(questions):
        found = await cache.look_up("tenant", "benchmark", question.text)
        assert found is not None
        right = found.nearest is not None and found.nearest.reply_key == question.answer
        if not found.gives_answer:
            await cache.learn(found, question.answer, question.answer)
        tallies[2 * number // len(questions)].add(given=found.gives_answer, right=right)
    return tallies


@dataclass
class FixedThreshold:
    """What other caches do: the answer of the nearest question if it is near enough."""

    threshold: float
    tells_numbers: bool
    known: dict[str, tuple[list[np.ndarray], list[str]]] = field(default_factory=dict)

    def ask(self, question: Asked, vector: np.ndarray, tally: Tally) -> None:
        """Answer a question, or keep it."""
        numbers = " ".join(numbers_in(question.text)) if self.tells_numbers else ""
        kept, answers = self.known.setdefault(numbers, ([], []))
        if kept:
            cosines = np.stack(kept) @ vector
            best = int(cosines.argmax())
            if cosines[best] >= self.threshold:
                tally.add(given=True, right=answers[best] == question.answer)
                return
        tally.add(given=False, right=False)
        kept.append(vector)
        answers.append(question.answer)


def compare(model: EmbeddingModel, chosen: argparse.Namespace) -> None:
    """Print what is given and what of it is wrong, by bound and by threshold."""
    for seed in range(chosen.rounds):
        questions = traffic(chosen.languages, chosen.questions, seed)
        vectors = embedded(model, questions)
        print(f"traffic {seed + 1}: {len(questions)} questions, {len({q.answer for q in questions})} answers")
        for bound in (0.01, 0.02, 0.05):
            first, second = asyncio.run(learnt(questions, vectors, bound, seed))
            print(f"  learnt, bound {bound:<5}  first half: {first}   second half: {second}")
        for threshold in (0.8, 0.9, 0.95, 0.98):
            fixed, tally = FixedThreshold(threshold, tells_numbers=True), Tally()
            for question in questions:
                fixed.ask(question, vectors[question.text], tally)
            print(f"  fixed at {threshold:<12} all: {tally}")
        print(flush=True)


def latency(chosen: argparse.Namespace) -> None:
    """Milliseconds over HTTP: computed, the same again, a similar one."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {
            "GLM_STORAGE_URL": f"sqlite:///{folder}/glm.db",
            "GLM_CACHE_SEMANTIC": "on",
            "GLM_CACHE_SEMANTIC_ERROR_BOUND": "0.4",  # gives similar answers at once: their time is what is measured
        }
        server = glm_server(Path("smollm2:135m"), "--embedding-model", chosen.model, keeps_answers=True)
        try:
            questions = [question.text for question in traffic(chosen.languages, 200, 0)]
            with httpx2.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=60) as client:

                def ask(text: str) -> tuple[str, float]:
                    body = {"temperature": 0, "max_tokens": 32, "messages": [{"role": "user", "content": text}]}
                    start = time.perf_counter()
                    reply = client.post("/v1/chat/completions", json=body)
                    return reply.headers["x-glm-cache"], 1e3 * (time.perf_counter() - start)

                measured: dict[str, list[float]] = {"miss": [], "hit": [], "semantic": []}
                for text in [*questions, *questions]:
                    outcome, milliseconds = ask(text)
                    measured[outcome].append(milliseconds)
        finally:
            server.close()
    print("over HTTP, milliseconds")
    for outcome, times in measured.items():
        p99 = statistics.quantiles(times, n=100)[98]
        print(f"  {outcome:<9} p50 {Spread.of(times)}, p99 {p99:.1f}, {len(times)} requests")


def main() -> None:
    """The command line."""
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--model", default="minilm", help="embedding model")
    parser.add_argument("--languages", nargs="+", default=["en", "pt", "zh"])
    parser.add_argument("--questions", type=int, default=3000)
    parser.add_argument("--no-http", action="store_true", help="leave out the times over HTTP")
    chosen = parser.parse_args()
    print_header(f"S5: semantic cache, {chosen.model}, {' '.join(chosen.languages)}")
    compare(EmbeddingModel(chosen.model, threads=chosen.threads), chosen)
    if not chosen.no_http:
        latency(chosen)


if __name__ == "__main__":
    main()
