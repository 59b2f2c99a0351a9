"""The documented error answers, by name, in one table.

Sources: the Agent API reference and troubleshooting pages
(https://developer.salesforce.com/docs/ai/agentforce/guide/agent-api-troubleshooting.html); texts that are
not on them come from captured answers. Their class names (``error``) are guesses, so a client should match
the message first.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from airflow_provider_agentforce.emulator.models import new_uuid


@dataclass(frozen=True)
class ErrorSpec:
    """One documented answer.

    ``style`` says which body it has: ``agent`` (JSON of the Agent API), ``oauth``, ``rest`` (a list, as the
    data API answers) or ``raw`` (the bare ``message``). ``expected`` None leaves out the two undocumented
    fields ``mode`` and ``expected``, as the official samples do.
    """

    status: int
    error: str
    message: str
    expected: bool | None = None
    style: str = "agent"
    content_type: str = "application/json"


def _oauth(error: str, description: str) -> ErrorSpec:
    return ErrorSpec(400, error, description, style="oauth")


def _empty(status: int) -> ErrorSpec:
    return ErrorSpec(status, "", "", style="raw", content_type="")


def _bad_request(message: str, error: str = "BadRequestException") -> ErrorSpec:
    return ErrorSpec(400, error, message, expected=True)


def _org_failed(message: str) -> ErrorSpec:
    nested = json.dumps([{"message": message, "errorCode": "UNKNOWN_EXCEPTION"}], separators=(",", ":"))
    return ErrorSpec(500, "HttpServerErrorException", f"500 {nested}", expected=False)


def soap(body: str) -> str:
    """Return ``body`` in the envelope of the Metadata API."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" '
        'xmlns="http://soap.sforce.com/2006/04/metadata" xmlns:sf="http://soap.sforce.com/2006/04/metadata">'
        f"<soapenv:Body>{body}</soapenv:Body></soapenv:Envelope>"
    )


def _soap_fault(code: str, text: str) -> ErrorSpec:
    fault = f"<faultcode>sf:{code}</faultcode><faultstring>{code}: {text}</faultstring>"
    message = soap(f"<soapenv:Fault>{fault}</soapenv:Fault>")
    return ErrorSpec(500, code, message, style="raw", content_type="text/xml")


_CONTACT = "An unexpected error occurred. Please include this ErrorId if you contact support: 000000000-00000"
_NO_VERSION = '404 [{"errorCode":"NOT_FOUND","message":"No valid version available"}]'
_NO_ACCESS = '412 [{"errorCode":"PRECONDITION_FAILED","message":"No access to Einstein Copilot."}]'
_NO_SESSION = "V6Session not found for sessionId: {session_id}"
_HTML = "<html><head><title>URL No Longer Exists</title></head><body>URL No Longer Exists</body></html>"

