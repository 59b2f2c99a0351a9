"""The token of a named user: what is signed, which keys are taken, what is refused, and what stays secret."""

import base64
import hashlib
import itertools
import json
import logging
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, quote

import jwt
import keys
import pytest
import wire
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509 import load_pem_x509_certificate
from quick import QUICK, secrets_of
from telling import failing

from airflow_provider_agentforce.client import Settings
from airflow_provider_agentforce.client.diagnostics import diagnose
from airflow_provider_agentforce.client.jwt_bearer import default_audience, read_key
from airflow_provider_agentforce.exceptions import AgentforceAuthError, AgentforceInputError

PEM = keys.pem_of(keys.rsa_key())
BASE64 = base64.b64encode(PEM.encode()).decode()
# Without the first and the last line, which are everyone's.
SECRET64 = BASE64[40:-40]
OTHER = keys.pem_of(keys.rsa_key(1))
HOST = "https://acme.my.salesforce.com"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


def fields(**replaced):
    """Return settings for the flow; ``...`` leaves one out."""
    given = {
        "host": HOST,
        "consumer_key": "key",
        "consumer_secret": None,
        "auth": "jwt_bearer",
        "username": keys.USERNAME,
        "private_key": PEM,
        **replaced,
    }
    return {name: value for name, value in given.items() if value is not ...}


def refusal(**replaced):
    """Return the error of settings, which is one line without any part of a key."""
    with pytest.raises(AgentforceInputError) as caught:
        Settings(**fields(**replaced))
    told = str(caught.value)
    assert told.isprintable()
    assert keys.quoted(PEM, f"{told} {caught.value!r} {vars(caught.value)}") == []
    return told


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    path = tmp_path_factory.mktemp("app") / "certificate.pem"
    path.write_text(keys.certificate(keys.rsa_key()))
    return str(path)


@pytest.fixture
def jwt_org(make_org, certificate):
    """An org whose app has the certificate of the key, and one user who may use it."""
    return make_org(certificate=certificate, usernames=keys.USERNAME)


@pytest.fixture
def user_client(jwt_org, make_client):
    """Build clients of a named user."""

    def build(org=jwt_org, **replaced):
        shared = fields(host=org.url, consumer_key=org.consumer_key)
        return make_client(org, **{**shared, **replaced})

    return build


def assertions(org):
    """Return the claims of every assertion that an org was sent, once their signature is verified."""
    forms = [parse_qs(one.body) for one in org.requests if one.operation == "token"]
    key = keys.rsa_key().public_key()
    return [jwt.decode(form["assertion"][0], key, ["RS256"], options={"verify_aud": False}) for form in forms]


# The flow


def test_employee_agent_answers_a_named_user(jwt_org, user_client):
    employee = next(agent for agent in jwt_org.agents if agent.employee)
    with user_client().conversation(employee.id) as chat:
        assert chat.send("order 7?").outcome == "answered"
    (session,) = jwt_org.sessions.values()
    assert session.bypass_user is False


def test_assertion_names_app_user_and_org_and_ends_within_three_minutes(jwt_org, user_client):
    before = time.time()
    user_client().authenticate()
    (claims,) = assertions(jwt_org)
    assert {**claims, "exp": None} == {
        "iss": jwt_org.consumer_key,
        "sub": keys.USERNAME,
        "aud": "https://login.salesforce.com",
        "exp": None,
    }
    assert before < claims["exp"] <= time.time() + 180
    form = parse_qs(jwt_org.requests[0].body)
    assert (set(form), form["grant_type"]) == ({"grant_type", "assertion"}, [GRANT])


@pytest.mark.parametrize(
    ("auth", "given", "sent"),
    [
        ("jwt_bearer", None, False),
        ("jwt_bearer", True, True),
        ("client_credentials", None, True),
        ("client_credentials", False, False),
    ],
)
def test_bypass_user_follows_the_flow_unless_it_is_given(
    jwt_org, user_client, make_client, auth, given, sent
):
    client = user_client() if auth == "jwt_bearer" else make_client(jwt_org)
    client.start_session(bypass_user=given)
    (session,) = jwt_org.sessions.values()
    assert session.bypass_user is sent


def test_token_is_renewed_in_time_and_replaced_when_it_is_refused(jwt_org, user_client):
    now = [1000.0]
    client = user_client(timing=replace(QUICK, clock=lambda: now[0]))
    session = client.start_session()
    now[0] += 1750
    session = client.send_message(session, "one")
    jwt_org.revoke_tokens()
    client.send_message(session, "two")
    assert (jwt_org.count("token"), jwt_org.applied("two")) == (3, 1)
    assert len(assertions(jwt_org)) == 3


