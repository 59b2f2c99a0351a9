"""The hook as a managed agent of the Common AI provider.

The contract is ``airflow.providers.common.ai.managed_agents.base``. It is optional (extra ``common-ai``), so
its import is guarded as in the Amazon provider. Nothing here loads pydantic-ai.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_agentforce._compat import (
    AirflowFailException,
    AirflowOptionalProviderFeatureException,
    AirflowTaskTerminated,
)
from airflow_provider_agentforce.client import Session, Settings, Turn, validation
from airflow_provider_agentforce.client.after_fork import ForkSafeLock
from airflow_provider_agentforce.client.client import AgentforceClient
from airflow_provider_agentforce.client.messages import MessageLike, given_message
from airflow_provider_agentforce.client.models import FAILED, SessionLike, SessionOptions, session_from
from airflow_provider_agentforce.client.open_session import OpenSession
from airflow_provider_agentforce.exceptions import (
    AgentFailedError,
    AgentforceError,
    AgentforceInputError,
    AgentforceTransientError,
    DeliveryUnknownError,
)
from airflow_provider_agentforce.hooks.errors import airflow_errors
from airflow_provider_agentforce.hooks.task_session import TaskSession


class MissingExtraError(AirflowOptionalProviderFeatureException, AirflowFailException):
    """The extra ``common-ai`` is not installed. Airflow does not retry the task."""


if TYPE_CHECKING:
    from airflow.providers.common.ai.exceptions import ManagedAgentInvocationError, ManagedAgentRejected
    from airflow.providers.common.ai.managed_agents.base import (
        BaseManagedAgentHook,
        BoundManagedAgent,
        ManagedAgentCapabilities,
        ManagedAgentRef,
        ManagedAgentRequest,
        ManagedAgentResponse,
    )
else:
    try:
        from airflow.providers.common.ai.exceptions import ManagedAgentInvocationError, ManagedAgentRejected
        from airflow.providers.common.ai.managed_agents.base import (
            BaseManagedAgentHook,
            ManagedAgentCapabilities,
            ManagedAgentRef,
            ManagedAgentResponse,
        )
    except ImportError:

        def _needs_common_ai(*_args: Any, **_kwargs: Any) -> Any:
            raise MissingExtraError(
                "An Agentforce agent as a managed agent needs the extra common-ai, on Python 3.11 or later: "
                "pip install 'airflow-provider-agentforce[common-ai]'."
            )

        class BaseManagedAgentHook:
            """Replaces the contract if it is not installed; ``agent()`` names the missing extra."""

            agent = _needs_common_ai

        ManagedAgentInvocationError = ManagedAgentRejected = RuntimeError
        ManagedAgentCapabilities = ManagedAgentRef = ManagedAgentResponse = _needs_common_ai

_START_OPTIONS = ("variables", "tz", "bypass_user")
_INSTEAD = ("reply", "cancel", "transfer")
_SEND_OPTIONS = ("variables", "in_reply_to", "sequence_id", *_INSTEAD)
# The org's answers to a message that a different wording could fix: not valid, too long.
_REPHRASE = frozenset({400, 413})
_first_use = ForkSafeLock()


class FinalAgentError(ManagedAgentInvocationError, AirflowFailException):
    """The agent cannot be reached, and a retry would not change that. The agent did not act.

    It ends the task without a retry by Airflow; a failover group continues with its next member.
    """


class DeliveryUnknownStop(AirflowTaskTerminated):
    """A message was sent, and whether the agent acted on it cannot be known.

    It ends the task without a retry by Airflow (Airflow 3). It is not an ``Exception``, because a failover
    group would catch that and send the message to the next member, which would also act on it.
    """


class ManagedAgentMixin(BaseManagedAgentHook):
    """Makes the hook, with its ``client`` and ``settings``, a managed-agent hook."""

    agent_platform: ClassVar[str] = "salesforce.agentforce"

    if TYPE_CHECKING:

        @property
        def settings(self) -> Settings: ...  # noqa: D102
        @property
        def client(self) -> AgentforceClient: ...  # noqa: D102

    # Every hook has its own; the contract wants a mixin without an __init__.
    held_sessions: dict[str, OpenSession]

    def agent(self, agent: str | None = None) -> BoundManagedAgent:
        """Bind an agent for ``ManagedAgentToolset`` or ``FailoverManagedAgentClient``. No call is made.

        :param agent: its id (``0Xx…``) or API name. Default: the connection's extra ``agent_id``.
        :raises AirflowOptionalProviderFeatureException: without the extra ``common-ai``.
        """
        return super().agent(agent or "")

    @airflow_errors()
    def resolve_agent(self, agent: str) -> ManagedAgentRef:
        """Return the agent's identity. This may ask Airflow for the connection, but never calls the org.

        :returns: platform ``salesforce.agentforce``, and the name as it was given.
        :raises AgentforceInputError: if *agent* cannot be an agent's id or API name.
        """
        name = validation.agent(agent, "agent") if agent else self.settings.agent()
        return ManagedAgentRef(platform=self.agent_platform, name=name)

    def get_agent_capabilities(self, agent: str) -> ManagedAgentCapabilities:  # noqa: ARG002 - the contract's
        """Return the capabilities of every agent: sessions and a trace, but no usage or typed value."""
        return ManagedAgentCapabilities(sessions=True, trace=True)

    def invoke_agent(self, agent: str, request: ManagedAgentRequest) -> ManagedAgentResponse:
        """Send one message and return the answer.

        Without ``request.session_id`` the message has its own session, which is always ended, even if a
        timeout or a kill ends the task. A given session belongs to the caller, who ends it. Messages in one
        session wait for each other. The contract has no number for a message: the hook counts in sessions
        that it started; for others pass ``vendor_options={"sequence_id": last}``.

        :param request: ``prompt`` (or one user message). ``timeout``: seconds for all calls together, and 3 s
            more for the end of the session; default: the connection's, for each call. ``vendor_options``:
            ``variables``; to start a session also ``tz`` and ``bypass_user``; in a given session also
            ``in_reply_to`` and ``sequence_id``, and instead of a prompt, which must be ``""`` then, ``reply``
            (``True`` or its items), ``cancel`` or ``transfer``, as in :meth:`.AgentforceHook.send_message`.
        :returns: ``text``: the answer; ``raw``: the dict that a send returns, with ``outcome``;
            ``session_id``: that of a session that continues; ``trace_ref``: the id of the agent's plan.
        :raises ManagedAgentRejected: the agent failed to handle the message, or a different wording could
            help.
        :raises FinalAgentError: a ``ManagedAgentInvocationError``: a retry cannot help; the agent did not
            act.
        :raises AgentforceTransientError: a later call may succeed; the agent did not act.
        :raises DeliveryUnknownStop: the agent may have acted.
        :raises AgentforceInputError: a ``ValueError``: the request cannot be used.
        """
        with airflow_errors():
            options, seconds = _options(request), _seconds(request)
            said = _said(request, options)
        with agent_errors(agent):
            client = self._ready_client().within(seconds)
            if request.session_id is None:
                with TaskSession.start(client, SessionOptions(agent or None, **options)) as own:
                    turn = own.send(said)
            else:
                session = self._session(request.session_id, options.get("sequence_id"))
                turn = session.send(said, client=client, lock_timeout=seconds, **options)
            if turn.outcome == FAILED:
                raise turn.as_error()
        return _response(turn, goes_on=request.session_id is not None and not turn.session_ended)

    def keep_session(self, agent: str, request: ManagedAgentRequest) -> TaskSession:
        """Start a session for :meth:`invoke_agent` that ends with ``end_quietly()`` or with the task.

        :param request: the first request of the session; its ``timeout`` and ``vendor_options`` are used.
        :raises Exception: as :meth:`invoke_agent`.
        """
        with airflow_errors():
            options, seconds = _options(request), _seconds(request)
        with agent_errors(agent):
            client = self._ready_client().within(seconds)
            kept = TaskSession.start(client, SessionOptions(agent or None, **options))
        self.held_sessions[kept.session.session_id] = kept
        return kept

    def hold(self, known: Session) -> OpenSession:
        """Return the one holder of a session, which knows the number of its last message and its state."""
        held = self.held_sessions.get(known.session_id)
        return held or self.held_sessions.setdefault(known.session_id, OpenSession(self.client, known))

    def forget_session(self, known: SessionLike) -> None:
        """Forget a session that is about to end."""
        self.held_sessions.pop(session_from(known).session_id, None)

    def _session(self, session_id: str, last: int | None) -> OpenSession:
        checked = validation.path_id(session_id, "session_id")
        held = self.held_sessions.get(checked)
        if held is None and last is None:
            raise AgentforceInputError(
                "The number of the session's last message is not known, because this hook did not start the "
                "session: give vendor_options={'sequence_id': n}, 0 after the start.",
                session_id=checked,
            )
        return self.hold(Session(checked, last or 0))

    def _ready_client(self) -> AgentforceClient:
        # The first use asks Airflow for the connection. Tools run in threads, and before Airflow 3.2 the
        # channel to Airflow had no lock.
        with _first_use:
            return self.client


@contextmanager
def agent_errors(agent: str) -> Iterator[None]:
    """Convert client errors to the contract's three classes and :class:`DeliveryUnknownStop`."""
    try:
        yield
    except AgentforceTransientError:
        raise
    except AgentforceError as error:
        raise _in_contract(error)(f"Agentforce agent {agent or 'of the connection'}: {error}") from error


