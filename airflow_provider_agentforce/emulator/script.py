"""Loads the script with the agent's answers: a YAML file, a Python file, a mapping or a function.

Mistakes in a YAML script are found when it is loaded, not during a conversation.
"""

from __future__ import annotations

import asyncio
import re
import runpy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, meta
from jinja2.sandbox import SandboxedEnvironment

from airflow_provider_agentforce.emulator import default_agent
from airflow_provider_agentforce.emulator.messages import ScriptError, ScriptReply, ScriptTurn, to_reply
from airflow_provider_agentforce.emulator.models import Agent

ScriptFunction = Callable[[ScriptTurn], Any]
ScriptSource = str | Path | Mapping[str, Any] | ScriptFunction | None

DEFAULT_GREETING = "Hi, I'm the emulator's agent. How can I help you?"
_KEYS = ("greeting", "agents", "answers")
# The texts are read by people and programs, never by a browser: escaping would change them.
_JINJA = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
_NAMES = frozenset({"text", "variables", "groups", "turn", "sequence_id", "session_id"})


@dataclass(frozen=True, kw_only=True)
class Script:
    """The agent's answers.

    ``slow`` scripts are user code that may block, so they run outside the server's loop.
    """

    answer: ScriptFunction
    where: str
    greeting: str = DEFAULT_GREETING
    agents: list[Agent] | None = None
    slow: bool = False

    async def reply(self, turn: ScriptTurn) -> ScriptReply:
        """Return the answer to one message.

        :raises ScriptError: the script failed, or returned an invalid answer.
        """
        try:
            answer = await asyncio.to_thread(self.answer, turn) if self.slow else self.answer(turn)
        except ScriptError:
            raise
        except Exception as error:
            raise ScriptError(f"{self.where}: {type(error).__name__}: {error}") from error
        return answer if isinstance(answer, ScriptReply) else to_reply(answer, where=self.where)


def load_script(source: ScriptSource) -> Script:
    """Return the script at or in ``source``; None: the default agent.

    :raises ScriptError: it cannot be read or has a mistake; the message names file and entry.
    """
    if source is None:
        return Script(answer=default_agent.answer, where="the default agent")
    if isinstance(source, Mapping):
        return _from_mapping(source, where="script")
    if callable(source):
        return Script(answer=source, where=getattr(source, "__name__", "script"), slow=True)
    path = Path(source)
    if not path.is_file():
        raise ScriptError(f"{path}: there is no such file.")
    if path.suffix == ".py":
        return _from_python(path)
    if path.suffix in (".yaml", ".yml"):
        return _from_yaml(path)
    raise ScriptError(f"{path}: a script ends in .yaml, .yml or .py.")


def _from_python(path: Path) -> Script:
    try:
        names = runpy.run_path(str(path))
    except Exception as error:
        raise ScriptError(f"{path}: {type(error).__name__}: {error}") from error
    if not callable(names.get("answer")):
        raise ScriptError(f"{path}: it must define a function answer(turn).")
    return _script(names, names["answer"], where=str(path), slow=True)


def _from_yaml(path: Path) -> Script:
    import yaml  # noqa: PLC0415  # only YAML scripts need it

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ScriptError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping):
        raise ScriptError(f"{path}: a script is a mapping with any of {', '.join(_KEYS)}.")
    return _from_mapping(content, where=str(path))


def _from_mapping(content: Mapping[str, Any], *, where: str) -> Script:
    unknown = set(map(str, content)) - set(_KEYS)
    if unknown:
        raise ScriptError(f"{where}: unknown key {min(unknown)!r}: one of {', '.join(_KEYS)}.")
    answers = _rules(content["answers"], where=where) if "answers" in content else default_agent.answer
    return _script(content, answers, where=where)


def _script(content: Mapping[str, Any], answer: ScriptFunction, *, where: str, slow: bool = False) -> Script:
    greeting, agents = content.get("greeting", DEFAULT_GREETING), content.get("agents")
    if not isinstance(greeting, str | None):
        raise ScriptError(f"{where}: greeting must be a string.")
    if agents is not None:
        agents = _agents(agents, where=where)
    return Script(answer=answer, where=where, greeting=greeting or "", agents=agents, slow=slow)


def _agents(entries: Any, *, where: str) -> list[Agent]:
    if not isinstance(entries, list) or not entries:
        raise ScriptError(f"{where}: agents must be a list with at least one agent.")
    return [_agent(entry, where=f"{where}: agents[{index}]") for index, entry in enumerate(entries)]


def _agent(entry: Any, *, where: str) -> Agent:
    try:
        return entry if isinstance(entry, Agent) else Agent(**entry)
    except (TypeError, ValueError) as error:
        raise ScriptError(f"{where}: {error}") from error


def _rules(entries: Any, *, where: str) -> ScriptFunction:
    """Return the function that answers with the first matching rule."""
    if not isinstance(entries, list):
        raise ScriptError(f"{where}: answers must be a list.")
    rules = [_ScriptRule(entry, where=f"{where}: answers[{index}]") for index, entry in enumerate(entries)]

    def answer(turn: ScriptTurn) -> Any:
        for rule in rules:
            match = rule.pattern.search(turn.text)
            if match and rule.turn in (None, turn.number):
                return rule.reply(turn, match)
        return f"No scripted answer matches {turn.text!r}."

    return answer


class _ScriptRule:
    def __init__(self, entry: Any, *, where: str) -> None:
        if not isinstance(entry, Mapping):
            raise ScriptError(f"{where}: an answer is a mapping, not {type(entry).__name__}.")
        fields = dict(entry)
        self.where = where
        self.pattern = _pattern(fields.pop("match", ""), where=where)
        self.turn = fields.pop("turn", None)
        if self.turn is not None and (type(self.turn) is not int or self.turn < 1):
            raise ScriptError(f"{where}: turn must be a number from 1, not {self.turn!r}.")
        if not fields:
            raise ScriptError(f"{where}: it has no text, type or messages.")
        names = _NAMES | set(self.pattern.groupindex)
        self._fields = _mapped(lambda leaf: _template(leaf, names, where=where), fields)
        # A reply from the raw texts has the shape of any later one, so it shows every mistake of the entry.
        to_reply(fields, where=where)

    def reply(self, turn: ScriptTurn, match: re.Match[str]) -> ScriptReply:
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
            return to_reply(_mapped(lambda leaf: _rendered(leaf, names), self._fields), where=self.where)
        except TemplateError as error:
            raise ScriptError(f"{self.where}: {error}") from error


def _pattern(text: Any, *, where: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except (re.error, TypeError) as error:
        raise ScriptError(f"{where}: match is not a valid regular expression: {error}") from error


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """Return ``value`` with every leaf of its mappings and lists converted."""
    if isinstance(value, dict):
        return {key: _mapped(change, item) for key, item in value.items()}
    if isinstance(value, list):
        return [_mapped(change, item) for item in value]
    return change(value)


def _template(text: Any, names: frozenset[str], *, where: str) -> Any:
    if not isinstance(text, str) or "{" not in text:
        return text
    try:
        unknown = meta.find_undeclared_variables(_JINJA.parse(text)) - names
        if unknown:
            known = ", ".join(sorted(names))
            raise ScriptError(f"{where}: unknown name {min(unknown)!r} in a template: one of {known}.")
        return _JINJA.from_string(text)
    except TemplateError as error:
        raise ScriptError(f"{where}: {error}") from error


def _rendered(leaf: Any, names: Mapping[str, Any]) -> Any:
    return leaf.render(names) if isinstance(leaf, Template) else leaf
