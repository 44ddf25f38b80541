"""Benchmarks are not tests, but the arithmetic of their figures is tested."""

from __future__ import annotations

import pytest

import harness
from peers.engines import Task
from peers.model_shapes import cost

TASK = Task(generate_tokens=128)


class ScriptedEngine:
    """Returns its speeds in turn and notes each call in a shared log."""

    def __init__(self, name: str, speeds: list[float], log: list[str]) -> None:
        self.name, self.speeds, self.log = name, iter(speeds), log

    def __call__(self, task: Task) -> float:
        self.log.append(self.name)
        return next(self.speeds)

    def __str__(self) -> str:
        return self.name


def test_runs_alternate_so_that_neither_side_is_always_first() -> None:
    log: list[str] = []
    ours, peer = ScriptedEngine("ours", [2.0] * 3, log), ScriptedEngine("peer", [1.0] * 3, log)
    harness.compare(ours, [peer], TASK, rounds=3)
    assert log == ["ours", "peer", "peer", "ours", "ours", "peer"]


def test_the_ratio_is_taken_within_each_round() -> None:
    ours = ScriptedEngine("ours", [200.0, 100.0, 90.0], [])
    peer = ScriptedEngine("peer", [100.0, 40.0, 60.0], [])
    comparison = harness.compare(ours, [peer], TASK, rounds=3)
    assert comparison.ratio == harness.Spread(median=2.0, low=1.5, high=2.5)


def test_the_limit_is_measured_in_each_round_for_it_varies(capsys: pytest.CaptureFixture[str]) -> None:
    ours = ScriptedEngine("ours", [90.0, 45.0], [])
    peer = ScriptedEngine("peer", [80.0, 40.0], [])
    limits = iter([100.0, 50.0])
    comparison = harness.compare(ours, [peer], TASK, rounds=2, limit=lambda: next(limits))
    assert comparison.possible_ratio == harness.Spread(median=1.25, low=1.25, high=1.25)
    comparison.report(target=1.7)
    printed = capsys.readouterr().out
    assert "ours reaches 0.90 [0.90 .. 0.90] of it, the peer 0.80 [0.80 .. 0.80]" in printed
    assert "possible ratio                   1.25 [1.25 .. 1.25]x" in printed
    assert "target 1.7x: NOT met" in printed


def test_the_peer_of_a_comparison_is_the_fastest_of_its_settings() -> None:
    slow, fast = ScriptedEngine("slow", [1.0], []), ScriptedEngine("fast", [3.0, 4.0], [])
    comparison = harness.compare(ScriptedEngine("ours", [8.0], []), [slow, fast], TASK, rounds=1)
    assert (comparison.peer, comparison.ratio.median) == ("fast", 2.0)


@pytest.mark.requirement("N6")
def test_a_decode_step_of_smollm2_reads_every_weight_once() -> None:
    smollm2 = cost("smollm2-135m")
    assert smollm2.layer_weights + smollm2.head_weights == 134_479_872
    assert smollm2.decode_bytes("q4", depth=0) == 134_479_872 * 4.5 / 8
    assert smollm2.decode_bytes("q4", depth=4096) - smollm2.decode_bytes("q4", depth=0) == 4096 * 30 * 2 * 3 * 64 * 2


def test_a_token_of_a_mixture_reads_only_the_experts_it_is_sent_to() -> None:
    one_expert = 3 * 1024 * 512
    attention = 2 * 1024 * 1024 + 2 * 1024 * 256
    assert cost("glm4moe-small").layer_weights == 24 * attention + 3 * 1024 * 3072 + 23 * 9 * one_expert
