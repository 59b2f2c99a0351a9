"""The rules behind the retry table: what a header asks for, what a failure is, and what to do about it."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_agentforce.client import failure_catalogue, responses
from airflow_provider_agentforce.client.delivery_policy import Delivery, Ending, Failure, Operation
from airflow_provider_agentforce.client.responses import ErrorReply

TOKEN, START, SEND, END, FEEDBACK, QUERY, TEST, READ, TRACE, WRITE = Operation
DATE = "Wed, 21 Oct 2015 07:28:00 GMT"
NOW = 1445412480.0  # DATE

# Retry-After (RFC 9110 section 10.2.3)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("1", 1.0),
        ("007", 7.0),
        ("  30 ", 30.0),
        ("\t30", 30.0),
        ("9999999999", 9999999999.0),
        ("Wed, 21 Oct 2015 07:28:30 GMT", 30.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0),
        ("Wednesday, 21-Oct-15 07:28:30 GMT", 30.0),
        ("Wed Oct 21 07:28:30 2015", 30.0),
        ("Wed, 21 Oct 2015 09:28:30 +0200", 30.0),
        (" Wed, 21 Oct 2015 07:28:30 GMT ", 30.0),
        ("Thu, 31 Dec 9999 23:59:59 GMT", 251956888319.0),
        (None, None),
        ("", None),
        (" ", None),
        ("-1", None),
        ("+1", None),
        ("1.5", None),
        ("1,5", None),
        ("1e3", None),
        ("0x10", None),
        ("inf", None),
        ("Infinity", None),
        ("nan", None),
        ("\u0661", None),
        ("12345678901", None),
        ("9" * 5000, None),
        ("5 5", None),
        ("5;q=1", None),
        ("10 seconds", None),
        ("soon", None),
        ("Zun, 32 Foo 2015 07:28:30 GMT", None),
        ("Wed, 31 Feb 2015 07:28:30 GMT", None),
        ("Wed, 21 Oct 100000 07:28:00 GMT", None),
        ("Wed, 21 Oct 2015 25:61:61 GMT", None),
        ("2015-10-21T07:28:30Z", None),
    ],
)
def test_retry_after_is_read(value, seconds):
    assert responses.retry_after(value, DATE, NOW) == seconds
    assert responses.retry_after(value, None, NOW) == seconds


@pytest.mark.parametrize("skew", [-86_400.0, 86_400.0])
def test_date_of_the_reply_makes_up_for_a_wrong_clock(skew):
    assert responses.retry_after("Wed, 21 Oct 2015 07:28:30 GMT", DATE, NOW + skew) == 30.0


@pytest.mark.parametrize("date", [None, "", "garbage", "Wed, 21 Oct 100000 07:28:00 GMT", "0"])
def test_date_that_is_no_use_leaves_the_own_clock(date):
    assert responses.retry_after("Wed, 21 Oct 2015 07:28:30 GMT", date, NOW) == 30.0


def test_seconds_do_not_depend_on_any_clock():
    assert responses.retry_after("30", "Wed, 21 Oct 2099 07:28:00 GMT", 0.0) == 30.0


@given(st.text(max_size=40) | st.none(), st.text(max_size=40) | st.none())
def test_any_header_is_seconds_or_none(value, date):
    found = responses.retry_after(value, date, NOW)
    assert found is None or found >= 0


def test_long_header_is_read_in_bounded_time():
    began = time.process_time()
    for value in ("1," * 32_000, "Wed, " * 13_000, ":" * 65_000, "(" * 65_000, "0" * 65_000, " " * 65_000):
        responses.retry_after(value, value, NOW)
    assert time.process_time() - began < 2


# Failures

AGENT_500 = '500 [{"message":"oops","errorCode":"UNKNOWN_EXCEPTION"}]'
HTTP_500 = "HttpServerErrorException"
GONE = "V6Session not found for sessionId: s-1"
# operation, status, error class, words -> failure
REPLIES = [
    (TOKEN, 400, "temporarily_unavailable", "x", Failure.OAUTH_TEMPORARY),
    (TOKEN, 400, "server_error", "", Failure.OAUTH_TEMPORARY),
    (TOKEN, 400, "unknown_error", "retry your request", Failure.OAUTH_TEMPORARY),
    (START, 400, "server_error", "", Failure.BAD_REQUEST),
    (TOKEN, 400, "invalid_grant", "Login Rate Exceeded", Failure.LOGIN_RATE),
    (TOKEN, 403, "", "login rate exceeded", Failure.LOGIN_RATE),
    (SEND, 403, "", "login rate exceeded", Failure.FORBIDDEN),
    (TOKEN, 400, "invalid_client", "invalid client credentials", Failure.TOKEN_REFUSED),
    (START, 401, "UnauthorizedException", "Connected app is not attached to Agent", Failure.APP_NOT_ATTACHED),
    (SEND, 401, "x", "connected app is NOT ATTACHED TO AGENT", Failure.APP_NOT_ATTACHED),
    (SEND, 401, "INVALID_JWT_FORMAT", "x", Failure.INVALID_JWT),
    (SEND, 401, "INVALID_AUTH_HEADER", "INVALID_JWT_FORMAT", Failure.INVALID_JWT),
    (SEND, 401, "INVALID_AUTH_HEADER", "MISSING_OAUTH_TOKEN", Failure.UNAUTHORIZED),
    (SEND, 403, "", "not attached to agent", Failure.FORBIDDEN),
    (START, 500, "EngineConfigLookupException", "x", Failure.SERVER_CONFIG),
    (SEND, 500, "EngineConfigLookupException", "x", Failure.SERVER_CONFIG),
    (SEND, 422, "InactiveConfigException", "x", Failure.SERVER_CONFIG),
    (SEND, 500, "InactiveConfigException", "Config is not active", Failure.SERVER_CONFIG),
    # An action of the agent can fail with any words after it has changed something.
    (
        SEND,
        500,
        "InternalError",
        "Flow fault: Unsupported Media Type returned by partner",
        Failure.SERVER_ERROR,
    ),
    (SEND, 500, "x", "EngineConfigLookupException: config is not active", Failure.SERVER_ERROR),
    (SEND, 500, "x", "Failed to populate planner surface", Failure.SERVER_ERROR),
    (SEND, 422, "x", "Apex: cannot determine the active version of the price book", Failure.UNPROCESSABLE),
    (SEND, 422, "RequestProcessingException", "it broke", Failure.UNPROCESSABLE),
    (SEND, 500, HTTP_500, "500 [wrong id]", Failure.SERVER_ERROR),
    (SEND, 503, "EngineConfigLookupException", "", Failure.UNAVAILABLE),
    (START, 500, "x", "Failed to populate planner surface", Failure.SERVER_CONFIG),
    (START, 500, HTTP_500, "500 [wrong id]", Failure.SERVER_CONFIG),
    (START, 500, HTTP_500, AGENT_500, Failure.SERVER_ERROR),
    (START, 500, HTTP_500, AGENT_500.replace(" ", "\n"), Failure.SERVER_ERROR),
    (END, 500, "x", GONE, Failure.SESSION_GONE),
    (SEND, 500, "x", GONE, Failure.SESSION_GONE),
    (SEND, 500, "x", GONE + "2", Failure.SERVER_ERROR),
    (SEND, 500, "x", f"Flow fault: {GONE}", Failure.SERVER_ERROR),
    (SEND, 410, "", "", Failure.SESSION_GONE),
    (SEND, 404, "", "", Failure.SESSION_GONE),
    (START, 404, "", "", Failure.NOT_FOUND),
    (SEND, 400, "BadRequest", "Sequence id 3 was already used", Failure.BAD_REQUEST),
]


@pytest.mark.parametrize(("operation", "status", "code", "words", "failure"), REPLIES)
def test_reply_names_the_failure(operation, status, code, words, failure):
    said = ErrorReply(code, words)
    assert failure_catalogue.failure_of(operation, status, said, session_id="s-1") is failure


@pytest.mark.parametrize(
    ("status", "words", "failure"),
    [
        (423, "Session Already Locked", Failure.STILL_RUNNING),
        (400, "Sequence id 3 was already used", Failure.ALREADY_DELIVERED),
        (400, "sequenceId 3 already exists", Failure.ALREADY_DELIVERED),
        (400, "Unrecognized field", Failure.BAD_REQUEST),
        (429, "", Failure.THROTTLED),
    ],
)
def test_refusal_of_a_repeated_message_tells_of_the_first(status, words, failure):
    assert failure_catalogue.failure_of(SEND, status, ErrorReply("", words), repeated=True) is failure


@given(st.sampled_from(list(Operation)), st.integers(0, 999), st.text(max_size=60), st.text(max_size=60))
def test_any_reply_is_some_failure(operation, status, code, words):
    assert failure_catalogue.failure_of(operation, status, ErrorReply(code, words)) in Failure


@given(st.sampled_from([422, 500, 502, 503, 504, 520]), st.text(max_size=200))
def test_words_alone_never_say_that_the_agent_did_not_act(status, words):
    assert failure_catalogue.failure_of(SEND, status, ErrorReply("", words)).rule.delivery is Delivery.UNKNOWN


# The table


def test_every_failure_has_a_row_and_every_cell_a_meaning():
    for failure in Failure:
        for operation in Operation:
            cell = failure.rule.cell(operation)
            assert 1 <= cell.attempts <= 3
            assert isinstance(cell.ending, Ending)


@pytest.mark.parametrize("failure", Failure)
def test_message_that_may_have_arrived_is_never_sent_again(failure):
    cell, delivery = failure.rule.cell(SEND), failure.rule.delivery
    sent_again = cell.attempts > 1 or cell.renewals or cell.until_free
    if delivery in {Delivery.UNKNOWN, Delivery.DELIVERED}:
        assert not sent_again
        assert cell.ending is Ending.UNKNOWN
    else:
        assert cell.ending in {Ending.TRANSIENT, Ending.FINAL}


@pytest.mark.parametrize("operation", [TOKEN, START, END, FEEDBACK, QUERY])
def test_only_a_message_can_be_unknown_and_only_a_start_can_leave_a_session(operation):
    for failure in Failure:
        cell = failure.rule.cell(operation)
        assert cell.ending is not Ending.UNKNOWN
        assert not cell.orphan or operation is START
        assert not cell.until_free
        assert not cell.renewals or operation is not TOKEN


def test_what_became_of_a_request_is_what_an_error_tells():
    assert [delivery.applied for delivery in Delivery] == [False, False, None, True]


# Hints: symptom, cause and remedy of the troubleshooting page and of bodies seen in public code


@pytest.mark.parametrize(
    ("operation", "status", "text", "remedy"),
    [
        (START, 404, "URL No Longer Exists", "does not serve the Agent API"),
        (START, 404, 'HttpClientErrorException: [{"message":"No valid version available"}]', "not active"),
        (START, 422, "Cannot determine the active version for the agent", "not active"),
        (START, 412, "No access to Einstein Copilot.", "not active"),
        (START, 500, "InactiveConfigException: Config is not active", "not active"),
        (SEND, 404, "V6Session not found for sessionId: x", "Start a new one"),
        (FEEDBACK, 404, "V6Session not found for sessionId: x", "Rate its answers before"),
        (START, 400, "My_Agent is not a valid agent ID", "0Xx"),
        (START, 400, "Bad Request: Invalid user ID provided on start session: ", "bypass_user=False"),
        (START, 400, "Bad force-config endpoint", "Current My Domain URL"),
        (START, 401, "Connected app is not attached to Agent", "Connections tab"),
        (SEND, 401, "Access bearer token is missing or invalid", "scopes"),
        (SEND, 401, "This session is not valid for use with the REST API", "API Enabled"),
        (START, 500, "EngineConfigLookupException: x", "Current My Domain URL"),
        (START, 500, "HttpServerErrorException: 500 [x]", "unknown agent id"),
        (START, 500, "Attempted to retrieve bot version ID to insert into cache", "Activate it again"),
        (START, 500, "Failed to populate planner surface", "custom connection"),
        (SEND, 500, "x", "120 s"),
        (SEND, 503, "x", "Apex or Flow"),
        (SEND, 422, "x", "Apex or Flow"),
        (SEND, 502, "", "Look at the record"),
        (SEND, 504, "", "Look at the record"),
        (SEND, 404, "", "Start a new one"),
        (SEND, 410, "", "Start a new one"),
        (START, 404, "", "Government Cloud"),
        (QUERY, 400, "INVALID_TYPE: sObject type 'BotDefinition' is not supported.", "give the agent's id"),
        (QUERY, 400, "INVALID_FIELD: No such column 'x' on entity 'BotDefinition'.", "give the agent's id"),
        (QUERY, 401, "This session is not valid for use with the REST API", "scope api"),
        (QUERY, 403, "INSUFFICIENT_ACCESS: x", "see agents (BotDefinition)"),
        (
            QUERY,
            403,
            "REQUEST_LIMIT_EXCEEDED: TotalRequests Limit exceeded.",
            "used up its API calls for today",
        ),
        (READ, 400, "MALFORMED_QUERY: unexpected token: 'FRM'", "Correct the SOQL"),
        (READ, 403, "REQUEST_LIMIT_EXCEEDED: TotalRequests Limit exceeded.", "daily API calls"),
        (WRITE, 403, "REQUEST_LIMIT_EXCEEDED: ConcurrentRequests Limit exceeded.", "at once"),
        (WRITE, 403, "INSUFFICIENT_ACCESS: x", "permission for what is read or written"),
        (START, 403, "", "access to the agent"),
        (START, 429, "", "A limit of the org is reached"),
        (TOKEN, 400, "invalid_grant: no client credentials user enabled", "Run As user"),
        (TOKEN, 400, "invalid_grant: request not supported on this domain", "My Domain"),
        (TOKEN, 400, "invalid_client: invalid client credentials", "consumer secret"),
        (TOKEN, 400, "invalid_client_id: client identifier invalid", "consumer key"),
        (TOKEN, 400, "unsupported_grant_type: grant type not supported", "Client Credentials Flow"),
        (TOKEN, 400, "Maximum Logins Exceeded", "integration user"),
        (TOKEN, 400, "login rate exceeded", "Wait 15 to 30 minutes"),
    ],
)
def test_symptom_has_its_remedy(operation, status, text, remedy):
    code, _, words = text.partition(": ") if ": " in text else ("", "", text)
    said = ErrorReply(code, words)
    failure = failure_catalogue.failure_of(operation, status, said)
    told = failure_catalogue.remedy_of(operation, failure, status=status, said=said)
    assert remedy in told
    assert told.isprintable()
    assert len(told) < 360


@pytest.mark.parametrize("operation", [START, SEND])
def test_404_for_an_opaque_token_explains_the_token(operation):
    told = failure_catalogue.remedy_of(
        operation, Failure.NOT_FOUND, status=404, said=ErrorReply("", "Not Found"), opaque_token=True
    )
    assert "Issue JSON Web Token" in told
    inactive = failure_catalogue.remedy_of(
        START,
        Failure.NOT_FOUND,
        status=404,
        said=ErrorReply("", "No valid version available"),
        opaque_token=True,
    )
    assert "Issue JSON Web Token" not in inactive


@pytest.mark.parametrize("failure", [f for f in Failure if f.rule.cell(SEND).ending is Ending.UNKNOWN])
def test_every_unknown_delivery_of_a_message_says_what_to_do(failure):
    told = failure_catalogue.remedy_of(SEND, failure, status=None, said=ErrorReply("", ""))
    assert "session in Salesforce" in told
    if failure is not Failure.ALREADY_DELIVERED:
        assert "on_unknown_delivery" in told
        assert "clearing the task" in told


@given(st.sampled_from(list(Operation)), st.sampled_from(list(Failure)), st.text(max_size=60))
def test_any_failure_has_a_remedy_or_none(operation, failure, text):
    said = ErrorReply("", text)
    assert isinstance(failure_catalogue.remedy_of(operation, failure, status=None, said=said), str)


@pytest.mark.parametrize("failure", list(Failure))
def test_a_test_run_is_started_as_a_message_is_sent_and_records_are_written_as_queries_are_made(failure):
    rule = failure.rule
    assert rule.cell(TEST) is rule.cell(SEND)
    assert rule.cell(READ) is rule.cell(WRITE) is rule.cell(QUERY)


# Of these, a reply's own words say what to do.
BY_THEIR_WORDS = {Failure.LOGIN_RATE, Failure.INVALID_JWT, Failure.APP_NOT_ATTACHED, Failure.API_LIMIT}
OF_MESSAGES = {Failure.ALREADY_DELIVERED, Failure.STILL_RUNNING}


@pytest.mark.parametrize("operation", Operation)
@pytest.mark.parametrize("failure", [one for one in Failure if one not in BY_THEIR_WORDS])
def test_every_failure_says_what_to_do_even_if_the_reply_says_nothing(failure, operation):
    if failure in OF_MESSAGES and operation not in (Operation.SEND, Operation.TEST):
        return
    first = next(iter(failure.rule.statuses), None)
    status = first * 100 if first is not None and first < 10 else first
    remedy = failure_catalogue.remedy_of(operation, failure, status=status, said=ErrorReply("", ""))
    assert remedy.endswith(".")
