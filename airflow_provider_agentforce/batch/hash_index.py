"""The positions of texts by their hashes, about 30 bytes each, for inputs for which a dict would be too
large.
"""

from __future__ import annotations

import hashlib
from array import array

_FIRST_SIZE = 1024
_FULLEST = 0.6
# With 128 bits, two texts never collide by chance.
_HASHED = 16


class HashIndex:
    """Numbers texts in the order in which they are added, from 0."""

    def __init__(self) -> None:
        self._hashes = bytearray()
        # An open-addressing table of position + 1; 0 is a free place.
        self._table = array("I", [0]) * _FIRST_SIZE

    def __len__(self) -> int:
        return len(self._hashes) // _HASHED

    def __getitem__(self, text: str) -> int:
        position = self.get(text)
        if position is None:
            raise KeyError(text)
        return position

    def get(self, text: str) -> int | None:
        """Return the position of *text*, ``None`` if it was not added."""
        number = self._table[self._place(_hash(text))]
        return number - 1 if number else None

    def add(self, text: str) -> bool:
        """Give *text* the next position unless it has one, and return whether it had."""
        hashed = _hash(text)
        place = self._place(hashed)
        if self._table[place]:
            return True
        self._hashes += hashed
        self._table[place] = len(self)
        if len(self) > _FULLEST * len(self._table):
            self._grow()
        return False

    def _place(self, hashed: bytes) -> int:
        """Return the place of a hash in the table, or the free place for it."""
        table, hashes, mask = self._table, self._hashes, len(self._table) - 1
        place = hash(hashed) & mask
        while number := table[place]:
            end = number * _HASHED
            if hashes[end - _HASHED : end] == hashed:
                break
            place = (place + 1) & mask
        return place

    def _grow(self) -> None:
        self._table = array("I", [0]) * (2 * len(self._table))
        for number in range(1, len(self) + 1):
            end = number * _HASHED
            self._table[self._place(bytes(self._hashes[end - _HASHED : end]))] = number


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_HASHED).digest()
