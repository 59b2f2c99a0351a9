"""What earlier tries of a task did: a record before every request that acts, and one after it.

The record lives in Airflow's task state store (3.3 and later), which outlives a retry and a killed process;
XCom does not, since every try begins by deleting it. A person's *clear* begins a new cycle, told by the
task's ``max_tries``, and finds nothing. A store that cannot be read is an error, never "there is no record".
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from airflow_provider_agentforce._compat import Context
from airflow_provider_agentforce.client.models import Turn
from airflow_provider_agentforce.exceptions import (
    AgentforceError,
    AgentforceInputError,
    DeliveryUnknownError,
    LedgerError,
)

log = logging.getLogger(__name__)

_VERSION = 1
_PREFIX = "agentforce_"
SESSION = "session"
CORRECTION = "correction"
# Airflow asks for values below 64 kB.
_MOST_BYTES = 48_000


@dataclass(frozen=True)
class Record:
    """One entry.

    :param fingerprint: of what was asked for.
    :param done: ``False``: about to be sent, and nothing more is known; ``True``: answered.
    :param value: the outcome, ``None`` when it was too long to keep; for an intent what identifies it.
    """

    fingerprint: str
    done: bool
    value: dict[str, Any] | None
    cycle: int


def fingerprint(*parts: Any) -> str:
    """Return a hash of what a request asks for, to notice that a later try asks for something else."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def turn_key(number: int) -> str:
    """Return the key of a conversation's turn, counted from 1."""
    return f"turn_{number}"


def unreadable(key: str) -> LedgerError:
    """Return the error for a record that is there and makes no sense: it must not count as none."""
    error = LedgerError(
        f"The record {_PREFIX}{key} of the task state store cannot be read as one. Nothing was sent.",
        hint="Delete it once you know what the agent did.",
    )
    error.retryable = False
    return error


