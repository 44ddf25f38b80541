"""How long a token takes from the engine's event in the server to a WebSocket client in another process.

The server runs in this process as `glm serve` runs it, its engine in a process of its own; each delta of the engine is
noted with its text and the time. The client notes the same of what arrives. Both clocks are the
machine's monotonic one.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import statistics
import threading
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

from websockets.sync.client import connect

from glm_crush.config import ApiSettings, load_settings
from glm_crush.engine.output import RequestDelta
from glm_crush.models.loader import load_model
from glm_crush.serving.app import create_app
from glm_crush.serving.local_model import serve_loaded_model
from glm_crush.serving.served_models import ServedModels
from glm_crush.serving.server import bind, run_server
from glm_crush.serving.websocket.part import WebSocketPart
from harness import Spread, arguments, print_header
from peers.paths import ROOT, model

FILE = "smollm2-q4_0.gguf"
TARGET_MILLISECONDS = 1.0
TOKENS, GENERATIONS = 128, 12
Event = tuple[str, str, float]  # generation, new text, time


class NotedEngine:
    """An engine whose deltas are noted as they come."""

    def __init__(self, engine: Any, events: list[Event]) -> None:
        self._engine = engine
        self._events = events

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def submit(self, request_id: str, *arguments: Any, **options: Any) -> AsyncGenerator[RequestDelta, None]:
        """As the engine's own."""
        deltas = self._engine.submit(request_id, *arguments, **options)
        try:
            async for delta in deltas:
                self._events.append((request_id, delta.text, time.perf_counter()))
                yield delta
        finally:
            await deltas.aclose()


def client(url: str, concurrent: int, rounds: int, results: Any) -> None:
    """Generations over one connection, `concurrent` at a time; hands over what arrived, and when."""
    arrivals: list[Event] = []
    with connect(url.replace("http", "ws") + "/v1/ws") as socket:
        for number in range(rounds):
            for stream in range(concurrent):
                messages = [{"role": "user", "content": f"Tell me a story about the number {number}.{stream}."}]
                request = {"messages": messages, "max_tokens": TOKENS, "ignore_eos": True, "seed": 1}
                socket.send(json.dumps({"type": "chat", "id": f"{number}.{stream}", "request": request}))
            running = concurrent
            while running:
                text = socket.recv()
                now = time.perf_counter()
                message = json.loads(text)
                if message["type"] == "started":
                    continue
                if message["type"] == "error":
                    raise RuntimeError(f"the server answered: {text!r:.300}")
                if message["type"] == "done":
                    running -= 1
                elif content := message["chunk"]["choices"][0]["delta"].get("content"):
                    arrivals.append((message["chunk"]["id"], content, now))
    results.put(arrivals)


def overheads(events: list[Event], arrivals: list[Event]) -> list[float]:
    """Milliseconds from each event to the arrival of the text that it completed."""
    made, arrived = _by_whole_text(events), _by_whole_text(arrivals)
    found = []
    for text, steps in arrived.items():
        times = {len(step): when for step, when in reversed(made.get(text, []))}
        found += [1e3 * (when - times[len(step)]) for step, when in steps if len(step) in times]
    if len(found) < 0.5 * len(arrivals):
        raise RuntimeError(f"only {len(found)} of {len(arrivals)} arrivals belong to an event")
    return found


def _by_whole_text(events: list[Event]) -> dict[str, list[tuple[str, float]]]:
    """Client and engine give a generation different names; its whole text is the same."""
    texts: dict[str, str] = {}
    steps: dict[str, list[tuple[str, float]]] = {}
    for name, text, when in events:
        texts[name] = texts.get(name, "") + text
        steps.setdefault(name, []).append((texts[name], when))
    return {texts[name]: steps[name] for name in texts}


def main() -> None:
    """Print the figure."""
    options = arguments(__doc__).parse_args()
    print_header("S9: from the engine to a WebSocket client, SmolLM2-135M 4-bit")
    settings = load_settings(flags={"crush.weight_format": "q4"})
    loaded = load_model(model(FILE), cache_dir=ROOT / "packed", weight_format="q4")
    served, engine = serve_loaded_model("default", loaded, settings)
    events: list[Event] = []
    models = ServedModels([replace(served, engine=NotedEngine(engine, events))])
    api = ApiSettings(port=0)
    with bind(api) as bound:
        app = create_app(models, api, parts=[WebSocketPart(models)], on_shutdown=engine.close)
        lines: list[str] = []
        run_server(app, bound, api, on_ready=lambda url: measure_beside(url, events, options.rounds, lines))
    print("\n".join(lines))


def measure_beside(url: str, events: list[Event], rounds: int, lines: list[str]) -> None:
    """Let clients come while the server serves; then stop it."""

    def work() -> None:
        try:
            lines.extend(measure(url, events, concurrent, rounds) for concurrent in (1, 8))
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=work, daemon=True).start()


def measure(url: str, events: list[Event], concurrent: int, rounds: int) -> str:
    """One line: medians of the rounds."""
    context = multiprocessing.get_context("spawn")
    medians, slowest = [], []
    for _ in range(rounds):
        events.clear()
        results = context.Queue()
        process = context.Process(target=client, args=(url, concurrent, max(2, GENERATIONS // concurrent), results))
        process.start()
        times = overheads(events, results.get(timeout=300))
        process.join()
        medians.append(statistics.median(times))
        slowest.append(statistics.quantiles(times, n=100)[98])
    p50, p99 = Spread.of(medians), Spread.of(slowest)
    verdict = "met" if p50.median < TARGET_MILLISECONDS else "NOT met"
    return f"{concurrent} at a time: p50 {p50} ms, p99 {p99} ms, target p50 {TARGET_MILLISECONDS:g} ms: {verdict}"


if __name__ == "__main__":
    main()
