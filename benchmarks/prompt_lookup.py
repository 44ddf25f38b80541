"""Prompt lookup on and off in turn, SmolLM2-135M 4-bit: tasks that repeat their prompt, and tasks that do not.

Issue 3 asks for 1.5 times the speed on a copy or edit task and at least 0.95 times where it does not help. The replies
of both sides are compared token by token. The figure is decode speed: tokens after the first over the time they took.
"""

from __future__ import annotations

from collections.abc import Mapping

from glm_crush import LLM, SamplingParams
from harness import Spread, arguments, print_header
from peers.paths import model

CODE = '''class Inventory:
    """Counts what is in a warehouse."""

    def __init__(self, name, capacity):
        self.name = name
        self.capacity = capacity
        self.items = {}

    def add(self, item, count):
        total = sum(self.items.values()) + count
        if total > self.capacity:
            raise ValueError("the warehouse is full")
        self.items[item] = self.items.get(item, 0) + count

    def remove(self, item, count):
        if self.items.get(item, 0) < count:
            raise ValueError("there are not so many")
        self.items[item] -= count
'''
EDITED = CODE.replace("warehouse", "library")
LETTER = (
    "Dear Mr Baker, thank you for your letter of 3 May. The garden party will take place on Saturday, 12 June, from "
    "three o'clock in the afternoon, in the park behind the town hall. Tea, cake and cold drinks will be served, and a "
    "small band will play until the evening. Please tell us by the end of the month how many guests you will bring, "
    "and whether any of them needs a chair in the shade."
)
# Name -> prompt, temperature, the least ratio. A base model copies what it has begun to copy.
TASKS: Mapping[str, tuple[str, float, float]] = {
    "copy code": (f"# File one:\n{CODE}\n# File two, a copy of file one:\n{CODE[:180]}", 0.0, 1.5),
    "edit code": (f"{CODE}\n# The same for a library:\n{EDITED}\n{CODE}\n# The same for a shop:\nclass", 0.0, 1.5),
    "copy a letter": (f"{LETTER}\n\n{LETTER.replace('Baker', 'Miller')}\n\nDear Mr Smith, thank", 0.0, 1.5),
    "story, greedy": ("Once upon a time, in a small town by the sea, there lived an old clockmaker who", 0.0, 0.95),
    "story, sampled": ("Once upon a time, in a small town by the sea, there lived an old clockmaker who", 1.0, 0.95),
    "essay, sampled": ("Why do people travel? There are many answers to this question. First of all,", 0.8, 0.95),
}


def decode_speed(llm: LLM, prompt: str, params: SamplingParams) -> tuple[float, tuple[int, ...], int]:
    """Tokens per second after the first, the reply, and how many of its tokens were guessed."""
    [output] = llm.generate(prompt, params)
    token_ids = output.outputs[0].token_ids
    assert output.elapsed_seconds is not None
    assert output.time_to_first_token_seconds is not None
    seconds = output.elapsed_seconds - output.time_to_first_token_seconds
    return (len(token_ids) - 1) / seconds, token_ids, output.usage.accepted_prediction_tokens


def main() -> None:
    """Print a row per task."""
    parser = arguments(__doc__, rounds=9)
    parser.add_argument("--tokens", type=int, default=160, help="length of the replies")
    options = parser.parse_args()
    print_header("Prompt lookup on and off, SmolLM2-135M 4-bit")
    file = model("smollm2-q4_0.gguf")
    sides = {name: LLM(file, threads=options.threads, speculation=name) for name in ("off", "prompt_lookup")}
    print(f"{'task':<16}{'off, tok/s':>26}{'on, tok/s':>26}{'ratio':>22}  target  guessed right")
    for name, (prompt, temperature, least) in TASKS.items():
        params = SamplingParams(temperature=temperature, seed=7, max_tokens=options.tokens, ignore_eos=True)
        speeds: dict[str, list[float]] = {side: [] for side in sides}
        accepted = 0
        for i in range(options.rounds + 1):
            replies = []
            for side in list(sides) if i % 2 else list(sides)[::-1]:
                speed, reply, accepted_now = decode_speed(sides[side], prompt, params)
                replies.append(reply)
                accepted = max(accepted, accepted_now)
                if i > 0:  # the first only fills the prefix cache
                    speeds[side].append(speed)
            assert replies[0] == replies[1], "speculation changed a reply"
        ratio = Spread.of([on / off for on, off in zip(speeds["prompt_lookup"], speeds["off"], strict=True)])
        off, on = Spread.of(speeds["off"]), Spread.of(speeds["prompt_lookup"])
        met = "met" if ratio.median >= least else "NOT met"
        print(
            f"{name:<16}{off!s:>26}{on!s:>26}{ratio!s:>22}  {least} {met}  {accepted} of {options.tokens}", flush=True
        )


if __name__ == "__main__":
    main()
