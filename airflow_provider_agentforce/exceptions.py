"""What failed, whether the agent acted, and whether a retry is safe.

.. code-block:: text

    AgentforceError
    ├── AgentforceInputError        a setting or an argument is wrong; nothing was sent         final
    ├── AgentforceRequestError      the org refused the call and would refuse it again          final
    │   ├── AgentforceAuthError     the app, its user or its scopes are not accepted            final
    │   └── SessionNotFoundError    the session has ended or expired                            final
    ├── AgentFailedError            the agent answered, and its answer is a failure             final
    ├── InvalidOutputError          the agent answered, but its answer does not fit output_type final
    ├── AgentTestFailedError        a test of an agent did not pass, or did not finish          final
    ├── BatchFailedError            more records of a batch failed than the task allows         final¹
    ├── DeliveryUnknownError        the message may have been acted on, or the answer is lost   final
    │   └── AnswerLostError         an earlier try delivered it, and the org refused to repeat  final
    ├── LedgerError                 what earlier tries did cannot be read or written            retry
    └── AgentforceTransientError    nothing was done; the same call may succeed later           retry
        ├── RateLimitedError        a limit of the org or of the connection is reached          retry
        ├── SessionBusyError        the session is still working on another message             retry
        └── TaskStoppedError        the task was stopped before anything was sent               retry

"final" errors end an Airflow task at once, regardless of its ``retries``: repeating the call would fail the
same way, or could make the agent act twice. "retry" errors leave the decision to the task's ``retries``.

¹ Unless some of the records failed before the agent acted: the next try asks about those again.
"""

from __future__ import annotations

import pickle
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Self

_ACTED = {
    False: "The agent did not act.",
    True: "The agent received the message and may have acted.",
    None: "Whether the agent acted cannot be known.",
}
_LONGEST_TEXT = 300
_HIDDEN_KEY = "(a private key)"
# A PEM, its Base64, or the inside of either, also with the escapes of repr(), JSON or a URL.
_END_OF_LINE = r"(?: \s | \\+[nr] | %0[ADad] )"
_OF_A_KEY = r"(?:[ +]|%20)KEY-----"
# Unlike a long path or a hash, Base64 has letters of both cases and digits in every line.
_MIXED = "(?=[A-Za-z+/]{0,63}[0-9]) (?=[a-z0-9+/]{0,63}[A-Z]) (?=[A-Z0-9+/]{0,63}[a-z])"
# The patterns are compiled where they are first used: most Dag files raise no error.
_PRIVATE_KEY = rf"""(?x)
    (?:-----BEGIN[A-Z +%20]*)? PRIVATE{_OF_A_KEY} (?s:.*? -----END[A-Z +%20]*PRIVATE{_OF_A_KEY} | .*)
    | LS0tLS1CRUdJTi [A-Za-z0-9+/=\s]*
    | (?: [A-Za-z0-9+/]{{1,64}} {_END_OF_LINE} )? {_MIXED} (?: [A-Za-z0-9+/]{{64}} {_END_OF_LINE}* ){{3}}
      (?: [A-Za-z0-9+/=] | {_END_OF_LINE} )* (?: -----END[A-Z +%20]*PRIVATE{_OF_A_KEY} )?
"""
# A PEM, its Base64, and the beginning of an RSA key's DER.
_KEY_MARKS = ("PRIVATE", "LS0tLS1CRUdJTi", "MII")
_MARKED = r"PRIVATE|^LS0tLS1CRUdJTi|^.{0,80}(?<![A-Za-z0-9+])MII"
# A shorter line does not give a key away, and is too likely to be a part of something else.
SHORTEST_KEY_LINE = 8
_FENCE = "-----[^-]*-----"
_LONGEST_SEARCHED = 100_000
# The rest of a longer text is not read, so that megabytes do not take long.
_LONGEST_READ = 10_000


def one_line(text: str, limit: int = _LONGEST_TEXT) -> str:
    """Fold *text* into one printable line of at most *limit* characters, safe for a log.

    A private key in it, or a large part of one, is not shown.
    """
    line = re.sub(r"\s+", " ", _printable(_without_keys(text[:_LONGEST_READ]))).strip()
    return line if len(line) <= limit and len(text) <= _LONGEST_READ else line[: limit - 1] + "…"


