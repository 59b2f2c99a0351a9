"""Stores the records of a function or an iterator, so that every try of the batch reads the same ones."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from airflow_provider_agentforce.batch.plain_json import as_json
from airflow_provider_agentforce.batch.reader import read_records
from airflow_provider_agentforce.batch.sources import JsonLinesSource, ListSource, Source
from airflow_provider_agentforce.batch.storage import Storage, guarded, prepared
from airflow_provider_agentforce.exceptions import AgentforceInputError

_HINT = "Nothing was sent. Give a function that returns the records; the next try calls it again."


def changes_between_tries(records: Any) -> bool:
    """Return whether *records* is a function or an iterator, which every try would read differently."""
    return callable(records) or isinstance(records, Iterator)


class CalledSource(Source):
    """Records that are read from their source and not stored.

    :param records: an iterator, which is read once, or a function, which is called for each reading.
    """

    def __init__(self, records: Any) -> None:
        self._records = records

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the records."""
        given = self._records() if callable(self._records) else self._records
        return ListSource(_checked(given)).rows()


def kept(records: Any, folder: Any, storage: Storage, identity: Mapping[str, str]) -> JsonLinesSource:
    """Return the records as a file in *folder*, which is written unless another try has written it.

    If two tries write them at once, both return those of the one that was ready first.

    :param records: an iterator of dicts, or a function without arguments that returns an iterable of them.
    :param folder: path object of the folder.
    :param storage: its storage.
    :param identity: identifies the batch; the records of another batch are not used.
    :raises AgentforceInputError: if one of them is not a record.
    :raises LedgerError: if they cannot be written.
    """
    of = hashlib.sha256(as_json(identity, ordered=True).encode()).hexdigest()[:12]
    failure = f"The records of {folder} cannot be stored"
    prepared(storage, failure, _HINT)
    # A store may keep the beginning of a file whose writing failed, so an index names the one that is whole.
    index = f"records-{of}.json"
    found = guarded(lambda: _named_in(storage.read(index)), failure, _HINT)
    if found is None:
        name, lines = f"records-{of}-{uuid.uuid4().hex[:12]}.jsonl", _Lines(records)
        try:
            guarded(lambda: storage.write(name, lines), failure, _HINT)
        finally:
            lines.raise_failure()
        named = json.dumps({"file": name, "records": lines.count}).encode()
        found = guarded(lambda: _first_named(storage, index, named), failure)
        guarded(lambda: _remove_others(storage, f"records-{of}-", found), failure)
    return JsonLinesSource(folder / found)


def _first_named(storage: Storage, index: str, content: bytes) -> str:
    """Write the index unless another try has, and return the name in it."""
    storage.create(index, content)
    found = _named_in(storage.read(index))
    if found is not None:
        return found
    storage.write(index, lambda: [content])
    return str(_named_in(content))


def _named_in(index: bytes | None) -> str | None:
    """Return the name in an index; ``None`` if there is none, or it is cut off."""
    try:
        return str(json.loads(index or b"")["file"])
    except (ValueError, LookupError, TypeError):
        return None


def _remove_others(storage: Storage, prefix: str, name: str) -> None:
    """Remove the files of tries that were killed, or that were not the first."""
    for other in storage.names():
        if other.startswith(prefix) and other != name:
            storage.remove(other)


class _Lines:
    """The records as lines of JSON, repeatable as long as the function can be called."""

    def __init__(self, records: Any) -> None:
        self.count = 0
        self._give: Callable[[], Any] = records if callable(records) else self._once(records)
        self._failure: Exception | None = None

    def __call__(self) -> Iterator[bytes]:
        """Yield the lines."""
        self.raise_failure()
        self.count = 0
        try:
            for record in read_records(ListSource(_checked(self._give())), None):
                self.count += 1
                yield record.line()
        except Exception as error:
            self._failure = error
            raise

    def raise_failure(self) -> None:
        """Raise the error of the function or the iterator, which is not one of the store."""
        if self._failure is not None:
            raise self._failure

    @staticmethod
    def _once(records: Iterator[Any]) -> Callable[[], Iterator[Any]]:
        given = iter([records])

        def give() -> Iterator[Any]:
            for one in given:
                return one
            raise AgentforceInputError(
                "records: the store failed while they were written, and an iterator cannot be read again. "
                "Give a function that returns one."
            )

        return give


def _checked(given: Any) -> Iterable[Any]:
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise AgentforceInputError(
            f"records: the function must return an iterable of dicts, but returned {type(given).__name__}."
        )
    return given
