"""Templates that are rendered for each of many records, with the record's contents as data."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce._compat import Context
from airflow_provider_agentforce.exceptions import AgentforceInputError, one_line

if TYPE_CHECKING:
    from jinja2 import Environment, StrictUndefined

    from airflow_provider_agentforce.batch.record_values import Render

_FILTER = "Add a filter, such as | list or | join(', ')"
_ADDRESS = re.compile(r"<([^<>\n]{1,200}) at 0x[0-9a-fA-F]{4,16}>")


def compiler(
    environment: Environment,
    context: Context,
    variable: str,
    convert: Callable[[Any], Any] = lambda value: value,
) -> Callable[[str], Render]:
    """Return a compiler from a template to a function of a record.

    :param environment: Jinja environment of the Dag.
    :param variable: name of the record in a template.
    :param convert: converts the value of each expression that is not a text to what is rendered.
    """
    missing = _missing_field()
    # Texts need no check, and rendering a missing field raises its own error.
    unchanged = (str, missing)

    def finalize(value: Any) -> Any:
        return value if isinstance(value, unchanged) else convert(_with_text(value))

    # A missing field must fail the record, and text is not HTML, whatever the Dag's Jinja options say.
    strict = environment.overlay(undefined=missing, autoescape=False, finalize=finalize)
    strict.getattr = _fields_first(strict.getattr)  # type: ignore[method-assign, assignment]
    values: Any = copy.copy(context)

    def compile_template(text: str) -> Render:
        template = strict.from_string(text)
        for name, value in template.globals.items():
            values.setdefault(name, value)

        def render(record: Mapping[str, Any]) -> str:
            values[variable] = record
            # As Airflow does, but always to text, also in a Dag that renders to native objects.
            within = strict.context_class(strict, values, template.name, template.blocks)
            text = "".join(map(str, template.root_render_func(within)))
            _check_addresses(text, record)
            return text

        return render

    return compile_template


def _missing_field() -> type[StrictUndefined]:
    """Return a class that fails wherever its text is needed."""
    from jinja2 import StrictUndefined  # noqa: PLC0415 - not at parse time

    class MissingField(StrictUndefined):
        # The text of a list or a dict has the repr of what it contains.
        def __repr__(self) -> str:
            return str(self)

    return MissingField


def as_field_text(value: Any) -> Any:
    """Return a value as the text of a field: empty for ``None``, JSON for lists and mappings.

    :raises AgentforceInputError: it is a set, whose order may differ, or its only text is its address in
        memory.
    """
    if value is None:
        return ""
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping | Sequence) and not isinstance(value, bytes | bytearray):
        return json.dumps(value, ensure_ascii=False, default=_as_json)
    if isinstance(value, Collection) or not _has_own_text(value):
        raise _without_text(value)
    return value


def _as_json(value: Any) -> Any:
    from jinja2 import StrictUndefined  # noqa: PLC0415 - not at parse time

    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return list(value)
    # An undefined value raises its own error.
    return str(value if isinstance(value, StrictUndefined) else as_field_text(value))


def _check_addresses(text: str, record: Mapping[str, Any]) -> None:
    """Refuse a text with the address of an object, such as that of ``"a" ~ (row.text | map("upper"))``.

    :raises AgentforceInputError: it contains one that is not in the record.
    """
    found = _ADDRESS.search(text)
    if found is not None and found[0] not in json.dumps(record, ensure_ascii=False, default=str):
        raise AgentforceInputError(
            f"the template gives a {one_line(found[1], 80)} instead of its value. {_FILTER}; a function is "
            "called with ()."
        )


def _with_text(value: Any) -> Any:
    """Return a value unless its text would be the address of an object, which differs in every try.

    :raises AgentforceInputError: it is a generator, a function or the like.
    """
    if not _has_own_text(value) and (isinstance(value, Iterator) or callable(value)):
        raise _without_text(value)
    return value


def _has_own_text(value: Any) -> bool:
    own: object = type(value).__str__
    return own is not object.__str__


def _without_text(value: Any) -> AgentforceInputError:
    way = "Call it, with ()" if callable(value) else _FILTER
    return AgentforceInputError(
        f"the template gives an object of the type {type(value).__name__} instead of a text. {way}."
    )


def _fields_first(getattr_: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    """Make ``record.items`` the field of that name, if there is one, before the method."""

    def get(thing: Any, attribute: str) -> Any:
        if isinstance(thing, dict) and attribute in thing:
            return thing[attribute]
        return getattr_(thing, attribute)

    return get
