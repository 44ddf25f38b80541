"""N3, N4: many clients over HTTP, against llama-server, OpenVINO's continuous batching and, where installed, vLLM.

Load generator, server and engine share the machine. Every server is started once; the workloads are played in turn,
with new random prompts in each round, and ratios are taken within a round. The physical limit is the peak of int8 dot
products, measured before each round, over the operations of the matrix products behind an output token.

    serving.py [clients] [prefix] [shapes]    128 in, 128 out at 1, 8 and 32 clients; 1,024 shared + 64 own tokens,
                                              64 out; 128 in, 64 out of models with random weights, which take minutes
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence

import roofline
from harness import Spread, arguments, print_header
from load import LoadResult, Workload, random_prompts
from peers.model_shapes import cost
from peers.paths import model
from peers.servers import OpenVinoPipeline, Server, glm_server, llama_server, running, vllm_server

FILE = "smollm2-q4_0.gguf"
# clients: (target against llama-server, target against the best peer)
TARGETS: dict[int, tuple[float, float | None]] = {1: (2.0, None), 8: (2.0, 2.0), 32: (2.0, 2.0)}
SHAPES = {"dense-1.5b": 2.0, "glm4moe-small": 2.5}  # against llama-server


def clients_workload(clients: int, round_number: int) -> Workload:
    """128 tokens in, 128 out."""
    count = max(4, 2 * clients)
    return Workload("128 in, 128 out", random_prompts(count, 128, 1000 * clients + round_number), 128, clients)


def shape_workload(clients: int, round_number: int) -> Workload:
    """128 tokens in, 64 out, one request for each client: large models take their time."""
    return Workload("128 in, 64 out", random_prompts(clients, 128, 5000 * clients + round_number), 64, clients)


def prefix_workload(round_number: int) -> Workload:
    """A prefix of 1,024 tokens that no server has seen, 64 more of each request's own."""
    return Workload("shared prefix", random_prompts(32, 1088, 77_000 + round_number, shared=1024), 64, 8)


def operations(workload: Workload) -> float:
    """Multiplications and additions of the matrix products behind one output token of the default model."""
    one = cost("smollm2-135m")
    prompts = sum(len(prompt) for prompt in workload.prompts) / len(workload.prompts)
    return (prompts / workload.output_tokens + 1) * one.prefill_operations() + 2.0 * one.head_weights


def alternate(
    servers: Sequence[Server], workloads: Sequence[Workload], before_round: Callable[[], None] = lambda: None
) -> dict[str, list[LoadResult]]:
    """Every workload on every server; the order changes from round to round."""
    results: dict[str, list[LoadResult]] = {server.name: [] for server in servers}
    for number, workload in enumerate(workloads):
        before_round()
        for server in servers if number % 2 == 0 else servers[::-1]:
            results[server.name].append(server(workload))
    return results


