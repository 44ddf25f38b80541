"""The files of a prefix store: what is found after a restart, what gives way, and that no wrong byte is ever used."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from glm_crush.engine.prefix_store.block_store import BlockStore, StoredBlock
from glm_crush.engine.prefix_store.folder import StoreFolder
from glm_crush.errors import ConfigError

pytestmark = pytest.mark.requirement("E6")

BLOCK_BYTES = 100
IDENTITY = bytes(range(32))
NOTHING = bytes(32)


@contextmanager
def opened(root: Path, *, identity: bytes = IDENTITY, max_blocks: int = 8) -> Iterator[BlockStore]:
    store = BlockStore(StoreFolder(root, identity, max_bytes=max_blocks * BLOCK_BYTES), identity, BLOCK_BYTES)
    try:
        yield store
    finally:
        store.close()


def digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def content(name: str) -> np.ndarray:
    return np.frombuffer((name.encode() * BLOCK_BYTES)[:BLOCK_BYTES], np.uint8)


def block(name: str, parent: str | None = None) -> StoredBlock:
    return StoredBlock(digest(name), NOTHING if parent is None else digest(parent), content(name))


def chain(names: str) -> list[StoredBlock]:
    """One prompt: each block continues the one before."""
    return [block(name, before) for before, name in zip([None, *names[:-1]], names, strict=True)]


def found(store: BlockStore, names: str) -> str:
    """Of these blocks, those that can be read; what is read must be what was written."""
    out = np.zeros((1, BLOCK_BYTES), np.uint8)
    names_found = ""
    for name in names:
        if store.read([digest(name)], out):
            assert out.tobytes() == content(name).tobytes()
            names_found += name
    return names_found


def data_file(root: Path) -> Path:
    return root / IDENTITY.hex()[:32] / "blocks"


def index_file(root: Path) -> Path:
    return root / IDENTITY.hex()[:32] / "index"


def test_blocks_are_found_by_the_next_process(tmp_path):
    with opened(tmp_path) as store:
        assert store.write(chain("abc")) == 3
        assert store.write(chain("abd")) == 1
    with opened(tmp_path) as store:
        assert (len(store), store.num_bytes) == (4, 400)
        assert found(store, "abcdx") == "abcd"


def test_blocks_are_read_in_one_go_up_to_the_first_that_is_not_there(tmp_path):
    with opened(tmp_path) as store:
        store.write(chain("abc"))
        out = np.zeros((4, BLOCK_BYTES), np.uint8)
        assert store.read([digest("b"), digest("c"), digest("x"), digest("a")], out) == 2
        assert out[:2].tobytes() == content("b").tobytes() + content("c").tobytes()


def test_what_was_used_longest_ago_gives_way_and_a_prompt_goes_from_its_end(tmp_path):
    with opened(tmp_path, max_blocks=6) as store:
        store.write(chain("abc"))
        store.write(chain("xyz"))
        store.touch([digest("b")])
        store.write(chain("12"))
        assert found(store, "abcxyz12") == "abxy12"
        assert (store.num_evictions, store.num_bytes) == (2, 600)


def test_the_order_of_use_outlives_a_restart(tmp_path):
    with opened(tmp_path, max_blocks=6) as store:
        store.write(chain("abc"))
        store.write(chain("xyz"))
        store.touch([digest("c")])
    with opened(tmp_path, max_blocks=6) as store:
        store.write(chain("12"))
        assert found(store, "abcxyz12") == "abcx12"


def test_a_smaller_limit_than_before_cuts_the_file(tmp_path):
    with opened(tmp_path, max_blocks=6) as store:
        store.write(chain("abcdef"))
    with opened(tmp_path, max_blocks=2) as store:
        assert found(store, "abcdef") == "ab"
    assert data_file(tmp_path).stat().st_size == 2 * BLOCK_BYTES


def test_the_index_does_not_grow_without_end(tmp_path):
    with opened(tmp_path) as store:
        store.write(chain("abc"))
        for _ in range(5000):
            store.touch([digest("c")])
        assert index_file(tmp_path).stat().st_size < 4200 * 76
        assert found(store, "abc") == "abc"


def test_a_block_whose_bytes_have_changed_is_not_used_and_its_place_is_used_again(tmp_path, caplog):
    with opened(tmp_path) as store:
        store.write(chain("abc"))
    with data_file(tmp_path).open("r+b") as file:
        file.seek(BLOCK_BYTES + 7)
        file.write(b"!")
    with opened(tmp_path) as store:
        assert found(store, "abc") == "ac"
        assert store.num_damaged == 1
        store.write(chain("ab"))
        assert found(store, "abc") == "abc"
    assert "the block at place 1 is damaged; removed" in caplog.text
    assert data_file(tmp_path).stat().st_size == 3 * BLOCK_BYTES


def test_another_blocks_bytes_in_its_place_are_not_taken_for_it(tmp_path):
    with opened(tmp_path) as store:
        store.write(chain("ab"))
    data = data_file(tmp_path).read_bytes()
    data_file(tmp_path).write_bytes(data[BLOCK_BYTES:] + data[:BLOCK_BYTES])
    with opened(tmp_path) as store:
        assert found(store, "ab") == ""


def test_files_that_were_cut_off_lose_their_end_only(tmp_path, caplog):
    with opened(tmp_path) as store:
        store.write(chain("abc"))
    os.truncate(data_file(tmp_path), 2 * BLOCK_BYTES + 50)
    os.truncate(index_file(tmp_path), index_file(tmp_path).stat().st_size - 10)
    with opened(tmp_path) as store:
        assert found(store, "abc") == "ab"
        store.write(chain("abc"))
    with opened(tmp_path) as store:
        assert found(store, "abc") == "abc"
    assert "66 bytes of its index and 0 blocks are removed" in caplog.text


@pytest.mark.parametrize("junk", [b"", b"not an index at all, but long enough to look like one" * 3, b"GLMPREFX" * 40])
def test_a_foreign_index_is_removed_with_its_blocks(tmp_path, caplog, junk):
    with opened(tmp_path) as store:
        store.write(chain("abc"))
    index_file(tmp_path).write_bytes(junk)
    with opened(tmp_path) as store:
        assert len(store) == 0
        store.write(chain("ab"))
        assert found(store, "abc") == "ab"
    assert "removed with its blocks" in caplog.text


def test_only_one_process_writes_and_another_reads(tmp_path):
    with opened(tmp_path) as writer:
        writer.write(chain("abc"))
        folder = StoreFolder(tmp_path, IDENTITY, max_bytes=800)
        assert not folder.is_writer
        reader = BlockStore(folder, IDENTITY, BLOCK_BYTES)
        assert found(reader, "abc") == "abc"
        writer.write(chain("12345678"))  # the reader's blocks are overwritten
        assert found(reader, "abc") == ""
        reader.close()
    with opened(tmp_path) as writer:
        assert found(writer, "12345678") == "12345678"


def test_stores_of_other_models_that_nobody_uses_give_way_first(tmp_path, caplog):
    caplog.set_level("INFO")
    other, third = bytes(32), b"3" * 32
    with opened(tmp_path, identity=other) as store:
        store.write(chain("abcd"))
    with opened(tmp_path, identity=third) as in_use:
        in_use.write(chain("ab"))
        size = sum(path.stat().st_size for path in tmp_path.rglob("*"))
        with opened(tmp_path, max_blocks=20) as store:
            store.write(chain("abcdefgh"))
            assert found(store, "abcdefgh") == "abcdefgh"
        assert size > 600
        assert found(in_use, "ab") == "ab"
    assert not (tmp_path / other.hex()[:32]).exists()
    assert "the prefix store of another model gave way" in caplog.text


def test_what_is_no_store_is_left_alone(tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "index").write_text("dear reader")
    (tmp_path / "notes.txt").write_text("x" * 5000)
    with opened(tmp_path, max_blocks=1) as store:
        store.write(chain("abcd"))
        assert found(store, "abcd") == "d"
    assert (tmp_path / "letters" / "index").read_text() == "dear reader"
    assert (tmp_path / "notes.txt").exists()


def test_files_are_for_their_owner_alone(tmp_path):
    root = tmp_path / "new" / "store"
    with opened(root) as store:
        store.write(chain("a"))
        modes = {path.name: path.stat().st_mode & 0o777 for path in root.rglob("*")}
    assert modes == {IDENTITY.hex()[:32]: 0o700, "blocks": 0o600, "index": 0o600, "lock": 0o600}


def test_a_folder_that_others_may_write_is_refused(tmp_path):
    (tmp_path / IDENTITY.hex()[:32]).mkdir()
    (tmp_path / IDENTITY.hex()[:32]).chmod(0o777)
    with pytest.raises(ConfigError, match=r"mode 777; it must be yours alone"):
        StoreFolder(tmp_path, IDENTITY, max_bytes=1000)


def test_a_limit_below_one_block_is_refused(tmp_path):
    with (
        pytest.raises(ConfigError, match=r"prefix_store_bytes is 0; a block of this model takes 100: raise it"),
        opened(tmp_path, max_blocks=0),
    ):
        pass


def test_a_path_that_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"the prefix store .*file cannot be used"):
        StoreFolder(tmp_path / "file", IDENTITY, max_bytes=1000)


WRITER = """
import sys
from pathlib import Path
from tests.engine.test_block_store import block, opened
with opened(Path(sys.argv[1]), max_blocks=5) as store:
    for number in range(10**9):
        store.write([block(str(number)), block(f"{number}+", str(number))])
        if number == 3:
            print("writing", flush=True)
