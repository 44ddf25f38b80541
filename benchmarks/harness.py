"""What every figure shares: the facts of the machine, alternating runs, ratios taken pair by pair, the table."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from peers.engines import Engine, Task, best

ROUNDS = 5


@dataclass(frozen=True)
class Spread:
    """A figure: its median and the range of its samples."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """The spread of some samples."""
        return cls(statistics.median(samples), min(samples), max(samples))

    def __str__(self) -> str:
        """For example `355.2 [340.1 .. 361.0]`."""
        digits = 1 if self.median >= 20 else 2
        return f"{self.median:.{digits}f} [{self.low:.{digits}f} .. {self.high:.{digits}f}]"


@dataclass(frozen=True)
class Comparison:
    """Ours and a peer at one task, measured in turn: tokens a second of each round, and what the machine allowed."""

    task: Task
    ours: str
    peer: str
    our_speeds: Sequence[float]
    peer_speeds: Sequence[float]
    limits: Sequence[float] = ()

    @property
    def ratio(self) -> Spread:
        """Ours over the peer's, round by round."""
        return _ratios(self.our_speeds, self.peer_speeds)

    @property
    def possible_ratio(self) -> Spread:
        """What the machine allows over the peer's speed, round by round: the most that any ratio could be."""
        return _ratios(self.limits, self.peer_speeds)

    def report(self, target: float) -> None:
        """Print the pair, the ratio beside its target, and the distance to the physical limit."""
        met = "met" if self.ratio.median >= target else "NOT met"
        print(f"{self.task}")
        print(f"  {self.ours:<32} {Spread.of(self.our_speeds)} tok/s")
        print(f"  {self.peer:<32} {Spread.of(self.peer_speeds)} tok/s")
        print(f"  {'ratio':<32} {self.ratio}x, target {target}x: {met}")
        if self.limits:
            ours, peer = _ratios(self.our_speeds, self.limits), _ratios(self.peer_speeds, self.limits)
            print(
                f"  {'physical limit':<32} {Spread.of(self.limits)} tok/s: ours reaches {ours} of it, the peer {peer}"
            )
            print(f"  {'possible ratio':<32} {self.possible_ratio}x")
        print(flush=True)


def _ratios(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """Of each round."""
    return Spread.of([a / b for a, b in zip(numerators, denominators, strict=True)])


def compare(
    ours: Engine, peers: Sequence[Engine], task: Task, rounds: int, limit: Callable[[], float] | None = None
) -> Comparison:
    """Run ours and the fastest of `peers` in turn, `rounds` times; ratios are taken within each round.

    `limit` measures the tokens a second that the machine allows; it does so in each round, because it varies.
    """
    peer = best(list(peers), task) if len(peers) > 1 else peers[0]
    our_speeds, peer_speeds, limits = [], [], []
    for i in range(rounds):
        if limit is not None:
            limits.append(limit())
        for side in ("ours", "peer") if i % 2 == 0 else ("peer", "ours"):
            if side == "ours":
                our_speeds.append(ours(task))
            else:
                peer_speeds.append(peer(task))
    return Comparison(task, str(ours), str(peer), our_speeds, peer_speeds, limits)


def physical_cores() -> int:
    """Cores this process may use, counting the hardware threads of a core once."""
    allowed = os.sched_getaffinity(0)
    siblings = set()
    for cpu in allowed:
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        siblings.add(path.read_text().strip() if path.exists() else str(cpu))
    return len(siblings)


def arguments(description: str | None, **defaults: object) -> argparse.ArgumentParser:
    """The options of every benchmark: threads and rounds."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=physical_cores(), help="threads of every engine")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="pairs of runs (medians are taken over them)")
    parser.set_defaults(**defaults)
    return parser


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    return done.stdout.strip() if done.returncode == 0 else ""


def print_header(title: str) -> None:
    """What is measured, on which machine, of which commit."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":", 1)[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    commit = _run("git", "rev-parse", "--short", "HEAD")
    dirty = " with uncommitted changes" if _run("git", "status", "--porcelain", "--untracked-files=no") else ""
    print(f"# {title}")
    print(f"machine  {names[0] if names else platform.processor()}, {physical_cores()} cores, {memory:.0f} GiB,")
    print(f"         {platform.system()} {platform.release()}, Python {platform.python_version()}")
    print(f"commit   {commit}{dirty}")
    print(f"load     {os.getloadavg()[0]:.2f} (a figure taken beside other work is not one)\n", flush=True)
