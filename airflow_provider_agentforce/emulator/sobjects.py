"""The objects of the org's data: their fields, as a describe returns them, and a few initial records."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# Types of fields, as in a describe, and the JSON that the data API accepts for each.
_TEXTS = (
    *("string", "textarea", "picklist", "multipicklist", "email", "phone", "url", "reference", "id"),
    *("date", "datetime", "time"),
)
JSON_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(_TEXTS, (str,)),
    "boolean": (bool,),
    "int": (int,),
    **dict.fromkeys(("double", "currency", "percent"), (int, float)),
}
# Texts with a format that the data API requires.
_FORMS = {
    "date": re.compile(r"\d{4}-\d\d-\d\d"),
    "datetime": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,3})?(Z|[+-]\d\d:?\d\d)"),
    "time": re.compile(r"\d\d:\d\d:\d\d(\.\d{1,3})?Z?"),
}


@dataclass(frozen=True, kw_only=True)
class SObjectField:
    """A field of an object.

    :param name: API name; that of a custom field ends in ``__c``.
    :param type: as in a describe: ``string``, ``textarea``, ``picklist``, ``email``, ``phone``,
        ``multipicklist``, ``url``, ``boolean``, ``int``, ``double``, ``currency``, ``percent``, ``date``,
        ``datetime``, ``time`` or ``reference``.
    :param length: maximum number of characters of a text.
    :param writable: a person or program may set it.
    :param required: it must not be empty.
    :param external_id: records can be upserted by it.
    :param unique: the describe says that an external id is unique; nothing checks it.
    :param scale: decimal places of a number. Others are stored, too, as in a real org.
    :param values: values of a restricted picklist; empty: any text.
    :param references: the object of a ``reference``.
    :param children: name of the relationship from there back to these records.
    """

    name: str
    type: str = "string"
    length: int = 255
    scale: int = 2
    writable: bool = True
    required: bool = False
    external_id: bool = False
    unique: bool = True
    values: tuple[str, ...] = ()
    references: str | None = None
    children: str | None = None

    def __post_init__(self) -> None:
        if self.type not in JSON_TYPES:
            raise ValueError(f"{self.name}: unknown type {self.type!r}: one of {', '.join(JSON_TYPES)}.")

    @property
    def relationship(self) -> str | None:
        """The name by which a query reads fields of the referenced record."""
        if self.references is None:
            return None
        custom = self.name.removesuffix("__c")
        return f"{custom}__r" if custom != self.name else self.name.removesuffix("Id")

    def reads(self, value: Any) -> bool:
        """Return whether the data API can read a JSON value as one of this field's type."""
        if type(value) not in JSON_TYPES[self.type]:
            return False
        if self.type == "int":
            return bool(-(2**31) <= value < 2**31)
        return self.type not in _FORMS or _FORMS[self.type].fullmatch(value) is not None

    def describe(self) -> dict[str, Any]:
        """Return its entry in a describe."""
        return {
            "name": self.name,
            "label": self.name.removesuffix("__c").replace("_", " "),
            "type": self.type,
            "length": self.length if JSON_TYPES[self.type] == (str,) else 0,
            "scale": self.scale if float in JSON_TYPES[self.type] else 0,
            "createable": self.writable,
            "updateable": self.writable,
            "nillable": not self.required and self.type != "boolean",
            "externalId": self.external_id,
            "idLookup": self.external_id or self.type == "id",
            "unique": self.external_id and self.unique,
            "calculated": False,
            "restrictedPicklist": bool(self.values),
            "picklistValues": [{"value": value, "label": value, "active": True} for value in self.values],
            "referenceTo": [self.references] if self.references else [],
            "relationshipName": self.relationship,
        }


_DATES = ("CreatedDate", "LastModifiedDate", "SystemModstamp")
_SYSTEM = (
    SObjectField(name="Id", type="id", length=18, writable=False, required=True),
    SObjectField(name="IsDeleted", type="boolean", writable=False),
    *(SObjectField(name=name, type="datetime", writable=False) for name in _DATES),
)