def test_each_attempt_signs_an_assertion_that_is_still_good(make_client, monkeypatch):
    real, came = time.time, []
    monkeypatch.setattr(time, "time", lambda: real() + 600 * len(came))
    token = {"access_token": "eyJhbGciOiJSUzI1NiJ9.e30.c2ln"}

    def take_ten_minutes(peer):
        came.append(parse_qs(peer.read_request().body.decode())["assertion"][0])
        peer.send(wire.response(token, status=200 if len(came) == 3 else 503))

    with wire.Server(take_ten_minutes) as server:
        make_client(**fields(host=server.url)).authenticate()
    ends = [jwt.decode(one, options={"verify_signature": False})["exp"] for one in came]
    assert [round((end - ends[0]) / 600) for end in ends] == [0, 1, 2]


@pytest.mark.parametrize(
    ("host", "audience"),
    [
        (HOST, "login"),
        ("https://acme-dev-ed.develop.my.salesforce.com", "login"),
        ("https://acme--uat.sandbox.my.salesforce.com", "test"),
        ("https://acme--uat.my.salesforce.com", "test"),
        ("https://acme.sandbox.my.salesforce.com", "test"),
        ("https://acme-1.scratch.my.salesforce.com", "test"),
        ("https://sandbox.my.salesforce.com", "login"),
        ("https://gateway.acme.example:8443", "login"),
        ("http://127.0.0.1:8765", "login"),
    ],
)
def test_audience_follows_from_the_host(host, audience):
    assert default_audience(host) == f"https://{audience}.salesforce.com"
    assert Settings(**fields(host=host)).audience == f"https://{audience}.salesforce.com"


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (f"{HOST}/", HOST),
        ("https://test.salesforce.com", "https://test.salesforce.com"),
        ("https://acme.my.site.com/customers/", "https://acme.my.site.com/customers"),
    ],
)
def test_audience_may_be_given(given, sent):
    assert Settings(**fields(audience=given)).audience == sent


# The key


def as_written():
    """Return the key in every form in which it comes, by what is done to it."""
    body = keys.body_of(PEM)
    return {
        "as OpenSSL writes it": PEM,
        "PKCS #1": keys.pem_of(keys.rsa_key(), PrivateFormat.TraditionalOpenSSL),
        "without the last line end": PEM.strip(),
        "escaped line ends": PEM.replace("\n", "\\n"),
        "escaped twice": PEM.replace("\n", "\\\\n"),
        "escaped line ends of Windows": PEM.replace("\n", "\\r\\n"),
        "line ends of Windows": PEM.replace("\n", "\r\n"),
        "blanks for line ends": PEM.replace("\n", " "),
        "no line ends, as a password field leaves them": PEM.replace("\n", ""),
        "indented": PEM.replace("\n", "\n    "),
        "in quotes": f'"{PEM}"',
        "one long line": f"-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----",
        "with its certificate": keys.certificate(keys.rsa_key()) + PEM,
        "Base64": BASE64,
        "Base64 in lines": base64.encodebytes(PEM.encode()).decode(),
        "Base64 in lines with escaped ends": base64.encodebytes(PEM.encode()).decode().replace("\n", "\\n"),
        "Base64 of escaped line ends": base64.b64encode(PEM.replace("\n", "\\n").encode()).decode(),
        "Base64 of a file of Windows": base64.b64encode(b"\xef\xbb\xbf" + PEM.encode()).decode(),
    }


@pytest.mark.parametrize("way", as_written())
def test_key_is_taken_in_every_form(way, tmp_path, jwt_org, user_client):
    text = as_written()[way]
    user_client(private_key=text).authenticate()
    file = tmp_path / "key.pem"
    file.write_text(text, newline="")
    user_client(private_key=None, private_key_path=str(file)).authenticate()
    assert len(assertions(jwt_org)) == 2


def test_key_in_a_file_with_a_byte_order_mark(tmp_path):
    file = tmp_path / "key.pem"
    file.write_bytes(b"\xef\xbb\xbf" + PEM.encode())
    assert Settings(**fields(private_key=..., private_key_path=f" {file}\n")).signing_key == PEM