def _in_contract(error: AgentforceError) -> type[BaseException]:
    if isinstance(error, DeliveryUnknownError):
        return DeliveryUnknownStop
    if isinstance(error, AgentFailedError) or (error.operation == "send" and error.status in _REPHRASE):
        # Not the terminal class, because a group would send the message to its next member.
        return ManagedAgentRejected
    return FinalAgentError


def _response(turn: Turn, *, goes_on: bool) -> ManagedAgentResponse:
    return ManagedAgentResponse(
        text=turn.text or f"The agent gave no text. Outcome: {turn.outcome}.",
        raw=turn.to_dict(),
        session_id=turn.session_id if goes_on else None,
        trace_ref=turn.plan_id,
    )


def _said(request: ManagedAgentRequest, options: dict[str, Any]) -> MessageLike:
    """Return the message, and remove it from *options* if it is not the prompt."""
    given: dict[str, Any] = {name: options.pop(name, None) for name in _INSTEAD}
    if all(value is None for value in given.values()):
        return _text(request)
    if request.prompt != "":
        names = ", ".join(f"vendor_options['{name}']" for name in _INSTEAD if given[name] is not None)
        raise AgentforceInputError(f"prompt must be '' if {names} is given instead.")
    return given_message(text=None, **given)


def _text(request: ManagedAgentRequest) -> str:
    text = request.prompt
    if text is None:
        try:
            (message,) = request.as_messages()
            content = message["content"]
            text = content if isinstance(content, str) else "\n".join(part["text"] for part in content)
            fits = message["role"] == "user"
        except (ValueError, KeyError, TypeError):
            fits = False
        if not fits:
            raise AgentforceInputError(
                "messages: an Agentforce agent accepts one user text at a time and keeps the "
                "conversation itself. Give prompt, and session_id to continue a session."
            )
    try:
        return validation.message_text(text, "prompt")
    except AgentforceInputError as error:
        raise ManagedAgentRejected(str(error)) from error


def _options(request: ManagedAgentRequest) -> dict[str, Any]:
    given = dict(request.vendor_options)
    known, where = (
        (_START_OPTIONS, "its own session")
        if request.session_id is None
        else (_SEND_OPTIONS, "an existing session")
    )
    unknown = sorted({str(name) for name in given} - set(known))
    if unknown:
        raise AgentforceInputError(
            f"vendor_options: {', '.join(unknown)} cannot be given; a message in {where} accepts "
            f"{', '.join(known)}. The hook's connection and agent() decide where it goes."
        )
    if "sequence_id" in given:
        given["sequence_id"] = validation.sequence_id(given["sequence_id"], "vendor_options['sequence_id']")
    return given


def _seconds(request: ManagedAgentRequest) -> float | None:
    return None if request.timeout is None else validation.positive(request.timeout, "timeout", most=3600)
