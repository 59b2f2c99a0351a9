"""Templates that are rendered for each of many records, with the record's contents as data."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce._compat import Context

if TYPE_CHECKING:
    from jinja2 import Environment

    from airflow_provider_agentforce.batch.record_values import Render


def compiler(
    environment: Environment,
    context: Context,
    variable: str,
    convert: Callable[[Any], Any] | None = None,
) -> Callable[[str], Render]:
    """Return a compiler from a template to a function of a record.

    :param environment: Jinja environment of the Dag.
    :param variable: name of the record in a template.
    :param convert: converts the value of each expression to what is rendered.
    """
    from jinja2 import StrictUndefined  # noqa: PLC0415 - not at parse time

    # A field that a record lacks must fail the record, and a text is no HTML, whatever the Dag says.
    chosen: dict[str, Any] = {"undefined": StrictUndefined, "autoescape": False}
    if convert is not None:
        chosen["finalize"] = convert
    strict = environment.overlay(**chosen)
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
            return "".join(map(str, template.root_render_func(within)))

        return render

    return compile_template


def as_field_text(value: Any) -> Any:
    """Return a value as the text of a field: empty for ``None``, JSON for collections."""
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value


def _fields_first(getattr_: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    """Make ``record.items`` the field of that name, if there is one, before the method."""

    def get(thing: Any, attribute: str) -> Any:
        if isinstance(thing, dict) and attribute in thing:
            return thing[attribute]
        return getattr_(thing, attribute)

    return get
