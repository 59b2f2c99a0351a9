"""The external keys of sessions that are being started, in a file that a killed process leaves behind."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterable, Iterator
from itertools import count

from airflow_provider_agentforce.batch.storage import LocalStorage, Storage

PREFIX = "starts-"
# A key is a UUID. No slot crosses a page, so a slot is written as a whole.
_SLOT_BYTES = 64


class SessionStarts:
    """The file of one try. It is overwritten in place, so it exists only on local storage.

    A key occupies a slot until the checkpoint says what became of its session. So the file does not grow with
    the number of sessions. Its methods are thread-safe and raise :class:`OSError`.

    :param name: name of the file.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage = storage if isinstance(storage, LocalStorage) else None
        self._name = name
        self._descriptor: int | None = None
        self._unsynced = False
        self._slots: dict[str, int] = {}
        self._free: list[int] = []
        self._numbers = count()
        self._lock = threading.Lock()

    def add(self, key: str) -> bool:
        """Write a key. It survives this process, and becomes durable with :meth:`sync`.

        :returns: ``False`` if this file cannot hold it.
        """
        text = json.dumps(key).encode().ljust(_SLOT_BYTES)
        if self._storage is None or len(text) > _SLOT_BYTES:
            return False
        with self._lock:
            if self._descriptor is None:
                self._descriptor = self._storage.open_for_overwriting(self._name)
            descriptor = self._descriptor
            slot = self._slots[key] = self._free.pop() if self._free else next(self._numbers)
        # Not under the lock, because it may wait for a sync.
        if os.pwrite(descriptor, text, slot * _SLOT_BYTES) < _SLOT_BYTES:
            raise OSError(errno.EIO, "Only part of a key was written")
        self._unsynced = True
        return True

    def resolve(self, keys: Iterable[str]) -> None:
        """Free the slots of keys whose fate is in the checkpoint; ignore others."""
        with self._lock:
            for key in keys:
                slot = self._slots.pop(key, None)
                if slot is not None:
                    self._free.append(slot)

    def sync(self) -> None:
        """Make the keys durable, if some were written since the last time."""
        if self._storage is not None and self._descriptor is not None and self._unsynced:
            # Before the sync, which may miss a key that is written meanwhile.
            self._unsynced = False
            self._storage.sync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def keys_in(body: bytes) -> Iterator[str]:
    """Yield the keys of a file. A slot that a crash left damaged is skipped."""
    for start in range(0, len(body), _SLOT_BYTES):
        try:
            key = json.loads(body[start : start + _SLOT_BYTES])
        except ValueError:
            continue
        if isinstance(key, str):
            yield key
