"""The retry table: what each failure means for each operation. Pure data and pure functions.

RFC 9110 section 9.2.2: a request that is not idempotent is repeated only if it is known not to have been
applied. Nothing lets a client ask the Agent API whether a message was applied, and the API reports its own
120 s timeout as HTTP 500, so a message is repeated only when no byte of it left or the answer refuses it.

:mod:`.failure_catalogue` names the failure of a reply; the transport names those of the wire.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from typing_extensions import Self

from airflow_provider_agentforce.exceptions import (
    AgentforceAuthError,
    AgentforceError,
    AgentforceRequestError,
    AgentforceTransientError,
    AnswerLostError,
    DeliveryUnknownError,
    RateLimitedError,
    SessionBusyError,
    SessionNotFoundError,
    TaskStoppedError,
)


class Operation(str, Enum):
    """The calls that the client makes, by the names that errors and the retry table use."""

    TOKEN = "token"  # noqa: S105 - the name of an operation
    START = "start"
    SEND = "send"
    END = "end"
    FEEDBACK = "feedback"
    QUERY = "query"
    TEST = "test"
    READ = "read"
    SESSION_TRACE = "session_trace"
    WRITE = "write"


# A second start of a test makes a second run, just as a second send makes a second message. Reading is
# harmless, and so is writing a record again, because its id identifies it.
_LIKE = {
    Operation.TEST: Operation.SEND,
    Operation.READ: Operation.QUERY,
    Operation.SESSION_TRACE: Operation.QUERY,
    Operation.WRITE: Operation.QUERY,
}


class Delivery(str, Enum):
    """Whether a request arrived and was acted on."""

    NOT_SENT = "not sent"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    DELIVERED = "delivered"

    @property
    def applied(self) -> bool | None:
        """The value of an error's ``applied``."""
        return None if self is Delivery.UNKNOWN else self is Delivery.DELIVERED


class Ending(str, Enum):
    """The result for the caller when a request is not sent again."""

    DONE = "success"
    TRANSIENT = "transient error"
    FINAL = "final error"
    UNKNOWN = "unknown delivery"


@dataclass(frozen=True)
class Cell:
    """One cell of the table.

    :param attempts: number of requests, including the first.
    :param ending: the result of the last one.
    :param renewals: how often a new token is fetched and the request sent once more.
    :param until_free: send again until the longest wait is over, regardless of ``attempts``.
    :param orphan: a session with an unknown id may be open.
    """

    attempts: int
    ending: Ending
    renewals: int = 0
    until_free: bool = False
    orphan: bool = False


@dataclass(frozen=True)
class Rule:
    """One line of the table: the delivery of the request, a cell for each operation, and the error raised.

    :param words: the failure in words.
    :param cells: for each operation, in the order of :class:`Operation`; the last ones share the
        cells of others.
    :param statuses: HTTP statuses that mean this failure if no symptom says more, or their first digit.
    :param transient: class of the error of a cell that ends in ``T``.
    :param final: class of the error of a cell that ends in ``X``.
    :param unknown: class of the error of a cell that ends in ``U``.
    """

    words: str
    delivery: Delivery
    cells: str
    statuses: tuple[int, ...] = ()
    transient: type[AgentforceError] = AgentforceTransientError
    final: type[AgentforceError] = AgentforceRequestError
    unknown: type[AgentforceError] = DeliveryUnknownError

    @property
    def about_a_message(self) -> bool:
        """Whether the delivery or answer of a message stays unknown."""
        return self.delivery in {Delivery.UNKNOWN, Delivery.DELIVERED}

    def cell(self, operation: Operation) -> Cell:
        """Return the cell for *operation*."""
        return _CELLS[self.cells.split()[list(Operation).index(_LIKE.get(operation, operation))]]

    def error_class(self, ending: Ending) -> type[AgentforceError]:
        """Return the class of the error that *ending* raises."""
        if ending is Ending.UNKNOWN:
            return self.unknown
        return self.transient if ending is Ending.TRANSIENT else self.final


_T, _X, _U, _OK = Ending.TRANSIENT, Ending.FINAL, Ending.UNKNOWN, Ending.DONE

# R<n>: send again, n attempts in all. T: transient error. X: final error. U: unknown delivery. OK: success.
# RF<n>: renew the token and send once more, up to n times. L: wait for the session's lock.
# "!": a session may be left open.
_CELLS = {
    "T": Cell(1, _T),
    "T!": Cell(1, _T, orphan=True),
    "X": Cell(1, _X),
    "U": Cell(1, _U),
    "OK": Cell(1, _OK),
    "R2>T": Cell(2, _T),
    "R2>T!": Cell(2, _T, orphan=True),
    "R3>T": Cell(3, _T),
    "RF1>X": Cell(1, _X, renewals=1),
    "RF2>T": Cell(1, _T, renewals=2),
    "L>T": Cell(1, _T, until_free=True),
}

_N, _R, _Q, _D = Delivery.NOT_SENT, Delivery.REFUSED, Delivery.UNKNOWN, Delivery.DELIVERED
_AUTH = AgentforceAuthError
_NEVER = "X X X X X X"
_ALWAYS = "R3>T R3>T R3>T R3>T R3>T R3>T"


