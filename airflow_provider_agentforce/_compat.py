"""The names of Airflow that have moved between 2.11 and 3.4. Nothing else of the package knows about it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

_Result = TypeVar("_Result")


def _first(modules: Iterable[str], name: str) -> Any:
    for module in modules:
        try:
            return getattr(import_module(module), name)
        except (ImportError, AttributeError):  # noqa: PERF203 - each place gets its chance
            continue
    raise ImportError(f"This Airflow has no {name}.")


if TYPE_CHECKING:
    from datetime import datetime, timedelta
    from uuid import UUID

    from airflow.sdk import (
        BaseHook,
        BaseOperator,
        BaseOperatorLink,
        BaseSensorOperator,
        Context,
        PokeReturnValue,
    )
    from airflow.sdk.bases.decorator import (
        DecoratedOperator,
        TaskDecorator,
        determine_kwargs,
        task_decorator_factory,
    )
    from airflow.sdk.configuration import conf
    from airflow.sdk.definitions.context import context_merge
    from airflow.sdk.exceptions import (
        AirflowFailException,
        AirflowNotFoundException,
        AirflowOptionalProviderFeatureException,
        AirflowSensorTimeout,
        AirflowSkipException,
        AirflowTaskTerminated,
        AirflowTaskTimeout,
        XComNotFound,
    )
    from airflow.sdk.plugins_manager import AirflowPlugin
    from airflow.triggers.base import BaseEventTrigger, BaseTrigger, TriggerEvent
else:
    # The last place is Airflow 2's, or that of 3.0.
    BaseOperator = _first(("airflow.sdk", "airflow.models"), "BaseOperator")
    BaseOperatorLink = _first(("airflow.sdk", "airflow.models.baseoperatorlink"), "BaseOperatorLink")
    BaseHook = _first(("airflow.sdk", "airflow.hooks.base"), "BaseHook")
    conf = _first(("airflow.sdk.configuration", "airflow.configuration"), "conf")
    _EXCEPTIONS = ("airflow.sdk.exceptions", "airflow.exceptions")
    AirflowFailException = _first(_EXCEPTIONS, "AirflowFailException")
    AirflowNotFoundException = _first(_EXCEPTIONS, "AirflowNotFoundException")
    AirflowOptionalProviderFeatureException = _first(_EXCEPTIONS, "AirflowOptionalProviderFeatureException")
    AirflowSensorTimeout = _first(_EXCEPTIONS, "AirflowSensorTimeout")
    AirflowSkipException = _first(_EXCEPTIONS, "AirflowSkipException")
    AirflowTaskTerminated = _first(_EXCEPTIONS, "AirflowTaskTerminated")
    AirflowTaskTimeout = _first(_EXCEPTIONS, "AirflowTaskTimeout")
    XComNotFound = _first(_EXCEPTIONS, "XComNotFound")
    Context = dict

# What Airflow raises in the middle of a function, from a signal handler.
INTERRUPTIONS = (AirflowTaskTimeout, AirflowTaskTerminated, KeyboardInterrupt)
# Airflow 2 makes the links of a task in the webserver, Airflow 3 in the task's own process.
LINKS_NEED_XCOM = BaseOperatorLink.__module__.startswith("airflow.models")
# Airflow 3.1 and later, 3.0, 2.
_MASKERS = (
    "airflow.sdk.log",
    "airflow.sdk.execution_time.secrets_masker",
    "airflow.utils.log.secrets_masker",
)

# Airflow 3.2 and later, up to 3.1.
_STATS = ("airflow.sdk.observability.stats", "airflow.stats")
# Airflow 3, 2.
_OBJECT_STORAGE = ("airflow.sdk", "airflow.io.path")
_ATTACH = ("airflow.sdk.io", "airflow.io.store")
_DATE_TIME_TRIGGERS = ("airflow.providers.standard.triggers.temporal", "airflow.triggers.temporal")
# What only some modules need, so it is imported when one of them is.
_WHEN_USED = {
    "AirflowPlugin": ("airflow.sdk.plugins_manager", "airflow.plugins_manager"),
    "BaseSensorOperator": ("airflow.sdk", "airflow.sensors.base"),
    "PokeReturnValue": ("airflow.sdk", "airflow.sensors.base"),
    "BaseEventTrigger": ("airflow.triggers.base",),
    "BaseTrigger": ("airflow.triggers.base",),
    "TriggerEvent": ("airflow.triggers.base",),
    "DecoratedOperator": ("airflow.sdk.bases.decorator", "airflow.decorators.base"),
    "context_merge": ("airflow.sdk.definitions.context", "airflow.utils.context"),
    "determine_kwargs": ("airflow.sdk.bases.decorator", "airflow.utils.operator_helpers"),
    "TaskDecorator": ("airflow.sdk.bases.decorator", "airflow.decorators.base"),
    "task_decorator_factory": ("airflow.sdk.bases.decorator", "airflow.decorators.base"),
}

__all__ = [
    "LINKS_NEED_XCOM",
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowOptionalProviderFeatureException",
    "AirflowPlugin",
    "AirflowSensorTimeout",
    "AirflowSkipException",
    "AirflowTaskTerminated",
    "AirflowTaskTimeout",
    "BaseEventTrigger",
    "BaseHook",
    "BaseOperator",
    "BaseOperatorLink",
    "BaseSensorOperator",
    "BaseTrigger",
    "Context",
    "DecoratedOperator",
    "PokeReturnValue",
    "TaskDecorator",
    "TriggerEvent",
    "XComNotFound",
    "add_listener",
    "answer_trigger",
    "ask_person",
    "awaiting_input",
    "can_ask",
    "conf",
    "context_merge",
    "date_time_trigger",
    "default_deferrable",
    "determine_kwargs",
    "has_pages",
    "mask_secret",
    "object_storage_path",
    "questions_change",
    "stats",
    "stored_connection",
    "tabs_choose_operators",
    "task_decorator_factory",
    "waits",
    "xcom_of_airflow_2",
]


def __getattr__(name: str) -> Any:
    if name in _WHEN_USED:
        return _first(_WHEN_USED[name], name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def mask_secret(secret: str) -> None:
    """Mask *secret* in everything that the task logs from now on."""
    try:
        mask = _first(_MASKERS, "mask_secret")
    except ImportError:
        return
    mask(secret)


@cache
def stats() -> Any:
    """Return Airflow's ``Stats``, or ``None`` where it is not found. Looked up at the first use."""
    try:
        return _first(_STATS, "Stats")
    except ImportError:
        return None


