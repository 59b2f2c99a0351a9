"""The fields of a batch's records, and the kinds of values in each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from airflow_provider_agentforce.batch.plain_json import as_json
from airflow_provider_agentforce.client.json_values import storable

# Kinds of values; a field with several kinds has their sum.
BOOLEAN, INTEGER, NUMBER, TEXT = 1, 2, 4, 8
# An integer that a floating-point number cannot represent exactly.
LONG_INTEGER = 16

# A spreadsheet has 16,384 columns.
_MOST = 5_000
_EXACT_IN_A_FLOAT = 2**53
IN_64_BITS = 2**63
_KINDS = {str: TEXT, bool: BOOLEAN, float: NUMBER, type(None): 0}


class Fields:
    """Collects the fields of all records.

    :param typed: also find the kinds of their values.
    :ivar held: for each field, the kinds of its values, in the order of appearance.
    :ivar more: whether there are more than 5,000 fields, of which only these are held.
    """

    def __init__(self, *, typed: bool) -> None:
        self.held: dict[str, int] = {}
        self.more = False
        self._typed = typed

    def add(self, fields: Mapping[str, Any]) -> None:
        """Add the fields of a record."""
        if not self._typed:
            if not fields.keys() <= self.held.keys():
                for name in fields:
                    self._add_field(name, TEXT)
            return
        held = self.held
        for name, value in fields.items():
            kind = kind_of(value)
            if name not in held or kind & ~held[name]:
                self._add_field(name, kind)

    def _add_field(self, name: Any, kind: int) -> None:
        # The keys of a dict may be numbers, which JSON writes as text.
        text = storable(name if isinstance(name, str) else next(iter(json.loads(as_json({name: None})))))
        if text in self.held or len(self.held) < _MOST:
            self.held[text] = self.held.get(text, 0) | kind
        else:
            self.more = True


def kind_of(value: Any) -> int:
    """Return the kind of a value, 0 if it is missing."""
    if type(value) in _KINDS:
        return _KINDS[type(value)]
    plain = value if type(value) is int else json.loads(as_json(value))
    if type(plain) is not int:
        return _KINDS.get(type(plain), TEXT)
    if abs(plain) >= IN_64_BITS:
        return TEXT
    return INTEGER if abs(plain) <= _EXACT_IN_A_FLOAT else LONG_INTEGER
