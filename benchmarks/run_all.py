"""Run every benchmark in turn (about an hour); `--rounds` and `--threads` are passed on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPTS = (
    "roofline",
    "decode",
    "prefill",
    "shapes",
    "int8_vs_fp32",
    "perplexity",
    "start",
    "serving",
    "cached",
    "api_overhead",
    "query",
    "event_loop_lag",
    "websocket_latency",
    "prompt_lookup",
)


def main() -> int:
    """The exit status is 1 if a script failed; a missed target is printed, not failed."""
    failed = []
    for name in SCRIPTS:
        script = Path(__file__).with_name(f"{name}.py")
        if subprocess.run([sys.executable, script, *sys.argv[1:]]).returncode:
            failed.append(name)
        print(flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
