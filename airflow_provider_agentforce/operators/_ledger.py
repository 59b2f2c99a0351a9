"""The ledger of a task: an entry is written before every request that acts, and completed after it.

The entries are in Airflow's task state store (3.3 and later), which survives a retry and a killed process;
XCom does not, because every try begins by deleting it. A *clear* begins a new cycle, recognized by the task's
``max_tries``, and finds nothing. A store that cannot be read is an error, never a missing entry.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce._compat import Context
from airflow_provider_agentforce.client.models import JournalEntry, Session, Turn
from airflow_provider_agentforce.delivery import UnknownDelivery
from airflow_provider_agentforce.exceptions import (
    AgentforceInputError,
    DeliveryUnknownError,
    LedgerError,
)
from airflow_provider_agentforce.operators._identity import loop_of

if TYPE_CHECKING:
    from airflow_provider_agentforce.structured import OutputType

log = logging.getLogger(__name__)

_VERSION = 1
_PREFIX = "agentforce_"
SESSION = "session"
TURN = "turn"
CORRECTION = "correction"
# The state of the steps for an unknown delivery, and the rendered arguments of the waiting task.
UNKNOWN = "unknown"
RENDERED = "rendered"
QUESTION = "question"
# Below the 65,535 bytes of [state_store] max_value_storage_bytes, above which Airflow logs a warning.
_MOST_BYTES = 48_000


@dataclass
class LedgerEntry:
    """The entry of one request.

    :param fingerprint: fingerprint of the request.
    :param done: ``False``: about to be sent, and nothing more is known; ``True``: answered.
    :param value: the outcome, ``None`` if it was too long to store; for an intent what identifies it.
    :param cycle: the task's ``max_tries`` when it was written; a clear raises it.
    """

    fingerprint: str
    done: bool
    value: dict[str, Any] | None
    cycle: int


def fingerprint_of(*parts: Any) -> str:
    """Return a hash of a request, to notice that a later try makes a different one.

    It is the same in every process and on every Python.

    :param parts: JSON values.
    :raises TypeError: for anything else, whose text may differ between processes.
    """
    # Through JSON once, so that keys are text and can be sorted.
    text = json.dumps(json.loads(json.dumps(parts)), sort_keys=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def name_of_question(output: OutputType) -> str:
    """Return the name of the corrective question in the ledger, which has to be the same in every try.

    It does not contain the question's text, which comes from the answer and from libraries. The schema's
    lists are sorted, because their order may differ between processes if a type contains sets.
    """
    return fingerprint_of(
        "corrective question", _sorted(json.loads(json.dumps(output.schema, default=_name)))
    )


def _name(value: Any) -> str:
    return type(value).__name__


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(item) for key, item in value.items()}
    if isinstance(value, list):
        return sorted((_sorted(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    return value


def turn_key(number: int) -> str:
    """Return the key of a conversation's turn, counted from 1."""
    return f"turn_{number}"


def unreadable_entry(key: str) -> LedgerError:
    """Return the error for an entry that cannot be parsed: it must not count as missing."""
    return LedgerError(
        f"The record {_PREFIX}{key} of the task state store cannot be read. Nothing was sent.",
        hint="Delete it once you know what the agent did.",
        retryable=False,
    )


