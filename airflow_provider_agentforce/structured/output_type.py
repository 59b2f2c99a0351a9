"""Parses an answer into a value that fits a pydantic model, a ``TypedDict`` or a JSON schema.

``pydantic`` or ``jsonschema`` is loaded when an :class:`OutputType` is made, never before.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any, Protocol

from airflow_provider_agentforce.client import json_values
from airflow_provider_agentforce.client.models import ANSWERED, ENDED, Turn
from airflow_provider_agentforce.exceptions import AgentforceInputError, InvalidOutputError, one_line
from airflow_provider_agentforce.structured.json_in_answer import Found, json_in

_TYPE_MODULES = {"types", "typing", "typing_extensions"}
_MOST_PROBLEMS = 3
_LONGEST_PROBLEM = 200
_LONGEST_SCHEMA = 4000


class OutputType:
    """What an answer has to be.

    :param output_type: a pydantic model (the class), a ``TypedDict``, a dataclass or any other type of which
        pydantic knows the JSON form, such as ``list[Order]``; or a JSON schema as a dict (draft 2020-12,
        unless its ``$schema`` names another; a ``format`` is checked; a ``$ref`` must lead into the schema).
    :ivar schema: the JSON schema, a dict.
    :raises AgentforceInputError: if it is none of these, or if pydantic or jsonschema is not installed.
    """

    def __init__(self, output_type: Any) -> None:
        self._form: _Form = (
            _JsonSchema(dict(output_type)) if isinstance(output_type, Mapping) else _Type(output_type)
        )
        self.schema: dict[str, Any] = self._form.schema

    def read(self, turn: Turn) -> Any:
        """Return the value in an answer as plain JSON: dicts, lists, text, numbers, booleans, ``None``.

        Of several pieces of JSON the first that fits counts, see
        :func:`~airflow_provider_agentforce.structured.json_in_answer.json_in`. A value of a type is written
        as the type writes it: dates and enums as text, fields by their aliases, defaults filled in.

        :raises InvalidOutputError: if none fits. It names what does not, of the longest piece.
        """
        longest = 0
        problems: tuple[str, ...] = ()
        for found in json_in(turn):
            try:
                return self._form.fit(found)
            except _MisfitError as misfit:  # noqa: PERF203 - each piece gets its chance
                if len(found.text) > longest:
                    longest, problems = len(found.text), misfit.problems
        raise _invalid(turn, problems)

    def result_of(self, turn: Turn) -> Any:
        """Return :meth:`read` for an answer, and ``None`` for what carries no answer.

        That is: the agent asks for input or a confirmation, escalates, says that it failed, or ends the
        session with words that do not fit.

        :raises InvalidOutputError: if the outcome is ``answered`` and the answer does not fit.
        """
        if turn.outcome == ANSWERED:
            return self.read(turn)
        if turn.outcome != ENDED:
            return None
        try:
            return self.read(turn)
        except InvalidOutputError:
            return None

    def question(self, error: InvalidOutputError) -> str:
        """Return the message that asks the agent to answer once more, at most about 5,000 characters."""
        wrong = "; ".join(error.problems) or "it holds no valid JSON"
        return (
            f"Your last answer cannot be used: {wrong}. Give the same answer again as JSON only, with no "
            f"other text, so that it fits this JSON schema: {self._shown_schema()}"
        )

    def _shown_schema(self) -> str:
        text = json_values.storable(json.dumps(self.schema, ensure_ascii=False))
        if len(text) <= _LONGEST_SCHEMA:
            return str(text)
        names = ", ".join(map(str, self.schema.get("properties", ())))
        return one_line(f"{self.schema.get('type', 'any type')} with the properties {names}", _LONGEST_SCHEMA)


class _MisfitError(Exception):
    """A value does not fit."""

    def __init__(self, problems: Iterable[str]) -> None:
        super().__init__()
        self.problems = tuple(problems)


class _Form(Protocol):
    schema: dict[str, Any]

    def fit(self, found: Found) -> Any: ...


class _Type:
    """A form that a Python type describes."""

    def __init__(self, kind: Any) -> None:
        # A function is something that pydantic would call with the answer.
        if not isinstance(kind, type) and type(kind).__module__ not in _TYPE_MODULES:
            raise AgentforceInputError(
                "output_type must be a pydantic model, a TypedDict or another type, or a JSON schema as a "
                f"dict, but is a value of type {type(kind).__name__}."
            )
        self._pydantic = _library("pydantic", "TypeAdapter")
        try:
            self._adapter = self._pydantic.TypeAdapter(kind)
            self.schema = self._adapter.json_schema()
        except Exception as error:
            reason = one_line(str(getattr(error, "message", error)))
            name = getattr(kind, "__name__", type(kind).__name__)
            raise AgentforceInputError(
                f"output_type: pydantic knows no JSON form of {name}: {reason}"
            ) from error

    def fit(self, found: Found) -> Any:
        try:
            written = self._adapter.dump_json(self._adapter.validate_json(found.text), by_alias=True)
        except self._pydantic.ValidationError as error:
            problems = error.errors(include_url=False, include_context=False, include_input=False)
            raise _MisfitError(_problem(item["loc"], item["msg"]) for item in problems) from None
        except Exception as error:
            # Code of the type's own. The answer is here, so this must not look like a failure to get one.
            raise _MisfitError([f"output_type raised {type(error).__name__}"]) from error
        return json_values.decode(written)


class _JsonSchema:
    """A form that a JSON schema describes."""

    def __init__(self, schema: dict[str, Any]) -> None:
        validators = _library("jsonschema.validators", "validator_for")
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
        self._validator = kind(schema, registry=registry, format_checker=kind.FORMAT_CHECKER)
        self._best_match = import_module("jsonschema.exceptions").best_match

    def fit(self, found: Found) -> Any:
        try:
            error = self._best_match(self._validator.iter_errors(found.value))
        except RecursionError:
            raise _MisfitError(["it is nested too deep"]) from None
        if error is not None:
            raise _MisfitError([_problem(error.absolute_path, _reason(error))])
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


def _library(module: str, needed: str) -> Any:
    try:
        library = import_module(module)
        getattr(library, needed)
    except (ImportError, AttributeError) as error:
        name = module.split(".", maxsplit=1)[0]
        raise AgentforceInputError(
            f"output_type needs {name}, which is missing or too old here. "
            "pip install 'airflow-provider-agentforce[structured]' brings it."
        ) from error
    return library


def _problem(path: Iterable[Any], reason: str) -> str:
    place = "".join(_steps(path))
    return one_line(f"{place}: {reason}" if place else reason, _LONGEST_PROBLEM)


def _steps(path: Iterable[Any]) -> Iterator[str]:
    for number, step in enumerate(path):
        yield f"[{step}]" if isinstance(step, int) else f"{'.' if number else ''}{step}"


def _reason(error: Any) -> str:
    """Return what a schema misses, without the value that jsonschema puts in front of it."""
    if error.validator is None:
        return "a value is there that the schema does not allow"
    return str(error.message).removeprefix(repr(error.instance)).strip()


def _invalid(turn: Turn, problems: tuple[str, ...]) -> InvalidOutputError:
    what = "The answer holds no valid JSON."
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        what = f"The answer does not fit output_type: {problems[0]}{more}."
    return InvalidOutputError(
        what,
        operation="send",
        applied=True,
        session_id=turn.session_id,
        turn=turn,
        problems=problems[:_MOST_PROBLEMS],
    )
