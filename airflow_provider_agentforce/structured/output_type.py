"""Parses an answer into a value that fits a pydantic model, a ``TypedDict`` or a JSON schema.

``pydantic`` or ``jsonschema`` is imported when the first :class:`OutputType` is created.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from airflow_provider_agentforce.client import json_values
from airflow_provider_agentforce.client.models import ANSWERED, ENDED, Turn
from airflow_provider_agentforce.exceptions import AgentforceInputError, InvalidOutputError, one_line
from airflow_provider_agentforce.structured.checker_process import first_fit_in_fork
from airflow_provider_agentforce.structured.json_in_answer import JsonPiece, json_in
from airflow_provider_agentforce.structured.json_schema import JsonSchema
from airflow_provider_agentforce.structured.library import library
from airflow_provider_agentforce.structured.misfit import MisfitError, first_fit, problem

_TYPE_MODULES = {"types", "typing", "typing_extensions"}
_MOST_PROBLEMS = 3
_LONGEST_SCHEMA = 4000
# Characters of the answer times the ways to read them; pydantic needs far less than a second for this much.
_MOST_WORK = 1_000_000
# Types of pydantic's core schema that contain no other values.
_SCALARS = frozenset(
    [
        "any",
        "bool",
        "bytes",
        "date",
        "datetime",
        "decimal",
        "enum",
        "float",
        "int",
        "literal",
        "none",
        "str",
        "time",
        "timedelta",
        "url",
        "uuid",
    ]
)


class OutputType:
    """The required format of an answer.

    :param output_type: a pydantic model (the class), a ``TypedDict``, a dataclass or any other type whose
        JSON form pydantic knows, such as ``list[Order]``; or a JSON schema as a dict (draft 2020-12, unless
        its ``$schema`` names another; a ``format`` is checked; a ``$ref`` must point into the schema).
    :ivar schema: the JSON schema, a dict.
    :raises AgentforceInputError: if it is none of these, or if pydantic or jsonschema is not installed.
    """

    def __init__(self, output_type: Any) -> None:
        self._form: _Form = (
            JsonSchema(dict(output_type)) if isinstance(output_type, Mapping) else _Type(output_type)
        )
        self.schema: dict[str, Any] = self._form.schema

    @property
    def sources(self) -> list[str]:
        """The source code of the classes and functions that check an answer, which no schema shows."""
        return list(self._form.sources)

    def read(self, turn: Turn) -> Any:
        """Return the value in an answer as plain JSON: dicts, lists, text, numbers, booleans, ``None``.

        Of several pieces of JSON the first that fits counts, see
        :func:`~airflow_provider_agentforce.structured.json_in_answer.json_in`. A type serializes its value:
        dates and enums become text, fields get their aliases, defaults are filled in.

        :raises InvalidOutputError: if none fits. It names the problems of the longest piece.
        """
        try:
            return self._form.read(json_in(turn))
        except MisfitError as misfit:
            raise _invalid(turn, misfit) from None

    def result_of(self, turn: Turn) -> Any:
        """Return :meth:`read` for an answer, and ``None`` for a turn without an answer.

        In such a turn the agent asks for input or a confirmation, escalates, says that it failed, or ends the
        session with text that does not fit.

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


class _Form(Protocol):
    schema: dict[str, Any]

    @property
    def sources(self) -> Iterable[str]: ...

    def read(self, pieces: Iterable[JsonPiece]) -> Any: ...


class _Type:
    """A format that a Python type describes."""

    def __init__(self, kind: Any) -> None:
        # pydantic would call a function with the answer.
        if not isinstance(kind, type) and type(kind).__module__ not in _TYPE_MODULES:
            raise AgentforceInputError(
                "output_type must be a pydantic model, a TypedDict or another type, or a JSON schema as a "
                f"dict, but is a value of type {type(kind).__name__}."
            )
        self._pydantic = library("pydantic", "TypeAdapter")
        try:
            self._adapter = self._pydantic.TypeAdapter(kind)
            self.schema = self._adapter.json_schema()
        except Exception as error:
            reason = one_line(str(getattr(error, "message", error)))
            name = getattr(kind, "__name__", type(kind).__name__)
            raise AgentforceInputError(
                f"output_type: pydantic knows no JSON form of {name}: {reason}"
            ) from error
        self._ways = _ways(self._adapter.core_schema)

    @property
    def sources(self) -> Iterable[str]:
        """The source code of the type, of the types it contains, and of their base classes."""
        return dict.fromkeys(filter(None, map(_source, _code_of(self._adapter.core_schema))))

    def read(self, pieces: Iterable[JsonPiece]) -> Any:
        if self._ways == 1:
            return first_fit(self._fit, pieces)
        found = list(pieces)
        work = sum(len(piece.text) * self._ways ** _depth(piece.value) for piece in found)
        return (first_fit if work <= _MOST_WORK else first_fit_in_fork)(self._fit, found)

    def _fit(self, found: JsonPiece) -> Any:
        try:
            written = self._adapter.dump_json(self._adapter.validate_json(found.text), by_alias=True)
        except self._pydantic.ValidationError as error:
            problems = error.errors(include_url=False, include_context=False, include_input=False)
            # An answer may have 100,000 of them.
            worded = [problem(item["loc"], item["msg"]) for item in problems[:_MOST_PROBLEMS]]
            raise MisfitError(worded, len(problems) - len(worded)) from None
        except Exception as error:
            # The type's own code failed. The agent has answered, so this must not look like a failed call.
            raise MisfitError([f"output_type raised {type(error).__name__}"]) from error
        return json_values.decode(written)


def _code_of(core_schema: Any) -> Iterator[Any]:
    for node in _nodes(core_schema):
        yield from getattr(node.get("cls"), "__mro__", ())
        if callable(node.get("function")):
            yield node["function"]


def _source(code: Any) -> str | None:
    """Return the source of a class or a function, ``None`` if Python or pydantic defines it."""
    if str(code.__module__).partition(".")[0] in {"builtins", "pydantic", "pydantic_core", *_TYPE_MODULES}:
        return None
    try:
        return inspect.getsource(code)
    except (OSError, TypeError):
        return getattr(code, "__qualname__", None)


def _ways(core_schema: Any) -> int:
    """Return in how many ways at most pydantic reads one level of a value of a recursive type.

    It tries each choice of a union, and within it each choice of the next, unless a discriminator names one.
    """
    nodes = list(_nodes(core_schema))
    if not any(node.get("type") == "definition-ref" for node in nodes):
        return 1  # no deeper than the type is written
    unions = [node["choices"] for node in nodes if node.get("type") == "union"]
    deep = [sum(_is_deep(choice) for choice in choices) for choices in unions]
    return 1 + sum(number - 1 for number in deep if number)


def _is_deep(choice: Any) -> bool:
    schema = choice[0] if isinstance(choice, tuple) else choice
    return schema["type"] not in _SCALARS


def _nodes(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        yield value
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _nodes(item)


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        depth += bool(level)
    return depth


def _invalid(turn: Turn, misfit: MisfitError) -> InvalidOutputError:
    what = "The answer holds no valid JSON."
    if misfit.problems:
        number = len(misfit.problems) - 1 + misfit.more
        more = f" (and {number} more)" if number else ""
        what = f"The answer does not fit output_type: {misfit.problems[0]}{more}."
    return InvalidOutputError(
        what,
        operation="send",
        applied=True,
        session_id=turn.session_id,
        turn=turn,
        problems=misfit.problems[:_MOST_PROBLEMS],
    )
