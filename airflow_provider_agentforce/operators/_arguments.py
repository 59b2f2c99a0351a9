"""Checks of arguments, when the Dag is parsed or when the task runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_agentforce._compat import can_ask, default_deferrable
from airflow_provider_agentforce.client import validation
from airflow_provider_agentforce.client.models import OUTCOMES
from airflow_provider_agentforce.delivery import Ask, Step, steps_of
from airflow_provider_agentforce.exceptions import AgentforceInputError, one_line, shown
from airflow_provider_agentforce.operators._rendering import (
    has_reference,
    is_reference,
    leaves,
    out_of_reach,
)

if TYPE_CHECKING:
    from airflow_provider_agentforce.structured import OutputType

_Given = TypeVar("_Given")
_TEMPLATE_MARKS = ("{{", "{%", "{#")
# The argument for a message has a different name in each operator.
_MESSAGE_ARGUMENTS = ("text", "message", "messages")


def check_names(operator: type, given: Iterable[str]) -> None:
    """Refuse arguments that *operator* does not have, and suggest the intended name."""
    known = _known(operator)
    for name in given:
        if name not in known and not name.startswith("_"):
            renamed = [one for one in _MESSAGE_ARGUMENTS if name in _MESSAGE_ARGUMENTS and one in known]
            near = renamed or _close(name, known)
            meant = f" Did you mean {near[0]}?" if near else ""
            raise AgentforceInputError(f"{operator.__name__} has no argument {name}.{meant}")


def check_references(operator: Any, given: Mapping[str, Any]) -> None:
    """Refuse outputs of tasks in arguments in which Airflow does not resolve them."""
    for name in _known(operator) & set(given):
        value = given[name]
        if callable(value) and has_reference(value):
            raise AgentforceInputError(
                f"{name} is a function that contains the output of a task, which Airflow does not resolve. "
                "Give that output in another argument, or use @task.agentforce, whose arguments may be "
                "outputs."
            )
        # The path of an AnswerStore becomes the argument.
        kind = None if name == "reuse" else out_of_reach(value)
        if kind is not None:
            raise AgentforceInputError(
                f"{name} contains the output of a task in a {kind}, in which Airflow does not resolve it. "
                "Give the output itself, such as reply=ask.output, or put it in a dict or a list; or return "
                f"the {kind} from a function of @task.agentforce."
            )
        if name not in operator.template_fields and has_reference(value):
            raise AgentforceInputError(
                f"{name} is not templated, so it cannot contain the output of a task. Give the value itself, "
                f"or map the task over it: .expand({name}=…)."
            )


def _close(name: str, known: Collection[str]) -> list[str]:
    import difflib  # noqa: PLC0415 - only for a mistake

    return difflib.get_close_matches(name, known, 1, 0.6)


@cache
def _known(operator: type) -> frozenset[str]:
    inits = [vars(kind)["__init__"] for kind in operator.__mro__ if "__init__" in vars(kind)]
    own = {name for init in inits[:-1] for name in inspect.signature(init).parameters}
    return frozenset(own | {"default_args"})


def check_budget(budget: Any) -> Any:
    """Return *budget* if it is a budget or ``None``."""
    if budget is None:
        return None
    from airflow_provider_agentforce.client.budget import Budget  # noqa: PLC0415 - rarely given

    if not isinstance(budget, Budget):
        raise AgentforceInputError(
            f'budget must be a Budget, such as Budget("messages", per_day=5000), but is {budget!r:.80}.'
        )
    return budget


def check_connection_id(conn_id: Any) -> str:
    """Return the id of a connection.

    :raises AgentforceInputError: it is not a string, is blank, or contains control characters.
    """
    if not isinstance(conn_id, str) or not conn_id.strip() or not conn_id.isprintable():
        raise AgentforceInputError(
            f"agentforce_conn_id must be the id of a connection, but is {shown(conn_id)}."
        )
    return conn_id


def check_fail_on(fail_on: Any) -> tuple[str, ...]:
    """Return *fail_on* as a tuple of known outcomes."""
    names = [fail_on] if isinstance(fail_on, str) else fail_on
    if not isinstance(names, Collection) or isinstance(names, Mapping):
        raise AgentforceInputError(
            f"fail_on must be outcomes, such as ('failed',), or () for none, but is {shown(fail_on)}."
        )
    unknown = [name for name in names if name not in OUTCOMES]
    if unknown:
        raise AgentforceInputError(f"fail_on: {shown(unknown[0])} is not one of {', '.join(OUTCOMES)}.")
    return tuple(names)


def check_choice(field: str, given: _Given, *choices: _Given) -> _Given:
    """Return *given* if it is one of *choices*; ``True`` is not 1."""
    for choice in choices:
        same_kind = isinstance(given, type(choice)) and isinstance(given, bool) == isinstance(choice, bool)
        if same_kind and given == choice:
            return given
    raise AgentforceInputError(f"{field} must be {' or '.join(map(str, choices))}, but is {shown(given)}.")


def check_deferrable(given: bool | None) -> bool:
    """Return whether a task waits without a slot; ``None``: the value in Airflow's configuration."""
    return default_deferrable() if given is None else check_choice("deferrable", given, True, False)


def check_steps(on_unknown_delivery: Any) -> tuple[Step, ...]:
    """Return the steps of ``on_unknown_delivery``, if this Airflow supports them."""
    steps = steps_of(on_unknown_delivery)
    if any(isinstance(step, Ask) for step in steps) and not can_ask():
        raise AgentforceInputError(
            'on_unknown_delivery: "ask" needs Airflow 3.3 or later. A function and "trace" work before, too.'
        )
    return steps


