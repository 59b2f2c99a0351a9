"""Opens an input file and reads its lines. Every failure is an error that names the argument and the file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from airflow_provider_agentforce.batch.storage import is_wrong_path, lines_in, local_path
from airflow_provider_agentforce.exceptions import AgentforceError, AgentforceInputError, one_line

_UTF_8 = b"\xef\xbb\xbf"
# The longer marks come first: the mark of UTF-16 is also the beginning of that of UTF-32.
_MARKS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


def opened(path: Any, field: str = "records") -> Any:
    """Open a file for reading bytes.

    :param field: the argument that names the file.
    :raises AgentforceInputError: if it cannot be opened.
    """
    with named(path, field):
        # Airflow notes each read of its path objects, which imports what all providers define for assets.
        return (local_path(path) or path).open("rb")


@contextmanager
def named(path: Any, field: str = "records") -> Iterator[None]:
    """Convert the failure of a path to an error that names it.

    :param field: the argument that names it.
    :raises AgentforceInputError: for whatever the file system or the store's library raises. It is retryable
        unless the path is wrong.
    """
    shown = one_line(str(path), 200)
    try:
        yield
    except AgentforceError:
        raise
    except FileNotFoundError:
        raise AgentforceInputError(f"{field}: the file {shown} does not exist.") from None
    except IsADirectoryError:
        raise AgentforceInputError(f"{field}: {shown} is a folder, not a file.") from None
    except PermissionError:
        raise AgentforceInputError(f"{field}: {shown} may not be read by this task.") from None
    except Exception as error:
        final = isinstance(error, ValueError) or is_wrong_path(error)
        reason = getattr(error, "strerror", None) or error
        raise AgentforceInputError(
            f"{field}: {shown} cannot be read ({type(error).__name__}: {one_line(str(reason), 200)}).",
            retryable=not final,
        ) from error


def lines_of(file: Any, path: Any, field: str = "records") -> Iterator[str]:
    """Yield the lines of an open file.

    :param field: the argument that names it.
    :raises AgentforceInputError: if they cannot be read, or are not UTF-8.
    """
    with named(path, field):
        lines = lines_in(file)
        first = next(lines, b"")
        mark = next((name for mark, name in _MARKS.items() if first.startswith(mark)), "")
        if mark:
            raise _not_utf_8(1, path, field, f" but {mark}")
        lines = itertools.chain([first.removeprefix(_UTF_8)], lines) if first else lines
        for number, line in enumerate(lines, 1):
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError:
                raise _not_utf_8(number, path, field) from None
            yield text


def _not_utf_8(number: int, path: Any, field: str, found: str = "") -> AgentforceInputError:
    return AgentforceInputError(
        f"{field}: line {number} of {path} is not UTF-8{found}. Save the file as UTF-8."
    )
