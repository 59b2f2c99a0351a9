"""The notes beside the results while records are written: which are written, and why others are not."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from airflow_provider_agentforce.batch.storage import Storage, guarded, prepared
from airflow_provider_agentforce.batch.write_failures import WriteFailures

ERRORS = "write_errors.jsonl"
_NOTE = "written-"

_T = TypeVar("_T")


class WriteNotes:
    """The notes and the errors of one task.

    Methods raise :class:`.LedgerError` if the store is not available.

    :param folder: path object of the folder.
    :param mark: hash of all values to be written; notes about other values are ignored.
    :param storage_of: returns the storage for a path object.
    :ivar errors: URI of the error file.
    """

    def __init__(self, folder: Any, mark: str, storage_of: Callable[[Any], Storage]) -> None:
        self.errors = str(folder / ERRORS)
        self._folder = folder
        self._mark = mark
        self._storage = storage_of(folder)
        prepared(self._storage, self._failure("made"))

    def spans(self, total: int) -> Iterator[tuple[int, int]]:
        """Yield the positions that earlier tries have written, as ranges of begin and end.

        :param total: the number of positions.
        """
        for name in self._names():
            if name.startswith(f"{_NOTE}{self._mark}-"):
                yield from _spans(self._do("read", partial(self._storage.read, name)) or b"", total)
            else:
                self._remove(name)

    def add(self, positions: Sequence[int]) -> None:
        """Record durably that the records at these positions are written."""
        if positions:
            content = json.dumps(_as_spans(positions)).encode()
            name = f"{_NOTE}{self._mark}-{uuid.uuid4().hex[:12]}.json"
            self._do("written", partial(self._storage.write, name, lambda: [content]))

    def write_errors(self, failures: WriteFailures) -> None:
        """Write the error file."""
        self._do("written", partial(self._storage.write, ERRORS, failures.lines))

    def forget(self) -> None:
        """Remove the notes and the errors."""
        for name in [*self._names(), ERRORS]:
            self._remove(name)

    def _names(self) -> list[str]:
        return [name for name in self._do("read", self._storage.names) if name.startswith(_NOTE)]

    def _remove(self, name: str) -> None:
        self._do("removed", partial(self._storage.remove, name))

    def _do(self, what: str, call: Callable[[], _T]) -> _T:
        return guarded(call, self._failure(what))

    def _failure(self, what: str) -> str:
        return f"The files in {self._folder} cannot be {what}"


def _as_spans(positions: Sequence[int]) -> list[tuple[int, int]]:
    """Return ascending positions as ranges of begin and end."""
    spans: list[tuple[int, int]] = []
    for position in positions:
        if spans and spans[-1][1] == position:
            spans[-1] = (spans[-1][0], position + 1)
        else:
            spans.append((position, position + 1))
    return spans


def _spans(content: bytes, total: int) -> Iterator[tuple[int, int]]:
    """Parse a note; one that is cut off counts as empty, and its records are written once more."""
    try:
        listed = json.loads(content)
    except ValueError:
        return
    for begin, end in listed:
        if 0 <= begin < end <= total:
            yield begin, end
