"""A set of hashes of about 16 bytes each, for inputs that would not fit into a Python set."""

from __future__ import annotations

from array import array
from collections.abc import Hashable

_FIRST_SIZE = 1024
_FULLEST = 0.6


class HashSet:
    """Hashes of 64 bits. Among ten million values, two collide by chance once in 400,000 times."""

    def __init__(self) -> None:
        self._count = 0
        self._slots = array("q", [0]) * _FIRST_SIZE

    def add(self, value: Hashable) -> bool:
        """Add the hash of *value*, and return whether it was there before."""
        if self._count > _FULLEST * len(self._slots):
            self._grow()
        if self._put(hash(value) or 1):
            return True
        self._count += 1
        return False

    def _put(self, number: int) -> bool:
        slots, mask = self._slots, len(self._slots) - 1
        place = number & mask
        while slots[place]:
            if slots[place] == number:
                return True
            place = (place + 1) & mask
        slots[place] = number
        return False

    def _grow(self) -> None:
        old, self._slots = self._slots, array("q", [0]) * (2 * len(self._slots))
        for number in old:
            if number:
                self._put(number)
