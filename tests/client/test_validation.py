"""What a user hands in is checked before a byte is sent; a refusal names the field and the way out."""

import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from urllib3.util import parse_url

from airflow_provider_agentforce.client import Session, Settings, Turn, validation
from airflow_provider_agentforce.client.models import session_from
from airflow_provider_agentforce.exceptions import AgentforceInputError


def refused(check, *args):
    """Return the error of a check that must refuse, after looking it over."""
    with pytest.raises(AgentforceInputError) as caught:
        check(*args)
    told = str(caught.value)
    assert told.isprintable()
    assert 10 < len(told) < 400
    assert isinstance(caught.value, ValueError)
    assert (caught.value.applied, caught.value.retryable) == (False, False)
    assert str(pickle.loads(pickle.dumps(caught.value))) == told  # noqa: S301
    return told


# Hosts

GOOD_HOSTS = {
    "https://acme.my.salesforce.com": "https://acme.my.salesforce.com",
    "https://ACME.my.Salesforce.com/": "https://acme.my.salesforce.com",
    "  acme.my.salesforce.com\n": "https://acme.my.salesforce.com",
    "HTTPS://acme--uat.sandbox.my.salesforce.com": "https://acme--uat.sandbox.my.salesforce.com",
    "https://acme.develop.my.salesforce.mil": "https://acme.develop.my.salesforce.mil",
    "https://gateway.acme.example:8443": "https://gateway.acme.example:8443",
    "https://acme.my.salesforce.com:443": "https://acme.my.salesforce.com",
    "http://127.0.0.1:80": "http://127.0.0.1",
    "http://127.0.0.1:443": "http://127.0.0.1:443",
    "http://127.0.0.1:8080": "http://127.0.0.1:8080",
    "http://localhost:8080/": "http://localhost:8080",
    "http://[::1]:8080": "http://[::1]:8080",
    "http://127.8.9.10": "http://127.8.9.10",
}
BAD_HOSTS = [
    "",
    " ",
    "https://",
    "http://acme.my.salesforce.com",
    "http://10.0.0.1",
    "http://0.0.0.0:80",
    "http://localhost.evil.example",
    "http://127.0.0.1.evil.example",
    "http://127.1",
    "http://2130706433",
    "http://0x7f.0.0.1",
    "http://[::ffff:8.8.8.8]",
    "http://[fe80::1]",
    "ftp://acme.my.salesforce.com",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "//acme.my.salesforce.com",
    "https:/acme.my.salesforce.com",
    "https:acme.my.salesforce.com",
    "https://user@acme.my.salesforce.com",
    "https://user:canary@acme.my.salesforce.com",
    "https://user:canary@[",
    "https://user:canary/x@acme.my.salesforce.com",
    "https://user:x//canary@acme.my.salesforce.com",
    "user:canary@acme.my.salesforce.com",
    "@[",
    "https://api.salesforce.com@evil.example",
    "https://acme.my.salesforce.com\\@evil.example",
    "https://acme.my.salesforce.com\\evil",
    "https://acme.my.salesforce.com/services",
    "https://acme.my.salesforce.com?x=1",
    "https://acme.my.salesforce.com#x",
    "https://acme.my.salesforce.com:",
    "https://acme.my.salesforce.com.",
    "https://acme..my.salesforce.com",
    "https://.",
    "https://acme.my.salesforce.com:port",
    "https://acme.my.salesforce.com:443:443",
    "https://acme.my.salesforce.com:123456",
    "https://acme.my.salesforce.com\r\nX-Evil: 1",
    "https://acme.my\x00.salesforce.com",
    "https://acme.my.sales force.com",
    "https://acmé.my.salesforce.com",
    "https://acme.my.salesforce。com",
    "https://acme_x.my.salesforce.com",
    "https://[::1",
    "https://%61cme.my.salesforce.com",
    "https://*.my.salesforce.com",
    "\ud800",
]


