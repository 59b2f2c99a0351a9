"""Separates data from templates: values from XCom are never rendered, however they arrive.

Airflow renders values that a mapped task takes from XCom: most of those of ``expand_kwargs``, and any that an
operator has copied. It would evaluate ``{{ … }}`` in an agent's or a customer's words.
"""

from __future__ import annotations

from collections import UserList, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce._compat import BaseOperator, Context

if TYPE_CHECKING:
    from jinja2 import Environment


_COLLECTIONS = (list, tuple, set, frozenset)


class RendersOnlyTemplates(BaseOperator):
    """An operator that renders only values that the Dag's author wrote."""

    given_arguments: Mapping[str, Any]

    def __new__(cls, *_args: Any, **kwargs: Any) -> Any:
        """Keep the arguments unchanged, before an operator converts them to attributes."""
        operator = super().__new__(cls)
        vars(operator)["given_arguments"] = kwargs
        return operator

    def render_template(
        self, content: Any, context: Context, jinja_env: Any = None, seen_oids: set[int] | None = None
    ) -> Any:
        """Render a template, or resolve a reference; leave data unchanged. Called by Airflow."""
        if is_reference(content):
            # Airflow treats a reference in a row of expand_kwargs as data that is already resolved.
            return super().render_template(content, context, jinja_env, None)
        arguments: Any = getattr(self, "op_kwargs", None)
        if arguments and content is arguments:
            # Arguments of a decorated function, including those of its partial().
            data = _from_xcom(context, self.task_id, arguments)
            return {
                name: value
                if name in data
                else super(RendersOnlyTemplates, self).render_template(value, context, jinja_env, seen_oids)
                for name, value in arguments.items()
            }
        if self.came_from_xcom(content, context, seen_oids):
            return content
        return super().render_template(content, context, jinja_env, seen_oids)

    def came_from_xcom(self, content: Any, context: Context, seen_oids: set[int] | None) -> bool:
        """Return whether Airflow took a template field's value from XCom to map the task."""
        if id(content) in (seen_oids or ()):
            return True
        return not self.mapped_from_xcom(context).isdisjoint(self.fields_with(content))

    def mapped_from_xcom(self, context: Context) -> AbstractSet[str]:
        """Return the names of the arguments whose values Airflow took from XCom to map the task."""
        if getattr(self, "op_kwargs", None) is not None:
            return frozenset()  # a function's arguments are mapped, not the operator's
        return _from_xcom(context, self.task_id, self.given_arguments)

    def fields_with(self, content: Any) -> list[str]:
        """Return the template fields whose value is *content* itself, not only equal to it."""
        return [field for field in self.template_fields if getattr(self, field, None) is content]


def _from_xcom(context: Context, task_id: str, given: Mapping[str, Any]) -> AbstractSet[str]:
    """Return the names of the arguments in *given* that a mapped task takes from XCom."""
    task = task_of(context, task_id)
    of_function = hasattr(task, "op_kwargs_expand_input")
    expand = task.op_kwargs_expand_input if of_function else getattr(task, "expand_input", None)
    mapped: Any = getattr(expand, "value", None)
    if mapped is None:
        return frozenset()
    if isinstance(mapped, Mapping):  # by expand()
        return {name for name, value in mapped.items() if is_reference(value)}
    index: Any = context["ti"].map_index
    if isinstance(mapped, list | tuple) and isinstance(mapped[index], Mapping):
        return frozenset()
    written = task.partial_kwargs
    written = (written.get("op_kwargs") or {}) if of_function else written
    return {name for name, value in given.items() if name not in written or written[name] is not value}


def task_of(context: Context, task_id: str) -> Any:
    """Return a task of the Dag, a ``MappedOperator`` if it is mapped; ``None`` outside of a Dag run."""
    dag: Any = context.get("dag")
    return dag.get_task(task_id) if dag is not None and dag.has_task(task_id) else None


def is_reference(value: Any) -> bool:
    """Return whether *value* is a reference that Airflow resolves later: an XComArg, a Dag parameter."""
    return hasattr(value, "resolve") and hasattr(value, "iter_references")


def has_reference(value: Any) -> bool:
    """Return whether a reference is in *value*, at any depth of its collections, or bound to its function."""
    return any(is_reference(one) for one in leaves(value))


def out_of_reach(value: Any, is_wanted: Callable[[Any], bool] = is_reference) -> str | None:
    """Return the type of a container in *value* whose contents Airflow neither resolves nor renders.

    :param is_wanted: returns whether Airflow would have to do so for a single value.
    """
    for one, inner in _walk(value):
        reached = isinstance(one, (dict, *_COLLECTIONS, partial))
        if inner is not None and not reached and any(is_wanted(leaf) for leaf in leaves(one)):
            return type(one).__name__
    return None


def leaves(value: Any) -> Iterator[Any]:
    """Yield the items of *value* at any depth of its containers, or bound to its function."""
    return (one for one, inner in _walk(value) if inner is None)


def _walk(value: Any) -> Iterator[tuple[Any, Collection[Any] | None]]:
    """Yield *value* and its items at any depth, each with its direct items."""
    left, seen = [value], set()
    while left:
        one = left.pop()
        inner = _inner(one)
        if inner is not None:
            # A list may contain itself.
            if id(one) in seen:
                continue
            seen.add(id(one))
            left.extend(inner)
        yield one, inner


def _inner(value: Any) -> Collection[Any] | None:
    """Return the items of a container or a function, ``None`` if *value* is neither."""
    if isinstance(value, str):
        return None
    if isinstance(value, partial):
        return [*value.args, *value.keywords.values()]
    if isinstance(value, Mapping):
        return value.values()
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name) for field in fields(value)]
    # No other sequences: one that Airflow makes of XComs fetches each of them.
    return value if isinstance(value, (*_COLLECTIONS, deque, UserList)) else None


def resolved(value: Any, context: Context, convert: Callable[[Any], Any] = lambda value: value) -> Any:
    """Return *value* with its references, at any depth of collections, replaced by their values.

    No text is rendered.

    :param convert: converts the value of a reference.
    """
    if is_reference(value):
        return convert(value.resolve(context))
    if isinstance(value, dict):
        return {key: resolved(item, context, convert) for key, item in value.items()}
    for kind in _COLLECTIONS:
        if isinstance(value, kind):
            items = (resolved(item, context, convert) for item in value)
            return value._make(items) if hasattr(value, "_make") else kind(items)
    return value


def as_template(value: Any, environment: Environment) -> Any:
    """Return *value* with each text as a template that renders to this text."""
    if isinstance(value, str):
        quoted = value.encode("unicode_escape").decode("ascii").replace('"', '\\"')
        return f'{environment.variable_start_string} "{quoted}" {environment.variable_end_string}'
    if isinstance(value, dict):
        return {key: as_template(item, environment) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_template(item, environment) for item in value]
    return value