@dataclass(frozen=True, kw_only=True)
class SObject:
    """A kind of record.

    :param name: API name.
    :param prefix: three characters with which the ids of its records begin.
    :param fields: in addition to ``Id`` and those that the org itself fills.
    """

    name: str
    prefix: str
    fields: tuple[SObjectField, ...]

    @property
    def all_fields(self) -> tuple[SObjectField, ...]:
        """Its fields, including those of every object."""
        return (*_SYSTEM, *self.fields)

    def field(self, name: str) -> SObjectField | None:
        """Return a field by its name, in any case."""
        return next((one for one in self.all_fields if one.name.lower() == name.lower()), None)

    def describe(self, path: str) -> dict[str, Any]:
        """Return its describe, with the parts that programs need to write records.

        :param path: path of the objects in this version of the API.
        """
        return {
            "name": self.name,
            "label": self.name.removesuffix("__c").replace("_", " "),
            "keyPrefix": self.prefix,
            "custom": self.name.endswith("__c"),
            "queryable": True,
            "createable": True,
            "updateable": True,
            "urls": {"sobject": f"{path}/{self.name}", "describe": f"{path}/{self.name}/describe"},
            "fields": [one.describe() for one in self.all_fields],
        }


def _owned() -> SObjectField:
    return SObjectField(name="OwnerId", type="reference", length=18, references="User")


def _of_account(children: str) -> SObjectField:
    return SObjectField(
        name="AccountId", type="reference", length=18, references="Account", children=children
    )


DEFAULT_SOBJECTS = (
    SObject(
        name="Account",
        prefix="001",
        fields=(
            SObjectField(name="Name", required=True),
            SObjectField(name="Industry", type="picklist"),
            SObjectField(name="BillingCountry", length=80),
            SObjectField(name="NumberOfEmployees", type="int"),
            SObjectField(name="AnnualRevenue", type="currency"),
            SObjectField(name="Description", type="textarea", length=32000),
            _owned(),
            SObjectField(name="Account_Code__c", length=20, external_id=True),
            SObjectField(name="Agent_Summary__c", type="textarea", length=1000),
            SObjectField(name="Agent_Score__c", type="double"),
            SObjectField(name="Agent_Checked__c", type="boolean"),
            SObjectField(name="Agent_Checked_At__c", type="datetime"),
            SObjectField(name="Next_Review__c", type="date"),
            SObjectField(name="Priority__c", type="picklist", values=("High", "Medium", "Low")),
            SObjectField(name="Open_Cases__c", type="double", writable=False),
        ),
    ),
    SObject(
        name="Contact",
        prefix="003",
        fields=(
            SObjectField(name="FirstName", length=40),
            SObjectField(name="LastName", length=80, required=True),
            SObjectField(name="Email", type="email", length=80),
            _of_account("Contacts"),
            _owned(),
        ),
    ),
    SObject(
        name="Case",
        prefix="500",
        fields=(
            SObjectField(name="Subject"),
            SObjectField(name="Description", type="textarea", length=32000),
            SObjectField(name="Status", type="picklist"),
            _of_account("Cases"),
            _owned(),
        ),
    ),
)

_ACCOUNTS = (
    ("Acme", "Manufacturing", "US", 1200, "Wile", "Coyote"),
    ("Globex", "Energy", "US", 5400, "Hank", "Scorpio"),
    ("Initech", "Technology", "US", 300, "Bill", "Lumbergh"),
    ("Umbrella Foods", "Agriculture", "GB", 890, "Alice", "Marcus"),
    ("Hooli", "Technology", "US", 22000, "Gavin", "Belson"),
    ("Wayne Shipping", "Shipping", "US", 7100, "Lucius", "Fox"),
    ("Stark Metals", "Manufacturing", "DE", 640, "Pepper", "Potts"),
    ("Wonka Sweets", "Agriculture", "CH", 75, "Charlie", "Bucket"),
)


def default_records() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield records of the default objects: a few accounts, each with a contact."""
    for number, (name, industry, country, employees, first, last) in enumerate(_ACCOUNTS, 1):
        yield (
            "Account",
            {
                "Name": name,
                "Industry": industry,
                "BillingCountry": country,
                "NumberOfEmployees": employees,
                "Account_Code__c": f"A-{number:03d}",
                "Agent_Checked__c": False,
            },
        )
        email = f"{first}.{last}@{name.replace(' ', '-')}.example".lower()
        yield "Contact", {"FirstName": first, "LastName": last, "Email": email, "Account": name}
