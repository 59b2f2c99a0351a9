"""Checks a value against a JSON schema.

``jsonschema`` is imported when the first :class:`JsonSchema` is created.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from importlib import import_module
from itertools import islice
from typing import Any

from airflow_provider_agentforce.exceptions import AgentforceInputError, one_line, shown
from airflow_provider_agentforce.structured.checker_process import CheckerProcess
from airflow_provider_agentforce.structured.json_in_answer import JsonPiece
from airflow_provider_agentforce.structured.library import library
from airflow_provider_agentforce.structured.misfit import MisfitError, first_fit, problem

_MOST_ERRORS = 1000
# Characters of the answer times characters of the schema; a check of this much takes about a second at most.
_MOST_WORK = 4_000_000
_DRAFTS = ("Draft3", "Draft4", "Draft6", "Draft7", "Draft201909", "Draft202012")
# Keywords that check each value once, in a time that is linear in the value and the schema.
_QUICK = frozenset(
    [
        "$ref",
        "additionalItems",
        "additionalProperties",
        "const",
        "dependentRequired",
        "divisibleBy",
        "enum",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "items",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "multipleOf",
        "prefixItems",
        "properties",
        "required",
    ]
)
# Keywords that check a value once more; with a recursive $ref, the number of checks doubles at each level.
_CHECK_AGAIN = frozenset(
    [
        "allOf",
        "anyOf",
        "contains",
        "dependencies",
        "dependentSchemas",
        "disallow",
        "extends",
        "if",
        "not",
        "oneOf",
        "propertyNames",
        "type",
        "uniqueItems",
    ]
)
# Stands for keywords beside a $ref, which are checked as well since draft 2019-09.
_REF_AND_MORE = "$ref and more"
_QUICK_FORMATS = {"date", "date-time", "email", "ipv4", "ipv6", "time", "uuid"}


class JsonSchema:
    """A format that a JSON schema describes.

    :param schema: see :class:`.OutputType`.
    :raises AgentforceInputError: if it is not a valid schema.
    """

    # The schema has no code.
    sources: Iterable[str] = ()

    def __init__(self, schema: dict[str, Any]) -> None:
        validators = library("jsonschema.validators", "validator_for")
        self.schema = schema
        try:
            text = json.dumps(schema, allow_nan=False)
            kind = self._draft(validators)
            kind.check_schema(schema)
            registry = import_module("referencing").Registry()
            self._check_references(registry, kind.META_SCHEMA["$schema"])
        except AgentforceInputError:
            raise
        except Exception as error:
            reason = one_line(str(getattr(error, "message", error)))
            raise AgentforceInputError(f"output_type is not a JSON schema: {reason}") from error
        # Without this registry, jsonschema fetches what a $ref names from the network.
        quick = validators.extend(kind, {"uniqueItems": _unique})
        self._validator = quick(schema, registry=registry, format_checker=kind.FORMAT_CHECKER)
        self._best_match = import_module("jsonschema.exceptions").best_match
        self._process = CheckerProcess(schema)
        self._most = 0 if _may_take_long(schema, _known_keywords(validators)) else _MOST_WORK // len(text)

    def read(self, pieces: Iterable[JsonPiece]) -> Any:
        """Return the first value that fits.

        :raises MisfitError: if none does, or if that takes too long to find out.
        """
        found = list(pieces)
        if sum(len(piece.text) for piece in found) > self._most:
            return self._process.first_fit(found)
        return first_fit(self.fit, found)

    def fit(self, found: JsonPiece) -> Any:
        """Return the value, if it fits, however long that takes to find out.

        :raises MisfitError: if it does not.
        """
        try:
            # Each error quotes the value that does not fit, so all of them could be too much.
            errors = islice(self._validator.iter_errors(found.value), _MOST_ERRORS)
            error = self._best_match(errors)
        except RecursionError:
            raise MisfitError(["it is nested too deep"]) from None
        if error is not None:
            raise MisfitError([problem(error.absolute_path, _reason(error))])
        return found.value

    def _draft(self, validators: Any) -> Any:
        named = self.schema.get("$schema", validators.Draft202012Validator.META_SCHEMA["$schema"])
        kind = validators.validator_for({"$schema": str(named)}, default=None)
        if kind is None:
            raise AgentforceInputError(f"output_type has an unknown $schema: {shown(named)}.")
        if self.schema and not set(self.schema) & set(kind.VALIDATORS):
            raise AgentforceInputError(
                "output_type has no keyword of JSON schema, so everything would fit. It should look like "
                '{"type": "object", "properties": {…}, "required": […]}.'
            )
        return kind

    def _check_references(self, registry: Any, draft: str) -> None:
        """Find a reference that cannot be resolved before a message is sent."""
        specification = import_module("referencing.jsonschema").specification_with(draft)
        resource = specification.create_resource(self.schema)
        _follow(resource, registry.resolver_with_root(resource))


def _follow(resource: Any, resolver: Any) -> None:
    contents = resource.contents
    for keyword in ("$ref", "$dynamicRef"):
        reference = contents.get(keyword) if isinstance(contents, dict) else None
        if reference is not None:
            try:
                resolver.lookup(reference)
            except Exception as error:
                shown = one_line(str(reference), 80)
                raise AgentforceInputError(
                    f"output_type: the {keyword} {shown} cannot be resolved within the schema."
                ) from error
    for inner in resource.subresources():
        _follow(inner, resolver.in_subresource(inner))


def _reason(error: Any) -> str:
    """Return the message of an error without the value, which jsonschema puts in front of it."""
    if error.validator is None:
        return "the schema allows no value here"
    return str(error.message).removeprefix(repr(error.instance)).strip()


def _unique(validator: Any, unique: Any, items: Any, _schema: Any) -> Iterator[Exception]:
    """Check ``uniqueItems`` in linear time; the library's check is quadratic."""
    if unique and validator.is_type(items, "array"):
        texts = {json.dumps(_normal(item), sort_keys=True) for item in items}
        if len(texts) < len(items):
            yield import_module("jsonschema.exceptions").ValidationError("has non-unique elements")


