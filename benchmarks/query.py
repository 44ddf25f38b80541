"""A simple query over HTTP: 16 tokens in, 16 out, one client. The time from the request to the end of the reply."""

from __future__ import annotations

import statistics

from harness import Spread, arguments, print_header
from load import Workload, random_prompts
from peers.paths import model
from peers.servers import glm_server, running

FILE = "smollm2-q4_0.gguf"
TARGET_MILLISECONDS = 60.0
QUERIES = 40


def main() -> None:
    """Print the figure."""
    options = arguments(__doc__).parse_args()
    print_header("S9: a simple query, SmolLM2-135M 4-bit")
    medians, slowest = [], []
    with running(glm_server(model(FILE))) as (server,):
        server(Workload("warm-up", random_prompts(QUERIES, 16, 70), 16, 1))
        for number in range(options.rounds):
            result = server(Workload("16 in, 16 out", random_prompts(QUERIES, 16, 71 + number), 16, 1))
            times = [1e3 * seconds for seconds in result.total]
            medians.append(statistics.median(times))
            slowest.append(statistics.quantiles(times, n=20)[18])
    p50, p95 = Spread.of(medians), Spread.of(slowest)
    print(f"{QUERIES} queries a round: p50 {p50} ms, p95 {p95} ms, target p50 {TARGET_MILLISECONDS:.0f} ms: ", end="")
    print("met" if p50.median < TARGET_MILLISECONDS else "NOT met")


if __name__ == "__main__":
    main()
