"""Keeps secrets out of texts: every form in which a key, secret or token may be written."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from urllib.parse import quote, quote_plus


def forms(*secrets: str) -> set[str]:
    """Return *secrets* as they look plain, in a form, in JSON and in Base64, also joined as ``id:secret``."""
    found = set()
    for secret in (*secrets, ":".join(secrets)):
        found |= {secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1]}
        found |= {
            base64.b64encode(secret.encode()).decode(),
            base64.urlsafe_b64encode(secret.encode()).decode(),
        }
    return {form for form in found if form}


def redacted(text: str, hidden: Iterable[str]) -> str:
    """Return *text* with every form in *hidden* replaced, the longest first."""
    for form in sorted(hidden, key=len, reverse=True):
        text = text.replace(form, "***")
    return text


class Redactor:
    def __init__(self, secrets):
        self._forms = set()
        for one in secrets: self.add(one)
    def add(self, secret):
        self._forms |= forms(secret)
    def redact(self, text):
        return redacted(text, self._forms)
