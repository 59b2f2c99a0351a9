"""What a task that continues a batch takes over from the task that asked its sample."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_provider_agentforce.exceptions import AgentforceInputError, shown
from airflow_provider_agentforce.operators._arguments import output_of
from airflow_provider_agentforce.operators._batch_arguments import check_continue_from
from airflow_provider_agentforce.operators._paths import path_of

if TYPE_CHECKING:
    from airflow_provider_agentforce.batch.continuation import Handover
    from airflow_provider_agentforce.operators.batch import ConversationBatchOperator

_CONNECTION = "agentforce_conn_id"
# Must be the same in both tasks.
_ASKED = (
    *("key", "tz", "bypass_user", "surface_type", "messages_per_session", "output_retries"),
    *("store_requests", "include_record", "shard"),
)
# May differ, and are taken over if they are not given.
_MAY_DIFFER = ("output_formats", "csv_bom", "reuse", "on_agent_change")
# Templates or a function, which a file cannot contain.
_RENDERED = ("message", "variables")
_LONGEST = timedelta(days=timedelta.max.days)
# Every argument that the first task stores.
STORED = (*_ASKED, *_MAY_DIFFER, *_RENDERED, "max_age", "functions", "output_type", "agent_id", "records")


def continued_folder(given: Any) -> Any:
    """Return the path object of the results of the first task.

    :param given: its manifest, or the URI of its ``result_path``.
    :raises AgentforceInputError: for anything else.
    """
    if given is None:
        raise AgentforceInputError(
            "continue_from is empty: the first task has left no manifest, or it was deleted. Let that task "
            "run again, or give its result_path."
        )
    if isinstance(given, Sequence) and not isinstance(given, str):
        raise AgentforceInputError(
            "continue_from is a list: the first task is mapped. Map this one, too: "
            ".expand(continue_from=first.output)."
        )
    if not isinstance(given, Mapping):
        if str(given).lstrip().startswith("{"):
            raise AgentforceInputError(
                "continue_from is a manifest as text. Give the task's output: continue_from=first.output."
            )
        return path_of(given, "continue_from")
    check_continue_from(given)
    return path_of(given["result_path"], "continue_from")


def arguments_of(operator: ConversationBatchOperator, agent_id: str, records: Any) -> dict[str, Any]:
    """Return what the continuing task takes over, as JSON.

    :param agent_id: id of the agent.
    :param records: the URI of the input, ``None`` if it is kept beside the results.
    """
    from airflow_provider_agentforce.batch.plain_json import as_json  # noqa: PLC0415 - not at parse time

    rendered = {name: getattr(operator, name) for name in _RENDERED}
    given = {name: getattr(operator, name) for name in (*_ASKED, *_MAY_DIFFER)}
    arguments: dict[str, Any] = json.loads(
        as_json(
            {
                **given,
                **rendered,
                "reuse": None if operator.reuse is None else str(operator.reuse),
                "max_age": None if operator.max_age is None else operator.max_age.total_seconds(),
                "functions": [
                    name for name in _RENDERED if getattr(operator, f"{name}_function") is not None
                ],
                "output_type": _hash_of_type(operator),
                "agent_id": agent_id,
                "records": None if records is None else str(records),
            }
        )
    )
    return arguments


def take_over(operator: ConversationBatchOperator, handover: Handover) -> None:
    """Set the arguments that *operator* does not give to those of the first task.

    :raises AgentforceInputError: if arguments differ, or must be given again.
    """
    first = {**handover.arguments, _CONNECTION: handover.identity["connection"]}
    if operator.reuse is None and first["max_age"] is not None:
        # The seconds of timedelta.max are rounded up.
        operator.max_age = min(first["max_age"], _LONGEST.total_seconds()) * timedelta(seconds=1)
    _take_over_values(operator, first)
    _take_over_templates(operator, first)
    if _hash_of_type(operator) != first["output_type"]:
        _refuse("output_type", "is not that of the first task. A file cannot contain it, so give it again")
    operator.agent_id = operator.agent_id or first["agent_id"]
    operator.records = first["records"]
    operator.given_records = None if first["records"] else _records_gone


def _take_over_values(operator: ConversationBatchOperator, first: Mapping[str, Any]) -> None:
    defaults = _defaults(type(operator))
    for name in (_CONNECTION, *_ASKED, *_MAY_DIFFER):
        own = getattr(operator, name)
        if operator.given_arguments.get(name) is None and own == defaults[name]:
            setattr(operator, name, tuple(first[name]) if isinstance(own, tuple) else first[name])
        elif name not in _MAY_DIFFER and own != first[name]:
            _refuse(name, f"is {shown(own)}, and the first task has {shown(first[name])}")


def _take_over_templates(operator: ConversationBatchOperator, first: Mapping[str, Any]) -> None:
    for name in _RENDERED:
        if getattr(operator, name) is None and getattr(operator, f"{name}_function") is None:
            if name in first["functions"]:
                _refuse(name, "was a function in the first task, which a file cannot contain. Give it again")
            setattr(operator, name, first[name])


def _records_gone() -> NoReturn:
    raise AgentforceInputError(
        "continue_from: the records that the first task stored in _ledger/ no longer exist."
    )


def _refuse(name: str, why: str) -> NoReturn:
    raise AgentforceInputError(f"continue_from: {name} {why}.")


def _hash_of_type(operator: ConversationBatchOperator) -> str | None:
    from airflow_provider_agentforce.batch.plain_json import as_json  # noqa: PLC0415 - not at parse time

    output = output_of(operator.output_type)
    if output is None:
        return None
    return hashlib.sha256(as_json(output.schema, ordered=True).encode()).hexdigest()


@cache
def _defaults(operator: type) -> dict[str, Any]:
    inits = [vars(kind)["__init__"] for kind in reversed(operator.__mro__) if "__init__" in vars(kind)]
    parameters = (inspect.signature(init).parameters for init in inits[1:])
    return {name: parameter.default for one in parameters for name, parameter in one.items()}
