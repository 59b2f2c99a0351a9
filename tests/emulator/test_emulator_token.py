import base64
import json
import time

import pytest
from emulator_caller import BASE, assert_refused

from airflow_provider_agentforce.emulator.models import salesforce_id


def claims_of(token):
    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def test_token_answer_has_the_official_fields_and_no_expires_in(caller, org):
    answer = caller.ask_token()
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {
        "access_token",
        "signature",
        "token_format",
        "scope",
        "instance_url",
        "id",
        "token_type",
        "issued_at",
        "api_instance_url",
    }
    assert (body["token_format"], body["token_type"]) == ("jwt", "Bearer")
    assert body["instance_url"] == body["api_instance_url"] == org.url
    assert {"sfap_api", "chatbot_api", "api"} == set(body["scope"].split())


def test_issued_at_is_a_string_of_milliseconds(caller):
    issued_at = caller.ask_token().json()["issued_at"]
    assert isinstance(issued_at, str)
    assert abs(int(issued_at) / 1000 - time.time()) < 60


def test_token_is_a_jwt_whose_exp_follows_the_lifetime(make_caller):
    caller = make_caller(token_lifetime=600)
    claims = claims_of(caller.bearer)
    assert claims["exp"] - claims["iat"] == 600
    assert claims["client_id"] == caller.org.consumer_key
    assert {"scp", "aud", "sub", "nbf", "mty", "sfi", "roles", "iss", "hsc"} <= set(claims)


def test_token_has_the_length_of_a_real_one(caller):
    assert 1600 <= len(caller.bearer) <= 1700
    signature = caller.bearer.split(".")[2]
    assert len(base64.urlsafe_b64decode(signature + "==")) == 256


def test_tokens_of_the_same_second_differ(caller):
    assert caller.ask_token().json()["access_token"] != caller.ask_token().json()["access_token"]


@pytest.mark.parametrize(
    ("changes", "error", "description"),
    [
        ({"client_id": "wrong"}, "invalid_client_id", "client identifier invalid"),
        ({"client_id": None}, "invalid_client_id", "client identifier invalid"),
        ({"client_secret": "wrong"}, "invalid_client", "invalid client credentials"),
        ({"client_secret": "emulator-consumer-secret\n"}, "invalid_client", "invalid client credentials"),
        ({"client_secret": None}, "invalid_client", "invalid client credentials"),
        ({"grant_type": "password"}, "unsupported_grant_type", "grant type not supported"),
        ({"grant_type": None}, "unsupported_grant_type", "grant type not supported"),
    ],
)
def test_wrong_credentials_answer_as_documented(caller, changes, error, description):
    answer = caller.ask_token(**changes)
    assert answer.status_code == 400
    assert answer.json() == {"error": error, "error_description": description}


def test_ids_have_the_checksum_of_real_ones(caller):
    _, org_id, user_id = caller.ask_token().json()["id"].rsplit("/", 2)
    assert (org_id, user_id) == (salesforce_id(org_id[:15]), salesforce_id(user_id[:15]))


def test_user_info_says_whose_token_it_is(caller):
    found = caller.call("GET", "/services/oauth2/userinfo").json()
    _, org_id, user_id = caller.ask_token().json()["id"].rsplit("/", 2)
    assert (found["organization_id"], found["user_id"]) == (org_id, user_id)
    assert found["preferred_username"] == "agent.user@emulator.example"
    refused = caller.call("GET", "/services/oauth2/userinfo", headers={"Authorization": "Bearer eyJ.a.b"})
    assert (refused.status_code, refused.text) == (403, "Bad_OAuth_Token")


def test_a_session_cookie_gets_a_jwt_for_the_agent_api(make_caller):
    caller = make_caller(opaque_tokens=True)
    assert caller.start().status_code == 404
    session, caller.bearer = caller.bearer, None
    path = "/agentforce/bootstrap/nameduser"
    for cookie in (None, "sid=", "sid=00Dxx0000000001!made.up", f"other={session}"):
        assert caller.call("GET", path, headers={"Cookie": cookie}).status_code == 401
    answer = caller.call("GET", path, headers={"Cookie": f"a=b; sid={session}"}).json()
    assert set(answer) == {
        *("access_token", "token_format", "scope", "token_type", "issued_at", "api_instance_url")
    }
    caller.bearer = answer["access_token"]
    assert caller.start().status_code == 200