class Ledger:
    """The entries of one task instance. Without a store there are none.

    :param store: Airflow's ``task_state_store``, or ``None`` below Airflow 3.3.
    :param cycle: the task's ``max_tries``, which a clear raises.
    :param loop: identifies the iteration of a loop; iterations share a store.
    :param try_number: number of the running try.
    """

    def __init__(self, store: Any, cycle: int, loop: str = "", try_number: int = 1) -> None:
        self._store = store
        self.cycle = cycle
        self._prefix = f"{_PREFIX}{loop}_" if loop else _PREFIX
        self._complete = not isinstance(store, _OfThisTry)
        self.try_number = try_number
        # Outcomes of this process that are too long for the store.
        self._long: dict[str, dict[str, Any]] = {}

    @classmethod
    def of(cls, context: Context, *, resolves: bool = False) -> Ledger:
        """Return the ledger of the running task.

        :param resolves: without a store, remember what this try does, so that it can continue when an unknown
            delivery is resolved.
        """
        store: Any = context.get("task_state_store")
        if store is None:
            log.info("This Airflow has no task state store, so a killed try leaves no record for the next.")
            store = _OfThisTry() if resolves else None
        ti = context["ti"]
        return cls(store, getattr(ti, "max_tries", 0), loop_of(ti), ti.try_number)

    @property
    def keeps(self) -> bool:
        """Whether the next try will find everything that this one did."""
        return self._store is not None and self._complete

    @property
    def keeps_all(self) -> bool:
        """Whether another process would find everything that this one did, and the text of each answer."""
        return self.keeps and not any(_fitting(value) is None for value in self._long.values())

    def read(self, key: str) -> LedgerEntry | None:
        """Return the entry that an earlier try of this cycle left.

        :raises LedgerError: if the store cannot be read, or the entry cannot be parsed.
        """
        entry = self.read_any_cycle(key)
        if entry is None or entry.cycle != self.cycle:
            return None
        return replace(entry, value=self._long[key]) if entry.done and key in self._long else entry

    def value_of(self, key: str) -> dict[str, Any]:
        """Return the value that an earlier try of this cycle left, ``{}`` if there is none."""
        entry = self.read(key)
        return {} if entry is None else entry.value or {}

    def read_any_cycle(self, key: str) -> LedgerEntry | None:
        """Return the entry in the store, also one from before a clear."""
        if self._store is None:
            return None
        stored = self._ask(lambda: self._store.get(self._prefix + key))
        if stored is None:
            return None
        try:
            version, done, value = stored["v"], stored["done"], stored["value"]
            usable = version == _VERSION and isinstance(done, bool) and isinstance(value, dict | None)
            entry = LedgerEntry(str(stored["fingerprint"]), done, value, int(stored["cycle"]))
        except (KeyError, TypeError, ValueError):
            usable = False
        if not usable:
            raise unreadable_entry(key)
        return entry

    def intend(self, key: str, fingerprint: str, value: dict[str, Any] | None = None) -> None:
        """Record that a request is about to be sent.

        :raises LedgerError: if it cannot be recorded; nothing may be sent then.
        """
        if self._store is None:
            return
        try:
            kept = self._write(key, self._entry(fingerprint, done=False, value=value))
        except LedgerError as error:
            self.forget(key)
            raise error.replaced(what=f"{error.what} Nothing was sent.") from error.__cause__
        if not kept:
            raise LedgerError("The task state store lost a write. Nothing was sent.")

    def decide(self, key: str, fingerprint: str, value: dict[str, Any], *, done: bool) -> None:
        """Record the result of a request, before anything depends on it.

        :param done: *value* is its outcome; otherwise it may be sent again.
        :raises LedgerError: if it cannot be recorded; the task must not continue then.
        """
        kept = self._fitting(key, value) if done else without_requests(value)
        if not self._write(key, self._entry(fingerprint, done=done, value=kept)):
            raise LedgerError("The task state store lost a write. The task does not continue.")

    def amend(self, key: str, fingerprint: str, known: dict[str, Any]) -> None:
        """Add to the entry of a request that has left. A failure is only logged: the entry itself exists."""
        try:
            entry = self.read(key)
            if entry is None or entry.done or entry.fingerprint != fingerprint:
                return
            value = without_requests({**(entry.value or {}), **known})
            if not _fits(value):
                value = {**value, "partial_text": None}
            self._ask(
                lambda: self._store.set(self._prefix + key, self._entry(fingerprint, done=False, value=value))
            )
        except LedgerError as error:
            log.warning("What went wrong could not be recorded for a later try: %s", error.what)

    def settle(self, key: str, fingerprint: str, value: dict[str, Any]) -> None:
        """Record an outcome. A failure is only logged, because the outcome itself must not be lost."""
        if self._store is None:
            return
        try:
            kept = self._fitting(key, value)
            self._store.set(self._prefix + key, self._entry(fingerprint, done=True, value=kept))
        except Exception as error:  # noqa: BLE001 - whatever the store's backend raises
            self._complete = False
            log.warning("The outcome could not be recorded for a later try: %s", type(error).__name__)

    def forget(self, key: str) -> None:
        """Remove the entry of a request that is known not to have been made."""
        if self._store is None:
            return
        try:
            self._store.delete(self._prefix + key)
        except Exception as error:  # noqa: BLE001 - whatever the store's backend raises
            log.warning("A record could not be removed; a later try will not send: %s", type(error).__name__)

    @staticmethod
    def can_keep(value: Any) -> bool:
        """Return whether a value is JSON and short enough for the store."""
        try:
            return _fits(value)
        except (TypeError, ValueError):
            return False

    def _fitting(self, key: str, value: dict[str, Any]) -> dict[str, Any] | None:
        """Return the part of an outcome that the store can take; this process keeps all of it."""
        kept = _fitting(value)
        if kept == value:
            self._long.pop(key, None)
        else:
            self._long[key] = value
        return kept

    def _write(self, key: str, entry: dict[str, Any]) -> bool:
        """Write an entry, and return whether the store returns it."""
        self._ask(lambda: self._store.set(self._prefix + key, entry))
        return bool(self._ask(lambda: self._store.get(self._prefix + key)) == entry)

    def _entry(self, fingerprint: str, *, done: bool, value: dict[str, Any] | None) -> dict[str, Any]:
        return {"v": _VERSION, "cycle": self.cycle, "fingerprint": fingerprint, "done": done, "value": value}

    def _ask(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            raise LedgerError(f"The task state store cannot be used ({type(error).__name__}).") from error


class _OfThisTry(dict[str, Any]):
    """A store in memory, which ends with the process."""

    def set(self, key: str, value: dict[str, Any]) -> None:
        """Store a value."""
        self[key] = value

    def delete(self, key: str) -> None:
        """Remove a value."""
        self.pop(key, None)


class TaskJournal:
    """The messages of one session in a task's ledger, as the session's :class:`.Journal`.

    :param place: JSON values that must be the same in the next try: connection, agent or session.
    :param session: the session, which an intent names.
    :param key_of: returns the key of a message's entry by its number.
    :param resend_unknown: allow a message that an earlier try may have sent to be sent again.
    """

    def __init__(
        self,
        ledger: Ledger,
        *place: Any,
        session: Session,
        key_of: Callable[[int], str] = turn_key,
        resend_unknown: bool = False,
    ) -> None:
        self._ledger = ledger
        self._place = place
        self._session = session
        self._key_of = key_of
        self._resend_unknown = resend_unknown
        # Messages of earlier tries that may be sent again, by number, with the resolution that allows it, if
        # any.
        self._earlier: dict[int, dict[str, Any] | None] = {}
        # When messages of earlier tries were first sent, by number, in ISO 8601.
        self._first_sent: dict[int, str | None] = {}

    def replay(self, number: int, asked: Mapping[str, Any]) -> JournalEntry:
        """Return what is recorded of the message.

        :raises DeliveryUnknownError: if an earlier try may have sent it and left no answer.
        :raises AgentforceInputError: if an earlier try sent a different one.
        :raises LedgerError: if the entry cannot be read.
        """
        entry = self._ledger.read(self._key_of(number))
        if entry is None:
            return JournalEntry(sent=number in self._earlier, resolution=self._earlier.get(number))
        value = entry.value or {}
        resolution = value.get("resolution")
        self._first_sent[number] = value.get("first_sent_at") or value.get("sent_at")
        self._check_same(entry, number, asked, resolution)
        if entry.done and entry.value is not None:
            log.info("The answer to message %d is recorded; the message is not sent again.", number)
            return JournalEntry(Turn.from_dict(entry.value), sent=True, try_number=entry.value.get("try"))
        if resolution is not None and not value.get("sent_again"):
            self.send_again(number, resolution)
        elif self._resend_unknown and value.get("applied") is not True:
            self._earlier[number] = None
        else:
            raise _unknown(entry)
        return JournalEntry(sent=True, resolution=resolution)

    def send_again(self, number: int, resolution: dict[str, Any]) -> None:
        """Allow a message to be sent again, because of *resolution*."""
        self._earlier[number] = resolution

    def intend(self, number: int, asked: Mapping[str, Any], request: dict[str, Any] | None) -> None:
        """Record that the message is about to leave.

        :raises LedgerError: if it cannot be recorded; the message must not leave then.
        """
        delivery = UnknownDelivery(
            request=request,
            session_id=self._session.session_id,
            external_session_key=self._session.external_session_key,
            sequence_id=number,
            agent_id=self._session.agent_id,
            sent_at=datetime.now(timezone.utc),
        )
        value: dict[str, Any] = {**delivery.to_dict(), "try": self._ledger.try_number}
        value["first_sent_at"] = self._first_sent.get(number)
        value["agent_version"] = self._session.agent_version
        if self._earlier.get(number):
            value |= {"resolution": self._earlier[number], "sent_again": True}
        self._ledger.intend(self._key_of(number), self._fingerprint(number, asked), without_requests(value))

    def settle(self, number: int, asked: Mapping[str, Any], turn: Turn | None) -> None:
        """Record the answer, or withdraw the intent of a message on which the agent did not act."""
        key, fingerprint = self._key_of(number), self._fingerprint(number, asked)
        if turn is not None:
            self._ledger.settle(key, fingerprint, {**turn.to_dict(), "try": self._ledger.try_number})
        elif number not in self._earlier:
            self._ledger.forget(key)
        elif self._earlier[number]:
            first = self._first_sent.get(number)
            self._ledger.intend(
                key, fingerprint, {"resolution": self._earlier[number], "first_sent_at": first}
            )

    def doubt(self, number: int, asked: Mapping[str, Any], error: DeliveryUnknownError) -> None:
        """Add to the intent what is known of its delivery, for the steps after a wait and for later tries."""
        known = {"error": error.what, "partial_text": None if error.turn is None else error.turn.text}
        self._ledger.amend(
            self._key_of(number), self._fingerprint(number, asked), {**known, "applied": error.applied}
        )

    def _check_same(
        self, entry: LedgerEntry, number: int, asked: Mapping[str, Any], resolution: dict[str, Any] | None
    ) -> None:
        """Refuse a message that differs from the one an earlier try sent.

        A message that was or is being resolved is not compared, unless it would be sent.
        """
        known = resolution or self._is_being_resolved(entry)
        sends = not entry.done and (resolution is not None or self._resend_unknown)
        if entry.fingerprint != self._fingerprint(number, asked) and (sends or not known):
            raise AgentforceInputError(
                "The message, its session or the connection has changed since an earlier try sent it. "
                "Clear the task to send it as a new one."
            )

    def _is_being_resolved(self, entry: LedgerEntry) -> bool:
        """Return whether the steps for an unknown delivery are running, with the message as it was sent."""
        progress = self._ledger.read(UNKNOWN)
        return progress is not None and progress.fingerprint == entry.fingerprint

    def _fingerprint(self, number: int, asked: Mapping[str, Any]) -> str:
        return fingerprint_of(*self._place, number, asked)


def _unknown(entry: LedgerEntry) -> DeliveryUnknownError:
    if entry.done:
        return DeliveryUnknownError(
            "An earlier try sent the message and received an answer that was too long to store.",
            operation="send",
            applied=True,
            hint="No step of on_unknown_delivery can recover it. Read it in the agent's session. Clearing "
            "the task sends the message again.",
        )
    value = entry.value or {}
    hint = "Look at the agent's session. Clearing the task sends the message again"
    if value.get("applied") is not True:
        hint += ', and so does a retry with on_unknown_delivery="resend"'
    delivery = UnknownDelivery.from_dict(value)
    error = DeliveryUnknownError(
        delivery.error
        or "An earlier try sent the message and left no answer: it was killed, or the answer never came.",
        operation="send",
        applied=value.get("applied"),
        session_id=value.get("session_id"),
        hint=f"{hint}.",
    )
    return error.replaced(delivery=replace(delivery, error=error.what))


def _fitting(value: dict[str, Any]) -> dict[str, Any] | None:
    from airflow_provider_agentforce.structured.json_in_answer import is_structured  # noqa: PLC0415 - not at parse time

    value = without_requests(value)
    if _fits(value):
        return value
    # A later try must find the result of output_type, or know that it is missing.
    results = [item for item in value.get("results", []) if is_structured(item)]
    shorter = {**value, "messages": [], "citations": [], "results": results}
    return shorter if _fits(shorter) else None


def without_requests(value: dict[str, Any]) -> dict[str, Any]:
    """Return the value for XCom or the store: above 48 kB first without plans, then without requests.

    Airflow stores both in its database by default.
    """
    for name in ("plan", "request"):
        if _fits(value):
            return value
        value = _without(name, value)
    return value


def _without(name: str, value: dict[str, Any]) -> dict[str, Any]:
    cleared = {**value, name: None} if name in value else value
    if "turns" in value:
        return {**cleared, "turns": [_without(name, turn) for turn in value["turns"]]}
    return cleared


def _fits(value: dict[str, Any]) -> bool:
    return len(json.dumps(value)) <= _MOST_BYTES
