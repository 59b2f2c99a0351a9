"""Golden conversations: messages to an agent and the expected answers, in YAML.

A mistake raises an :class:`~airflow_provider_agentforce.exceptions.AgentforceInputError` that names the file,
the line and the field.
"""

from __future__ import annotations

import difflib
import importlib
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from airflow_provider_agentforce.client import validation
from airflow_provider_agentforce.client.messages import Cancel, MessageLike, Reply, reply_item
from airflow_provider_agentforce.client.models import OUTCOMES, Turn
from airflow_provider_agentforce.exceptions import AgentforceInputError, one_line, shown

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
# Limits, because nested aliases make a short file huge, and an alias may even contain itself.
_MOST_NODES = 100_000
_DEEPEST = 50
_JSON = (dict, list, str, int, float, type(None))

Function = Callable[[Turn], object]


@dataclass(frozen=True)
class Expectation:
    """The expected answer.

    :param outcome: the outcome; ``None``: any but ``failed``.
    :param contains: strings that are all in the answer, in upper or lower case.
    :param not_contains: strings of which none is in the answer, in upper or lower case.
    :param matches: a regular expression that is found in the answer.
    :param fields: values in the JSON of the answer, by name, or by names with dots between them.
    :param check: a function that receives the :class:`~airflow_provider_agentforce.client.Turn`. It passes if
        it returns ``True`` or ``None``; otherwise it returns ``False`` or the reason, or fails an ``assert``.
    """

    outcome: str | None = None
    contains: tuple[str, ...] = ()
    not_contains: tuple[str, ...] = ()
    matches: re.Pattern[str] | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    check: Function | None = None


@dataclass(frozen=True)
class GoldenTurn:
    """One message, and the expected answer."""

    said: MessageLike
    expected: Expectation


@dataclass(frozen=True)
class GoldenConversation:
    """One conversation.

    :param agent: id or API name; ``None``: the caller's.
    :param variables: context variables of the session, as for a start.
    :param text: the text of the whole file, to notice a change.
    :param line: the line of the file where it begins.
    """

    name: str
    turns: tuple[GoldenTurn, ...]
    agent: str | None = None
    variables: Any = None
    text: str = field(default="", repr=False)
    line: int = 1


def read(text: str, source: str) -> list[GoldenConversation]:
    """Return the conversations of a file: one, or a list of them.

    :param source: name of the file, for errors.
    :raises AgentforceInputError: the file has a mistake.
    """
    root = _parsed(text, source)
    nodes = root.items() if isinstance(root.value, list) else [root]
    if not nodes:
        raise root.refusal("must be a conversation, or a list of them")
    found = [_conversation(node, text) for node in nodes]
    refuse_same_names([(f"{source}, line {one.line}", one.name) for one in found])
    return found


def refuse_same_names(conversations: Iterable[tuple[str, str]]) -> None:
    """Refuse conversations that a report could not tell apart.

    :param conversations: the place and the name of each.
    :raises AgentforceInputError: two have the same name.
    """
    places: dict[str, str] = {}
    for place, name in conversations:
        if name in places:
            raise AgentforceInputError(
                f"{place}: the name {shown(name)} is that of another conversation, at {places[name]}. "
                "Give each conversation a different name."
            )
        places[name] = place


def raised_by_users() -> tuple[type[BaseException], ...]:
    """Return the exceptions with which a user's code fails: those of pytest are not an ``Exception``."""
    pytest = sys.modules.get("pytest")
    outcomes = () if pytest is None else (pytest.fail.Exception, pytest.skip.Exception)
    return (Exception, SystemExit, *outcomes)


def error_words(error: BaseException, limit: int) -> str:
    """Return the type and text of an error in one line, also of one that cannot be printed."""
    return one_line(f"{type(error).__name__}: {printed(error, str)}", limit)


def printed(value: object, form: Callable[[object], str]) -> str:
    """Return *value* as a text, even if its own ``__str__`` or ``__repr__`` fails."""
    try:
        return form(value)
    except Exception:  # noqa: BLE001 - a user's code
        return f"{type(value).__name__} that cannot be printed"