@pytest.mark.parametrize("given", GOOD_HOSTS)
def test_good_host_becomes_an_origin(given):
    assert validation.my_domain(given) == GOOD_HOSTS[given]
    assert validation.origin(given, "api_url") == GOOD_HOSTS[given]


@pytest.mark.parametrize("given", BAD_HOSTS)
def test_bad_host_is_refused(given):
    for check, field in ((validation.my_domain, "host"), (validation.origin, "api_url")):
        told = refused(check, given, field)
        assert told.startswith(field)
        assert "canary" not in told


@pytest.mark.parametrize("given", [None, 7, b"https://acme.my.salesforce.com", ["x"], {}])
def test_host_that_is_no_text_is_refused(given):
    assert "must be text" in refused(validation.my_domain, given)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("https://login.salesforce.com", "client-credentials flow"),
        ("test.salesforce.com", "client-credentials flow"),
        ("https://acme.lightning.force.com", "not the API"),
        ("https://acme.my.salesforce-setup.com", "not the API"),
    ],
)
def test_host_of_another_purpose_is_refused_with_the_reason(given, why):
    told = refused(validation.my_domain, given)
    assert why in told
    assert "My Domain" in told


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.255.1.2", "::1", "[::1]"])
def test_loopback_is_known(host):
    assert validation.is_loopback(host)


@pytest.mark.parametrize("host", ["", "10.0.0.255", "::", "localhost.", "10.0.0.1", "127.1", "example.com"])
def test_what_is_no_loopback_is_known(host):
    assert not validation.is_loopback(host)


# Ids


IDS = ["x" * 129, "a;b", "a:b", "a@b", "\x00", "\u0661", None, 7, b"a"]


@pytest.mark.parametrize("given", ["0Xxxx0000000001CAA", "019d0aac-dcd0-7368", "a", "x" * 128, " a_b \n"])
def test_good_id_is_taken(given):
    assert validation.path_id(given, "agent_id") == given.strip()


@pytest.mark.parametrize(
    "given",
    ["", " ", ".", "..", "../x", "a/b", "a\\b", "a%2e", "a b", "a\rb", "a\nb", "a?b", "a#b", "é", *IDS],
)
def test_bad_id_is_refused(given):
    assert refused(validation.path_id, given, "agent_id").startswith("agent_id must be")


# Messages


@pytest.mark.parametrize("given", ["x", " x\n", "0", "None", "🙂", "\x00", "Grüße\u2028", "x" * 1_000_000])
def test_good_message_is_taken_as_it_is(given):
    assert validation.message_text(given) == given


@pytest.mark.parametrize(
    "given", ["", " ", "\n\t\u3000", None, 7, True, b"x", ["x"], "half \ud83d", "\udc80"]
)
def test_bad_message_is_refused(given):
    assert refused(validation.message_text, given).startswith("text ")


def test_refusal_does_not_repeat_a_long_value():
    assert "y" * 100 not in refused(validation.path_id, "y" * 10_000 + "/", "agent_id")


# Numbers


@pytest.mark.parametrize(("given", "number"), [(0, 0), (7, 7), ("0", 0), (" 12\n", 12), (10**17, 10**17)])
def test_good_sequence_id_is_taken(given, number):
    assert validation.sequence_id(given) == number


@pytest.mark.parametrize(
    "given",
    [
        -1,
        "-1",
        "+1",
        "",
        " ",
        "1.0",
        1.0,
        "1e3",
        "\u0661",
        True,
        None,
        "None",
        [],
        10**18,
        "9" * 19,
        "0x1",
        "1_0",
    ],
)
def test_bad_sequence_id_is_refused(given):
    assert refused(validation.sequence_id, given).startswith("sequence_id must be")


@pytest.mark.parametrize(("given", "number"), [(1, 1.0), ("0.5", 0.5), (130, 130.0), (" 7 ", 7.0)])
def test_good_time_out_is_taken(given, number):
    assert validation.positive(given, "timeout") == number