class Failure(str, Enum):
    """Failure modes of a single request: the lines of the table. The value is the failure in words.

    :ivar rule: the contents of the line.
    """

    _value_: str
    rule: Rule

    def __new__(cls, rule: Rule) -> Self:
        """Make a member whose value is the text of its line."""
        made = str.__new__(cls, rule.words)
        made._value_, made.rule = rule.words, rule
        return made

    # The cells are for token, start, send, end, feedback and query.
    UNREACHABLE = Rule("host not found, refused or not reachable", _N, _ALWAYS)
    BAD_ROUTE = Rule("proxy or CA bundle that cannot be used", _N, _NEVER)
    BAD_CERTIFICATE = Rule("certificate not valid", _N, _NEVER)
    WRONG_PROTOCOL = Rule("TLS on one side, plain HTTP on the other", _N, _NEVER)
    TLS_BROKEN = Rule("connection lost before anything was sent", _N, _ALWAYS)
    STOPPED_BEFORE = Rule(
        "task stopped before anything was sent", _N, "T T T T T T", transient=TaskStoppedError
    )
    CLIENT_CERTIFICATE = Rule("client certificate missing or refused", _R, _NEVER)
    RESET = Rule("connection lost after something was sent", _Q, "R3>T R2>T! U R3>T R2>T R3>T")
    NO_REPLY = Rule("no reply in time", _Q, "R2>T T! U R2>T R2>T R2>T")
    STOPPED = Rule("task stopped while waiting for the reply", _Q, "T T! U T T T", transient=TaskStoppedError)
    CUT_REPLY = Rule("reply cut or too slow", _D, "R2>T T! U OK OK R2>T")
    BAD_REQUEST = Rule("400", _R, _NEVER, (400,))
    TOKEN_REFUSED = Rule("400 to a token request", _R, _NEVER, final=_AUTH)
    OAUTH_TEMPORARY = Rule("400, token service busy", _R, "R3>T X X X X X")
    LOGIN_RATE = Rule("login rate exceeded", _R, "T X X X X X", transient=RateLimitedError)
    ALREADY_DELIVERED = Rule(
        "400, number of a repeated message already used", _D, "X X U X X X", unknown=AnswerLostError
    )
    UNAUTHORIZED = Rule("401", _R, "X RF1>X RF1>X RF1>X RF1>X RF1>X", (401,), final=_AUTH)
    INVALID_JWT = Rule("401 INVALID_JWT_FORMAT", _R, "X RF2>T RF2>T RF2>T RF2>T RF2>T", final=_AUTH)
    APP_NOT_ATTACHED = Rule("401, app not attached to the agent", _R, _NEVER, final=_AUTH)
    FORBIDDEN = Rule("403", _R, _NEVER, (403,), final=_AUTH)
    NOT_FOUND = Rule("404 or 410", _R, _NEVER, (404, 410))
    SESSION_GONE = Rule(
        "404 or 410 to a session, 500 V6Session not found", _R, "X X X OK X X", final=SessionNotFoundError
    )
    TOO_EARLY = Rule("408 or 425", _R, "R3>T R3>T R2>T R3>T R2>T R3>T", (408, 425))
    CONFLICT = Rule("409", _R, _NEVER, (409,))
    PRECONDITION = Rule("412", _R, _NEVER, (412,))
    PAYLOAD = Rule("413, 414 or 415", _R, _NEVER, (413, 414, 415))
    UNPROCESSABLE = Rule("422", _Q, "X X U X X X", (422,))
    LOCKED = Rule("423", _R, "T T L>T R3>T R3>T T", (423,), transient=SessionBusyError)
    STILL_RUNNING = Rule("423 to a repeated message", _Q, "X X U X X X")
    THROTTLED = Rule("429", _R, _ALWAYS, (429,), transient=RateLimitedError)
    API_LIMIT = Rule("403 REQUEST_LIMIT_EXCEEDED", _R, "X X X X X R3>T", transient=RateLimitedError)
    SERVER_CONFIG = Rule("422 or 500 whose class names the configuration", _R, "R3>T X X X X X")
    SERVER_ERROR = Rule("500", _Q, "R3>T T U R2>T R2>T R3>T", (500,))
    BAD_GATEWAY = Rule("502 or 504", _Q, "R3>T R2>T! U R3>T R2>T R3>T", (502, 504))
    UNAVAILABLE = Rule("503", _Q, "R3>T R2>T U R3>T R2>T R3>T", (503,))
    REDIRECT = Rule("any 3xx", _R, _NEVER, (3,))
    OTHER_CLIENT_ERROR = Rule("other 4xx", _R, _NEVER, (4,))
    OTHER_SERVER_ERROR = Rule("other 5xx", _Q, "T T U T T T", (5,))
    UNREADABLE = Rule("2xx, reply not readable", _D, "R2>T T! U OK OK R2>T", (1, 2))
    STREAM_CUT = Rule("2xx, stream without its end", _D, "X X U X X X")


_BY_STATUS = {status: failure for failure in Failure for status in failure.rule.statuses}


def failure_of_status(status: int) -> Failure:
    """Return the failure that an HTTP status means by itself."""
    return _BY_STATUS.get(status) or _BY_STATUS.get(status // 100, Failure.OTHER_SERVER_ERROR)