SECP = keys.pem_of(ec.generate_private_key(ec.SECP256R1()))
LOCKED = BestAvailableEncryption(b"passphrase")
BAD_KEYS = {
    "public": (keys.public_pem(keys.rsa_key()), "only a public key"),
    "certificate": (keys.certificate(keys.rsa_key()), "only a certificate"),
    "passphrase": (keys.pem_of(keys.rsa_key(), encryption=LOCKED), "passphrase"),
    "old passphrase": (
        keys.pem_of(keys.rsa_key(), PrivateFormat.TraditionalOpenSSL, LOCKED),
        "passphrase",
    ),
    "curve": (SECP, "not an RSA key"),
    "curve of old": (SECP.replace("PRIVATE", "EC PRIVATE"), "an EC PRIVATE KEY"),
    "OpenSSH": (keys.pem_of(keys.rsa_key(), PrivateFormat.OpenSSH), "an OPENSSH PRIVATE KEY"),
    "short": (keys.pem_of(keys.rsa_key(bits=1024)), "1024 bits"),
    "cut": (PEM[:900] + "\n-----END PRIVATE KEY-----\n", "damaged or cut"),
    "no end": (PEM[:900], "not a PEM"),
    "no beginning": (PEM[30:], "not a PEM"),
    "the inside": (keys.body_of(PEM), "not a PEM"),
    "letters": ("my key", "begin with the line BEGIN PRIVATE KEY and end with the line END PRIVATE KEY"),
    "characters": (PEM.replace("M", "é", 1), "damaged or cut"),
    "two": (PEM + OTHER, "several private keys"),
    "Base64 of something": (base64.b64encode(b"something else").decode(), "not a PEM"),
    "Base64 of bytes": (base64.b64encode(bytes(range(256))).decode(), "not a PEM"),
    "a number": (7, "must be text"),
    "a mapping": ({"key": PEM}, "must be text"),
}


@pytest.mark.parametrize("kind", BAD_KEYS)
def test_key_that_cannot_be_used_is_refused_before_anything_is_sent(kind, tmp_path):
    text, reason = BAD_KEYS[kind]
    told = refusal(private_key=text)
    assert told.startswith("private_key ")
    assert reason in told
    if isinstance(text, str):
        file = tmp_path / "key.pem"
        file.write_text(text)
        told = refusal(private_key=None, private_key_path=str(file))
        assert told.startswith("private_key_path ")
        assert reason in told


def test_file_that_cannot_be_read_is_named_with_the_reason(tmp_path):
    big = tmp_path / "big.pem"
    big.write_bytes(bytes(70_000))
    for path, reason in {
        str(tmp_path / "nothing.pem"): "No such file",
        str(tmp_path): "Is a directory",
        str(big): "too large",
        "a\0b": "not a path",
    }.items():
        told = refusal(private_key=None, private_key_path=path)
        assert told.startswith("private_key_path")
        assert reason in told


# The settings


@pytest.mark.parametrize(
    ("replaced", "words"),
    [
        ({"private_key": None}, "a private_key or a private_key_path"),
        ({"username": None}, "needs a username"),
        ({"private_key_path": "/key.pem"}, "either private_key or private_key_path"),
        ({"auth": "jwt"}, "auth must be client_credentials or jwt_bearer, but is 'jwt'"),
        ({"auth": "client_credentials"}, "username, private_key: set the extra auth to jwt_bearer"),
        ({"username": "etl"}, "username must be a Salesforce username"),
        ({"username": "etl@acme.com\nx"}, "username must be a Salesforce username"),
        ({"audience": "login.salesforce.com"}, "audience must be a URL"),
        ({"audience": "http://login.salesforce.com"}, "audience must use https"),
        ({"audience": "https://me:pw@login.salesforce.com"}, "audience must look like"),
        ({"consumer_secret": "é"}, "password (consumer secret)"),
    ],
)
def test_settings_that_do_not_go_together_are_named(replaced, words):
    assert words in refusal(**replaced)


def of_connection(password=None, **extra):
    return Settings.from_fields(host=HOST, login="key", password=password, extra=extra)


def test_connection_needs_no_password_for_the_flow_and_may_have_one():
    extra = {"auth": "jwt_bearer", "username": keys.USERNAME, "private_key": PEM, "private_key_path": " "}
    assert of_connection(**extra).consumer_secret is None
    assert of_connection(" ", **extra).consumer_secret is None
    assert of_connection("secret", **extra).consumer_secret == "secret"


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({}, ["lacks password"]),
        ({"auth": "client_credentials"}, ["lacks password"]),
        ({"auth": "JWT"}, ["auth must be"]),
        ({"auth": "jwt_bearer"}, ["needs a username"]),
        (
            {"username": keys.USERNAME, "private_key": PEM},
            ["lacks password", "set the extra auth to jwt_bearer"],
        ),
    ],
)
def test_connection_without_a_password_says_what_it_needs(extra, words):
    with pytest.raises(AgentforceInputError) as caught:
        of_connection(**extra)
    assert [word for word in words if word not in str(caught.value)] == []


