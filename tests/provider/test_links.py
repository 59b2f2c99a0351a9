"""The link from a task to its agent in Salesforce."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
import trustme
import wire

from airflow_provider_agentforce.emulator import Emulator
from airflow_provider_agentforce.links import agent as links
from airflow_provider_agentforce.links.agent import LINK_XCOM, AgentLink, agent_url
from airflow_provider_agentforce.operators import (
    ConversationOperator,
    EndSessionOperator,
    SendMessageOperator,
    StartSessionOperator,
    _base,
)

AGENT = "0XxSB000000IPCr0AO"
MY_DOMAIN = "https://acme.my.salesforce.com"
PAGE = f"{MY_DOMAIN}/lightning/setup/EinsteinCopilot/{AGENT}/edit"


def shown(operator):
    """Return what Airflow 3 stores as the link when the task ends."""
    return AgentLink().get_link(operator, ti_key=None)


@pytest.fixture
def connected(monkeypatch):
    """Set the default connection to a My Domain, behind a proxy that is not there."""

    def use(host, **extra):
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{wire.refused_port()}")
        fields = {"conn_type": "agentforce", "host": host, "login": "k", "password": "s", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_AGENTFORCE_DEFAULT", json.dumps(fields))

    return use


@pytest.mark.parametrize(
    "host",
    [
        MY_DOMAIN,
        "https://acme--uat.sandbox.my.salesforce.com",
        "https://acme-dev-ed.develop.my.salesforce.com",
        "https://acme.my.salesforce.mil",
    ],
)
def test_the_link_leads_to_the_agent_on_the_my_domain(host):
    assert agent_url(host, AGENT) == f"{host}/lightning/setup/EinsteinCopilot/{AGENT}/edit"


@pytest.mark.parametrize(
    "host",
    [
        "http://127.0.0.1:8080",
        "http://acme.my.salesforce.com",
        "https://gateway.example.com",
        "https://acme.my.salesforce.com.example.com",
        "https://acme.my.salesforce.com:8443",
        "https://salesforce.com",
    ],
)
def test_there_is_no_link_to_a_host_that_is_not_salesforce(host):
    assert agent_url(host, AGENT) == ""


def test_without_an_agent_the_link_leads_to_the_list_of_agents():
    assert agent_url(MY_DOMAIN, None) == f"{MY_DOMAIN}/lightning/setup/EinsteinCopilot/home"


@pytest.mark.parametrize(
    "stored",
    [
        "https://evil.example.com/lightning/setup/EinsteinCopilot/home",
        "javascript:alert(1)",
        f"{MY_DOMAIN}/secur/logout.jsp",
        f"{PAGE}?retURL=https://evil.example.com",
        f"{MY_DOMAIN}@evil.example.com/lightning/setup/EinsteinCopilot/home",
        f"{PAGE}\n",
        {"url": PAGE},
        None,
        7,
    ],
)
def test_a_stored_value_that_is_no_page_of_salesforce_is_not_shown(stored, monkeypatch):
    assert shown(SimpleNamespace(agent_url=stored)) == ""
    monkeypatch.setattr(links, "xcom_of_airflow_2", lambda _task, _key: stored)
    assert shown(SimpleNamespace()) == ""


@pytest.mark.parametrize(
    ("operator", "page"),
    [
        (StartSessionOperator(task_id="t", agent_id=AGENT), f"{AGENT}/edit"),
        (ConversationOperator(task_id="t", agent_id=AGENT, messages=["hello"]), f"{AGENT}/edit"),
        (
            SendMessageOperator(task_id="t", session={"session_id": "s", "agent_id": AGENT}, text="hello"),
            f"{AGENT}/edit",
        ),
        (SendMessageOperator(task_id="t", session_id="s", sequence_id=0, text="hello"), "home"),
        (StartSessionOperator(task_id="t", agent_id="Service_Agent"), "home"),
        (EndSessionOperator(task_id="t", session={"session_id": "s", "agent_id": AGENT}), f"{AGENT}/edit"),
    ],
)
def test_a_task_that_fails_has_its_link_too(connected, run, operator, page):
    connected(MY_DOMAIN)
    done = run(operator)
    assert "not reachable" in str(done.error)
    assert shown(operator) == f"{MY_DOMAIN}/lightning/setup/EinsteinCopilot/{page}"
    assert done.xcoms == {}


def test_the_agent_of_the_connection_is_linked_when_the_task_names_none(connected, run):
    connected(MY_DOMAIN, agent_id=AGENT)
    operator = StartSessionOperator(task_id="t")
    run(operator)
    assert shown(operator) == PAGE


def test_a_task_that_did_not_get_to_its_agent_has_no_link(connected, run):
    connected(MY_DOMAIN)
    operator = StartSessionOperator(task_id="t")
    assert "names an agent" in str(run(operator).error)
    assert shown(operator) == ""


@pytest.mark.parametrize("kind", [StartSessionOperator, partial(ConversationOperator, messages=["hello"])])
def test_an_agent_given_by_its_name_is_linked_by_its_id_once_that_is_known(org, run, monkeypatch, kind):
    monkeypatch.setattr(_base, "agent_url", lambda _host, agent_id: f"page of {agent_id}")
    operator = kind(task_id="t", agent_id="Service_Agent")
    assert run(operator).error is None
    assert operator.agent_url == f"page of {org.agent_id}"


def test_a_task_against_the_emulator_has_no_link(org, run):
    operator = ConversationOperator(task_id="t", messages=["hello"])
    assert run(operator).error is None
    assert shown(operator) == ""


class TestAirflow2:
    """There the webserver makes the link, with what the task left in XCom."""

    @pytest.fixture(autouse=True)
    def airflow_2(self, monkeypatch):
        monkeypatch.setattr(_base, "LINKS_NEED_XCOM", True)

    def test_the_task_leaves_the_url_in_xcom(self, connected, run):
        connected(MY_DOMAIN)
        done = run(StartSessionOperator(task_id="t", agent_id=AGENT))
        assert done.xcoms == {LINK_XCOM: PAGE}

    def test_nothing_is_left_where_there_is_no_link(self, org, run):
        done = run(StartSessionOperator(task_id="t"))
        assert LINK_XCOM not in done.xcoms

    def test_an_xcom_that_cannot_be_stored_fails_no_task(self, connected, run):
        connected(MY_DOMAIN)
        done = run(StartSessionOperator(task_id="t", agent_id=AGENT), breaks_after=0)
        assert "not reachable" in str(done.error)

    def test_the_webserver_shows_what_the_task_left(self, monkeypatch):
        left = {("ti", LINK_XCOM): PAGE}
        monkeypatch.setattr(links, "xcom_of_airflow_2", lambda task, key: left[task, key])
        assert AgentLink().get_link(SimpleNamespace(), ti_key="ti") == PAGE

    def test_an_xcom_that_cannot_be_read_shows_no_link(self, monkeypatch):
        def broken(_task, _key):
            raise RuntimeError("the database is away")

        monkeypatch.setattr(links, "xcom_of_airflow_2", broken)
        assert AgentLink().get_link(SimpleNamespace(), ti_key="ti") == ""


@pytest.fixture
def salesforce(tmp_path):
    """The emulator as if it were at a My Domain: behind a proxy and a TLS server of that name."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with Emulator() as org:

        def front(peer):
            while (request := peer.read_request()) is not None:
                passed_on = {
                    name: value
                    for name, value in request.headers.items()
                    if name in {"authorization", "content-type", "accept", "x-session-end-reason"}
                }
                body = request.body.replace(MY_DOMAIN.encode(), org.url.encode())
                reply = requests.request(
                    request.method, org.url + request.target, headers=passed_on, data=body, timeout=10
                )
                kind = {"Content-Type": reply.headers.get("Content-Type", "")}
                peer.send(wire.response(reply.content, status=reply.status_code, headers=kind))

        tls = wire.server_context(authority, MY_DOMAIN.removeprefix("https://"))
        with wire.Server(front, tls=tls) as server:

            def proxy(peer):
                assert peer.read_request().target == "acme.my.salesforce.com:443"
                peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
                wire.passing_on(server.port)(peer)

            with wire.Server(proxy) as way:
                yield org, {"https_proxy": way.url, "REQUESTS_CA_BUNDLE": str(tmp_path / "ca.pem")}


