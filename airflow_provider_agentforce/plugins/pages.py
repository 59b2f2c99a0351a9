"""The files of the pages, served to everyone: they hold no data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_FOLDER = Path(__file__).parent / "static"
_FILES = {
    "": ("index.html", "text/html"),
    "agentforce.css": ("agentforce.css", "text/css"),
    "agentforce.js": ("agentforce.js", "text/javascript"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
    "icon-dark.svg": ("icon-dark.svg", "image/svg+xml"),
}
_POLICY = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self'",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'self'",
)
HEADERS = {
    "Content-Security-Policy": "; ".join(_POLICY),
    "Cache-Control": "no-cache",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Pages:
    """An ASGI application. It imports no web framework before its first request, because Airflow loads its
    plugins in every process.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        from starlette.responses import FileResponse, PlainTextResponse, Response  # noqa: PLC0415

        if scope["type"] != "http":
            return
        # Airflow may itself be served under a path, and frameworks differ in how much of it they leave here.
        name = scope["path"].rpartition("/")[2]
        answer: Response
        if scope["method"] not in ("GET", "HEAD"):
            answer = PlainTextResponse("Method not allowed", 405, {**HEADERS, "Allow": "GET, HEAD"})
        elif name in _FILES:
            file, kind = _FILES[name]
            answer = FileResponse(_FOLDER / file, headers=HEADERS, media_type=kind)
        else:
            answer = PlainTextResponse("Not found", 404, HEADERS)
        await answer(scope, receive, send)
