"""The connection and the hook, as a user of ``@task`` functions and of the Test button meets them."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
from base64 import b64encode
from concurrent.futures import ProcessPoolExecutor
from copy import copy, deepcopy
from urllib.parse import parse_qs, urlencode

import keys
import pytest
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.log import mask_logs

from airflow_provider_agentforce._compat import mask_secret
from airflow_provider_agentforce.exceptions import (
    AgentforceInputError,
    AgentforceTransientError,
    DeliveryUnknownError,
)
from airflow_provider_agentforce.hooks import agentforce
from airflow_provider_agentforce.hooks.agentforce import AgentforceHook, settings_of
from airflow_provider_agentforce.operators import ConversationOperator

CANARY = "canary/secret+42 %"


@pytest.fixture
def airflow_masker(monkeypatch):
    """Let Airflow mask what the hook names, and return what it makes of a value."""
    monkeypatch.setattr(agentforce, "mask_secret", mask_secret)
    return lambda value: str(mask_logs(None, "info", {"event": value}))


@pytest.fixture
def connect(monkeypatch):
    """Set the default connection and give a hook for it."""

    def use(**fields):
        monkeypatch.setenv(
            "AIRFLOW_CONN_AGENTFORCE_DEFAULT", json.dumps({"conn_type": "agentforce", **fields})
        )
        return AgentforceHook()

    return use


class TestConnection:
    def test_every_field_arrives(self, connect):
        settings = connect(
            host="acme--uat.sandbox.my.salesforce.com",
            login=" key ",
            password="secret\n",
            extra={
                "agent_id": "0Xxxx0000000001CAA",
                "timeout": "60",
                "max_concurrent_sessions": 10,
                "api_url": "",
            },
        ).settings
        assert settings.host == "https://acme--uat.sandbox.my.salesforce.com"
        assert (settings.consumer_key, settings.consumer_secret) == ("key", "secret")
        assert (settings.agent_id, settings.api_url) == ("0Xxxx0000000001CAA", None)
        assert (settings.timeout, settings.max_concurrent_sessions) == (60.0, 10)
        assert (settings.max_sessions_per_hour, settings.max_messages_per_session) == (1000, 100)
        assert "secret" not in repr(settings)

    def test_a_uri_works_too(self, monkeypatch, org):
        host = org.url.removeprefix("http://")
        uri = f"agentforce://{org.consumer_key}:{org.consumer_secret}@{host}/?agent_id={org.agent_id}"
        monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", uri)
        with AgentforceHook().conversation() as chat:
            assert chat.send("order 7?").text

    @pytest.mark.parametrize(
        ("host", "port", "address"),
        [
            ("https://acme.my.salesforce.com", 443, "https://acme.my.salesforce.com"),
            ("acme.my.salesforce.com/", 443, "https://acme.my.salesforce.com"),
            ("https://acme.my.salesforce.com", 0, "https://acme.my.salesforce.com"),
            ("http://127.0.0.1", 8765, "http://127.0.0.1:8765"),
            ("http://127.0.0.1:8765", 8765, "http://127.0.0.1:8765"),
            ("https://gateway.acme.example", 8443, "https://gateway.acme.example:8443"),
        ],
    )
    def test_the_port_may_stand_in_its_own_field_or_in_both(self, connect, host, port, address):
        assert connect(host=host, port=port, login="key", password="secret").settings.host == address

    def test_two_different_ports_are_an_error(self, connect):
        with pytest.raises(AgentforceInputError, match="8765:9"):
            _ = connect(host="http://127.0.0.1:8765", port=9, login="key", password="secret").settings

    def test_all_missing_fields_and_unknown_extras_are_in_one_error(self, connect):
        with pytest.raises(AgentforceInputError) as caught:
            _ = connect(host=" ", extra={"agentid": "x", "verify": False}).settings
        text = str(caught.value)
        for part in (
            "agentforce_default",
            "host",
            "login",
            "password",
            "agentid, verify",
            "agent_id",
            "timeout",
        ):
            assert part in text
        assert "\n" not in text

    @pytest.mark.parametrize(
        ("fields", "named"),
        [
            ({"host": "http://acme.my.salesforce.com"}, "https"),
            ({"host": "https://me:pw@acme.my.salesforce.com"}, "host"),
            ({"host": "https://acme.my.salesforce.com/services"}, "host"),
            ({"host": "https://login.salesforce.com"}, "My Domain"),
            ({"host": "https://acme.lightning.force.com"}, "My Domain"),
            ({"schema": "https"}, "schema"),
            ({"extra": "{not json"}, "extra"),
            ({"extra": "[1]"}, "extra"),
            ({"extra": '{"timeout": 50, "timeout": 5}'}, "extra .* the name 'timeout' occurs twice"),
            ({"extra": {"timeout": 0}}, "timeout"),
            ({"extra": {"max_sessions_per_hour": 0}}, "max_sessions_per_hour"),
            ({"extra": {"max_messages_per_session": "many"}}, "max_messages_per_session"),
            ({"extra": {"api_url": "http://example.com"}}, "api_url"),
            ({"extra": {"agent_id": "a/b"}}, "agent_id"),
            ({"extra": {"limits_conn_id": "redis default"}}, "limits_conn_id must be the id of a connection"),
            (
                {"extra": {"limits_conn_id": "nowhere"}},
                "limits_conn_id: the connection 'nowhere' does not exist",
            ),
            ({"extra": {"share_token": "perhaps"}}, "share_token must be true or false"),
        ],
    )
    def test_a_field_that_cannot_be_used_is_named(self, connect, fields, named):
        good = {"host": "https://acme.my.salesforce.com", "login": "key", "password": CANARY}
        with pytest.raises(AgentforceInputError, match=named) as caught:
            _ = connect(**{**good, **fields}).client
        assert isinstance(caught.value, AirflowFailException)
        assert "canary" not in str(caught.value)
        assert ":pw@" not in str(caught.value)

    @pytest.mark.parametrize(
        ("uri", "told"),
        [
            ("redis://:canary@redis.internal:6379/3", "Set the extra db"),
            ("redis://:canary@redis.internal:6379/3?db=4", "Set the extra db"),
            ("redis://:canary@redis.internal", "needs a host and a port"),
            ("rediss://:canary@redis.internal:6379", "set the extra ssl"),
            ("redis://:canary@redis.internal:6379/?cluster=true", "A Redis cluster is not supported"),
        ],
    )
    def test_what_the_connection_of_the_limits_says_in_vain_is_refused(self, connect, monkeypatch, uri, told):
        monkeypatch.setenv("AIRFLOW_CONN_THE_LIMITS", uri)
        hook = connect(
            host="https://acme.my.salesforce.com",
            login="key",
            password=CANARY,
            extra={"limits_conn_id": "the_limits"},
        )
        with pytest.raises(AgentforceInputError, match=f"limits_conn_id: .*'the_limits' .*{told}") as caught:
            _ = hook.client
        assert "canary" not in str(caught.value)

    @pytest.mark.parametrize(
        ("value", "wrong"),
        [
            (None, "does not exist"),
            ("{", "cannot be read: the environment variable {} does not contain a connection as JSON"),
            (f'{{"password": "{CANARY}", "hots": "x"}}', "cannot be read: .* {} .* as JSON"),
            ("agentforce://key:canary@host:no/", "cannot be read: .* {} .* as a URI"),
        ],
    )
    def test_a_connection_that_airflow_passes_over_is_not_said_to_be_missing(self, monkeypatch, value, wrong):
        if value is not None:
            monkeypatch.setenv("AIRFLOW_CONN_SALES", value)
        with pytest.raises(AgentforceInputError, match=wrong.format("AIRFLOW_CONN_SALES")) as caught:
            _ = AgentforceHook("sales").settings
        assert str(caught.value).startswith("Connection sales: it ")
        assert "canary" not in str(caught.value)

    def test_no_agent_anywhere_says_where_to_name_one(self, connect, org):
        connection = json.loads(org.connection())
        del connection["extra"]["agent_id"]
        with pytest.raises(AgentforceInputError, match="extra agent_id"):
            connect(**connection).start_session()


PEM = keys.pem_of(keys.rsa_key())


@pytest.fixture
def named_user(make_org, tmp_path, connect):
    """Give a hook for a named user of an org, with changes of its connection; the org is its ``org``."""
    certificate = tmp_path / "app.pem"
    certificate.write_text(keys.certificate(keys.rsa_key()))
    org = make_org(certificate=str(certificate), usernames=keys.USERNAME)

    def build(login=org.consumer_key, **extra):
        given = {"auth": "jwt_bearer", "username": keys.USERNAME, "private_key": PEM, **extra}
        connection = json.loads(org.connection(**given))
        return connect(**{**connection, "login": login, "password": None})

    build.org = org
    return build


class TestNamedUser:
    def test_an_employee_agent_answers_without_a_password_and_without_more_arguments(self, named_user):
        employee = next(agent for agent in named_user.org.agents if agent.employee)
        with named_user().conversation(employee.developer_name) as chat:
            assert chat.send("order 7?").text
        (session,) = named_user.org.sessions.values()
        assert session.bypass_user is False

    def test_an_operator_asks_it_likewise(self, named_user, run):
        employee = next(agent for agent in named_user.org.agents if agent.employee)
        named_user()
        operator = ConversationOperator(task_id="ask", agent_id=employee.id, messages=["order 7?"])
        assert run(operator).error is None
        (session,) = named_user.org.sessions.values()
        assert session.bypass_user is False

    def test_a_uri_holds_the_key_too(self, named_user, monkeypatch):
        org = named_user.org
        extra = {"auth": "jwt_bearer", "username": keys.USERNAME, "private_key": PEM, "api_url": org.url}
        host = org.url.removeprefix("http://")
        uri = f"agentforce://{org.consumer_key}@{host}/?{urlencode(extra)}"
        monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", uri)
        assert AgentforceHook().test_connection()[0]

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"login": "another"}, "App: "),
            ({"username": "stranger@acme.com"}, "User: "),
            ({"audience": "https://test.salesforce.com"}, "Audience: "),
            ({"private_key": keys.pem_of(keys.rsa_key(1))}, "Key: "),
            ({"private_key": keys.pem_of(keys.rsa_key(1))[:400]}, "private_key is not a PEM"),
            ({"username": None}, "needs a username"),
        ],
        ids=["app", "user", "audience", "key", "PEM", "no user"],
    )
    def test_the_test_button_names_what_is_wrong(self, named_user, changes, named):
        works, message = named_user(**changes).test_connection()
        assert not works
        assert named in message
        assert message.replace("\n", "").isprintable()
        assert keys.quoted(PEM, message) == []

    def test_the_test_button_names_the_user_of_a_good_connection(self, named_user):
        works, message = named_user().test_connection()
        assert works, message
        assert f"for {keys.USERNAME}" in message

    def test_a_key_in_the_place_of_a_name_is_not_shown(self, connect):
        connect(extra={PEM: "x"})
        for hook in (AgentforceHook(), AgentforceHook(PEM)):
            with pytest.raises(AgentforceInputError) as caught:
                hook.settings  # noqa: B018 - reading it is what is tested
            assert keys.quoted(PEM, str(caught.value)) == []

    def test_airflow_masks_the_key_in_logs_and_rendered_fields(self, named_user, airflow_masker):
        _ = named_user().client
        encoded = b64encode(PEM.encode()).decode()
        for text in (PEM, PEM.replace("\n", "\\n"), PEM.replace("\n", ""), encoded):
            shown = airflow_masker({"message": f"key {text}", "lines": text.splitlines()})
            assert keys.quoted(PEM, shown) + keys.quoted(encoded[48:-48], shown) == []

    def test_airflow_masks_an_assertion(self, named_user, airflow_masker):
        hook = named_user()
        hook.start_session()
        (sent,) = [record.body for record in named_user.org.requests if record.operation == "token"]
        (assertion,) = parse_qs(sent)["assertion"]
        assert keys.quoted(assertion, airflow_masker(f"sent {assertion}")) == []


class TestTheTestButton:
    def test_a_good_connection_tells_what_was_found(self, org):
        works, message = AgentforceHook().test_connection()
        assert works, message
        address = org.url.removeprefix("http://")
        for part in (address, "a JWT for 30 minutes", "chatbot_api", org.agent_id, "no session was started"):
            assert part in message
        assert org.count("start") == 0

    def test_airflow_masks_every_form_of_the_secret_before_it_is_used(self, org, connect, monkeypatch):
        named = {}
        monkeypatch.setattr(agentforce, "mask_secret", lambda form: named.setdefault(form, len(org.requests)))
        hook = connect(**{**json.loads(org.connection()), "password": CANARY})
        hook.test_connection()
        forms = settings_of(hook.get_connection("agentforce_default")).secret_forms()
        assert len(forms) > 1
        assert forms <= {form for form, requests in named.items() if requests == 0}

    def test_a_wrong_secret_is_named_and_not_shown(self, org, connect):
        works, message = connect(**{**json.loads(org.connection()), "password": CANARY}).test_connection()
        assert not works
        assert "✗ secret: " in message
        assert "Check the consumer secret" in message
        assert "canary" not in message

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"host": "https://acme.my.salesforce.com"}, "lacks login (consumer key), password"),
            ({"host": "https://login.salesforce.com", "login": "k", "password": CANARY}, "My Domain"),
            ({"extra": f'{{"{CANARY}"'}, "extra must be a JSON object"),
            ({"schema": "x"}, "schema is not used"),
        ],
        ids=["incomplete", "login host", "broken extra", "schema"],
    )
    def test_a_connection_that_cannot_be_read_is_an_answer_too(self, connect, fields, words):
        works, message = connect(**fields).test_connection()
        assert not works
        assert words in message.splitlines()[0]
        assert message.startswith("✗ settings: ")
        assert "canary" not in message

    def test_the_made_up_id_of_airflow_s_test_is_not_shown(self, org, monkeypatch):
        monkeypatch.setenv("AIRFLOW_CONN_X7F3QZ", json.dumps({"conn_type": "agentforce"}))
        for conn_id in ("x7f3qz", "gone"):
            assert conn_id not in AgentforceHook(conn_id).test_connection()[1]

    def test_each_check_is_a_line_of_printable_words(self, org):
        org.fail("token", body={"access_token": "eyJ.e30.x", "scope": "api\n✓ token: \u202ea JWT"})
        message = AgentforceHook().test_connection()[1]
        assert all(line.isprintable() for line in message.splitlines())
        assert len(message.splitlines()) == 11


class TestInATask:
    def test_a_conversation_in_a_function(self, org):
        hook = AgentforceHook()
        with hook.conversation(variables={"$Context.Tier": "gold"}) as chat:
            first = chat.send("order 7?")
            second = chat.send("order 8?", stream=True)
            hook.submit_feedback(first, first.feedback_id, "GOOD", text="clear")
        assert (first.sequence_id, second.sequence_id) == (1, 2)
        assert org.open_sessions == []
        (session,) = org.sessions.values()
        assert len(session.feedback) == 1

    def test_the_steps_one_by_one(self, org):
        hook = AgentforceHook()
        session = hook.start_session()
        turn = hook.send_message(session, "order 7?")
        again = hook.send_message(turn.to_dict(), "order 8?")
        assert hook.end_session(again) is True
        assert hook.end_session(session) is False
        assert org.tokens_issued == 1

    @pytest.mark.parametrize("given", ["as it stands", "as it was started"])
    def test_the_hook_and_its_conversation_count_together(self, org, given):
        hook = AgentforceHook()
        with hook.conversation() as talk:
            started = talk.session
            talk.send("one")
            hook.send_message(talk.session if given == "as it stands" else started, "two")
            talk.send("three")
        (session,) = org.sessions.values()
        assert [(turn.sequence_id, turn.text) for turn in session.turns] == [
            (1, "one"),
            (2, "two"),
            (3, "three"),
        ]

    def test_the_hook_answers_the_question_of_a_turn_that_it_did_not_get(self, org):
        hook = AgentforceHook()
        asked = hook.send_message(hook.start_session(), "refund order 7").to_dict()
        turn = AgentforceHook().send_message(asked, reply=asked["messages"][0]["confirm"])
        assert (turn.sequence_id, turn.text) == (2, "Done.")
        assert hook.end_session(turn) is True

    def test_after_an_unknown_delivery_the_session_takes_no_other_message(self, org):
        hook = AgentforceHook()
        session = hook.start_session()
        org.fail("send", status=504, after=True)
        with pytest.raises(DeliveryUnknownError):
            hook.send_message(session, "change it")
        with pytest.raises(AgentforceInputError, match="last message is unknown") as caught:
            hook.send_message(session, "change it")
        assert isinstance(caught.value, AirflowFailException)
        assert org.count("send") == 1
        assert hook.end_session(session) is True

    def test_an_unknown_delivery_ends_the_task_whatever_its_retries(self, org):
        org.fail("send", status=504, after=True)
        with pytest.raises(DeliveryUnknownError) as caught, AgentforceHook().conversation() as chat:
            chat.send("change it")
        assert isinstance(caught.value, AirflowFailException)
        assert org.open_sessions == []

    @pytest.mark.parametrize("client", [AgentforceHook.get_conn, lambda hook: hook.client.within(60)])
    def test_the_hook_s_client_ends_the_task_too(self, org, client):
        hook = AgentforceHook()
        session = hook.start_session()
        org.fail("send", status=504, after=True)
        with pytest.raises(DeliveryUnknownError) as caught:
            client(hook).send_message(session, "change it")
        assert isinstance(caught.value, AirflowFailException)
        assert hook.end_session(session) is True
        assert org.tokens_issued == 1

    def test_a_hook_that_was_used_goes_to_other_processes_and_copies_and_makes_its_client_there(self, org):
        hook = AgentforceHook()
        session = hook.start_session()
        pickled = pickle.dumps(hook)
        assert org.consumer_secret.encode() not in pickled
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            turn = pool.submit(hook.send_message, session, "order 7?").result()
        assert turn.sequence_id == 1
        assert deepcopy(hook).send_message(turn, "order 8?").sequence_id == 2
        assert copy(hook).send_message(turn.to_dict() | {"sequence_id": 2}, "order 9?").sequence_id == 3
        assert hook.end_session(session) is True
        assert org.tokens_issued <= 4

    @pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
    def test_a_forked_child_leaves_the_session_to_the_process_that_started_it(self, org):
        child = -1
        try:
            with AgentforceHook().conversation() as chat:
                chat.send("order 7?")
                child = os.fork()
                if child == 0:
                    raise KeyError
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
                assert len(org.open_sessions) == 1
                assert chat.send("order 8?").sequence_id == 2
        finally:
            if child == 0:
                os._exit(0)
        assert org.open_sessions == []

    def test_a_passing_error_is_left_to_the_retries(self, org):
        org.fail("start", status=503, times=2)
        with pytest.raises(AgentforceTransientError) as caught:
            AgentforceHook().start_session()
        assert not isinstance(caught.value, AirflowFailException)


def test_the_forms_of_older_airflow_name_the_same_fields():
    behaviour = AgentforceHook.get_ui_field_behaviour()
    assert set(behaviour) == {"hidden_fields", "relabeling", "placeholders"}
    assert behaviour["relabeling"]["host"] == "My Domain URL"


class TestQuery:
    def test_records_come_in_pages(self, org):
        org.add_records("Account", ({"Name": f"More {number}"} for number in range(2500)))
        found = AgentforceHook().query("SELECT Name, Owner.Username FROM Account ORDER BY CreatedDate")
        assert next(found) == {"Name": "Acme", "Owner": {"Username": "agent.user@emulator.example"}}
        assert (sum(1 for _ in found), org.count("query")) == (2507, 2)

    def test_a_mistake_ends_the_task_and_an_outage_leaves_it_to_its_retries(self, org):
        with pytest.raises(AirflowFailException, match="MALFORMED_QUERY"):
            AgentforceHook().query("SELECT Id FROM")
        org.add_records("Account", ({"Name": f"More {number}"} for number in range(2500)))
        found = AgentforceHook().query("SELECT Name FROM Account")
        org.fail("query", status=403)
        with pytest.raises(AirflowFailException, match="403"):
            list(found)
        org.fail("query", status=503, times=3)
        with pytest.raises(AgentforceTransientError):
            AgentforceHook().query("SELECT Name FROM Account")
