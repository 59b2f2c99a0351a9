"""A folder of answers that batches share, so that an unchanged question need not be sent again.

It has a subfolder for each version of an agent. A file there is written as a whole and never changed, so
batches that run at the same time do not interfere; the lines that they read are copied to a temporary
database. Each line is an answer, with a hash of its question that is the same on every machine.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from airflow_provider_agentforce.batch.plain_json import as_json
from airflow_provider_agentforce.batch.results import Row, is_moment, moment
from airflow_provider_agentforce.batch.storage import Storage, guarded, lines_in, prepared, storage_of
from airflow_provider_agentforce.client.json_values import decode_own
from airflow_provider_agentforce.client.models import ANSWERED, ENDED
from airflow_provider_agentforce.exceptions import LedgerError, one_line

if TYPE_CHECKING:
    import sqlite3

log = logging.getLogger(__name__)

_FILE = re.compile(r"answers-1-[0-9]{14}-[0-9a-f]{12}\.jsonl")
_FOLDER = re.compile(r"[0-9a-f]{24}")
_QUESTION = re.compile(r"[0-9a-f]{32}")
_MOST_FILES = 100
_MOST_AT_ONCE = 1_000
_NOT_READ = "Nothing was sent. Without reuse, the batch asks about all records."
_NOT_KEPT = "They are in the results; the next try stores them without asking again."
_TABLE = "CREATE TABLE answers (question TEXT, at TEXT, line BLOB)"


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


class Answer(NamedTuple):
    """A stored answer.

    :param question: hash of the question, 32 hexadecimal digits.
    :param at: the time of the question, ISO 8601 in UTC.
    :param session_id: the session in which it was asked.
    :param text: the answer to the last message.
    :param outcome: its outcome, ``answered`` or ``ended``.
    :param result: the validated output, if there was an ``output_type``.
    :param earlier_answers: the answers to the messages before the last one.
    """

    question: str
    at: str
    session_id: str
    text: str
    outcome: str
    result: Any
    earlier_answers: list[str]

    @classmethod
    def of(cls, question: str, row: Row) -> Answer:
        """Return the answer of a row."""
        where = question, str(row.started_at), str(row.session_id)
        return cls(*where, row.text, str(row.outcome), row.result, row.earlier_answers)

    def line(self) -> bytes:
        """Return it as a line of JSON."""
        return json.dumps(self._asdict()).encode("ascii") + b"\n"

    @classmethod
    def read(cls, line: bytes) -> Answer | None:
        """Parse a line, ``None`` if it is incomplete, or is not one of :meth:`line`."""
        try:
            answer = cls(**_DECODER.decode(line.decode("ascii")))
        except (ValueError, TypeError, RecursionError):
            return None
        return answer if line.endswith(b"\n") and answer._is_possible() else None

    def _is_possible(self) -> bool:
        earlier: Any = self.earlier_answers
        texts = [*self[:5], *(earlier if isinstance(earlier, list) else [None])]
        if {*map(type, texts)} != {str} or self.outcome not in {ANSWERED, ENDED}:
            return False
        return bool(_QUESTION.fullmatch(self.question)) and is_moment(self.at)


@dataclass(frozen=True)
class AnswerFolder:
    """A folder of answers.

    :param path: its path object.
    :param max_age: maximum age of an answer; ``None``: no limit.
    :param storage_of: returns the storage for a path object.
    """

    path: Any
    max_age: timedelta | None = None
    storage_of: Callable[[Any], Storage] = storage_of

    def answers(self, host: str, agent_id: str, version: str) -> VersionAnswers:
        """Return the answers of one version of an agent."""
        text = as_json([host, agent_id, version])
        return self._in(hashlib.sha256(text.encode()).hexdigest()[:24])

    def prune(self) -> int:
        """Remove the answers that are older than ``max_age``, and return their number.

        :raises LedgerError: if they cannot be read or removed.
        """
        names = guarded(self.storage_of(self.path).names, f"The answers in {self.path} cannot be read")
        removed = 0
        for name in filter(_FOLDER.fullmatch, names):
            with closing(self._in(name)) as answers:
                removed += answers.prune()
        return removed

    def _in(self, name: str) -> VersionAnswers:
        path = self.path / name
        since = time.time() - (self.max_age or timedelta.max).total_seconds()
        return VersionAnswers(path, self.storage_of(path), moment(since) if since > 0 else "")


class VersionAnswers:
    """The answers of one version of an agent. Not thread-safe.

    :param path: path object of their folder, for errors.
    :param storage: storage of that folder.
    :param since: earlier answers are ignored; ISO 8601 in UTC, or ``""``.
    """

    def __init__(self, path: Any, storage: Storage, since: str) -> None:
        self._path = path
        self._storage = storage
        self._since = since
        self._database: sqlite3.Connection | None = None

    def find(self, question: str) -> Answer | None:
        """Return the latest answer to a question, ``None`` if there is none.

        :param question: hash of the question.
        :raises LedgerError: if the answers cannot be read.
        """
        query = "SELECT line FROM answers WHERE question = ? ORDER BY at DESC LIMIT 1"
        found = self._loaded.execute(query, [question]).fetchone()
        # The lines in the database were checked when they were copied.
        return None if found is None else Answer(**decode_own(found[0]))

    def has(self, question: str, at: str) -> bool:
        """Return whether this answer, or a later one, is stored.

        :raises LedgerError: if the answers cannot be read.
        """
        query = "SELECT 1 FROM answers WHERE question = ? AND at >= ?"
        return self._loaded.execute(query, [question, at]).fetchone() is not None

    def add(self, answers: Callable[[], Iterable[Answer]]) -> None:
        """Store answers.

        :param answers: called again for each attempt to write.
        :raises LedgerError: if they cannot be written.
        """
        failure = f"The answers cannot be stored in {self._path}"
        prepared(self._storage, failure, _NOT_KEPT)
        guarded(lambda: self._write(lambda: (one.line() for one in answers())), failure, _NOT_KEPT)
        if len(guarded(self._names, failure, _NOT_KEPT)) > _MOST_FILES:
            guarded(lambda: self._merge(""), failure, _NOT_KEPT)

    def prune(self) -> int:
        """Remove the answers that are too old, and return their number."""
        removed = 0
        # Until a merge finds none: another process may have merged the same files meanwhile.
        failure = f"The answers in {self._path} cannot be pruned"
        while (number := guarded(lambda: self._merge(self._since), failure)) != 0:
            removed += number or 0
        return removed

    def close(self) -> None:
        """Remove the temporary database."""
        if self._database is not None:
            self._database.close()
            self._database = None

    @property
    def _loaded(self) -> sqlite3.Connection:
        if self._database is None:
            failure = f"The earlier answers in {self._path} cannot be read"
            # Already here, so that a folder that cannot be created is an error before anything is sent.
            prepared(self._storage, failure, _NOT_READ)
            self._database = guarded(self._load, failure, _NOT_READ)
        return self._database

    def _load(self) -> sqlite3.Connection:
        seen, broken = set[str](), 0
        with _closed_on_error(_database()) as database:
            # Another batch may merge files meanwhile: what it has removed is in a new file.
            while names := [name for name in self._names() if name not in seen]:
                seen.update(names)
                for name in names:
                    with suppress(FileNotFoundError):
                        broken += self._copy(name, database, self._since)
            # With the index from the beginning, a row takes twice as long.
            with _with_room():
                database.execute("CREATE INDEX latest ON answers (question, at)")
        if broken:
            log.warning("%d lines in %s are incomplete or changed; they are skipped.", broken, self._path)
        return database

    def _merge(self, since: str) -> int | None:
        """Merge all files into one, without older answers, and return the number of answers left out.

        A batch that begins in the meantime finds each answer at least once.

        :returns: ``None`` if another process removes some of the files; then nothing is changed.
        """
        with closing(_database()) as database:
            names = self._names()
            try:
                for name in names:
                    self._copy(name, database, "")
            except FileNotFoundError:
                return None
            before, after = (_count(database, one) for one in ("", since))
            if len(names) > 1 or before > after:
                merged = [self._write(lambda: _lines(database, since))] if after else []
                whole = {*names} <= {*self._names()}
                # A process that has removed some may have left answers out that are in this file again.
                for name in names if whole else merged:
                    self._storage.remove(name)
                if not whole:
                    return None
            return before - after

    def _names(self) -> list[str]:
        return sorted(filter(_FILE.fullmatch, self._storage.names()))

    def _write(self, lines: Callable[[], Iterable[bytes]]) -> str:
        """Write a file, and return its name."""
        stamp = time.strftime("%Y%m%d%H%M%S", time.gmtime())
        name = f"answers-1-{stamp}-{uuid.uuid4().hex[:12]}.jsonl"
        self._storage.write(name, lines)
        return name

    def _copy(self, name: str, database: sqlite3.Connection, since: str) -> int:
        """Copy the answers of a file, and return the number of lines that cannot be read."""
        broken = 0
        with self._storage.open(name) as file:
            all_lines = lines_in(file)
            while lines := list(itertools.islice(all_lines, _MOST_AT_ONCE)):
                answers = [Answer.read(line) for line in lines]
                broken += answers.count(None)
                rows = [
                    (answer.question, answer.at, line)
                    for answer, line in zip(answers, lines, strict=True)
                    if answer is not None and answer.at >= since
                ]
                with _with_room():
                    database.executemany("INSERT INTO answers VALUES (?, ?, ?)", rows)
        return broken


def _database() -> sqlite3.Connection:
    """Return a database in a temporary file, which disappears when it is closed."""
    import sqlite3  # noqa: PLC0415 - few batches need it, and not every Python has it

    # Not SQLite's own temporary database, whose folder no error names.
    with (
        _with_room(),
        tempfile.NamedTemporaryFile(prefix="agentforce-answers-") as file,
        _closed_on_error(sqlite3.connect(file.name)) as database,
    ):
        database.execute("PRAGMA page_size = 16384")
        database.execute("PRAGMA journal_mode = OFF")
        database.execute("PRAGMA synchronous = OFF")
        database.execute(_TABLE)
    return database


@contextmanager
def _closed_on_error(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    try:
        yield database
    except BaseException:
        database.close()
        raise


@contextmanager
def _with_room() -> Iterator[None]:
    """Convert an error of SQLite or of the disk to one that names the folder for temporary files.

    :raises LedgerError: if the folder is full or cannot be used.
    """
    import sqlite3  # noqa: PLC0415 - few batches need it, and not every Python has it

    try:
        yield
    except (sqlite3.Error, OSError) as error:
        where = f" {tempfile.tempdir}" if tempfile.tempdir else ""
        raise LedgerError(
            f"The worker's folder for temporary files{where} cannot take the earlier answers "
            f"({type(error).__name__}: {one_line(str(error), 200)}).",
            hint="Make room there, or let TMPDIR name another folder.",
        ) from error


def _count(database: sqlite3.Connection, since: str) -> int:
    query = "SELECT count(DISTINCT question) FROM answers WHERE at >= ?"
    number: int = database.execute(query, [since]).fetchone()[0]
    return number


def _lines(database: sqlite3.Connection, since: str) -> Iterator[bytes]:
    """Return the line of the latest answer to each question."""
    # With max(), SQLite takes the other columns from the same row.
    query = "SELECT line, max(at) FROM answers WHERE at >= ? GROUP BY question"
    return (line for line, _ in database.execute(query, [since]))