@pytest.mark.parametrize(
    "given", [0, -1, "0", "", "x", math.inf, math.nan, "inf", "nan", "1e999", 10**400, True, None, [1], "1,5"]
)
def test_bad_time_out_is_refused(given):
    assert refused(validation.positive, given, "timeout").startswith("timeout must be a number")


@pytest.mark.parametrize(("given", "number"), [(1, 1), ("50", 50), (2.0, 2), ("1e3", 1000)])
def test_good_count_is_taken(given, number):
    assert validation.count(given, "max") == number
    assert isinstance(validation.count(given, "max"), int)


@pytest.mark.parametrize("given", [0, 0.5, 1.5, "1.5", -1, False, "ten", None])
def test_bad_count_is_refused(given):
    assert refused(validation.count, given, "max").startswith("max must be a")


# Words from lists


@pytest.mark.parametrize("given", ["UserRequest", "Transfer", "Expiration", "Error", "Other"])
def test_end_reason_of_the_reference_is_taken(given):
    assert validation.end_reason(given) == given


@pytest.mark.parametrize("given", ["", "userrequest", "Expired", "Other\r\nX: 1", None, 1, ["Other"], {}])
def test_other_end_reason_is_refused(given):
    assert "UserRequest, Transfer, Expiration, Error or Other" in refused(validation.end_reason, given)


def test_feedback_is_good_or_bad():
    assert [validation.feedback(one) for one in ("GOOD", "BAD")] == ["GOOD", "BAD"]
    for bad in ("good", "", None, True, []):
        assert "GOOD or BAD" in refused(validation.feedback, bad)


@pytest.mark.parametrize("given", ["Europe/Berlin", "UTC", "America/Los_Angeles"])
def test_time_zone_of_the_database_is_taken(given):
    assert validation.time_zone(given) == given


@pytest.mark.parametrize(
    "given",
    ["", " ", "Mars/Olympus", "Europe", "../etc/passwd", "/etc/passwd", "\x00", "\ud800", None, 1, "+02:00"],
)
def test_other_time_zone_is_refused(given):
    told = refused(validation.time_zone, given)
    assert ("Europe/Berlin" if isinstance(given, str) else "must be text") in told


def test_session_key_is_a_uuid():
    key = "57904eb6-5352-4c5e-adf6-5f100572cf5d"
    assert validation.session_key(key.upper()) == key
    for bad in ("", "session_1234567890", key + "0", None, 7):
        assert "UUID" in refused(validation.session_key, bad) or "must be text" in refused(
            validation.session_key, bad
        )


# Variables


def test_variables_as_a_dict_get_their_types():
    given = {"$Context.EndUserLanguage": "en_US", "n": 1, "f": 1.5, "b": False}
    assert validation.variables(given) == [
        {"name": "$Context.EndUserLanguage", "type": "Text", "value": "en_US"},
        {"name": "n", "type": "Number", "value": 1},
        {"name": "f", "type": "Number", "value": 1.5},
        {"name": "b", "type": "Boolean", "value": False},
    ]


def test_variables_as_a_list_keep_their_types():
    given = ({"name": "o", "type": "Object", "value": {"a": [1, None]}}, {"name": "t", "value": "x"})
    assert validation.variables(given) == [
        {"name": "o", "type": "Object", "value": {"a": [1, None]}},
        {"name": "t", "type": "Text", "value": "x"},
    ]
    assert validation.variables(None) == validation.variables([]) == validation.variables({}) == []


