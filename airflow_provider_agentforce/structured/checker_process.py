"""Checks answers in another process, which can be stopped when a check takes too long.

Some keywords of a JSON schema can make a check take practically forever: a ``pattern`` that backtracks,
``uniqueItems``, a ``$ref`` that recurses in two branches. So can a type with a recursive union. No thread can
stop such a check within its own process, and a ``pattern`` or a type blocks all threads meanwhile.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from airflow_provider_agentforce.structured.json_in_answer import JsonPiece
from airflow_provider_agentforce.structured.misfit import MisfitError, first_fit

# CPU time, so that an answer is not invalid because the machine is busy with something else.
SECONDS = 2.0
# Seconds of wall-clock time, for a type whose own code waits for something.
_LONGEST_WAIT = 60.0
# Without the working directory in sys.path, where a file may shadow a module.
_PROGRAM = f"import sys; sys.path[:] = filter(None, sys.path); from {__name__} import serve; serve()"


class CheckerProcess:
    """A process that checks answers for all threads, one after the other. It starts with the first answer.

    :param schema: a valid JSON schema.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = schema
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0

    def first_fit(self, pieces: Iterable[JsonPiece]) -> Any:
        """Return the value of the first piece that fits.

        :raises MisfitError: if none does, or if that takes too long to find out.
        """
        with self._lock:
            found = self._ask([piece.text for piece in pieces])
        return _value_of(found)

    def _ask(self, texts: list[str]) -> dict[str, Any]:
        try:
            if self._process is None or self._pid != os.getpid():
                # After a fork, self._process is that of the parent.
                self._process, self._pid = _start(self._schema), os.getpid()
                weakref.finalize(self, _end, self._process, self._pid)
            return _exchange(self._process, texts)
        except BaseException as error:
            # Otherwise its late reply would be read as the reply to the next request.
            if self._process is not None:
                _end(self._process, self._pid)
                self._process = None
            if not isinstance(error, OSError | ValueError):
                raise
            return {"problems": [f"it could not be checked ({type(error).__name__} in the checker process)"]}


def serve() -> None:
    """Check the answers that standard input gives. The program of the process."""
    from airflow_provider_agentforce.structured.json_schema import JsonSchema  # noqa: PLC0415 - imports this

    schema, seconds = json.loads(sys.stdin.buffer.readline())
    form = JsonSchema(schema)
    signal.signal(signal.SIGVTALRM, _give_up)
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
        try:
            found = _result(form.fit, [JsonPiece(json.loads(text), text) for text in json.loads(line)])
        except _TooLongError:
            found = _too_long(seconds)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        print(json.dumps(found), flush=True)  # noqa: T201 - the reply


def first_fit_in_fork(fit: Callable[[JsonPiece], Any], pieces: Iterable[JsonPiece]) -> Any:
    """Return the result of *fit* for the first piece that fits, as a JSON value; *fit* runs in a fork.

    For types of a Dag, which no other process can import.

    :raises MisfitError: if none does, or if that takes too long to find out.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Python warns about a fork in a process with threads; the child does not wait for any of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        _answer(writing, fit, pieces)
    try:
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            body = pipe.read()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    try:
        found = json.loads(body)
    except ValueError:
        found = _too_long(SECONDS)
    return _value_of(found)


def _answer(writing: int, fit: Callable[[JsonPiece], Any], pieces: Iterable[JsonPiece]) -> NoReturn:
    """Write the result to the pipe and end this process, without the task's signal and exit handlers."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGVTALRM):
            signal.signal(number, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, _LONGEST_WAIT)
        body = json.dumps(_result(fit, pieces)).encode()
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(body)
    finally:
        os._exit(0)


def _result(fit: Callable[[JsonPiece], Any], pieces: Iterable[JsonPiece]) -> dict[str, Any]:
    try:
        return {"value": first_fit(fit, pieces)}
    except MisfitError as misfit:
        return {"problems": misfit.problems, "more": misfit.more}


def _too_long(seconds: float) -> dict[str, Any]:
    return {"problems": [f"it takes more than {seconds:g} s to check it"]}


def _value_of(found: dict[str, Any]) -> Any:
    if "problems" in found:
        raise MisfitError(found["problems"], found.get("more", 0))
    return found["value"]


class _TooLongError(BaseException):
    """Raised by the timer during a check; a ``BaseException``, so that no library catches it."""


def _give_up(*_: object) -> NoReturn:
    raise _TooLongError


def _start(schema: dict[str, Any]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    _send(process, [schema, SECONDS])
    return process


def _exchange(process: subprocess.Popen[bytes], texts: list[str]) -> dict[str, Any]:
    _send(process, texts)
    assert process.stdout is not None  # noqa: S101 - see _start
    reply: dict[str, Any] = json.loads(process.stdout.readline())
    return reply


def _send(process: subprocess.Popen[bytes], value: Any) -> None:
    assert process.stdin is not None  # noqa: S101 - see _start
    process.stdin.write(json.dumps(value).encode() + b"\n")
    process.stdin.flush()


def _end(process: subprocess.Popen[bytes], started_by: int) -> None:
    if started_by == os.getpid():
        process.kill()
        process.communicate()
