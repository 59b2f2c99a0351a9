"""Checks answers against a JSON schema in another process, where the time that this takes can be limited.

With some keywords a check has no end: a ``pattern`` that tries every way to match, ``uniqueItems``, a
``$ref`` that leads back by two ways. No thread can stop that in its own process, and a ``pattern`` stops
all of them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterable
from typing import Any, NoReturn

from airflow_provider_agentforce.structured.json_in_answer import JsonPiece
from airflow_provider_agentforce.structured.misfit import MisfitError, first_fit

# Of CPU time, so a machine that is busy with something else makes no answer invalid.
SECONDS = 2.0
# Without the working folder, where a file may have the name of a module.
_PROGRAM = f"import sys; sys.path[:] = filter(None, sys.path); from {__name__} import serve; serve()"


class CheckerProcess:
    """A process that checks answers for all threads, one after the other. Started with the first one.

    :param schema: one that can be used.
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
        if "problems" in found:
            raise MisfitError(found["problems"])
        return found["value"]

    def _ask(self, texts: list[str]) -> dict[str, Any]:
        try:
            if self._process is None or self._pid != os.getpid():
                # After a fork the other one is the parent's.
                self._process, self._pid = _started(self._schema), os.getpid()
                weakref.finalize(self, _end, self._process, self._pid)
            return _exchanged(self._process, texts)
        except BaseException as error:
            # What it says next would be taken for the answer to another question.
            if self._process is not None:
                _end(self._process, self._pid)
                self._process = None
            if not isinstance(error, OSError | ValueError):
                raise
            return {"problems": [f"it could not be checked ({type(error).__name__} in the process for it)"]}


def serve() -> None:
    """Answer questions from standard input. The program of the process."""
    from airflow_provider_agentforce.structured.json_schema import JsonSchema  # noqa: PLC0415 - imports this

    schema, seconds = json.loads(sys.stdin.buffer.readline())
    form = JsonSchema(schema)
    signal.signal(signal.SIGVTALRM, _give_up)
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
        try:
            pieces = [JsonPiece(json.loads(text), text) for text in json.loads(line)]
            found = {"value": first_fit(form.fit, pieces)}
        except MisfitError as misfit:
            found = {"problems": misfit.problems}
        except _TooLongError:
            found = {"problems": [f"it takes more than {seconds:g} s to check it against the JSON schema"]}
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        print(json.dumps(found), flush=True)  # noqa: T201 - to the process that asked


class _TooLongError(BaseException):
    """Raised amid a check, where code of libraries must not catch it."""


def _give_up(*_: object) -> NoReturn:
    raise _TooLongError


def _started(schema: dict[str, Any]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    _send(process, [schema, SECONDS])
    return process


def _exchanged(process: subprocess.Popen[bytes], question: Any) -> dict[str, Any]:
    _send(process, question)
    assert process.stdout is not None  # noqa: S101 - see _started
    answer: dict[str, Any] = json.loads(process.stdout.readline())
    return answer


def _send(process: subprocess.Popen[bytes], value: Any) -> None:
    assert process.stdin is not None  # noqa: S101 - see _started
    process.stdin.write(json.dumps(value).encode() + b"\n")
    process.stdin.flush()


def _end(process: subprocess.Popen[bytes], started_by: int) -> None:
    if started_by == os.getpid():
        process.kill()
        process.communicate()
