"""The operator that runs golden conversations with an agent."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce._compat import Context
from airflow_provider_agentforce.client import validation
from airflow_provider_agentforce.exceptions import (
    AgentforceAuthError,
    AgentforceError,
    AgentforceInputError,
)
from airflow_provider_agentforce.operators._identity import key_of
from airflow_provider_agentforce.operators._ledger import Ledger, LedgerEntry, unreadable_entry
from airflow_provider_agentforce.operators._paths import check_literal_uri, files_of
from airflow_provider_agentforce.operators._testing import AgentTesting

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.agent_test_results import Case
    from airflow_provider_agentforce.client.client import AgentforceClient
    from airflow_provider_agentforce.testing.golden import GoldenConversation
    from airflow_provider_agentforce.testing.runner import ConversationTest


class ConversationTestOperator(AgentTesting):
    """Run conversations that are written in YAML, and fail unless the answers meet their expectations.

    **Sends**, for each conversation and repetition, the start of a session, its messages up to the first
    answer that does not pass, and the end. The agent acts on them as on all messages. **Returns** a dict with
    ``status`` (``passed``), ``passed``, ``failed``, ``errors`` (counts), and ``cases``, one dict each with
    ``number``, ``name``, ``status``, ``reason``, ``seconds``, ``session_id`` and ``repetition``; if there are
    too many for XCom, those that did not pass come first, and others are left out. The result of an earlier
    pass has ``skipped`` (``True``), too. If the task fails because of the cases, the XCom ``result`` has the
    same dict.

    **A retry** on Airflow 3.3 and later keeps the finished conversations, and continues with the others. A
    conversation that was cut off is not repeated: it counts as an error. On older Airflow a retry repeats all
    of them. Clearing the task also repeats all of them.

    **Templated:** ``conversations``, ``agent_id``, ``junit_path``, ``result_path``, ``agentforce_conn_id``.

    :param conversations: URI of a YAML file, or of several with a pattern (``file:///tests/*.yaml``), or a
        list of URIs.
    :param repeat: how often each conversation runs; each run is a case of ``min_pass_rate``. The log says
        ``refund: 2 of 3 passed``.
    :param agent_id: id (``0Xx…``) or API name of the agent of conversations that name none. Default: the
        connection's extra ``agent_id``.
    :param min_pass_rate: share of the cases that must pass, from 0 to 1. A case that ends with an error
        always fails the task.
    :param junit_path: URI of a file for the results as JUnit XML.
    :param result_path: URI of a folder for all results (``results.json``), the same for every Dag run.
    :param skip_if_passed_within: return the result of an earlier pass of the same conversations that is not
        older than this, and send nothing, if the agents' active versions are those that passed, and enough
        cases passed for the current *min_pass_rate*. Needs ``result_path``.
    :param agentforce_conn_id: connection of type ``agentforce``.
    """

    template_fields: Sequence[str] = ("conversations", *AgentTesting.template_fields)

    def __init__(self, *, conversations: Any, repeat: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conversations = conversations
        self.repeat = _repetitions(repeat)
        self.check_literals()

    def check_arguments(self) -> None:
        """Refuse literals that are not URIs, or cannot be the name of an agent."""
        super().check_arguments()
        given = self.conversations if isinstance(self.conversations, list | tuple) else [self.conversations]
        for uri in given:
            check_literal_uri(uri, "conversations")

    def execute(self, context: Context) -> dict[str, Any]:
        """Hold the conversations, or the rest of those that an earlier try has begun."""
        from airflow_provider_agentforce.hooks.errors import airflow_errors  # noqa: PLC0415
        from airflow_provider_agentforce.testing.report import Report  # noqa: PLC0415 - not at parse time

        with airflow_errors():
            self.check_paths()
            conversations = _read(self.conversations)
            client = self.open_client()
            agents = [self._agent(client, one) for one in conversations]
            self.link_to(agents[0], context)
            fingerprint = self.fingerprint_in_org(agents, [one.text for one in conversations], self.repeat)
            versions = self._versions(client, agents)
            passed = self.earlier_pass(fingerprint, versions, context)
            if passed is not None:
                return passed
            cases = self._cases(client, conversations, fingerprint, context)
            report = Report(self.task_id, cases)
            if self.skip_if_passed_within is not None and report.passes(self.min_pass_rate):
                versions = self.unchanged(versions, self._versions(client, agents))
            return self.conclude(report, fingerprint, versions, context)

    def _agent(self, client: AgentforceClient, conversation: GoldenConversation) -> str:
        return client.settings.agent(conversation.agent or self.agent_id)

    def _versions(self, client: AgentforceClient, agents: Sequence[str]) -> Mapping[str, str | None]:
        if self.skip_if_passed_within is None:
            return {}
        return {agent: self.version_of(client, agent) for agent in dict.fromkeys(agents)}

    def _cases(
        self,
        client: AgentforceClient,
        conversations: Sequence[GoldenConversation],
        fingerprint: str,
        context: Context,
    ) -> list[Case]:
        from airflow_provider_agentforce.testing.runner import ConversationTest  # noqa: PLC0415 - not at parse time

        ledger, task_key = Ledger.of(context), uuid.UUID(key_of(context["ti"]))
        cases = []
        planned = [(one, time) for one in conversations for time in range(1, self.repeat + 1)]
        for number, (conversation, repetition) in enumerate(planned, 1):
            self.check_not_killed()
            test = ConversationTest(
                client,
                conversation,
                number=number,
                agent=self._agent(client, conversation),
                repetition=repetition if self.repeat > 1 else None,
                external_session_key=str(uuid.uuid5(task_key, f"case {number}")),
            )
            case = _hold_once(client, test, ledger, f"case_{number}", fingerprint)
            self.log.info("%s: %s%s", case.name, case.status, f" ({case.reason})" if case.reason else "")
            cases.append(case)
        return cases


def _repetitions(given: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise validation.refusal(given, "repeat", "must be a whole number of at least 1")
    return given


def _hold_once(
    client: AgentforceClient, test: ConversationTest, ledger: Ledger, key: str, fingerprint: str
) -> Case:
    """Hold a conversation, unless an earlier try has."""
    entry = ledger.read(key)
    if entry is not None and entry.fingerprint != fingerprint:
        raise AgentforceInputError(
            "The conversations, their agent or the connection have changed since an earlier try held some of "
            "them. Clear the task to hold all of them again."
        )
    if entry is not None and entry.done:
        return _case_in(entry)
    left = (entry.value or {}).get("session") if entry is not None else None
    return test.cut(left) if left is not None else _hold(client, test, ledger, key, fingerprint)


def _hold(
    client: AgentforceClient, test: ConversationTest, ledger: Ledger, key: str, fingerprint: str
) -> Case:
    try:
        session = test.start(
            before_send=lambda sent: ledger.intend(key, fingerprint, {"external_session_key": sent})
        )
    except AgentforceError as error:
        # No message was sent.
        ledger.forget(key)
        if error.retryable or isinstance(error, AgentforceAuthError):
            raise
        return test.failed_start(error)
    try:
        ledger.intend(key, fingerprint, {"session": session.to_dict()})
    except BaseException:
        client.end_quietly(session)
        raise
    case = test.hold(session)
    ledger.settle(
        key, fingerprint, {"case": {**asdict(case), "checks": [asdict(check) for check in case.checks]}}
    )
    return case


def _case_in(entry: LedgerEntry) -> Case:
    from airflow_provider_agentforce.testing.report import case_from  # noqa: PLC0415 - not at parse time

    try:
        return case_from((entry.value or {})["case"])
    except (KeyError, TypeError, ValueError):
        raise unreadable_entry("case") from None


def _read(given: Any) -> list[GoldenConversation]:
    from airflow_provider_agentforce.testing import golden  # noqa: PLC0415 - not at parse time

    found, places = [], []
    for path in files_of(given, "conversations"):
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            raise AgentforceInputError(f"{path.name}: not UTF-8.") from None
        read = golden.read(text, path.name)
        places += [(f"{path}, line {one.line}", one.name) for one in read]
        found += read
    golden.refuse_same_names(places)
    return found
