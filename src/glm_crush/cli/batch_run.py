"""One file of requests on its way through a server, so that whoever was interrupted can go on.

Above: `glm batch`. Below: the client. Beside the results stands, until they are written, a file that says which batch
they come from and what its input was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from glm_crush.cli.console import standard_error, step_bar
from glm_crush.errors import GlmError, RecordNotFoundError, RequestError

if TYPE_CHECKING:
    from glm_crush.client import Batch, Client

__all__ = ["BatchRun", "check_ended", "result_lines", "submit_file", "write_lines"]

_DEFAULT_ENDPOINT = "/v1/chat/completions"


class BatchRun:
    """The requests of one file, and where their results go.

    Args:
        client: of the server that does the work.
        file: of requests.
        output: of results; must not be there.

    Raises:
        GlmError: it is there.
    """

    def __init__(self, client: Client, file: Path, output: Path) -> None:
        self._client = client
        self._file = file
        self._output = output
        self._state = output.with_name(f"{output.name}.batch")
        if output.exists():
            raise GlmError(f"{output} is there already; remove it, or give another -o")

    def resume(self) -> Batch | None:
        """The batch that an earlier run submitted; None = none did, or the server has forgotten it.

        Raises:
            GlmError: it had another input, or was sent to another server.
        """
        try:
            state = json.loads(self._state.read_text(encoding="utf-8"))
            batch_id, url, digest = str(state["batch"]), str(state["url"]), str(state["sha256"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise GlmError(f"{self._state} cannot be read ({error}); remove it to submit {self._file} anew") from error
        if digest != _digest(self._file) or url != self._client.url:
            raise GlmError(
                f"{self._state} is of another {'file' if url == self._client.url else f'server, {url}'}; remove it to "
                f"submit {self._file} anew, or give another -o"
            )
        try:
            batch = self._client.batches.get(batch_id)
        except RecordNotFoundError:
            return None
        standard_error().print(f"[dim]going on with {batch.id}[/]")
        return batch

    def submit(self, window: str) -> Batch:
        """Send the file, and remember what it became. Raises GlmError."""
        batch = submit_file(self._client, self._file, window)
        state = {"batch": batch.id, "url": self._client.url, "sha256": _digest(self._file)}
        self._state.write_text(json.dumps(state), encoding="utf-8")
        return batch

    def wait(self, batch: Batch) -> Batch:
        """Wait for its end, with a bar. Raises GlmError: its input is wrong; says where."""
        with step_bar(batch.id, "requests") as bar:
            ended = self._client.batches.wait(
                batch.id, poll_seconds=0.5, progress=lambda b: bar(b.request_counts.done, b.request_counts.total)
            )
        if ended.status == "failed":
            self._state.unlink()
        return check_ended(ended)

    def write(self, batch: Batch) -> None:
        """Write the results, all or nothing, and forget the batch."""
        write_lines(result_lines(self._client, batch), self._output)
        self._state.unlink()


def submit_file(client: Client, file: Path, window: str) -> Batch:
    """Upload a file and begin its batch, for the endpoint that its first line names.

    Raises:
        GlmError: the file cannot be read, or the server refuses it.
    """
    endpoint = _endpoint(file)
    uploaded = client.files.upload(file, purpose="batch")
    return client.batches.create(uploaded.id, endpoint=endpoint, completion_window=window)


def check_ended(batch: Batch) -> Batch:
    """The batch, if it has results.

    Raises:
        RequestError: it runs still, or its input is wrong.
    """
    if not batch.has_ended:
        counts = batch.request_counts
        raise RequestError(f"{batch.id} is {batch.status}, {counts.done} of {counts.total} are done; wait for its end")
    if batch.status == "failed":
        raise RequestError(f"{batch.id} was not run: {'; '.join(batch.problems)}")
    return batch


def result_lines(client: Client, batch: Batch) -> Iterator[str]:
    """The results as the server wrote them. Raises GlmError."""
    for file_id in (batch.output_file_id, batch.error_file_id):
        if file_id is not None:
            with client.files.lines(file_id) as lines:
                yield from lines


def write_lines(lines: Iterable[str], path: Path) -> None:
    """Write lines to a file that is there only when it is whole. Raises GlmError."""
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
        part.replace(path)
    except OSError as error:
        raise GlmError(f"{path}: cannot be written: {error}") from error


def _endpoint(file: Path) -> str:
    """What the first line asks for; whatever is wrong with it, the server says with its number."""
    try:
        with file.open(encoding="utf-8") as lines:
            first = json.loads(next((line for line in lines if line.strip()), "{}"))
    except (OSError, UnicodeDecodeError) as error:
        raise GlmError(f"{file}: cannot be read: {error}") from error
    except ValueError:
        return _DEFAULT_ENDPOINT
    found = first.get("url") if isinstance(first, dict) else None
    return found if isinstance(found, str) else _DEFAULT_ENDPOINT


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