def test_http_basic_is_accepted_in_the_place_of_the_form_fields(caller, org):
    def ask(key, secret):
        url, form = org.url + "/services/oauth2/token", {"grant_type": "client_credentials"}
        return caller.http.post(url, data=form, auth=(key, secret))

    assert ask(org.consumer_key, org.consumer_secret).json()["token_type"] == "Bearer"
    assert ask("wrong", org.consumer_secret).json()["error"] == "invalid_client_id"
    assert ask(org.consumer_key, "wrong").json()["error"] == "invalid_client"


def test_a_basic_header_that_cannot_be_read_is_a_wrong_key(caller, org):
    form, header = {"grant_type": "client_credentials"}, {"Authorization": "Basic §".encode()}
    answer = caller.http.post(org.url + "/services/oauth2/token", data=form, headers=header)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_client_id")


def test_a_scope_is_refused(caller):
    answer = caller.ask_token(scope="api")
    assert answer.status_code == 400
    assert answer.json() == {"error": "invalid_request", "error_description": "scope parameter not supported"}


def test_token_request_must_be_form_encoded(caller, org):
    form = {
        "grant_type": "client_credentials",
        "client_id": org.consumer_key,
        "client_secret": org.consumer_secret,
    }
    assert caller.call("POST", "/services/oauth2/token", form).json()["error"] == "unsupported_grant_type"


def test_app_without_run_as_user_gets_no_token(make_org, make_caller):
    caller = make_caller()
    caller.org = make_org(run_as_user=False)
    answer = caller.ask_token()
    assert answer.status_code == 400
    assert answer.json() == {
        "error": "invalid_grant",
        "error_description": "no client credentials user enabled",
    }


def test_tokens_issued_counts_only_successes(caller, org):
    caller.ask_token(client_id="wrong")
    caller.ask_token()
    assert org.tokens_issued == 2


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer eyJ0bmsi.eyJzY3Ai.c2ln", "Basic YTpi", "eyJ0bmsi.eyJzY3Ai.c2ln"]
)
def test_missing_or_unknown_token_is_unauthorized(caller, header):
    answer = caller.start(headers={"Authorization": header})
    assert_refused(answer, 401, "Access bearer token is missing or invalid", "UnauthorizedError")
    assert "mode" not in answer.json()


def test_expired_token_is_unauthorized(make_caller):
    assert_refused(make_caller(token_lifetime=0).start(), 401, "Access bearer token is missing or invalid")


def test_revoked_tokens_are_unauthorized_and_new_ones_are_not(caller, org):
    org.revoke_tokens()
    assert_refused(caller.start(), 401, "Access bearer token is missing or invalid")
    assert caller.login().start().status_code == 200


@pytest.mark.parametrize("call", ["start", "send", "stream", "end", "feedback"])
def test_every_agent_call_needs_a_token(caller, call):
    session = caller.open()
    caller.bearer = None
    answers = {
        "start": caller.start,
        "send": lambda: caller.send(session),
        "stream": lambda: caller.send(session, stream=True),
        "end": lambda: caller.end(session),
        "feedback": lambda: caller.rate(session, feedbackId="x", feedback="GOOD"),
    }
    assert answers[call]().status_code == 401


def test_opaque_token_meets_a_bare_404(make_caller):
    caller = make_caller(opaque_tokens=True)
    assert "token_format" not in caller.ask_token().json()
    answer = caller.start()
    assert (answer.status_code, answer.content) == (404, b"")
    assert "X-Request-ID" not in answer.headers
    assert "Content-Type" not in answer.headers


def test_any_opaque_token_meets_the_bare_404(caller):
    answer = caller.start(headers={"Authorization": "Bearer 00Dxx0000000001!opaque"})
    assert (answer.status_code, answer.content) == (404, b"")


def test_opaque_tokens_can_be_let_in(make_caller):
    caller = make_caller(opaque_tokens=True, reject_opaque=False)
    assert not caller.bearer.startswith("eyJ")
    assert caller.start().status_code == 200


def test_unknown_route_is_the_html_page_of_a_wrong_host(caller, org):
    answer = caller.call("GET", f"{BASE}/nothing")
    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "text/html"
    assert "URL No Longer Exists" in answer.text
    assert org.requests[-1].operation == "other"