class _Node:
    """A value of the file, and its place."""

    def __init__(self, value: Any, source: str, lines: Mapping[tuple[Any, ...], int], *path: Any) -> None:
        self.value = value
        self._source = source
        self._lines = lines
        self._path = path

    def __getitem__(self, key: Any) -> _Node:
        return _Node(self.value[key], self._source, self._lines, *self._path, key)

    def __contains__(self, key: str) -> bool:
        return key in self.value

    @property
    def line(self) -> int:
        """Its line in the file."""
        return self._lines[self._path]

    def items(self) -> list[_Node]:
        """Return the items of a list."""
        return [self[index] for index in range(len(self.value))]

    def refusal(self, requirement: str) -> AgentforceInputError:
        """Return the error for a value that does not meet a *requirement*."""
        return self.error(f"{requirement}, but is {shown(self.value, 60)}.")

    def error(self, what: str) -> AgentforceInputError:
        """Return an error at this place."""
        return _error(self._source, self.line, self._path, what)

    def fields(self, *known: str) -> None:
        """Refuse anything but an object with some of these fields."""
        if not isinstance(self.value, dict):
            raise self.refusal(f"must have fields: {', '.join(known)}")
        for key in self.value:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, 1, 0.6)
                meant = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}."
                raise self[key].error(f"is not a field here; {meant}")

    def text(self) -> str:
        """Return a text that is not empty."""
        if not isinstance(self.value, str) or not self.value.strip():
            raise self.refusal("must be a string (put it in quotes)")
        return self.value

    def texts(self) -> tuple[str, ...]:
        """Return the texts of a list, or the one text."""
        if self.value == []:
            raise self.refusal("must be a string, or a list of strings that is not empty")
        if isinstance(self.value, list):
            return tuple(item.text() for item in self.items())
        return (self.text(),)

    def json(self) -> _Node:
        """Refuse what is not JSON; return the node."""
        inner = [self[key] for key in self.value] if isinstance(self.value, dict) else ()
        for node in self.items() if isinstance(self.value, list) else inner:
            node.json()
        is_finite = not isinstance(self.value, float) or math.isfinite(self.value)
        if not is_finite or not isinstance(self.value, _JSON):
            raise self.error(
                f"is not JSON, but {one_line(str(self.value), 60)} ({type(self.value).__name__}): "
                "put a date or another text in quotes."
            )
        return self

    def checked(self, check: Callable[..., Any], *given: Any) -> Any:
        """Return the result of *check* for the value; its error then names this place."""
        try:
            return check(self.value, *given)
        except AgentforceInputError as error:
            raise self.error(f"cannot be used: {error.what}") from None


def _error(source: str, line: int, path: tuple[Any, ...], what: str) -> AgentforceInputError:
    names = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in path]
    name = "".join(names).removeprefix(".") or "the file"
    return AgentforceInputError(f"{source}, line {line}: {name} {what}")


def _parsed(text: str, source: str) -> _Node:
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        lines = {} if tree is None else dict(_lines(tree, source))
        value = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = mark.line + 1 if mark else 1
        raise AgentforceInputError(f"{source}, line {line}: not YAML: {error.problem or error}.") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        reason = f"the character {chr(error.character)!a} is not allowed"
        raise AgentforceInputError(f"{source}, line {line}: not YAML: {reason}.") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise AgentforceInputError(f"{source}: not YAML: {one_line(str(error), 200)}.") from None
    return _Node(value, source, {(): 1, **lines})


def _lines(tree: yaml.Node, source: str) -> Iterator[tuple[tuple[Any, ...], int]]:
    """Yield the path of each value and its line; that of a field is the line of its name."""
    waiting: list[tuple[tuple[Any, ...], yaml.Node, int]] = [((), tree, tree.start_mark.line)]
    for _ in range(_MOST_NODES):
        if not waiting:
            return
        path, node, line = waiting.pop()
        if len(path) > _DEEPEST:
            break
        yield path, line + 1
        if isinstance(node, yaml.SequenceNode):
            items = enumerate(node.value)
            waiting += [((*path, index), item, item.start_mark.line) for index, item in items]
        elif isinstance(node, yaml.MappingNode):
            waiting += _named(path, node, source)
        else:
            _constructed(node, source, path)
    raise AgentforceInputError(
        f"{source}: more than {_MOST_NODES:,} values, or values nested more than {_DEEPEST} levels deep."
    )


def _named(
    path: tuple[Any, ...], node: yaml.MappingNode, source: str
) -> Iterator[tuple[tuple[Any, ...], yaml.Node, int]]:
    seen = set()
    for name, value in node.value:
        line = name.start_mark.line
        if name.tag == "tag:yaml.org,2002:merge":
            raise _error(
                source, line + 1, path, "is merged with <<, which is not supported: repeat the fields."
            )
        key = _constructed(name, source, path)
        if not isinstance(key, str | int) or str(key) in seen:
            problem = "is given twice" if isinstance(key, str | int) else "is not a name (put it in quotes)"
            raise AgentforceInputError(f"{source}, line {line + 1}: {one_line(str(key), 60)} {problem}.")
        seen.add(str(key))
        yield (*path, key), value, line


