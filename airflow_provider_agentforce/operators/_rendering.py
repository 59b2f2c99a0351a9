"""Keeps data apart from templates: what came from XCom is never rendered, whatever way it came.

Airflow renders the values that ``expand_kwargs`` takes from XCom, so ``{{ … }}`` in an agent's or a
customer's words would be evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce._compat import BaseOperator, Context

if TYPE_CHECKING:
    from jinja2 import Environment


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
        fields = self.fields_with(content)
        written = _written_by_author(context, self.task_id) if fields else None
        if written is None or any(written.get(field) is content for field in fields):
            return super().render_template(content, context, jinja_env, seen_oids)
        if "op_kwargs" not in fields:
            return content
        arguments = written.get("op_kwargs") or {}
        return {
            name: super(RendersOnlyTemplates, self).render_template(value, context, jinja_env, seen_oids)
            if value is arguments.get(name)
            else value
            for name, value in content.items()
        }

    def fields_with(self, content: Any) -> list[str]:
        """Return the template fields whose value *content* is, and not just equals."""
        return [field for field in self.template_fields if getattr(self, field, None) is content]


def _written_by_author(context: Context, task_id: str) -> Mapping[str, Any] | None:
    """Return what is in ``partial`` when ``expand_kwargs`` takes the rest from XCom, else ``None``."""
    task = task_of(context, task_id)
    expand = getattr(task, "op_kwargs_expand_input", getattr(task, "expand_input", None))
    if task is None or getattr(expand, "EXPAND_INPUT_TYPE", "") != "list-of-dicts":
        return None
    given: Any = expand.value  # type: ignore[union-attr]
    index: Any = context["ti"].map_index
    if isinstance(given, list | tuple) and isinstance(given[index], Mapping):
        return None
    return {**(task.partial_kwargs.get("default_args") or {}), **task.partial_kwargs}


def task_of(context: Context, task_id: str) -> Any:
    """Return a task of the Dag, a ``MappedOperator`` if it is mapped; ``None`` outside of a Dag run."""
    dag: Any = context.get("dag")
    return dag.get_task(task_id) if dag is not None and dag.has_task(task_id) else None


def is_reference(value: Any) -> bool:
    """Tell whether *value* stands for one that Airflow knows later: an XComArg, a parameter of the Dag."""
    return hasattr(value, "resolve") and hasattr(value, "iter_references")


def resolved(value: Any, context: Context) -> Any:
    """Return *value* with the references in it, at any depth of collections, replaced by what they stand for.

    No text is rendered.
    """
    if is_reference(value):
        return value.resolve(context)
    if isinstance(value, dict):
        return {key: resolved(item, context) for key, item in value.items()}
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(resolved(item, context) for item in value)
    return value