def _normal(value: Any) -> Any:
    """Return a value in which ``1`` and ``1.0`` are the same, as JSON schema considers them equal."""
    if isinstance(value, list):
        return [_normal(item) for item in value]
    if isinstance(value, dict):
        return {name: _normal(item) for name, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _known_keywords(validators: Any) -> frozenset[str]:
    """Return the keywords of all drafts: a schema within the schema may name another draft."""
    return frozenset().union(*(getattr(validators, f"{draft}Validator").VALIDATORS for draft in _DRAFTS))


def _may_take_long(schema: dict[str, Any], known: frozenset[str]) -> bool:
    """Return whether a check may take longer than comparing every value with the whole schema."""
    found = set(_keywords(schema, known))
    checked = found & known
    # A schema that names its draft is checked with the library's own uniqueItems, which is quadratic.
    slow_unique = {"uniqueItems", "$schema"} <= found
    again = bool(checked & _CHECK_AGAIN) or _REF_AND_MORE in found
    return bool(checked - _QUICK - _CHECK_AGAIN or slow_unique or ("$ref" in checked and again))


def _keywords(value: Any, known: frozenset[str]) -> Iterator[str]:
    """Yield the keywords of a schema, and the names of properties, which cannot be told apart."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not _is_quick(key, inner):
                yield key
        if "$ref" in value and len(known & set(value)) > 1:
            yield _REF_AND_MORE
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _keywords(item, known)


def _is_quick(keyword: str, value: Any) -> bool:
    if keyword == "type":
        # In old drafts a type may be a list of schemas.
        return all(isinstance(kind, str) for kind in (value if isinstance(value, list) else [value]))
    return keyword == "format" and isinstance(value, str) and value in _QUICK_FORMATS