def _constructed(node: yaml.Node, source: str, path: tuple[Any, ...]) -> Any:
    """Return the value of a node; its text may not fit its tag, explicit or implied."""
    try:
        return yaml.SafeLoader("").construct_document(node)
    except yaml.MarkedYAMLError:
        raise
    except Exception as error:
        kind = node.tag.rpartition(":")[2]
        what = (
            f"cannot be read: {one_line(str(node.value), 60)} is not a valid {kind}; a string goes in quotes."
        )
        raise _error(source, node.start_mark.line + 1, path, what) from error


def _conversation(node: _Node, text: str) -> GoldenConversation:
    node.fields("name", "agent", "variables", "turns")
    for needed in ("name", "turns"):
        if needed not in node:
            raise node.error(f"has no {needed}.")
    turns = node["turns"]
    if not isinstance(turns.value, list) or not turns.value:
        raise turns.refusal("must be a list of turns, each with say, reply or cancel")
    first = turns[0]
    if isinstance(first.value, dict) and first.value.keys() & {"reply", "cancel"}:
        raise first.error("has no question to answer: the first turn must be say.")
    return GoldenConversation(
        name=one_line(node["name"].text(), 200),
        turns=tuple(_turn(turn) for turn in turns.items()),
        agent=node["agent"].checked(validation.agent) if "agent" in node else None,
        variables=node["variables"].checked(validation.variables) if "variables" in node else None,
        text=text,
        line=node.line,
    )


def _turn(node: _Node) -> GoldenTurn:
    node.fields("say", "reply", "cancel", "expect")
    given = [name for name in ("say", "reply", "cancel") if name in node]
    if len(given) != 1:
        raise node.error("must have exactly one of say, reply and cancel.")
    said = _SAID[given[0]](node[given[0]])
    return GoldenTurn(said, _expectation(node["expect"]) if "expect" in node else Expectation())


def _text(node: _Node) -> MessageLike:
    node.text()
    return str(node.checked(validation.message_text))


def _reply(node: _Node) -> MessageLike:
    if node.value is True:
        return Reply()
    if not isinstance(node.value, list) or not node.value:
        raise node.refusal("must be true, or a list of items with type, property and value")
    return Reply([item.checked(reply_item, "it") for item in node.json().items()])


def _cancel(node: _Node) -> MessageLike:
    if node.value is not True:
        raise node.refusal("must be true")
    return Cancel()


_SAID: dict[str, Callable[[_Node], MessageLike]] = {"say": _text, "reply": _reply, "cancel": _cancel}


def _expectation(node: _Node) -> Expectation:
    node.fields("outcome", "contains", "not_contains", "matches", "field", "check")
    if not node.value:
        raise node.error("expects nothing. Say what, or leave it out: any outcome but failed passes then.")
    return Expectation(
        outcome=_outcome(node["outcome"]) if "outcome" in node else None,
        contains=node["contains"].texts() if "contains" in node else (),
        not_contains=node["not_contains"].texts() if "not_contains" in node else (),
        matches=_pattern(node["matches"]) if "matches" in node else None,
        fields=_fields(node["field"]) if "field" in node else {},
        check=_function(node["check"]) if "check" in node else None,
    )


def _outcome(node: _Node) -> str:
    if node.value not in OUTCOMES:
        raise node.refusal(f"must be one of {', '.join(OUTCOMES)}")
    return str(node.value)


def _pattern(node: _Node) -> re.Pattern[str]:
    try:
        return re.compile(node.text(), re.DOTALL)
    except (re.error, OverflowError, RecursionError) as error:
        raise node.refusal(f"must be a regular expression ({error})") from None


def _fields(node: _Node) -> dict[str, Any]:
    if not isinstance(node.value, dict) or not node.value:
        raise node.refusal("must be names of fields and their values")
    return {str(name): value for name, value in node.json().value.items()}


def _function(node: _Node) -> Function:
    if not isinstance(node.value, str) or not _FUNCTION.fullmatch(node.value):
        raise node.refusal("must be package.module:function")
    module, _, name = node.value.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except raised_by_users() as error:
        missing = isinstance(error, ModuleNotFoundError)
        hint = " Its folder must be on sys.path (with pytest: the option pythonpath)." if missing else ""
        raise node.error(f"cannot be imported: {error_words(error, 150)}.{hint}") from None
    if not callable(found):
        raise node.refusal("must be a function")
    return found  # type: ignore[no-any-return]
