"""The class that tests and the command use: start the emulator, program faults, and inspect what happened."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce.emulator.assertions import public_key
from airflow_provider_agentforce.emulator.faults import Fault, Hold
from airflow_provider_agentforce.emulator.models import (
    DEFAULT_AGENTS,
    Agent,
    EvaluationRun,
    RequestRecord,
    SessionRecord,
)
from airflow_provider_agentforce.emulator.org import CONSUMER_KEY, CONSUMER_SECRET, EmulatorSettings, Org
from airflow_provider_agentforce.emulator.sobjects import SObject

if TYPE_CHECKING:
    from typing_extensions import Self

    from airflow_provider_agentforce.emulator.script import ScriptSource
    from airflow_provider_agentforce.emulator.server import ThreadedServer

EXTRA_HINT = "The emulator needs its extra: pip install 'airflow-provider-agentforce[emulator]'"
_EXTRA = ("fastapi", "pydantic", "uvicorn", "yaml", "jinja2", "trustme")


class Emulator:
    """A stand-in Salesforce org on this machine.

    Use it as a context manager, or call :meth:`start` and :meth:`stop`.

    :param script: the source of the answers: a YAML or Python file, a mapping, or a function
        ``answer(turn)``. None: the default agent.
    :param agents: the agents of the org. None: those of the script, else an active service agent, an inactive
        one and an employee agent.
    :param sobjects: the objects of its data, without records. None: accounts, contacts and cases, with a few
        records.
    :param settings: the fields of :class:`EmulatorSettings`.
    :raises ValueError: an invalid setting, or an invalid script (a :class:`ScriptError`).
    :raises ModuleNotFoundError: the ``[emulator]`` extra is not installed.
    """

    #: The consumer key that the token endpoint accepts.
    consumer_key = CONSUMER_KEY
    #: The consumer secret that the token endpoint accepts.
    consumer_secret = CONSUMER_SECRET

    def __init__(
        self,
        *,
        script: ScriptSource = None,
        agents: Sequence[Agent] | None = None,
        sobjects: Sequence[SObject] | None = None,
        **settings: Any,
    ) -> None:
        # Imported here, and in start(), so that a missing extra gives one clear line and not a traceback.
        require_extra()
        from airflow_provider_agentforce.emulator.script import load_script  # noqa: PLC0415

        chosen = EmulatorSettings(**settings)
        if chosen.certificate is not None:
            public_key(chosen.certificate)
        loaded = load_script(script)
        self._org = Org(chosen, list(agents or loaded.agents or DEFAULT_AGENTS), loaded, sobjects)
        self._port = chosen.port
        self._proxy_url: str | None = None
        self._server: ThreadedServer | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Serve, and return as soon as requests are answered. After a :meth:`stop` the address is the same.

        :raises OSError: the port is in use, or the file for ``tls`` cannot be written.
        :raises RuntimeError: the server did not start.
        """
        from airflow_provider_agentforce.emulator.app import build_app  # noqa: PLC0415
        from airflow_provider_agentforce.emulator.server import ThreadedServer  # noqa: PLC0415

        if self._server is not None:
            return
        from airflow_provider_agentforce.emulator.tls import server_context  # noqa: PLC0415

        host, ca_file = self._org.settings.host, self._org.settings.tls
        server = ThreadedServer(
            build_app(self._org),
            host=host,
            port=self._port,
            keep_alive=self._org.settings.keep_alive,
            tls=server_context(ca_file) if ca_file else None,
        )
        self._port = server.port
        name = f"[{host}]" if ":" in host else host
        self._org.url = f"{'https' if ca_file else 'http'}://{name}:{server.port}"
        server.start()
        self._proxy_url = f"http://{name}:{server.proxy.port}" if server.proxy else None
        self._server = server

    def stop(self) -> None:
        """Close every connection and end the server; its records can still be read."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def reset(self) -> None:
        """Forget sessions, requests, faults, holds, tokens, test runs, published versions and changed
        records.
        """
        self._org.reset()

    @property
    def url(self) -> str:
        """The address of the org, for both My Domain and the Agent API."""
        return self._org.url

    @property
    def proxy_url(self) -> str | None:
        """The proxy that redirects Salesforce's hosts to this org; None without the setting ``tls``."""
        return self._proxy_url

    @property
    def agents(self) -> list[Agent]:
        """The agents of the org."""
        return list(self._org.agents)

    @property
    def agent_id(self) -> str:
        """The id of the first active agent that is not an employee agent; else of the first agent."""
        usable = (agent for agent in self._org.agents if agent.active and not agent.employee)
        return next(usable, self._org.agents[0]).id

    def connection(self, **extra: Any) -> str:
        """Return the Airflow connection to this org, as JSON for ``AIRFLOW_CONN_AGENTFORCE_DEFAULT``."""
        connection = {
            "conn_type": "agentforce",
            "host": self.url,
            "login": self.consumer_key,
            "password": self.consumer_secret,
            "extra": {"agent_id": self.agent_id, "api_url": self.url, **extra},
        }
        return json.dumps(connection)

    def fail(self, operation: str, **fault: Any) -> Fault:
        """Program a fault for the next requests of ``operation``, after those programmed before.

        :param operation: ``token``, ``start``, ``send``, ``end``, ``feedback``, ``trace``,
            ``session_trace``, ``query``, ``write`` or ``test``.
        :param fault: the fields of :class:`Fault`.
        :raises ValueError: an unknown operation or error, or fields that exclude each other.
        """
        return self._org.fail(Fault(operation=operation, **fault))

    def unused_faults(self) -> list[Fault]:
        """Return the faults that no request has met, or fewer requests than programmed."""
        return self._org.faults.unused()

    def hold(self, operation: str) -> Hold:
        """Keep requests of ``operation`` waiting, from now until the hold is released.

        :raises ValueError: an unknown operation, or one that is held already.
        """
        return self._org.hold(operation)

    def revoke_tokens(self) -> None:
        """Make every token issued so far answer 401."""
        self._org.revoke_tokens()

    @property
    def tokens_issued(self) -> int:
        """The number of tokens issued."""
        return len(self._org.tokens)

    @property
    def requests(self) -> list[RequestRecord]:
        """Every request, in order of arrival. Its ``headers`` and ``body`` contain secrets unchanged."""
        return list(self._org.requests)

    def count(self, operation: str) -> int:
        """Return how many requests of ``operation`` arrived."""
        return sum(record.operation == operation for record in self.requests)

    @property
    def sessions(self) -> dict[str, SessionRecord]:
        """Every session by its id, in order of their start."""
        return dict(self._org.sessions)

    @property
    def open_sessions(self) -> list[str]:
        """The ids of the open sessions."""
        return [session.session_id for session in self.sessions.values() if session.open]

    @property
    def test_runs(self) -> dict[str, EvaluationRun]:
        """Every run of an agent test by its id, in order of their start."""
        return dict(self._org.test_runs)

    def publish(self, agent_id: str | None = None) -> None:
        """Publish and activate a new version of an agent, as its builder does.

        :param agent_id: default: :attr:`agent_id`.
        """
        agents, chosen = self._org.agents, agent_id or self.agent_id
        self._org.agents = [
            replace(agent, version=agent.version + 1) if agent.id == chosen else agent for agent in agents
        ]

    def records(self, sobject: str) -> list[dict[str, Any]]:
        """Return the records of an object, each a dict of all its fields, in the order of creation.

        :raises KeyError: an unknown object.
        """
        return self._org.records.all(sobject)

    def add_records(self, sobject: str, records: Iterable[Mapping[str, Any]]) -> list[str]:
        """Add records of an object and return their ids.

        :raises ValueError: an unknown object or field.
        """
        ids = [self._org.records.add(sobject, record) for record in records]
        self._org.changed()
        return ids

    def add_rule(self, sobject: str, rule: Callable[[dict[str, Any]], str | None]) -> None:
        """Check each record of an object with a validation rule before it is written.

        :param rule: receives the record as it would be written, and returns why it is refused, or None.
        """
        self._org.records.add_rule(sobject, rule)

    def lock_record(self, record_id: str, *, times: int = 1) -> None:
        """Lock a record as another process would: its next ``times`` writes answer ``UNABLE_TO_LOCK_ROW``."""
        self._org.records.lock(record_id, times)

    @property
    def read_only(self) -> bool:
        """Whether the org is under maintenance and refuses every write; may be set."""
        return self._org.records.read_only

    @read_only.setter
    def read_only(self, value: bool) -> None:
        self._org.records.read_only = value

    def applied(self, text: str | None = None) -> int:
        """Return how many messages the agent acted on, all or those with this ``text``; resends count."""
        turns = [turn for session in self.sessions.values() for turn in session.turns]
        return sum(turn.applied for turn in turns if text is None or turn.text == text)


def require_extra() -> None:
    """Check that the extra is installed.

    :raises ModuleNotFoundError: it is not.
    """
    if any(importlib.util.find_spec(name) is None for name in _EXTRA):
        raise ModuleNotFoundError(EXTRA_HINT)
