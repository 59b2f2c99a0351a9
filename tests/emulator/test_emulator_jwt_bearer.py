"""The JWT-bearer grant of the token endpoint."""

import base64
import json
import time

import jwt
import keys
import pytest

from airflow_provider_agentforce.emulator import Emulator

GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
INVALID = ("invalid_grant", "invalid assertion")
EXPIRED = ("invalid_grant", "expired authorization code")
AUDIENCE = ("invalid_grant", "audience is invalid")
NOT_APPROVED = ("invalid_grant", "user hasn't approved this consumer")


def assertion(org, key=None, *, algorithm="RS256", **changes):
    """Return what a client of its own signs; ``...`` leaves a claim out."""
    claims = {
        "iss": org.consumer_key,
        "sub": keys.USERNAME,
        "aud": "https://login.salesforce.com",
        "exp": int(time.time()) + 120,
        **changes,
    }
    sent = {name: value for name, value in claims.items() if value is not ...}
    return jwt.encode(sent, keys.pem_of(keys.rsa_key()) if key is None else key, algorithm=algorithm)


def ask(caller, given):
    form = {"grant_type": GRANT, "assertion": given}
    return caller.http.post(caller.org.url + "/services/oauth2/token", data=form)


def said(answer):
    assert answer.status_code == 400
    return tuple(answer.json().values())


@pytest.fixture
def certificate(tmp_path):
    file = tmp_path / "app.pem"
    file.write_text(keys.certificate(keys.rsa_key()))
    return str(file)


@pytest.fixture
def strict(make_caller, certificate):
    """A caller of an org that knows the key and two users."""
    return make_caller(certificate=certificate, usernames=f"{keys.USERNAME}, Second.User@Acme.com")


def user_of(answer):
    """Return the user whom a token is for, which its claims and its answer name."""
    body = answer.json()
    claims = json.loads(base64.urlsafe_b64decode(body["access_token"].split(".")[1] + "=="))
    assert body["id"].endswith(claims["sub"].removeprefix("uid:"))
    return claims["sub"]


def test_assertion_is_exchanged_for_a_token_that_serves(strict):
    answer = ask(strict, assertion(strict.org))
    assert answer.status_code == 200
    strict.bearer = answer.json()["access_token"]
    employee = strict.org.agents[2]
    assert strict.start(employee.id, bypassUser=False).status_code == 200
    assert set(answer.json()) == set(strict.ask_token().json())
    assert 1600 <= len(strict.bearer) <= 1700


def test_an_end_in_milliseconds_is_good_since_the_official_library_sends_it(strict):
    assert ask(strict, assertion(strict.org, exp=int(time.time() * 1000) + 300)).status_code == 200


def test_user_info_and_record_are_those_of_the_named_user(strict):
    answer = ask(strict, assertion(strict.org))
    strict.bearer = answer.json()["access_token"]
    found = strict.call("GET", "/services/oauth2/userinfo").json()
    assert (found["preferred_username"], found["sub"]) == (keys.USERNAME, answer.json()["id"])
    path = f"/services/data/v68.0/sobjects/User/{found['user_id']}"
    assert strict.call("GET", path).json()["Username"] == keys.USERNAME
    cookie = {"Cookie": f"sid={strict.bearer}", "Authorization": None}
    strict.bearer = strict.call("GET", "/agentforce/bootstrap/nameduser", headers=cookie).json()[
        "access_token"
    ]
    assert strict.call("GET", "/services/oauth2/userinfo").json()["user_id"] == found["user_id"]


def test_each_user_has_an_id(strict):
    first, again = (user_of(ask(strict, assertion(strict.org))) for _ in range(2))
    second = user_of(ask(strict, assertion(strict.org, sub="second.user@acme.com")))
    assert first == again
    assert len({first, second, user_of(strict.ask_token())}) == 3
    assert {len(one) for one in (first, second)} == {len("uid:") + 18}


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"iss": "another"}, ("invalid_client_id", "client identifier invalid")),
        ({"iss": ...}, ("invalid_client_id", "client identifier invalid")),
        ({"aud": "https://test.salesforce.com"}, AUDIENCE),
        ({"aud": "https://login.salesforce.com/"}, AUDIENCE),
        ({"aud": ["https://login.salesforce.com"]}, AUDIENCE),
        ({"aud": ...}, AUDIENCE),
        ({"exp": 1_700_000_000}, EXPIRED),
        ({"exp": 4_000_000_000}, EXPIRED),
        ({"exp": ...}, INVALID),
        ({"sub": "stranger@acme.com"}, NOT_APPROVED),
        ({"sub": "etl"}, NOT_APPROVED),
        ({"sub": ...}, NOT_APPROVED),
        ({"algorithm": "RS512"}, INVALID),
        ({"key": keys.pem_of(keys.rsa_key(1))}, INVALID),
        ({"key": "a secret of thirty-two characters", "algorithm": "HS256"}, INVALID),
        ({"key": "", "algorithm": "none"}, INVALID),
    ],
)
def test_assertion_that_is_wrong_is_refused_for_what_is_wrong(strict, changes, answer):
    assert said(ask(strict, assertion(strict.org, **changes))) == answer
    assert strict.org.tokens_issued == 1


@pytest.mark.parametrize("given", ["", "x", "a.b.c", f"{'e30'}.e30.e30", None])
def test_what_is_not_an_assertion_is_refused(strict, caller, given):
    for one in (strict, caller):
        assert said(ask(one, given)) == INVALID


def test_claims_must_be_an_object(make_caller):
    caller = make_caller()
    listed = jwt.PyJWS().encode(b"[]", keys.pem_of(keys.rsa_key()), algorithm="RS256")
    assert said(ask(caller, listed)) == INVALID


def test_without_a_certificate_any_key_and_user_will_do(caller):
    given = assertion(caller.org, keys.pem_of(keys.rsa_key(1)), sub="anyone@acme.com")
    assert ask(caller, given).status_code == 200
    assert said(ask(caller, assertion(caller.org, aud="https://test.salesforce.com"))) == AUDIENCE


def test_the_address_of_the_org_and_the_audience_that_is_set_are_good(make_caller):
    caller = make_caller(audience="https://test.salesforce.com")
    for audience in ("https://test.salesforce.com", caller.org.url):
        assert ask(caller, assertion(caller.org, aud=audience)).status_code == 200
    assert said(ask(caller, assertion(caller.org))) == AUDIENCE


def test_a_public_key_serves_as_well_as_its_certificate(make_caller, tmp_path):
    file = tmp_path / "public.pem"
    file.write_text(keys.public_pem(keys.rsa_key()))
    caller = make_caller(certificate=str(file))
    assert ask(caller, assertion(caller.org)).status_code == 200
    assert said(ask(caller, assertion(caller.org, keys.pem_of(keys.rsa_key(1))))) == INVALID


def test_a_file_without_a_certificate_is_refused_at_the_start(tmp_path):
    file = tmp_path / "key.pem"
    file.write_text(keys.pem_of(keys.rsa_key()))
    with pytest.raises(ValueError, match="contains neither a certificate nor an RSA public key"):
        Emulator(certificate=str(file))
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        Emulator(certificate=str(tmp_path / "nothing"))


def test_the_page_does_not_show_an_assertion(strict):
    given = assertion(strict.org)
    ask(strict, given)
    shown = strict.http.get(f"{strict.org.url}/emulator/requests").text
    assert given.split(".")[1] not in shown
    assert "assertion=(hidden)" in shown
