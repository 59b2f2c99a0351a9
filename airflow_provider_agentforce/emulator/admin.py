"""The page and the ``/emulator`` routes, to watch and control the org without Python.

They never show a token or the secret.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from airflow_provider_agentforce.emulator.faults import Fault
from airflow_provider_agentforce.emulator.models import RequestRecord, SessionRecord
from airflow_provider_agentforce.emulator.org import CONSUMER_SECRET, Org

HIDDEN = "(hidden)"
_PAGE = Path(__file__).with_name("page.html")
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
}
_SHOWN_FORM_FIELDS = ("grant_type", "client_id")
_SHOWN_RECORDS = 25
_SYSTEM_FIELDS = {"IsDeleted", "CreatedDate", "LastModifiedDate", "SystemModstamp", "OwnerId"}
_PRIVATE_HEADERS = ("authorization", "cookie")


def routes(org: Org) -> list[Route]:
    """Return every route."""
    admin = _Admin(org)
    return [
        Route("/", admin.page),
        Route("/emulator/sessions", admin.sessions),
        Route("/emulator/requests", admin.requests),
        Route("/emulator/faults", admin.faults),
        Route("/emulator/faults", admin.add_fault, methods=["POST"]),
        Route("/emulator/faults", admin.clear_faults, methods=["DELETE"]),
        Route("/emulator/reset", admin.reset, methods=["POST"]),
        Route("/emulator/revoke-tokens", admin.revoke_tokens, methods=["POST"]),
    ]


class _Admin:
    def __init__(self, org: Org) -> None:
        self._org = org

    async def page(self, _request: Request) -> Response:
        return HTMLResponse(_PAGE.read_text(encoding="utf-8"), headers=_PAGE_HEADERS)

    async def sessions(self, request: Request) -> Response:
        """Return everything the page shows; 204 if nothing has changed since the version that it has."""
        org = self._org
        if request.query_params.get("since") == str(org.version):
            return Response(status_code=204)
        return self._json(
            {
                "version": org.version,
                "mode": org.settings.mode,
                "agents": [dataclasses.asdict(agent) for agent in org.agents],
                "sessions": [_session(session) for session in list(org.sessions.values())],
                "faults": self._pending(),
                "tokens_issued": len(org.tokens),
                "requests": len(org.requests),
                "records": _records(org),
            }
        )

    async def requests(self, _request: Request) -> Response:
        return self._json({"requests": [_request_view(record) for record in list(self._org.requests)]})

    async def faults(self, _request: Request) -> Response:
        return self._json({"faults": self._pending()})

    async def add_fault(self, request: Request) -> Response:
        try:
            fault = self._org.fail(Fault(**json.loads(await request.body())))
        except (TypeError, ValueError) as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        return self._json(_fault(fault), status=201)

    async def clear_faults(self, _request: Request) -> Response:
        self._org.faults.clear()
        self._org.changed()
        return self._json({"faults": []})

    async def reset(self, _request: Request) -> Response:
        self._org.reset()
        return self._json({"reset": True})

    async def revoke_tokens(self, _request: Request) -> Response:
        self._org.revoke_tokens()
        return self._json({"revoked": len(self._org.tokens)})

    def _pending(self) -> list[dict[str, Any]]:
        return [_fault(fault) for fault in self._org.faults.unused()]

    def _json(self, value: Any, *, status: int = 200) -> Response:
        """Answer with ``value``, without secrets that a text, a header or a path of a request contained."""
        text = json.dumps(value, ensure_ascii=False, default=_text)
        for secret in (CONSUMER_SECRET, *list(self._org.tokens)):
            text = text.replace(secret, HIDDEN)
        return Response(
            text.encode("utf-8", "backslashreplace"), status_code=status, media_type="application/json"
        )


def _records(org: Org) -> list[dict[str, Any]]:
    """Return for each object the number of records, and the last changed ones, without empty fields."""
    shown = []
    for name in org.records.sobjects:
        found = org.records.all(name)
        newest = sorted(found, key=_changed_at, reverse=True)[:_SHOWN_RECORDS]
        rows = [
            {key: row[key] for key in row if row[key] is not None and key not in _SYSTEM_FIELDS}
            for row in newest
        ]
        shown.append({"object": name, "total": len(found), "rows": rows})
    return shown


def _changed_at(record: dict[str, Any]) -> str:
    """Return when a record was changed after its creation, ``""`` if it was not."""
    changed = str(record["LastModifiedDate"])
    return "" if changed == record["CreatedDate"] else changed


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _fault(fault: Fault) -> dict[str, Any]:
    return {**dataclasses.asdict(fault), "remaining": fault.remaining}


def _session(session: SessionRecord) -> dict[str, Any]:
    view = dataclasses.asdict(session)
    # Seconds of a monotonic clock, which mean nothing in another process.
    del view["used_at"]
    return view


def _request_view(record: RequestRecord) -> dict[str, Any]:
    view = dataclasses.asdict(record)
    for name in _PRIVATE_HEADERS:
        if name in view["headers"]:
            view["headers"][name] = HIDDEN
    if record.operation == "token":
        view["body"] = _form_view(record.body)
    return view


def _form_view(body: Any) -> str:
    """Return a token request without its secrets, even if they are not those of the emulator."""
    if not isinstance(body, str):
        return HIDDEN
    shown = ((name, value if name in _SHOWN_FORM_FIELDS else HIDDEN) for name, value in parse_qsl(body))
    return "&".join(f"{name}={value}" for name, value in shown)