# A refusal says which of app, user, audience, key and clock is wrong


@pytest.mark.parametrize(
    ("replaced", "named"),
    [
        ({"consumer_key": "another"}, "App: "),
        ({"username": "stranger@acme.com"}, "User: "),
        ({"audience": "https://test.salesforce.com"}, "Audience: "),
        ({"private_key": OTHER}, "Key: "),
    ],
)
def test_refusal_and_diagnosis_name_what_is_wrong(jwt_org, user_client, replaced, named):
    client = user_client(**replaced)
    error = failing(client, "token")
    assert (type(error), error.status, error.applied) == (AgentforceAuthError, 400, False)
    assert error.hint.startswith(named)
    assert jwt_org.count("token") == 1
    settings = client.settings
    found = diagnose(client, settings)
    told = str(found)
    asked_with = (settings.consumer_key, settings.username, settings.audience)
    assert found.good is False
    assert ("✗ key" in told) == (named == "Key: ")
    assert [part for part in (named, *asked_with) if part not in told] == []


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ({"error": "app_access"}, "User: "),
        ({"error": "wrong_grant_type"}, "App: "),
        ({"error": "wrong_secret"}, "Key: "),
        ({"error": "expired_assertion"}, "Clock: "),
        ({"status": 400, "body": {"error": "app_not_found"}}, "App or audience: "),
        ({"status": 400, "body": {"error": "inactive_user"}}, "User: "),
        (
            {
                "status": 400,
                "body": {"error": "invalid_grant", "error_description": "Audience validation failed"},
            },
            "Audience: ",
        ),
        ({"error": "login_rate"}, "More than 3,600 logins"),
    ],
)
def test_every_refusal_that_is_known_is_explained(jwt_org, user_client, fault, named):
    jwt_org.fail("token", **fault)
    assert failing(user_client(), "token").hint.startswith(named)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(600, r"clock is (59|60)\d s behind"), (-600, r"clock is (59|60)\d s ahead"), (5, None), (None, None)],
)
def test_clocks_that_differ_are_told(make_client, seconds, words):
    date = "not a date"
    if seconds is not None:
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + seconds))
    said = {"error": "invalid_grant", "error_description": "expired authorization code"}
    answer = wire.response(said, status=400, headers={"Date": date})
    with wire.Server(wire.answering(answer, last_again=True)) as server:
        error = failing(make_client(**fields(host=server.url)), "token")
    assert error.hint.startswith("Clock: ")
    found = re.search(r"clock is .*", error.hint)
    assert found is None if words is None else re.search(words, found[0])


def test_good_connection_is_told_with_its_user(jwt_org, user_client):
    client = user_client()
    found = diagnose(client, client.settings)
    assert found.good is True
    assert f"✓ token: a JWT for 30 minutes, for {keys.USERNAME}." in str(found)


def test_diagnosis_names_the_key_by_what_its_certificate_holds(user_client, certificate):
    client = user_client(username="stranger@acme.com")
    told = str(diagnose(client, client.settings))
    held = load_pem_x509_certificate(Path(certificate).read_bytes()).public_key()
    der = held.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert f"the SHA-256 of its public key is {hashlib.sha256(der).hexdigest()}." in told


# Nothing is shown


# The key as a text may quote it.
QUOTES = (
    *as_written().values(),
    *PEM.splitlines()[1:4],
    json.dumps(PEM),
    quote(PEM, safe=""),
    base64.b64encode(f"key {PEM}".encode()).decode(),
    BASE64[99:160],
)


def test_org_that_repeats_the_assertion_or_the_key_is_not_quoted(make_client, caplog):
    caplog.set_level(logging.DEBUG)
    came = []

    def repeat(peer):
        came.append(parse_qs(peer.read_request().body.decode())["assertion"][0])
        texts = (came[-1], quote(came[-1][40:]), *QUOTES)
        peer.send(wire.response("\n".join(texts).encode(), status=400))

    with wire.Server(repeat) as server:
        error = failing(make_client(**fields(host=server.url)), "token")
    shown = f"{error} {error!r} {vars(error)} {caplog.text}"
    assert [one for one in (came[0], PEM, SECRET64) if keys.quoted(one, shown)] == []


