"""What can go wrong on the wire, as a failure of the retry table."""

from __future__ import annotations

import re
import ssl

import h11

from airflow_provider_agentforce.client.delivery_policy import Failure
from airflow_provider_agentforce.exceptions import one_line

_LONGEST_DETAIL = 200
# With TLS 1.3 the server's verdict on a client certificate arrives only with the first read.
_CLIENT_CERTIFICATE = (
    "CERTIFICATE_REQUIRED",
    "ALERT_UNKNOWN_CA",
    "ALERT_BAD_CERTIFICATE",
    "ALERT_CERTIFICATE",
    "ALERT_HANDSHAKE_FAILURE",  # how TLS 1.2 reports a missing certificate
)
_CLOSED = "the other side closed the connection"
_QUOTE = re.compile(r"\s*(?:[:(]|\bb['\"]|\bbytearray)")
_SUCCESS = re.compile(rb"HTTP/1\.[01] (2[0-9][0-9])\b")
_NOT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE")


class TransportError(Exception):
    """An exchange that did not complete.

    :ivar failure: what it is in the retry table.
    :ivar detail: the innermost error message, one printable line.
    """

    def __init__(self, failure: Failure, detail: str = "") -> None:
        super().__init__(failure, detail)
        self.failure = failure
        self.detail = one_line(detail, _LONGEST_DETAIL)


class WireError(Exception):
    """A fault that this package finds itself, in words that can be shown."""


class DeadlineError(WireError):
    """The time of the whole call is used up."""


class FramingError(WireError):
    """A reply whose end two readers could find at different places, or that is too long."""


class RouteError(WireError):
    """The environment names a proxy or a CA bundle that cannot be used."""


# The errors of the wire and its libraries. Any other error comes from a signal handler and is passed on.
WIRE_ERRORS = (OSError, h11.ProtocolError, WireError)


def is_foreign(error: BaseException) -> bool:
    """Return whether a signal handler raised *error*: those of the network have a number."""
    return isinstance(error, OSError) and error.errno is None and not isinstance(error, ssl.SSLError)


def before_sending(error: Exception, *, connected: bool, closed: bool, address: str) -> TransportError:
    """Classify an error that came before the first byte of the request left.

    :param connected: whether TLS had begun, or could.
    :param closed: whether the other side closed the connection.
    :param address: of what was connected to.
    """
    reason = str(getattr(error, "reason", ""))
    detail = ": ".join(filter(None, (address, _CLOSED if closed else _words(error))))
    if isinstance(error, RouteError):
        return TransportError(Failure.BAD_ROUTE, detail)
    if isinstance(error, ssl.SSLCertVerificationError):
        return TransportError(Failure.BAD_CERTIFICATE, detail)
    if any(word in reason for word in _CLIENT_CERTIFICATE):
        return TransportError(Failure.CLIENT_CERTIFICATE, detail)
    if any(word in reason for word in _NOT_TLS):
        return TransportError(Failure.WRONG_PROTOCOL, f"{address} does not speak TLS")
    return TransportError(Failure.TLS_BROKEN if connected else Failure.UNREACHABLE, detail)


def status_begun(head: bytes) -> int | None:
    """Return the status of a 2xx whose headers are incomplete."""
    match = _SUCCESS.match(head)
    return int(match[1]) if match else None


def without_reply(error: Exception, *, head: bytes, closed: bool, address: str) -> TransportError:
    """Classify an error that came after a byte of the request had left and before the head was whole.

    :param head: what arrived of it.
    :param closed: whether the other side closed the connection.
    """
    if status_begun(head) is not None:
        return in_reply(error, closed=closed)
    if any(word in str(getattr(error, "reason", "")) for word in _CLIENT_CERTIFICATE):
        return TransportError(Failure.CLIENT_CERTIFICATE, _words(error))
    if head.startswith(b"\x15\x03"):
        return TransportError(Failure.WRONG_PROTOCOL, f"{address} speaks TLS only")
    if isinstance(error, DeadlineError | TimeoutError):
        return TransportError(Failure.NO_REPLY)
    return TransportError(Failure.RESET, _CLOSED if closed else _words(error))


def in_reply(error: Exception, *, closed: bool) -> TransportError:
    """Classify an error that came after the final status.

    :param closed: whether the other side closed the connection.
    """
    if isinstance(error, FramingError) or (isinstance(error, h11.RemoteProtocolError) and not closed):
        return TransportError(Failure.UNREADABLE, _words(error))
    return TransportError(Failure.CUT_REPLY, _CLOSED if closed else _words(error))


def _words(error: Exception) -> str:
    if isinstance(error, h11.ProtocolError):
        if "_SWITCH_UPGRADE" in str(error):
            return "not valid HTTP (it switched to another protocol)"
        # h11 quotes what it does not accept, which can be a header with a secret.
        return f"not valid HTTP ({_QUOTE.split(str(error), maxsplit=1)[0]})"
    if isinstance(error, UnicodeError):
        return "not valid HTTP (a host or header that cannot be encoded)"
    if isinstance(error, WireError):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
