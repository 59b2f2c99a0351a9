"""The check of a connection: which line fails for which trouble, and that it starts and shows nothing."""

from __future__ import annotations

import json
import socket

import pytest
import wire

from airflow_provider_agentforce.client import failure_catalogue, setup_paths
from airflow_provider_agentforce.client.delivery_policy import Failure
from airflow_provider_agentforce.client.diagnostics import diagnose

CANARY = "canary/secret+42 %"
JWT = "eyJhbGciOiJSUzI1NiJ9.e30.c2ln"
NAMES = [
    *("settings", "host", "TLS", "secret", "token", "scopes", "API host", "agent", "active", "start"),
    "limits",
]
APP = "Setup > External Client App Manager > the app"


def diagnosis(client, **options):
    return diagnose(client, client.settings, **options)


def of_status(found, status):
    return [check.name for check in found.checks if check.status == status]


def failed(found):
    """Return the only check that failed."""
    assert found.good is False
    (check,) = [check for check in found.checks if check.status == "failed"]
    return check


def test_good_connection_is_told_with_its_facts(org, client):
    found = diagnosis(client)
    assert found.good is True
    assert [check.name for check in found.checks] == NAMES
    assert of_status(found, "skipped") == ["TLS", "start"]
    told = str(found)
    address = org.url.removeprefix("http://")
    for fact in (
        f"✓ host: {address} answers.",
        "✓ token: a JWT for 30 minutes.",
        "✓ scopes: api chatbot_api sfap_api.",
        f"✓ API host: {org.url} accepts the token.",
        f"✓ agent: Service_Agent, {org.agent_id}.",
        "- start: not tried; no session was started.",
    ):
        assert fact in told.splitlines()
    assert (org.count("token"), org.count("start"), org.count("query")) == (1, 0, 1)


def test_a_session_is_started_and_ended_when_that_is_asked_for(org, client):
    found = diagnosis(client, start_session=True)
    (session,) = org.sessions.values()
    assert f"✓ start: session {session.session_id} was started and ended." in str(found)
    assert org.open_sessions == []


def test_a_session_that_cannot_be_ended_is_a_warning(org, client):
    # The first call that ends a session is the one that looks whether the API is there.
    org.fail("end", error="session_not_found")
    org.fail("end", status=403)
    found = diagnosis(client, start_session=True)
    assert found.good is True
    assert "start" in of_status(found, "warning")
    assert f"session {org.open_sessions[0]} was started and may still be open." in str(found)


def test_a_start_that_the_org_refuses_is_a_failure_of_the_start(org, client):
    org.fail("start", error="employee_agent")
    check = failed(diagnosis(client, start_session=True))
    assert (check.name, check.setup) == ("start", "Setup > Users > the user > Permission Set Assignments")
    assert "bypass_user=False" in check.remedy


