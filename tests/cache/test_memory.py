"""Memory holds what fits, forgets the least recently used and what has expired."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from glm_crush.cache.memory import MemoryReplies
from glm_crush.cache.reply import CachedReply


def reply(size: int = 10, expires_at: float = 100.0) -> CachedReply:
    return CachedReply("application/json", b"x" * size, 0.0, expires_at)


def test_the_least_recently_used_reply_makes_room() -> None:
    memory = MemoryReplies(max_bytes=2 * reply().num_bytes, clock=lambda: 0.0)
    memory.keep("a", reply())
    memory.keep("b", reply())
    assert memory.peek("a") is not None
    memory.keep("c", reply())
    assert (memory.peek("a") is None, memory.peek("b") is None, memory.peek("c") is None) == (False, True, False)


def test_a_reply_is_gone_when_its_time_is_over() -> None:
    now = [0.0]
    memory = MemoryReplies(max_bytes=10_000, clock=lambda: now[0])
    memory.keep("a", reply(expires_at=5.0))
    now[0] = 5.0
    assert memory.peek("a") is None
    assert (len(memory), memory.num_bytes) == (0, 0)


def test_a_reply_larger_than_the_cache_is_not_kept_and_drives_nothing_out() -> None:
    memory = MemoryReplies(max_bytes=1000, clock=lambda: 0.0)
    memory.keep("small", reply())
    memory.keep("large", reply(2000))
    assert memory.peek("large") is None
    assert memory.peek("small") is not None


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 800), st.booleans())))
def test_the_bytes_kept_are_those_of_the_replies_and_within_the_limit(steps: list[tuple[str, int, bool]]) -> None:
    memory = MemoryReplies(max_bytes=1500, clock=lambda: 0.0)
    latest: dict[str, int] = {}
    for key, size, read in steps:
        if read:
            found = memory.peek(key)
            assert found is None or len(found.body) == latest[key]
        else:
            memory.keep(key, reply(size))
            latest[key] = size
        kept = [found for name in "abcdef" if (found := memory.peek(name))]
        assert memory.num_bytes == sum(found.num_bytes for found in kept) <= 1500
