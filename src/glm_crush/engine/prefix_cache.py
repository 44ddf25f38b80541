"""Which blocks of the KV cache hold which tokens, so that equal beginnings are computed once.

The content of a full block follows from its tokens and all those before it. Cached blocks therefore form a tree: a
child continues its parent, and the path from the start is the prefix. A child is found by the tokens themselves, so no
collision of hashes can mix up two prefixes. Above: the scheduler. Below: the block pool. This module knows neither
arrays nor queues.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator
from hashlib import blake2b
from itertools import islice

from glm_crush.engine.block_pool import BlockPool
from glm_crush.types import CacheReport

__all__ = ["CachedBlock", "Prefix", "PrefixCache"]

_TOKEN_BYTES = array("i").itemsize
# Blocks whose tokens are cut out at a time: a lookup that fails at once must not copy a long prompt.
_BLOCKS_PER_COPY = 64
# Continuations compared to explain a miss; the newest are the likeliest.
_MAX_COMPARED = 16
# Stands before the first block of a prefix where others have the digest of the block before.
_NO_DIGEST = bytes(32)


class CachedBlock:
    """A full block in the tree.

    Attributes:
        key: its tokens as bytes; after the salt, in the first block of a salted prefix.
        block: its number. parent: None for the first block of a prefix. length: tokens up to its end.
        is_cached: False once it has been evicted; who has kept a reference to it must look up anew.
    """

    __slots__ = ("_digest", "block", "children", "is_cached", "key", "length", "parent", "serial")

    def __init__(self, key: bytes, block: int, parent: CachedBlock | None, length: int, serial: int) -> None:
        self.key = key
        self.block = block
        self.parent = parent
        self.length = length
        self.serial = serial
        self.children: dict[bytes, CachedBlock] = {}
        self.is_cached = True
        self._digest: bytes | None = None

    @property
    def digest(self) -> bytes:
        """A hash of its tokens, all those before it and the salt: what it is called outside this process."""
        line: list[CachedBlock] = []
        node: CachedBlock | None = self
        while node is not None and node._digest is None:
            line.append(node)
            node = node.parent
        digest = _NO_DIGEST if node is None or node._digest is None else node._digest
        for each in reversed(line):
            each._digest = digest = _next_digest(digest, each.key)
        return digest


class Prefix:
    """How far along the tree a request is: matched while it waits, stored while it runs.

    Attributes:
        node: the deepest block; None at the start.
        salt: only prefixes of the same salt are shared, for instance those of one adapter or tenant.
    """

    __slots__ = ("node", "salt")

    def __init__(self, salt: bytes = b"") -> None:
        self.node: CachedBlock | None = None
        self.salt = salt

    @property
    def length(self) -> int:
        """Tokens, a multiple of the block size."""
        return 0 if self.node is None else self.node.length


class PrefixCache:
    """The tree of cached blocks.

    Attributes:
        on_insert: told of each block that enters the tree, if anybody wants to know.
        being_restored: what somebody fills from elsewhere: the table that is held for it, by `next_key`.

    Who holds a block of it holds its ancestors too, so an idle block has idle descendants only; and since a table is
    released from its end, the pool evicts children before their parents.
    """

    def __init__(self, pool: BlockPool) -> None:
        self.num_evictions = 0
        self.on_insert: Callable[[CachedBlock], None] | None = None
        self.being_restored: dict[tuple[int, bytes], list[int]] = {}
        self._pool = pool
        self._first: dict[bytes, CachedBlock] = {}
        self._by_block: dict[int, CachedBlock] = {}
        self._num_serials = 0
        self._evicted: OrderedDict[tuple[int, int], None] = OrderedDict()  # (serial of the parent, hash of the key)

    def __len__(self) -> int:
        """Cached blocks, in use or idle."""
        return len(self._by_block)

    def match(self, prefix: Prefix, token_ids: array[int], limit: int) -> None:
        """Move `prefix` to the longest cached beginning of `token_ids[:limit]`.

        A prefix that was matched before goes on from where it is, or from as much of it as is still cached.
        """
        node = prefix.node
        while node is not None and (not node.is_cached or node.length > limit):
            node = node.parent
        children = self._children(node)
        salt = prefix.salt if node is None else b""
        size, width = self._pool.block_size, self._pool.block_size * _TOKEN_BYTES
        length = 0 if node is None else node.length
        while limit - length >= size:
            tokens = token_ids[length : min(limit, length + _BLOCKS_PER_COPY * size)].tobytes()
            for first in range(0, len(tokens) - width + 1, width):
                found = children.get(salt + tokens[first : first + width])
                if found is None:
                    prefix.node = node
                    return
                node, children, salt = found, found.children, b""
            length = 0 if node is None else node.length
        prefix.node = node

    def next_key(self, prefix: Prefix, token_ids: array[int], limit: int) -> tuple[int, bytes] | None:
        """What identifies the block that continues `prefix`; None if `token_ids[:limit]` do not fill it."""
        end = prefix.length + self._pool.block_size
        return None if end > limit else (_serial(prefix.node), self._key(prefix, token_ids))

    def next_digests(self, prefix: Prefix, token_ids: array[int], limit: int) -> Iterator[bytes]:
        """The digests of the blocks that would continue `prefix`, as far as `token_ids[:limit]` fill them."""
        size = self._pool.block_size
        salt, digest = (prefix.salt, _NO_DIGEST) if prefix.node is None else (b"", prefix.node.digest)
        for start in range(prefix.length, limit - size + 1, size):
            digest = _next_digest(digest, salt + token_ids[start : start + size].tobytes())
            salt = b""
            yield digest

    def blocks(self, prefix: Prefix) -> list[int]:
        """The block numbers from the start to the prefix."""
        numbers = []
        node = prefix.node
        while node is not None:
            numbers.append(node.block)
            node = node.parent
        numbers.reverse()
        return numbers

    def store(self, prefix: Prefix, token_ids: array[int], table: list[int], num_tokens: int) -> list[int]:
        """Cache the full blocks of a running request that lie behind `prefix` and within `num_tokens`, and move it on.

        Where the tree has an equal block already, the table takes that one and gives its own back.

        Returns: the table; a new list if a block of it was replaced.
        """
        size = self._pool.block_size
        while prefix.length + size <= num_tokens:
            place = prefix.length // size
            key = self._key(prefix, token_ids)
            siblings = self._children(prefix.node)
            node = siblings.get(key)
            if node is None:
                node = self._insert(siblings, key, table[place], prefix)
            else:
                self._pool.share([node.block])
                self._pool.release([table[place]])
                table = [*table[:place], node.block, *table[place + 1 :]]
            prefix.node = node
        return table

    def report(self, prefix: Prefix, token_ids: array[int], limit: int) -> CacheReport:
        """Why a lookup went as far as `prefix` and no further."""
        length = prefix.length
        if length + self._pool.block_size > limit:
            return CacheReport(length, length, "complete")
        key = self._key(prefix, token_ids)
        if (_serial(prefix.node), hash(key)) in self._evicted:
            return CacheReport(length, length, "evicted")
        num_equal, cached_token = -1, -1
        for tokens in self._continuations(prefix):
            equal = next(
                place for place, token in enumerate(tokens) if token != token_ids[length + place]
            )  # they differ somewhere, or the block would have been found
            if equal > num_equal:
                num_equal, cached_token = equal, tokens[equal]
        if num_equal < 0 or (length == 0 and num_equal == 0):
            return CacheReport(length, length, "new")
        position = length + num_equal
        return CacheReport(length, position, "diverged", token_ids[position], cached_token)

    def clear(self) -> None:
        """Forget every block that nobody holds."""
        self._pool.evict_idle()

    def check_integrity(self) -> None:
        """Assert that the tree and the pool agree; for tests and idle moments."""
        reached = 0
        idle_places = {block: place for place, block in enumerate(self._pool.idle_blocks)}
        stack = [(node, key) for key, node in self._first.items()]
        while stack:
            node, key = stack.pop()
            reached += 1
            assert node.is_cached
            assert node.key == key
            assert self._by_block[node.block] is node
            assert self._pool.is_kept(node.block)
            assert len(key) >= self._pool.block_size * _TOKEN_BYTES, "a partial block is cached"
            for child_key, child in node.children.items():
                assert child.parent is node
                assert child.length == node.length + self._pool.block_size
                num_references = self._pool.num_references(node.block)
                assert num_references >= self._pool.num_references(child.block), "a block is held without its prefix"
                assert num_references or idle_places[child.block] < idle_places[node.block], "a prefix goes too early"
                stack.append((child, child_key))
        assert reached == len(self._by_block), "a cached block is out of reach"

    def _insert(self, siblings: dict[bytes, CachedBlock], key: bytes, block: int, prefix: Prefix) -> CachedBlock:
        self._evicted.pop((_serial(prefix.node), hash(key)), None)
        self._num_serials += 1
        node = CachedBlock(key, block, prefix.node, prefix.length + self._pool.block_size, self._num_serials)
        siblings[key] = self._by_block[block] = node
        self._pool.keep(block, self._forget)
        if self.on_insert is not None:
            self.on_insert(node)
        return node

    def _forget(self, block: int) -> None:
        """The pool gives the block to somebody else."""
        node = self._by_block.pop(block)
        assert not node.children
        del self._children(node.parent)[node.key]
        node.is_cached = False
        self.num_evictions += 1
        self._evicted[_serial(node.parent), hash(node.key)] = None
        if len(self._evicted) > self._pool.num_blocks:
            self._evicted.popitem(last=False)

    def _children(self, node: CachedBlock | None) -> dict[bytes, CachedBlock]:
        return self._first if node is None else node.children

    def _key(self, prefix: Prefix, token_ids: array[int]) -> bytes:
        start = prefix.length
        tokens = token_ids[start : start + self._pool.block_size].tobytes()
        return prefix.salt + tokens if prefix.node is None else tokens

    def _continuations(self, prefix: Prefix) -> Iterator[array[int]]:
        """Tokens of the newest blocks that go on from here, of the same salt only."""
        width = self._pool.block_size * _TOKEN_BYTES
        salt = prefix.salt if prefix.node is None else b""
        for key in islice(reversed(self._children(prefix.node)), _MAX_COMPARED):
            if key[:-width] == salt:
                yield array("i", key[-width:])


def _serial(node: CachedBlock | None) -> int:
    return 0 if node is None else node.serial


def _next_digest(digest: bytes, key: bytes) -> bytes:
    """Keyed, so that no salt can stand for a digest."""
    return blake2b(key, key=digest, digest_size=32).digest()