def shown(value: object, limit: int = 80) -> str:
    """Return the form of a given value that an error may show, because the value may be a secret.

    For anything but text, numbers and booleans, that is its type, and whether it is empty.
    """
    if isinstance(value, str) and _holds_password(value):
        return "a URL with a password in it"
    if isinstance(value, str | int | float | None):
        return one_line(repr(value), limit)
    is_empty = isinstance(value, Collection) and not value
    return f"an empty {type(value).__name__}" if is_empty else type(value).__name__


def _without_keys(text: str) -> str:
    return re.sub(_PRIVATE_KEY, _HIDDEN_KEY, text)


def looks_like_key(text: str) -> bool:
    """Return whether *text* is or contains a private key or a large part of one."""
    return re.search(_PRIVATE_KEY, text) is not None


def key_lines(text: str) -> list[str]:
    """Return the lines of the private keys in the first 100,000 characters of *text*.

    Other Base64, such as a picture, is not taken for a key.
    """
    if not any(mark in text for mark in _KEY_MARKS):
        return []
    found = re.findall(_PRIVATE_KEY, text[:_LONGEST_SEARCHED])
    keys = [re.sub(_FENCE, " ", one) for one in found if re.search(_MARKED, one)]
    lines = [line for key in keys for line in re.split(_END_OF_LINE, key, flags=re.VERBOSE)]
    return [line for line in lines if len(line) >= SHORTEST_KEY_LINE and "-----" not in line]


def _holds_password(text: str) -> bool:
    # Not urlsplit, which raises on some texts and lets a password with a slash in it pass as a path.
    before_host = (text.partition("://")[2] or text).rpartition("@")[0]
    return ":" in before_host


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


