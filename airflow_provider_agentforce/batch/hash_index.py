"""The positions of texts by their hashes, about 30 bytes each, for inputs for which a dict would be too
large.
"""

from __future__ import annotations

from array import array

_FIRST_SIZE = 1024
_FULLEST = 0.6


class HashIndex:
    """Numbers texts in the order in which they are added, from 0."""

    def __init__(self) -> None:
        # With two hashes of 64 bits, two texts never collide by chance.
        self._first, self._second = array("q"), array("q")
        # An open-addressing table of position + 1; 0 is a free place.
        self._table = array("I", [0]) * _FIRST_SIZE

    def __len__(self) -> int:
        return len(self._first)

    def __getitem__(self, text: str) -> int:
        position = self.get(text)
        if position is None:
            raise KeyError(text)
        return position

    def get(self, text: str) -> int | None:
        """Return the position of *text*, ``None`` if it was not added."""
        number = self._table[self._place(hash(text), hash(f"{text}\0"))]
        return number - 1 if number else None

    def add(self, text: str) -> bool:
        """Give *text* the next position unless it has one, and return whether it had."""
        first, second = hash(text), hash(f"{text}\0")
        place = self._place(first, second)
        if self._table[place]:
            return True
        self._first.append(first)
        self._second.append(second)
        self._table[place] = len(self._first)
        if len(self._first) > _FULLEST * len(self._table):
            self._grow()
        return False

    def _place(self, first: int, second: int) -> int:
        """Return the place of a text in the table, or the free place for it."""
        table, mask = self._table, len(self._table) - 1
        place = first & mask
        while number := table[place]:
            if self._first[number - 1] == first and self._second[number - 1] == second:
                break
            place = (place + 1) & mask
        return place

    def _grow(self) -> None:
        table = self._table = array("I", [0]) * (2 * len(self._table))
        mask = len(table) - 1
        for number, first in enumerate(self._first, 1):
            place = first & mask
            while table[place]:
                place = (place + 1) & mask
            table[place] = number