@pytest.mark.parametrize("written", QUOTES, ids=map(str, range(len(QUOTES))))
def test_every_form_of_the_key_is_cut_out_of_what_an_org_says(make_client, written):
    answer = wire.response({"error": "invalid_grant", "error_description": written}, status=400)
    with wire.Server(wire.answering(answer, last_again=True)) as server:
        error = failing(make_client(**fields(host=server.url, private_key=PEM)), "token")
    shown = f"{error} {error!r} {vars(error)}"
    assert keys.quoted(PEM, shown) + keys.quoted(SECRET64, shown) == []


def test_token_in_use_stays_hidden_while_its_renewal_fails(jwt_org, user_client, monkeypatch):
    # Assertions of the same second are the same.
    real, seconds = time.time, itertools.count()
    monkeypatch.setattr(time, "time", lambda: real() + next(seconds))
    now = [1000.0]
    client = user_client(timing=replace(QUICK, clock=lambda: now[0]))
    session = client.start_session()
    token = max(secrets_of(client), key=lambda one: (one.count("."), len(one)))
    now[0] += 1750
    for _ in range(3):
        jwt_org.fail("token", status=503, times=3)
        jwt_org.fail("send", status=400, body={"message": f"bad token {token}"})
        error = failing(client, "send", session)
        assert keys.quoted(token, f"{error} {vars(error)}") == []
        now[0] += 11
    assert jwt_org.count("token") == 10


def test_settings_show_neither_key_nor_assertion(jwt_org, user_client):
    said = []
    client = user_client(on_secret=said.append)
    client.authenticate()
    shown = f"{client.settings!r} {client.settings} {client!r} {vars(client)}"
    assert keys.quoted(PEM, shown) == []
    assert "private_key_path=None" in shown
    (form,) = [parse_qs(one.body) for one in jwt_org.requests if one.operation == "token"]
    assert form["assertion"][0] in said


@pytest.mark.parametrize("way", as_written())
def test_what_a_log_masks_leaves_nothing_of_the_key(way):
    given = as_written()[way]
    settings = Settings(**fields(private_key=given))
    pem, masked = settings.signing_key, settings.secret_forms()
    assert len(masked) < 70
    encoded = base64.b64encode(pem.encode()).decode()
    for text in (given, pem, pem.replace("\n", "\\n"), keys.body_of(pem), encoded):
        shown = text
        for form in masked:
            shown = shown.replace(form, "***")
        assert keys.quoted(pem, shown) + keys.quoted(encoded[48:-48], shown) == []


@pytest.mark.parametrize(
    "field",
    [
        *("host", "consumer_key", "consumer_secret", "agent_id", "api_url", "auth", "username"),
        *("private_key_path", "audience", "timeout"),
    ],
)
@pytest.mark.parametrize("given", [PEM, PEM.replace("\n", ""), keys.body_of(PEM), BASE64])
def test_key_in_the_wrong_place_is_refused_and_not_shown(field, given):
    left_out = ["private_key"] if field == "private_key_path" else []
    told = refusal(**{**dict.fromkeys(left_out, ...), field: given})
    assert "a private key" in told
    assert keys.quoted(given, told) == []


@pytest.mark.parametrize("field", ["host", "agent_id", "api_url", "auth", "username", "audience", "name"])
@pytest.mark.parametrize("given", [PEM, BASE64], ids=["PEM", "Base64"])
def test_a_line_of_the_key_elsewhere_is_not_shown(field, given):
    # A line that begins with letters, digits and a slash could be a host with a path.
    line = next(line for line in PEM.splitlines()[1:] if "+" in line.partition("/")[0])
    extra = {"auth": "jwt_bearer", "username": keys.USERNAME, "private_key": given}
    extra[line if field == "name" else field] = line
    host = extra.pop("host", HOST)
    with pytest.raises(AgentforceInputError) as caught:
        Settings.from_fields(host=host, login="key", password=None, extra=extra)
    assert keys.quoted(PEM, f"{caught.value} {caught.value!r}") == []


# What it costs


def test_jose_and_cryptography_are_loaded_for_this_flow_only():
    code = (
        "import sys\n"
        "from airflow_provider_agentforce.client import AgentforceClient, Settings\n"
        "import airflow_provider_agentforce.client.diagnostics\n"
        "loaded = lambda: sorted({'jwt', 'cryptography'} & set(sys.modules))\n"
        f"AgentforceClient(Settings({HOST!r}, 'key', 'secret'))\n"
        "print(loaded())\n"
        f"AgentforceClient(Settings(**{fields()!r}))\n"
        "print(loaded())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[]"
    assert "cryptography" in done.stdout.split("\n")[1]


def test_a_path_of_a_pipe_is_refused(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(AgentforceInputError, match="is not a regular file"):
        read_key(None, str(path))
