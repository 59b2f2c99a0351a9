"""One request on its way through the emulator, and the answer to it, without any web framework."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_agentforce.emulator.errors import ApiError
from airflow_provider_agentforce.emulator.models import RequestRecord, SessionRecord
from airflow_provider_agentforce.emulator.org import Org
from airflow_provider_agentforce.emulator.tokens import Verdict, looks_like_jwt

API_BASE = "/einstein/ai-agent/v1"
_JSON = {"content-type": "application/json"}


@dataclass(kw_only=True)
class Call:
    """One request. ``headers`` has lower-case names; ``params`` are the variable parts of the path."""

    org: Org
    record: RequestRecord
    params: dict[str, str]
    query: dict[str, str]
    content: bytes
    locked: SessionRecord | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The request headers, names in lower case."""
        return self.record.headers

    @property
    def api_path(self) -> str:
        """The path below the API base, as error bodies show it."""
        return self.record.path.removeprefix(API_BASE)

    def content_type(self) -> str:
        """Return the media type of the body without its parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def bearer(self) -> str:
        """Return the bearer token, empty without one."""
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""

    def authorize(self) -> None:
        """Refuse a caller without a valid token, as the gateway of the Agent API does.

        :raises ApiError: 401; for a token that is no JWT a bare 404.
        """
        token = self.bearer()
        settings = self.org.settings
        if token and not looks_like_jwt(token) and settings.reject_opaque and not settings.seed:
            raise ApiError("opaque_token")
        if self.org.tokens.check(token) is not Verdict.VALID:
            raise ApiError("unauthorized")

    def json_object(self) -> dict[str, Any]:
        """Return the JSON object in the body.

        :raises ApiError: another content type (a 500, as documented), or no JSON object.
        """
        if self.content_type() != "application/json":
            raise ApiError("unsupported_media_type")
        try:
            body = json.loads(self.content)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise ApiError("bad_request", detail="The request body is not a JSON object")
        return body

    def lock_session(self) -> SessionRecord:
        """Take the session named in the path for this call; it is given back when the answer is out.

        :raises ApiError: the session is gone or taken.
        """
        self.locked = self.org.lock_session(self.params["session_id"])
        return self.locked

    def close(self) -> None:
        """Give back what the call took."""
        if self.locked is not None:
            self.org.unlock_session(self.locked)
            self.locked = None


@dataclass(kw_only=True)
class Answer:
    """What goes back. ``pieces`` make a stream: the first goes out at once, the rest after ``pause`` s."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes = b""
    pieces: list[bytes] | None = None
    pause: float = 0.0
    cut: int | None = None
    drop: bool = False


Handler = Callable[[Call], Awaitable[Answer]]


def json_answer(value: Any, *, headers: dict[str, str] | None = None) -> Answer:
    """Return ``value`` as a JSON answer."""
    return Answer(
        headers={**_JSON, **(headers or {})},
        content=json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(),
    )
