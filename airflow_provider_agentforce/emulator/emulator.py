"""The emulator as a test or a command sees it: start it, program it, look at what happened."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce.emulator.faults import Fault, Hold
from airflow_provider_agentforce.emulator.models import DEFAULT_AGENTS, Agent, RequestRecord, SessionRecord
from airflow_provider_agentforce.emulator.org import CONSUMER_KEY, CONSUMER_SECRET, Org
from airflow_provider_agentforce.emulator.settings import Mode, Settings

if TYPE_CHECKING:
    from typing_extensions import Self

    from airflow_provider_agentforce.emulator.script import ScriptSource
    from airflow_provider_agentforce.emulator.server import ThreadedServer

EXTRA_HINT = "The emulator needs its extra: pip install 'airflow-provider-agentforce[emulator]'"
_EXTRA = ("fastapi", "uvicorn", "yaml", "jinja2")


class Emulator:
    """A stand-in Salesforce org on this machine.

    Use it as a context manager, or call :meth:`start` and :meth:`stop`.

    :param script: where the answers come from: a YAML or Python file, a mapping, or a function
        ``answer(turn)``. None is the default agent.
    :param port: TCP port; 0 picks a free one.
    :param host: a loopback address.
    :param agents: the agents of the org. None: those of the script, else an active service agent, an inactive
        one and an employee agent.
    :param mode: ``official``, or ``seed`` for the answer shapes of the original guide.
    :param token_lifetime: seconds until a token expires.
    :param opaque_tokens: issue tokens that are no JWT. The Agent API answers those with a bare 404.
    :param reject_opaque: false lets opaque tokens pass.
    :param run_as_user: false refuses tokens as an app without a Run As user does.
    :param strict_sequence: accept only the last ``sequenceId`` plus one.
    :param max_concurrent_sessions: open sessions, above which a start answers 429.
    :param max_sessions_per_hour: starts within an hour, above which a start answers 429.
    :param max_messages_per_session: messages, above which a send answers 429.
    :param retry_after: seconds to send as ``Retry-After`` with those 429; None sends no such header.
    :param inactive_status: how an inactive agent answers a start: 404, 412, 422 or 500.
    :param session_idle_timeout: seconds without a request after which a session is gone; None: never.
    :param feedback_status: 201 or 202.
    :param latency: seconds that the agent takes for a message, unless the script says otherwise.
    :param keep_alive: seconds that an idle connection is kept open.
    :raises ValueError: a setting that cannot be, or a bad script (a :class:`ScriptError`).
    :raises ModuleNotFoundError: the ``[emulator]`` extra is not installed.
    """

    def __init__(
        self,
        *,
        script: ScriptSource = None,
        port: int = 0,
        host: str = "127.0.0.1",
        agents: Sequence[Agent] | None = None,
        mode: Mode = "official",
        token_lifetime: float = 1800.0,
        opaque_tokens: bool = False,
        reject_opaque: bool = True,
        run_as_user: bool = True,
        strict_sequence: bool = False,
        max_concurrent_sessions: int = 50,
        max_sessions_per_hour: int = 1000,
        max_messages_per_session: int = 100,
        retry_after: float | None = None,
        inactive_status: int = 404,
        session_idle_timeout: float | None = None,
        feedback_status: int = 201,
        latency: float = 0.0,
        keep_alive: int = 5,
    ) -> None:
        # Imported here, and in start(), so that a missing extra gives one clear line and not a traceback.
        _require_extra()
        from airflow_provider_agentforce.emulator.script import load_script  # noqa: PLC0415

        settings = Settings(
            port=port,
            host=host,
            mode=mode,
            token_lifetime=token_lifetime,
            opaque_tokens=opaque_tokens,
            reject_opaque=reject_opaque,
            run_as_user=run_as_user,
            strict_sequence=strict_sequence,
            max_concurrent_sessions=max_concurrent_sessions,
            max_sessions_per_hour=max_sessions_per_hour,
            max_messages_per_session=max_messages_per_session,
            retry_after=retry_after,
            inactive_status=inactive_status,
            session_idle_timeout=session_idle_timeout,
            feedback_status=feedback_status,
            latency=latency,
            keep_alive=keep_alive,
        )
        loaded = load_script(script)
        self._org = Org(settings, list(agents or loaded.agents or DEFAULT_AGENTS), loaded)
        self._port = port
        self._server: ThreadedServer | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Serve; return when requests are answered. After a :meth:`stop` it serves at the same address again.

        :raises OSError: the port is taken.
        """
        from airflow_provider_agentforce.emulator.app import build_app  # noqa: PLC0415
        from airflow_provider_agentforce.emulator.server import ThreadedServer  # noqa: PLC0415

        if self._server is not None:
            return
        settings = self._org.settings
        server = ThreadedServer(
            build_app(self._org), host=settings.host, port=self._port, keep_alive=settings.keep_alive
        )
        self._port = server.port
        name = f"[{settings.host}]" if ":" in settings.host else settings.host
        self._org.url = f"http://{name}:{server.port}"
        server.start()
        self._server = server

    def stop(self) -> None:
        """Close every connection and end the server; what happened can still be looked at."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def reset(self) -> None:
        """Forget sessions, requests, faults, holds and tokens; keep script, agents and settings."""
        self._org.reset()

    @property
    def url(self) -> str:
        """The address of the org, which is My Domain and Agent API host in one."""
        return self._org.url

    @property
    def consumer_key(self) -> str:
        """The consumer key that the token endpoint accepts."""
        return CONSUMER_KEY

    @property
    def consumer_secret(self) -> str:
        """The consumer secret that the token endpoint accepts."""
        return CONSUMER_SECRET

    @property
    def agents(self) -> list[Agent]:
        """The agents of the org."""
        return list(self._org.agents)

    @property
    def agent_id(self) -> str:
        """The id of the first active agent that is no employee agent; else of the first agent."""
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

    def fail(
        self,
        operation: str,
        *,
        error: str | None = None,
        status: int | None = None,
        times: int = 1,
        after: bool = False,
        drop: bool = False,
        cut: int | None = None,
        delay: float = 0.0,
        body: dict[str, Any] | list[Any] | str | bytes | None = None,
        headers: dict[str, str] | None = None,
        content_type: str | None = None,
    ) -> Fault:
        """Program a fault for the next requests of ``operation``, behind those programmed before.

        :param operation: ``token``, ``start``, ``send``, ``end``, ``feedback``, ``query`` or ``test``.
        :param error: a documented answer by its name; ``docs/emulator.md`` lists them.
        :param status: an HTTP status, with its documented body.
        :param times: how many requests it meets.
        :param after: the org acts first, then this is the answer.
        :param drop: close the connection without a byte.
        :param cut: close the connection after so many bytes of body.
        :param delay: seconds before the answer.
        :param body: the body, in the place of the documented or usual one.
        :param headers: headers to add or replace.
        :param content_type: the content type, in the place of the usual one.
        :raises ValueError: an unknown operation or error, or arguments that exclude each other.
        """
        fault = Fault(
            operation=operation,
            error=error,
            status=status,
            times=times,
            after=after,
            drop=drop,
            cut=cut,
            delay=delay,
            body=body,
            headers=headers,
            content_type=content_type,
        )
        self._org.faults.add(fault)
        self._org.changed()
        return fault

    def unused_faults(self) -> list[Fault]:
        """Return the faults that no request has met, or fewer requests than programmed."""
        return self._org.faults.unused()

    def hold(self, operation: str) -> Hold:
        """Keep requests of ``operation`` waiting, from now until the hold is released."""
        return self._org.hold(operation)

    def revoke_tokens(self) -> None:
        """Make every token issued so far answer 401."""
        self._org.tokens.revoke_all()

    @property
    def tokens_issued(self) -> int:
        """How many tokens were issued."""
        return len(self._org.tokens)

    @property
    def requests(self) -> list[RequestRecord]:
        """Every request, in order of arrival. Its ``headers`` and ``body`` hold secrets as they were sent."""
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
        """The ids of the sessions that are open."""
        return [session.session_id for session in self.sessions.values() if session.open]

    def applied(self, text: str | None = None) -> int:
        """Return how many messages the agent acted on, all or those with this ``text``; resends count."""
        turns = [turn for session in self.sessions.values() for turn in session.turns]
        return sum(turn.applied for turn in turns if text is None or turn.text == text)


def _require_extra() -> None:
    if any(importlib.util.find_spec(name) is None for name in _EXTRA):
        raise ModuleNotFoundError(EXTRA_HINT)
