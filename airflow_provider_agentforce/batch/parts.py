"""The format of a checkpoint's files: blocks of lines, each written at once.

The first line of a block has the claims, sessions and withdrawals, and the lengths of the rows after it; a
row is the line of the results file. The last line ends the block. The blocks of one try are numbered without
a gap, and a file's name says which records it may claim: if a file is lost or cut off, only these are
unknown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from airflow_provider_agentforce.batch.results import Entry
from airflow_provider_agentforce.exceptions import LedgerError

PREFIX = "part-"
_HEAD = ("claims", "asked", "withdrawn", "starting", "sessions", "ended")
_NAME = re.compile(rf"{PREFIX}(\d{{4,}})-([0-9a-f]{{12}})-(\d{{8,}})-(\d{{8,}})\.jsonl")


class PartName(NamedTuple):
    """The name of a file.

    :param turn: number of the try that wrote it, counted from 1.
    :param owner: id of the process that wrote it, 12 hexadecimal digits.
    :param first: the number of its first block.
    :param bound: it claims only records with a lower position.
    """

    turn: int
    owner: str
    first: int
    bound: int

    def __str__(self) -> str:
        return f"{PREFIX}{self.turn:04d}-{self.owner}-{self.first:08d}-{self.bound:08d}.jsonl"

    @classmethod
    def read(cls, name: str) -> PartName:
        """Parse a name.

        :raises LedgerError: if it is another program's.
        """
        match = _NAME.fullmatch(name)
        if match is None:
            raise unreadable_file(name)
        turn, owner, first, bound = match.groups()
        return cls(int(turn), owner, int(first), int(bound))


@dataclass
class Block:
    """The unit of writing.

    :ivar claims: names of records that may be asked as soon as this is durable.
    :ivar asked: where each of these is asked: session id, number of the message, wall-clock time.
    :ivar withdrawn: names of records that were claimed and not asked.
    :ivar rows: rows, each with its line and the line of its record.
    :ivar starting: external keys of sessions that are being started.
    :ivar sessions: sessions that have started, by id: their external key and the wall-clock time.
    :ivar ended: ids of sessions that have ended, and external keys of starts that failed.
    """

    claims: list[str] = field(default_factory=list)
    asked: dict[str, tuple[str, int, float]] = field(default_factory=dict)
    withdrawn: list[str] = field(default_factory=list)
    rows: list[tuple[Entry, bytes]] = field(default_factory=list)
    starting: list[str] = field(default_factory=list)
    sessions: dict[str, tuple[str | None, float]] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)

    @property
    def has_news(self) -> bool:
        """Whether it has anything besides claims and starts, which are written immediately."""
        return bool(self.rows or self.withdrawn or self.sessions or self.ended)

    def encode(self, number: int) -> tuple[bytes, int]:
        """Return its bytes, and the offset of the first row in them."""
        head: dict[str, Any] = {"n": number, "rows": [entry for entry, _ in self.rows]}
        head |= {name: getattr(self, name) for name in _HEAD if getattr(self, name)}
        first = json.dumps(head).encode() + b"\n"
        return b"".join([first, *(line for _, line in self.rows), _end(number)]), len(first)


class ReadBlock(NamedTuple):
    """A block that was read.

    :param number: its number within its try, from 0.
    :param block: the block, without the lines of its rows.
    :param offset: the offset of its first row in the file, in bytes.
    """

    number: int
    block: Block
    offset: int


def blocks(name: str, body: bytes) -> Iterator[ReadBlock | None]:
    """Yield the blocks of a file, and ``None`` at the end if it is empty or cut off.

    :raises LedgerError: if it has other contents; the error names the file.
    """
    place = 0
    while place < len(body):
        end = body.find(b"\n", place)
        line = body[place:end]
        if end < 0 or b"\0" in line:
            break
        try:
            number, block = _block(line)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise unreadable_file(name) from None
        offset = end + 1
        place = offset + sum(entry.length + entry.record_length for entry, _ in block.rows)
        last = _end(number)
        found = body[place : place + len(last)]
        if found != last:
            if len(found) == len(last) and b"\0" not in found:
                raise unreadable_file(name)
            break
        yield ReadBlock(number, block, offset)
        place += len(last)
    else:
        if body:
            return
    yield None


def _block(line: bytes) -> tuple[int, Block]:
    head = json.loads(line)
    number, entries = head.pop("n"), head.pop("rows")
    return number, Block(**head, rows=[(Entry(*entry), b"") for entry in entries])


def unreadable_file(name: str) -> LedgerError:
    """Return the error for a file that this package did not write, or that was changed."""
    return LedgerError(
        f"The checkpoint file {name} cannot be read.",
        hint="Remove files that do not belong to this batch, or choose another result_path.",
        retryable=False,
    )


def _end(number: int) -> bytes:
    return b'{"end": %d}\n' % number