@pytest.mark.parametrize(
    "given",
    [
        "name=value",
        b"x",
        7,
        {"a", "b"},
        ["x"],
        [None],
        [{}],
        [{"name": "x"}],
        [{"value": 1}],
        [{"name": "x", "value": 1, "extra": 2}],
        [{"name": "", "value": 1}],
        [{"name": " ", "value": 1}],
        [{"name": 7, "value": 1}],
        [{"name": "x", "type": "", "value": 1}],
        [{"name": "x", "type": None, "value": 1}],
        [{"name": "x", "value": math.nan}],
        [{"name": "x", "value": math.inf}],
        [{"name": "x", "value": {1, 2}}],
        [{"name": "x", "value": object()}],
        [{"name": "x", "value": "half \ud83d"}],
        [{"name": "x", "value": {"deep": ["\udc80"]}}],
        [{"name": "x\ud800", "value": 1}],
        [{"name": "x", "value": 1}, {"name": "x", "value": 2}],
        {"x": None},
        {"x": [1]},
        {"x": {"a": 1}},
        {"x": math.nan},
        {7: "x"},
        {"": "x"},
    ],
)
def test_bad_variables_are_refused(given):
    assert refused(validation.variables, given).startswith("variables")


def test_variable_that_is_nested_too_deep_or_in_itself_is_refused():
    endless = []
    endless.append(endless)
    assert "JSON" in refused(validation.variables, [{"name": "x", "value": endless}])
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert "JSON" in refused(validation.variables, [{"name": "x", "value": deep}])


# Keys and secrets


@pytest.mark.parametrize("given", ["", " \n", "a\x00b", "a\nb", "é", "a\u200bb", 7777, b"x"])
def test_bad_secret_is_refused_and_never_shown(given):
    told = refused(validation.secret, given, "password")
    assert told.startswith("password")
    assert repr(given) not in told


def test_secret_loses_the_blanks_that_copying_leaves():
    assert validation.secret(" abc\n", "password") == "abc"


# Settings

GIVEN = {"host": "acme.my.salesforce.com", "login": "key", "password": "canary", "extra": {}}


def test_settings_have_their_defaults():
    settings = Settings.from_fields(**GIVEN)
    assert settings.host == "https://acme.my.salesforce.com"
    assert (settings.timeout, settings.max_concurrent_sessions) == (130.0, 50)
    assert (settings.max_sessions_per_hour, settings.max_messages_per_session) == (1000, 100)
    assert (settings.agent_id, settings.api_url) == (None, None)
    assert "canary" not in repr(settings)


def test_every_missing_field_and_unknown_extra_is_named_in_one_error():
    told = refused(
        lambda: Settings.from_fields(host=None, login=" ", password="", extra={"zeta": 1, "Agent_Id": 2})
    )
    for part in ("host (My Domain URL)", "login (consumer key)", "password (consumer secret)"):
        assert part in told
    assert "Unknown extra Agent_Id, zeta" in told
    assert all(known in told for known in ("agent_id", "api_url", "timeout", "max_sessions_per_hour"))


@pytest.mark.parametrize("field", ["host", "login", "password"])
@pytest.mark.parametrize("value", [None, "", " \t\n"])
def test_one_missing_field_is_named_alone(field, value):
    told = refused(lambda: Settings.from_fields(**{**GIVEN, field: value}))
    assert f"lacks {field}" in told
    assert told.count("(") == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("agent_id", "my agent"),
        ("agent_id", 7),
        ("api_url", "http://api.salesforce.com"),
        ("api_url", "https://api.salesforce.com/einstein"),
        ("timeout", 0),
        ("timeout", "soon"),
        ("timeout", True),
        ("max_concurrent_sessions", 0),
        ("max_sessions_per_hour", "0"),
        ("max_messages_per_session", -1),
        ("max_messages_per_session", 1.5),
    ],
)
def test_bad_extra_is_refused_by_its_name(name, value):
    assert refused(lambda: Settings.from_fields(**{**GIVEN, "extra": {name: value}})).startswith(name)


@pytest.mark.parametrize("blank", [None, "", "  "])
def test_blank_extras_count_as_not_given(blank):
    extra = dict.fromkeys(("agent_id", "api_url", "timeout", "max_concurrent_sessions"), blank)
    assert Settings.from_fields(**{**GIVEN, "extra": extra}) == Settings.from_fields(**GIVEN)


