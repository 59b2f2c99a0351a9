"""Random faults, kills and retries against random messages: the promise holds on every path.

``AGENTFORCE_SOAK`` sets how many runs are tried (each of up to 20 steps), ``AGENTFORCE_SEED`` from where.
"""

from __future__ import annotations

import contextlib
import json
import os

import pytest
import requests
from airflow.sdk.exceptions import AirflowFailException
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from stand_ins import StateStore, TaskInstance

from airflow_provider_agentforce.client import Turn
from airflow_provider_agentforce.client.org_state import forget_orgs
from airflow_provider_agentforce.emulator import Emulator
from airflow_provider_agentforce.exceptions import AgentforceError, DeliveryUnknownError, InvalidOutputError
from airflow_provider_agentforce.operators import (
    EndSessionOperator,
    SendMessageOperator,
    StartSessionOperator,
)
from airflow_provider_agentforce.structured import OutputType

RUNS = int(os.environ.get("AGENTFORCE_SOAK", "25"))
SEED = int(os.environ.get("AGENTFORCE_SEED", "1"))

REFUSALS = st.sampled_from([400, 401, 403, 404, 408, 409, 412, 413, 423, 425, 429]).map(
    lambda status: {"status": status}
)
BROKEN = st.builds(
    lambda how, after: {**how, "after": after},
    # The documented 422 refuses before anything is done; one without those words may not.
    st.sampled_from(
        [{"status": 422, "body": ""}, {"drop": True}] + [{"status": s} for s in (500, 502, 503, 504, 520)]
    ),
    st.booleans(),
)
GARBLED = st.sampled_from(
    [{"cut": 10}, {"cut": 300}, {"body": "<html>"}, {"body": b"\xff\xfe"}, {"body": [1]}]
)
FAULTS = st.lists(st.one_of(REFUSALS, BROKEN, GARBLED), max_size=3)
KILLS = st.sampled_from([None, None, None, 1, 2])


class KilledError(BaseException):
    """The process is gone: a send has nothing that would run after it."""


def end():
    raise KilledError


def question_about(output_type):
    output = OutputType(output_type)
    with pytest.raises(InvalidOutputError) as caught:
        output.read(Turn("session", 1, "agent", "no JSON", "answered"))
    return output.question(caught.value)


class Message:
    """One logical message: a task with all its tries."""

    def __init__(self, number, session, stream, corrected):
        self.text, self.session, self.stream = f"message {number}", session, stream
        # The agent echoes every message, which is no JSON, but gives some when it is asked for it.
        self.output_type = {"title": f"of {self.text}", "required": ["heard"]} if corrected else None
        self.question = question_about(self.output_type) if corrected else None
        self.store, self.tries, self.doubtful, self.answer = StateStore(end), 0, False, None

    def run_try(self, kill_at):
        self.tries += 1
        self.store.ends_at = None if kill_at is None else self.store.written + kill_at
        operator = SendMessageOperator(
            task_id="send",
            session=self.session,
            text=self.text,
            stream=self.stream,
            output_type=self.output_type,
            retries=3,
        )
        ti = TaskInstance(self.tries, max_tries=100)
        return operator.execute({"ti": ti, "task_state_store": self.store})


class Deliveries(RuleBasedStateMachine):
    """Sends messages through an org that breaks in every way, and keeps count."""

    org: Emulator

    @initialize()
    def begin(self):
        self.org.reset()
        forget_orgs()
        self.number, self.message, self.done = 0, None, []
        self.errors = []
        self.session = StartSessionOperator(task_id="start").execute({"ti": TaskInstance(1)})

    @rule(faults=FAULTS, kill_at=KILLS, stream=st.booleans(), corrected=st.booleans())
    def try_to_send(self, faults, kill_at, stream, corrected):
        if self.message is None:
            self.number += 1
            self.message = Message(self.number, self.session, stream, corrected)
        for fault in faults:
            self.org.fail("send", **fault)
        try:
            answer = self.message.run_try(kill_at)
        except KilledError:
            self.message.doubtful = True
        except AgentforceError as error:
            self.failed(error)
        else:
            self.succeeded(answer)
        requests.delete(f"{self.org.url}/emulator/faults", timeout=5)

    def failed(self, error):
        message = self.message
        self.errors.append(error)
        applied = self.org.applied(message.text)
        if error.applied is False and not message.doubtful:
            assert applied == 0, f"said not applied: {error}"
        if isinstance(error, DeliveryUnknownError):
            assert isinstance(error, AirflowFailException)
        message.doubtful = message.doubtful or error.applied is not False
        if isinstance(error, AirflowFailException):
            self.close()

    def succeeded(self, answer):
        message = self.message
        assert self.org.applied(message.text) == 1
        if message.question is None:
            assert message.text in answer["text"]
        else:
            assert self.org.applied(message.question) == 1
            assert answer["result"] == {"heard": message.question}
        sent = self.org.count("send")
        assert message.run_try(None) == answer, "a later try returns the recorded answer"
        assert self.org.count("send") == sent
        self.session = answer
        self.close()

    def close(self):
        self.done.append(self.message)
        self.message = None

    @rule(ending=FAULTS, starting=FAULTS)
    def end_and_start_again(self, ending, starting):
        if self.message is not None:
            return
        for fault in ending:
            self.org.fail("end", **fault)
        with contextlib.suppress(AgentforceError):
            EndSessionOperator(task_id="end", session=self.session).execute({"ti": TaskInstance(1)})
        for fault in starting:
            self.org.fail("start", **fault)
        before = set(self.org.sessions)
        try:
            self.session = StartSessionOperator(task_id="start").execute({"ti": TaskInstance(1)})
        except AgentforceError as error:
            self.errors.append(error)
            requests.delete(f"{self.org.url}/emulator/faults", timeout=5)
            self.session = StartSessionOperator(task_id="start").execute({"ti": TaskInstance(2)})
        requests.delete(f"{self.org.url}/emulator/faults", timeout=5)
        assert self.session["session_id"] in set(self.org.open_sessions) - before

    @rule()
    def revoke_the_tokens(self):
        self.org.revoke_tokens()

    @invariant()
    def no_message_was_acted_on_twice(self):
        for message in getattr(self, "done", []):
            assert self.org.applied(message.text) <= 1
            assert message.question is None or self.org.applied(message.question) <= 1

    @invariant()
    def no_secret_is_anywhere(self):
        for message in getattr(self, "done", []):
            assert "eyJ" not in json.dumps(message.store.values)
        for error in getattr(self, "errors", []):
            shown = str(error) + repr(error) + error.body
            assert self.org.consumer_secret not in shown
            assert "eyJ" not in shown


def echo(turn):
    wants_json = turn.text.startswith("Your last answer")
    return json.dumps({"heard": turn.text}) if wants_json else f"You said: {turn.text}"


@pytest.fixture
def echoing_org(monkeypatch):
    with Emulator(script=echo) as org:
        monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", org.connection(timeout=2))
        yield org


def test_whatever_breaks_no_message_is_acted_on_twice_and_no_answer_is_lost(echoing_org):
    Deliveries.org = echoing_org
    chosen = settings(
        max_examples=RUNS,
        stateful_step_count=20,
        deadline=None,
        database=None,
        print_blob=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(seed(SEED)(Deliveries), settings=chosen)
