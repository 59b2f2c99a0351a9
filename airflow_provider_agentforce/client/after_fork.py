"""Renews locks in a forked child, where the threads that held them do not exist."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class Renewable(Protocol):
    """An object that holds locks."""

    def renew(self) -> None:
        """Renew the locks, in a process without other threads."""


_known: weakref.WeakSet[Renewable] = weakref.WeakSet()


def renew_in_child(owner: Renewable) -> None:
    """Renew *owner* in every child that this process forks, as long as *owner* exists."""
    _known.add(owner)


def _renew() -> None:
    for owner in list(_known):
        owner.renew()


os.register_at_fork(after_in_child=_renew)


class ForkSafeLock:
    """A lock that is free in a forked child, whatever another thread of the parent was doing."""

    def __init__(self) -> None:
        self.renew()
        renew_in_child(self)

    def renew(self) -> None:
        """Free the lock in a child."""
        self._lock = threading.Lock()

    def acquire(self, timeout: float = -1) -> bool:
        """Acquire the lock, within *timeout* seconds if given."""
        return self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        """Free the lock."""
        self._lock.release()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
