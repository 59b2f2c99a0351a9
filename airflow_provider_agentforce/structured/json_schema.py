"""Checks a value against a JSON schema.

``jsonschema`` is loaded when a :class:`JsonSchema` is made, never before.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from importlib import import_module
from itertools import islice
from typing import Any

from airflow_provider_agentforce.exceptions import AgentforceInputError, one_line
from airflow_provider_agentforce.structured.checker_process import CheckerProcess
from airflow_provider_agentforce.structured.json_in_answer import JsonPiece
from airflow_provider_agentforce.structured.library import library
from airflow_provider_agentforce.structured.misfit import MisfitError, first_fit, problem

_MOST_ERRORS = 1000
# A check of these may take no end of time.
_SLOW = {
    "pattern",
    "patternProperties",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$dynamicRef",
    "$recursiveRef",
}
# These check a value once more; where a $ref leads back, that is twice as often at each level.
_CHECK_AGAIN = {
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "contains",
    "dependentSchemas",
    "dependencies",
    "extends",
    "disallow",
    "type",
}


class JsonSchema:
    """A form that a JSON schema describes.

    :param schema: see :class:`.OutputType`.
    :raises AgentforceInputError: if it is not one that can be used.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        validators = library("jsonschema.validators", "validator_for")
        self.schema = schema
        try:
            json.dumps(schema, allow_nan=False)
            kind = self._draft(validators)
            kind.check_schema(schema)
            registry = import_module("referencing").Registry()
            self._check_references(registry, kind.META_SCHEMA["$schema"])
        except AgentforceInputError:
            raise
        except Exception as error:
            reason = one_line(str(getattr(error, "message", error)))
            raise AgentforceInputError(f"output_type is not a JSON schema: {reason}") from error
        # A registry of our own, since the default one fetches what a $ref names from the network.
        quick = validators.extend(kind, {"uniqueItems": _unique})
        self._validator = quick(schema, registry=registry, format_checker=kind.FORMAT_CHECKER)
        self._best_match = import_module("jsonschema.exceptions").best_match
        self._process = CheckerProcess(schema) if _may_take_long(schema) else None

    def read(self, pieces: Iterable[JsonPiece]) -> Any:
        """Return the first value that fits.

        :raises MisfitError: if none does, or if that takes too long to find out.
        """
        if self._process is not None:
            return self._process.first_fit(pieces)
        return first_fit(self.fit, pieces)

    def fit(self, found: JsonPiece) -> Any:
        """Return the value, if it fits, however long that takes to find out.

        :raises MisfitError: if it does not.
        """
        try:
            # Each error quotes what does not fit; one of the first tells enough.
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
            raise AgentforceInputError(f"output_type has an unknown $schema: {named!r:.80}.")
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
    """Return what a schema misses, without the value that jsonschema puts in front of it."""
    if error.validator is None:
        return "a value is there that the schema does not allow"
    return str(error.message).removeprefix(repr(error.instance)).strip()


def _unique(validator: Any, unique: Any, items: Any, _schema: Any) -> Iterator[Exception]:
    """Check ``uniqueItems`` in the time that it takes to read them; the library takes the square of it."""
    if unique and validator.is_type(items, "array"):
        texts = {json.dumps(_normal(item), sort_keys=True) for item in items}
        if len(texts) < len(items):
            yield import_module("jsonschema.exceptions").ValidationError("has non-unique elements")


def _normal(value: Any) -> Any:
    """Return the same for numbers that JSON schema takes for the same, ``1`` and ``1.0``."""
    if isinstance(value, list):
        return [_normal(item) for item in value]
    if isinstance(value, dict):
        return {name: _normal(item) for name, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _may_take_long(schema: dict[str, Any]) -> bool:
    keywords = set(_keywords(schema))
    # A schema that names its draft is checked with the library's own uniqueItems where a $ref leads to it.
    slow_unique = {"uniqueItems", "$schema", "$ref"} <= keywords
    return bool(slow_unique or keywords & _SLOW or ("$ref" in keywords and keywords & _CHECK_AGAIN))


def _keywords(value: Any) -> Iterator[str]:
    """Yield the keywords of a schema, and some other words with them."""
    if isinstance(value, dict):
        # In old drafts a type may be a list of schemas.
        yield from (key for key in value if key != "type" or not isinstance(value[key], str))
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _keywords(item)