class Ledger:
    """The records of one task instance. Without a store it keeps nothing and finds nothing.

    :param store: Airflow's ``task_state_store``, or ``None`` below Airflow 3.3.
    :param cycle: the task's ``max_tries``, which a clear raises.
    """

    def __init__(self, store: Any, cycle: int) -> None:
        self._store = store
        self._cycle = cycle
        self._complete = True

    @classmethod
    def of(cls, context: Context) -> Ledger:
        """Return the ledger of the running task."""
        store = context.get("task_state_store")
        if store is None:
            log.info("This Airflow has no task state store, so a killed try leaves no record to the next.")
        return cls(store, getattr(context["ti"], "max_tries", 0))

    @property
    def keeps(self) -> bool:
        """Whether the next try will find all that this one did."""
        return self._store is not None and self._complete

    def read(self, key: str) -> Record | None:
        """Return the record that an earlier try of this cycle left.

        :raises LedgerError: if the store cannot be read, or holds something else.
        """
        record = self.read_any_cycle(key)
        return record if record is not None and record.cycle == self._cycle else None

    def read_any_cycle(self, key: str) -> Record | None:
        """Return the record, also one from before a person's clear."""
        if self._store is None:
            return None
        stored = self._ask(lambda: self._store.get(_PREFIX + key))
        if stored is None:
            return None
        try:
            version, done, value = stored["v"], stored["done"], stored["value"]
            usable = version == _VERSION and isinstance(done, bool) and isinstance(value, dict | None)
            record = Record(str(stored["fingerprint"]), done, value, int(stored["cycle"]))
        except (KeyError, TypeError, ValueError):
            usable = False
        if not usable:
            raise unreadable(key)
        return record

    def intend(self, key: str, mark: str, value: dict[str, Any] | None = None) -> None:
        """Record that a request is about to be sent.

        :raises LedgerError: if it cannot be recorded; then nothing may be sent.
        """
        if self._store is None:
            return
        entry = self._entry(mark, done=False, value=value)
        self._ask(lambda: self._store.set(_PREFIX + key, entry))
        try:
            kept = self._ask(lambda: self._store.get(_PREFIX + key)) == entry
        except LedgerError:
            self.forget(key)
            raise
        if not kept:
            raise LedgerError("The task state store does not keep what is written. Nothing was sent.")

    def settle(self, key: str, mark: str, value: dict[str, Any]) -> None:
        """Record an outcome. A failure is logged: the outcome itself is at hand and must not be lost."""
        if self._store is None:
            return
        try:
            self._store.set(_PREFIX + key, self._entry(mark, done=True, value=_fitting(value)))
        except Exception as error:  # noqa: BLE001 - whatever the store's backend raises
            self._complete = False
            log.warning("The outcome could not be recorded for a later try: %s", type(error).__name__)

    def forget(self, key: str) -> None:
        """Remove a record: what it announced is known not to have happened."""
        if self._store is None:
            return
        try:
            self._store.delete(_PREFIX + key)
        except Exception as error:  # noqa: BLE001 - whatever the store's backend raises
            log.warning("A record could not be removed; a later try will not send: %s", type(error).__name__)

    def _entry(self, mark: str, *, done: bool, value: dict[str, Any] | None) -> dict[str, Any]:
        return {"v": _VERSION, "cycle": self._cycle, "fingerprint": mark, "done": done, "value": value}

    def _ask(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            raise LedgerError(
                f"The task state store cannot be used ({type(error).__name__}). Nothing was sent."
            ) from error


def send_once(
    ledger: Ledger,
    key: str,
    mark: str,
    send: Callable[[Callable[[], None], bool], Turn],
    *,
    session_id: str,
    resend_unknown: bool,
) -> Turn:
    """Send a message unless an earlier try has sent it, and return its answer.

    :param send: is given what to call right before the first byte leaves, and whether an earlier try may
        have sent the message already.
    :raises DeliveryUnknownError: if an earlier try may have sent it and left no answer.
    """
    record = ledger.read(key)
    if record is not None:
        turn = _answered(record, mark, resend_unknown=resend_unknown)
        if turn is not None:
            log.info("Message %d was answered in an earlier try; it is not sent again.", turn.sequence_id)
            return turn
    try:
        turn = send(lambda: ledger.intend(key, mark, {"session_id": session_id}), record is not None)
    except AgentforceError as error:
        if error.applied is False and record is None and not isinstance(error, LedgerError):
            ledger.forget(key)
        raise
    ledger.settle(key, mark, turn.to_dict())
    return turn


def _answered(record: Record, mark: str, *, resend_unknown: bool) -> Turn | None:
    if record.fingerprint != mark:
        raise AgentforceInputError(
            "The message, its session or the connection has changed since an earlier try sent it. "
            "Clear the task to send it as a new one."
        )
    if record.done and record.value is not None:
        return Turn(**record.value)
    if resend_unknown:
        return None
    if record.done:
        raise DeliveryUnknownError(
            "An earlier try sent the message and got an answer that was too long to keep.",
            operation="send",
            applied=True,
        )
    raise DeliveryUnknownError(
        "An earlier try sent the message and left no answer: it was killed, or the answer never came.",
        operation="send",
        applied=None,
        session_id=(record.value or {}).get("session_id"),
        hint='Look at the agent\'s session, then clear the task, or set on_unknown_delivery="resend".',
    )


def _fitting(value: dict[str, Any]) -> dict[str, Any] | None:
    from airflow_provider_agentforce.structured.json_in_answer import is_structured  # noqa: PLC0415 - not at parse time

    if len(json.dumps(value)) <= _MOST_BYTES:
        return value
    # A result that output_type reads must be there for a later try, or be known to be missing.
    results = [item for item in value.get("results", []) if is_structured(item)]
    shorter = {**value, "messages": [], "citations": [], "results": results}
    return shorter if len(json.dumps(shorter)) <= _MOST_BYTES else None