class AgentforceError(Exception):
    """Base of every error of this package. ``str()`` is one line and contains no secret.

    Copies and pickles, for instance from a process pool, keep its class, its fields and the text of its
    cause.

    :param what: what happened, a sentence.
    :param hint: what to do next, a sentence.
    :param retryable: whether a retry of the task may help; default: that of the class.
    :param cause: the cause, if it is not the ``__cause__``.
    :ivar operation: ``token``, ``start``, ``send``, ``end``, ``feedback``, ``query``, ``test`` (the start of
        a test run), ``read``, ``session_trace``, ``write`` (of records), or ``None`` before any call.
    :ivar failure: name of the failure in the retry table, such as ``bad_certificate``; ``None`` before any
        call.
    :ivar host: host and port that the call went to, such as ``api.salesforce.com:443``, or ``None``.
    :ivar status: HTTP status of the reply, or ``None`` when there was none.
    :ivar applied: ``False``: the agent did not act; ``True``: it did; ``None``: unknown.
    :ivar retry_after: seconds that the server asks to wait, or ``None``.
    :ivar request_id: the server's ``X-Request-ID``, for a support case.
    :ivar session_id: the session of the call, if it is known.
    :ivar external_session_key: UUID of the session in the org's event log.
    :ivar body: the first 2 kB of the response body (not part of ``str()``).
    """

    retryable: bool = False

    def __init__(
        self,
        what: str,
        *,
        hint: str = "",
        operation: str | None = None,
        failure: str | None = None,
        host: str | None = None,
        status: int | None = None,
        applied: bool | None = False,
        retry_after: float | None = None,
        request_id: str | None = None,
        session_id: str | None = None,
        external_session_key: str | None = None,
        body: str = "",
        retryable: bool | None = None,
        cause: str | None = None,
    ) -> None:
        # An error may quote an argument that contains a misplaced key.
        self.what = _without_keys(what)
        self.hint = _without_keys(hint)
        super().__init__(self.what)
        self.operation = operation
        self.failure = failure
        self.host = host
        self.status = status
        self.applied = applied
        self.retry_after = retry_after
        self.request_id = request_id
        self.session_id = session_id
        self.external_session_key = external_session_key
        self.body = body
        if retryable is not None:
            self.retryable = retryable
        self._cause = cause

    @property
    def cause(self) -> str | None:
        """The cause of the error, as one line. It is kept when pickle drops ``__cause__``."""
        if self._cause is not None or self.__cause__ is None:
            return self._cause
        return one_line(f"{type(self.__cause__).__name__}: {self.__cause__}")

    def replaced(self, **fields: Any) -> Self:
        """Return a copy of this error with some fields replaced, as :func:`dataclasses.replace` does.

        :param fields: new values by the names of the fields.
        :raises TypeError: if there is no such field.
        """
        return remade(self, type(self), **fields)

    def __str__(self) -> str:
        """Say what happened, whether the agent acted, and what to do next."""
        # A path or a name may contain characters that forge a line of the log.
        return _printable(" ".join(part for part in (self.fact, self.hint, self._where()) if part))

    @property
    def fact(self) -> str:
        """What happened, whether the agent acted, and how long the org asks to wait, as one line."""
        return " ".join(self.facts)

    @property
    def facts(self) -> list[str]:
        """The parts of :attr:`fact`."""
        parts = (self.what, self._about_the_agent(), self._about_time())
        return [_printable(part) for part in parts if part]

    def __copy__(self) -> Self:
        """Return an error of the same class, even if pickle cannot find the class by name."""
        return remade(self, type(self))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return an error of the same class whose fields are copies."""
        return restored(type(self), *self._parts(lambda value: deepcopy(value, memo)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the class and the fields: a subclass may have an ``__init__`` with other arguments."""
        return restored, (found_by_name(type(self)), *self._parts(_pickled))

    def _parts(self, copy: Callable[[Any], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        fields = {**_fields_of(self), "_cause": self.cause}
        args = tuple(_copied(value, copy) for value in self.args)
        return args, {name: _copied(value, copy) for name, value in fields.items()}

    def _about_the_agent(self) -> str:
        return _ACTED[self.applied] if self.operation == "send" else ""

    def _about_time(self) -> str:
        return (
            "" if self.retry_after is None else f"The org asks to wait {round(self.retry_after, 1):.15g} s."
        )

    def _where(self) -> str:
        facts = {"session": self.session_id, "request": self.request_id}
        known = [f"{name} {value}" for name, value in facts.items() if value is not None]
        return f"[{', '.join(known)}]" if known else ""


_Kind = TypeVar("_Kind", bound=AgentforceError)


def remade(error: AgentforceError, kind: type[_Kind], **fields: Any) -> _Kind:
    """Return *error* as an instance of another class, with the same cause and traceback.

    :param fields: the fields that differ.
    :raises TypeError: if *error* has no such field.
    """
    known = _fields_of(error)
    unknown = sorted(set(fields) - set(known) - {"retryable"})
    if unknown:
        raise TypeError(f"{type(error).__name__} has no field {unknown[0]}.")
    args = (fields["what"],) if "what" in fields else error.args
    made = restored(kind, args, {**known, **fields})
    made.__cause__ = error.__cause__
    return made.with_traceback(error.__traceback__)


def restored(kind: type[_Kind], args: tuple[Any, ...], fields: Mapping[str, Any]) -> _Kind:
    """Return an error of *kind* with these fields, without calling its ``__init__``."""
    error = kind.__new__(kind, *args)
    for name, value in fields.items():
        setattr(error, name, value)
    return error


def _fields_of(error: AgentforceError) -> dict[str, Any]:
    slots = [vars(kind).get("__slots__", ()) for kind in type(error).__mro__]
    names = [name for found in slots for name in ([found] if isinstance(found, str) else found)]
    return {**{name: getattr(error, name) for name in names if hasattr(error, name)}, **vars(error)}


def _copied(value: Any, copy: Callable[[Any], Any]) -> Any:
    """Return a copy, or text if a user's own value, such as a lock, cannot be copied.

    An error that cannot leave a process pool reaches the task as a different error, which Airflow retries.
    """
    try:
        return copy(value)
    except Exception:  # noqa: BLE001 - whatever a field of a user's class raises
        return one_line(repr(value))


def _pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - our own value


def found_by_name(kind: type[AgentforceError]) -> type[AgentforceError]:
    """Return *kind*, or its first base that pickle can find; one defined in a function is not found."""
    for base in kind.__mro__:
        found: Any = sys.modules.get(base.__module__)
        for name in base.__qualname__.split("."):
            found = getattr(found, name, None)
        if issubclass(base, AgentforceError) and found is base:
            return base
    raise AssertionError("AgentforceError has a name")  # pragma: no cover


class AgentforceInputError(AgentforceError, ValueError):
    """A connection field or an argument cannot be used. Nothing was sent; a retry fails the same way."""


class AgentforceRequestError(AgentforceError):
    """The org refused the call, and would refuse it again."""


class AgentforceAuthError(AgentforceRequestError):
    """The app, its Run As user or its scopes are not accepted, even with a new token."""


class SessionNotFoundError(AgentforceRequestError):
    """The session has ended or expired (HTTP 404). Its context is gone; start a new one."""


class AgentFailedError(AgentforceError):
    """The agent's answer has an outcome that the task counts as a failure (``fail_on``).

    The message was delivered, and a retry would send it again, so the task ends without a retry.

    :ivar turn: the complete answer, a :class:`~airflow_provider_agentforce.client.Turn`.
    """

    def __init__(self, what: str, *, turn: Any = None, **fields: Any) -> None:
        super().__init__(what, **fields)
        self.turn = turn


class InvalidOutputError(AgentforceError):
    """The agent answered, but nothing in its answer fits the requested ``output_type``.

    The message was delivered, and a retry would send it again, so the task ends without a retry.

    :ivar turn: the complete answer, a :class:`~airflow_provider_agentforce.client.Turn`.
    :ivar problems: the parts that do not fit, each as ``"path: reason"``; empty if the answer contains no
        JSON.
    """

    def __init__(self, what: str, *, turn: Any = None, problems: Iterable[str] = (), **fields: Any) -> None:
        super().__init__(what, **fields)
        self.turn = turn
        self.problems = tuple(problems)


class AgentTestFailedError(AgentforceError):
    """Fewer cases of a test passed than ``min_pass_rate`` requires, or the run has no result.

    :ivar result: the value that the task would have returned; ``None`` if the run did not finish.
    """

    def __init__(self, what: str, *, result: Any = None, **fields: Any) -> None:
        super().__init__(what, **fields)
        self.result = result


class BatchFailedError(AgentforceError):
    """More records of a batch have failed than ``max_failures`` or ``fail_on_partial_error`` allows.

    Every row is in the results. A retry asks again only about records on which the agent did not act; if
    there are none, the task ends without a retry.

    :ivar manifest: the manifest that the task would have returned.
    """

    def __init__(self, what: str, *, manifest: Any = None, **fields: Any) -> None:
        super().__init__(what, **fields)
        self.manifest = manifest


class DeliveryUnknownError(AgentforceError):
    """A message was sent. Either it is not known whether the agent acted (``applied`` is ``None``), or its
    answer could not be read (``applied`` is ``True``). It is never sent again unless
    ``on_unknown_delivery="resend"`` says so.

    :ivar turn: the part of the answer that could be read, a
        :class:`~airflow_provider_agentforce.client.Turn`, or ``None``.
    :ivar delivery: the message, an
        :class:`~airflow_provider_agentforce.delivery.UnknownDelivery`, or ``None`` if the error contains
        everything that is known.
    """

    def __init__(self, what: str, *, turn: Any = None, delivery: Any = None, **fields: Any) -> None:
        super().__init__(what, **fields)
        self.turn = turn
        self.delivery = delivery

    @property
    def may_be_resent(self) -> bool:
        """Whether ``"resend"`` covers it: the org is not known to have the message."""
        return self.applied is not True


class AnswerLostError(DeliveryUnknownError):
    """The org says that an earlier try delivered the message, and its answer is lost (``applied``: ``True``).

    Sending the message again cannot bring the answer back, so no try follows, regardless of
    ``on_unknown_delivery``.
    """


class LedgerError(AgentforceError):
    """The record of the tries cannot be read or written. A message is sent only after it is recorded."""

    retryable = True


class AgentforceTransientError(AgentforceError):
    """Nothing was done, or doing it twice is harmless. A retry may succeed."""

    retryable = True


class RateLimitedError(AgentforceTransientError):
    """A limit is reached: the org answered 429, or the call would exceed a limit of the connection."""


class BudgetExceededError(AgentforceTransientError):
    """A budget in the Dag is used up for today; ``retry_after`` says in how many seconds it is renewed."""

    def _about_time(self) -> str:
        return ""


class SessionBusyError(AgentforceTransientError):
    """The session is working on another message (HTTP 423); only one request at a time is allowed."""


class TaskStoppedError(AgentforceTransientError):
    """The task was stopped before anything was sent."""
