"""Runs golden conversations with pytest, without Airflow: each file ``*.agentforce.yaml`` is a test module.

Loaded by pytest itself where the package is installed. Without ``--agentforce-org`` the emulator answers.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_agentforce.client import AgentforceClient
    from airflow_provider_agentforce.client.agent_test_results import Case
    from airflow_provider_agentforce.testing.golden import GoldenConversation

_SUFFIXES = (".agentforce.yaml", ".agentforce.yml")
_CONNECTION = '{"host": …, "login": …, "password": …, "extra": {…}}'
_ORG = pytest.StashKey["_TestOrg"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("agentforce", "conversations with an Agentforce agent (*.agentforce.yaml)")
    group.addoption(
        "--agentforce-org",
        metavar="VARIABLE",
        help="hold the conversations in a real org: the environment variable with its connection as JSON, "
        "such as AIRFLOW_CONN_AGENTFORCE_DEFAULT (default: the emulator answers)",
    )
    group.addoption("--agentforce-script", metavar="FILE", help="what the emulator's agent answers")
    group.addoption(
        "--agentforce-repeat", metavar="N", type=_times, default=1, help="hold each conversation N times"
    )


def _times(text: str) -> int:
    try:
        times = int(text)
    except ValueError:
        times = 0
    if times < 1:
        raise argparse.ArgumentTypeError(f"{text!r:.40} is not a whole number of at least 1")
    return times


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Take the files with conversations."""
    if not file_path.name.endswith(_SUFFIXES):
        return None
    return ConversationFile.from_parent(parent, path=file_path)


def pytest_configure(config: pytest.Config) -> None:
    """Make the place for the org."""
    config.stash[_ORG] = _TestOrg(config)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the emulator, if it runs."""
    org = config.stash.get(_ORG, None)
    if org is not None:
        org.close()


class ConversationFile(pytest.File):
    """A file of golden conversations."""

    def collect(self) -> Iterator[ConversationItem]:
        """Yield its conversations, each as often as it must run."""
        from airflow_provider_agentforce.exceptions import AgentforceInputError  # noqa: PLC0415 - only for such a file
        from airflow_provider_agentforce.testing import golden  # noqa: PLC0415 - only for such a file

        try:
            conversations = golden.read(self.path.read_text(encoding="utf-8"), str(self.path.name))
        except (AgentforceInputError, UnicodeDecodeError) as error:
            raise self.CollectError(str(error)) from None
        repeat = self.config.getoption("--agentforce-repeat")
        for conversation in conversations:
            for time in range(1, repeat + 1):
                name = conversation.name if repeat == 1 else f"{conversation.name}[{time}]"
                yield ConversationItem.from_parent(self, name=name, conversation=conversation)


class ConversationItem(pytest.Item):
    """One golden conversation."""

    def __init__(self, *, conversation: GoldenConversation, **given: Any) -> None:
        super().__init__(**given)
        self.conversation = conversation

    def runtest(self) -> None:
        """Hold the conversation."""
        from airflow_provider_agentforce.testing.runner import ConversationTest  # noqa: PLC0415 - only for such a file

        test = ConversationTest(self.config.stash[_ORG].client, self.conversation)
        case = test.hold(test.start())
        if case.status != "passed":
            raise _NotPassedError(case)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Say what did not pass, without a traceback into this package."""
        from airflow_provider_agentforce.exceptions import one_line  # noqa: PLC0415 - only for such a file

        error = excinfo.value
        if isinstance(error, _NotPassedError):
            return error.in_words()
        if type(error).__module__.partition(".")[0] == __name__.partition(".")[0]:
            return one_line(f"{type(error).__name__}: {error}", 2000)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Name the conversation."""
        return self.path, None, self.name


class _NotPassedError(Exception):
    def __init__(self, case: Case) -> None:
        super().__init__(case.reason)
        self.case = case

    def in_words(self) -> str:
        checks = [f"{check.status}: {check.summary}" for check in self.case.checks]
        return "\n".join(
            [*checks, f"{self.case.status}: {self.case.reason}", f"session {self.case.session_id}"]
        )


class _TestOrg:
    """The org of a test run, reached when the first conversation asks for it."""

    def __init__(self, config: pytest.Config) -> None:
        self._variable = config.getoption("--agentforce-org")
        self._script = config.getoption("--agentforce-script")
        self._emulator: Any = None
        self._client: AgentforceClient | None = None

    @property
    def client(self) -> AgentforceClient:
        """The client of the org."""
        from airflow_provider_agentforce.client import AgentforceClient  # noqa: PLC0415 - only for such a file

        if self._client is None:
            self._client = AgentforceClient(_settings(self._connection()))
        return self._client

    def close(self) -> None:
        """Close what is open."""
        if self._client is not None:
            self._client.close()
        if self._emulator is not None:
            self._emulator.stop()

    def _connection(self) -> str:
        if self._variable is not None:
            return _variable(self._variable)
        from airflow_provider_agentforce.emulator import Emulator  # noqa: PLC0415 - needs its extra

        self._emulator = Emulator(script=self._script)
        self._emulator.start()
        return str(self._emulator.connection())


def _variable(name: str) -> str:
    from airflow_provider_agentforce.exceptions import AgentforceInputError  # noqa: PLC0415 - only for such a file

    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise AgentforceInputError(
            "--agentforce-org takes the name of an environment variable, such as "
            "AIRFLOW_CONN_AGENTFORCE_DEFAULT, and not the connection itself."
        )
    if not os.environ.get(name):
        raise AgentforceInputError(
            f"--agentforce-org names the environment variable {name}, which is not set. Set it to a "
            f"connection as JSON, {_CONNECTION}, or leave the option out to have the emulator answer."
        )
    return os.environ[name]


def _settings(connection: str) -> Any:
    from airflow_provider_agentforce.client import Settings  # noqa: PLC0415 - only for such a file
    from airflow_provider_agentforce.exceptions import AgentforceInputError  # noqa: PLC0415 - only for such a file

    try:
        fields = json.loads(connection)
        extra = fields.get("extra") or {}
        extra = json.loads(extra) if isinstance(extra, str) else extra
        host, login, password = (fields.get(name) for name in ("host", "login", "password"))
    except (ValueError, AttributeError, RecursionError):
        raise AgentforceInputError(
            f"The variable that --agentforce-org names must hold a connection as JSON: {_CONNECTION}."
        ) from None
    return Settings.from_fields(host=host, login=login, password=password, extra=extra)
