"""The fields of a record as JSON, so that a batch, a dry run and every later try see the same values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_agentforce.batch.plain_json import as_json
from airflow_provider_agentforce.client.json_values import decode_unambiguous
from airflow_provider_agentforce.exceptions import AgentforceInputError, one_line

_UNCHANGED = {str, int, bool, type(None)}


def plain(fields: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """Return the fields of a record with values of JSON.

    :param where: its place in the input.
    :raises AgentforceInputError: if JSON cannot represent one; the error names the field.
    """
    if {*map(type, fields)} <= {str} and {*map(type, fields.values())} <= _UNCHANGED:
        return dict(fields)
    text = record_text(fields, where)
    try:
        value: dict[str, Any] = decode_unambiguous(text)
    except ValueError as error:  # names that only JSON does not tell apart, such as 1 and "1"
        raise _refusal(fields, where, error) from None
    return value


def record_text(fields: Mapping[Any, Any], where: str, *, ordered: bool = False) -> str:
    """Return a record as JSON text.

    :param ordered: sort the names of fields.
    :raises AgentforceInputError: as for :func:`plain`.
    """
    try:
        return as_json(fields, ordered=ordered)
    except (ValueError, RecursionError) as error:
        raise _refusal(fields, where, error) from None


def _refusal(fields: Mapping[Any, Any], where: str, error: Exception) -> AgentforceInputError:
    field = next((name for name, value in fields.items() if not _has_json(value)), None)
    of = "" if field is None else f", because of the field {one_line(repr(field), 80)},"
    return AgentforceInputError(f"records: {where}{of} cannot be written as JSON ({one_line(str(error))}).")


def _has_json(value: Any) -> bool:
    try:
        as_json(value)
    except (ValueError, RecursionError):
        return False
    return True
