"""The records of the org, for queries and writes. It does not use HTTP.

The codes and messages of errors are those of the data API
(https://developer.salesforce.com/docs/atlas.en-us.api.meta/api/sforce_api_calls_concepts_core_data_objects.htm)
and of error texts seen in public code.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from airflow_provider_agentforce.emulator.errors import ApiError
from airflow_provider_agentforce.emulator.models import USERNAME, iso_time, salesforce_id, user_id_of
from airflow_provider_agentforce.emulator.sobjects import (
    DEFAULT_SOBJECTS,
    SObject,
    SObjectField,
    default_records,
)
from airflow_provider_agentforce.emulator.soql import Record

Rule = Callable[[Record], str | None]

MOST_PER_CALL = 200
_ID_LENGTHS = (15, 18)
_SHORT_ID = 15


class WriteError(Exception):
    """Why one record cannot be written.

    :param code: error code of the data API, such as ``STRING_TOO_LONG``.
    :param fields: names of the fields that caused it.
    """

    def __init__(self, code: str, message: str, *fields: str) -> None:
        super().__init__(message)
        self.result = {
            "success": False,
            "errors": [{"statusCode": code, "message": message, "fields": list(fields)}],
        }


class RecordStore:
    """The records of an org, by object. Not thread-safe.

    :param sobjects: the objects; ``None``: those of the default org, with a few records.
    :ivar read_only: the org is under maintenance and refuses writes.
    """

    def __init__(self, sobjects: Sequence[SObject] | None) -> None:
        self._with_records = sobjects is None
        self.sobjects = {one.name: one for one in (DEFAULT_SOBJECTS if sobjects is None else sobjects)}
        self.reset()

    def reset(self) -> None:
        """Restore the initial records, without rules, locks and maintenance."""
        self.read_only = False
        self._records: dict[str, dict[str, Record]] = {name: {} for name in self.sobjects}
        self._rules: dict[str, list[Rule]] = {name: [] for name in self.sobjects}
        self._locks: Counter[str] = Counter()
        for name, values in default_records() if self._with_records else ():
            parent = values.pop("Account", None)
            if parent is not None:
                accounts = self._records["Account"].values()
                values["AccountId"] = next(one["Id"] for one in accounts if one["Name"] == parent)
            self.add(name, values)

    def add(self, name: str, values: Mapping[str, Any]) -> str:
        """Add a record and return its id; required fields may be left out.

        :raises ValueError: an unknown object or field.
        """
        sobject = self.sobjects.get(name)
        if sobject is None:
            raise ValueError(f"Unknown object {name!r}: one of {', '.join(self.sobjects)}.")
        unknown = [field for field in values if sobject.field(field) is None]
        if unknown:
            raise ValueError(f"{name} has no field {unknown[0]!r}.")
        number = len(self._records[name]) + 1
        made = str(values.get("Id") or salesforce_id(f"{sobject.prefix}EM{number:010d}"))
        now = _now()
        record = {field.name: _default(field) for field in sobject.all_fields}
        record |= dict.fromkeys(("CreatedDate", "LastModifiedDate", "SystemModstamp"), now)
        self._records[name][made[:_SHORT_ID]] = {**record, **values, "Id": made}
        return made

    def all(self, name: str) -> list[Record]:
        """Return copies of the records of an object, in the order in which they were added.

        :raises KeyError: an unknown object.
        """
        fields = [field.name for field in self.sobjects[name].all_fields]
        return [{field: record[field] for field in fields} for record in self._records[name].values()]

    def add_rule(self, name: str, rule: Rule) -> None:
        """Check each record of an object with *rule* before it is written.

        :param rule: receives the record as it would be written, and returns why it is refused, or ``None``.
        :raises KeyError: an unknown object.
        """
        self._rules[name].append(rule)

    def lock(self, record_id: str, times: int) -> None:
        """Lock a record for its next *times* writes, as another process would."""
        self._locks[record_id[:_SHORT_ID]] += times

    def tables(self, path: str, others: Mapping[str, list[Record]]) -> dict[str, list[Record]]:
        """Return the records by object for queries, with parents and children.

        :param path: path of the objects in this version of the API.
        :param others: records that are not stored here.
        """
        tables = {name: list(records.values()) for name, records in self._records.items()}
        everything = {**others, **tables}
        by_id = {name: {record["Id"]: record for record in records} for name, records in everything.items()}
        for name, records in tables.items():
            children = self._children_of(name)
            for record in records:
                record["attributes"] = {"type": name, "url": f"{path}/{name}/{record['Id']}"}
                record.update({child: [] for child in children})
        for name, sobject in self.sobjects.items():
            for field in filter(_is_relationship, sobject.fields):
                _relate(tables[name], field, by_id.get(field.references or "", {}))
        return everything

    def write(
        self, rows: Sequence[Mapping[str, Any]], *, upsert_by: SObjectField | None, all_or_none: bool
    ) -> list[dict[str, Any]]:
        """Write records and return the result of each, as sObject Collections do.

        :param rows: with ``attributes``, and ``id`` unless they are upserted.
        :raises ApiError: the call as a whole is refused; nothing was written.
        """
        if len(rows) > MOST_PER_CALL:
            words = f"record limit reached. cannot submit more than {MOST_PER_CALL} records into this call"
            raise ApiError("rest_too_many", detail=words)
        writes = [_RecordChange(self, row, upsert_by) for row in rows]
        results = [self._checked(one, writes) for one in writes]
        if all_or_none and not all(one["success"] for one in results):
            rolled_back = WriteError(
                "ALL_OR_NONE_OPERATION_ROLLED_BACK",
                "Record rolled back because not all records were valid and the request was using AllOrNone "
                "header",
            )
            return [rolled_back.result if one["success"] else one for one in results]
        return [
            one.apply() if result["success"] else result for one, result in zip(writes, results, strict=True)
        ]

    def find(self, name: str, field: str, value: Any) -> Record | None:
        """Return the record with this value, texts in any case."""
        wanted = str(value).lower()
        records = self._records[name].values()
        return next((one for one in records if str(one[field]).lower() == wanted), None)

    def by_id(self, name: str, record_id: str) -> Record | None:
        """Return the record with this id: 15 characters, or 18 in any case."""
        records = self._records[name]
        found = records.get(record_id[:_SHORT_ID])
        if found is None and len(record_id) > _SHORT_ID:
            wanted = record_id.lower()
            found = next((one for one in records.values() if one["Id"].lower() == wanted), None)
        return found

    def _children_of(self, name: str) -> list[str]:
        """Return the names of an object's lists of children."""
        fields = [field for sobject in self.sobjects.values() for field in sobject.fields]
        return [field.children for field in fields if field.references == name and field.children]

    def _checked(self, write: _RecordChange, all_writes: Iterable[_RecordChange]) -> dict[str, Any]:
        try:
            write.check([one.target for one in all_writes])
            self._check_state(write)
        except WriteError as error:
            return error.result
        return {"success": True}

    def _check_state(self, write: _RecordChange) -> None:
        if self.read_only:
            raise WriteError(
                "INSERT_UPDATE_DELETE_NOT_ALLOWED_DURING_MAINTENANCE",
                "Updates can't be made during maintenance. Try again when maintenance is complete.",
            )
        record_id = write.record["Id"] if write.record else ""
        if self._locks[record_id[:_SHORT_ID]] > 0:
            self._locks[record_id[:_SHORT_ID]] -= 1
            raise WriteError(
                "UNABLE_TO_LOCK_ROW",
                f"unable to obtain exclusive access to this record or 1 records: {record_id}",
            )
        for rule in self._rules[write.sobject.name]:
            refusal = rule({**(write.record or {}), **write.changes})
            if refusal is not None:
                raise WriteError("FIELD_CUSTOM_VALIDATION_EXCEPTION", refusal)


