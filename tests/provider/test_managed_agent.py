"""Agentforce agents as managed agents of the Common AI provider: asked by a model, a group, a program."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from urllib.parse import urlsplit

import pytest
import wire
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_agentforce.client.messages import Transfer
from airflow_provider_agentforce.emulator import Emulator
from airflow_provider_agentforce.exceptions import (
    AgentforceInputError,
    AgentforceTransientError,
    RateLimitedError,
    SessionBusyError,
)
from airflow_provider_agentforce.hooks.agentforce import AgentforceHook
from airflow_provider_agentforce.hooks.managed_agent import DeliveryUnknownStop, FinalAgentError

if sys.version_info < (3, 11):
    pytest.skip("the Common AI provider needs Python 3.11", allow_module_level=True)

from airflow.providers.common.ai.exceptions import ManagedAgentInvocationError, ManagedAgentRejected
from airflow.providers.common.ai.managed_agents.base import (
    BaseManagedAgentHook,
    ManagedAgentClient,
    ManagedAgentRequest,
)
from airflow.providers.common.ai.managed_agents.failover import FailoverManagedAgentClient
from airflow.providers.common.ai.toolsets import ManagedAgentToolset
from airflow.sdk.listener import get_listener_manager
from pydantic_ai import Agent
from pydantic_ai.messages import ModelResponse, RetryPromptPart, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.test import TestModel

from airflow_provider_agentforce.toolsets import AgentforceToolset


def ask(prompt="order 7?", **fields):
    return ManagedAgentRequest(prompt=prompt, **fields)


def numbers(org):
    return [[turn.sequence_id for turn in session.turns] for session in org.sessions.values()]


def texts(org):
    return [[turn.text for turn in session.turns] for session in org.sessions.values()]


@pytest.fixture
def hook(org):
    return AgentforceHook()


@pytest.fixture
def agent(org, hook):
    return hook.agent(org.agent_id)


class Says(FunctionModel):
    """A model that calls the tool ``ask`` with each of *prompts*, at once or in turn, and then is done.

    ``heard``: what the tool told it.
    """

    def __init__(self, *prompts, at_once=False):
        self.heard = []
        self.prompts = [prompts] if at_once else [(one,) for one in prompts]
        super().__init__(self.respond)

    def respond(self, messages, info):
        parts = messages[-1].parts
        self.heard += [p.content for p in parts if isinstance(p, ToolReturnPart | RetryPromptPart)]
        if not self.prompts:
            return ModelResponse(parts=[TextPart("done")])
        return ModelResponse(parts=[ToolCallPart("ask", {"prompt": one}) for one in self.prompts.pop(0)])


class TestContract:
    def test_the_hook_is_a_managed_agent_hook_and_says_who_the_agent_is_without_a_call(
        self, org, hook, agent
    ):
        assert isinstance(hook, BaseManagedAgentHook)
        assert isinstance(agent, ManagedAgentClient)
        assert (agent.ref.platform, agent.ref.name) == ("salesforce.agentforce", org.agent_id)
        capabilities = agent.capabilities
        assert (capabilities.sessions, capabilities.trace) == (True, True)
        assert (capabilities.usage, capabilities.structured_output) == (False, False)
        assert org.requests == []

    def test_without_a_name_it_is_the_agent_of_the_connection(self, org, hook):
        assert hook.agent().ref.name == org.agent_id
        assert hook.agent().invoke(ask()).text.startswith("Order 7")

    def test_it_may_be_given_by_its_api_name(self, org, hook):
        assert hook.agent("Service_Agent").invoke(ask()).text.startswith("Order 7")
        assert [session.agent_id for session in org.sessions.values()] == [org.agent_id]

    def test_what_cannot_be_an_agent_is_named(self, hook):
        with pytest.raises(AgentforceInputError, match="agent"):
            _ = hook.agent("../x").ref

    def test_an_answer_is_whole_and_its_session_is_ended(self, org, agent):
        response = agent.invoke(ask())
        assert response.text.startswith("Order 7")
        assert response.raw["outcome"] == "answered"
        assert response.raw["results"][0]["value"]["order"] == "7"
        assert response.trace_ref == response.raw["plan_id"]
        assert response.trace_ref is not None
        assert response.session_id is None
        assert org.open_sessions == []

    def test_an_answer_without_text_says_what_came_of_it(self, monkeypatch):
        with Emulator(script=lambda _: {"messages": [{"type": "Escalate"}]}) as other:
            monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_OTHER", other.connection())
            response = AgentforceHook("agentforce_other").agent().invoke(ask())
        assert response.text == "The agent gave no text. Outcome: escalated."

    def test_one_user_message_does_for_a_prompt(self, org, agent):
        agent.invoke(ManagedAgentRequest(messages=ask("order 8?").as_messages()))
        agent.invoke(ManagedAgentRequest(messages=[{"role": "user", "content": "order 9?"}]))
        assert texts(org) == [["order 8?"], ["order 9?"]]

    @pytest.mark.parametrize(
        "messages",
        [
            [],
            [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
            [{"role": "assistant", "content": "a"}],
            [{"role": "user", "content": [{"type": "image"}]}],
            ["a"],
        ],
    )
    def test_other_messages_are_refused_before_anything_is_sent(self, org, agent, messages):
        with pytest.raises(ValueError, match=r"messages: .* prompt"):
            agent.invoke(ManagedAgentRequest(messages=messages))
        assert org.requests == []

    def test_the_start_takes_variables_time_zone_and_user(self, org, agent):
        options = {"variables": {"$Context.A": "b"}, "tz": "Europe/Berlin", "bypass_user": False}
        agent.invoke(ask(vendor_options=options))
        (session,) = org.sessions.values()
        assert session.variables["$Context.A"] == "b"
        assert (session.tz, session.bypass_user) == ("Europe/Berlin", False)

    @pytest.mark.parametrize("name", ["agent_id", "api_url", "session_id", "sequence_id", "host"])
    def test_no_option_leads_the_call_elsewhere(self, org, agent, name):
        with pytest.raises(
            ValueError, match=f"{name} cannot be given.* variables, tz, bypass_user"
        ) as caught:
            agent.invoke(ask(vendor_options={name: "x"}))
        assert isinstance(caught.value, AirflowFailException)
        assert org.requests == []


class TestSessions:
    def test_messages_go_on_in_a_session_and_its_owner_ends_it(self, org, hook, agent):
        with hook.conversation() as chat:
            session_id = chat.session.session_id
            first = agent.invoke(ask("Please refund order 1.", session_id=session_id))
            assert first.raw["outcome"] == "needs_confirmation"
            second = agent.invoke(ask("yes", session_id=first.session_id))
            assert second.text == "Done."
            assert org.open_sessions == [session_id]
        assert numbers(org) == [[1, 2]]
        assert org.open_sessions == []

    @pytest.mark.parametrize(
        ("answer", "type_", "reply"),
        [
            ({"reply": True}, "Reply", "Done."),
            ({"cancel": True}, "Cancel", "All right, I changed nothing."),
            ({"transfer": Transfer()}, "TransferSucceeded", None),
        ],
        ids=["reply", "cancel", "transfer"],
    )
    def test_a_confirmation_is_answered_with_a_reply_or_a_cancel(
        self, org, hook, agent, answer, type_, reply
    ):
        with hook.conversation() as chat:
            session_id = chat.session.session_id
            agent.invoke(ask("Please refund order 1.", session_id=session_id))
            with pytest.raises(ValueError, match="prompt must be ''"):
                agent.invoke(ask("yes", session_id=session_id, vendor_options=answer))
            last = agent.invoke(ask("", session_id=session_id, vendor_options=answer))
        assert reply in (None, last.text)
        assert last.raw["request"]["type"] == type_

    def test_a_conversation_of_five_messages_opens_one_connection(self, org, monkeypatch):
        with wire.Relay(urlsplit(org.url).port) as relay:
            connection = json.loads(org.connection())
            connection["extra"]["api_url"] = relay.url
            monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", json.dumps(connection))
            hook = AgentforceHook()
            agent = hook.agent(org.agent_id)
            with hook.conversation() as chat:
                for _ in range(5):
                    agent.invoke(ask(session_id=chat.session.session_id, timeout=30))
        assert numbers(org) == [[1, 2, 3, 4, 5]]
        assert relay.accepted == 1

    def test_messages_of_the_hook_are_counted_too(self, org, hook, agent):
        session = hook.start_session()
        turn = hook.send_message(session, "one")
        agent.invoke(ask("two", session_id=session.session_id))
        hook.end_session(turn)
        assert numbers(org) == [[1, 2]]
        with pytest.raises(FinalAgentError, match="sequence_id"):
            agent.invoke(ask("three", session_id=session.session_id))

    def test_a_session_of_another_task_needs_the_number_of_its_last_message(self, org, agent):
        elsewhere = AgentforceHook()
        turn = elsewhere.send_message(elsewhere.start_session(), "one")
        with pytest.raises(ManagedAgentInvocationError, match=r"vendor_options=\{'sequence_id': n\}"):
            agent.invoke(ask("two", session_id=turn.session_id))
        last = {"sequence_id": str(turn.sequence_id), "variables": {"$Context.A": "b"}}
        agent.invoke(ask("two", session_id=turn.session_id, vendor_options=last))
        agent.invoke(ask("three", session_id=turn.session_id))
        assert numbers(org) == [[1, 2, 3]]
        elsewhere.end_quietly(turn)

    def test_a_number_that_is_none_is_refused(self, org, agent):
        with pytest.raises(ValueError, match="sequence_id"):
            agent.invoke(ask(session_id="x", vendor_options={"sequence_id": "first"}))
        assert org.requests == []

    def test_a_failed_answer_uses_up_its_number_and_an_unknown_one_closes_the_session(self, org, hook, agent):
        with hook.conversation() as chat:
            session_id = chat.session.session_id
            with pytest.raises(ManagedAgentRejected):
                agent.invoke(ask("please fail", session_id=session_id))
            agent.invoke(ask("two", session_id=session_id))
            org.fail("send", status=500)
            with pytest.raises(DeliveryUnknownStop):
                agent.invoke(ask("three", session_id=session_id))
            with pytest.raises(FinalAgentError, match="unknown; start a new session"):
                agent.invoke(ask("four", session_id=session_id))
        assert numbers(org) == [[1, 2]]
        assert org.open_sessions == []

    def test_threads_take_turns_in_a_session(self, org, hook, agent):
        with hook.conversation() as chat, ThreadPoolExecutor(8) as threads:
            session_id = chat.session.session_id
            list(threads.map(lambda n: agent.invoke(ask(f"order {n}?", session_id=session_id)), range(8)))
        assert numbers(org) == [list(range(1, 9))]

    def test_a_message_that_waits_too_long_for_another_is_not_sent(self, org, hook, agent):
        with hook.conversation() as chat, ThreadPoolExecutor(1) as threads, org.hold("send") as hold:
            session_id = chat.session.session_id
            first = threads.submit(agent.invoke, ask("one", session_id=session_id))
            hold.wait_until_held()
            with pytest.raises(SessionBusyError):
                agent.invoke(ask("two", session_id=session_id, timeout=0.05))
            hold.release()
            assert first.result().text
        assert texts(org) == [["one"]]

    def test_threads_without_a_session_have_one_each_and_share_a_token(self, org, agent):
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda n: agent.invoke(ask(f"order {n}?")), range(8)))
        assert numbers(org) == [[1]] * 8
        assert org.open_sessions == []
        assert org.tokens_issued == 1


# What the org does, what the caller gets of it, and whether a failover group may go on to another agent.
FAULTS = [
    ("token", {"status": 400}, FinalAgentError, True),
    ("start", {"status": 404}, FinalAgentError, True),
    ("start", {"status": 429, "times": 3}, RateLimitedError, True),
    ("start", {"status": 500}, AgentforceTransientError, True),
    ("send", {"status": 403}, FinalAgentError, True),
    ("send", {"status": 429, "times": 3}, RateLimitedError, True),
    ("send", {"status": 400}, ManagedAgentRejected, False),
    ("send", {"status": 413}, ManagedAgentRejected, False),
    ("send", {"status": 500}, DeliveryUnknownStop, False),
    ("send", {"drop": True}, DeliveryUnknownStop, False),
    ("send", {"status": 503, "after": True}, DeliveryUnknownStop, False),
    ("send", {"cut": 5, "after": True}, DeliveryUnknownStop, False),
]


class TestErrors:
    @pytest.mark.parametrize(("operation", "fault", "kind", "_again"), FAULTS)
    def test_a_failure_is_in_its_class_and_leaves_no_session(
        self, org, agent, operation, fault, kind, _again
    ):
        org.fail(operation, **fault)
        with pytest.raises(kind) as caught:
            agent.invoke(ask())
        assert org.consumer_secret not in str(caught.value)
        assert org.open_sessions == []

    @pytest.mark.parametrize("case", FAULTS)
    def test_a_group_goes_on_to_the_next_agent_only_if_the_first_did_not_act(
        self, org, agent, monkeypatch, case
    ):
        operation, fault, kind, again = case
        with Emulator() as standby:
            monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_STANDBY", standby.connection())
            group = FailoverManagedAgentClient([agent, AgentforceHook("agentforce_standby").agent()])
            org.fail(operation, **fault)
            if again:
                assert group.invoke(ask("change it")).text
            else:
                with pytest.raises(kind):
                    group.invoke(ask("change it"))
            assert org.applied() + standby.applied() <= 1
            assert standby.applied() == again
            assert org.open_sessions + standby.open_sessions == []

    def test_a_failed_answer_is_no_reason_to_ask_another_agent(self, org, agent):
        group = FailoverManagedAgentClient([agent, agent])
        with pytest.raises(ManagedAgentRejected, match=r"Agentforce agent 0Xx.*outcome failed"):
            group.invoke(ask("please fail"))
        assert org.count("send") == 1

    @pytest.mark.parametrize("prompt", ["", "  \n", "\ud800"])
    def test_a_prompt_that_cannot_be_sent_can_be_said_anew(self, org, agent, prompt):
        with pytest.raises(ManagedAgentRejected, match="prompt"):
            agent.invoke(ask(prompt))
        assert org.requests == []

    def test_a_wrong_connection_is_final(self, monkeypatch):
        monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_BARE", '{"conn_type": "agentforce"}')
        with pytest.raises(FinalAgentError, match=r"agent 0Xx1: .*agentforce_bare.*lacks host") as caught:
            AgentforceHook("agentforce_bare").agent("0Xx1").invoke(ask())
        assert isinstance(caught.value, ManagedAgentInvocationError)
        assert isinstance(caught.value, AirflowFailException)


class TestTimeout:
    def test_the_time_is_that_of_all_calls_together(self, org, agent):
        with org.hold("send") as hold, ThreadPoolExecutor(1) as threads:
            asked = threads.submit(agent.invoke, ask(timeout=0.4))
            hold.wait_until_held()
            # It is cut by its own time, not by that of the connection. The org keeps its session locked.
            assert isinstance(asked.exception(60), DeliveryUnknownStop)
        assert org.count("end") > 1

    def test_a_start_that_takes_too_long_sends_no_message(self, org, agent):
        with org.hold("start"), pytest.raises(AgentforceTransientError):
            agent.invoke(ask(timeout=0.3))
        assert org.count("send") == 0

    def test_a_token_that_takes_all_the_time_starts_no_session(self, org, agent):
        org.fail("token", delay=0.3)
        with pytest.raises(AgentforceTransientError):
            agent.invoke(ask(timeout=0.2))
        assert org.count("start") == 0

    def test_a_time_of_one_call_does_not_bind_the_next(self, org, agent):
        with org.hold("start"), pytest.raises(AgentforceTransientError):
            agent.invoke(ask(timeout=0.3))
        assert agent.invoke(ask(timeout=60)).text

    @pytest.mark.parametrize("timeout", [0, -1, float("nan"), 10**6])
    def test_a_time_that_is_none_is_refused(self, org, agent, timeout):
        with pytest.raises(ValueError, match="timeout"):
            agent.invoke(ask(timeout=timeout))
        assert org.requests == []


class TestToolset:
    def test_a_model_asks_the_agent_and_gets_its_answer(self, org, agent):
        toolset = ManagedAgentToolset(agent, tool_name="ask")
        result = Agent(TestModel(), toolsets=[toolset]).run_sync("How is order 7?")
        assert result.output == '{"ask":"I am the emulator\'s agent and heard: a"}'
        assert org.open_sessions == []

    def test_a_model_says_anew_what_the_agent_failed_at(self, org, agent):
        model = Says("please fail", "order 7?")
        toolset = ManagedAgentToolset(agent, tool_name="ask")
        assert Agent(model, toolsets=[toolset]).run_sync("x").output == "done"
        assert "outcome failed" in model.heard[0]
        assert model.heard[1].startswith("Order 7")
        assert numbers(org) == [[1], [1]]
        assert org.open_sessions == []

    def test_two_calls_at_once_are_two_sessions(self, org, agent):
        model = Says("order 1?", "order 2?", at_once=True)
        Agent(model, toolsets=[ManagedAgentToolset(agent, tool_name="ask")]).run_sync("x")
        assert min(model.heard).startswith("Order 1")
        assert numbers(org) == [[1], [1]]

    def test_an_unknown_delivery_ends_the_run_though_a_group_and_a_model_are_in_between(self, org, agent):
        org.fail("send", status=500)
        toolset = ManagedAgentToolset(FailoverManagedAgentClient([agent, agent]), tool_name="ask")
        with pytest.raises(DeliveryUnknownStop, match="Whether the agent acted cannot be known"):
            Agent(Says("change it", "again"), toolsets=[toolset]).run_sync("x")
        assert org.count("send") == 1
        assert org.open_sessions == []


class TestConversation:
    @pytest.fixture
    def toolset(self, agent):
        return AgentforceToolset(agent, tool_name="ask", vendor_options={"variables": {"$Context.A": "b"}})

    def test_a_model_answers_what_the_agent_asks_back(self, org, toolset):
        model = Says("Please refund order 1.", "yes")
        Agent(model, toolsets=[toolset]).run_sync("x")
        assert model.heard == ["Shall I go ahead? You asked: Please refund order 1.", "Done."]
        assert numbers(org) == [[1, 2]]
        assert next(iter(org.sessions.values())).variables["$Context.A"] == "b"
        assert org.open_sessions == []

    def test_a_copy_of_its_dag_talks_too(self, org, toolset):
        copied = deepcopy(toolset)
        assert copied.client.invoke(ask()).text
        assert toolset.client.invoke(ask()).text
        assert numbers(org) == [[1], [1]]
        copied.client.end()
        toolset.client.end()
        assert org.open_sessions == []

    def test_every_run_has_its_own_session(self, org, toolset):
        for _ in range(2):
            Agent(Says("order 1?"), toolsets=[toolset]).run_sync("x")
        Agent(Says(), toolsets=[toolset]).run_sync("x")
        assert numbers(org) == [[1], [1]]
        assert org.open_sessions == []

    def test_calls_at_once_wait_for_each_other(self, org, toolset):
        model = Says("order 1?", "order 2?", at_once=True)
        Agent(model, toolsets=[toolset]).run_sync("x")
        assert numbers(org) == [[1, 2]]

    def test_the_session_ends_though_the_run_fails(self, org, toolset):
        def breaks(messages, info):
            if len(messages) > 1:
                raise RuntimeError("the model is away")
            return ModelResponse(parts=[ToolCallPart("ask", {"prompt": "order 1?"})])

        with pytest.raises(RuntimeError, match="away"):
            Agent(FunctionModel(breaks), toolsets=[toolset]).run_sync("x")
        assert numbers(org) == [[1]]
        assert org.open_sessions == []

    def test_after_the_agent_ended_the_session_another_starts(self, org, toolset):
        Agent(Says("goodbye", "order 1?"), toolsets=[toolset]).run_sync("x")
        assert texts(org) == [["goodbye"], ["order 1?"]]
        assert org.open_sessions == []

    def test_a_time_holds_for_the_start_and_the_message_together(self, org, agent):
        toolset = AgentforceToolset(agent, tool_name="ask", timeout=0.3)
        with org.hold("start"), pytest.raises(AgentforceTransientError):
            Agent(Says("order 1?"), toolsets=[toolset]).run_sync("x")
        assert org.count("send") == 0
        Agent(Says("order 1?"), toolsets=[AgentforceToolset(agent, tool_name="ask", timeout=9)]).run_sync("x")
        assert org.applied("order 1?") == 1

    def test_only_an_agentforce_agent_can_be_talked_to(self, agent):
        with pytest.raises(AgentforceInputError, match="ManagedAgentToolset"):
            AgentforceToolset(FailoverManagedAgentClient([agent, agent]), tool_name="ask")

    def test_its_session_is_not_for_others(self, agent, toolset):
        client = toolset.client
        assert client.ref == agent.ref
        assert not client.capabilities.sessions
        with pytest.raises(AgentforceInputError, match="session_id"):
            client.invoke(ask(session_id="x"))


class TestEndOfTask:
    """Airflow calls its listeners when a task ends, however it ends; then it ends the process."""

    @pytest.fixture(autouse=True)
    def plugins(self):
        """The listeners of a running task: Airflow loads them before it."""
        return get_listener_manager()

    def end_the_task(self):
        get_listener_manager().hook.before_stopping(component=None)

    def test_a_message_under_way_is_cut_and_its_session_ended(self, monkeypatch, caplog):
        slow = {"answers": [{"match": "", "text": "Late.", "latency": 1}]}
        with Emulator(script=slow) as org, org.hold("send") as hold, ThreadPoolExecutor(1) as threads:
            monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_SLOW", org.connection())
            asked = threads.submit(AgentforceHook("agentforce_slow").agent().invoke, ask("change it"))
            hold.wait_until_held()
            hold.release()
            self.end_the_task()
            assert isinstance(asked.exception(5), DeliveryUnknownStop)
            assert org.open_sessions == []
            assert org.applied() == 1
        assert "The task is ending while session" in caplog.text

    def test_a_conversation_whose_run_was_cut_off_is_ended(self, org, agent):
        conversation = AgentforceToolset(agent, tool_name="ask").client
        conversation.invoke(ask())
        assert len(org.open_sessions) == 1
        self.end_the_task()
        assert org.open_sessions == []
        self.end_the_task()
        conversation.end()
        assert org.count("end") == 1

    def test_a_conversation_that_ends_cuts_its_message_and_takes_no_other(self, monkeypatch, caplog):
        slow = {"answers": [{"match": "", "text": "Late.", "latency": 1}]}
        with Emulator(script=slow) as org, org.hold("send") as hold, ThreadPoolExecutor(2) as threads:
            monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_SLOW", org.connection())
            bound = AgentforceHook("agentforce_slow").agent()
            conversation = AgentforceToolset(bound, tool_name="ask").client
            first = threads.submit(conversation.invoke, ask("change it"))
            hold.wait_until_held()
            second = threads.submit(conversation.invoke, ask("and this"))
            hold.release()
            conversation.end()
            assert isinstance(first.exception(5), DeliveryUnknownStop)
            assert isinstance(second.exception(5), AgentforceInputError)
            assert (org.count("send"), org.count("start"), org.open_sessions) == (1, 1, [])
        assert "was cut off" in caplog.text

    def test_a_session_of_another_owner_is_left_to_him(self, org, hook, agent):
        with hook.conversation() as chat:
            agent.invoke(ask(session_id=chat.session.session_id))
            self.end_the_task()
            assert org.open_sessions == [chat.session.session_id]


def test_a_hook_loads_no_pydantic_ai():
    code = (
        "import sys, airflow_provider_agentforce.hooks.agentforce;"
        "assert 'airflow.providers.common.ai.managed_agents.base' in sys.modules;"
        "assert 'pydantic_ai' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_the_extra_the_hook_works_and_agent_names_it(org):
    code = (
        "import sys; sys.modules['airflow.providers.common.ai.managed_agents'] = None\n"
        "from airflow_provider_agentforce.hooks.agentforce import AgentforceHook\n"
        "with AgentforceHook().conversation() as chat: print(chat.send('order 7?').text)\n"
        "AgentforceHook().agent('0Xx1')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Order 7" in done.stdout
    assert "MissingExtraError" in done.stderr
    assert "airflow-provider-agentforce[common-ai]" in done.stderr
    assert org.open_sessions == []
