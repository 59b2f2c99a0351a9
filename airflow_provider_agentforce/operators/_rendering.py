"""Keeps data apart from templates: what came from XCom is never rendered, whatever way it came.

Airflow renders the values that ``expand_kwargs`` takes from XCom, so ``{{ … }}`` in an agent's or a
customer's words would be evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce._compat import BaseOperator, Context

if TYPE_CHECKING:
    from jinja2 import Environment


_COLLECTIONS = (list, tuple, set, frozenset)


class RendersOnlyTemplates(BaseOperator):
    """An operator whose template fields are rendered only where the Dag's author wrote them."""

    def render_template(
        self,
        content: Any,
        context: Context,
        jinja_env: Environment | None = None,
        seen_oids: set[int] | None = None,
    ) -> Any:
        """Render a template, or resolve a reference; leave data alone. As Airflow calls it."""
        if is_reference(content):
            # Airflow takes one in a row of expand_kwargs for data that it has resolved.
            return super().render_template(content, context, jinja_env, None)
        if not self.came_from_xcom(content, context, seen_oids):
            return super().render_template(content, context, jinja_env, seen_oids)
        arguments: Any = getattr(self, "op_kwargs", None)
        if content is not arguments:
            return content
        # Arguments of a decorated function, those of its partial() among them.
        written = (_written_by_author(context, self.task_id) or {}).get("op_kwargs") or {}
        return {
            name: super(RendersOnlyTemplates, self).render_template(value, context, jinja_env, seen_oids)
            if value is written.get(name)
            else value
            for name, value in arguments.items()
        }

    def came_from_xcom(self, content: Any, context: Context, seen_oids: set[int] | None) -> bool:
        """Tell whether a template field's value is one that Airflow has taken from XCom to map the task."""
        if id(content) in (seen_oids or ()):
            return True
        fields = self.fields_with(content)
        written = _written_by_author(context, self.task_id) if fields else None
        return written is not None and not any(_same(written.get(field), content) for field in fields)

    def fields_with(self, content: Any) -> list[str]:
        """Return the template fields whose value *content* is, and not just equals."""
        return [field for field in self.template_fields if getattr(self, field, None) is content]


def _same(written: Any, content: Any) -> bool:
    return written is content or (isinstance(content, str) and written == content)


def _written_by_author(context: Context, task_id: str) -> Mapping[str, Any] | None:
    """Return what is in ``partial`` when ``expand_kwargs`` takes the rest from XCom, else ``None``."""
    task = task_of(context, task_id)
    expand = getattr(task, "op_kwargs_expand_input", getattr(task, "expand_input", None))
    given: Any = getattr(expand, "value", None)
    if task is None or given is None or isinstance(given, Mapping):
        return None  # not mapped, or by expand(), whose values Airflow leaves alone
    index: Any = context["ti"].map_index
    if isinstance(given, list | tuple) and isinstance(given[index], Mapping):
        return None
    defaults = (context["dag"], task.task_group)
    written = {name: value for one in defaults for name, value in getattr(one, "default_args", {}).items()}
    return {**written, **(task.partial_kwargs.get("default_args") or {}), **task.partial_kwargs}


def task_of(context: Context, task_id: str) -> Any:
    """Return a task of the Dag, a ``MappedOperator`` if it is mapped; ``None`` outside of a Dag run."""
    dag: Any = context.get("dag")
    return dag.get_task(task_id) if dag is not None and dag.has_task(task_id) else None


def is_reference(value: Any) -> bool:
    """Tell whether *value* stands for one that Airflow knows later: an XComArg, a parameter of the Dag."""
    return hasattr(value, "resolve") and hasattr(value, "iter_references")


def has_reference(value: Any) -> bool:
    """Tell whether a reference is in *value*, at any depth of its collections, or bound to its function."""
    left, seen = [value], set()
    while left:
        one = left.pop()
        inner = _inner(one)
        if inner is None and is_reference(one):
            return True
        # A list may hold itself.
        if inner and id(one) not in seen:
            seen.add(id(one))
            left.extend(inner)
    return False


def _inner(value: Any) -> Collection[Any] | None:
    """Return what a collection or a function holds, ``None`` if *value* is neither."""
    if isinstance(value, partial):
        return [*value.args, *value.keywords.values()]
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, _COLLECTIONS) else None


def resolved(value: Any, context: Context, convert: Callable[[Any], Any] = lambda value: value) -> Any:
    """Return *value* with the references in it, at any depth of collections, replaced by what they stand for.

    No text is rendered.

    :param convert: is given what a reference stands for, and returns what is put in its place.
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
    """Return *value* with each text in it as a template that renders to just this text."""
    if isinstance(value, str):
        quoted = value.encode("unicode_escape").decode("ascii").replace('"', '\\"')
        return f'{environment.variable_start_string} "{quoted}" {environment.variable_end_string}'
    if isinstance(value, dict):
        return {key: as_template(item, environment) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_template(item, environment) for item in value]
    return value
