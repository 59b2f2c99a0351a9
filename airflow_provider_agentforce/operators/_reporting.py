"""Logs the address of a task's page, what failed and what to do about it, or that the agent still waits for
an answer.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_agentforce._compat import Context, waits
from airflow_provider_agentforce.client.models import NEEDS_CONFIRMATION, NEEDS_INPUT
from airflow_provider_agentforce.exceptions import (
    AgentforceError,
    AgentforceInputError,
    AgentforceTransientError,
)

if TYPE_CHECKING:
    from airflow_provider_agentforce.operators._base import AgentforceBaseOperator

_OURS = __name__.partition(".")[0]
_OPEN = (NEEDS_CONFIRMATION, NEEDS_INPUT)
_WAITS = "%s: the agent waits for an answer and has not done what it asked about."
_ANSWER_IT = (
    "Answer with a reply, a cancel or another message, on_needs_confirmation or on_needs_input; fail_on "
    "makes it a failure."
)
# For errors without a hint.
_USUAL: dict[type[AgentforceError], str] = {
    AgentforceInputError: "Correct this in the Dag or in its data, then clear the task.",
    AgentforceTransientError: "A retry of the task, or clearing it, tries again.",
}
# Airflow's page cuts a line at its right edge.
_WIDTH = 84
_INDENT = "    "
_NO_BREAK = "\N{NO-BREAK SPACE}"
# The frame of this module is a third one.
_KEPT_FRAMES = 2

_Execute = TypeVar("_Execute", bound=Callable[..., Any])


def reported(execute: _Execute) -> _Execute:
    """Make the log say how *execute*, a method of an operator, ended; a nested call adds nothing.

    An error is logged before it is raised, with what to do about it. Its traceback has few frames of this
    package; the complete one is logged at DEBUG. The log begins with the address of the task's page, so that
    it is there while the task runs and after it was killed.
    """

    @wraps(execute)
    def wrapper(self: AgentforceBaseOperator, context: Context, *args: Any, **options: Any) -> Any:
        if self.is_reported:
            return execute(self, context, *args, **options)
        self.is_reported = True
        try:
            if execute.__name__ == "execute":
                self.log_page(context)
            result = execute(self, context, *args, **options)
        except AgentforceError as error:
            _log_error(self, error)
            _show_error(self, error)
            raise error.with_traceback(_shortened(error))  # noqa: B904 - the same error
        except waits():
            raise
        except BaseException as error:
            _show_error(self, error)
            raise
        finally:
            self.is_reported = False
        _log_open_question(self, result)
        if self.page is not None:
            self.page.finish(result)
        return result

    return wrapper  # type: ignore[return-value]


def what_to_do(error: AgentforceError) -> str:
    """Return what to do about an error."""
    usual = (text for kind, text in _USUAL.items() if isinstance(error, kind))
    return error.hint or next(usual, "")


def _log_error(task: AgentforceBaseOperator, error: AgentforceError) -> None:
    task.log.debug("The complete traceback:", exc_info=error)
    ids = {
        "host": error.host,
        "org": task.org,
        "agent": task.agent_in_words,
        "session": error.session_id,
        "request": error.request_id,
    }
    known = [f"{name} {value}".replace(" ", _NO_BREAK) for name, value in ids.items() if value]
    where = [_folded(f"[{', '.join(known)}]").replace(_NO_BREAK, " ")] if known else []
    # The facts are not folded: Airflow masks only secrets that are in one line.
    task.log.error("%s", f"\n{_INDENT}".join([*error.facts, *where]))
    hint = what_to_do(error)
    if hint:
        task.log.error("%s", _folded(f"What to do: {hint}"))


def _folded(text: str) -> str:
    return textwrap.fill(
        text, _WIDTH, subsequent_indent=_INDENT, break_long_words=False, break_on_hyphens=False
    )


def _show_error(task: AgentforceBaseOperator, error: BaseException) -> None:
    if task.page is not None:
        task.page.fail(error)


def _log_open_question(task: AgentforceBaseOperator, result: Any) -> None:
    if not isinstance(result, Mapping):
        return
    counts = result.get("counts")
    waiting = sum(counts.get(outcome, 0) for outcome in _OPEN) if isinstance(counts, Mapping) else 0
    if waiting:
        task.log.warning(_WAITS, f"{waiting:,} records end with a question")
    elif result.get("outcome") in _OPEN:
        task.log.warning("%s", _folded(_WAITS % f"The outcome is {result['outcome']}"))
        task.log.warning("%s", _folded(f"What to do: {_ANSWER_IT}"))


def _shortened(error: BaseException) -> TracebackType | None:
    """Return the error's traceback with few frames of this package; its causes lose all of them."""
    for cause in _causes(error):
        cause.__traceback__ = _linked([one for one in _entries(cause.__traceback__) if not _is_ours(one)])
    # The first is the frame that reports, which is added again when the error is raised.
    entries = _entries(error.__traceback__)[1:]
    ours = [one for one in entries if _is_ours(one)]
    kept: Collection[TracebackType] = ours[:1] + ours[1:][1 - _KEPT_FRAMES :]
    return _linked([one for one in entries if not _is_ours(one) or one in kept])


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors that Python's traceback shows above this one."""
    seen = {id(error)}
    while True:
        above = error.__cause__ if error.__suppress_context__ else error.__cause__ or error.__context__
        if above is None or id(above) in seen:
            return
        seen.add(id(above))
        yield above
        error = above


def _entries(trace: TracebackType | None) -> list[TracebackType]:
    found = []
    while trace is not None:
        found.append(trace)
        trace = trace.tb_next
    return found


def _linked(entries: list[TracebackType]) -> TracebackType | None:
    trace = None
    for one in reversed(entries):
        trace = TracebackType(trace, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return trace


def _is_ours(entry: TracebackType) -> bool:
    return str(entry.tb_frame.f_globals.get("__name__", "")).partition(".")[0] == _OURS
