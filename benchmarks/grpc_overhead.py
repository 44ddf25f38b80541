"""N9: what gRPC costs over a call in the same process, and how many calls a second it takes.

The same small piece of work, tokenising a line, is asked of the codec directly and over gRPC on loopback, from a client
process; the difference of the medians is gRPC's share.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from pathlib import Path

import grpc

from glm_crush.chat.prompt_codec import PromptCodec
from glm_crush.models.loader import load_model
from glm_crush.serving.grpc import glm_crush_pb2 as pb
from harness import Spread, arguments, print_header
from peers.paths import ROOT, model
from peers.servers import free_port, wait_for_line

TEXT = "The quick brown fox jumps over the lazy dog."
TARGET_MILLISECONDS, TARGET_RATE = 2.0, 850.0
CALLS = 1000


def in_process(codec: PromptCodec) -> float:
    """Median milliseconds of one call."""
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        codec.encode(TEXT)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


async def over_grpc(port: int) -> tuple[float, float]:
    """Median milliseconds of one call at a time, and calls a second with 16 at a time."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        tokenize = channel.unary_unary(
            "/glm_crush.v1.Models/Tokenize",
            request_serializer=pb.TokenizeRequest.SerializeToString,
            response_deserializer=pb.TokenizeReply.FromString,
        )
        request = pb.TokenizeRequest(text=TEXT)
        times = []
        for _ in range(CALLS):
            start = time.perf_counter()
            await tokenize(request)
            times.append(1e3 * (time.perf_counter() - start))

        async def caller() -> None:
            for _ in range(CALLS // 4):
                await tokenize(request)

        start = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(16)))
        return statistics.median(times), 16 * (CALLS // 4) / (time.perf_counter() - start)


def main() -> None:
    """Print both figures."""
    options = arguments(__doc__).parse_args()
    print_header("N9: gRPC on loopback")
    file, port = model("smollm2-q4_0.gguf"), free_port()
    glm = Path(sys.executable).parent / "glm"
    command = [glm, "serve", file, "--weight-format", "q4", "--port", "0", "--grpc-port", str(port)]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True) as server:
        try:
            wait_for_line(server, "gRPC")
            codec = PromptCodec.for_model(load_model(file, cache_dir=ROOT / "packed", weight_format="q4"))
            rounds = [(in_process(codec), *asyncio.run(over_grpc(port))) for _ in range(options.rounds)]
        finally:
            server.terminate()
    overhead = Spread.of([grpc_ms - direct for direct, grpc_ms, _ in rounds])
    rate = Spread.of([rate for _, _, rate in rounds])
    print(f"overhead p50  {overhead} ms, target {TARGET_MILLISECONDS} ms: ", end="")
    print("met" if overhead.median < TARGET_MILLISECONDS else "NOT met")
    print(f"unary calls   {rate} /s, target {TARGET_RATE:.0f}/s: {'met' if rate.median > TARGET_RATE else 'NOT met'}")


if __name__ == "__main__":
    main()
