"""The values that are written to a record of the org: from a row to the fields of an object."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_agentforce.batch.options import most_failures
from airflow_provider_agentforce.client import validation
from airflow_provider_agentforce.client.sobjects import ID, FieldInfo, SObjectInfo, id_key
from airflow_provider_agentforce.exceptions import AgentforceInputError, one_line

ENCODER = json.JSONEncoder(ensure_ascii=False)

Render = Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True)
class WriteOptions:
    """The options of a write, as the arguments of ``WriteRecordsOperator``.

    :param sobject: API name of the object.
    :param fields: for each field, the function that renders its template for a row.
    :param external_id: name of the field that identifies a record, ``None`` for its id.
    :param outcomes: the ``status`` values of the rows to write.
    :param max_failures: how many records may fail, a number or a share; ``None`` for all.
    """

    sobject: str
    fields: Mapping[str, Render]
    external_id: str | None = None
    outcomes: Sequence[str] = ("answered",)
    max_failures: float | None = None

    def most_failures(self, total: int) -> int | None:
        """Return how many of *total* records may fail, ``None`` for all."""
        return most_failures(self.max_failures, total)


@dataclass(frozen=True)
class RecordWrite:
    """A record to be written.

    :param position: position of its row among those that qualify, from 0.
    :param key: key of the row.
    :param target: the id, or the value of the external id.
    :param values: values of its fields, including the identifying one.
    """

    position: int
    key: Any
    target: Any
    values: dict[str, Any]

    @property
    def size(self) -> int:
        """Approximate number of bytes in a call."""
        return len(ENCODER.encode(self.values).encode())


@dataclass(frozen=True)
class WriteFailure:
    """A line of the error file.

    :param code: the org's code, or ``REFUSED`` for a record that was not sent.
    """

    key: Any
    target: Any
    code: str
    error: str
    fields: Sequence[str] = ()
    values: dict[str, Any] = field(default_factory=dict)


class RecordValues:
    """Makes a record's values from its row.

    :ivar info: the object.
    :ivar key: the field that names a record.
    :ivar external_id: name of the external id, ``None`` for the record's id.
    """

    def __init__(self, info: SObjectInfo, options: WriteOptions) -> None:
        by_name = {name.lower(): render for name, render in options.fields.items()}
        given = None if options.external_id is None else validation.external_id(options.external_id)
        key = (given or ID).lower()
        target = by_name.pop(key, _key_of)
        if ID.lower() in by_name:
            raise AgentforceInputError(f"fields: Id cannot be given together with external_id ({given}).")
        if not by_name:
            raise AgentforceInputError(
                "fields must name at least one field beside the one that names the record."
            )
        names = [name for name in options.fields if name.lower() in by_name]
        found = info.writable(names, external_id=given)
        self.info = info
        self.key = info.fields.get(key) or FieldInfo(ID, "id")
        self.external_id = None if given is None else self.key.name
        # The field that names the record is the first, so that a failure has its value.
        self._fields = [(self.key, target), *((one, by_name[one.name.lower()]) for one in found)]

    def of(self, position: int, row: Mapping[str, Any]) -> RecordWrite | WriteFailure:
        """Return the record to write, or the reason why it cannot be written."""
        key, field = row.get("key"), self.key
        values: dict[str, Any] = {}
        try:
            for field, render in self._fields:
                values[field.name] = self._value(field, _rendered(field, render, row))
        except AgentforceInputError as error:
            target = values.get(self.key.name)
            return WriteFailure(key, target, "REFUSED", one_line(error.what), (field.name,))
        return RecordWrite(position, key, values[self.key.name], values)

    def identity_of(self, target: Any) -> Any:
        """Return a value that is equal for targets that name the same record."""
        return id_key(target) if self.external_id is None else self.key.identity_of(target)

    def _value(self, field: FieldInfo, text: str) -> Any:
        if field is not self.key:
            return field.value_of(text)
        if self.external_id is None:
            return self.info.check_id(text.strip())
        target = field.value_of(text.strip())
        if target is None:
            raise AgentforceInputError(f"{field.name}, which names the record, is empty.")
        return target


def _rendered(field: FieldInfo, render: Render, row: Mapping[str, Any]) -> str:
    try:
        return render(row)
    except AgentforceInputError as error:
        raise AgentforceInputError(f"{field.name}: {error.what}") from None
    except Exception as error:  # noqa: BLE001 - whatever the template of the Dag raises
        what = f"{field.name}: the template failed with {type(error).__name__}: {error}"
        raise AgentforceInputError(what) from None


def _key_of(row: Mapping[str, Any]) -> str:
    key = row.get("key")
    return "" if key is None else str(key)