def check_decider(field: str, given: Any) -> Any:
    """Return who decides what an agent asks: a function, an :class:`.Ask`, or ``None``."""
    decider = Ask() if given == "ask" else given
    if isinstance(decider, Ask):
        if not can_ask():
            raise AgentforceInputError(
                f"{field}: a person can decide on Airflow 3.3 or later. Below, send each message in a "
                "separate task, with Airflow's HITLOperator between them. A function works, too."
            )
    elif decider is not None and not callable(decider):
        raise AgentforceInputError(
            f'{field} must be a function of the turn, "ask" or Ask(…), but is {shown(given)}.'
        )
    return decider


def check_output_type(output_type: Any) -> Any:
    """Return *output_type* if answers can be parsed with it."""
    if isinstance(output_type, str | bytes | int | float | list):
        raise AgentforceInputError(
            f"output_type must be a type or a JSON schema as a dict, but is {shown(output_type)}. "
            "Give the class itself, not its name."
        )
    output_of(output_type)
    return output_type


def output_of(output_type: Any) -> OutputType | None:
    """Return the output type of an operator, or ``None`` if it has none.

    :raises AgentforceInputError: if it cannot be used.
    """
    if output_type is None:
        return None
    from airflow_provider_agentforce.structured import OutputType  # noqa: PLC0415 - only where one is given

    return OutputType(output_type)


def check_messages(messages: Any) -> None:
    """Refuse values that cannot be the messages of a conversation."""
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        found = type(messages).__name__
        if isinstance(messages, str):
            found = f"a string. Write messages=[{one_line(messages, 40)!r}]"
        raise AgentforceInputError(
            f"messages must be a list of strings or of dicts with text and variables, or a function, "
            f"but is {found}."
        )
    if not messages:
        raise AgentforceInputError("messages is empty. Give at least one message.")


def check_message(message: Any, field: str) -> None:
    """Refuse values that cannot be a message; a template or a reference may become one."""
    if isinstance(message, Mapping):
        if set(message) - {"text", "variables"} or "text" not in message:
            raise AgentforceInputError(
                f"{field} must have text, may have variables, and must have nothing else."
            )
        check_message(message["text"], f"{field}.text")
        check_variables(message.get("variables"), f"{field}.variables")
    elif not may_change(message) and not is_dataclass(message):  # as a Reply is
        validation.message_text(message, field)


def may_change(given: Any) -> bool:
    """Return whether a value is known only when the task runs."""
    return is_reference(given) or (isinstance(given, str) and has_template(given))


def check_values(operator: Any, **checks: Callable[[Any], object]) -> None:
    """Refuse values of templated arguments that are known while the Dag is parsed, and cannot be used.

    :param checks: by the name of an argument, a function that raises for an invalid value.
    """
    for name, check in checks.items():
        given = getattr(operator, name, None)
        if given is not None and is_known(given):
            check(given)


def is_known(given: Any) -> bool:
    """Return whether *given*, with all its items, is known before the task runs."""
    return not any(map(may_change, leaves(given)))


def check_variables(variables: Any, field: str = "variables") -> None:
    """Refuse a value that cannot be variables; templates and references in it may become some."""
    if may_change(variables):
        return
    if isinstance(variables, Mapping):
        known: Any = {name: "" if has_reference(value) else value for name, value in variables.items()}
    elif isinstance(variables, list | tuple):
        unknown = ({"name": f"reference {index}", "value": ""} for index in count())
        known = [other if has_reference(one) else one for one, other in zip(variables, unknown, strict=False)]
    else:
        known = variables
    validation.variables(known, field)


def check_decision(reply: Any = None, cancel: Any = None, transfer: Any = None) -> None:
    """Refuse a value that cannot be a decision about the agent's question."""
    from airflow_provider_agentforce.client.messages import given_message  # noqa: PLC0415 - only where one is given

    given_message(text=None, reply=reply, cancel=cancel, transfer=transfer)


def has_template(text: str) -> bool:
    """Return whether Jinja would find anything in *text*."""
    return any(mark in text for mark in _TEMPLATE_MARKS)


def check_renderable(field: str, value: Any) -> None:
    """Refuse a function, and templates where Airflow renders none."""
    if callable(value) and not is_reference(value):
        raise AgentforceInputError(f"{field} must be a value or a template, but is {shown(value)}.")
    kind = out_of_reach(value, lambda one: isinstance(one, str) and has_template(one))
    if kind is not None:
        raise AgentforceInputError(
            f"{field} contains a template in a {kind}, in which Airflow renders none. "
            "Put it in a dict or a list."
        )


def check_templates(field: str, value: Any, parse: Callable[[str], Any]) -> None:
    """Refuse a template with a syntax error, and a task instead of its output, at any depth.

    :param parse: ``parse`` of the Dag's Jinja environment.
    """
    if isinstance(value, str):
        if has_template(value):
            _check_template(field, value, parse)
    elif hasattr(value, "task_id") and hasattr(value, "output"):
        raise AgentforceInputError(f"{field} is a task; give its output: {value.task_id}.output.")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            check_templates(f"{field}[{shown(key, 40)}]", item, parse)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            check_templates(f"{field}[{index}]", item, parse)


def _check_template(field: str, text: str, parse: Callable[[str], Any]) -> None:
    from jinja2 import TemplateSyntaxError  # noqa: PLC0415 - only where there is a template

    try:
        parse(text)
    except TemplateSyntaxError as error:
        raise AgentforceInputError(
            f"{field} is not a valid template: {one_line(str(error), 120)} (line {error.lineno})."
        ) from None
