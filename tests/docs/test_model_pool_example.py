"""The worked example of docs/design/model-pool.md is what the rules do."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from glm_crush.errors import OverloadedError
from glm_crush.serving.model_pool.residency import Residency, Slot
from tests.docs.blocks import ROOT

PAGE = (ROOT / "docs" / "design" / "model-pool.md").read_text()
SIZES = {"a": 4, "b": 3, "c": 3, "d": 5}


class Replay:
    """One method for each kind of row."""

    def __init__(self) -> None:
        self.residency = Residency(10, 60.0)

    def load(self, name: str, second: float, *, pinned: bool = False) -> list[Slot]:
        """Ask for a model that is not there; the victims."""
        slot = self.residency.open(name, second, pinned=pinned)
        if not pinned:
            self.residency.take(slot, second)
        try:
            victims = self.residency.claim(slot, SIZES[name])
        except OverloadedError:
            self.residency.forget(slot)
            raise
        self.start(second)
        return victims

    def start(self, second: float) -> None:
        for slot in self.residency.start_waiting():
            self.residency.loaded(slot, second)

    def take(self, name: str, second: float) -> None:
        self.residency.take(self.slot(name), second)

    def let_go(self, name: str, second: float) -> None:
        assert not self.residency.let_go(self.slot(name), second)

    def gone(self, name: str, second: float) -> None:
        [slot] = [slot for slot in self.residency if slot.name == name]
        self.residency.forget(slot)
        self.start(second)

    def slot(self, name: str) -> Slot:
        slot = self.residency.get(name)
        assert slot is not None
        return slot

    def cells(self) -> str:
        slots = sorted(self.residency, key=lambda slot: slot.name)
        shown = [
            f"({s.name})" if s.state == "closing" else f"{s.name}{s.num_users}" for s in slots if s.state != "waiting"
        ]
        return f"{' '.join(shown)} | {self.residency.promised_bytes}"


def refused(load: Callable[[], object]) -> None:
    try:
        load()
    except OverloadedError:
        return
    raise AssertionError


def steps(replay: Replay) -> Iterator[tuple[int, object]]:
    yield 0, replay.load("a", 0, pinned=True)
    yield 1, replay.load("b", 1)
    yield 2, replay.load("c", 2)
    yield 3, refused(lambda: replay.load("d", 3))
    yield 4, replay.let_go("b", 4)
    yield 5, refused(lambda: replay.load("d", 5))
    yield 6, replay.let_go("c", 6)
    yield 7, replay.take("b", 7)
    yield 8, replay.let_go("b", 8)
    victims = replay.load("d", 9)
    assert [slot.name for slot in victims] == ["c", "b"]
    yield 9, None
    yield 10, replay.gone("c", 10)
    yield 11, replay.gone("b", 11)
    yield 12, replay.let_go("d", 12)
    assert replay.residency.expired(71) == []
    yield 71, None
    assert [slot.name for slot in replay.residency.expired(72)] == ["d"]
    yield 72, None
    yield 73, replay.gone("d", 73)


def test_the_rows_of_the_example_are_what_the_rules_do() -> None:
    replay = Replay()
    rows = []
    for second, _ in steps(replay):
        replay.residency.check_integrity()
        rows.append((str(second), replay.cells()))
    table = PAGE.split("## Worked example")[1].split("|---|---|---|---|\n")[1].split("\n\n")[0]
    written = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]
    assert [(second, f"{memory} | {promised}") for second, _, memory, promised in written] == rows