@pytest.mark.parametrize(
    ("fault", "name", "words", "setup"),
    [
        ({"error": "wrong_secret"}, "secret", "consumer secret", f"{APP} > Settings"),
        ({"error": "no_run_as_user"}, "token", "Run As", f"{APP} > Policies"),
        ({"error": "wrong_grant_type"}, "token", "Client Credentials Flow", f"{APP} > Settings"),
        ({"error": "wrong_domain"}, "token", "My Domain", "Setup > My Domain"),
        ({"error": "login_rate"}, "token", "3,600", ""),
        ({"status": 503, "times": 3}, "token", "Try again later", ""),
        ({"status": 404}, "host", "answers, but not like an org. Getting", "Setup > My Domain"),
        ({"status": 302}, "host", "redirect", "Setup > My Domain"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_where_the_way_to_a_token_ends(org, client, fault, name, words, setup):
    org.fail("token", **fault)
    found = diagnosis(client)
    check = failed(found)
    assert check.name == name
    assert words in str(check)
    assert check.setup.startswith(setup)
    assert bool(check.setup) == bool(setup)
    assert "scopes" in of_status(found, "skipped")
    assert org.count("start") == 0


@pytest.mark.parametrize(
    ("reply", "name", "words"),
    [
        ({"scope": "api"}, "scopes", "lacks the scopes chatbot_api, sfap_api"),
        ({"instance_url": "https://other.my.salesforce.com"}, "host", "calls itself https://other"),
        ({"access_token": "00D5e!opaque"}, "token", "Issue JSON Web Token"),
        ({"api_instance_url": "https://evil.example"}, "API host", "not a Salesforce host"),
    ],
    ids=["scope", "My Domain", "opaque", "API host"],
)
def test_trouble_that_the_token_reply_shows(make_client, reply, name, words):
    answer = wire.response({"access_token": JWT, **reply})
    gone = wire.response({"error": "NotFoundException", "message": "V6Session not found"}, status=404)
    with wire.Server(wire.answering(answer, gone, last_again=True)) as server:
        found = diagnosis(make_client(host=server.url, api_url=None, agent_id=None))
    checks = {check.name: check for check in found.checks}
    assert checks[name].status == "failed"
    assert words in str(checks[name])


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (wire.response(b"<html>URL No Longer Exists</html>", status=404), "failed"),
        (wire.response(b"", status=404), "failed"),
        (wire.response({"error": "NotFoundException", "message": "Gone for good"}, status=404), "warning"),
        (wire.response({"error": "NotFoundException", "message": "No such session"}, status=404), "ok"),
        (wire.response({"error": "Unauthorized"}, status=401), "failed"),
    ],
    ids=["HTML", "empty", "other words", "session", "401"],
)
def test_api_host_is_known_by_what_it_says_of_a_session_that_never_was(org, make_client, answer, status):
    with wire.Server(wire.answering(answer, last_again=True)) as server:
        found = diagnosis(make_client(org, api_url=server.url))
        assert {request.method for request in server.requests} == {"DELETE"}
    check = next(check for check in found.checks if check.name == "API host")
    assert check.status == status
    assert status == "ok" or check.remedy
    # The address was given by hand.
    by_hand = "does not answer like" in check.fact and status == "failed"
    assert ("Remove the extra api_url" in check.remedy) == by_hand


@pytest.mark.parametrize(
    ("what", "setup"),
    [
        ("The connection lacks host (My Domain URL), login (consumer key).", "My Domain > Current; OAuth"),
        ("The connection lacks password (consumer secret).", "OAuth"),
        ("Unknown extra agentid; known are agent_id, private_key, username.", ""),
        ("agent_id must be an agent's id, but is 'x y'.", "Agentforce Agents"),
        ("host must look like https://acme.my.salesforce.com, but is 'x y'.", "My Domain > Current"),
        ("timeout must be a number, but is 'x'.", ""),
    ],
)
def test_a_wrong_setting_leads_to_the_page_that_shows_its_value(what, setup):
    found = setup_paths.path_for_setting(what).split("; also ")
    wanted = setup.split("; ")
    assert len(found) == len(wanted)
    assert all(part in path for part, path in zip(wanted, found, strict=True))


def test_opaque_token_is_told_with_the_setting(make_org, make_client):
    org = make_org(opaque_tokens=True)
    found = diagnosis(make_client(org))
    check = failed(found)
    assert (check.name, check.setup) == ("token", f"{APP} > Settings > OAuth Settings")
    assert f"✓ agent: Service_Agent, {org.agent_id}." in str(found)


def test_a_page_of_setup_is_named_once(org, make_client):
    line = str(failed(diagnosis(make_client(org, agent_id="Nobody"))))
    assert line.count("Setup > Agentforce Agents") == 1


@pytest.mark.parametrize("by", ["developer_name", "id"])
def test_default_agent_is_told_by_name_and_id(org, make_client, by):
    found = diagnosis(make_client(org, agent_id=getattr(org.agents[0], by)))
    assert f"✓ agent: Service_Agent, {org.agent_id}." in str(found)
    assert "active" in of_status(found, "ok")


def test_connection_without_a_default_agent_is_good_and_asks_for_none(org, make_client):
    found = diagnosis(make_client(org, agent_id=None), start_session=True)
    assert (found.good, org.count("query"), org.count("start")) == (True, 0, 0)
    assert of_status(found, "skipped") == ["TLS", "agent", "active", "start"]


@pytest.mark.parametrize(
    ("agent", "name", "words"),
    [
        ("Nobody", "agent", "has the API name Nobody"),
        ("0XxEM0000000009", "agent", "has the id 0XxEM0000000009"),
        ("Inactive_Agent", "active", "has no active version"),
        ("0XxEM0000000002", "active", "has no active version"),
    ],
)
def test_agent_that_no_task_could_use_is_a_failure(org, make_client, agent, name, words):
    check = failed(diagnosis(make_client(org, agent_id=agent), start_session=True))
    assert check.name == name
    assert words in check.fact
    of_agent = " > the agent > Open in Builder > Activate" if name == "active" else ""
    assert check.setup == f"Setup > Agentforce Agents{of_agent}"
    assert org.count("start") == 0


def test_lookup_that_is_refused_spoils_only_a_connection_that_needs_it(org, client, make_client):
    org.fail("query", error="rest_invalid_type", times=2)
    found = diagnosis(client)
    assert (found.good, of_status(found, "warning")) == (True, ["agent"])
    assert "BotDefinition" in str(failed(diagnosis(make_client(org, agent_id="Service_Agent"))))


@pytest.mark.parametrize(("timeout", "warned"), [(120, ["limits"]), (130, [])])
def test_a_timeout_that_is_shorter_than_the_api_s_is_a_warning(org, make_client, timeout, warned):
    found = diagnosis(make_client(org, timeout=timeout))
    assert (found.good, of_status(found, "warning")) == (True, warned)


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def speaking(text):
    def behave(peer):
        peer.sock.recv(65536)
        peer.send(text)

    return behave


@pytest.mark.parametrize(
    ("server", "scheme", "name"),
    [
        (None, "http", "host"),
        (None, "https", "host"),
        (wire.Peer.reset, "http", "host"),
        (speaking(b"SSH-2.0-OpenSSH_9.9\r\n"), "http", "host"),
        (speaking(wire.response(b"<html>log in</html>")), "http", "host"),
        (speaking(wire.response(b"not JSON")), "https", "TLS"),
    ],
    ids=["closed port", "closed TLS port", "reset", "no HTTP", "a page", "TLS on a plain port"],
)
def test_what_is_not_an_org_fails_at_the_host_or_at_tls(make_client, server, scheme, name):
    if server is None:
        check = failed(diagnosis(make_client(host=f"{scheme}://127.0.0.1:{closed_port()}")))
    else:
        with wire.Server(server, scheme=scheme) as running:
            check = failed(diagnosis(make_client(host=running.url.replace("localhost", "127.0.0.1"))))
    assert check.name == name
    assert check.remedy
    assert "127.0.0.1:" in check.fact


def test_a_server_that_says_nothing_fails_at_the_host_and_is_named(make_client):
    with wire.Server(wire.Peer.hang) as silent:
        check = failed(diagnosis(make_client(host=silent.url, timeout=0.3)))
    assert check.name == "host"
    assert check.fact.startswith(f"127.0.0.1:{silent.port} does not answer. ")
    assert check.remedy.startswith("Check the host, its port")


def test_a_certificate_that_is_not_trusted_fails_at_tls(make_client, make_org, tmp_path):
    org = make_org(tls=str(tmp_path / "ca.pem"))
    check = failed(diagnosis(make_client(org)))
    assert check.name == "TLS"
    assert "REQUESTS_CA_BUNDLE" in check.remedy


def test_no_form_of_a_secret_is_shown(make_client):
    def echo(peer):
        while (request := peer.read_request()) is not None:
            said = f"{request.body.decode()} {request.headers.get('authorization', '')} {CANARY}"
            peer.send(wire.response({"error": "invalid_client", "error_description": said}, status=400))

    with wire.Server(echo) as server:
        found = diagnosis(make_client(host=server.url, consumer_secret=CANARY))
    for text in (str(found), json.dumps(found.to_dict()), repr(found)):
        assert "canary" not in text
        assert "secret+42" not in text
    assert "***" in str(found)


def test_no_token_is_shown(make_client):
    token = "eyJhbGciOiJSUzI1NiJ9.eyJjYW5hcnkiOiJ0b2tlbiJ9.Y2FuYXJ5LXNpZ25hdHVyZQ"

    def echo(peer):
        while (request := peer.read_request()) is not None:
            said = {"error": "NotFoundException", "message": request.headers.get("authorization", "")}
            first = request.target.endswith("/token")
            answer = {"access_token": token, "scope": f"api {token}"} if first else said
            peer.send(wire.response(answer, status=200 if first else 404))

    with wire.Server(echo) as server:
        told = str(diagnosis(make_client(host=server.url, api_url=server.url)))
    assert [part for part in token.split(".") if part in told] == []


NOT_DONE_IN_SALESFORCE = {
    *("", "Check the host and the network.", "Clear the task to run it again."),
    "Check the host, its port, and anything in between, such as a proxy or a firewall.",
    "The host does not answer like an org. Check host and api_url, and any proxy or gateway in between.",
    "Check whether the URL begins with http or https, and its port.",
    "Correct the environment variable: HTTPS_PROXY, ALL_PROXY or REQUESTS_CA_BUNDLE.",
    "Fix the server's certificate, or name your CA in REQUESTS_CA_BUNDLE.",
    "That host does not serve the Agent API. Remove the extra api_url, or correct it.",
    "Clock: to the org, the assertion was not valid at that time. Set the clock of this machine.",
}
BEGINNINGS = (
    *("It does not exist in this org", "A limit of the org is reached.", "Try again later."),
    "The org refuses the call itself",
    *("Make the query smaller", "An address and its headers"),
    *("The host asks for a client certificate", "The host answers with a redirect", "The session "),
    *(
        "The client-credentials flow accepts no",
        "More than 3,600 logins",
        "The token was refused several",
    ),
)


def remedies():
    for symptom in failure_catalogue.SYMPTOMS:
        yield from (symptom.remedy, symptom.jwt_remedy or "")
    # What is in doubt about a message is not for Setup.
    yield from (
        failure_catalogue.remedy_of_failure(one) for one in Failure if one.rule.delivery.applied is False
    )
    yield from map(failure_catalogue.remedy_if_harmless, Failure)


def test_every_remedy_has_its_page_in_setup_or_is_none_for_salesforce():
    without = {remedy for remedy in remedies() if not setup_paths.path_for(remedy)}
    assert {one for one in without - NOT_DONE_IN_SALESFORCE if not one.startswith(BEGINNINGS)} == set()
    assert without >= NOT_DONE_IN_SALESFORCE