def test_extras_may_be_text():
    extra = {"timeout": "5", "max_concurrent_sessions": "2", "api_url": "api.gov.salesforce.com"}
    settings = Settings.from_fields(**{**GIVEN, "extra": extra})
    assert (settings.timeout, settings.max_concurrent_sessions) == (5.0, 2)
    assert settings.api_url == "https://api.gov.salesforce.com"


def test_agent_of_the_call_wins_over_the_one_of_the_settings():
    settings = Settings.from_fields(**{**GIVEN, "extra": {"agent_id": "A1"}})
    assert [settings.agent(given) for given in (None, "", "B2")] == ["A1", "A1", "B2"]
    refused(settings.agent, "../x")


def test_consumer_key_alone_is_no_secret_to_be_masked():
    forms = Settings.from_fields(**GIVEN).secret_forms()
    assert "key" not in forms
    assert "canary" in forms


# Sessions


def test_session_is_read_from_all_its_shapes():
    session = Session("s-1", 3, "A1", "k", "Hi")
    turn = Turn("s-1", 4, "A1", "text", "answered")
    assert session_from(session) == session
    assert session_from(turn) == Session("s-1", 4, "A1")
    assert session_from(session.to_dict()).sequence_id == 3
    assert session_from(turn.to_dict()) == Session("s-1", 4, "A1")
    assert session_from({"session_id": "s-1"}) == Session("s-1", 0)


@pytest.mark.parametrize(
    "given",
    [
        None,
        "s-1",
        7,
        [],
        {},
        {"session_id": None},
        {"session_id": "../x"},
        {"session_id": "s", "sequence_id": "x"},
        {"session_id": "s", "agent_id": "a/b"},
        Session("a/b"),
        Session("s", -1),
        Turn("..", 1, None, "", ""),
    ],
)
def test_what_is_no_session_is_refused(given):
    assert refused(session_from, given).startswith("session")


PIECES = st.sampled_from(
    [
        "https://",
        "http://",
        "acme",
        ".my.salesforce.com",
        "@",
        ":",
        "443",
        "/",
        "\\",
        "?",
        "#",
        "%2e",
        "127.0.0.1",
        "[::1]",
        "[",
        " ",
        "\n",
        "é",
        "..",
        "evil.example",
    ]
)


@given(st.lists(PIECES, max_size=8).map("".join) | st.text(max_size=60))
def test_any_text_is_a_host_that_means_the_same_to_the_library_that_connects_or_one_error(text):
    try:
        origin = validation.origin(text, "host")
    except AgentforceInputError as error:
        told = str(error)
    else:
        told = None
    if told is not None:
        assert "host" in told
        assert "\n" not in told
        return
    parsed = parse_url(origin)
    host = parsed.host or ""
    assert (parsed.auth, parsed.path, parsed.query, parsed.fragment) == (None, None, None, None)
    assert origin == f"{parsed.scheme}://{host}" + (f":{parsed.port}" if parsed.port is not None else "")
    assert parsed.scheme == "https" or validation.is_loopback(host)


CHECKS = {
    "path_id": validation.path_id,
    "agent": validation.agent,
    "message_text": validation.message_text,
    "sequence_id": validation.sequence_id,
    "end_reason": validation.end_reason,
    "feedback": validation.feedback,
    "time_zone": validation.time_zone,
    "name": validation.name,
    "session_key": validation.session_key,
    "variables": validation.variables,
    "positive": validation.positive,
    "count": validation.count,
    "secret": validation.secret,
    "session": session_from,
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@given(JSON | st.lists(PIECES, max_size=8).map("".join))
def test_any_value_is_taken_or_refused_in_one_line_that_names_the_field(check, value):
    try:
        check(value, "field_7")
    except AgentforceInputError as error:
        told = str(error)
        assert told.isprintable()
        assert "field_7" in told