def xcom_of_airflow_2(task: Any, key: str) -> Any:
    """Return the XCom *key* of a task, given by its key; ``None`` on Airflow 3."""
    return import_module("airflow.models").XCom.get_value(ti_key=task, key=key) if LINKS_NEED_XCOM else None


def stored_connection(conn_id: str) -> Any:
    """Return a connection of this installation, outside of a task: also one of Airflow's database.

    :raises AirflowNotFoundException: if there is none.
    """
    return import_module("airflow.models.connection").Connection.get_connection_from_secrets(conn_id)


def object_storage_path(uri: Any) -> Any:
    """Return Airflow's path object for *uri*, a string or path; the part before an ``@`` names a connection.

    :raises ValueError, ImportError: if no file system for it is installed.
    :raises AirflowNotFoundException: if there is no such connection.
    """
    path = _first(_OBJECT_STORAGE, "ObjectStoragePath")(uri)
    if path.protocol in {"", "file"}:
        # Airflow imports the file systems of all providers in order to find this one.
        local = import_module("fsspec.implementations.local").LocalFileSystem()
        _first(_ATTACH, "attach")("file", fs=local)
    path.fs  # noqa: B018 - it is made when it is asked for
    return path


def date_time_trigger(moment: datetime) -> Any:
    """Return Airflow's trigger that waits until *moment*."""
    return _first(_DATE_TIME_TRIGGERS, "DateTimeTrigger")(moment=moment)


