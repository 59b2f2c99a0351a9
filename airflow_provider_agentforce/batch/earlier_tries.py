"""Reads what earlier tries of a batch left in its checkpoint.

The blocks of a try are applied in the order in which it wrote them. If one is missing, the records without a
row that it may have claimed are pending.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from airflow_provider_agentforce.batch.hash_index import HashIndex
from airflow_provider_agentforce.batch.parts import PREFIX, Block, PartName, ReadBlock, blocks
from airflow_provider_agentforce.batch.results import SKIPPED, RowIndex
from airflow_provider_agentforce.batch.storage import Storage, guarded


class MessagePosition(NamedTuple):
    """The position of a record's first message.

    :param session_id: the session.
    :param number: number of the message in the session.
    :param at: when it was about to be sent, in seconds since the epoch.
    :param external_key: external key of the session.
    """

    session_id: str
    number: int
    at: float
    external_key: str | None = None


@dataclass
class EarlierTries:
    """State that earlier tries left, in addition to their rows.

    :ivar began: wall-clock time at which the first try began.
    :ivar pending: positions of records that may have been asked and have no row; with the session, if known.
    :ivar starts: wall-clock times of session starts.
    :ivar open_sessions: ids of sessions without a recorded end, with their external keys.
    :ivar lost_starts: external keys of sessions that were being started.
    """

    began: float
    pending: dict[int, MessagePosition | None] = field(default_factory=dict)
    starts: list[float] = field(default_factory=list)
    open_sessions: dict[str, str | None] = field(default_factory=dict)
    lost_starts: dict[str, None] = field(default_factory=dict)


@dataclass(frozen=True)
class PartReader:
    """Reads the files of earlier tries. Nothing is written.

    :param storage: storage of the checkpoint's folder.
    :param failure: how the text of an error begins.
    :param positions: the position of each record by its name.
    :param rows: receives the rows.
    """

    storage: Storage
    failure: str
    positions: HashIndex | Mapping[str, int]
    rows: RowIndex

    def read(self, turn: int, owner: str, *, began: float, same: bool) -> EarlierTries:
        """Read the files of all tries but this one.

        :param turn: number of this try.
        :param owner: id of this process, whose files are not read.
        :param began: wall-clock time at which the first try began.
        :param same: whether the records still have the same positions.
        :raises LedgerError: if a file cannot be read.
        """
        past = EarlierTries(began)
        names = guarded(self.storage.names, f"{self.failure} listed")
        parts = [PartName.read(name) for name in names if name.startswith(PREFIX)]
        parts = [part for part in parts if part.owner != owner]
        turns = {part.turn for part in parts}
        total = len(self.rows)
        lost = total if any(one not in turns for one in range(1, turn)) else 0
        # A merged file comes before the files that it replaces.
        parts.sort(key=lambda part: (part.turn, part.owner, part.first, -part.bound))
        for _, of_one in groupby(parts, lambda part: (part.turn, part.owner)):
            expected = 0
            for part in of_one:
                expected, whole = self._read_part(part, expected, past)
                if not whole:
                    lost = max(lost, min(part.bound, total) if same else total)
        for position in filter(self._is_open, range(lost)):
            past.pending.setdefault(position, None)
        return past

    def _read_part(self, part: PartName, expected: int, past: EarlierTries) -> tuple[int, bool]:
        """Read a file; return the number of the block that comes next, and whether none is missing."""
        whole = True
        body = guarded(lambda: self.storage.read(str(part)), f"{self.failure} read")
        if body is None and part.first < expected:
            return expected, True  # its try has merged it, and removed it after it was listed
        file = self.rows.add_file(str(part))
        for found in blocks(str(part), body or b""):
            if found is None:
                return expected, False
            whole = whole and found.number <= expected
            if found.number >= expected:
                self._apply(found, file, past)
                expected = found.number + 1
        return expected, whole

    def _is_open(self, position: int) -> bool:
        """Return whether a lost claim may be that of this record."""
        return self.rows.status(position) is None or self.rows.asked_again(position)

    def _apply(self, found: ReadBlock, file: int, past: EarlierTries) -> None:
        block = found.block
        self._apply_rows(block, file, found.offset, past)
        past.lost_starts.update(dict.fromkeys(block.starting))
        for session_id, (key, started) in block.sessions.items():
            past.open_sessions[session_id] = key
            past.starts.append(started)
            past.lost_starts.pop(key or "", None)
        self._apply_claims(block, past)
        for ended in block.ended:
            past.open_sessions.pop(ended, None)
            past.lost_starts.pop(ended, None)

    def _apply_rows(self, block: Block, file: int, offset: int, past: EarlierTries) -> None:
        for entry, _ in block.rows:
            position = self.positions.get(entry.name)
            # Skipped records are asked by this try.
            if position is not None and entry.status != SKIPPED:
                self.rows.put(position, entry)
                self.rows.place(position, file, offset)
                past.pending.pop(position, None)
            offset += entry.length + entry.record_length

    def _apply_claims(self, block: Block, past: EarlierTries) -> None:
        for _, position in self._known(block.withdrawn):
            past.pending.pop(position, None)
        for name, position in self._known(block.claims):
            found_in = block.asked.get(name)
            key = past.open_sessions.get(found_in[0]) if found_in else None
            past.pending[position] = MessagePosition(*found_in, key) if found_in else None

    def _known(self, names: list[str]) -> Iterator[tuple[str, int]]:
        found = ((name, self.positions.get(name)) for name in names)
        return ((name, position) for name, position in found if position is not None)
