"""The objects of an org: the descriptions of their fields, and values in the form of a field. Pure.

Types of fields: https://developer.salesforce.com/docs/atlas.en-us.object_reference.meta/object_reference/field_types.htm
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from functools import partial
from typing import Any

from airflow_provider_agentforce.client import validation
from airflow_provider_agentforce.client.responses import UnreadableReplyError
from airflow_provider_agentforce.exceptions import AgentforceInputError, one_line

ID = "Id"
_ID = re.compile(r"[A-Za-z0-9]{15}(?:[A-Za-z0-9]{3})?")
# Types whose values cannot be written as a text.
_COMPOUND = {"address", "location", "base64", "complexvalue", "json"}
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]{1,3})?", re.IGNORECASE)
# The forms that Python reads depend on its version.
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_CLOCK = re.compile(r"(\d\d:\d\d)(:\d\d)?(\.\d{1,9})?Z?", re.ASCII)
_MOMENT = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)(:\d\d)?(\.\d{1,9})?(Z|[+-]\d\d:?\d\d)", re.ASCII | re.IGNORECASE
)
_BOOLEANS = {"true": True, "false": False}
_SHORT_ID = 15
# Each of an id's last three characters stands for five bits: which of five characters are upper case.
_CASES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"
_CASES_BITS = 5
# The largest number of decimal places that a field can have.
_FINEST = 17


def id_key(record_id: str) -> str:
    """Return 15 characters that are the same for all forms of an id.

    With 18 characters its case does not matter: the last three say which of the others are upper case.
    """
    first, suffix = record_id[:_SHORT_ID], record_id[_SHORT_ID:].upper()
    bits = [_CASES.find(one) for one in suffix]
    capitals = [bool(one >> at & 1) for one in bits for at in range(_CASES_BITS)]
    pairs = list(zip(first, capitals, strict=False))
    if not pairs or -1 in bits or any(capital and not one.isalpha() for one, capital in pairs):
        return first
    return "".join(one.upper() if capital else one.lower() for one, capital in pairs)


def _record_id(text: str) -> str:
    if _ID.fullmatch(text) is None:
        raise ValueError(text)
    return text


def _number(text: str) -> float:
    if _NUMBER.fullmatch(text) is None or not math.isfinite(float(text)):
        raise ValueError(text)
    return float(text) if re.search(r"[.eE]", text) else int(text)


def _whole_number(text: str, bits: int) -> int:
    if _NUMBER.fullmatch(text) is None:
        raise ValueError(text)
    number = Decimal(text)
    if not -(2**bits) <= number < 2**bits or number != number.to_integral_value():
        raise ValueError(text)
    return int(number)


def _boolean(text: str) -> bool:
    if text.lower() not in _BOOLEANS:
        raise ValueError(text)
    return _BOOLEANS[text.lower()]


def _date(text: str) -> str:
    if _DAY.fullmatch(text) is None:
        raise ValueError(text)
    return date.fromisoformat(text).isoformat()


def _datetime(text: str) -> str:
    match = _MOMENT.fullmatch(text)
    if match is None:
        raise ValueError(text)
    day, clock, seconds, fraction, zone = match.groups()
    zone = "+00:00" if zone in "Zz" else f"{zone[:3]}:{zone[-2:]}"
    moment = datetime.fromisoformat(f"{day}T{clock}{seconds or ':00'}{_microseconds(fraction)}{zone}")
    return moment.isoformat(timespec="milliseconds")


def _time(text: str) -> str:
    match = _CLOCK.fullmatch(text)
    if match is None:
        raise ValueError(text)
    clock, seconds, fraction = match.groups()
    moment = time.fromisoformat(f"{clock}{seconds or ':00'}{_microseconds(fraction)}")
    return f"{moment.isoformat(timespec='milliseconds')}Z"


def _microseconds(fraction: str | None) -> str:
    return (fraction or ".").ljust(7, "0")[:7]


# For each type, the parser of a text and the description of valid texts. All other types are texts.
_ANY_NUMBER = (_number, "a number")
_RECORD = (_record_id, "the id of a record")
_FORMS: dict[str, tuple[Callable[[str], Any], str]] = {
    "int": (partial(_whole_number, bits=31), "a whole number of at most 2,147,483,647"),
    "long": (partial(_whole_number, bits=63), "a whole number"),
    "double": _ANY_NUMBER,
    "currency": _ANY_NUMBER,
    "percent": _ANY_NUMBER,
    "id": _RECORD,
    "reference": _RECORD,
    "boolean": (_boolean, "true or false"),
    "date": (_date, "a date such as 2026-11-28"),
    "datetime": (_datetime, "a time with its zone, such as 2026-11-28T15:00:00Z"),
    "time": (_time, "a time of day such as 15:00:00"),
}


@dataclass(frozen=True)
class FieldInfo:
    """A field of an object.

    :param type: its name in a describe, such as ``textarea``.
    :param length: characters that a text may have, 0 for no limit.
    :param updateable: the user may change it.
    :param createable: the user may set it in a new record.
    :param nillable: it may be empty.
    :param external_id: records can be found by it.
    :param unique: no two records have the same value.
    :param case_sensitive: texts that differ only in case are different.
    :param values: the values of a restricted picklist, otherwise empty.
    :param scale: decimal places of a number.
    """

    name: str
    type: str
    length: int = 0
    updateable: bool = True
    createable: bool = True
    nillable: bool = True
    external_id: bool = False
    unique: bool = False
    case_sensitive: bool = False
    values: frozenset[str] = frozenset()
    scale: int = _FINEST

    @classmethod
    def from_describe(cls, described: Mapping[str, Any]) -> FieldInfo:
        """Read one of the fields of a describe."""
        listed = described.get("picklistValues") if described.get("restrictedPicklist") is True else None
        values = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        length, scale = described.get("length"), described.get("scale")
        return cls(
            name=str(described.get("name", "")),
            type=str(described.get("type", "string")).lower(),
            length=length if isinstance(length, int) else 0,
            updateable=described.get("updateable") is True,
            createable=described.get("createable") is True,
            nillable=described.get("nillable") is not False,
            external_id=described.get("externalId") is True or described.get("idLookup") is True,
            unique=described.get("unique") is True,
            case_sensitive=described.get("caseSensitive") is True,
            values=frozenset(str(one.get("value")) for one in values if one.get("active") is not False),
            scale=scale if isinstance(scale, int) else _FINEST,
        )

    def value_of(self, text: str) -> Any:
        """Return *text* as a JSON value of the field's type; ``None`` for an empty text.

        :raises AgentforceInputError: the field does not accept it; the error names field and reason.
        """
        if not text.strip():
            if self.nillable:
                return None
            raise self._refusal("may not be empty")
        if self.type not in _FORMS:
            return self._text(text)
        parse, wanted = _FORMS[self.type]
        try:
            value = parse(text.strip())
        except ValueError:
            raise self._refusal(f"accepts {wanted}, not {one_line(repr(text), 40)}") from None
        if parse is _number and self._is_changed(text.strip(), float(value)):
            raise self._refusal(
                f"would get {float(value)!r} for {one_line(text, 40)}: the org keeps about 15 digits of a "
                "number. Round it, or write it to a field for text"
            )
        return value

    def identity_of(self, value: Any) -> Any:
        """Return a key that is equal for all values of an external id that identify the same record."""
        return value.lower() if isinstance(value, str) and not self.case_sensitive else value

    def _is_changed(self, text: str, value: float) -> bool:
        """Return whether *value* differs from its text in the decimal places that the field has.

        The org's numbers are of double precision, whole ones too:
        https://help.salesforce.com/s/articleView?id=000394530
        """
        return 2 * abs(Decimal(text) - Decimal(repr(value))) >= Decimal(1).scaleb(-self.scale)

    def _text(self, text: str) -> str:
        validation.unicode_text(text, self.name)
        if self.length and len(text) > self.length:
            raise self._refusal(f"accepts {self.length:,} characters, but the text has {len(text):,}")
        parts = text.split(";") if self.type == "multipicklist" else [text]
        unknown = [part for part in parts if self.values and part not in self.values]
        if unknown:
            known = ", ".join(sorted(self.values))
            raise self._refusal(f"accepts one of {known:.200}, not {one_line(repr(unknown[0]), 40)}")
        return text

    def _refusal(self, requirement: str) -> AgentforceInputError:
        return AgentforceInputError(f"{self.name} {requirement}.")


@dataclass(frozen=True)
class SObjectInfo:
    """An object of the org.

    :param name: API name.
    :param prefix: the first characters of the ids of its records, ``""`` if it has none.
    :param fields: the fields that the user may see, by their names in lower case.
    :param updateable: the user may change records.
    :param createable: the user may create records.
    """

    name: str
    prefix: str
    fields: Mapping[str, FieldInfo]
    updateable: bool = True
    createable: bool = True

    @classmethod
    def from_describe(cls, described: Mapping[str, Any]) -> SObjectInfo:
        """Read a describe.

        :raises UnreadableReplyError: it has no name or no fields.
        """
        listed = described.get("fields")
        if not isinstance(listed, list) or not isinstance(described.get("name"), str):
            raise UnreadableReplyError("a JSON object that does not describe an object")
        found = [FieldInfo.from_describe(one) for one in listed if isinstance(one, dict)]
        return cls(
            name=described["name"],
            prefix=str(described.get("keyPrefix") or ""),
            fields={one.name.lower(): one for one in found},
            updateable=described.get("updateable") is True,
            createable=described.get("createable") is True,
        )

    def writable(self, names: Sequence[str], *, external_id: str | None = None) -> list[FieldInfo]:
        """Return the fields with these names, all of which can be written.

        :param external_id: the field by which records are upserted; ``None``: they are updated by their ids.
        :raises AgentforceInputError: names every field that does not exist or cannot be written.
        """
        problems = [*self._of_object(external_id), *self._of_key(external_id)]
        found = []
        for name in names:
            field = self.fields.get(name.lower())
            problem = self._of_field(name, field, external_id)
            if problem or field is None:
                problems.append(problem)
            else:
                found.append(field)
        if problems:
            raise AgentforceInputError(
                f"fields: {'; '.join(problems)}.",
                hint="Correct the names, or give the user (Run As, or username) the permission to edit them.",
            )
        return found

    def check_id(self, record_id: str) -> str:
        """Return an id if it can be one of this object's records.

        :raises AgentforceInputError: it cannot.
        """
        if _ID.fullmatch(record_id) is None:
            raise AgentforceInputError(f"{ID}: {one_line(repr(record_id), 60)} is not the id of a record.")
        if self.prefix and not id_key(record_id).startswith(self.prefix):
            raise AgentforceInputError(
                f"{ID}: {record_id} is not the id of a record of {self.name}, which begin with {self.prefix}."
            )
        return record_id

    def _of_object(self, external_id: str | None) -> Iterable[str]:
        if not self.updateable:
            yield f"records of {self.name} may not be changed by this user"
        elif external_id is not None and not self.createable:
            yield f"records of {self.name} may not be created by this user"

    def _of_key(self, external_id: str | None) -> Iterable[str]:
        if external_id is None:
            return
        field = self.fields.get(external_id.lower())
        if field is None:
            yield f"{self.name} has no field {external_id}{self._like(external_id)}"
        elif not field.external_id:
            yield f"{field.name} is not an external id of {self.name}"

    def _of_field(self, name: str, field: FieldInfo | None, external_id: str | None) -> str:
        if field is None:
            return f"{self.name} has no field {name}{self._like(name)}, or it is hidden from this user"
        if field.type in _COMPOUND:
            return f"{field.name} is of the type {field.type}, which cannot be written as a text"
        if not field.updateable or (external_id is not None and not field.createable):
            return f"{field.name} may not be written"
        return ""

    def _like(self, name: str) -> str:
        near = difflib.get_close_matches(name.lower(), self.fields, 1, 0.7)
        return f" (did you mean {self.fields[near[0]].name}?)" if near else ""