async def beside_loop(function: Callable[..., _Result], *args: Any) -> _Result:
    """Return what *function* returns, without blocking the event loop, as Airflow's own triggers do it.

    A cancellation in the middle keeps its message, by which Airflow knows that it must call ``on_kill()``.
    """
    import asyncio  # noqa: PLC0415 - in the triggerer alone

    from asgiref.sync import sync_to_async  # noqa: PLC0415 - in the triggerer alone

    return await asyncio.shield(asyncio.ensure_future(sync_to_async(function)(*args)))


def default_deferrable() -> bool:
    """Return Airflow's setting ``[operators] default_deferrable``."""
    return bool(conf.getboolean("operators", "default_deferrable", fallback=False))


def add_listener(listener: Any) -> None:
    """Have Airflow call *listener*, an object with ``airflow.listeners.hookimpl`` methods.

    Outside of a task, where Airflow has loaded no listeners and calls none, nothing is done.
    """
    for name in ("airflow.sdk.listener", "airflow.listeners.listener"):
        module = sys.modules.get(name)
        if module is not None:
            module.get_listener_manager().add_listener(listener)
            return


@cache
def can_ask() -> bool:
    """Tell whether a task can ask a person and wait without a worker slot: Airflow 3.3 and later."""
    try:
        _first(("airflow.sdk.exceptions",), "TaskAwaitingInput")
    except ImportError:
        return False
    return True


@cache
def _version() -> tuple[int, int]:
    major, minor = import_module("airflow").__version__.split(".")[:2]
    return int(major), int(minor)


def questions_change() -> bool:
    """Tell whether each question of a task is shown, and ends with its try: Airflow 3.4 and later."""
    return _version() >= (3, 4)


def has_pages() -> bool:
    """Tell whether a plugin can add pages to Airflow's own: Airflow 3.1 and later."""
    return _version() >= (3, 1)


def tabs_choose_operators() -> bool:
    """Tell whether a plugin can say which operators' tasks have its tab: Airflow 3.4 and later."""
    return _version() >= (3, 4)


@cache
def waits() -> tuple[type[BaseException], ...]:
    """Return what a task raises to give its worker slot back."""
    names = ("TaskDeferred", "TaskAwaitingInput")
    places = ("airflow.sdk.exceptions", "airflow.exceptions")
    return tuple(_first(places, name) for name in names if name == "TaskDeferred" or can_ask())


def ask_person(
    task_instance: Any, *, subject: str, body: str, assigned_users: list[Any], **form: Any
) -> None:
    """Put a question among the Required Actions. An answer that is there already is deleted.

    :param form: ``options`` to choose from, and ``params``, text fields that may be filled in, as Airflow has
        them.
    """
    from airflow.sdk.execution_time.hitl import upsert_hitl_detail  # noqa: PLC0415 - Airflow 3.1 and later

    upsert_hitl_detail(
        ti_id=task_instance.id, subject=subject, body=body, assigned_users=assigned_users, **form
    )


def answer_trigger(ti_id: UUID, until: datetime | None, **form: Any) -> Any:
    """Return Airflow's trigger that waits for the answer to a question, also for one that is there already.

    :param ti_id: id of the task instance that asked; from Airflow 3.4 on, also one whose try has ended.
    :param form: as of :func:`ask_person`.
    """
    trigger = _first(("airflow.providers.standard.triggers.hitl",), "HITLTrigger")
    return trigger(ti_id=ti_id, timeout_datetime=until, poke_interval=1.0, **form)


def awaiting_input(method_name: str, timeout: timedelta | None) -> BaseException:
    """Return what a task raises to wait for the answer to its question."""
    made: BaseException = _first(("airflow.sdk.exceptions",), "TaskAwaitingInput")(
        method_name=method_name, timeout=timeout
    )
    return made