def test_airflow_stores_the_link_of_every_task_of_a_run(dag_test, airflow_db, salesforce):
    from airflow.models.xcom import XComModel  # noqa: PLC0415 - after the environment is set

    org, environment = salesforce
    connection = json.loads(org.connection())
    connection["host"] = connection["extra"]["api_url"] = MY_DOMAIN
    environment["AIRFLOW_CONN_AGENTFORCE_DEFAULT"] = json.dumps(connection)
    status, output = dag_test("chain", org, **environment)
    assert status == 0, output
    assert org.count("send") == 3
    with contextlib.closing(sqlite3.connect(Path(airflow_db) / "airflow.db")) as database:
        rows = database.execute(
            f"SELECT task_id, value FROM {XComModel.__tablename__} "  # noqa: S608 - a name of Airflow's
            "WHERE key = '_link_AgentLink' AND dag_id = 'chain' ORDER BY timestamp"
        ).fetchall()
    links = {task: json.loads(value) for task, value in rows}
    agent = f"{MY_DOMAIN}/lightning/setup/EinsteinCopilot/{org.agent_id}/edit"
    assert links == {
        "start": agent,
        "first": agent,
        # This task is given the id of the session alone.
        "second": f"{MY_DOMAIN}/lightning/setup/EinsteinCopilot/home",
        "third": f"{MY_DOMAIN}/lightning/setup/EinsteinCopilot/home",
        "end": agent,
    }