@contextlib.contextmanager
def started(
    options: argparse.Namespace, clients: int, tokens_per_client: int, vllm: Server | None
) -> Iterator[list[Server]]:
    """Ours and the peers; only vLLM takes so long to start that one start must do for all tables."""
    threads = options.threads
    ours = glm_server(model(FILE), *(("--speculation", "off") if options.without_speculation else ()))
    llama = llama_server(model(FILE), threads, clients, tokens_per_client)
    with running(ours, OpenVinoPipeline(model("ov-int4"), threads), llama) as servers:
        yield servers + ([] if vllm is None else [vllm])


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Ours over theirs, round by round."""
    return Spread.of([a / b for a, b in zip(ours, theirs, strict=True)])


def report(workload: Workload, results: dict[str, list[LoadResult]], target: float, best_target: float | None) -> None:
    """One table: throughput, first token, worst gap; then the ratios beside their targets."""
    print(workload)
    speeds = {name: [result.tokens_per_second for result in rounds] for name, rounds in results.items()}
    for name, rounds in results.items():
        first = Spread.of([1e3 * result.first_token_p50 for result in rounds])
        gap = Spread.of([1e3 * max(result.gaps, default=0.0) for result in rounds])
        print(
            f"  {name:<26} {Spread.of(speeds[name])} tok/s, first token p50 {first} ms, worst gap {gap.median:.0f} ms"
        )
    ours, *peers = speeds
    best_peer = max(peers, key=lambda name: Spread.of(speeds[name]).median)
    llama = next(name for name in peers if name.startswith("llama-server"))
    for peer, wanted in ((llama, target), (best_peer, best_target)):
        if wanted is not None:
            reached = ratio(speeds[ours], speeds[peer])
            verdict = "met" if reached.median >= wanted else "NOT met"
            print(f"  throughput against {peer}: {reached}x, target {wanted}x: {verdict}")
    print(flush=True)


def main() -> None:
    """Print the figures."""
    parser = arguments(__doc__)
    parser.add_argument("parts", nargs="*", choices=("clients", "prefix", "shapes", []), help="default: all")
    parser.add_argument("--without-vllm", action="store_true", help="leave vLLM out (it takes a minute to start)")
    parser.add_argument("--without-speculation", action="store_true", help="guess no tokens ahead")
    parser.add_argument("--shape", choices=SHAPES, action="append", help="models of the part `shapes` (default: both)")
    parser.add_argument("--clients", type=int, action="append", help="numbers of clients (default 1, 8, 32)")
    options = parser.parse_args()
    print_header("N3, N4: serving, 4-bit")
    parts = options.parts or ["clients", "prefix", "shapes"]
    without_vllm = options.without_vllm or parts == ["shapes"]  # which only llama-server is measured with
    vllm = None if without_vllm else vllm_server(options.threads)
    with running(vllm):
        measure(options, parts, vllm)


def measure(options: argparse.Namespace, parts: Sequence[str], vllm: Server | None) -> None:
    """The tables, with or without vLLM."""
    for clients in options.clients or TARGETS if "clients" in parts else ():
        measure_clients(options, clients, vllm)
    if "prefix" in parts:
        measure_prefix(options, vllm)
    if "shapes" in parts:
        measure_shapes(options)


def measure_clients(options: argparse.Namespace, clients: int, vllm: Server | None) -> None:
    """The table of one number of clients: llama-server's slots are fixed at its start, so all are started anew."""
    peaks: list[float] = []
    with started(options, clients, 256, vllm) as servers:
        alternate(servers, [clients_workload(clients, -1)])  # warms up
        workloads = [clients_workload(clients, number) for number in range(options.rounds)]
        results = alternate(
            servers, workloads, lambda: peaks.append(roofline.measure(options.threads).int8_operations_per_second)
        )
    report(workloads[0], results, *TARGETS.get(clients, (2.0, 2.0)))
    limits = [peak / operations(workloads[0]) for peak in peaks]
    reached = ratio([result.tokens_per_second for result in next(iter(results.values()))], limits)
    print(f"  physical limit {Spread.of(limits)} tok/s, reached {reached} of it\n", flush=True)


def measure_prefix(options: argparse.Namespace, vllm: Server | None) -> None:
    """The table of the shared prefix."""
    with started(options, 8, 1152, vllm) as servers:
        workloads = [prefix_workload(number) for number in range(options.rounds)]
        results = alternate(servers, workloads)
    report(workloads[0], results, 3.0, 1.4)
    ours, *peers_names = results
    llama = next(name for name in peers_names if name.startswith("llama-server"))
    first = {name: [result.first_token_p50 for result in results[name]] for name in (ours, llama)}
    reached = ratio(first[ours], first[llama])
    print(f"  first token p50 against {llama}: {reached}x, at most 0.25x: ", end="")
    print("met" if reached.median <= 0.25 else "NOT met", flush=True)


def measure_shapes(options: argparse.Namespace) -> None:
    """The tables of the models with random weights, which only llama-server has too."""
    for shape in options.shape or SHAPES:
        file = model(f"{shape}-q4_0.gguf")
        for clients in options.clients or (8, 32):
            with running(glm_server(file), llama_server(file, options.threads, clients, 192)) as servers:
                alternate(servers, [shape_workload(clients, -1)])  # warms up
                workloads = [shape_workload(clients, number) for number in range(options.rounds)]
                results = alternate(servers, workloads)
            print(shape, end=", ")
            report(workloads[0], results, SHAPES[shape], None)


if __name__ == "__main__":
    main()
