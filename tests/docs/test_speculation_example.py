"""The worked example and the numbers of docs/design/speculation.md are what the engine does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from glm_crush.config import CrushSettings
from glm_crush.engine.draft_lengths import StepCosts, choose_lengths
from glm_crush.engine.draft_record import DraftRecord
from glm_crush.engine.prompt_lookup import _FIRST_RATES, _LENGTHS, _MAX_COMPARED, PromptLookup
from glm_crush.engine.request import Request
from glm_crush.types import SamplingParams
from tests.docs.blocks import ROOT
from tests.engine.scripted import ScriptedExecutor, logits_for, make_engine

PAGE = (ROOT / "docs" / "design" / "speculation.md").read_text()
PROMPT, REPLY = "abcdefgh,ab", "cdefXh,ab"


class RecordingLookup(PromptLookup):
    """Keeps what was found and guessed in the last step."""

    repeat = guess = ""

    def certainty(self, request: Request) -> int | None:
        certainty = super().certainty(request)
        length = 0 if certainty is None else self._indexes[request].length
        self.repeat = spelled(request.token_ids[request.num_tokens - length :]) if length else ""
        self.guess = ""
        return certainty

    def draft(self, lengths: Mapping[Request, int]) -> dict[Request, Sequence[int]]:
        drafts = super().draft(lengths)
        [self.guess] = map(spelled, drafts.values())
        return drafts


def spelled(token_ids: Sequence[int]) -> str:
    return "".join(LETTERS[token] for token in token_ids)


LETTERS = "abcdefghijklmnopqrstuvwxyzX., "


def replay() -> list[str]:
    """The rows of the page's table."""
    text = [LETTERS.index(letter) for letter in PROMPT + REPLY]
    lookup = RecordingLookup()
    engine = make_engine(
        executor=ScriptedExecutor(logits=logits_for(lambda context: text[len(context)])),
        drafter=lookup,
        max_draft_tokens=12,
        make_detokenizer=None,
        clock=lambda: 0.0,
    )
    engine.add_request(text[: len(PROMPT)], SamplingParams(temperature=0.0, max_tokens=len(REPLY)))
    rows = []
    while engine.has_unfinished:
        [delta] = engine.step()
        stats = delta.stats
        rows.append(" | ".join([str(len(rows) + 1), lookup.repeat, lookup.guess, spelled(delta.token_ids)]))
        engine.check_integrity()
    assert stats is not None
    rows.append(f"{stats.num_drafted_tokens} guessed, {stats.num_accepted_tokens} right")
    return rows


def test_the_steps_of_the_page_are_what_the_engine_does() -> None:
    *rows, counts = replay()
    table = PAGE.split("## Worked example")[1].split("\n|---|---|---|---|\n")[1].split("\n\n")[0]
    cells = [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in table.splitlines()]
    assert [[cell.strip() for cell in row.split("|")] for row in rows] == cells
    assert counts in " ".join(PAGE.split())


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    text = " ".join(PAGE.split())
    assert f"up to {CrushSettings().speculation_max_tokens} tokens" in text
    assert f"latest {_MAX_COMPARED} places" in text
    for length, rate in zip(_LENGTHS, _FIRST_RATES, strict=True):
        assert f"| {length} | {rate:.0%} |".replace("%", " %") in text
    assert f"1 / {1 / StepCosts().share_per_draft(1):.0f}" in text
    [long] = choose_lengths([0.9], [99], num_seqs=1, share=1 / 7)
    [short] = choose_lengths([0.25], [99], num_seqs=1, share=1 / 7)
    assert f"At 90 % it guesses {long} tokens, at 25 % {short}" in text
    record, tries = DraftRecord([0.1]), []
    for position in range(1, 250):
        if record.may_probe(position):
            tries.append(position - sum(tries))
            record.note(0, 0, 1, position)
    assert "after {}, {}, {} ... tokens".format(*tries) in text
