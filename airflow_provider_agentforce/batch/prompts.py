"""The messages and variables of a record, from templates or a function."""

from __future__ import annotations

import copy
import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from airflow_provider_agentforce.batch.options import Options
from airflow_provider_agentforce.batch.plain_json import as_json
from airflow_provider_agentforce.batch.reader import Record
from airflow_provider_agentforce.batch.results import Row
from airflow_provider_agentforce.batch.worker import WorkItem
from airflow_provider_agentforce.client import validation
from airflow_provider_agentforce.client.messages import Message, text_message
from airflow_provider_agentforce.client.models import FAILED
from airflow_provider_agentforce.exceptions import AgentforceInputError, one_line

_UNCHANGING = frozenset({str, int, float, bool, type(None)})
Compile = Callable[[str], Callable[[Mapping[str, Any]], str]]


class Prompts:
    """Makes a :class:`WorkItem` from a record. The contents of the record are never rendered.

    :param options: options of the batch, with ``message``, ``variables`` and ``key``.
    :param compile_template: compiles a template to a function from a record to text.
    :param most: maximum number of messages in a session.
    :raises AgentforceInputError: if ``message`` or ``variables`` cannot be used.
    """

    def __init__(self, options: Options, compile_template: Compile, most: int) -> None:
        message, variables = options.message, options.variables
        self._given = (message, variables)
        self._key = options.key
        self._shared = options.shares_sessions
        self._most = most
        self._messages = _maker(message, "message", compile_template)
        self._variables = _maker(variables, "variables", compile_template)
        if not callable(message):
            self._checked(message, "message: {} messages are more than a session may have ({}).")
        if not callable(variables):
            validation.variables(variables)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the templates or functions."""
        try:
            text = as_json(_source(self._given), ordered=True)
        except ValueError as error:
            raise AgentforceInputError(f"message or variables: {one_line(str(error))}.") from None
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def about(self, record: Record) -> WorkItem | Row:
        """Return the item for *record*, or its row ``failed`` with the reason."""
        try:
            return self._asked(record)
        except AgentforceInputError as error:
            why = error.what
        except Exception as error:  # noqa: BLE001 - whatever the template or the function of the Dag raises
            why = f"{type(error).__name__}: {error}"
        return Row(key=record.key, status=FAILED, error=one_line(f"{record.where}: {why}"))

    def _asked(self, record: Record) -> WorkItem:
        if record.key is None:
            raise AgentforceInputError(f"the field {self._key}, which names the record, is missing or empty.")
        messages = self._checked(self._messages(_copy(record.fields)), "{} messages; a session may have {}.")
        variables = [] if self._given[1] is None else self._variables_of(record)
        if not self._shared:
            return WorkItem(record, messages, variables)
        return WorkItem(record, (replace(messages[0], variables=variables), *messages[1:]))

    def _variables_of(self, record: Record) -> list[dict[str, Any]]:
        return validation.variables(self._variables(_copy(record.fields)))

    def _checked(self, given: Any, too_many: str) -> tuple[Message, ...]:
        if isinstance(given, str):
            return (text_message(given, field="message"),)
        listed = isinstance(given, Sequence) and not isinstance(given, bytes)
        texts = list(given) if listed else [given]
        if not texts:
            raise AgentforceInputError("message is empty. Give at least one text.")
        if len(texts) > self._most:
            raise AgentforceInputError(too_many.format(len(texts), self._most))
        return tuple(
            text_message(text, field=f"message[{index}]" if listed else "message")
            for index, text in enumerate(texts)
        )


def _copy(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy for a function or a template, so that the record stays unchanged."""
    return {
        name: value if type(value) in _UNCHANGING else copy.deepcopy(value) for name, value in fields.items()
    }


def _maker(given: Any, field: str, compile_template: Compile) -> Callable[[Mapping[str, Any]], Any]:
    if callable(given):
        return given  # type: ignore[no-any-return]
    if isinstance(given, str):
        return _compiled(given, field, compile_template)
    if isinstance(given, Mapping):
        parts = {name: _maker(value, field, compile_template) for name, value in given.items()}
        return lambda record: {name: make(record) for name, make in parts.items()}
    if isinstance(given, Sequence) and not isinstance(given, bytes):
        makers = [_maker(value, field, compile_template) for value in given]
        return lambda record: [make(record) for make in makers]
    return lambda _: given


def _compiled(template: str, field: str, compile_template: Compile) -> Callable[[Mapping[str, Any]], str]:
    try:
        return compile_template(template)
    except Exception as error:  # noqa: BLE001 - whatever the template engine raises
        raise AgentforceInputError(
            f"{field}: {one_line(template, 60)!r} is not a valid template: {one_line(str(error))}."
        ) from None


def _source(given: Any) -> Any:
    """Return *given* with the source of each function, which is the same in every process."""
    if isinstance(given, functools.partial):
        return [_source(given.func), _source(given.args), _source(given.keywords)]
    if isinstance(given, Mapping):
        return {name: _source(value) for name, value in given.items()}
    if isinstance(given, list | tuple):
        return [_source(value) for value in given]
    if not callable(given):
        return given
    try:
        return inspect.getsource(given)
    except (OSError, TypeError):
        return getattr(given, "__qualname__", type(given).__name__)
