"""Errors that end the Airflow task at once, because a retry would not help or would make it worse.

The client does not use Airflow. For each of its error classes, this module has a class of the same name that
is also an ``AirflowFailException``; ``except`` and retry rules for the client's class catch both. An
``ExceptionGroup`` or a ``tenacity.RetryError`` around such an error hides it from Airflow: raise the inner
error instead.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import TracebackType
from typing import Any, TypeVar, cast

from airflow_provider_agentforce import exceptions
from airflow_provider_agentforce._compat import AirflowFailException

_Function = TypeVar("_Function", bound=Callable[..., Any])
_classes: dict[type, type[exceptions.AgentforceError]] = {}


def airflow_errors(*, resend_unknown: bool = False) -> _AirflowErrors:
    """Raise every client error that must not be followed by a retry of the task as its final class.

    :param resend_unknown: leave ``DeliveryUnknownError`` to the task's retries, unless the org has the
        message.
    :returns: a context manager and decorator.
    """
    return _AirflowErrors(resend_unknown=resend_unknown)


class _AirflowErrors:
    def __init__(self, *, resend_unknown: bool) -> None:
        self._resend_unknown = resend_unknown

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, exceptions.AgentforceError) and self._is_final(error):
            raise final(error) from error.__cause__

    def __call__(self, function: _Function) -> _Function:
        # Not a context manager: a signal during its exit would lose the function's return value.
        @wraps(function)
        def wrapper(*args: Any, **options: Any) -> Any:
            try:
                return function(*args, **options)
            except exceptions.AgentforceError as error:
                if self._is_final(error):
                    raise final(error) from error.__cause__
                raise

        return cast("_Function", wrapper)

    def _is_final(self, error: exceptions.AgentforceError) -> bool:
        in_doubt = isinstance(error, exceptions.DeliveryUnknownError) and error.may_be_resent
        repeatable = in_doubt and self._resend_unknown
        return not (error.retryable or repeatable or isinstance(error, AirflowFailException))


def final(error: exceptions.AgentforceError, **fields: Any) -> exceptions.AgentforceError:
    """Return *error* as an ``AirflowFailException``, so that no retry of the task follows.

    It has the same fields, cause and traceback, and stays final when it is copied or pickled.

    :param fields: the fields that differ.
    """
    return exceptions.remade(error, final_class(type(error)), retryable=False, **fields)


def final_class(kind: type[exceptions.AgentforceError]) -> type[exceptions.AgentforceError]:
    """Return the class that is both *kind*, or a user's own subclass, and ``AirflowFailException``."""
    if issubclass(kind, AirflowFailException):
        return kind
    if kind not in _classes:
        _classes.setdefault(kind, _made_final(kind))
    return _classes[kind]


def _made_final(kind: type[exceptions.AgentforceError]) -> type[exceptions.AgentforceError]:
    def reduce(error: exceptions.AgentforceError) -> tuple[Any, ...]:
        found, (_, *parts) = exceptions.AgentforceError.__reduce__(error)
        if type(error) is not made:
            return found, (exceptions.found_by_name(type(error)), *parts)
        return _restored, (exceptions.found_by_name(kind), *parts)

    names = {"__doc__": kind.__doc__, "__module__": kind.__module__, "__reduce__": reduce}
    made = type(kind.__name__, (kind, AirflowFailException), names)
    return made


def _restored(kind: type[exceptions.AgentforceError], *parts: Any) -> exceptions.AgentforceError:
    return exceptions.restored(final_class(kind), *parts)


def _name_the_classes() -> None:
    # Airflow and logs name a class by its module, so the class must be found there.
    for name, kind in vars(exceptions).items():
        if isinstance(kind, type) and issubclass(kind, exceptions.AgentforceError):
            globals()[name] = final_class(kind)
            globals()[name].__module__ = __name__


_name_the_classes()