ERRORS: dict[str, ErrorSpec] = {
    # Token endpoint
    "no_run_as_user": _oauth("invalid_grant", "no client credentials user enabled"),
    "wrong_domain": _oauth("invalid_grant", "request not supported on this domain"),
    "wrong_secret": _oauth("invalid_client", "invalid client credentials"),
    "wrong_key": _oauth("invalid_client_id", "client identifier invalid"),
    "wrong_grant_type": _oauth("unsupported_grant_type", "grant type not supported"),
    "scope_not_supported": _oauth("invalid_request", "scope parameter not supported"),
    "invalid_assertion": _oauth("invalid_grant", "invalid assertion"),
    "wrong_audience": _oauth("invalid_grant", "audience is invalid"),
    # The platform's words for an assertion that has expired.
    "expired_assertion": _oauth("invalid_grant", "expired authorization code"),
    "app_access": _oauth("invalid_app_access", "user is not admin approved to access this app"),
    "app_not_approved": _oauth("invalid_grant", "user hasn't approved this consumer"),
    "max_logins": _oauth("invalid_grant", "Maximum Logins Exceeded"),
    "login_rate": _oauth("invalid_grant", "login rate exceeded"),
    "retry_request": _oauth("unknown_error", "retry your request"),
    # 400
    "bad_request": _bad_request("{detail}"),
    "invalid_agent_id": _bad_request("{agent_id} is not a valid agent ID"),
    "employee_agent": _bad_request("Bad Request: Invalid user ID provided on start session: "),
    "unrecognized_field": _bad_request('Unrecognized field "{field}"'),
    "missing_property": _bad_request("Missing required creator property '{field}'"),
    "missing_sequence_id": _bad_request("Missing required creator property 'sequenceId'"),
    "invalid_sequence_id": _bad_request("Invalid sequenceId"),
    "sequence_id_used": _bad_request("Sequence id {sequence_id} was already used", "BadRequest"),
    "bad_endpoint": _bad_request("Bad force-config endpoint"),
    # 401 and 403
    "unauthorized": ErrorSpec(401, "UnauthorizedError", "Access bearer token is missing or invalid"),
    "app_not_attached": ErrorSpec(
        401, "UnauthorizedException", "Connected app is not attached to Agent", expected=False
    ),
    "session_not_valid": ErrorSpec(
        401, "UnauthorizedException", "This session is not valid for use with the REST API", expected=False
    ),
    # For an expired token, and for a second or two after another process renewed its own.
    "invalid_jwt_format": ErrorSpec(401, "INVALID_AUTH_HEADER", "INVALID_JWT_FORMAT", style="rest"),
    "bad_oauth_token": ErrorSpec(403, "", "Bad_OAuth_Token", style="raw", content_type="text/html"),
    "forbidden": ErrorSpec(403, "ForbiddenError", "User forbidden from accessing the resource"),
    # 404 and 410
    "session_not_found": ErrorSpec(404, "NotFoundException", _NO_SESSION, expected=True),
    "not_found": ErrorSpec(404, "NotFoundError", "Not Found"),
    "inactive_agent": ErrorSpec(404, "HttpClientErrorException", _NO_VERSION, expected=False),
    "opaque_token": _empty(404),
    "wrong_host": ErrorSpec(404, "", _HTML, style="raw", content_type="text/html"),
    "not_available": ErrorSpec(410, "NotAvailableError", "Gone"),
    # 4xx
    "not_acceptable": ErrorSpec(
        406, "HttpMediaTypeNotAcceptableException", "No acceptable representation", expected=True
    ),
    "inactive_agent_412": ErrorSpec(412, "HttpClientErrorException", _NO_ACCESS, expected=False),
    "inactive_agent_422": ErrorSpec(
        422, "RequestProcessingException", "Cannot determine the active version for the agent"
    ),
    "session_locked": ErrorSpec(
        423, "SessionAlreadyLockedException", "Session Already Locked", expected=True
    ),
    "too_many_requests": ErrorSpec(429, "TooManyRequestsError", "Too many requests for the server to handle"),
    # 5xx
    "unexpected_error": _org_failed(_CONTACT),
    "session_not_found_500": ErrorSpec(500, "HttpServerErrorException", _NO_SESSION, expected=False),
    "wrong_endpoint": ErrorSpec(
        500,
        "EngineConfigLookupException",
        "Unable to look up the engine config for the given endpoint",
        expected=False,
    ),
    "unknown_agent": _org_failed(_CONTACT),
    "unsupported_media_type": ErrorSpec(
        500, "HttpMediaTypeNotSupportedException", "Unsupported Media Type", expected=True
    ),
    "inactive_agent_500": ErrorSpec(500, "InactiveConfigException", "Config is not active"),
    "stale_version": _org_failed(
        "Attempted to retrieve bot version ID to insert into cache, but record not found"
    ),
    "planner_surface": _org_failed("Failed to populate planner surface"),
    "script_error": ErrorSpec(500, "HttpServerErrorException", "{detail}", expected=False),
    "bad_gateway": _empty(502),
    "service_unavailable": ErrorSpec(
        503, "ServiceUnavailable", "Service is unavailable possibly because Apex/Flow calls timed out"
    ),
    "gateway_timeout": _empty(504),
    # Data API and agent tests
    "rest_session_expired": ErrorSpec(401, "INVALID_SESSION_ID", "Session expired or invalid", style="rest"),
    "rest_malformed_query": ErrorSpec(400, "MALFORMED_QUERY", "{detail}", style="rest"),
    "rest_invalid_field": ErrorSpec(400, "INVALID_FIELD", "{detail}", style="rest"),
    "rest_invalid_type": ErrorSpec(400, "INVALID_TYPE", "{detail}", style="rest"),
    "rest_not_found": ErrorSpec(404, "NOT_FOUND", "The requested resource does not exist", style="rest"),
    "rest_query_locator": ErrorSpec(400, "INVALID_QUERY_LOCATOR", "invalid query locator", style="rest"),
    "rest_filter_operator": ErrorSpec(400, "INVALID_QUERY_FILTER_OPERATOR", "{detail}", style="rest"),
    "rest_json_parser": ErrorSpec(400, "JSON_PARSER_ERROR", "{detail}", style="rest"),
    "rest_too_many": ErrorSpec(400, "EXCEEDED_ID_LIMIT", "{detail}", style="rest"),
    "rest_request_limit": ErrorSpec(
        403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.", style="rest"
    ),
    "rest_unavailable": ErrorSpec(
        503, "SERVER_UNAVAILABLE", "Server is too busy to process the request", style="rest"
    ),
    "rest_no_dataspace": ErrorSpec(
        400, "BAD_REQUEST", "No selected dataspace for Einstein Audit", style="rest"
    ),
    "rest_no_feedback": ErrorSpec(
        400, "BAD_REQUEST", "The data model object GenAIFeedback__dlm does not exist", style="rest"
    ),
    "rest_forbidden": ErrorSpec(
        403,
        "FUNCTIONALITY_NOT_ENABLED",
        "This feature is not currently enabled for this user.",
        style="rest",
    ),
    "rest_empty": ErrorSpec(400, "INVALID_INPUT", "", style="rest"),
    "rest_unknown_evaluation": ErrorSpec(
        400, "INVALID_INPUT", "Invalid AiEvalDefinitionVersion identifier.", style="rest"
    ),
    "rest_unknown_suite": ErrorSpec(
        404, "NOT_FOUND", "Failed to run test suite: {definition} not found.", style="rest"
    ),
    "soap_session": _soap_fault("INVALID_SESSION_ID", "Invalid Session ID found in SessionHeader"),
    "soap_operation": _soap_fault("INVALID_OPERATION", "No operation available for request"),
    "rest_unknown": ErrorSpec(500, "UNKNOWN_EXCEPTION", _CONTACT, style="rest"),
}

