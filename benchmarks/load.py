"""A load generator for servers that speak OpenAI's completions: as light as it can be, for it shares the cores.

Prompts are token ids, replies have an exact length (`ignore_eos`), so that every engine does the same work.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import numpy as np

FIRST_ID, LAST_ID = 10, 40_000


@dataclass(frozen=True)
class Workload:
    """Requests that `clients` callers send one after the other, each waiting for its reply.

    Attributes:
        prompts: token ids, one prompt a request. output_tokens: length of every reply.
    """

    name: str
    prompts: Sequence[Sequence[int]] = field(repr=False)
    output_tokens: int
    clients: int

    def __str__(self) -> str:
        """For example `8 clients, 24 requests of 128 + 128 tokens`."""
        size = f"{len(self.prompts)} requests of {len(self.prompts[0])} + {self.output_tokens} tokens"
        return f"{self.name}: {self.clients} client{'s'[: self.clients > 1]}, {size}"


@dataclass(frozen=True)
class LoadResult:
    """What the callers saw: all times in seconds.

    Attributes:
        wall: from the first request to the end of the last reply. first_token, total: one entry a request. gaps:
            between two arrivals of a stream.
    """

    wall: float
    output_tokens: int
    first_token: Sequence[float]
    total: Sequence[float]
    gaps: Sequence[float]

    @property
    def tokens_per_second(self) -> float:
        """Output tokens of all replies over the wall time."""
        return self.output_tokens / self.wall

    @property
    def first_token_p50(self) -> float:
        """Median time to the first token."""
        return statistics.median(self.first_token)


def random_prompts(count: int, length: int, seed: int, *, shared: int = 0) -> list[list[int]]:
    """`count` prompts of random ids, the first `shared` of which all have in common."""
    random = np.random.default_rng(seed)
    head = random.integers(FIRST_ID, LAST_ID, shared).tolist()
    return [head + random.integers(FIRST_ID, LAST_ID, length - shared).tolist() for _ in range(count)]


def play(host: str, port: int, workload: Workload, *, key: str = "none") -> LoadResult:
    """Send the workload to a server and wait for all replies."""
    return asyncio.run(_play(host, port, workload, key))


async def _play(host: str, port: int, workload: Workload, key: str) -> LoadResult:
    todo = [_request_bytes(host, port, prompt, workload.output_tokens, key) for prompt in workload.prompts][::-1]
    first_token: list[float] = []
    total: list[float] = []
    gaps: list[float] = []

    async def client() -> None:
        while todo:
            request = todo.pop()
            started = before = time.perf_counter()
            # A connection for each request: not every server keeps them open.
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(request)
            arrivals = 0
            async for data in _events(reader):
                now = time.perf_counter()
                if data.startswith(b'{"error"') or b'"error":{' in data[:60]:
                    raise SystemExit(f"the server at port {port} answered: {data.decode(errors='replace')[:500]}")
                if b'"text":' in data and b'"choices":[]' not in data:
                    (gaps if arrivals else first_token).append(now - (before if arrivals else started))
                    arrivals += 1
                    before = now
                elif b'"usage"' in data:
                    _check_length(data, workload.output_tokens, port)
            total.append(time.perf_counter() - started)
            writer.close()

    begin = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(workload.clients)))
    wall = time.perf_counter() - begin
    return LoadResult(wall, workload.output_tokens * len(workload.prompts), first_token, total, gaps)


def _check_length(data: bytes, expected: int, port: int) -> None:
    usage = json.loads(data).get("usage")
    if usage and usage["completion_tokens"] != expected:
        raise SystemExit(f"the server at port {port} wrote {usage['completion_tokens']} tokens instead of {expected}")


def _request_bytes(host: str, port: int, prompt: Sequence[int], output_tokens: int, key: str) -> bytes:
    body = json.dumps(
        {
            "model": "default",
            "prompt": list(prompt),
            "max_tokens": output_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {key}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def _events(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The `data:` lines of one chunked reply, without `[DONE]`."""
    head = await reader.readuntil(b"\r\n\r\n")
    status = head.split(None, 2)[1]
    if status != b"200":
        raise SystemExit(f"status {status.decode()}: {(await reader.read(600)).decode(errors='replace')}")
    pending = b""
    while True:
        size = int(await reader.readline(), 16)
        data = (await reader.readexactly(size + 2))[:-2]
        if size == 0:
            return
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:") and b"[DONE]" not in line:
                yield line[5:].strip()
