"""Why a value does not fit, and the search for the first one that does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from airflow_provider_agentforce.exceptions import one_line
from airflow_provider_agentforce.structured.json_in_answer import JsonPiece

_LONGEST_PROBLEM = 200


class MisfitError(Exception):
    """A value does not fit.

    :ivar problems: the first few reasons, one line each.
    :ivar more: the number of further reasons.
    """

    def __init__(self, problems: Iterable[str], more: int = 0) -> None:
        super().__init__()
        self.problems = tuple(problems)
        self.more = more


def first_fit(fit: Callable[[JsonPiece], Any], pieces: Iterable[JsonPiece]) -> Any:
    """Return the result of *fit* for the first piece that fits.

    :raises MisfitError: if none does, with the problems of the longest piece; without problems if there is no
        piece.
    """
    longest, found = 0, MisfitError(())
    for piece in pieces:
        try:
            return fit(piece)
        except MisfitError as misfit:  # noqa: PERF203 - the next piece may fit
            if len(piece.text) > longest:
                longest, found = len(piece.text), misfit
    raise found


def problem(path: Iterable[Any], reason: str) -> str:
    """Return one line that says where in a value something does not fit, and what."""
    place = "".join(_steps(path))
    return one_line(f"{place}: {reason}" if place else reason, _LONGEST_PROBLEM)


def _steps(path: Iterable[Any]) -> Iterator[str]:
    for number, step in enumerate(path):
        yield f"[{step}]" if isinstance(step, int) else f"{'.' if number else ''}{step}"