# Answers for which sources name different statuses, by status.
INACTIVE_AGENT = {
    404: "inactive_agent",
    412: "inactive_agent_412",
    422: "inactive_agent_422",
    500: "inactive_agent_500",
}
SESSION_GONE = {404: "session_not_found", 410: "not_available", 500: "session_not_found_500"}

# The first error of a status in the table above is what a bare status means.
_BY_STATUS = {spec.status: name for name, spec in reversed(ERRORS.items()) if spec.style == "agent"}
_BY_OPERATION = {
    "token": {400: "wrong_secret", 401: "wrong_secret"},
    "query": {
        400: "rest_malformed_query",
        401: "rest_session_expired",
        404: "rest_not_found",
        500: "rest_unknown",
        503: "rest_unavailable",
    },
    "write": {
        400: "rest_json_parser",
        401: "rest_session_expired",
        404: "rest_not_found",
        500: "rest_unknown",
        503: "rest_unavailable",
    },
    "test": {400: "rest_empty", 401: "rest_session_expired", 404: "rest_not_found", 500: "rest_unknown"},
    "session_trace": {
        400: "rest_no_dataspace",
        401: "rest_session_expired",
        403: "rest_forbidden",
        404: "rest_not_found",
        500: "rest_unknown",
    },
    "start": {**_BY_STATUS, 404: "inactive_agent"},
}


def for_status(operation: str, status: int) -> ErrorSpec:
    """Return the answer that is documented for a status; one with an empty body if there is none."""
    name = _BY_OPERATION.get(operation, _BY_STATUS).get(status)
    return ERRORS[name] if name else _empty(status)


class ApiError(Exception):
    """A refusal by the org: the name of a documented error, and the values of its placeholders."""

    def __init__(self, name: str, *, headers: dict[str, str] | None = None, **values: Any) -> None:
        super().__init__(name)
        self.spec = ERRORS[name]
        self.headers = headers or {}
        self.values = values


def render(spec: ErrorSpec, *, path: str, values: dict[str, Any]) -> tuple[dict[str, str], bytes]:
    """Return headers and body of ``spec``. ``path`` is the path below the API base, as servers report it."""
    message = spec.message
    for name, value in values.items():
        message = message.replace("{" + name + "}", str(value))
    headers = {"content-type": spec.content_type} if spec.content_type else {}
    if spec.style == "raw":
        return headers, message.encode()
    body: Any = {"error": spec.error, "error_description": message}
    if spec.style == "rest":
        body = [{"message": message, "errorCode": spec.error}]
    elif spec.style == "agent":
        body = agent_error_body(spec, message=message, path=path)
        headers["x-request-id"] = body["requestId"]
    return headers, json_bytes(body)


def json_bytes(value: Any) -> bytes:
    """Return ``value`` as JSON in UTF-8, with half of a surrogate pair as an escape."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


def agent_error_body(spec: ErrorSpec, *, message: str, path: str) -> dict[str, Any]:
    """Return the JSON error object of the Agent API; it also travels inside an ERROR event of a stream."""
    body: dict[str, Any] = {
        "status": spec.status,
        "path": f"v6.0.0{path}",
        "requestId": new_uuid(),
        "error": spec.error,
        "message": message,
        "timestamp": int(time.time() * 1000),
    }
    if spec.expected is not None:
        body.update(mode="unknown", expected=spec.expected)
    return body
