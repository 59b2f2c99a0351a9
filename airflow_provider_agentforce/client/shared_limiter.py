"""Keeps to the session limits of an org together with all other processes that use it."""

from __future__ import annotations

import logging
import threading
import time
import uuid
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from airflow_provider_agentforce.client.concurrency_limiter import (
    LONGEST_REQUEST,
    ConcurrencyLimiter,
    Slot,
)
from airflow_provider_agentforce.client.limits_store import Grant, LimitsStore
from airflow_provider_agentforce.client.redis_scripts import StoreUnreachableError
from airflow_provider_agentforce.exceptions import RateLimitedError

log = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds between two requests of a waiting process; one thread asks for all.
_POLL = 0.1
_LONGEST_POLL = 1.0
# How long sessions of other processes may be open after the store is lost.
_KNOWN_SECONDS = 60.0


@dataclass(frozen=True)
class _Share:
    """The share of this process while the store is unreachable.

    :param most_open: sessions at once, ``None`` if nothing is known of the others.
    :param most_starts: in an hour.
    :param until: until when *most_open* holds, by the limiter's clock.
    """

    processes: int = 1
    most_open: int | None = None
    most_starts: int | None = None
    until: float = 0.0


class SharedLimiter(ConcurrencyLimiter):
    """A limiter whose limits hold for all processes that share a store.

    A start needs a slot of this process first, then a lease of the store. A lease expires unless its process
    renews it, so the leases of a dead process become free; a process that was only frozen takes its leases
    back. While the store is unreachable, the process continues at once with its share of what was free, and
    reports its leases when the store is back.

    :param store: of the org.
    """

    def __init__(self, store: LimitsStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._least_processes = 1
        self._begin()
        super().__init__(clock)

    def _begin(self) -> None:
        self._process = uuid.uuid4().hex[:12]
        self._gate = threading.Lock()
        # Held from asking for a lease until it is known here, and while the store hears of all of them.
        self._exchange = threading.Lock()
        self._leases: dict[Slot, str] = {}
        self._lease_of_start: dict[Slot, str] = {}
        self._share = _Share()
        self._age: str | None = None
        self._unreachable = False
        self._used = False
        self._free_at = self._asked_by_all = 0.0
        self._beats: threading.Thread | None = None

    def renew(self) -> None:
        """Start over in a forked child: what is held is the parent's."""
        self._begin()
        super().renew()

    @property
    def asked_for(self) -> float:
        """The seconds that the org has asked any of the processes to wait."""
        return max(super().asked_for, self._asked_by_all - self._clock())

    def paused_for(self, most_per_hour: int) -> float:
        """Return the seconds until the next start may be tried, 0 if only a free slot is missing."""
        return max(super().paused_for(self._most_starts(most_per_hour)), self._free_at - self._clock())

    def acquire(
        self, *, most_open: int, most_per_hour: int, wanted: int | None = None, wait: float = 0.0
    ) -> Slot:
        """Take a slot, as :meth:`.ConcurrencyLimiter.acquire`."""
        end = self._clock() + wait
        self._beat_regularly()
        if not self._gate.acquire(timeout=max(0.0, wait)):
            free_in = self.paused_for(most_per_hour) or None
            raise RateLimitedError(
                "Other threads wait for a session, too.", operation="start", retry_after=free_in
            )
        try:
            while True:
                slot = super().acquire(
                    most_open=self._most_open(most_open),
                    most_per_hour=self._most_starts(most_per_hour),
                    wanted=wanted or most_open,
                    wait=max(0.0, end - self._clock()),
                )
                grant = self._ask(slot, most_open, most_per_hour)
                if grant is not None and grant.granted:
                    return slot
                if grant is None and self._has_a_share_for_all(most_open):
                    return slot
                self.withdraw(slot)
                if grant is not None:
                    self._wait_or_raise(grant, end)
        finally:
            self._gate.release()

    def _wait_or_raise(self, refusal: Grant, end: float) -> None:
        left = end - self._clock()
        if left <= 0:
            raise RateLimitedError(
                f"All processes that use the org have {refusal.open} sessions open and have started "
                f"{refusal.starts} within an hour (limits_conn_id); no other may start now.",
                operation="start",
                retry_after=refusal.free_in,
            )
        pause = _POLL if refusal.free_in is None else min(max(refusal.free_in, _POLL), _LONGEST_POLL)
        with self._changed:
            self._changed.wait(min(pause, left))

    def _ask(self, slot: Slot, most_open: int, most_per_hour: int) -> Grant | None:
        """Take a lease for *slot*; return what the store says, ``None`` while it is unreachable."""
        lease = self._store.lease(self._process)
        self._used = True
        with self._exchange:
            grant = self._try(
                partial(
                    self._store.acquire,
                    lease,
                    self._process,
                    most_open=most_open,
                    most_per_hour=most_per_hour,
                    window=self.window,
                    age=self._age,
                )
            )
            if grant is None or grant.granted:
                with self._changed:
                    self._leases[slot] = self._lease_of_start[slot] = lease
        if grant is not None:
            self._learn(grant, most_open, most_per_hour)
        return grant

    def _learn(self, grant: Grant, most_open: int, most_per_hour: int) -> None:
        now = self._clock()
        self._asked_by_all = now + grant.asked_for
        self._free_at = 0.0 if grant.granted or grant.free_in is None else now + grant.free_in
        with self._changed:
            held, started = len(self._leases), len(self._starts)
        self._share = _Share(
            processes=grant.processes,
            most_open=held + max(0, most_open - grant.open) // grant.processes,
            most_starts=started + max(0, most_per_hour - grant.starts) // grant.processes,
            until=now + _KNOWN_SECONDS,
        )
        if self._age is None:
            self._age = grant.age
        elif grant.age != self._age:
            self._tell_all()

    def _has_a_share_for_all(self, most_open: int) -> bool:
        """Return whether the share has room for all slots, even those taken before the share was known."""
        with self._changed:
            return len(self._starting) + len(self._open) <= self._most_open(most_open)

    def _most_open(self, most: int) -> int:
        if not self._unreachable:
            return most
        fair = max(1, most // max(self._share.processes, self._least_processes))
        known = self._share.most_open is not None and self._clock() < self._share.until
        return max(1, min(fair, self._share.most_open or 0)) if known else fair

    def _most_starts(self, most: int) -> int:
        if not self._unreachable:
            return most
        if self._share.most_starts is not None:
            return max(1, min(most, self._share.most_starts))
        return max(1, most // self._least_processes)

    def expect(self, processes: int) -> None:
        """Assume that at least this many processes use the org, until the store says how many do."""
        self._least_processes = max(self._least_processes, processes)

    def withdraw(self, slot: Slot) -> None:
        """Give back a slot with which no start was tried."""
        with self._changed:
            self._forget(slot)
            if slot in self._starts:
                self._starts.remove(slot)
            self._starting.discard(slot)

    def started(self, slot: Slot, session_id: str) -> None:
        """Note that the session of *slot* has started."""
        super().started(slot, session_id)
        if self._asked_by_all > self._clock():
            self._asked_by_all = 0.0
            self._try(partial(self._store.give_back, None, started=True))

    def ended(self, session_id: str) -> None:
        """Free the slot of a session that has ended, if it was started here."""
        slot = self._open.get(session_id)
        if slot is not None:
            self._give_back(slot)
        super().ended(session_id)

    def release(self, slot: Slot) -> None:
        """Free a slot whose session did not start. The org may have counted the start all the same."""
        self._give_back(slot)
        super().release(slot)

    def refused(self, slot: Slot, retry_after: float | None) -> None:
        """Note that the org refused a start or a message because of its limits, and free the slot."""
        self._give_back(slot, forget=slot.session_id is None, retry_after=retry_after)
        super().refused(slot, retry_after)

    def throttled(self, retry_after: float | None) -> None:
        """Note that the org refused a call because of its limits. While it asks for that, nothing starts."""
        super().throttled(retry_after)
        if retry_after:
            self._return(None, retry_after=retry_after)

    def _give_back(self, slot: Slot, *, forget: bool = False, retry_after: float | None = None) -> None:
        with self._changed:
            lease = self._leases.pop(slot, None)
            if forget:
                self._lease_of_start.pop(slot, None)
            if lease is not None and not self._unreachable and self._share.most_open:
                # Another process may take its place before this one hears of it.
                self._share = replace(self._share, most_open=self._share.most_open - 1)
        if lease is not None or retry_after:
            self._return(lease, forget=forget, retry_after=retry_after)

    def _return(self, lease: str | None, *, forget: bool = False, retry_after: float | None = None) -> None:
        asked = min(retry_after or 0.0, LONGEST_REQUEST)
        pause = min(asked, self.longest_pause)
        self._try(partial(self._store.give_back, lease, forget=forget, pause=pause, asked_for=asked))

    def _forget(self, slot: Slot) -> None:
        self._leases.pop(slot, None)
        self._lease_of_start.pop(slot, None)

    def _try(self, call: Callable[[], T]) -> T | None:
        """Return what the store says, ``None`` while it is unreachable."""
        if self._unreachable:
            return None
        try:
            return call()
        except StoreUnreachableError as error:
            with self._changed:
                was_unreachable, self._unreachable = self._unreachable, True
            if was_unreachable:
                return None
            processes = max(self._share.processes, self._least_processes)
            log.warning(
                "The Redis of limits_conn_id cannot be reached (%s). Until it is back, this task uses %s.",
                error,
                f"1/{processes} of the org's limits" if processes > 1 else "the org's limits for itself",
            )
            return None

    def _tell_all(self) -> bool:
        """Tell the store what this process holds and has started; return whether it received that."""
        self._forget_old_starts()
        with self._exchange:
            now = self._clock()
            with self._changed:
                leases = list(self._leases.values())
                starts = {lease: now - slot.at for slot, lease in self._lease_of_start.items()}
            try:
                self._age = self._renewed(leases, starts)
            except StoreUnreachableError:
                return False
            return True

    def _renewed(self, leases: list[str], starts: dict[str, float] | None = None) -> str:
        """Renew *leases*, and give those back once more whose sessions have ended meanwhile."""
        age = self._store.renew(self._process, leases, starts, window=self.window, age=self._age)
        with self._changed:
            ended = set(leases) - set(self._leases.values())
            counted = set(self._lease_of_start.values())
        for lease in ended:
            self._store.give_back(lease, forget=lease not in counted)
        return age

    def _forget_old_starts(self) -> None:
        oldest = self._clock() - self.window
        with self._changed:
            self._lease_of_start = {
                slot: lease
                for slot, lease in self._lease_of_start.items()
                if slot in self._leases or slot.at > oldest
            }

    def _beat_regularly(self) -> None:
        with self._changed:
            if self._beats is not None:
                return
            self._beats = threading.Thread(
                target=_beat_for, args=[weakref.ref(self)], name="agentforce-limits", daemon=True
            )
            self._beats.start()

    @property
    def pause_between_beats(self) -> float:
        """Seconds between two calls of :meth:`beat`."""
        return self._store.beat

    def beat(self) -> None:
        """Keep the leases of this process, and look whether a store that was unreachable is back."""
        if self._unreachable:
            self._return_to_store()
            return
        self._forget_old_starts()
        with self._changed:
            leases = list(self._leases.values())
        if not leases and not self._used:
            return
        self._used = False
        age = self._try(partial(self._renewed, leases))
        if age is not None and age != self._age:
            self._tell_all()

    def _return_to_store(self) -> None:
        if self._tell_all():
            self._unreachable = False
            # Including leases that other threads have taken since.
            self._tell_all()
            log.info("The Redis of limits_conn_id is back; all processes share the org's limits again.")


def _beat_for(limiter: weakref.ref[SharedLimiter]) -> None:
    while (known := limiter()) is not None:
        known.beat()
        pause = known.pause_between_beats
        del known
        time.sleep(pause)
