"""What earlier tries of a batch did, kept beside its results in parts that are written once.

A record is announced before it is asked and settled by its row afterwards; both go into the same parts. One
that is announced and not settled may have been asked. Every process that works on the batch first makes
itself the owner, then reads; and it asks what it has announced only after seeing that it is the owner still.
So of a process that was given up for dead and the one that follows it, only one asks.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import tenacity

from airflow_provider_agentforce.batch.rows import Row, RowStore
from airflow_provider_agentforce.exceptions import AgentforceInputError, LedgerError, TaskStoppedError

_VERSION = 1
_HEADER = "header.json"
_OWNER = "owner.json"
_PART = "part-"
_OPEN = "open-"
_ATTEMPTS = 4
# Stores without folders: to make one there would make the bucket, also one whose name is misspelt.
_BUCKETS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "adl"}

_FINAL = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
_again = tenacity.Retrying(
    retry=tenacity.retry_if_not_exception_type(_FINAL),
    wait=tenacity.wait_random_exponential(multiplier=0.2, max=3),
    stop=tenacity.stop_after_attempt(_ATTEMPTS),
    reraise=True,
)


@dataclass
class Past:
    """What earlier tries left, beside their rows.

    :param pending: records that were announced and not settled.
    :param starts: wall-clock times of session starts.
    :param open_sessions: sessions that were not seen to end.
    :param began: wall-clock time at which the first try began.
    """

    pending: set[str] = field(default_factory=set)
    starts: list[float] = field(default_factory=list)
    open_sessions: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.time)


class BatchLedger:
    """The ledger of one batch.

    :param folder: path object of the results folder.
    :param header: what makes the batch this one, by what people call it: ``{"records": fingerprint, …}``.
    """

    def __init__(self, folder: Any, header: dict[str, str]) -> None:
        self._results = folder
        self._folder = folder / "_ledger"
        self._header = header
        self._me = uuid.uuid4().hex[:12]
        self._turn = 0
        self._parts = 0
        self._opens = 0
        self._left: list[str] = []

    def open(self, store: RowStore, *, changes_allowed: bool) -> Past:
        """Become the owner, put the rows of earlier tries into *store*, and return what else they left.

        :param changes_allowed: take over rows of a batch that differs.
        :raises AgentforceInputError: if the folder cannot be written, or holds another batch.
        :raises LedgerError: if what it holds cannot be read.
        """
        try:
            if getattr(self._folder, "protocol", "") not in _BUCKETS:
                self._folder.mkdir(parents=True, exist_ok=True)
            header = self._read_json(_HEADER, {"v": _VERSION, "began": time.time(), **self._header})
            self._check_same(header, changes_allowed=changes_allowed)
            self._take_over()
            self._write(_HEADER, json.dumps({**header, **self._header}).encode())
        except OSError as error:
            raise self._unusable(error) from None
        except LedgerError as error:
            if error.__cause__ is None:
                raise
            raise self._unusable(error.__cause__) from None
        past = self._past(store)
        past.began = float(header["began"])
        return past

    def write(
        self,
        rows: Iterable[tuple[str, Row]] = (),
        *,
        announced: Iterable[str] = (),
        withdrawn: Iterable[str] = (),
        starts: Iterable[float] = (),
    ) -> None:
        """Write one part. What it announces may be asked when this has returned.

        :param rows: outcomes, with the names of their records.
        :param announced: names of the records that are about to be asked.
        :param withdrawn: names of those that were announced and will not be asked.
        :param starts: wall-clock times of session starts.
        :raises LedgerError: if it cannot be written; then nothing of it may be asked.
        :raises TaskStoppedError: if another process has taken over.
        """
        head = {"announced": list(announced), "withdrawn": list(withdrawn), "starts": list(starts)}
        lines = [head, *({"name": name, "row": row.to_dict()} for name, row in rows)]
        body = b"".join(json.dumps(line).encode() + b"\n" for line in [*lines, {"end": len(lines)}])
        self._write(f"{_PART}{self._turn:04d}-{self._me}-{self._parts:06d}.jsonl", body)
        self._parts += 1
        if head["announced"]:
            self._check_owner()

    def note_open(self, session_ids: Iterable[str]) -> None:
        """Write down which sessions are open. Two files take turns, so that one is always whole."""
        self._opens += 1
        body = json.dumps({"number": self._opens, "sessions": list(session_ids)}).encode()
        self._write(f"{_OPEN}{self._me}-{self._opens % 2}.json", body)

    def forget_open(self) -> None:
        """Remove what earlier tries wrote down of open sessions: those have been ended."""
        for name in self._left:
            self._ask("cleared", (self._folder / name).unlink)
        self._left.clear()

    def _check_same(self, header: dict[str, Any], *, changes_allowed: bool) -> None:
        if header.get("v") != _VERSION or not isinstance(header.get("began"), float | int):
            raise _unreadable(_HEADER)
        changed = [name for name, mark in self._header.items() if header.get(name) != mark]
        if changed and not changes_allowed:
            raise AgentforceInputError(
                f"result_path: {self._results} holds the results of another batch; not the same: "
                f"{', '.join(changed)}. Choose another folder, such as one with {{{{ run_id }}}} in its "
                'name, or set on_change="continue" to keep its rows and ask only for the rest.'
            )

    def _take_over(self) -> None:
        before = self._read_json(_OWNER, {"turn": 0})
        if not isinstance(before.get("turn"), int):
            raise _unreadable(_OWNER)
        self._turn = before["turn"] + 1
        self._write(_OWNER, json.dumps({"turn": self._turn, "owner": self._me}).encode())

    def _unusable(self, cause: BaseException) -> AgentforceInputError:
        return AgentforceInputError(
            f"result_path: {self._results} cannot be used ({type(cause).__name__}: {cause!s:.200})."
        )

    def _check_owner(self) -> None:
        if self._read_json(_OWNER, {}).get("owner") != self._me:
            raise TaskStoppedError("Another process has taken over this batch; nothing more is sent.")

    def _past(self, store: RowStore) -> Past:
        past = Past()
        opens: dict[str, tuple[int, list[str]]] = {}
        _forget_listing(self._folder)
        for name in sorted(self._ask("listed", lambda: [path.name for path in self._folder.iterdir()])):
            if name.startswith(_PART):
                for entry in _entries(name, self._read(name) or b""):
                    _apply(entry, past, store)
            elif name.startswith(_OPEN):
                owner = name.rpartition("-")[0]
                opens[owner] = max(opens.get(owner, (0, [])), _opens(self._read(name) or b""))
                self._left.append(name)
        past.open_sessions = [one for _, sessions in opens.values() for one in sessions]
        return past

    def _read_json(self, name: str, default: dict[str, Any]) -> dict[str, Any]:
        body = self._read(name)
        if body is None:
            return default
        try:
            value = json.loads(body)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise _unreadable(name)
        return value

    def _read(self, name: str) -> bytes | None:
        path = self._folder / name

        def read() -> bytes | None:
            _forget_listing(path)
            try:
                with path.open("rb") as file:
                    body: bytes = file.read()
            except FileNotFoundError:
                return None
            return body

        found: bytes | None = self._ask("read", read)
        return found

    def _write(self, name: str, body: bytes) -> None:
        path = self._folder / name

        def write() -> None:
            with path.open("wb") as file:
                file.write(body)

        self._ask("written", write)

    def _ask(self, what: str, call: Callable[[], Any]) -> Any:
        try:
            return _again(call)
        except Exception as error:
            raise LedgerError(
                f"The ledger in {self._folder} cannot be {what} ({type(error).__name__}: {error!s:.200})."
            ) from error


def _entries(name: str, body: bytes) -> Iterator[dict[str, Any]]:
    """Yield the entries of a part. One without its end was cut; nothing that it announced was asked."""
    lines = body.split(b"\n")
    whole = len(lines) > 1 and lines[-1] == b"" and lines[-2].startswith(b'{"end"')
    for line in lines[: -2 if whole else -1]:
        try:
            entry = json.loads(line)
        except ValueError:
            raise _unreadable(name) from None
        if not whole and "announced" in entry:
            entry["announced"] = []
        yield entry


def _apply(entry: dict[str, Any], past: Past, store: RowStore) -> None:
    if "row" in entry:
        store.put(entry["name"], Row(**entry["row"]))
        past.pending.discard(entry["name"])
        return
    past.pending |= set(entry["announced"])
    past.pending -= set(entry["withdrawn"])
    past.starts += entry["starts"]


def _opens(body: bytes) -> tuple[int, list[str]]:
    try:
        noted = json.loads(body)
        return noted["number"], noted["sessions"]
    except (ValueError, KeyError, TypeError):
        return 0, []  # cut while it was written; the other one of the two is whole


def _unreadable(name: str) -> LedgerError:
    error = LedgerError(
        f"The ledger's file {name} cannot be read as one. Nothing was sent.",
        hint="Look at what is there, and choose another result_path or mend it.",
    )
    error.retryable = False
    return error


def _forget_listing(path: Any) -> None:
    # Object stores keep listings, and another process may have written since.
    forget = getattr(getattr(path, "fs", None), "invalidate_cache", None)
    if forget is not None:
        forget()