def _is_relationship(field: SObjectField) -> bool:
    return bool(field.relationship)


def _relate(records: list[Record], field: SObjectField, parents: Mapping[str, Record]) -> None:
    """Link records to their parents, and parents to their children."""
    for record in records:
        parent = parents.get(record[field.name])
        record[str(field.relationship)] = parent
        if parent is not None and field.children:
            parent[field.children].append(record)


class _RecordChange:
    """One record to be written.

    :ivar target: its id or external id, to find duplicates.
    :ivar record: its current values, ``None`` if it does not exist yet.
    :ivar changes: its new values by the names of the fields.
    """

    def __init__(self, store: RecordStore, row: Mapping[str, Any], upsert_by: SObjectField | None) -> None:
        attributes = row.get("attributes")
        name = attributes.get("type") if isinstance(attributes, Mapping) else None
        sobject = store.sobjects.get(str(name))
        if sobject is None:
            raise ApiError("rest_invalid_type", detail=f"sObject type '{name}' is not supported.")
        self.sobject = sobject
        self._store = store
        self._upsert_by = upsert_by
        given = [(key, value) for key, value in row.items() if key not in {"attributes", "id", "Id"}]
        self._id = row.get("id", row.get("Id"))
        # The org treats an empty string as null.
        self.changes = {self._field(key).name: None if value == "" else value for key, value in given}
        self._check_forms()
        self.target, self.record = self._found()

    def check(self, targets: list[str]) -> None:
        """Refuse the record like the org does.

        :param targets: targets of all records of the call.
        :raises WriteError: it cannot be written.
        """
        if self._upsert_by is None and self.record is None:
            raise self._unknown_id()
        if targets.count(self.target) > 1:
            raise WriteError("DUPLICATE_VALUE", f"Duplicate id specified: {self.target}")
        for name, value in self.changes.items():
            self._check_value(self._field(name), value)
        if self.record is None:
            missing = [
                one.name for one in self.sobject.fields if one.required and not self.changes.get(one.name)
            ]
            if missing:
                raise WriteError(
                    "REQUIRED_FIELD_MISSING", f"Required fields are missing: [{', '.join(missing)}]", *missing
                )

    def apply(self) -> dict[str, Any]:
        """Write the record and return its result."""
        created = self.record is None
        if self.record is None:
            record_id = self._store.add(self.sobject.name, self.changes)
        else:
            record_id = self.record["Id"]
            now = _now()
            self.record.update(self.changes, LastModifiedDate=now, SystemModstamp=now)
        result = {"id": record_id, "success": True, "errors": []}
        return result if self._upsert_by is None else {**result, "created": created}

    def _check_forms(self) -> None:
        for name, value in self.changes.items():
            field = self._field(name)
            if value is not None and not field.reads(value):
                words = (
                    f"Cannot deserialize instance of {field.type} from {type(value).__name__} value {value}"
                )
                detail = f"{words} or request may be missing a required field"
                raise ApiError("rest_json_parser", detail=detail)

    def _field(self, name: str) -> SObjectField:
        field = self.sobject.field(name)
        if field is None:
            detail = f"No such column '{name}' on sobject of type {self.sobject.name}"
            raise ApiError("rest_invalid_field", detail=detail)
        return field

    def _found(self) -> tuple[str, Record | None]:
        if self._upsert_by is None:
            record = self._store.by_id(self.sobject.name, str(self._id))
            return record["Id"] if record else str(self._id), record
        target = str(self.changes.get(self._upsert_by.name)).lower()
        return target, self._store.find(self.sobject.name, self._upsert_by.name, target)

    def _unknown_id(self) -> WriteError:
        given = str(self._id)
        if len(given) not in _ID_LENGTHS or not given.isalnum():
            return WriteError("MALFORMED_ID", f"{self.sobject.name} ID: bad id {given}", "Id")
        if not given.startswith(self.sobject.prefix):
            return WriteError(
                "MALFORMED_ID", f"{self.sobject.name} ID: id value of incorrect type: {given}", "Id"
            )
        return WriteError("INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id")

    def _check_value(self, field: SObjectField, value: Any) -> None:
        label = field.describe()["label"]
        if not field.writable:
            raise WriteError(
                "INVALID_FIELD_FOR_INSERT_UPDATE",
                f"Unable to create/update fields: {field.name}. Please check the security settings of this "
                "field and verify that it is read/write for your profile or permission set.",
                field.name,
            )
        if value is None:
            if field.required:
                raise WriteError(
                    "REQUIRED_FIELD_MISSING", f"Required fields are missing: [{field.name}]", field.name
                )
            return
        if isinstance(value, str) and len(value) > field.length:
            raise WriteError(
                "STRING_TOO_LONG",
                f"{label}: data value too large: {value[:80]} (max length={field.length})",
                field.name,
            )
        chosen = value.split(";") if field.type == "multipicklist" else [value]
        if field.values and not set(chosen) <= set(field.values):
            raise WriteError(
                "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST",
                f"{label}: bad value for restricted picklist field: {value}",
                field.name,
            )


def _default(field: SObjectField) -> Any:
    if field.type == "boolean":
        return False
    return user_id_of(USERNAME) if field.name == "OwnerId" else None


def _now() -> str:
    return iso_time(time.time()).replace("Z", "+0000")
