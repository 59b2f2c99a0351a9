"""The ``answers:`` of a YAML script: regular expressions and the templates they lead to.

Everything that can be wrong with a rule is found when it is loaded, not in the middle of a conversation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, meta
from jinja2.sandbox import SandboxedEnvironment

from airflow_provider_agentforce.emulator.replies import Reply, ScriptError, Turn, to_reply

# The texts are read by people and programs, never by a browser: escaping would change them.
_JINJA = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
_NAMES = frozenset({"text", "variables", "groups", "turn", "sequence_id", "session_id"})


class Rules:
    """The rules of a script, tried in order."""

    def __init__(self, entries: Any, *, where: str) -> None:
        if not isinstance(entries, list):
            raise ScriptError(f"{where}: answers must be a list.")
        self._rules = [
            _Rule(entry, where=f"{where}: answers[{index}]") for index, entry in enumerate(entries)
        ]

    def answer(self, turn: Turn) -> Reply:
        """Return the answer of the first rule that matches.

        :raises ScriptError: its template failed.
        """
        for rule in self._rules:
            match = rule.pattern.search(turn.text)
            if match:
                return rule.reply(turn, match)
        return to_reply(f"No scripted answer matches {turn.text!r}.", where="answers")


class _Rule:
    def __init__(self, entry: Any, *, where: str) -> None:
        if not isinstance(entry, Mapping):
            raise ScriptError(f"{where}: an answer is a mapping, not {type(entry).__name__}.")
        fields = dict(entry)
        self.where = where
        self.pattern = _pattern(fields.pop("match", ""), where=where)
        if not fields:
            raise ScriptError(f"{where}: it has no text, type or messages.")
        self._fields = _compiled(fields, _NAMES | set(self.pattern.groupindex), where=where)
        # A reply from the raw texts has the same shape as any later one: it shows every mistake of the entry.
        to_reply(fields, where=where)

    def reply(self, turn: Turn, match: re.Match[str]) -> Reply:
        names = {
            "text": turn.text,
            "variables": turn.variables,
            "groups": match.groups(),
            "turn": turn.number,
            "sequence_id": turn.sequence_id,
            "session_id": turn.session.session_id,
            **match.groupdict(),
        }
        try:
            return to_reply(_rendered(self._fields, names), where=self.where)
        except TemplateError as error:
            raise ScriptError(f"{self.where}: {error}") from error


def _pattern(text: Any, *, where: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except (re.error, TypeError) as error:
        raise ScriptError(f"{where}: match is no regular expression: {error}") from error


def _compiled(value: Any, names: frozenset[str] | set[str], *, where: str) -> Any:
    if isinstance(value, dict):
        return {key: _compiled(item, names, where=where) for key, item in value.items()}
    if isinstance(value, list):
        return [_compiled(item, names, where=where) for item in value]
    return _template(value, names, where=where) if isinstance(value, str) and "{" in value else value


def _template(text: str, names: frozenset[str] | set[str], *, where: str) -> Template:
    try:
        unknown = meta.find_undeclared_variables(_JINJA.parse(text)) - names
        if unknown:
            known = ", ".join(sorted(names))
            raise ScriptError(f"{where}: unknown name {min(unknown)!r} in a template: one of {known}.")
        return _JINJA.from_string(text)
    except TemplateError as error:
        raise ScriptError(f"{where}: {error}") from error


def _rendered(value: Any, names: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: _rendered(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_rendered(item, names) for item in value]
    return value.render(names) if isinstance(value, Template) else value