"""


def test_a_process_killed_while_it_writes_leaves_no_torn_block(tmp_path):
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    total = 0
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], env=environment, stdout=subprocess.PIPE, cwd=root
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"writing\n"
            child.send_signal(signal.SIGKILL)
        with opened(tmp_path, max_blocks=5) as store:
            names = {digest(name): name for number in range(100_000) for name in (str(number), f"{number}+")}
            out = np.zeros((1, BLOCK_BYTES), np.uint8)
            for key in list(store.digests):
                if store.read([key], out):
                    assert out.tobytes() == content(names[key]).tobytes()
                    total += 1
    assert total > 5


class StoreMachine(RuleBasedStateMachine):
    """Writes, uses, restarts and damage in any order: what is read is what was written under that name, or nothing."""

    @initialize(max_blocks=st.integers(4, 7))
    def start(self, max_blocks: int) -> None:
        self.home = tempfile.TemporaryDirectory()
        self.root, self.max_blocks = Path(self.home.name), max_blocks
        self.intact = True
        self.latest: list[str] = []
        self.open()

    def open(self) -> None:
        folder = StoreFolder(self.root, IDENTITY, max_bytes=self.max_blocks * BLOCK_BYTES)
        self.store = BlockStore(folder, IDENTITY, BLOCK_BYTES)

    @rule(names=st.text("abcdefgh", min_size=1, max_size=4))
    def write(self, names: str) -> None:
        names = "".join(dict.fromkeys(names))
        self.store.write([block(name) for name in names])
        self.latest = [name for name in self.latest if name not in names] + list(names[::-1])

    @rule(name=st.sampled_from("abcdefgh"))
    def touch(self, name: str) -> None:
        if self.store.holds(digest(name)):
            self.store.touch([digest(name)])
            self.latest = [other for other in self.latest if other != name] + [name]

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.open()

    @rule(place=st.integers(0, 599), value=st.integers(0, 255), file=st.sampled_from([data_file, index_file]))
    def damage(self, place: int, value: int, file) -> None:
        self.store.close()
        data = bytearray(file(self.root).read_bytes())
        if data:
            data[place % len(data)] = value
            file(self.root).write_bytes(data)
        self.intact = False
        self.open()

    @rule(cut=st.integers(0, 300), file=st.sampled_from([data_file, index_file]))
    def cut_off(self, cut: int, file) -> None:
        self.store.close()
        os.truncate(file(self.root), max(0, file(self.root).stat().st_size - cut))
        self.intact = False
        self.open()

    @invariant()
    def what_is_read_was_written(self) -> None:
        names = found(self.store, "abcdefgh")
        assert set(names) <= set(self.latest)
        assert len(names) <= self.max_blocks
        if self.intact:
            assert set(names) == set(self.latest[-self.max_blocks :])
        assert data_file(self.root).stat().st_size <= self.max_blocks * BLOCK_BYTES

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.home.cleanup()


TestStoreMachine = StoreMachine.TestCase
