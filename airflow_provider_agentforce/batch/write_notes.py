"""The files of a write beside the results: which records are written, and why others are not."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from airflow_provider_agentforce.batch.storage import Storage, guarded, prepared
from airflow_provider_agentforce.batch.write_failures import WriteFailures
from airflow_provider_agentforce.exceptions import LedgerError

log = logging.getLogger(__name__)

_ERRORS = "write_errors.jsonl"
_DRY_RUN_ERRORS = "dry_run_errors.jsonl"
_NOTE = "written-"

_T = TypeVar("_T")


class WriteNotes:
    """The notes and the errors of one task.

    Methods raise :class:`.LedgerError` if the store is not available.

    :param folder: path object of the folder.
    :param storage_of: returns the storage for a path object.
    :param dry_run: use the error file of dry runs.
    :ivar errors: URI of the error file.
    """

    def __init__(self, folder: Any, storage_of: Callable[[Any], Storage], *, dry_run: bool) -> None:
        self._errors = _DRY_RUN_ERRORS if dry_run else _ERRORS
        self.errors = str(folder / self._errors)
        self._folder = folder
        self._storage = storage_of(folder)
        prepared(self._storage, self._failure("made"))

    @contextmanager
    def reporting(self, failures: WriteFailures) -> Iterator[None]:
        """Write *failures* to the error file when the block ends, also after an error."""
        try:
            yield
        except BaseException:
            try:
                self._report(failures)
            except LedgerError as error:
                log.warning("%s", error)
            raise
        self._report(failures)

    def spans(self, values_hash: str, total: int) -> Iterator[tuple[int, int]]:
        """Yield the positions that earlier tries have written, as ranges of begin and end.

        :param values_hash: hash of all values to be written; notes about other values are removed.
        :param total: the number of positions.
        """
        for name in self._names():
            if name.startswith(f"{_NOTE}{values_hash}-"):
                yield from _spans(self._do("read", partial(self._storage.read, name)) or b"", total)
            else:
                self._remove(name)

    def add(self, values_hash: str, positions: Sequence[int]) -> None:
        """Record durably that the records at these positions are written.

        :param values_hash: hash of all values to be written.
        """
        if positions:
            content = json.dumps(_as_spans(positions)).encode()
            name = f"{_NOTE}{values_hash}-{uuid.uuid4().hex[:12]}.json"
            self._do("written", partial(self._storage.write, name, lambda: [content]))

    def forget(self) -> None:
        """Remove the notes."""
        for name in self._names():
            self._remove(name)

    def _report(self, failures: WriteFailures) -> None:
        if failures.count:
            self._do("written", partial(self._storage.write, self._errors, failures.lines))
        else:
            self._remove(self._errors)

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
